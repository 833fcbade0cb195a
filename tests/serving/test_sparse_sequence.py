"""Dense versions that need a sequence of their embeddings: real serving, and shards as far as a test says."""

import json
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2

from satrap.client import ManagementClient, SparseNeed
from satrap.protos import embedding_pb2

pytestmark = pytest.mark.slow

SECOND_POLLS = 12
"""Questions to a server in a second, at the most, while a version waits."""

VERSION = """
def handle(data, context):
    return None if data is None else [context.manifest["model"]["modelVersion"]] * len(data)
"""


@pytest.fixture(scope="module")
def _module_shards(fake_shards_module: Any) -> list[Any]:
    return fake_shards_module(2)


@pytest.fixture(scope="module")
def shared_sections(_module_shards: list[Any]) -> dict[str, Any]:
    """The module's server asks the module's shards."""
    return sections(_module_shards)


def sections(shards: list[Any]) -> dict[str, Any]:
    return {"common_config": {"infer_config": {"servers": [shard.address for shard in shards]}}}


@pytest.fixture
def shards(_module_shards: list[Any]) -> list[Any]:
    """Two, at sequence 10; `served` asks them."""
    for shard in _module_shards:
        shard.sequence, shard.asked = 10, 0
    return _module_shards


@pytest.fixture
def served(shards: list[Any], shared: Any) -> Any:
    """Serving with these shards, and version 1 of model m, which needs no sequence."""
    shared.client.register(shared.store.add("m1.mar", VERSION, version="1"))
    return shared


@pytest.fixture
def own_shards(fake_shards: Any) -> list[Any]:
    """Two, at sequence 10, for a server of the test's own."""
    started = fake_shards(2)
    for shard in started:
        shard.sequence = 10
    return started


def needs(store: Any, version: int, sequence: object) -> str:
    """The url of an archive of model m that needs a sequence."""
    return store.add(
        f"m{version}.mar",
        VERSION,
        version=str(version),
        config=f"satrap: {{sparse_sequence: {sequence}}}",
    )


@pytest.fixture
def add(shared: Any) -> Callable[[int, int], str]:
    """add(version, sequence) -> the url of an archive that needs it."""
    return lambda version, sequence: needs(shared.store, version, sequence)


def test_a_version_answers_when_every_shard_is_there(
    served: Any, add: Any, shards: list[Any], failure: Any, wait_until: Any
) -> None:
    client = served.client
    assert client.register(add(2, 12)) == 'Model "m" Version: 2 registered with 1 initial workers'
    (version,) = client.describe("m", "2")
    assert version["sparseSequence"] == 12
    assert version["sparseReached"] is False
    assert version["sparseStatus"] == (
        f"waiting for sequence 12: shard 0 at {shards[0].address} is at 10; shard 1 at {shards[1].address} is at 10"
    )
    assert version["sparseShards"][1] == {
        "replicaIndex": 1,
        "address": shards[1].address,
        "appliedSequence": 10,
    }
    assert version["workers"][0]["status"] == "READY"
    assert failure(client.predict, "m", version="2") == (
        "UNAVAILABLE",
        'Model "m" Version 2 is waiting for sequence 12 of its embeddings: it answers when every embedding server has '
        "applied it. DescribeModel and `satrap status` say how far each is",
    )
    assert client.set_default("m", "2") == (
        'Version "2" of model "m" becomes the default when every embedding server has reached sequence 12'
    )
    assert client.describe("m", "2")[0]["becomesDefault"] is True
    shards[0].sequence = 99
    assert client.predict("m") == b"1"
    assert client.describe("m", "2")[0]["sparseStatus"].startswith("waiting for sequence 12: shard 1 at ")
    assert client.predict("m") == b"1"
    shards[1].sequence = 12
    wait_until(lambda: client.predict("m") == b"2")
    assert client.predict("m", version="2") == b"2"
    assert client.predict("m", version="1") == b"1"
    described = client.describe("m", "2")[0]
    assert (described["sparseStatus"], described["sparseReached"], described["becomesDefault"]) == (
        "answers",
        True,
        False,
    )
    shards[0].sequence = 11
    assert "taken back below sequence 12" in client.describe("m", "2")[0]["sparseStatus"]
    assert client.predict("m") == b"2"
    assert not [
        key for key in client.describe("m", "1")[0] if key.startswith("sparse") or key == "becomesDefault"
    ]


def test_shards_are_asked_only_while_a_version_waits(
    served: Any, add: Any, shards: list[Any], wait_until: Any
) -> None:
    client = served.client
    client.predict("m")
    assert [shard.asked for shard in shards] == [0, 0]
    client.register(add(2, 12))
    begun, before = time.monotonic(), shards[0].asked
    wait_until(lambda: shards[0].asked > before + 5)
    assert time.monotonic() - begun > 5 / SECOND_POLLS
    for shard in shards:
        shard.sequence = 12
    wait_until(lambda: client.describe("m", "2")[0]["sparseReached"])
    client.predict("m", version="2")
    asked = shards[0].asked
    quiet = time.monotonic() + 0.4
    while time.monotonic() < quiet:
        client.predict("m", version="2")
    assert shards[0].asked <= asked + 1, "one question may have been on its way"
    client.register(add(3, 13))
    wait_until(lambda: shards[0].asked > asked + 3)
    client.unregister("m", "3")


