"""Runs the demo: every step prints what it did and how long it took."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from satrap import rpc
from satrap._core import ids as id_kernels
from satrap.client import InferenceClient
from satrap.demo import clicks, model
from satrap.demo.scores import auc
from satrap.errors import SatrapError
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.serving.archive.package import package
from satrap.trainer import write_persia_checkpoint

__all__ = ["run"]

_SEED = 20_26
_TRAIN_SAMPLES = 200_000
_HELD_OUT_SAMPLES = 25_600
_EPOCHS = 2
_BATCH = 128
_SHARDS = 2
_PREFIX_BITS = 8
_MODEL = "demo"
_TOLERANCE = 1e-3


class DemoFailedError(SatrapError):
    """The demo's own check did not hold."""


@dataclass(frozen=True)
class Files:
    """What the demo writes, under one folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """PERSIA's checkpoint directory."""
        return self.folder / "checkpoint"

    @property
    def model_store(self) -> Path:
        """The archives."""
        return self.folder / "model_store"

    @property
    def embedding_config(self) -> Path:
        """The features."""
        return self.folder / "embedding_config.yml"


@dataclass(frozen=True)
class Served:
    """What came back: predictions `[samples]`, seconds per request `[requests]`, and the servers' times.

    `parts` has the median milliseconds of `server` (the frontend and all behind it), `handler`, and its parts.
    """

    predictions: NDArray[np.float32]
    seconds: NDArray[np.float64]
    parts: Mapping[str, float]


def run(*, keep: bool, folder: Path | None) -> None:
    """Run all of it; with `keep` stay up until interrupted.

    Raises:
        DemoFailedError: the AUC served differs from the AUC computed offline.
    """
    console = Console(highlight=False)
    with ExitStack() as stack:
        root = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="satrap-demo-")))
        files = Files(root.resolve())
        with _step(console, f"making {_TRAIN_SAMPLES + _HELD_OUT_SAMPLES:,} clicks"):
            data = clicks.make_clicks(_TRAIN_SAMPLES + _HELD_OUT_SAMPLES, _SEED)
            held_out = data.slice(_TRAIN_SAMPLES, len(data))
        with _step(console, "training embeddings and a dense model"):
            embeddings, dense = model.train(data.slice(0, _TRAIN_SAMPLES), _SEED, _EPOCHS)
            offline = model.predict(embeddings, dense, held_out)
        with _step(console, f"writing a PERSIA checkpoint and an archive to {files.folder}"):
            _write(files, embeddings, dense)
        with _step(console, f"starting {_SHARDS} embedding servers and serving"):
            tables = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="satrap-demo-", dir=_shared_memory())
            )
            process, line = stack.enter_context(_satrap_up(files, Path(tables)))
        console.print(f"  {line}", soft_wrap=True)
        inference, management = _addresses(line)
        with _step(
            console, f"sending {_HELD_OUT_SAMPLES:,} held-out samples in batches of {_BATCH} over gRPC"
        ):
            served = _send(inference, held_out)
        served_auc, offline_auc = auc(held_out.labels, served.predictions), auc(held_out.labels, offline)
        console.print(_report(served, served_auc, offline_auc))
        if abs(served_auc - offline_auc) > _TOLERANCE:
            raise DemoFailedError(
                f"the AUC served is {served_auc:.5f}, offline it is {offline_auc:.5f}: "
                f"more than {_TOLERANCE} apart, so what is served is not what was trained"
            )
        if keep:
            _stay(console, process, files, inference, management)


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    started = time.perf_counter()
    with console.status(what):
        yield
    console.print(f"{what}: {time.perf_counter() - started:.1f} s")


def _write(files: Files, embeddings: model.Embeddings, dense: model.DenseModel) -> None:
    files.model_store.mkdir(parents=True, exist_ok=True)
    files.embedding_config.write_text(clicks.embedding_config_text(), encoding="utf-8")
    by_dim: dict[int, list[tuple[NDArray[np.uint64], NDArray[np.float32]]]] = {}
    for group, (name, rows) in enumerate(embeddings.rows().items()):
        prefix = (group + 1) << (64 - _PREFIX_BITS)
        signs = id_kernels.add_prefix(np.arange(len(rows), dtype=np.uint64), prefix, _PREFIX_BITS)
        by_dim.setdefault(clicks.SLOTS[name].dim, []).append((signs, rows))
    write_persia_checkpoint(
        files.checkpoint,
        {
            dim: (np.concatenate([signs for signs, _ in parts]), np.concatenate([rows for _, rows in parts]))
            for dim, parts in by_dim.items()
        },
        num_shards=_SHARDS,
        num_internal_shards=4,
    )
    serialized = files.folder / f"{_MODEL}.pt"
    torch.jit.script(dense).save(serialized)  # type: ignore[no-untyped-call]
    package(
        model_name=_MODEL,
        version="1.0",
        serialized_file=serialized,
        export_path=files.model_store,
        force=True,
    )


