"""Where satrap's ready line says that it listens."""

import re
from pathlib import Path

from torchserve_calls.places import Places
from torchserve_calls.send import Addresses

__all__ = ["addresses"]


def addresses(line: str, places: Places, key_file: Path) -> Addresses:
    """The addresses of all five APIs."""
    by_name = {name: address for address, name in re.findall(r"(\S+:\d+) \(([^)]+)\)", line)}
    return Addresses(
        rest={
            "inference": by_name["REST inference"],
            "management": by_name["REST management"],
            "metrics": by_name["metrics"],
        },
        grpc_inference=by_name["inference"],
        grpc_management=by_name["management"],
        key_file=key_file,
        places=places.words,
    )
