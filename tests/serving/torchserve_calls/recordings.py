"""What the real server answered, by scenario: one JSON file each."""

import json
from collections.abc import Mapping
from pathlib import Path

from torchserve_calls.answer import Answer, from_json, to_json

__all__ = ["FOLDER", "read_recording", "write_recording"]

FOLDER = Path(__file__).resolve().parents[2] / "data" / "torchserve"


def read_recording(scenario: str) -> dict[str, Answer]:
    """Answers by the calls' names, in the calls' order."""
    document = json.loads((FOLDER / f"{scenario}.json").read_text())
    return {name: from_json(answer) for name, answer in document.items()}


def write_recording(scenario: str, answers: Mapping[str, Answer]) -> None:
    """The opposite of `read_recording`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    document = {name: to_json(answer) for name, answer in answers.items()}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (FOLDER / f"{scenario}.json").write_text(f"{text}\n")
