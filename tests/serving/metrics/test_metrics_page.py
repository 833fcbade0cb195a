"""docs/metrics.md names what there is."""

import re
from pathlib import Path

from satrap.serving.metrics.server_metrics import ServerMetrics
from satrap.serving.roster import WorkerState

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()


def test_every_metric_and_no_other() -> None:
    families = {family.name: family.kind for family in ServerMetrics(hostname="vm").registry}
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram)", PAGE, re.MULTILINE)
    assert dict(rows) == families
    assert len(rows) == len(families)


def test_every_state_and_mode() -> None:
    for state in WorkerState:
        assert f"`{state.lower()}`" in PAGE
    for mode in ("prometheus", "legacy", "log"):
        assert f"| `{mode}`" in PAGE
