"""What of an environment a fork of the template could not use, because another version is loaded already."""

from pathlib import Path

import numpy as np
import pytest

from satrap.serving.environment.replaced import distributions, replaced


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    return tmp_path


def install(packages: Path, name: str, version: str, *files: str) -> None:
    information = packages / f"{name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_another_version_of_a_loaded_package(packages: Path):
    install(packages, "numpy", "1.0", "numpy/__init__.py")
    assert replaced(packages, {"numpy"}) == [f"numpy 1.0 (the server's: {np.__version__})"]


def test_another_version_of_a_package_that_is_not_loaded(packages: Path):
    install(packages, "numpy", "1.0", "numpy/__init__.py")
    assert replaced(packages, {"torch"}) == []


def test_the_same_version(packages: Path):
    install(packages, "NumPy", np.__version__, "numpy/__init__.py")
    assert replaced(packages, {"numpy"}) == []


def test_another_distribution_with_a_module_of_that_name(packages: Path):
    install(packages, "Not_Numpy", "2.0", "numpy/__init__.py")
    assert replaced(packages, {"numpy"}) == ["not-numpy 2.0 (the server's: none of that name)"]


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("typing_extensions.py", "typing_extensions"),
        ("grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so", "grpc._cython.cygrpc"),
        ("a/b/__init__.py", "a.b"),
    ],
)
def test_modules_of_every_kind(packages: Path, file: str, module: str):
    install(packages, "thing", "1.0", file)
    assert len(replaced(packages, {module})) == 1


def test_a_package_beside_others_in_a_namespace(packages: Path):
    """`google` is loaded, but google/cloud is another distribution's part of it."""
    install(packages, "google-cloud-thing", "1.0", "google/cloud/thing.py")
    assert replaced(packages, {"google", "google.protobuf"}) == []


@pytest.mark.parametrize(
    "file", ["../../bin/numpy.py", "/numpy.py", "numpy/data.json", "numpy-x/core.py", ""]
)
def test_files_that_are_no_modules(packages: Path, file: str):
    install(packages, "thing", "1.0", file)
    assert replaced(packages, {"numpy", "core", "numpy.data"}) == []


def test_a_distribution_without_a_record(packages: Path):
    install(packages, "thing", "1.0")
    (packages / "thing-1.0.dist-info/RECORD").unlink()
    assert replaced(packages, {"thing"}) == []


def test_nothing_installed(packages: Path):
    assert distributions(packages) == {}
    assert replaced(packages, {"numpy"}) == []
