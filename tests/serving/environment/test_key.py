"""Two environments have one name exactly when pip would put the same into both."""

from pathlib import Path

import pytest

from satrap.serving.environment.key import environment_key, named_files


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    directory = tmp_path / "archive"
    directory.mkdir()
    return directory


@pytest.fixture
def server(tmp_path: Path) -> Path:
    packages = tmp_path / "site-packages"
    (packages / "numpy-2.1.dist-info").mkdir(parents=True)
    return packages


def write(archive: Path, text: str) -> Path:
    file = archive / "requirements.txt"
    file.write_text(text)
    return file


def test_the_same_file_of_another_archive_has_the_same_key(tmp_path: Path, archive: Path, server: Path):
    other = tmp_path / "other"
    other.mkdir()
    keys = {environment_key(write(where, "a==1\n"), where, [server]) for where in (archive, other)}
    assert len(keys) == 1
    assert keys.pop().isalnum()


def test_the_requirements_decide(archive: Path, server: Path):
    first = environment_key(write(archive, "a==1\n"), archive, [server])
    assert environment_key(write(archive, "a==2\n"), archive, [server]) != first


def test_the_servers_packages_decide(archive: Path, server: Path):
    file = write(archive, "a==1\n")
    first = environment_key(file, archive, [server])
    (server / "numpy-2.1.dist-info").rename(server / "numpy-2.2.dist-info")
    assert environment_key(file, archive, [server]) != first


def test_a_wheel_of_the_archive_decides(archive: Path, server: Path):
    (archive / "a-1-py3-none-any.whl").write_bytes(b"one")
    file = write(archive, "a @ ./a-1-py3-none-any.whl\n")
    first = environment_key(file, archive, [server])
    (archive / "a-1-py3-none-any.whl").write_bytes(b"two")
    assert environment_key(file, archive, [server]) != first


def test_a_file_that_no_requirement_names_does_not(archive: Path, server: Path):
    (archive / "model.pt").write_bytes(b"one")
    file = write(archive, "a==1\n")
    first = environment_key(file, archive, [server])
    (archive / "model.pt").write_bytes(b"two")
    assert environment_key(file, archive, [server]) == first


@pytest.mark.parametrize(
    "text",
    [
        "-r more.txt",
        "-rmore.txt",
        "--requirement=more.txt",
        "--requirement more.txt  # more",
        "-c more.txt",
        "./more.txt[extra] ; python_version > '3'",
    ],
)
def test_every_way_to_name_a_file(archive: Path, text: str):
    (archive / "more.txt").write_text("a==1\n")
    assert named_files(write(archive, text), archive) == [archive / "more.txt"]


def test_files_named_by_named_files_and_folders(archive: Path):
    (archive / "wheels").mkdir()
    (archive / "wheels/a.whl").write_bytes(b"")
    (archive / "more.txt").write_text("--find-links wheels\n-r requirements.txt\n-r more.txt\n")
    file = write(archive, "-r more.txt\n")
    assert named_files(file, archive) == [archive / "more.txt", archive / "wheels/a.whl"]


@pytest.mark.parametrize(
    "text",
    ["../secret.txt", "-r /etc/passwd", "https://a.example/secret.txt", "a\0b", "x" * 5000, "\udcff"],
)
def test_nothing_outside_the_archive_is_looked_at(archive: Path, text: str):
    (archive.parent / "secret.txt").write_text("secret")
    file = archive / "requirements.txt"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert named_files(file, archive) == []


def test_a_link_out_of_the_archive_is_not_followed(archive: Path):
    (archive.parent / "secret.txt").write_text("secret")
    (archive / "link.txt").symlink_to(archive.parent / "secret.txt")
    assert named_files(write(archive, "-r link.txt"), archive) == []
