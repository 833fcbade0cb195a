"""TorchServe 0.12, tuned, as the peer: its own environment, started and stopped by the benchmark.

Tuned means: one OpenMP thread (its default, as many as cores, spins between requests and doubles the CPU used),
logs at warn, no system metrics, no token. Each of these makes it faster or leaves it as it is.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from harness.processes import ChildFailedError, Process, free_ports

__all__ = ["REQUIREMENTS", "JavaMissingError", "TorchServe", "install", "versions"]

REQUIREMENTS = (
    "torchserve==0.12.0",
    "torch==2.13.0",
    "numpy==2.4.6",
    "pyyaml==6.0.3",  # TorchServe imports it and does not ask for it
    "grpcio==1.85.1",  # satrap.batch imports it, for the row with PERSIA's bytes
)

_READY_SECONDS = 120.0
_POLL_SECONDS = 0.1
_LOG_CONFIG = Path(__file__).with_name("log4j2.xml")
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class JavaMissingError(Exception):
    """TorchServe cannot run here; the text says what to do."""


def versions() -> dict[str, str]:
    """What the peer consists of, for the conditions of a run."""
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True)
    return {"packages": " ".join(REQUIREMENTS), "java": java.stderr.splitlines()[0]}


def install(environment: Path) -> None:
    """Make a virtual environment with TorchServe in it, unless it is there already.

    Raises:
        JavaMissingError: there is no `java` on the path.
    """
    if shutil.which("java") is None:
        raise JavaMissingError(
            "TorchServe needs Java 17: install it (Debian: apt install openjdk-17-jre-headless), "
            "or leave TorchServe out with --no-peer"
        )
    stamp = environment / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing TorchServe into {environment} (once; torch is some hundred MB)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
    subprocess.run([environment / "bin" / "pip", "install", "-qq", *REQUIREMENTS], check=True)
    stamp.write_text(wanted)


class TorchServe(Process):
    """A running TorchServe. Models are archives `<name>.mar` (version 1.0) in `model_store`."""

    def __init__(
        self,
        environment: Path,
        model_store: Path,
        workers: Mapping[str, int],
        directory: Path,
        *,
        settings: Mapping[str, str] | None = None,
        tokens: bool = False,
    ) -> None:
        """Write its configuration into `directory`, where it also keeps its log and, with `tokens`, its key file.

        `workers` by model name are loaded at the start; `settings` are further keys of the configuration.
        """
        directory.mkdir(parents=True)
        rest, management, metrics, inference_grpc, management_grpc = free_ports(5)
        self.address = f"127.0.0.1:{inference_grpc}"
        self.management_address = f"127.0.0.1:{management_grpc}"
        self.rest_addresses: dict[Literal["inference", "management", "metrics"], str] = {
            "inference": f"127.0.0.1:{rest}",
            "management": f"127.0.0.1:{management}",
            "metrics": f"127.0.0.1:{metrics}",
        }
        written = {
            **{f"{api}_address": f"http://{address}" for api, address in self.rest_addresses.items()},
            "grpc_inference_address": "127.0.0.1",
            "grpc_inference_port": inference_grpc,
            "grpc_management_address": "127.0.0.1",
            "grpc_management_port": management_grpc,
            "model_store": model_store,
            "disable_system_metrics": "true",
            **_models(workers),
            **({} if tokens else {"disable_token_authorization": "true"}),
            **(settings or {}),
        }
        config = directory / "config.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in written.items()))
        super().__init__(
            "TorchServe",
            [
                *(environment / "bin" / "torchserve", "--start", "--foreground", "--no-config-snapshots"),
                *(() if tokens else ("--disable-token-auth",)),
                *("--ts-config", config, "--log-config", _LOG_CONFIG),
            ],
            log=directory / "log",
            environ={
                **_ONE_THREAD,
                "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
                "TMPDIR": str(directory),  # one server per TMPDIR: its PID file lies there
                "LOG_LOCATION": str(directory),
                "METRICS_LOCATION": str(directory),
                "_JAVA_OPTIONS": f"-Djava.io.tmpdir={directory}",  # its workers' sockets
            },
        )

    def wait_until_listening(self) -> None:
        """Wait until it takes calls; models may still be loading.

        Raises:
            ChildFailedError: it ended, or did not within two minutes.
        """
        self.wait_for_line("Model server started", _READY_SECONDS)

    def wait_until_ready(self, models: Sequence[str]) -> None:
        """Wait until every worker of each model is ready.

        Raises:
            ChildFailedError: it ended, or was not ready after two minutes.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while not all(self._is_ready(name) for name in models):
            self.check_alive()
            if time.monotonic() > deadline:
                raise ChildFailedError(f"TorchServe was not ready within {_READY_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _is_ready(self, model: str) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://{self.rest_addresses['management']}/models/{model}", timeout=_READY_SECONDS
            ) as answer:
                description = json.load(answer)[0]
        except OSError:  # not listening yet, or not registered yet
            return False
        workers = description["workers"]
        return len(workers) == description["minWorkers"] and all(one["status"] == "READY" for one in workers)


def _models(workers: Mapping[str, int]) -> dict[str, str]:
    if not workers:
        return {}
    described = {name: {"1.0": _model(name, count)} for name, count in workers.items()}
    return {"load_models": ",".join(f"{name}.mar" for name in workers), "models": json.dumps(described)}


def _model(name: str, workers: int) -> dict[str, bool | str | int]:
    return {
        "defaultVersion": True,
        "marName": f"{name}.mar",
        "minWorkers": workers,
        "maxWorkers": workers,
        "batchSize": 1,
    }
