"""Which URLs are allowed: every trick that makes one look like another."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import ConfigError
from satrap.serving.archive.urls import AllowedUrls, file_name, is_url, local_path

MODELS = AllowedUrls([r"https://models\.example\.com/.*", "file:///models/.*"])


def test_nothing_is_allowed_by_default() -> None:
    for url in ("http://h/a.mar", "https://models.example.com/a.mar", "file:///models/a.mar"):
        assert not AllowedUrls(()).allows(url)


def test_a_pattern_matches_the_whole_url_in_either_case() -> None:
    assert MODELS.allows("https://models.example.com/a.mar")
    assert MODELS.allows("HTTPS://Models.Example.COM/A.mar")
    assert MODELS.allows("https://models.example.com/a.mar?signature=b%2Fc")
    assert MODELS.allows("file:///models/a.mar")
    assert not MODELS.allows("http://models.example.com/a.mar")
    assert not MODELS.allows("https://models.example.com.evil.com/a.mar")
    assert not MODELS.allows("https://evil.com/https://models.example.com/a.mar")
    assert not MODELS.allows("a.mar")


@pytest.mark.parametrize(
    "url",
    [
        "https://models.example.com@evil.com/a.mar",
        "https://user:password@h/a.mar",
        "https://evil.com\\@models.example.com/a.mar",
        "https://models.example.com/../a.mar",
        "https://models.example.com/%2e./../a.mar",
        "https://models.example.com/public/%2e%2e/a.mar",
        "https://models.example.com/public/.%2E/a.mar",
        "https://models.example.com/public/%252e%252e/a.mar",
        "file:///models/%2e%2e/secret",
        "https://models.example.com/a.mar\r\nHost: evil.com",
        "https://models.example.com/a .mar",
        "https://models.example.com/a\x00.mar",
        "https://models.example.com/\u2025/a.mar",
        "https://m\u043edels.example.com/a.mar",
        "https://h:0/a.mar",
        "https://h:99999/a.mar",
        "https://[::1/a.mar",
        "https:///a.mar",
        "http://?a.mar",
    ],
)
def test_a_doubtful_url_is_refused_whatever_matches(url: str) -> None:
    assert not AllowedUrls([r"[\s\S]*"]).allows(url)


@given(st.text())
def test_any_text_is_allowed_or_not(url: str) -> None:
    assert AllowedUrls([r"[\s\S]*"]).allows(url) in (True, False)


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"serving\.allowed_urls: '\(' is not a regular expression"):
        AllowedUrls(["("])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("a.mar", False),
        ("/a/b.mar", False),
        ("http:/a.mar", False),
        ("http://h/a.mar", True),
        ("S3://bucket/a.mar", True),
        ("file:///a.mar", True),
        ("1http://h/a.mar", False),
    ],
)
def test_what_is_a_url(url: str, expected: bool) -> None:
    assert is_url(url) is expected


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.mar", "b.mar"),
        ("http://h/b.mar?x=/c.mar#/d.mar", "b.mar"),
        ("http://h", ""),
        ("http://h/", ""),
        ("http://h/a/.hidden.mar", ""),
        ("http://h/" + "a" * 300, ""),
        ("http://h/a%2Fb.mar", "a%2Fb.mar"),
    ],
)
def test_the_name_of_what_is_downloaded(url: str, name: str) -> None:
    assert file_name(url) == name


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///models/a.mar", Path("/models/a.mar")),
        ("file://localhost/models/a.mar", Path("/models/a.mar")),
        ("file:///models/a%20b.mar", Path("/models/a b.mar")),
        ("file://other/models/a.mar", None),
        ("file:///models/%2e%2e/etc/passwd", None),
        ("file:///models/a%00.mar", None),
    ],
)
def test_the_path_of_a_file_url(url: str, path: Path | None) -> None:
    assert local_path(url) == path
