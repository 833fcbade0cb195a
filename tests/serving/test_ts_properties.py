"""config.properties: its format, and what overrides it."""

from pathlib import Path

import pytest

from satrap.errors import ConfigError
from satrap.serving.ts_properties import Properties, find_config_file, newest_snapshot, read_properties


@pytest.fixture
def file(tmp_path: Path):
    def write(text: str, name: str = "config.properties") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode("iso-8859-1"))
        return path

    return write


def test_javas_format(file):
    path = file(
        "# comment\n! another\n\n a = 1\nb:2\nc 3\nflag\nlong=x\\\n    y\n"
        "\\u0064=\\u00e9\\n\nlatin=\xe9\na.b\\:c=4\r\na=5\n"
    )
    values = read_properties(path, {}).values
    assert values == {
        "a": "5",
        "b": "2",
        "c": "3",
        "flag": "",
        "long": "xy",
        "d": "\xe9\n",
        "latin": "\xe9",
        "a.b:c": "4",
    }


@pytest.mark.parametrize("text", ["a=\\u12\n", "a=\\uzzzz\n"])
def test_a_file_that_is_none_is_refused(file, text):
    path = file(text)
    with pytest.raises(ConfigError, match=r"config\.properties.*escape"):
        read_properties(path, {})


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path):
    path = tmp_path / "config.properties"
    path.write_bytes(b"\xef\xbb\xbfmodel_store=/s\r\nload_models=all\r\n")
    assert read_properties(path, {}).values == {"model_store": "/s", "load_models": "all"}


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_properties(tmp_path, {})


def test_values_name_variables_of_the_environment(file):
    path = file("model_store=$$HOME_OF$$/store/$$SUB$$\nprice=5$\n")
    properties = read_properties(path, {"HOME_OF": "/a\\1", "SUB": "b"})
    assert properties.text("model_store") == "/a\\1/store/b"
    assert properties.text("price") == "5$"
    with pytest.raises(ConfigError) as caught:
        read_properties(path, {"SUB": "b"})
    assert (caught.value.line, caught.value.key) == (1, "model_store")
    assert "no environment variable HOME_OF" in str(caught.value)


KEYS = frozenset({"job_queue_size", "allowed_urls", "token_expiration_min", "models", "inference_address"})
VARIABLES = {
    "TS_JOB_QUEUE_SIZE": "7",
    "TS_ALLOWED_URLS": ".*",
    "TS_TOKEN_EXPIRATION_TIME_MIN": "3",
    "TS_MODELS": "{}",
    "TS_INFERENCE_ADDRESS": "x",
}


def test_the_environment_counts_only_if_the_file_says_so(file):
    silent = read_properties(file("job_queue_size=5\n"), {})
    assert silent.with_environment(VARIABLES, KEYS) is silent
    no = read_properties(file("enable_envvars_config=yes\n"), {})
    assert no.with_environment(VARIABLES, KEYS) is no


def test_the_environment_wins_over_the_command_line_and_that_over_the_file(file):
    given = read_properties(
        file("enable_envvars_config=true\njob_queue_size=5\ninference_address=a\nother=1\n"), {}
    )
    flags = given.with_values({"job_queue_size": "6", "other": "2"}, "the command line")
    assert (flags.text("job_queue_size"), flags.text("other")) == ("6", "2")
    found = flags.with_environment(VARIABLES, KEYS)
    assert found.values == {
        "enable_envvars_config": "true",
        "job_queue_size": "7",
        "other": "2",
        "inference_address": "x",
        "token_expiration_min": "3",
    }
    assert str(found.error("inference_address", "is odd")) == (
        "the environment variable TS_INFERENCE_ADDRESS: inference_address: is odd"
    )


def test_allowed_urls_from_the_environment_need_a_second_yes(file):
    given = read_properties(file("enable_envvars_config=TRUE\nuse_env_allowed_urls=true\n"), {})
    assert given.with_environment(VARIABLES, KEYS).text("allowed_urls") == ".*"


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), (" TRUE ", True), ("1", False), ("yes", False), ("", False)]
)
def test_only_true_is_true(word, value):
    assert Properties(values={"a": word}).boolean("a") is value


def test_an_absent_key_has_its_default():
    empty = Properties()
    assert (
        empty.boolean("a", default=True),
        empty.integer("a", 3),
        empty.number("a", 1.5),
        empty.text("a", "x"),
    ) == (
        True,
        3,
        1.5,
        "x",
    )


@pytest.mark.parametrize("text", ["", "x", "1.0", "1e3", "0", "-1", "2147483648", "1_0", "\u0664"])
def test_a_bad_whole_number_is_refused_with_its_line(tmp_path: Path, text):
    path = tmp_path / "f"
    path.write_text(f"\n\\\n\n#\njob_queue_size={text.encode('unicode_escape').decode()}\n")
    with pytest.raises(ConfigError) as caught:
        read_properties(path, {}).integer("job_queue_size", 100)
    assert (caught.value.path, caught.value.key, caught.value.line) == (path, "job_queue_size", 5)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf"])
def test_a_bad_number_is_refused(text):
    with pytest.raises(ConfigError, match="no number above 0"):
        Properties(values={"token_expiration_min": text}).number("token_expiration_min", 60)
    assert Properties(values={"a": " 0.5 "}).number("a", 60) == 0.5


def test_which_file_counts(tmp_path: Path, file):
    snapshots = tmp_path / "config"
    assert find_config_file(None, {}, tmp_path, snapshots) is None
    default = file("")
    assert find_config_file(None, {}, tmp_path, snapshots) == default
    snapshots.mkdir()
    for name in ("20261121120000000-startup.cfg", "20261121120000001-snapshot.cfg", "99999.cfg", "x-y.cfg"):
        (snapshots / name).touch()
    assert find_config_file(None, {}, tmp_path, snapshots) == snapshots / "20261121120000001-snapshot.cfg"
    assert find_config_file(None, {}, tmp_path, None) == default
    flag = file("", "flag")
    assert find_config_file(flag, {}, tmp_path, snapshots) == flag
    variable = file("", "variable")
    assert find_config_file(flag, {"TS_CONFIG_FILE": str(variable)}, tmp_path, snapshots) == variable
    with pytest.raises(ConfigError, match="no such configuration file"):
        find_config_file(tmp_path / "absent", {}, tmp_path, snapshots)


def test_a_folder_without_snapshots(tmp_path: Path):
    assert newest_snapshot(tmp_path) is None
    assert newest_snapshot(tmp_path / "absent") is None
