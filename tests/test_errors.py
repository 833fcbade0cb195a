"""The tree in the docstring is the tree of the classes, and every error knows how it travels."""

import inspect
import re

import grpc
import pytest

from satrap import errors


def classes() -> dict[str, type[errors.SatrapError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.SatrapError)
    }


def drawn() -> dict[str, str]:
    """Each class of the drawing with its parent, from the indentation."""
    parents: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in inspect.getdoc(errors).splitlines():
        found = re.match(r"^[\s│├└─]*(\w+Error)\b", line)
        if not found:
            continue
        column, name = found.start(1), found[1]
        while stack and stack[-1][0] >= column:
            stack.pop()
        parents[name] = stack[-1][1] if stack else "Exception"
        stack.append((column, name))
    return parents


def test_the_drawing_is_the_tree():
    assert drawn() == {name: kind.__mro__[1].__name__ for name, kind in classes().items()}


def test_all_is_sorted_and_complete():
    assert errors.__all__ == sorted(classes())


@pytest.mark.parametrize("kind", classes().values(), ids=lambda kind: kind.__name__)
def test_every_error_knows_its_statuses_and_is_explained(kind):
    assert isinstance(kind.grpc_status, grpc.StatusCode)
    assert 400 <= kind.http_status < 600
    assert kind.__doc__


def test_sentences_are_built_from_the_facts():
    error = errors.BatchDecodeError("4 billion ids promised", feature="user", offset=17)
    assert (error.feature, error.offset) == ("user", 17)
    assert str(error) == "bad batch: feature 'user': 4 billion ids promised (at byte 17)"
    assert "shard 0 of 2" in str(errors.ShardMismatchError((1, 2), (0, 2)))
    shard = errors.ShardUnavailableError(1, 2, "127.0.0.1:8889", "loading: 40 %")
    assert str(shard) == "embedding shard 1 of 2 at 127.0.0.1:8889: loading: 40 %"
    assert (
        str(errors.ConfigError("a.yaml", "serving.x", 3, "is required")) == "a.yaml:3: serving.x: is required"
    )
    assert str(errors.ConfigError("a.yaml", "", 0, "cannot be read")) == "a.yaml: cannot be read"
