"""TLS with certificates on both sides between embedding servers, middleware and those who look up."""

from contextlib import closing

import grpc
import pytest

from satrap import rpc
from satrap.embedding_server import EmbeddingServerSettings, run
from satrap.errors import InvalidInputError, MiddlewareUnavailableError, ShardUnavailableError
from satrap.middleware import MiddlewareClient
from satrap.middleware.lookup import open_lookup
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.tls import Tls


@pytest.fixture
def addresses(shards, two_shards, certificates) -> list[str]:
    return shards(two_shards.folder / "ckpt", two_shards.replica_size, tls=certificates.ours)


@pytest.fixture
def strangers(certificates) -> list[Tls | None]:
    """Those who may not: without TLS, without a certificate, with one of another authority, believing another."""
    ours, theirs = certificates.ours, certificates.strangers
    return [
        None,
        certificates.only_authority,
        Tls(theirs.certificate, theirs.private_key, ours.authority),
        Tls(ours.certificate, ours.private_key, theirs.authority),
    ]


@pytest.mark.parametrize("coalesce", [False, True])
def test_lookups_between_those_who_know_each_other(
    addresses, open_middleware, two_shards, certificates, coalesce, assert_golden
):
    middleware = open_middleware(
        two_shards.config, addresses, local=False, coalesce=coalesce, tls=certificates.ours
    )
    assert_golden(two_shards, middleware.lookup(two_shards.batch))


def test_strangers_reach_no_embedding_server(addresses, open_middleware, two_shards, strangers):
    for tls in strangers:
        middleware = open_middleware(two_shards.config, addresses, local=False, tls=tls, lookup_timeout=2)
        with pytest.raises(ShardUnavailableError):
            middleware.lookup(two_shards.batch)


def test_a_middleware_between_them(
    addresses, middleware_server, two_shards, certificates, strangers, assert_golden
):
    running = middleware_server(two_shards.config, addresses, tls=certificates.ours, local_lookup=False)
    with closing(MiddlewareClient([running.address], tls=certificates.ours)) as client:
        assert_golden(two_shards, client.lookup(two_shards.batch))
    for tls in strangers:
        stranger = MiddlewareClient([running.address], tls=tls, lookup_timeout=2)
        with closing(stranger) as client, pytest.raises(MiddlewareUnavailableError):
            client.lookup(two_shards.batch)


def test_a_socket_of_this_machine_has_no_wire(
    serve, two_shards, certificates, open_middleware, tmp_path, table_directory, assert_golden
):
    where = [f"unix:{tmp_path}/{index}" for index in range(2)]
    for index, address in enumerate(where):
        settings = EmbeddingServerSettings(
            port=0,
            replica_index=index,
            replica_size=2,
            checkpoint=two_shards.folder / "ckpt",
            table_directory=table_directory,
            unix_address=address,
            tls=certificates.ours,
        )
        serve(run, settings)
    middleware = open_middleware(two_shards.config, where, local=False, tls=certificates.ours)
    assert_golden(two_shards, middleware.lookup(two_shards.batch))


def test_workers_read_the_files_from_the_configuration(
    addresses, two_shards, certificates, tmp_path, assert_golden
):
    tls = certificates.ours
    config = tmp_path / "global_config.yaml"
    config.write_text(
        f"internal_tls:\n  certificate: {tls.certificate}\n  private_key: {tls.private_key}\n"
        f"  authority: {tls.authority}\nmiddleware:\n  local_lookup: false\n"
    )
    environment = {
        "PERSIA_GLOBAL_CONFIG": str(config),
        "PERSIA_EMBEDDING_CONFIG": str(two_shards.folder / "embedding_config.yml"),
        "SATRAP_SHARDS": ",".join(addresses),
    }
    lookup = open_lookup(["satrap:local"], environment)
    try:
        assert_golden(two_shards, lookup.lookup(two_shards.batch))
    finally:
        lookup.close()


def test_files_that_cannot_be_used_end_the_start(tmp_path):
    absent = str(tmp_path / "absent.pem")
    with pytest.raises(InvalidInputError, match=r"absent\.pem cannot be read"):
        rpc.check_bind_host("127.0.0.1", insecure=False, tls=Tls(absent, absent, absent))
    with pytest.raises(InvalidInputError, match=r"absent\.pem cannot be read"):
        rpc.channel("127.0.0.1:1", tls=Tls(absent, absent, absent))


def test_another_address_is_allowed_to_those_with_certificates(certificates):
    rpc.check_bind_host("0.0.0.0", insecure=False, tls=certificates.ours)
    with pytest.raises(InvalidInputError, match="name certificates in internal_tls"):
        rpc.check_bind_host("0.0.0.0", insecure=False)


def test_a_certificate_of_another_host_is_not_believed(shards, certificates):
    (address,) = shards(None, 1, tls=certificates.elsewhere)
    with rpc.channel(address, tls=certificates.ours) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Status(pb.StatusRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
