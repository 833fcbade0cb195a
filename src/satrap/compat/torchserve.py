"""What TorchServe's modules offer handlers besides classes: small functions under its names and arguments."""

import functools
import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from satrap.serving.context import Context

__all__ = [
    "deprecated",
    "emit_metrics",
    "get_yaml_config",
    "send_intermediate_predict_response",
]

log = logging.getLogger(__name__)


def send_intermediate_predict_response(
    ret: Any, req_id_map: Iterable[int], message: str, code: int, context: Context
) -> None:
    """Send a part of the answers before the last; the handler's return value is the last part.

    Args:
        ret: One value per request of the batch.
        req_id_map: `context.request_ids`: the places in the batch that get a part.
        message: Not used; clients of TorchServe never see it.
        code: The same.
        context: The handler's.

    Raises:
        RuntimeError: no batch is being answered.
    """
    context.send_intermediate(ret, req_id_map)


def emit_metrics(metrics: Iterable[object]) -> None:
    """Write metrics to the log. Those of `context.metrics` are reported without that."""
    for metric in metrics or ():
        log.info("[METRICS]%s", metric)


def get_yaml_config(yaml_file_path: Path | str) -> Any:
    """What a YAML file says.

    Raises:
        OSError: it cannot be read.
        yaml.YAMLError: it is not YAML.
    """
    return yaml.safe_load(Path(yaml_file_path).read_text("utf-8"))


def deprecated(
    version: str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Warn whenever the decorated function is called, and name its replacement."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def warning(*arguments: Any, **keywords: Any) -> Any:
            warnings.warn(
                f"{function.__name__} is deprecated in {version} and moved to {replacement}",
                klass,
                stacklevel=2,
            )
            return function(*arguments, **keywords)

        return warning

    return decorate
