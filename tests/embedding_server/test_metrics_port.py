"""A server's metrics: from the start of its load to its end, at the port that its shard has."""

import re
import socket
import urllib.error
import urllib.request

import pytest

from satrap.errors import UnavailableError


def test_each_shard_has_a_port_of_its_own(serve, caplog):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    caplog.set_level("INFO", "satrap.embedding_server.server")
    server = serve(metrics_port=port - 1, replica_index=1, replica_size=2, namespace="mine")
    assert server.failure is None
    assert f"metrics at http://127.0.0.1:{port}/metrics" in caplog.text
    server.lookup((4, [1, 2, 3]))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    assert 'satrap_lookups_total{namespace="mine",replica_index="1"} 3.0' in text
    server.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)


def test_none_are_told_unless_asked_for(serve, caplog):
    caplog.set_level("INFO", "satrap.embedding_server.server")
    assert serve().failure is None and "metrics at" not in caplog.text


def test_a_port_that_is_taken_ends_the_start(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = serve(metrics_port=taken.getsockname()[1])
    assert isinstance(server.failure, UnavailableError)
    assert re.search(r"embedding_server\.metrics_port", str(server.failure))
