"""satrap and TorchServe with small models: overhead, batching, start, memory, registration, replacement."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness import deployment
from harness.clients import ClientProcess, Job
from harness.contenders import OURS, Management, Running, Start, satrap_serving, torchserve_starter
from harness.files import Files
from harness.first_answer import registration_seconds, start_seconds
from harness.idle_memory import idle_megabytes
from harness.measure import Plan, Row, Side, WrongAnswerError, measure_row
from harness.predict import PredictCaller
from harness.replacement import Replacements, replace_under_load
from harness.rounds import Figures, measure_in_turns
from harness.small_models import IMAGE, NOOP, Questions, archive_name, write_store

__all__ = ["ECHO", "MEASURES", "PEER_NAME", "SmallPlan", "SmallResults", "compare_small"]

ECHO, PEER_NAME = "echo", "TorchServe"
MEASURES = ("noop", "batching", "start", "memory", "register", "replace")
"""What can be measured alone."""
FEW, MANY, CROWD = 1, 8, 16
"""Client threads: of the no-op model the first two, of batching the first and the last."""

_BATCH, _DELAY_MS = 8, 50


@dataclass(frozen=True)
class SmallPlan:
    """How long to measure."""

    series: Plan
    """Of the no-op model and of batching."""
    starts: int
    registrations: int
    replacements: int


@dataclass(frozen=True)
class SmallResults:
    """What was measured; None: was not asked for."""

    noop: Row | None = None
    batching: Row | None = None
    start: Figures | None = None
    memory: Figures | None = None
    register: Figures | None = None
    replace: Mapping[str, Replacements] = field(default_factory=dict)
    """By side."""


def compare_small(
    root: Path,
    seed: int,
    plan: SmallPlan,
    measures: Sequence[str],
    peer_environment: Path | None,
    on_progress: Callable[[str], None],
) -> SmallResults:
    """Write the archives under `root`, measure what is asked for; without `peer_environment` satrap alone.

    Raises:
        WrongAnswerError: a server answers something else than the model.
        ChildFailedError: a server does not start, or ends.
    """
    on_progress("making the small models")
    root.mkdir()
    store = root / "store"
    questions = write_store(store, seed)
    starts: dict[str, Start] = {OURS: satrap_serving}
    if peer_environment is not None:
        starts[PEER_NAME] = torchserve_starter(peer_environment)
    run = _Run(root, store, questions, starts, plan, on_progress)
    results: dict[str, object] = {}
    if {"noop", "batching", "register", "replace"} & set(measures):
        results |= run.with_servers(measures)
    if "start" in measures:
        results["start"] = run.starts()
    if "memory" in measures:
        results["memory"] = run.memory()
    return SmallResults(**results)  # type: ignore[arg-type]


@dataclass
class _Run:
    root: Path
    store: Path
    questions: dict[str, Questions]
    starters: Mapping[str, Start]
    plan: SmallPlan
    on_progress: Callable[[str], None]
    _directories: int = 0

    def with_servers(self, measures: Sequence[str]) -> dict[str, object]:
        """What is measured on servers that run side by side."""
        results: dict[str, object] = {}
        with ExitStack() as stack:
            self.on_progress("starting the servers")
            client = stack.enter_context(ClientProcess())
            servers = {
                name: stack.enter_context(start(self.store, self._directory(), {}))
                for name, start in self.starters.items()
            }
            for running in servers.values():
                with Management(running.management) as management:
                    management.register(archive_name(NOOP, "1.0"))
                    management.register(
                        archive_name(IMAGE, "1.0"), batch_size=_BATCH, max_batch_delay=_DELAY_MS
                    )
            if "noop" in measures:
                results["noop"] = self._noop(stack, client, servers)
            if "batching" in measures:
                sides = self._sides(client, servers, IMAGE)
                results["batching"] = measure_row(
                    f"a small CNN, batch_size {_BATCH}, max_batch_delay {_DELAY_MS} ms",
                    sides,
                    (FEW, CROWD),
                    self.plan.series,
                    client,
                    self.on_progress,
                )
            if "register" in measures:
                results["register"] = measure_in_turns(
                    "registration",
                    {
                        name: partial(registration_seconds, running, self.questions[NOOP])
                        for name, running in servers.items()
                    },
                    self.plan.registrations,
                    self.on_progress,
                )
            if "replace" in measures:
                results["replace"] = {
                    name: replace_under_load(
                        running, self.questions[IMAGE], self.plan.replacements, self.on_progress
                    )
                    for name, running in servers.items()
                }
        return results

    def starts(self) -> Figures:
        """Start to first prediction."""
        return measure_in_turns(
            "start",
            {
                name: lambda start=start: start_seconds(  # type: ignore[misc]
                    start, self.store, self._directory(), self.questions[NOOP]
                )
                for name, start in self.starters.items()
            },
            self.plan.starts,
            self.on_progress,
        )

    def memory(self) -> Figures:
        """Three idle models."""
        return measure_in_turns(
            "memory",
            {
                name: lambda start=start: idle_megabytes(  # type: ignore[misc]
                    start, self.store, self._directory(), self.questions
                )
                for name, start in self.starters.items()
            },
            self.plan.starts,
            self.on_progress,
        )

    def _noop(self, stack: ExitStack, client: ClientProcess, servers: Mapping[str, Running]) -> Row:
        sides = self._sides(client, servers, NOOP)
        echo, address = stack.enter_context(
            deployment.echo_server(Files(self.root), len(self.questions[NOOP].answer(0, "1.0")))
        )
        sides.append(Side(ECHO, [echo], PredictCaller, address, sides[0].payloads))
        return measure_row(
            "a model that does nothing, 116 KB",
            sides,
            (FEW, MANY),
            self.plan.series,
            client,
            self.on_progress,
        )

    def _sides(self, client: ClientProcess, servers: Mapping[str, Running], model: str) -> list[Side]:
        questions = self.questions[model]
        sides = [
            Side(name, [running.process], PredictCaller, running.inference, questions.payloads)
            for name, running in servers.items()
        ]
        for side in sides:
            answers = client.answers(Job(side.connect, side.address, side.payloads))
            if not questions.are_right(answers, "1.0"):
                raise WrongAnswerError(f"{side.name} answers {model} wrong: {answers[:3]}")
        return sides

    def _directory(self) -> Path:
        self._directories += 1
        return self.root / f"server-{self._directories}"
