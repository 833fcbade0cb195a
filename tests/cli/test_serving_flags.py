"""The flags of a serving process."""

from pathlib import Path

from satrap.cli.serving_flags import ServingFlags


def test_flags_become_words_again():
    flags = ServingFlags(
        model_store=Path("/s"),
        host="h",
        metrics_port=0,
        ncs=True,
        token_auth=False,
        model_api=True,
        shards="a,b",
    )
    assert flags.words() == [
        "--model-store", "/s", "--host", "h", "--metrics-port", "0", "--ncs", "--disable-token-auth",
        "--enable-model-api", "--shards", "a,b",
    ]  # fmt: skip
    assert ServingFlags().words() == []
    again = flags.with_ports({"REST inference": 3, "management": 2, "inference": 1}).words()
    assert again[4:10] == [
        "--grpc-inference-port",
        "1",
        "--grpc-management-port",
        "2",
        "--rest-inference-port",
        "3",
    ]
