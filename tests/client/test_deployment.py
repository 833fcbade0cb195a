"""A deployment takes nothing away before the new version answers."""

from collections.abc import Sequence

import pytest

from satrap.client import ModelDescription
from satrap.client.deployment import Deployed, deploy, older_versions, registered_version
from satrap.errors import (
    ConflictError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    SatrapError,
    UnavailableError,
    UnexpectedAnswerError,
)


def described(version: str, waiting: bool = False, workers: tuple[int, int] = (1, 1)) -> ModelDescription:
    return ModelDescription(
        "m", version, "", "python", *workers, 1, 100, 120, False, 7 if waiting else None, waiting, (), {}
    )


class Registered:
    """A server's registry: versions in the order of their registration, and which is the default."""

    def __init__(self, versions: Sequence[str], *, newest: bool = False, **failing: SatrapError) -> None:
        self.newest = newest
        self.versions = list(versions)
        self.default = versions[0] if versions else ""
        self.failing = failing
        self.workers: dict[str, tuple[int, int]] = {}
        self.waits = 0
        self.timeout = 5.0

    def register(self, url: str, **options: object) -> str:
        self._fail("register")
        version = url.removesuffix(".mar")
        if version in self.versions:
            raise ConflictError(f"Model version {version} is already registered for model m")
        self.versions.append(version)
        if self.newest or not self.default:
            self.default = version
        return f'Model "m" Version: {version} registered with 1 initial workers'

    def describe(self, model: str, version: str = "") -> tuple[ModelDescription, ...]:
        if version == "all":
            return tuple(described(each, workers=self.workers.get(each, (1, 1))) for each in self.versions)
        self.waits -= 1
        named = version or self.default
        return (described(named, self.waits >= 0, self.workers.get(named, (1, 1))),)

    def scale(self, model: str, *, min_workers: int, max_workers: int, version: str) -> str:
        self._fail("scale")
        self.workers[version] = min_workers, max_workers
        return f"Workers scaled to {min_workers} for model: m, version: {version}"

    def set_default(self, model: str, version: str) -> str:
        self._fail("set_default")
        self.default = version
        return f'Default version successfully updated for model "m" to "{version}"'

    def unregister(self, model: str, version: str = "") -> str:
        assert version != self.default
        self._fail(f"unregister {version}")
        self.versions.remove(version)
        return 'Model "m" unregistered'

    def _fail(self, step: str) -> None:
        if step in self.failing:
            raise self.failing[step]


def run(server: Registered, url: str, keep: int = 0, workers: int = 1) -> tuple[Deployed, list[str]]:
    steps: list[str] = []
    done = deploy(
        server,
        url,
        model_name="",
        workers=workers,
        batch_size=0,
        max_batch_delay=0,
        keep=keep,
        on_step=steps.append,
    )
    return done, steps


def test_the_new_version_takes_the_place_of_the_older_ones() -> None:
    server = Registered(["1", "2"])
    done, steps = run(server, "3.mar")
    assert done == Deployed("m", "3", ("1", "2"))
    assert (server.versions, server.default) == (["3"], "3")
    assert len(steps) == 4


def test_the_first_version_of_a_model() -> None:
    server = Registered([])
    assert run(server, "1.mar")[0] == Deployed("m", "1", ())


def test_some_older_versions_may_stay() -> None:
    server = Registered(["1", "2", "3"])
    assert run(server, "4.mar", keep=2)[0].removed == ("1",)
    assert server.versions == ["2", "3", "4"]


def test_a_version_is_made_the_default_when_its_embeddings_are_there() -> None:
    server = Registered(["1"])
    server.waits = 3
    _, steps = run(server, "2.mar")
    assert steps[1] == "version 2 waits for sequence 7 of its embeddings"
    assert server.default == "2"


def test_embeddings_that_do_not_come() -> None:
    server = Registered(["1"])
    server.waits, server.timeout = 10**9, 0.0
    with pytest.raises(DeadlineError, match="sequence 7"):
        run(server, "2.mar")
    assert (server.versions, server.default) == (["1", "2"], "1")


@pytest.mark.parametrize("step", ["register", "set_default"])
def test_a_failure_leaves_the_older_versions(step: str) -> None:
    server = Registered(["1"], **{step: InvalidInputError("refused")})
    with pytest.raises(InvalidInputError, match="refused"):
        run(server, "2.mar")
    assert server.default == "1"
    assert "1" in server.versions


def test_a_version_that_is_registered_already() -> None:
    server = Registered(["1"])
    with pytest.raises(ConflictError, match="already registered"):
        run(server, "1.mar")
    assert (server.versions, server.default) == (["1"], "1")


@pytest.mark.parametrize(
    ("replaced", "own", "given", "has"),
    [
        ((4, 6), (1, 1), 0, (4, 6)),
        ((4, 6), (0, 0), 0, (4, 6)),
        ((1, 1), (2, 8), 0, (2, 8)),
        ((0, 0), (0, 0), 0, (1, 1)),
        ((4, 6), (1, 1), 1, (1, 1)),
    ],
    ids=["fewer", "none", "more", "none replaces none", "the count was given"],
)
def test_the_new_version_has_no_fewer_workers_than_the_one_that_it_replaces(
    replaced, own, given, has
) -> None:
    server = Registered(["1"])
    server.workers = {"1": replaced, "2": own}
    run(server, "2.mar", workers=given)
    assert server.workers["2"] == has


def test_the_new_version_may_be_the_default_already() -> None:
    server = Registered(["1", "2"], newest=True)
    server.workers = {"1": (8, 8), "2": (4, 6)}
    run(server, "3.mar", workers=0)
    assert server.workers["3"] == (4, 6)


def test_the_first_version_has_a_worker() -> None:
    server = Registered([])
    server.workers = {"1": (0, 0)}
    run(server, "1.mar", workers=0)
    assert server.workers["1"] == (1, 1)


def test_workers_that_cannot_be_had() -> None:
    server = Registered(["1"], scale=InvalidInputError("no room"))
    server.workers = {"1": (2, 2), "2": (1, 1)}
    with pytest.raises(InvalidInputError, match="no room"):
        run(server, "2.mar", workers=0)
    assert (server.versions, server.default) == (["1"], "1")


def test_a_server_that_ends_while_workers_are_asked_for() -> None:
    ended = {"scale": InvalidInputError("no room"), "unregister 2": UnavailableError("it is gone")}
    server = Registered(["1"], **ended)
    server.workers = {"1": (2, 2)}
    with pytest.raises(InvalidInputError, match="no room"):
        run(server, "2.mar", workers=0)


def test_an_older_version_that_somebody_else_removed() -> None:
    server = Registered(["1", "2"], **{"unregister 1": NotFoundError("gone")})
    assert run(server, "3.mar")[0].removed == ("2",)


@pytest.mark.parametrize(
    "sentence",
    ["", "Processing worker updates...", 'Model "m" registered', 'Model "m" Version: 1 registered'],
)
def test_an_answer_that_names_no_version(sentence: str) -> None:
    with pytest.raises(UnexpectedAnswerError, match="which version"):
        registered_version(sentence)


def test_names_with_quotes_and_blanks() -> None:
    assert registered_version('Model "a "b" c" Version: 1 beta registered with 2 initial workers') == (
        'a "b" c',
        "1 beta",
    )


@pytest.mark.parametrize(("keep", "expected"), [(0, ("1", "3")), (1, ("1",)), (2, ()), (9, ())])
def test_older_versions(keep: int, expected: tuple[str, ...]) -> None:
    assert older_versions([described("1"), described("2"), described("3")], "2", keep) == expected
