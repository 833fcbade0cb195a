"""TorchServe's keys in satrap's terms."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.config.global_config import ModelConfig, ServingConfig, TokenConfig
from satrap.errors import ConfigError
from satrap.serving.listening import Address
from satrap.serving.ts_config import Machine, TsConfig, translate
from satrap.serving.ts_keys import ITS_OWN, KEYS, NO_EFFECT
from satrap.serving.ts_properties import read_properties

MACHINE = Machine(processors=6)


@pytest.fixture
def translated(tmp_path: Path):
    def run(
        text: str, base: ServingConfig | None = None, machine: Machine = MACHINE, models=None
    ) -> TsConfig:
        path = tmp_path / "config.properties"
        path.write_text(text)
        return translate(
            read_properties(path, {}), base or ServingConfig(), models or {}, machine, Path("logs/config")
        )

    return run


def test_an_empty_file_is_torchserves_defaults(translated):
    found = translated("")
    assert found.warnings == ()
    config = found.config
    assert config.token == TokenConfig(enabled=None), "decided by who can reach the server"
    assert not config.install_requirements
    assert config.metrics_mode == "prometheus"
    assert config.allowed_urls == []
    assert (config.default_workers_per_model, config.startup_workers_per_model) == (0, 6)
    assert config.snapshot_directory == "logs/config"
    addresses = found.listening
    assert (addresses.rest_inference, addresses.rest_management) == (Address(port=8080), Address(port=8081))
    assert addresses.metrics == Address(port=8082)
    assert (addresses.grpc_inference, addresses.grpc_management) == (Address(port=7070), Address(port=7071))
    assert (found.insecure, found.model_store, found.startup_models, found.model_snapshot) == (
        False,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("default_workers_per_model=2", "default_workers_per_model", 2),
        ("job_queue_size=1000", "job_queue_size", 1000),
        ("default_response_timeout=7", "default_response_timeout_seconds", 7),
        ("default_startup_timeout=7", "default_startup_timeout_seconds", 7),
        ("unregister_model_timeout=7", "unregister_model_timeout_seconds", 7),
        ("max_request_size=65535000", "max_request_bytes", 65_535_000),
        ("max_response_size=1", "max_response_bytes", 1),
        ("enable_model_api=true", "model_api", True),
        (
            "allowed_urls=https://s3.amazonaws.com/.*, file://.*",
            "allowed_urls",
            ["https://s3.amazonaws.com/.*", "file://.*"],
        ),
        ("decode_input_request=false", "decode_input_request", False),
        ("limit_max_image_pixels=false", "limit_max_image_pixels", False),
        ("install_py_dep_per_model=true", "install_requirements", True),
        ("blacklist_env_vars=AWS_.*,?x", "hidden_environment", ["AWS_.*,?x"]),
        ("metrics_mode= Prometheus", "metrics_mode", "prometheus"),
        ("metrics_config=/a/metrics.yaml", "metrics_config", "/a/metrics.yaml"),
        ("model_metrics_auto_detect=true", "metrics_auto_detect", True),
        ("disable_system_metrics=true", "system_metrics", False),
        ("metric_time_interval=5", "system_metrics_seconds", 5),
        ("debug=true", "startup_workers_per_model", 1),
        ("disable_token_authorization=true", "token", TokenConfig(enabled=False)),
        ("token_expiration_min=0.5", "token", TokenConfig(enabled=None, expiration_minutes=0.5)),
    ],
)
def test_what_a_key_is(translated, line, field, value):
    found = translated(line)
    assert getattr(found.config, field) == value
    assert found.warnings == ()


def test_cors(translated):
    cors = translated(
        "cors_allowed_origin=*\ncors_allowed_methods=GET, POST\ncors_allowed_headers=X-A\n"
    ).config.cors
    assert (cors.allowed_origin, cors.allowed_methods, cors.allowed_headers) == ("*", "GET, POST", "X-A")


def test_workers_by_gpus(translated):
    two = Machine(processors=6, gpus=2)
    assert translated("", machine=two).config.startup_workers_per_model == 2
    assert translated("number_of_gpu=1", machine=two).config.startup_workers_per_model == 1
    assert translated("number_of_gpu=1", machine=two).config.gpus == 1
    assert translated("", machine=two).config.gpus is None
    assert translated("number_of_gpu=0", machine=two).config.startup_workers_per_model == 6
    assert translated("number_of_gpu=8", machine=two).config.startup_workers_per_model == 2


def test_addresses(translated):
    listening = translated(
        "inference_address=http://0.0.0.0\nmanagement_address=https://10.0.0.1\nmetrics_address=HTTPS://[::1]:9\n"
        "grpc_inference_address=0.0.0.0\ngrpc_inference_port=1\ngrpc_management_port=0\nenable_grpc_ssl=true\n"
        "grpc_inference_max_connection_age_ms=1000\ngrpc_management_max_connection_age_grace_ms=9223372036854775807\n"
        "certificate_file=c.pem\nprivate_key_file=k.pem\n"
    ).listening
    assert listening.rest_inference == Address("0.0.0.0", 80)
    assert listening.rest_management == Address("10.0.0.1", 8444, tls=True)
    assert listening.metrics == Address("::1", 9, tls=True)
    assert listening.grpc_inference == Address("0.0.0.0", 1, tls=True, max_connection_age_ms=1000)
    assert listening.grpc_management == Address("127.0.0.1", 0, tls=True)


def test_unix_sockets(translated):
    path = "/" + 106 * "a"
    listening = translated(
        f"inference_address=unix:/run/satrap.sock\nmetrics_address=UNIX:{path}\n"
    ).listening
    assert listening.rest_inference == Address(socket_path="/run/satrap.sock")
    assert str(listening.rest_inference) == "unix:/run/satrap.sock"
    assert listening.metrics == Address(socket_path=path)


def test_no_metrics(translated):
    assert translated("enable_metrics_api=false").listening.metrics is None


def test_the_certificate(translated):
    tls = translated("certificate_file=c.pem\nprivate_key_file=k.pem\n").config.tls
    assert (tls.certificate, tls.private_key, tls.client_authority) == ("c.pem", "k.pem", "")


@pytest.mark.parametrize("kind", ["", "keystore_type=PKCS12\n", "keystore_type=jks\n"])
def test_a_keystore(translated, kind):
    found = translated(f"keystore=k.p12\n{kind}keystore_pass= se\\u0063ret \n")
    assert (found.config.tls.keystore, found.config.tls.keystore_password) == ("k.p12", "secret ")
    assert found.warnings == ()
    assert "secret" not in f"{found}"
    assert "keystore_pass" not in found.properties


def test_pem_files_win_over_a_keystore_as_in_torchserve(translated):
    found = translated("keystore=k.p12\nkeystore_pass=s\ncertificate_file=c.pem\nprivate_key_file=k.pem\n")
    assert (found.config.tls.certificate, found.config.tls.keystore) == ("c.pem", "")
    (warning,) = found.warnings
    assert "k.p12 is not read" in warning


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("inference_address=127.0.0.1:8080", "inference_address", "no address like"),
        ("inference_address=ftp://a:1", "inference_address", "no address like"),
        ("inference_address=http://a:b", "inference_address", "no address like"),
        ("inference_address=http://a:1/x", "inference_address", "no address like"),
        ("management_address=http://a:65536", "management_address", "ports end at 65535"),
        ("metrics_address=unix:s", "metrics_address", "begins with /"),
        ("metrics_address=unix:/a b", "metrics_address", "no blanks"),
        ("metrics_address=unix:/a\\u0000b", "metrics_address", "no blanks"),
        (f"metrics_address=unix:/{107 * 'a'}", "metrics_address", "107 bytes at most"),
        (f"metrics_address=unix:/{53 * 'a'}{27 * 'ä'}", "metrics_address", "107 bytes at most"),
        ("grpc_inference_port=65536", "grpc_inference_port", "not from 0 to 65535"),
        ("job_queue_size=many", "job_queue_size", "no whole number"),
        ("job_queue_size=5 # enough", "job_queue_size", "A comment needs a line of its own"),
        ("default_response_timeout=0", "default_response_timeout", "not from 1"),
        ("token_expiration_min=0", "token_expiration_min", "no number above 0"),
        ("allowed_urls=http://(", "allowed_urls", "no regular expression"),
        ("blacklist_env_vars=[", "blacklist_env_vars", "no regular expression"),
        ("keystore=k.p12", "keystore", "keystore_pass, which opens it, is not there"),
        ("keystore_type=BCFKS\nkeystore_pass=x\nkeystore=k", "keystore_type", "-srckeystore k -destkeystore"),
        ("certificate_file=c.pem", "certificate_file", "go together"),
        ("service_envelope=kserve", "service_envelope", "request envelopes (kserve) are not served"),
        ("private_key_file=c.pem", "private_key_file", "go together"),
        ("models=[", "models", "is no JSON"),
        ("models=[]", "models", "no JSON object"),
        ('models={"a": 1}', "models", "a is no JSON object"),
        ('models={"a": {"1.0": []}}', "models", "a, 1.0 is no JSON object"),
        ('models={"a": {"1.0": {"minWorkers": "2"}}}', "models", "no whole number"),
        ('models={"a": {"1.0": {"minWorkers": true}}}', "models", "no whole number"),
        ('models={"a": {"1.0": {"batchSize": 1.5}}}', "models", "no whole number"),
    ],
)
def test_bad_values_name_file_line_and_key(translated, tmp_path: Path, text, key, words):
    with pytest.raises(ConfigError) as caught:
        translated(f"# first\n{text}\n")
    assert (caught.value.path, caught.value.line, caught.value.key) == (
        tmp_path / "config.properties",
        2,
        key,
    )
    assert words in str(caught.value)


def test_settings_of_models_and_versions(translated):
    document = {
        "noop": {
            "1.0": {
                "defaultVersion": True,
                "marName": "noop.mar",
                "minWorkers": 2,
                "maxWorkers": 4,
                "batchSize": 8,
                "maxBatchDelay": 50,
                "responseTimeout": 7,
                "startupTimeout": 9,
            },
            "2.0": {"minWorkers": 0, "batchSize": -1},
        }
    }
    found = translated(f"models={json.dumps(document)}", models={"noop": ModelConfig(batch_size=3)})
    first = found.models["noop"].of("1.0")
    assert (first.workers, first.max_workers, first.batch_size, first.max_batch_delay_ms) == (2, 4, 8, 50)
    assert (first.response_timeout_seconds, first.startup_timeout_seconds) == (7, 9)
    second = found.models["noop"].of("2.0")
    assert (second.workers, second.batch_size) == (None, 3)
    assert found.warnings == ()


def test_the_documents_example_over_several_lines(translated):
    found = translated(
        'models={\\\n  "noop": {\\\n    "1.0": {\\\n        "minWorkers": 3\\\n    }\\\n  }\\\n}\n'
    )
    assert found.models["noop"].of("1.0").workers == 3


@pytest.mark.parametrize("word", ["", "standalone", "NONE"])
def test_words_for_no_models(translated, word):
    assert translated(f"load_models={word}").startup_models is None


def test_store_models_and_a_snapshot(translated):
    found = translated(
        'model_store=/a\nload_models=a.mar, b=b.mar\nmodel_snapshot={"models": {}}\nsatrap_insecure=true\n'
    )
    assert found.model_store == Path("/a")
    assert found.startup_models == "a.mar, b=b.mar"
    assert found.model_snapshot == '{"models": {}}'
    assert found.insecure
    assert found.properties == {
        "model_store": "/a",
        "load_models": "a.mar, b=b.mar",
        "satrap_insecure": "true",
    }


def test_what_the_file_does_not_say_the_other_configuration_may(translated):
    base = ServingConfig(
        metrics_mode="prometheus",
        threads_per_worker=2,
        job_queue_size=5,
        token=TokenConfig(enabled=False, key_file="k"),
    )
    found = translated("job_queue_size=6\n", base).config
    assert (found.metrics_mode, found.threads_per_worker, found.job_queue_size) == ("prometheus", 2, 6)
    assert found.token == TokenConfig(enabled=False, key_file="k")
    assert not found.model_api
    found = translated("disable_token_authorization=false\nmetrics_mode=log\n", base).config
    assert found.token == TokenConfig(enabled=True, key_file="k")
    assert found.metrics_mode == "log"


def test_keys_that_change_nothing_and_unknown_ones_are_named(translated):
    idle, unknown = translated(
        "vmargs=-Xmx1g\nnumber_of_netty_threads=32\nfoo=1\nbar=2\nversion=0.12.0\n"
    ).warnings
    assert "number_of_netty_threads: one event loop" in idle
    assert "vmargs: there is no Java" in idle
    assert unknown.endswith("config.properties: unknown keys, ignored: bar, foo")


def test_odd_words_are_warned_of(translated):
    found = translated('metrics_mode=statsd\nmodels={"a": {"1.0": {"parallelType": "tp"}}}\n')
    assert found.config.metrics_mode == "log"
    assert len(found.warnings) == 2
    assert "'statsd' is none of prometheus, legacy, log" in found.warnings[0]
    assert "parallelType is not known there" in found.warnings[1]


def test_no_key_is_both():
    assert not KEYS.keys() & NO_EFFECT.keys()
    assert not ITS_OWN & (KEYS.keys() | NO_EFFECT.keys())


def test_every_key_is_known(translated):
    values = {
        "inference_address": "http://127.0.0.1:1",
        "keystore": "",
        "service_envelope": "",
        "certificate_file": "",
        "private_key_file": "",
    }
    values |= {
        key: f"http://127.0.0.1:{port}" for port, key in enumerate(("management_address", "metrics_address"))
    }
    text = "".join(f"{key}={values.get(key, '{}' if key == 'models' else '1')}\n" for key in KEYS)
    (warning,) = translated(text).warnings
    assert "metrics_mode" in warning


LINES = st.lists(
    st.one_of(
        st.text(st.characters(codec="iso-8859-1"), max_size=30),
        st.tuples(
            st.sampled_from(sorted(KEYS)),
            st.sampled_from(["=", ":", " ", "=\\\n  "]),
            st.one_of(
                st.text(st.characters(codec="iso-8859-1"), max_size=20),
                st.sampled_from(
                    ["0", "-1", "9" * 30, "true", "{}", '{"a": {"b": null}}', "http://[::1", "\\ud800"]
                ),
            ),
        ).map("".join),
    ),
    max_size=6,
).map("\n".join)


@given(LINES)
def test_whatever_a_file_says_it_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "config.properties"
    path.write_bytes(text.encode("iso-8859-1"))
    try:
        found = translate(read_properties(path, {}), ServingConfig(), {}, MACHINE, Path("logs/config"))
    except ConfigError as error:
        assert error.path == path
    else:
        assert ServingConfig.model_validate(found.config.model_dump()) == found.config
