"""Class names of a classifier: the `index_to_name.json` of an archive."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from satrap.errors import ArchiveError

__all__ = ["load_label_mapping", "map_class_to_label"]


def load_label_mapping(path: Path | str) -> dict[str, str] | None:
    """Read the mapping of class index (as text) to label; None when there is no such file.

    Three shapes are in use: `{"0": "cat"}`, `{"0": ["n01", "cat"]}` (the last name counts), and
    `{"object_type_names": ["cat", "dog"]}` (the position counts).

    Raises:
        ArchiveError: The file is not JSON, or has another shape.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        mapping = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ArchiveError(path.name, f"is not JSON: {error}") from error
    if not isinstance(mapping, dict):
        raise ArchiveError(path.name, "must be an object of class indices and labels")
    names = mapping.get("object_type_names")
    if isinstance(names, list):
        return {str(index): str(name) for index, name in enumerate(names)}
    return {index: _label(path, index, value) for index, value in mapping.items()}


def _label(path: Path, index: str, value: Any) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str):
        raise ArchiveError(
            path.name, f"the label of class {index} must be text or a list of texts, not {value!r}"
        )
    return value


def map_class_to_label(
    probs: Sequence[Sequence[Any]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """Name the probabilities: for each sample a dict of label (or class index as text) to probability.

    Args:
        probs: For each sample, one probability (or box) per class.
        mapping: Class index as text to label.
        lbl_classes: For each sample the class of each probability; by default its position.
    """
    classes = lbl_classes if lbl_classes is not None else [list(range(len(sample))) for sample in probs]
    labels = mapping if mapping is not None else {}
    return [
        {
            labels.get(str(index), str(index)): probability
            for index, probability in zip(indices, sample, strict=False)
        }
        for indices, sample in zip(classes, probs, strict=False)
    ]
