"""Both configuration files: PERSIA's as they are, ours strictly."""

from pathlib import Path

import pytest

from satrap.config import EmbeddingConfig, GlobalConfig, load_embedding_config, load_global_config
from satrap.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refuse(sentence: str) -> None:
    raise AssertionError(f"unexpected warning: {sentence}")


def keys(value: object, place: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if not isinstance(value, dict):
        return {place}
    return {place}.union(*(keys(inner, (*place, key)) for key, inner in value.items()))


def test_the_documented_file_holds_every_key_with_its_default():
    config = load_global_config(ROOT / "global_config.yaml", refuse)
    assert config == GlobalConfig()
    from satrap.config import yaml12

    written = yaml12.load(ROOT / "global_config.yaml").value
    assert keys(written) == keys(GlobalConfig().model_dump())


def test_persia_golden_configs_load(persia_data):
    for path in persia_data.glob("golden/*/embedding_config.yml"):
        config = load_embedding_config(path, refuse)
        assert config.slots


def test_order_of_slots_and_groups_is_the_files(file):
    config = load_embedding_config(
        file("slots_config: {z: {dim: 1}, a: {dim: 2}}\nfeature_groups: {g2: [z], g1: [a]}"), refuse
    )
    assert list(config.slots) == ["z", "a"]
    assert list(config.feature_groups) == ["g2", "g1"]


def test_the_digest_is_of_what_a_file_means(file):
    def digest(text: str) -> str:
        return load_embedding_config(file(text), lambda _: None).digest

    plain = digest("slots_config: {a: {dim: 1}, b: {dim: 2}}")
    assert plain == digest(
        "# the same\nfeature_index_prefix_bit: 8\nslots_config:\n  a: {dim: 1}\n  b:\n    dim: 2\n"
    )
    assert plain != digest("slots_config: {b: {dim: 2}, a: {dim: 1}}")
    assert plain != digest("slots_config: {a: {dim: 1}, b: {dim: 2}}\nfeature_index_prefix_bit: 9\n")


def test_slot_names_are_text_whatever_they_look_like(file):
    config = load_embedding_config(
        file(
            "slots_config:\n  on: {dim: 1}\n  no: {dim: 1}\n  0123: {dim: 1}\n  12:30: {dim: 1}\n"
            "feature_groups:\n  g: [on, no, 0123, 12:30]\n"
        ),
        refuse,
    )
    assert list(config.slots) == ["on", "no", "0123", "12:30"] == config.feature_groups["g"]


@pytest.mark.parametrize(
    ("text", "servers", "checkpoint"),
    [
        ("{servers: ['a:1', 'b:2']}", ["a:1", "b:2"], ""),
        ("{embedding_checkpoint: /c}", [], "/c"),
        ("{}", [], ""),
        ("{servers: ['a:1'], embedding_checkpoint: /c}", ["a:1"], "/c"),
    ],
)
def test_a_file_needs_only_what_differs(file, text, servers, checkpoint):
    infer = load_global_config(
        file(f"common_config: {{infer_config: {text}}}"), refuse
    ).common_config.infer_config
    assert (infer.servers, infer.embedding_checkpoint) == (servers, checkpoint)


def test_an_unknown_key_in_a_persia_section_is_a_warning_with_its_line(file):
    heard: list[str] = []
    path = file("common_config:\n  metrics_config:\n    push_interval_sec: 3\n  job_type: Infer\n")
    config = load_global_config(path, heard.append)
    assert config.common_config.job_type == "Infer"
    assert heard == [
        f"{path}:3: common_config.metrics_config.push_interval_sec: unknown key, ignored; "
        "did you mean 'push_interval_seconds'?"
    ]


def test_an_unknown_key_of_a_slot_is_a_warning(file):
    heard: list[str] = []
    load_embedding_config(file("slots_config:\n  a:\n    dim: 1\n    dimension: 3\n"), heard.append)
    assert len(heard) == 1
    assert ":4: slots_config.a.dimension: unknown key" in heard[0]


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("serving:\n  drain_secs: 3\n", 2, "serving.drain_secs", "did you mean 'drain_seconds'?"),
        ("serving:\n  drain_seconds: '3'\n", 2, "serving.drain_seconds", "integer"),
        ("serving:\n  job_queue_size: 0\n", 2, "serving.job_queue_size", "greater than or equal to 1"),
        ("embedding_server:\n  row_dtype: int8\n", 2, "embedding_server.row_dtype", "float32"),
        ("embedding_server:\n  namespace: a/b\n", 2, "embedding_server.namespace", "cannot name a folder"),
        ("embedding_server:\n  namespace: ..\n", 2, "embedding_server.namespace", "cannot name a folder"),
        ("embedding_server:\n  namespace: ''\n", 2, "embedding_server.namespace", "cannot name a folder"),
        ("embedding_server:\n  namespace: 7\n", 2, "embedding_server.namespace", "string"),
        ("embedding_server:\n  table_directory: here\n", 2, "table_directory", "no absolute path"),
        ("middleware:\n  orphan_grace_seconds: -1\n", 2, "middleware.orphan_grace_seconds", "greater than"),
        ("models:\n  m:\n    defaultversion: newest\n", 3, "models.m.defaultversion", "did you mean"),
        ("common_config:\n  infer_config:\n    servers: a:1\n", 3, "infer_config.servers", "valid list"),
        ("common_config:\n  job_type: infer\n", 2, "common_config.job_type", "'Infer'"),
        ("common_config: []\n", 1, "common_config", "valid dictionary"),
        (
            "serving:\n  tls:\n    certificate: a.pem\n",
            2,
            "serving.tls",
            "certificate and private_key go together",
        ),
        ("serving:\n  tls:\n    client_authority: a.pem\n", 2, "serving.tls", "client_authority without"),
        ("internal_tls:\n  authority: a.pem\n", 1, "internal_tls", "name all three, or none"),
        ("serving:\n  allowed_urls: ['(']\n", 2, "serving.allowed_urls", "is no regular expression"),
        (
            "serving:\n  hidden_environment: ['[']\n",
            2,
            "serving.hidden_environment",
            "is no regular expression",
        ),
        ("serving:\n  token:\n    expiration_minutes: 0\n", 3, "token.expiration_minutes", "greater than 0"),
        ("serving:\n  metrics_mode: none\n", 2, "serving.metrics_mode", "'prometheus'"),
        (
            "models:\n  m:\n    versions: {'1.0': {default_version: newest}}\n",
            3,
            "default_version",
            "unknown key",
        ),
        ("- a\n", 1, "", "expected a mapping"),
    ],
)
def test_bad_global_configs_name_file_key_and_line(file, text, line, key, words):
    path = file(text)
    with pytest.raises(ConfigError) as caught:
        load_global_config(path, lambda _: None)
    assert caught.value.path == path
    assert caught.value.line == line
    assert key in caught.value.key
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("feature_index_prefix_bit: 8\n", 1, "is required"),
        ("feature_index_prefix_bit: 0\nslots_config: {a: {dim: 1}}\n", 1, "greater than or equal to 1"),
        ("slots_config:\n  a: {}\n", 2, "is required"),
        ("slots_config:\n  a:\n    dim: yes\n", 3, "integer"),
        ("slots_config:\n  a: {dim: 1}\n  a: {dim: 2}\n", 3, "duplicate key"),
        ("slots_config:\n  a:\n    dim: 1\n    index_prefix: 7\n", 4, "less than or equal to 0"),
        (
            "slots_config:\n  a:\n    dim: 1\n    hash_stack_config: {hash_stack_rounds: 2}\n",
            4,
            "is required",
        ),
        ("slots_config:\n  a:\n    dim: 1\n    embedding_summation: yes\n", 4, "boolean"),
    ],
)
def test_bad_embedding_configs_name_the_line(file, text, line, words):
    with pytest.raises(ConfigError) as caught:
        load_embedding_config(file(text), lambda _: None)
    assert caught.value.line == line
    assert words in str(caught.value)