@contextmanager
def _satrap_up(files: Files, tables: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`satrap up` on free ports, with its tables in `tables`; stopped, and waited for, at the end."""
    command = [sys.executable, "-P", "-m", "satrap.cli", "up", "--exit-with-parent", "--shards", str(_SHARDS)]
    command += ["--embedding-config", str(files.embedding_config), "--checkpoint", str(files.checkpoint)]
    command += ["--model-store", str(files.model_store), "--models", "all"]
    command += ["--grpc-inference-port", "0", "--grpc-management-port", "0"]
    command += ["--table-directory", str(tables), "--purge"]
    log = (files.folder / "satrap.log").open("w", encoding="utf-8")
    with (
        log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line:
                raise DemoFailedError(
                    f"satrap up did not start:\n{(files.folder / 'satrap.log').read_text(encoding='utf-8')}"
                )
            yield process, line
        finally:
            process.terminate()
            process.wait()


def _shared_memory() -> Path | None:
    """Where the demo's tables lie, beside those of real servers; None: the usual temporary directory."""
    folder = Path("/dev/shm")  # noqa: S108  a folder is made in it that only this user may enter
    return folder if os.access(folder, os.W_OK) else None


def _addresses(line: str) -> tuple[str, str]:
    """Inference and management address from the ready line."""
    words = line.replace(",", "").split()
    return words[words.index("(inference)") - 1], words[words.index("(management):") - 1]


def _send(address: str, samples: clicks.Clicks) -> Served:
    payloads = [samples.slice(i, i + _BATCH).batch() for i in range(0, len(samples), _BATCH)]
    predictions, seconds = [], []
    with InferenceClient(address) as client:
        for _ in range(3):  # the first forwards of a TorchScript model are its profiling runs
            client.infer(_MODEL, payloads[0])
        for payload in payloads:
            data = payload.to_bytes()
            started = time.perf_counter()
            predictions.append(client.infer(_MODEL, data))
            seconds.append(time.perf_counter() - started)
        parts = _parts(address, [payload.to_bytes() for payload in payloads])
    return Served(np.concatenate(predictions).astype(np.float32), np.array(seconds), parts)


def _parts(address: str, payloads: Sequence[bytes]) -> dict[str, float]:
    """Where the servers' time goes: they tell, to whoever asks with the metadata `satrap-timing`."""
    times: dict[str, list[float]] = {}
    with rpc.channel(address) as channel:
        stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
        for payload in payloads:
            request = inference_pb2.PredictionsRequest(model_name=_MODEL, input={"batch": payload})
            started = time.perf_counter()
            _, call = stub.Predictions.with_call(request, metadata=[("satrap-timing", "1")])
            times.setdefault("request", []).append((time.perf_counter() - started) * 1e3)
            told = dict(call.trailing_metadata())["satrap-timing"]
            for name, milliseconds in json.loads(told).items():
                times.setdefault(name, []).append(milliseconds)
    return {name: float(np.median(values)) for name, values in times.items()}


def _report(served: Served, served_auc: float, offline_auc: float) -> Table:
    table = Table(title="satrap demo", show_header=False)
    table.add_row("AUC served", f"{served_auc:.5f}")
    table.add_row("AUC offline", f"{offline_auc:.5f}")
    table.add_row("requests", f"{len(served.seconds):,} of {_BATCH} samples")
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        table.add_row(f"latency {name}", f"{np.percentile(served.seconds, share) * 1e3:.2f} ms")
    for name, milliseconds in _breakdown(served.parts).items():
        table.add_row(f"  {name}", f"{milliseconds:.2f} ms")
    return table


def _breakdown(parts: Mapping[str, float]) -> dict[str, float]:
    """The median request, outside in; each line is what the lines below it leave."""
    inner = {name: parts[name] for name in ("decode", "look up", "forward")}
    return {
        "client and gRPC": parts["request"] - parts["server"],
        "frontend, queue, way to the worker": parts["server"] - parts["handler"],
        **inner,
        "rest of the handler": parts["handler"] - sum(inner.values()),
    }


def _stay(
    console: Console, process: subprocess.Popen[str], files: Files, inference: str, management: str
) -> None:
    command = Path(sys.executable).with_name("satrap")
    text = f"""
Up until Ctrl-C. Try, in another terminal:

  # look at a batch's predictions
  {sys.executable} - <<'PY'
  from satrap.client import InferenceClient
  from satrap.demo.clicks import make_clicks
  with InferenceClient("{inference}") as client:
      print(client.infer("{_MODEL}", make_clicks(4, seed=1).batch()))
  PY

  # register a second version while it serves, and make it the default
  {command} archive --model-name {_MODEL} --version 2.0 --force \\
    --serialized-file {files.folder}/{_MODEL}.pt --export-path {files.model_store}
  {sys.executable} - <<'PY'
  from satrap.client import ManagementClient
  with ManagementClient("{management}") as client:
      print(client.register("{_MODEL}.mar", initial_workers=1, synchronous=True))
      print(client.set_default("{_MODEL}", "2.0"))
  PY

  # what the servers say
  tail -f {files.folder}/satrap.log
"""
    try:
        console.print(text, soft_wrap=True, markup=False)
        process.wait()
    except KeyboardInterrupt:
        console.print("stopping")
