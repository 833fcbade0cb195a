"""Names, versions and defaults."""

import pytest

from satrap.errors import (
    DefaultVersionError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    VersionRegisteredError,
)
from satrap.serving.registry import Registry


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
