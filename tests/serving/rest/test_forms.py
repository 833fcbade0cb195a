"""Forms taken apart, and those that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import InvalidInputError
from satrap.serving.rest.forms import Inputs, is_form, parse_form

MULTIPART = "multipart/form-data; boundary=XX"


def part(headers: str, content: bytes = b"content") -> bytes:
    return b"--XX\r\n" + headers.encode() + b"\r\n\r\n" + content + b"\r\n"


def parsed(body: bytes, content_type: str = MULTIPART) -> Inputs:
    inputs = Inputs()
    parse_form(content_type, body, inputs)
    return inputs


FIELD = 'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("multipart/form-data", b"x", "no boundary"),
        ("multipart/form-data; boundary=", b"x", "no boundary"),
        (
            f"multipart/form-data; boundary={'b' * 300}",
            b"--" + b"b" * 300 + b"--\r\n",
            "not a multipart form",
        ),
        ("multipart/form-data; boundary*=idna''%ff", b"x", "cannot be read"),
        (f"multipart/form-data; boundary*{'9' * 5000}*=a", b"x", "cannot be read"),
        (MULTIPART, b"no form at all", "not a multipart form"),
        (MULTIPART, part(FIELD), "last boundary is missing"),
        (MULTIPART, part(FIELD)[:-4] + b"--XX", "last boundary is missing"),
        (MULTIPART, part("Content-Disposition: form-data") + b"--XX--\r\n", "has no name"),
        (MULTIPART, part("Content-Type: text/plain") + b"--XX--\r\n", "has no name"),
        (MULTIPART, part("no header") + b"--XX--\r\n", "not a multipart form"),
        (MULTIPART, part("\r\n".join(f"A{n}: b" for n in range(17))) + b"--XX--\r\n", "header count"),
        (MULTIPART, part(FIELD) * 1_001 + b"--XX--\r\n", "more than 1000 parts"),
        ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 1_001), "more than 1000 fields"),
    ],
)
def test_what_is_no_form(content_type: str, body: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        parsed(body, content_type)


def test_names_that_are_not_ascii() -> None:
    field = "Content-Disposition: form-data; name*=utf-8''%C3%A4; filename*=utf-8''%E2%98%83"
    assert parsed(part(field) + b"--XX--\r\n").values == {"ä": b"content"}
    content_type = "multipart/form-data; boundary*0*=utf-8''X; boundary*1=X"
    assert parsed(part(FIELD) + b"--XX--\r\n", content_type).values == {"a": b"content"}


def test_fields_and_files() -> None:
    inputs = parsed(
        part(FIELD, b"text")
        + part('content-disposition: form-data; name="b"\r\nContent-Type: application/json', b"{}")
        + part(
            'Content-Disposition: form-data; name="c"; filename="c.png"\r\nContent-Type: image/png',
            b"\x89\r\n--X",
        )
        + part('Content-Disposition: form-data; name="d"; filename="d"', b"")
        + part(
            'Content-Disposition: form-data; filename="a b.txt"; name="e"\r\nContent-Type: text/plain; charset=utf-8',
            "ü".encode(),
        )
        + b"--XX--\r\n"
    )
    assert inputs.values == {"a": b"text", "b": b"{}", "c": b"\x89\r\n--X", "d": b"", "e": "ü".encode()}
    assert inputs.content_types == {"c": "image/png", "e": "text/plain"}


def test_the_later_of_two_counts() -> None:
    file = 'Content-Disposition: form-data; name="a"; filename="f"\r\nContent-Type: image/png'
    inputs = parsed(part(file, b"1") + part(FIELD, b"2") + b"--XX--\r\n")
    assert (inputs.values, inputs.content_types) == ({"a": b"2"}, {})


def test_a_quoted_boundary_and_a_name_in_utf_8() -> None:
    body = part('Content-Disposition: form-data; name="grün"') + b"--XX--\r\n"
    assert parsed(body, 'Multipart/Form-Data; charset=utf-8; boundary="XX"').values == {"grün": b"content"}


@pytest.mark.parametrize("content_type", [MULTIPART, "application/x-www-form-urlencoded"])
def test_nothing_is_a_form_without_fields(content_type: str) -> None:
    assert parsed(b"", content_type) == Inputs()


def test_urlencoded() -> None:
    body = b"a=1+2&b=%C3%BC%FF&c=&d&a=3"
    inputs = parsed(body, "application/x-www-form-urlencoded; charset=utf-8")
    assert inputs.values == {"a": b"3", "b": b"\xc3\xbc\xff", "c": b"", "d": b""}
    assert inputs.content_types == {}


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("multipart/form-data; boundary=x", True),
        ("APPLICATION/X-WWW-FORM-URLENCODED", True),
        ("multipart/mixed; boundary=x", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_is_form(content_type: str, form: bool) -> None:
    assert is_form(content_type) is form


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    for whole in (body, part(FIELD, body) + b"--XX--\r\n", b"--XX\r\n" + body + b"--XX--\r\n"):
        try:
            parsed(whole)
        except InvalidInputError:
            continue


@given(
    st.dictionaries(st.text("abcü ", min_size=1), st.binary().filter(lambda b: b"--XX" not in b), max_size=4)
)
def test_what_is_written_is_read(fields: dict[str, bytes]) -> None:
    body = b"".join(part(f'Content-Disposition: form-data; name="{name}"', v) for name, v in fields.items())
    if fields:
        assert parsed(body + b"--XX--\r\n").values == fields
