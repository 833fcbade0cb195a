"""Runs the demo: every step prints what it did and how long it took."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from satrap.client import ManagementClient
from satrap.demo import clicks
from satrap.demo.files import MODEL, SHARDS, Files
from satrap.demo.learner import Learner
from satrap.demo.model import DenseModel, Trainer
from satrap.demo.report import HEADING, Round, report, round_line
from satrap.demo.scores import auc
from satrap.demo.served import Asker, Served
from satrap.errors import SatrapError
from satrap.trainer import TrainCtx

__all__ = ["run"]

_SEED = 20_26
_EARLY_CLICKS = 4_096
"""What the model has learned from when it is served first."""
_CLICKS_PER_SECOND = 8_000
_TRAINING_BATCH = 512
_HELD_OUT_SAMPLES = 25_600
_BATCH = 128
_TOLERANCE = 1e-3
_ROUND_SECONDS = 3.0
_SWITCH_SECONDS = 30.0


class DemoFailedError(SatrapError):
    """The demo's own check did not hold."""


def run(*, keep: bool, folder: Path | None, seconds: float) -> None:
    """Run all of it, training for `seconds` while it is served; with `keep` stay up until interrupted.

    Raises:
        DemoFailedError: the AUC served differs from the AUC computed offline, or did not rise.
    """
    console = Console(highlight=False)
    with ExitStack() as stack:
        root = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="satrap-demo-")))
        files = Files(root.resolve())
        count = max(2, round(seconds / _ROUND_SECONDS))
        streamed = int(_CLICKS_PER_SECOND * _ROUND_SECONDS * count * 2)
        with _step(console, f"making {_EARLY_CLICKS + streamed + _HELD_OUT_SAMPLES:,} clicks"):
            data = clicks.make_clicks(_EARLY_CLICKS + streamed + _HELD_OUT_SAMPLES, _SEED)
            held_out = data.slice(_EARLY_CLICKS + streamed, len(data))
        torch.set_num_threads(1)  # the servers want the rest of the machine
        trainer = Trainer(_SEED)
        with _step(console, f"training embeddings and a dense model on the first {_EARLY_CLICKS:,}"):
            for chunk in data.slice(0, _EARLY_CLICKS).chunks(_TRAINING_BATCH):
                trainer.learn(chunk)
        files.write_configs()
        ctx = stack.enter_context(TrainCtx(files.global_config, files.embedding_config))
        with _step(console, f"writing a checkpoint and an archive to {files.folder}"):
            for name, table in trainer.embeddings.tables.items():
                ctx.track(table, name)
            ctx.dump()
            _dump_dense(ctx, trainer.dense, files, "1.0", None)
        with _step(console, f"starting {SHARDS} embedding servers and serving"):
            tables = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=f"satrap-demo-{os.getpid()}-", dir=_shared_memory())
            )
            process, line = stack.enter_context(_satrap_up(files, Path(tables)))
        console.print(f"  {line}", soft_wrap=True)
        inference, management = _addresses(line)
        asker = stack.enter_context(Asker(inference, MODEL, held_out, _BATCH))
        asker.warm_up()
        stream = data.slice(_EARLY_CLICKS, _EARLY_CLICKS + streamed)
        console.print(
            f"training goes on with {_CLICKS_PER_SECOND:,} clicks a second; meanwhile {len(held_out):,} held-out "
            f"samples are sent again and again, in batches of {_BATCH} over gRPC:",
            soft_wrap=True,
        )
        learner = Learner(trainer, stream, batch=_TRAINING_BATCH, clicks_per_second=_CLICKS_PER_SECOND)
        with learner:
            rounds = _live(console, count, asker, learner, ctx, files, management)
        with _step(console, "ending the training; a last dense model waits for its rows"):
            offline = auc(held_out.labels, trainer.predict(held_out))
            _dump_dense(ctx, trainer.dense, files, "3.0", management)
            _await_default(management, "3.0")
            asker.warm_up()
            served = asker.ask()
        console.print(report(served, offline, rounds, packets=ctx.published, batch=_BATCH))
        _check(served, offline, rounds)
        if keep:
            _stay(console, process, files, inference, management)