def test_an_empty_global_config_is_all_defaults(file):
    assert load_global_config(file(""), refuse) == GlobalConfig()


def test_a_version_has_its_models_settings_but_for_its_own(file):
    path = file("models:\n  m:\n    workers: 2\n    batch_size: 4\n    versions: {'2.0': {batch_size: 8}}\n")
    model = load_global_config(path, lambda _: None).models["m"]
    assert (model.of("1.0").workers, model.of("1.0").batch_size) == (2, 4)
    assert (model.of("2.0").workers, model.of("2.0").batch_size) == (2, 8)
    assert model.of("2.0").max_workers is None


def test_configs_are_frozen(file):
    config = load_embedding_config(file("slots_config: {a: {dim: 1}}"), refuse)
    with pytest.raises(ValueError, match="frozen"):
        config.slots["a"].dim = 3
    assert isinstance(config, EmbeddingConfig)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("slots_config: {a: {dim: 1}}\nfeature_groups:\n  g: [a, x]\n", 3, "'x' is no slot"),
        ("slots_config: {a: {dim: 1}}\nfeature_groups:\n  g: [a]\n  h: [a]\n", 4, "is in the group 'g' too"),
        ("slots_config:\n  a: {dim: 1}\nfeature_groups:\n  a: []\n", 4, "rename one"),
        (
            "slots_config:\n  a:\n    dim: 1\n    hash_stack_config:\n      hash_stack_rounds: 2\n"
            "      embedding_size: 0\n",
            6,
            "at least one bucket",
        ),
    ],
)
def test_an_embedding_config_that_contradicts_itself_is_refused_with_the_line(file, text, line, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load_embedding_config(file(text), refuse)
    assert caught.value.line == line


@pytest.mark.parametrize("value", ["1234567", "[sesame]"])
def test_an_error_does_not_show_a_password(file, value):
    path = file(f"serving:\n  tls:\n    keystore: k.p12\n    keystore_password: {value}\n")
    with pytest.raises(ConfigError, match=r"keystore_password: Input should be a valid string$"):
        load_global_config(path, refuse)
