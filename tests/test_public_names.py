"""What a module says is public exists, and the folders that others may use say what they offer."""

import importlib
import pkgutil

import pytest

import satrap

FACES = ["client", "config", "embedding_server", "middleware", "serving", "trainer"]


def modules() -> list[str]:
    names = (module.name for module in pkgutil.walk_packages(satrap.__path__, "satrap."))
    skipped = ("satrap._core", "satrap.compat.shims", "satrap.compat.persia", "satrap.cli.__main__")
    return [name for name in names if not name.startswith(skipped) and "_pb2" not in name]


@pytest.mark.parametrize("name", modules())
def test_public_names_exist_once(name):
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert len(set(public)) == len(public)
    assert [item for item in public if not hasattr(module, item)] == []


@pytest.mark.parametrize("name", FACES)
def test_a_face_explains_itself(name):
    module = importlib.import_module(f"satrap.{name}")
    assert module.__doc__
    assert len(module.__doc__) > 20
