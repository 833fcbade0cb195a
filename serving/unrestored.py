"""Versions that a start could not restore: they stay written down, so that the next start tries them again."""

import dataclasses

from satrap.serving.snapshot import Snapshot, VersionState

__all__ = ["Unrestored"]


class Unrestored:
    """What snapshots hold besides the registered versions."""

    def __init__(self) -> None:
        """Start empty."""
        self._states: dict[tuple[str, str], VersionState] = {}

    def add(self, model: str, state: VersionState) -> None:
        """Keep it written down."""
        self._states[model, state.version] = state

    def forget(self, model: str, version: str = "") -> bool:
        """The version of that name, or all of the model's, were registered or given up; whether there were any."""
        known = [key for key in self._states if key[0] == model and version in ("", key[1])]
        for key in known:
            del self._states[key]
        return bool(known)

    def default_chosen(self, model: str) -> None:
        """Somebody chose the model's default: none of these becomes it any more."""
        for key, state in self._states.items():
            if key[0] == model:
                self._states[key] = dataclasses.replace(state, is_default=False)

    def added_to(self, snapshot: Snapshot) -> Snapshot:
        """These behind the registered ones; a default among these counts, unless another was chosen meanwhile."""
        models = {model: list(versions) for model, versions in snapshot.models.items()}
        for (model, _), state in self._states.items():
            if state.is_default:
                models[model] = [
                    dataclasses.replace(each, is_default=False) for each in models.get(model, ())
                ]
            models.setdefault(model, []).append(state)
        return Snapshot(models)
