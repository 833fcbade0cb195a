"""From a handler's name to what answers a batch. Each test imports modules of names of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from satrap.serving.context import Context
from satrap.serving.worker.handler_loading import HandlerError, load_entry_point

CLASS = """
import collections
from collections import OrderedDict

class {name}:
    def initialize(self, context):
        self.model = context.model_name

    def handle(self, data, context):
        return [self.model] * len(data)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context("m", str(tmp_path), {}, 1, None, "0")


@pytest.mark.parametrize("handler", ["one_class", "one_class.py", "one_class:Handler", "dir/one_class.py"])
def test_a_class(handler: str, archive: Path, context: Context) -> None:
    folder = archive / Path(handler).parent
    folder.mkdir(exist_ok=True)
    (folder / "one_class.py").write_text(CLASS.format(name="Handler"))
    assert load_entry_point(handler, archive, context)([{}], context) == ["m"]


@pytest.mark.parametrize("handler", ["functions", "functions.py:handle", "functions:other"])
def test_a_function_is_called_once_with_nothing(handler: str, archive: Path, context: Context) -> None:
    (archive / "functions.py").write_text(
        "calls = []\ndef handle(data, context):\n    calls.append(data)\n    return calls\nother = handle\n"
    )
    entry = load_entry_point(handler, archive, context)
    assert entry(["x"], context) == [None, ["x"]]


def test_one_class_of_several_by_name(archive: Path, context: Context) -> None:
    (archive / "several.py").write_text(CLASS.format(name="A") + CLASS.format(name="B"))
    assert load_entry_point("several:B", archive, context)([{}], context) == ["m"]
    with pytest.raises(HandlerError, match=r"Expected only one class in custom service code .*A, B"):
        load_entry_point("several", archive, context)


def test_a_dotted_module(archive: Path, context: Context) -> None:
    (archive / "package").mkdir()
    (archive / "package" / "module.py").write_text(CLASS.format(name="Handler"))
    assert load_entry_point("package.module:Handler", archive, context)([{}], context) == ["m"]


@pytest.mark.parametrize(
    ("source", "handler", "reason"),
    [
        ("x = 1", "bad_one", "Expected only one class .*defines none"),
        ("def handle(d, c): pass", "bad_two:missing", "has no 'missing'"),
        ("handle = 3", "bad_three", "is not a function or a class"),
        ("class H:\n    def handle(self, d, c): pass", "bad_four", "has no method 'initialize'"),
        ("class H:\n    def initialize(self, c): pass", "bad_five", "has no method 'handle'"),
    ],
)
def test_what_cannot_answer(source: str, handler: str, reason: str, archive: Path, context: Context) -> None:
    (archive / f"{handler.partition(':')[0]}.py").write_text(source)
    with pytest.raises(HandlerError, match=reason):
        load_entry_point(handler, archive, context)


def test_a_module_that_is_not_there(archive: Path, context: Context) -> None:
    with pytest.raises(HandlerError, match="no module 'nowhere'"):
        load_entry_point("nowhere.py", archive, context)
    (archive / "imports.py").write_text("import missing_dependency")
    with pytest.raises(ModuleNotFoundError, match="missing_dependency"):
        load_entry_point("imports", archive, context)


def test_a_module_that_is_hidden_by_one_imported_before(archive: Path, context: Context) -> None:
    (archive / "json.py").write_text(CLASS.format(name="Handler"))
    with pytest.raises(HandlerError, match=r"json\.py is hidden by .*rename it"):
        load_entry_point("json.py", archive, context)


def test_a_built_in_name(archive: Path, context: Context) -> None:
    (archive / "base_handler.py").write_text(CLASS.format(name="Own"))
    assert load_entry_point("base_handler", archive, context)([{}], context) == ["m"], (
        "the archive's own wins"
    )
