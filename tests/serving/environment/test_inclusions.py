"""What a requirements file may include."""

from pathlib import Path

import pytest

from satrap.serving.environment.inclusions import refused_inclusion


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    directory = tmp_path / "archive"
    (directory / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret\n")
    (directory / "other.txt").write_text("-c sub/constraints.txt\n")
    (directory / "sub" / "constraints.txt").write_text("anything<2\n-c ../limits.txt\n")
    (directory / "limits.txt").write_text("-r requirements.txt\n")
    return directory


def refused(archive: Path, text: str) -> str:
    file = archive / "requirements.txt"
    file.write_text(text)
    return refused_inclusion(file, archive)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "anything>=1 # -r ../secret.txt\n# -r ../secret.txt\n",
        "-r other.txt\n",
        "-r ./other.txt\n-rother.txt\n--requirement=other.txt --constraint sub/constraints.txt\n",
        "-r sub/../other.txt\n",
        "--find-links .. --no-index\n--require-hashes\n--index-url https://example.com/r\n",
        "-r https://example.com/requirements.txt\n-c HTTP://example.com/c\n",
        "anything --config-settings=-r=../secret.txt\n./wheels/-r.whl\n",
        "-r 'other.txt\n",
    ],
)
def test_allowed(archive: Path, text: str):
    assert refused(archive, text) == ""


@pytest.mark.parametrize(
    ("text", "name", "what"),
    [
        ("-r ../secret.txt", "../secret.txt", "lies outside"),
        ("anything\n-r../secret.txt # why", "../secret.txt", "lies outside"),
        ("-c ../secret.txt", "../secret.txt", "lies outside"),
        ("--requirement ../secret.txt", "../secret.txt", "lies outside"),
        ("--requirement='../secret.txt'", "../secret.txt", "lies outside"),
        ("--constr ../secret.txt", "../secret.txt", "lies outside"),
        ("--no-index -r ../secret.txt", "../secret.txt", "lies outside"),
        ("-r \\\n  ../secret.txt", "../secret.txt", "lies outside"),
        ("# why \\\n-r ../secret.txt", "../secret.txt", "lies outside"),
        ("anything \\\n# why \\\n-r ../secret.txt", "../secret.txt", "lies outside"),
        ("\\-r ../secret.txt\\\n", "../secret.txt", "lies outside"),
        ("--index-url -r -r ../secret.txt", "../secret.txt", "lies outside"),
        ("\ufeff-r /etc/passwd", "/etc/passwd", "lies outside"),
        ("-r ${SATRAP_TEST_FOLDER}/x", "/nowhere/x", "lies outside"),
        ("-r link.txt", "link.txt", "lies outside"),
        ("-r file:///etc/passwd", "file:///etc/passwd", "is no path"),
        ("-r missing.txt", "missing.txt", "is not in the archive"),
        ("-r sub", "sub", "is not in the archive"),
        ("-r", "", "is not in the archive"),
    ],
)
def test_refused(archive: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str, what: str):
    monkeypatch.setenv("SATRAP_TEST_FOLDER", "/nowhere")
    (archive / "link.txt").symlink_to("../secret.txt")
    (archive / "-r").touch()
    sentence = refused(archive, text)
    assert sentence.startswith(f"its requirements file requirements.txt includes {name!r}, which {what}")
    assert "--extra-files" in sentence


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("-r ../secret.txt\n".encode("utf-16"), id="utf-16"),
        pytest.param("-r ../secret.txt\n".encode("utf-32"), id="utf-32"),
        pytest.param(b"# coding: utf-7\n+AC0-r ../secret.txt\n", id="utf-7"),
        pytest.param(b"# coding: utf-7 coding: utf-8\n+AC0-r ../secret.txt\n", id="said twice"),
        pytest.param(b"\n# -*- coding: nothing -*-\n", id="unknown"),
    ],
)
def test_refused_in_another_encoding(archive: Path, content: bytes):
    file = archive / "requirements.txt"
    file.write_bytes(content)
    assert "is not in UTF-8" in refused_inclusion(file, archive)


def test_allowed_where_the_encoding_is_said(archive: Path):
    assert refused(archive, "# -*- coding: utf-8 -*-\nanything\n") == ""


def test_refused_in_a_file_that_is_included(archive: Path):
    (archive / "limits.txt").write_text("-r ../secret.txt\n")
    assert refused(archive, "-r other.txt").startswith("its requirements file limits.txt includes")
