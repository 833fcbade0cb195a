"""The flags of a serving process, as `satrap serving`, `satrap up` and `satrap torchserve` are given them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from satrap.serving.listening import Address, Listening

__all__ = ["ServingFlags"]

_PORTS = {
    "inference": "grpc_inference_port",
    "management": "grpc_management_port",
    "REST inference": "rest_inference_port",
    "REST management": "rest_management_port",
    "metrics": "metrics_port",
}
"""By the names of serving's ready line."""

_SWITCHES = {
    "token_auth": ("--disable-token-auth", "--token-auth"),
    "model_api": ("--disable-model-api", "--enable-model-api"),
}
"""Flags that say yes or no."""


@dataclass(frozen=True, kw_only=True)
class ServingFlags:
    """What the command line says; None: nothing."""

    model_store: Path | None = None
    models: str | None = None
    host: str | None = None
    grpc_inference_port: int | None = None
    grpc_management_port: int | None = None
    rest_inference_port: int | None = None
    rest_management_port: int | None = None
    metrics_port: int | None = None
    ncs: bool = False
    token_auth: bool | None = None
    model_api: bool | None = None
    insecure: bool = False
    global_config: Path | None = None
    embedding_config: Path | None = None
    shards: str | None = None

    def with_ports(self, ports: Mapping[str, int]) -> "ServingFlags":
        """The same with these ports, by the names of a ready line."""
        named: Mapping[str, Any] = {_PORTS[name]: port for name, port in ports.items()}
        return dataclasses.replace(self, **named)

    def words(self) -> list[str]:
        """The flags as `satrap serving` takes them."""
        words: list[str] = []
        for name, value in vars(self).items():
            flag = f"--{name.replace('_', '-')}"
            if name in _SWITCHES:
                if value is not None:
                    words.append(_SWITCHES[name][value])
            elif value is True:
                words.append(flag)
            elif value is not None and value is not False:
                words += [flag, str(value)]
        return words

    def listening(self, base: "Listening") -> "Listening":
        """The same addresses, with the hosts and ports that were given."""

        def moved(address: "Address", port: int | None) -> "Address":
            there = dataclasses.replace(address, host=self.host or address.host)
            return there if port is None else dataclasses.replace(there, port=port, socket_path="")

        return dataclasses.replace(
            base,
            grpc_inference=moved(base.grpc_inference, self.grpc_inference_port),
            grpc_management=moved(base.grpc_management, self.grpc_management_port),
            rest_inference=base.rest_inference and moved(base.rest_inference, self.rest_inference_port),
            rest_management=base.rest_management and moved(base.rest_management, self.rest_management_port),
            metrics=base.metrics and moved(base.metrics, self.metrics_port),
        )
