"""Flags and files together: what a serving process is told."""

from pathlib import Path

import pytest

from satrap.cli.serving_flags import ServingFlags
from satrap.cli.serving_settings import serving_settings
from satrap.errors import ConfigError, InvalidInputError
from satrap.serving.exposure import addresses as addresses_of
from satrap.serving.listening import Address, Listening


@pytest.fixture
def file(tmp_path: Path):
    def write(text: str, name: str = "config.properties") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(autouse=True)
def _without_the_users_environment(monkeypatch):
    monkeypatch.delenv("LOG_LOCATION", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_without_anything_every_default_counts():
    settings = serving_settings(ServingFlags(), None)
    assert settings.listening == Listening()
    assert (settings.restore, settings.write_snapshots, settings.strict_startup) == (True, True, True)
    assert not settings.token_authorization
    assert not settings.answers_while_loading
    assert settings.config.model_api


def test_flags_of_hosts_and_ports():
    flags = ServingFlags(host="127.0.0.2", grpc_inference_port=1, rest_management_port=0, ncs=True)
    settings = serving_settings(flags, None)
    assert settings.listening.grpc_inference == Address("127.0.0.2", 1)
    assert settings.listening.rest_management == Address("127.0.0.2", 0)
    assert settings.listening.metrics == Address("127.0.0.2", 8082)
    assert (settings.restore, settings.write_snapshots) == (False, False)


def test_flags_for_tokens_and_the_model_api(file):
    config = file(
        "serving:\n  model_api: true\n  token: {enabled: false, key_file: k}\n", "global_config.yaml"
    )
    settings = serving_settings(ServingFlags(token_auth=True, model_api=False, global_config=config), None)
    assert settings.token_authorization
    assert settings.config.token.key_file == "k"
    assert not settings.config.model_api


def test_another_address_is_refused_with_what_to_do():
    with pytest.raises(
        InvalidInputError, match=r"gRPC inference API on 0\.0\.0\.0:7070 without TLS.*pass --insecure"
    ):
        serving_settings(ServingFlags(host="0.0.0.0"), None)
    settings = serving_settings(ServingFlags(host="0.0.0.0", insecure=True), None)
    assert not settings.token_authorization
    assert serving_settings(
        ServingFlags(host="0.0.0.0", insecure=True, token_auth=True), None
    ).token_authorization


def test_a_config_properties_has_torchserves_defaults(file):
    settings = serving_settings(ServingFlags(), file("model_store=/s\nload_models=all\n"))
    assert (settings.model_store, settings.startup_models) == (Path("/s"), "all")
    assert (settings.restore, settings.write_snapshots, settings.strict_startup) == (False, True, False)
    assert settings.answers_while_loading
    assert settings.config.snapshot_directory == "logs/config"
    assert settings.properties == {"model_store": "/s", "load_models": "all"}


@pytest.mark.parametrize("properties", [None, ""], ids=["natively", "config.properties"])
@pytest.mark.parametrize(
    ("said", "variable", "threads"),
    [
        ("{}", None, 1),
        ("{}", "4", 4),
        ("{}", "8,2", 8),
        ("{}", "0", 1),
        ("{}", "many", 1),
        ("{threads_per_worker: 2}", "4", 2),
    ],
)
def test_threads_of_workers_are_those_of_the_environment_unless_the_configuration_says(
    file, monkeypatch, properties, said, variable, threads
):
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    flags = ServingFlags(global_config=file(f"serving: {said}\n", "global_config.yaml"))
    settings = serving_settings(flags, None if properties is None else file(properties))
    assert settings.config.threads_per_worker == threads


def test_what_a_config_properties_leaves_open_depends_on_who_can_reach_the_server(file):
    local = serving_settings(ServingFlags(), file(""))
    assert (local.token_authorization, local.tokens_offered, local.config.model_api) == (False, True, True)
    text = "disable_token_authorization=false\nenable_model_api=false\n"
    local = serving_settings(ServingFlags(), file(text))
    assert (local.token_authorization, local.tokens_offered, local.config.model_api) == (True, False, False)
    local = serving_settings(ServingFlags(token_auth=False), file(""))
    assert (local.token_authorization, local.tokens_offered) == (False, False)

    beyond = "inference_address=http://0.0.0.0:8080\nsatrap_insecure=true\n"
    remote = serving_settings(ServingFlags(), file(beyond))
    assert (remote.token_authorization, remote.config.model_api) == (True, False)
    remote = serving_settings(ServingFlags(token_auth=False, model_api=True), file(beyond))
    assert (remote.token_authorization, remote.config.model_api) == (False, True)


def test_flags_win_over_the_file_and_the_environment_over_both(file, monkeypatch):
    monkeypatch.setenv("TS_MODEL_STORE", "/environment")
    text = "model_store=/file\nload_models=file.mar\ndisable_token_authorization=true\n"
    flags = ServingFlags(model_store=Path("/flag"), models="flag.mar", token_auth=True, model_api=True)
    settings = serving_settings(flags, file(text))
    assert (settings.model_store, settings.startup_models) == (Path("/flag"), "flag.mar")
    assert settings.token_authorization
    assert settings.config.model_api
    settings = serving_settings(flags, file(text + "enable_envvars_config=true\n"))
    assert (settings.model_store, settings.startup_models) == (Path("/environment"), "flag.mar")


def test_what_opens_more_than_satrap_does_needs_one_line(file, tmp_path: Path):
    text = "inference_address=http://0.0.0.0:8080\nmanagement_address=http://0.0.0.0:8081\n"
    with pytest.raises(InvalidInputError) as caught:
        serving_settings(ServingFlags(), file(text))
    assert f"write satrap_insecure=true into {tmp_path}/config.properties" in str(caught.value)
    settings = serving_settings(ServingFlags(), file(text + "satrap_insecure=true\n"))
    assert settings.listening.rest_inference == Address("0.0.0.0", 8080)
    assert settings.token_authorization
    more = serving_settings(
        ServingFlags(), file(text + "satrap_insecure=true\ndisable_token_authorization=true\n")
    )
    assert not more.token_authorization


def test_what_containers_are_usually_given_starts_with_one_more_line(file):
    """Every address open to all, as in an image: the keys are right, and it is said once that this is meant."""
    addresses = "".join(
        f"{api}_address=http://0.0.0.0:{port}\n"
        for api, port in (("inference", 8080), ("management", 8081), ("metrics", 8082))
    )
    text = (
        addresses + "grpc_inference_address=0.0.0.0\ngrpc_management_address=0.0.0.0\njob_queue_size=1000\n"
    )
    with pytest.raises(InvalidInputError, match="write satrap_insecure=true into"):
        serving_settings(ServingFlags(), file(text))
    settings = serving_settings(ServingFlags(), file(text + "satrap_insecure=true\n"))
    assert {str(address) for _, address in addresses_of(settings.listening)} == {
        f"0.0.0.0:{port}" for port in (7070, 7071, 8080, 8081, 8082)
    }
    assert settings.config.job_queue_size == 1000


def test_a_snapshot_is_registered_unless_something_else_is_asked_for(file):
    path = file('model_snapshot={"models": {}}\nload_models=a.mar\n')
    assert serving_settings(ServingFlags(), path).model_snapshot == '{"models": {}}'
    assert serving_settings(ServingFlags(), path).snapshot_origin == str(path), (
        "a newest snapshot has another name"
    )
    assert serving_settings(ServingFlags(ncs=True), path).model_snapshot is None
    assert serving_settings(ServingFlags(models="b.mar"), path).model_snapshot is None


def test_snapshots_lie_where_the_logs_do(file, monkeypatch):
    monkeypatch.setenv("LOG_LOCATION", "/logs")
    assert serving_settings(ServingFlags(), file("")).config.snapshot_directory == "/logs/config"


def test_warnings_reach_the_log(file, caplog):
    serving_settings(ServingFlags(), file("vmargs=-Xmx1g\nfoo=1\n"))
    assert [record.name for record in caplog.records] == ["satrap.config"] * 2
    assert "unknown keys, ignored: foo" in caplog.text


def test_bad_values_end_the_start(file):
    with pytest.raises(ConfigError, match="job_queue_size: 'x' is no whole number"):
        serving_settings(ServingFlags(), file("job_queue_size=x\n"))


def test_models_need_a_store() -> None:
    with pytest.raises(InvalidInputError, match="by --model-store"):
        serving_settings(ServingFlags(models="a.mar"), None)
    assert serving_settings(ServingFlags(models="a.mar", model_store=Path("store")), None).startup_models
