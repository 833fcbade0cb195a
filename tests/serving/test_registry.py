"""Names, versions and defaults."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from satrap.errors import (
    DefaultVersionError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    NotFoundError,
    VersionRegisteredError,
    VersionWaitsError,
)
from satrap.serving.registry import Reached, Registry


@pytest.fixture
def two() -> Registry[str]:
    registry = Registry[str]()
    registry.add("m", "1.0", "one")
    registry.add("m", "2.0", "two")
    return registry


def test_the_first_version_is_the_default(two: Registry[str]) -> None:
    assert two.get("m") == "one"
    assert two.get("m", "2.0") == "two"
    assert two.default("m") == "1.0"


def test_set_default(two: Registry[str]) -> None:
    two.set_default("m", "2.0")
    assert two.get("m") == "two"
    with pytest.raises(ModelVersionNotFoundError, match=r"Model version: 9 does not exist for model: m"):
        two.set_default("m", "9")
    with pytest.raises(ModelNotFoundError, match="Model not found: x"):
        two.set_default("x", "9")
    assert two.get("m") == "two"


def test_a_version_is_registered_once(two: Registry[str]) -> None:
    with pytest.raises(VersionRegisteredError, match=r"Model version 2\.0 is already registered for model m"):
        two.add("m", "2.0", "other")
    assert two.get("m", "2.0") == "two"


def test_what_was_taken_out_is_there_until_it_is_gone(two: Registry[str]) -> None:
    two.remove("m", "2.0")
    two.discard("m", "1.0", "one")
    assert (list(two), two.not_gone()) == ([], {"one", "two"})
    two.gone("two")
    two.gone("two")
    assert two.not_gone() == {"one"}
    two.add("m", "2.0", "again")
    assert two.not_gone() == {"one", "again"}


def test_the_default_stays_while_there_are_others(two: Registry[str]) -> None:
    for version in ("", "1.0"):
        with pytest.raises(DefaultVersionError):
            two.remove("m", version)
    assert two.remove("m", "2.0") == "two"
    assert two.remove("m") == "one"
    with pytest.raises(ModelNotFoundError):
        two.get("m")
    with pytest.raises(ModelNotFoundError):
        two.remove("m")


def test_removing_what_is_not_there(two: Registry[str]) -> None:
    with pytest.raises(ModelVersionNotFoundError):
        two.remove("m", "9")
    assert two.versions("m") == ["one", "two"]


def test_newest_becomes_default_in_order_of_registration(two: Registry[str]) -> None:
    two.add("m", "3.0", "three")
    assert two.became_ready("m", "3.0", "three")
    assert not two.became_ready("m", "2.0", "two"), "2.0 was registered before 3.0 and was only slower"
    assert two.default("m") == "3.0"
    assert not two.became_ready("m", "3.0", "three")


def test_a_registration_that_is_gone_changes_nothing(two: Registry[str]) -> None:
    two.remove("m", "2.0")
    assert not two.became_ready("m", "2.0", "two")
    two.add("m", "2.0", "two again")
    assert not two.became_ready("m", "2.0", "two")
    two.discard("m", "2.0", "two")
    assert two.get("m", "2.0") == "two again"


def test_discarding_a_failed_default_leaves_the_first_of_the_others(two: Registry[str]) -> None:
    two.add("m", "3.0", "three")
    two.discard("m", "1.0", "one")
    assert two.default("m") == "2.0"
    two.discard("m", "2.0", "two")
    two.discard("m", "3.0", "three")
    assert two.models() == [] and list(two) == []


@pytest.fixture
def waiting() -> Registry[str]:
    """1.0 answers, 2.0 waits for sequence 20, 3.0 for 30."""
    registry = Registry[str]()
    registry.add("m", "1.0", "one")
    registry.add("m", "2.0", "two", waits_for=20)
    registry.add("m", "3.0", "three", waits_for=30)
    return registry


class TestWaiting:
    def test_does_not_answer_before_its_sequence(self, waiting: Registry[str]) -> None:
        assert waiting.answering("m") == "one"
        with pytest.raises(VersionWaitsError, match=r'"m" Version 2\.0 is waiting for sequence 20') as caught:
            waiting.answering("m", "2.0")
        assert (caught.value.model, caught.value.version, caught.value.sequence) == ("m", "2.0", 20)
        assert waiting.get("m", "2.0") == "two"
        assert waiting.is_waiting("m", "2.0") and not waiting.is_waiting("m", "1.0")
        for sequence in (0, 19):
            assert waiting.reached(sequence) == []
        assert waiting.reached(20) == [Reached("m", "2.0", "two", became_default=False)]
        assert waiting.answering("m", "2.0") == "two"
        assert waiting.default("m") == "1.0"
        assert waiting.reached(20) == []
        assert waiting.anything_waits()
        assert waiting.reached(99) == [Reached("m", "3.0", "three", became_default=False)]
        assert not waiting.anything_waits()

    def test_what_was_reached_once_stays(self, waiting: Registry[str]) -> None:
        waiting.reached(20)
        waiting.reached(0)
        assert waiting.answering("m", "2.0") == "two"

    def test_the_default_changes_when_it_waits_no_more(self, waiting: Registry[str]) -> None:
        waiting.set_default("m", "2.0")
        assert (waiting.default("m"), waiting.next_default("m")) == ("1.0", "2.0")
        assert waiting.answering("m") == "one"
        assert waiting.reached(20) == [Reached("m", "2.0", "two", became_default=True)]
        assert (waiting.default("m"), waiting.next_default("m")) == ("2.0", "")

    @pytest.mark.parametrize(("later", "expected"), [("1.0", "1.0"), ("3.0", "3.0"), ("2.0", "2.0")])
    def test_the_last_choice_counts(self, waiting: Registry[str], later: str, expected: str) -> None:
        waiting.set_default("m", "2.0")
        waiting.set_default("m", later)
        waiting.reached(20)
        waiting.reached(30)
        assert waiting.default("m") == expected

    def test_a_choice_that_is_refused_changes_none(self, waiting: Registry[str]) -> None:
        waiting.set_default("m", "2.0")
        with pytest.raises(ModelVersionNotFoundError):
            waiting.set_default("m", "9")
        assert waiting.next_default("m") == "2.0"

    @pytest.mark.parametrize("how", ["remove", "discard"])
    def test_a_version_that_is_gone_is_not_chosen_any_more(self, waiting: Registry[str], how: str) -> None:
        waiting.set_default("m", "2.0")
        if how == "remove":
            waiting.remove("m", "2.0")
        else:
            waiting.discard("m", "2.0", "two")
        assert waiting.next_default("m") == ""
        waiting.add("m", "2.0", "two again")
        waiting.reached(99)
        assert waiting.default("m") == "1.0"

    def test_the_default_is_kept_though_another_is_chosen(self, waiting: Registry[str]) -> None:
        waiting.set_default("m", "2.0")
        with pytest.raises(DefaultVersionError):
            waiting.remove("m")

    def test_a_models_first_version(self) -> None:
        registry = Registry[str]()
        registry.add("m", "1.0", "one", waits_for=10)
        with pytest.raises(VersionWaitsError):
            registry.answering("m")
        registry.set_default("m", "1.0")
        assert (registry.default("m"), registry.next_default("m")) == ("1.0", "")
        registry.add("m", "2.0", "two", waits_for=20)
        registry.set_default("m", "2.0")
        registry.reached(10)
        assert registry.answering("m") == "one"
        registry.reached(20)
        assert registry.answering("m") == "two"

    def test_another_may_be_chosen_while_the_first_waits(self) -> None:
        registry = Registry[str]()
        registry.add("m", "1.0", "one", waits_for=10)
        registry.add("m", "2.0", "two")
        registry.set_default("m", "2.0")
        assert registry.answering("m") == "two"
        registry.reached(10)
        assert registry.answering("m") == "two"

    def test_the_newest_waits_as_well(self, waiting: Registry[str]) -> None:
        assert not waiting.became_ready("m", "3.0", "three")
        waiting.reached(30)
        assert waiting.became_ready("m", "3.0", "three")
        assert not waiting.became_ready("m", "2.0", "two"), "2.0 was registered before 3.0"
        assert waiting.default("m") == "3.0"

    def test_the_newest_takes_back_the_choice_of_an_earlier_one(self, waiting: Registry[str]) -> None:
        waiting.set_default("m", "2.0")
        waiting.add("m", "4.0", "four")
        assert waiting.became_ready("m", "4.0", "four")
        waiting.reached(99)
        assert waiting.default("m") == "4.0"

    def test_an_earlier_one_leaves_the_choice_of_the_newest(self, waiting: Registry[str]) -> None:
        waiting.set_default("m", "3.0")
        waiting.reached(20)
        assert waiting.became_ready("m", "2.0", "two")
        assert (waiting.default("m"), waiting.next_default("m")) == ("2.0", "3.0")
        waiting.reached(30)
        assert waiting.default("m") == "3.0"

    def test_models_wait_apart(self, waiting: Registry[str]) -> None:
        waiting.add("n", "2.0", "other", waits_for=25)
        assert [each.value for each in waiting.reached(26)] == ["two", "other"]


VERSIONS = ("1", "2", "3", "4")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(VERSIONS), st.integers(0, 5)),
        st.tuples(st.sampled_from(["remove", "discard", "set_default", "ready"]), st.sampled_from(VERSIONS)),
        st.tuples(st.just("reached"), st.integers(0, 5)),
    ),
    max_size=30,
)


@given(STEPS)
@example([("add", "1", 0), ("add", "2", 1), ("set_default", "2"), ("discard", "1")])
def test_whatever_happens_there_is_one_default_and_it_answers_if_any_ever_did(steps: list[tuple]) -> None:
    registry = Registry[str]()
    for step in steps:
        answered = "m" in registry.models() and not registry.is_waiting("m", registry.default("m"))
        match step:
            case "add", version, waits_for:
                with contextlib.suppress(VersionRegisteredError):
                    registry.add("m", version, version, waits_for=waits_for)
            case "remove", version:
                with contextlib.suppress(NotFoundError, DefaultVersionError):
                    registry.remove("m", version)
            case "discard", version:
                registry.discard("m", version, version)
                answered = False  # as if it had never been registered
            case "set_default", version:
                with contextlib.suppress(NotFoundError):
                    registry.set_default("m", version)
            case "ready", version:
                registry.became_ready("m", version, version)
            case "reached", sequence:
                assert all(not registry.is_waiting("m", each.version) for each in registry.reached(sequence))
        if "m" not in registry.models():
            continue
        default, chosen = registry.default("m"), registry.next_default("m")
        assert default in registry.versions("m")
        assert not answered or not registry.is_waiting("m", default)
        assert chosen == "" or (chosen != default and registry.is_waiting("m", chosen))
    registry.reached(5)
    assert not registry.anything_waits()
    assert "m" not in registry.models() or registry.next_default("m") == ""
