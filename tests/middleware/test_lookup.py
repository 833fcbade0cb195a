"""Which way to embeddings an address list means."""

import pytest

import satrap.middleware
from satrap.errors import ConfigError, InvalidInputError
from satrap.middleware import LOCAL_ADDRESS, Middleware, MiddlewareClient, open_lookup


def test_exported_members():
    assert satrap.middleware.__all__ == sorted(satrap.middleware.__all__)
    for name in satrap.middleware.__all__:
        assert hasattr(satrap.middleware, name)


def test_addresses_of_servers(monkeypatch):
    client = open_lookup(["127.0.0.1:1", "127.0.0.1:2"], {})
    assert isinstance(client, MiddlewareClient)
    client.close()


def test_local(two_shards, shards, assert_golden, tmp_path):
    addresses = shards(two_shards.folder / "ckpt", 2)
    environ = {
        "PERSIA_EMBEDDING_CONFIG": str(two_shards.folder / "embedding_config.yml"),
        "SATRAP_SHARDS": f" {addresses[0]}, {addresses[1]},",
    }
    lookup = open_lookup([LOCAL_ADDRESS], environ)
    assert isinstance(lookup, Middleware)
    assert_golden(two_shards, lookup.lookup(two_shards.batch))
    lookup.close()


def test_local_with_the_servers_of_the_global_config(two_shards, shards, assert_golden, tmp_path):
    addresses = shards(two_shards.folder / "ckpt", 2)
    config = tmp_path / "global_config.yml"
    config.write_text(f"common_config: {{infer_config: {{servers: {addresses}, embedding_checkpoint: x}}}}")
    environ = {
        "PERSIA_EMBEDDING_CONFIG": str(two_shards.folder / "embedding_config.yml"),
        "PERSIA_GLOBAL_CONFIG": str(config),
    }
    lookup = open_lookup([LOCAL_ADDRESS], environ)
    assert_golden(two_shards, lookup.lookup(two_shards.batch))
    lookup.close()


def test_local_without_a_config():
    with pytest.raises(InvalidInputError, match="PERSIA_EMBEDDING_CONFIG"):
        open_lookup([LOCAL_ADDRESS], {})


def test_local_without_shards(two_shards):
    environ = {"PERSIA_EMBEDDING_CONFIG": str(two_shards.folder / "embedding_config.yml")}
    with pytest.raises(InvalidInputError, match="SATRAP_SHARDS"):
        open_lookup([LOCAL_ADDRESS], environ)


def test_local_among_others():
    with pytest.raises(InvalidInputError, match="together"):
        open_lookup([LOCAL_ADDRESS, "127.0.0.1:1"], {})


def test_config_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError):
        open_lookup([LOCAL_ADDRESS], {"PERSIA_EMBEDDING_CONFIG": str(tmp_path / "nothing.yml")})