def _live(
    console: Console, count: int, asker: Asker, learner: Learner, ctx: TrainCtx, files: Files, management: str
) -> list[Round]:
    """Look `count` times at what is served while training goes on; replace the dense model on the way."""
    console.print(f"\n{HEADING}")
    rounds: list[Round] = []
    started = time.monotonic()
    for number in range(1, count + 1):
        served = asker.ask()
        seconds = time.monotonic() - started
        learned = _EARLY_CLICKS + learner.learned
        rounds.append(Round(seconds, learned, ctx.published, _default_version(management), served))
        console.print(round_line(rounds[-1]))
        if number == count // 2:
            _dump_dense(ctx, learner.dense(), files, "2.0", management)
        left = started + number * _ROUND_SECONDS - time.monotonic()
        if left > 0:
            time.sleep(left)  # the table's pace; nothing is waited for
    console.print()
    return rounds


def _check(served: Served, offline: float, rounds: Sequence[Round]) -> None:
    if abs(served.auc - offline) > _TOLERANCE:
        raise DemoFailedError(
            f"the AUC served is {served.auc:.5f}, offline it is {offline:.5f}: "
            f"more than {_TOLERANCE} apart, so what is served is not what was trained"
        )
    if rounds[-1].served.auc <= rounds[0].served.auc:
        raise DemoFailedError(
            f"the AUC served went from {rounds[0].served.auc:.5f} to {rounds[-1].served.auc:.5f} while training went "
            "on: it should have risen"
        )


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    started = time.perf_counter()
    with console.status(what):
        yield
    console.print(f"{what}: {time.perf_counter() - started:.1f} s")


def _dump_dense(ctx: TrainCtx, dense: DenseModel, files: Files, version: str, management: str | None) -> None:
    """Write a version's archive, and hand it to the servers if there are any yet."""
    ctx.dump_dense(
        dense,
        files.archive(version),
        model_name=MODEL,
        version=version,
        register=management,
        set_default=management is not None,
    )


def _default_version(management: str) -> str:
    with ManagementClient(management) as client:
        return client.describe(MODEL)[0].version


def _await_default(management: str, version: str) -> None:
    """Wait until a version that may have to wait for its rows answers those who name none.

    Raises:
        DemoFailedError: it takes too long.
    """
    until = time.monotonic() + _SWITCH_SECONDS
    while _default_version(management) != version:
        if time.monotonic() > until:
            raise DemoFailedError(f"version {version} did not become the default in {_SWITCH_SECONDS:.0f} s")
        time.sleep(0.05)


@contextmanager
def _satrap_up(files: Files, tables: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`satrap up` on free ports, with its tables in `tables`; stopped, and waited for, at the end."""
    command = [sys.executable, "-P", "-m", "satrap.cli", "up", "--exit-with-parent", "--shards", str(SHARDS)]
    command += [
        "--global-config",
        str(files.global_config),
        "--embedding-config",
        str(files.embedding_config),
    ]
    command += ["--model-store", str(files.model_store), "--models", files.archive("1.0").name]
    for port in ("grpc-inference", "grpc-management", "rest-inference", "rest-management", "metrics"):
        command += [f"--{port}-port", "0"]
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
    words = line.replace(",", "").replace("):", ")").split()
    return words[words.index("(inference)") - 1], words[words.index("(management)") - 1]


def _stay(
    console: Console, process: subprocess.Popen[str], files: Files, inference: str, management: str
) -> None:
    command = Path(sys.executable).with_name("satrap")
    newest = max(files.packets.glob("*.json"), default=files.packets)
    text = f"""
Up until Ctrl-C. Try, in another terminal:

  # look at a batch's predictions
  {sys.executable} - <<'PY'
  from satrap.client import InferenceClient
  from satrap.demo.clicks import make_clicks
  with InferenceClient("{inference}") as client:
      print(client.infer("{MODEL}", make_clicks(4, seed=1).batch()))
  PY

  # what the trainer published: a packet, and the checkpoint
  {command} inspect {newest}
  {command} inspect {files.checkpoints}

  # go back to the second dense model while it serves
  {sys.executable} - <<'PY'
  from satrap.client import ManagementClient
  with ManagementClient("{management}") as client:
      print(client.set_default("{MODEL}", "2.0"))
  PY

  # what the servers say
  tail -f {files.folder}/satrap.log
"""
    try:
        console.print(text, soft_wrap=True, markup=False)
        process.wait()
    except KeyboardInterrupt:
        console.print("stopping")
