"""`system.extraFiles` of a model's config file: an archive within the archive, unpacked over it."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from satrap.serving.archive.unpack import Limits, UnpackError, unpack

LIMITS = Limits(max_bytes=100_000, max_files=20)


def tar(mode: str = "w", **files: bytes | None) -> bytes:
    """A tar file; `__` in a name is a slash, `_` a dot, and None makes a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/").replace("_", "."))
            if content is None:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def unpacked(folder: Path, extra: bytes | None, name: str = "more.tar.gz", limits: Limits = LIMITS) -> Path:
    path, target = folder / "m.mar", folder / "target"
    target.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "MAR-INF/MANIFEST.json",
            '{"runtime": "python", "model": {"modelName": "m", "modelVersion": "1", "handler": "h.py", '
            '"configFile": "c.yaml"}}',
        )
        archive.writestr("c.yaml", f"system: {{extraFiles: {name!r}}}")
        archive.writestr("h.py", "the archive's")
        if extra is not None:
            archive.writestr(Path(name).name, extra)
    unpack(path, target, limits)
    return target


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_a_tar_file_is_unpacked_beside_the_handler(mode: str, tmp_path: Path) -> None:
    extra = tar(mode, model_py=b"one", package=None, package__part_py=b"two", h_py=b"theirs")
    target = unpacked(tmp_path, extra)
    assert (target / "model.py").read_bytes() == b"one"
    assert (target / "package" / "part.py").read_bytes() == b"two", "the layout is kept"
    assert (target / "h.py").read_bytes() == b"theirs", "the extra files win"
    assert {path.name for path in target.iterdir()} == {
        *("MAR-INF", "c.yaml", "h.py", "model.py", "more.tar.gz", "package")
    }


def test_a_zip_file_too(tmp_path: Path) -> None:
    assert (
        unpacked(tmp_path, zipped("package/a.py", b"a"), "more.zip") / "package" / "a.py"
    ).read_bytes() == b"a"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (None, r"the file 'more\.tar\.gz' that its config file names as system\.extraFiles is not in it"),
        (b"text", r"its extra files 'more\.tar\.gz': it is neither a zip file nor a tar file"),
        (zipped("../out.py", b""), r"its extra files .*: entry '\.\./out\.py' would be written outside"),
        (tar(__out_py=b""), "its extra files .*would be written outside"),
        (zipped("MAR-INF/MANIFEST.json", b"{}"), "would take the manifest's place"),
        (zipped("h.py/x", b""), "h.py is a file in one and a folder in the other"),
        (tar("w:gz", big=b"x" * 200_000), r"its extra files .*larger than 100000 bytes"),
    ],
)
def test_what_is_refused(extra: bytes | None, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnpackError, match=reason):
        unpacked(tmp_path, extra)
    assert not (tmp_path / "out.py").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(UnpackError, match="'link' is a link or a device"):
        unpacked(tmp_path, file.getvalue())


def test_the_limits_hold_for_both_together(tmp_path: Path) -> None:
    with pytest.raises(UnpackError, match="more than 4 entries"):
        unpacked(tmp_path, tar(a_py=b"a"), limits=Limits(100_000, 4))


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnpackError, match=r"'\.\./more\.tar\.gz' would be written outside"):
        unpacked(tmp_path, tar(a_py=b"a"), "../more.tar.gz")