def test_a_sequence_that_is_there_already(served: Any, add: Any, wait_until: Any) -> None:
    client = served.client
    client.register(add(2, 10))
    wait_until(lambda: client.describe("m", "2")[0]["sparseReached"])
    assert client.set_default("m", "2") == 'Default version successfully updated for model "m" to "2"'
    assert client.predict("m") == b"2"


@pytest.mark.parametrize("how", ["unregister", "supersede"])
def test_a_choice_is_taken_back(served: Any, add: Any, shards: list[Any], wait_until: Any, how: str) -> None:
    client = served.client
    client.register(add(2, 12))
    client.register(add(3, 11))
    client.set_default("m", "2")
    if how == "unregister":
        client.unregister("m", "2")
    else:
        client.set_default("m", "1")
    for shard in shards:
        shard.sequence = 12
    wait_until(lambda: client.describe("m", "3")[0]["sparseReached"])
    assert client.predict("m") == b"1"


def test_a_models_first_version(
    serve: Any, store: Any, own_shards: list[Any], failure: Any, wait_until: Any
) -> None:
    needs(store, 1, 12)
    server = serve("m1.mar", **sections(own_shards))
    client = server.client
    code, details = failure(client.predict, "m")
    assert code == "UNAVAILABLE"
    assert "waiting for sequence 12" in details
    assert json.loads(client.inference.Ping(empty_pb2.Empty()).health)["status"] == "Healthy"
    for shard in own_shards:
        shard.sequence = 12
    wait_until(lambda: client.describe("m", "")[0]["sparseReached"])
    assert client.predict("m") == b"1"
    assert "every embedding server has reached sequence 12: version 1 answers" in server.log()


def test_the_newest_waits_as_well(serve: Any, store: Any, own_shards: list[Any], wait_until: Any) -> None:
    store.add("m1.mar", VERSION, version="1")
    given = sections(own_shards)
    client = serve("m1.mar", models={"m": {"default_version": "newest"}}, **given).client
    client.register(needs(store, 2, 12))
    assert client.predict("m") == b"1"
    for shard in own_shards:
        shard.sequence = 12
    wait_until(lambda: client.predict("m") == b"2")


def test_shards_that_do_not_say(serve: Any, store: Any, own_shards: list[Any], wait_until: Any) -> None:
    store.add("m1.mar", VERSION, version="1")
    client = serve("m1.mar", **sections(own_shards)).client
    client.register(needs(store, 2, 5))
    wait_until(lambda: client.describe("m", "2")[0]["sparseReached"])
    own_shards[0].sequence = None
    own_shards[1].state, own_shards[1].message = embedding_pb2.STATE_LOADING, "loading: 40 %"
    client.register(needs(store, 3, 5))
    status = client.describe("m", "3")[0]["sparseStatus"]
    assert "it follows no packets, so its sequence is unknown" in status
    assert "loading: 40 %" in status
    assert client.describe("m", "2")[0]["sparseStatus"] == "answers"
    own_shards[1].stop()
    wait_until(lambda: "cannot be reached" in client.describe("m", "3")[0]["sparseStatus"])
    assert client.predict("m", version="2") == b"2"


def test_without_embedding_servers(serve: Any, store: Any, failure: Any) -> None:
    store.add("m1.mar", VERSION, version="1")
    server = serve("m1.mar")
    _, details = failure(server.client.register, needs(store, 2, 12))
    assert "it needs sequence 12 of its embeddings, and this server knows no embedding servers" in details
    assert [version["modelVersion"] for version in server.client.describe("m")] == ["1"]
    assert len(server.unpacked()) == 1


@pytest.mark.parametrize("sequence", ["0", "many", "4294967296"])
def test_a_bad_sequence(served: Any, failure: Any, sequence: str) -> None:
    client = served.client
    code, details = failure(client.register, needs(served.store, 2, sequence))
    assert "satrap.sparse_sequence is" in details
    assert grpc.StatusCode[code] is grpc.StatusCode.INVALID_ARGUMENT


def test_what_a_rollback_must_not_go_below(served: Any, add: Any, wait_until: Any) -> None:
    client = served.client
    client.register(add(2, 10))
    client.register(add(3, 12))
    client.register(served.store.add("n.mar", VERSION, name="n", config="satrap: {sparse_sequence: 7}"))
    with ManagementClient(served.command.addresses[1]) as management:
        wait_until(lambda: len(management.sparse_needs()) == 2)
        assert management.sparse_needs() == (SparseNeed("m", "2", 10), SparseNeed("n", "1.0", 7))
        waiting = management.describe("m", "3")[0]
        assert (waiting.sparse_sequence, waiting.is_waiting) == (12, True)
        plain = management.describe("m", "1")[0]
        assert (plain.sparse_sequence, plain.is_waiting) == (None, False)
