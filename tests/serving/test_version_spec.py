"""What decides how a version is served: the call, then the archive, then the configuration, then the defaults."""

from pathlib import Path

import pytest

from satrap.config.global_config import ModelConfig, ServingConfig
from satrap.errors import ArchiveError, InvalidInputError
from satrap.serving.archive.manifest import ArchiveOptions, Manifest
from satrap.serving.version_spec import RegisterParameters, VersionSpec, check_runtime, resolve

MANIFEST = Manifest("named", "1.0", "handler.py", "python", "", "", {})


def resolved(
    parameters: RegisterParameters | None = None,
    options: ArchiveOptions | None = None,
    serving: ServingConfig | None = None,
    model: ModelConfig | None = None,
    *,
    at_startup: bool = False,
    manifest: Manifest = MANIFEST,
) -> VersionSpec:
    return resolve(
        parameters or RegisterParameters(url="m.mar"),
        manifest,
        options or ArchiveOptions(),
        serving or ServingConfig(),
        model or ModelConfig(),
        Path("/dir"),
        loaded_at_startup=at_startup,
    )


def test_the_defaults_are_torchserves() -> None:
    spec = resolved()
    assert (spec.model, spec.version, spec.handler, spec.runtime) == ("named", "1.0", "handler.py", "python")
    assert (spec.min_workers, spec.max_workers) == (0, 0)
    assert (spec.batching.batch_size, spec.batching.max_delay, spec.batching.capacity) == (1, 0.1, 100)
    assert (spec.response_timeout, spec.startup_timeout, spec.max_retry_timeout) == (120, 120, 300)
    assert resolved(at_startup=True).min_workers == 1


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\0", "\u2028", "\x85", "half \ud800"])
def test_names_that_are_no_text(name: str) -> None:
    """They would forge lines of the log, and no list of models and no metric could be sent any more."""
    with pytest.raises(InvalidInputError, match="cannot be a model's name"):
        resolved(RegisterParameters(url="m.mar", model_name=name))
    manifest = Manifest("named", name, "handler.py", "python", "", "", {})
    with pytest.raises(InvalidInputError, match="cannot be a model's version"):
        resolved(manifest=manifest)


def test_names_of_any_alphabet() -> None:
    for name in ("größe ☃", "a/b", "模型", "🐍"):
        assert resolved(RegisterParameters(url="m.mar", model_name=name)).model == name


def test_who_wins() -> None:
    serving = ServingConfig(default_response_timeout_seconds=1, default_startup_timeout_seconds=1)
    model = ModelConfig(workers=2, batch_size=2, max_batch_delay_ms=2, response_timeout_seconds=2)
    options = ArchiveOptions(batch_size=3, max_batch_delay_ms=3, response_timeout=3, startup_timeout=3)
    call = RegisterParameters(
        url="m.mar", batch_size=4, max_batch_delay=4, response_timeout=4, startup_timeout=4, initial_workers=4
    )
    for arguments, number in [((None, None, serving, model), 2), ((None, options, serving, model), 3)]:
        spec = resolved(*arguments)
        assert (spec.batching.batch_size, spec.batching.max_delay) == (number, number / 1000)
        assert (spec.response_timeout, spec.min_workers) == (number, 2)
    spec = resolved(call, options, serving, model)
    assert (spec.batching.batch_size, spec.batching.max_delay) == (4, 0.004)
    assert (spec.response_timeout, spec.startup_timeout, spec.min_workers) == (4, 4, 4)
    assert resolved(None, None, serving).startup_timeout == 1


def test_the_archives_workers_win_over_the_calls() -> None:
    call = RegisterParameters(url="m.mar", initial_workers=1)
    spec = resolved(call, ArchiveOptions(min_workers=2, max_workers=5))
    assert (spec.min_workers, spec.max_workers) == (2, 5)
    assert resolved(call, ArchiveOptions(min_workers=3, max_workers=2)).max_workers == 3


def test_the_configuration_of_one_version_counts_for_that_one() -> None:
    versions = {
        "1.0": {"workers": 3, "max_workers": 4, "batch_size": 8, "startup_timeout_seconds": 9},
        "2.0": {"workers": 7},
    }
    model = ModelConfig.model_validate({"workers": 2, "max_batch_delay_ms": 5, "versions": versions})
    spec = resolved(model=model)
    assert (spec.min_workers, spec.max_workers, spec.batching.batch_size) == (3, 4, 8)
    assert (spec.batching.max_delay, spec.startup_timeout) == (0.005, 9)


def test_how_many_workers_a_model_named_at_the_start_has() -> None:
    assert resolved(serving=ServingConfig(startup_workers_per_model=4), at_startup=True).min_workers == 4
    both = ServingConfig(default_workers_per_model=2, startup_workers_per_model=4)
    assert resolved(serving=both, at_startup=True).min_workers == 2
    assert resolved(serving=both).min_workers == 2
    assert resolved(serving=ServingConfig(startup_workers_per_model=4)).min_workers == 0


def test_a_name_and_handler_of_the_call() -> None:
    spec = resolved(RegisterParameters(url="m.mar", model_name="other", handler="x:y", runtime="python3"))
    assert (spec.model, spec.handler, spec.runtime, spec.url) == ("other", "x:y", "python3", "m.mar")


def test_a_runtime_that_is_not_python() -> None:
    with pytest.raises(InvalidInputError, match="Invalid RuntimeType value: ruby"):
        check_runtime("ruby")
    check_runtime("python3")
    check_runtime(None)


def test_a_name_and_a_handler_come_from_somewhere() -> None:
    def resolve_nameless(**parameters: str) -> VersionSpec:
        return resolve(
            RegisterParameters(url="m.mar", **parameters),
            Manifest.missing(),
            ArchiveOptions(),
            ServingConfig(),
            ModelConfig(),
            Path("/dir"),
            loaded_at_startup=False,
        )

    with pytest.raises(ArchiveError, match=r"m\.mar: Model name is not defined\."):
        resolve_nameless()
    with pytest.raises(ArchiveError, match=r"m\.mar: Model handler is not defined\."):
        resolve_nameless(model_name="m")
    spec = resolve_nameless(model_name="m", handler="h.py", fallback_name="other")
    assert (spec.model, spec.version, spec.handler) == ("m", "1.0", "h.py")
    assert resolve_nameless(handler="h.py", fallback_name="other").model == "other"
