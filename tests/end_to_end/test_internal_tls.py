"""Embedding servers that ask for certificates, and the commands that look after them."""

import json
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def asked(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "satrap.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_commands_reach_servers_by_the_same_configuration(satrap, certificates, tmp_path):
    tls = certificates.ours
    config = tmp_path / "global_config.yaml"
    config.write_text(
        f"embedding_server: {{metrics_port: 0}}\ninternal_tls:\n  certificate: {tls.certificate}\n"
        f"  private_key: {tls.private_key}\n  authority: {tls.authority}\n"
    )
    (tmp_path / "packets").mkdir()
    server = satrap(
        "embedding-server", "--global-config", config, "--port", "0", "--packets", tmp_path / "packets"
    )
    (address,) = server.addresses
    told = asked("status", "--shards", address, "--global-config", config, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)[0]["state"] == "ready"
    listed = asked("quarantine", "list", "--shards", address, "--global-config", config)
    assert (listed.returncode, listed.stdout) == (0, "no packet is in quarantine\n")
    stranger = asked("status", "--shards", address, "--json")
    assert stranger.returncode == 1
    assert json.loads(stranger.stdout)[0]["state"] != "ready"

    url = re.search(r"metrics at (https://\S+)", server.log.read_text())[1]
    with pytest.raises((ssl.SSLError, urllib.error.URLError)):  # the one or the other is told first
        urllib.request.urlopen(
            url, timeout=10, context=ssl.create_default_context(cafile=tls.authority)
        ).close()
    known = ssl.create_default_context(cafile=tls.authority)
    known.load_cert_chain(tls.certificate, tls.private_key)
    with urllib.request.urlopen(url, timeout=10, context=known) as answer:
        assert b"satrap_ready" in answer.read()
