"""Keys: which header passes, until when, and what is in the file."""

import json
import stat
from datetime import datetime
from pathlib import Path

import pytest

from satrap import errors
from satrap.serving.tokens import TokenAuthorization


class Clock:
    now = 1_763_726_400.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> TokenAuthorization:
    made = TokenAuthorization(tmp_path / "key_file.json", expiration_minutes=10, now=clock)
    made.open()
    return made


def content(tokens: TokenAuthorization) -> dict:
    return json.loads(tokens.key_file.read_text())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "{key}",
        "bearer {key}",
        "Basic {key}",
        "Bearer {key}x",
        "Bearer {key} ",
        " Bearer {key}",
    ],
)
@pytest.mark.parametrize("api", ["inference", "management"])
def test_a_header_without_the_key_is_refused(tokens, api, header):
    key = content(tokens)[api]["key"]
    with pytest.raises(
        errors.InvalidTokenError, match=r"Token Authorization failed\. Token either incorrect"
    ):
        tokens.check(api, header and header.format(key=key))


@pytest.mark.parametrize(
    ("api", "other"), [("inference", "management"), ("management", "inference"), ("inference", "API")]
)
def test_each_api_has_a_key_of_its_own(tokens, api, other):
    keys = content(tokens)
    with pytest.raises(errors.InvalidTokenError):
        tokens.check(api, f"Bearer {keys[other]['key']}")
    tokens.check(api, f"Bearer {keys[api]['key']}")


def test_keys_are_not_ascii_only_in_headers(tokens):
    with pytest.raises(errors.InvalidTokenError):
        tokens.check("inference", "Bearer sch\u00f6n")


def test_a_key_is_good_until_the_time_in_the_file(tokens, clock):
    said = content(tokens)["inference"]
    header = f"Bearer {said['key']}"
    until = datetime.fromisoformat(said["expiration time"]).timestamp()
    assert until == clock.now + 600
    clock.now = until - 0.001
    tokens.check("inference", header)
    clock.now = until
    with pytest.raises(errors.InvalidTokenError):
        tokens.check("inference", header)


def test_a_new_key_takes_the_place_of_the_old_one_and_leaves_the_other(tokens, clock):
    before = content(tokens)
    clock.now += 599
    tokens.rotate("inference", f"Bearer {before['API']['key']}")
    after = content(tokens)
    assert after["management"] == before["management"]
    assert after["API"] == before["API"]
    with pytest.raises(errors.InvalidTokenError):
        tokens.check("inference", f"Bearer {before['inference']['key']}")
    clock.now += 599
    tokens.check("inference", f"Bearer {after['inference']['key']}")


@pytest.mark.parametrize("kind", [None, "", "api", "API", "Inference", "token_api"])
def test_only_the_two_kinds_can_be_renewed(tokens, kind):
    before = content(tokens)
    with pytest.raises(errors.InvalidTokenError):
        tokens.rotate(kind, f"Bearer {before['API']['key']}")
    assert content(tokens) == before


@pytest.mark.parametrize("key", ["inference", "management"])
def test_an_api_key_cannot_renew_itself(tokens, key):
    before = content(tokens)
    with pytest.raises(errors.InvalidTokenError):
        tokens.rotate(key, f"Bearer {before[key]['key']}")
    assert content(tokens) == before


def test_the_file_is_for_its_owner_only_and_has_torchserves_keys(tokens):
    assert stat.S_IMODE(tokens.key_file.stat().st_mode) == 0o600
    keys = content(tokens)
    assert list(keys) == ["management", "inference", "API"]
    assert list(keys["inference"]) == ["key", "expiration time"]
    assert len({keys["management"]["key"], keys["inference"]["key"], keys["API"]["key"]}) == 3


def test_an_earlier_servers_file_that_others_could_read_is_replaced(tmp_path: Path):
    path = tmp_path / "key_file.json"
    path.write_text("{}")
    path.chmod(0o644)
    with path.open() as opened_by_another:
        TokenAuthorization(path).open()
        assert opened_by_another.read() == "{}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_its_place_is_not_followed(tmp_path: Path):
    target = tmp_path / "target"
    target.write_text("mine")
    path = tmp_path / "key_file.json"
    path.symlink_to(target)
    TokenAuthorization(path).open()
    assert target.read_text() == "mine"
    assert not path.is_symlink()


def test_a_file_that_cannot_be_written_is_said_with_what_to_do(tmp_path: Path):
    with pytest.raises(
        errors.InvalidInputError, match=r"key file .*/nowhere/key_file.json cannot be written"
    ):
        TokenAuthorization(tmp_path / "nowhere" / "key_file.json").open()


def test_a_rotation_that_cannot_be_written_leaves_the_old_key(tokens):
    keys = content(tokens)
    tokens.key_file.unlink()
    tokens.key_file.parent.rmdir()
    with pytest.raises(errors.InvalidInputError):
        tokens.rotate("inference", f"Bearer {keys['API']['key']}")
    tokens.check("inference", f"Bearer {keys['inference']['key']}")


def test_the_file_goes_with_its_server_unless_another_has_written_its_own(tokens):
    other = TokenAuthorization(tokens.key_file)
    other.open()
    tokens.close()
    assert tokens.key_file.exists()
    other.close()
    assert not tokens.key_file.exists()
    other.close()


def test_every_start_has_other_keys(tmp_path: Path):
    first, second = TokenAuthorization(tmp_path / "a"), TokenAuthorization(tmp_path / "b")
    assert len({first.keys.api, second.keys.api, first.keys.inference, second.keys.inference}) == 4


def test_keys_that_are_only_offered(tmp_path: Path, clock: Clock) -> None:
    offered = TokenAuthorization(tmp_path / "key_file.json", is_required=False, now=clock)
    offered.open()
    keys = content(offered)
    for header in (None, "Bearer wrong", f"Bearer {keys['inference']['key']}"):
        offered.check("inference", header)
    offered.rotate("inference", f"Bearer {keys['API']['key']}")
    assert content(offered)["inference"]["key"] != keys["inference"]["key"]
    with pytest.raises(errors.InvalidTokenError):
        offered.rotate("inference", "Bearer wrong")
    offered.close()
    assert not offered.key_file.exists()


def test_a_key_file_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    absent = tmp_path / "absent" / "key_file.json"
    with pytest.raises(errors.InvalidInputError, match="cannot be written"):
        TokenAuthorization(absent).open()
    TokenAuthorization(absent, is_required=False).open()
    assert "no keys for clients that send one" in caplog.text
