"""What one serving process is told: where it listens, what it serves, and the configuration's part for it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from satrap.config.global_config import ModelConfig, ServingConfig
from satrap.serving.listening import Listening
from satrap.tls import Tls

__all__ = ["LOCAL_SERVICE_VARIABLES", "ServingSettings"]

LOCAL_SERVICE_VARIABLES = ("MIDDLEWARE_SERVICE", "EMBEDDING_WORKER_SERVICE")
"""Where PERSIA's handlers look for a middleware; `satrap:local` is the library in the worker itself."""


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Everything that `satrap.serving.server.run` needs.

    Attributes:
        config: section `serving` of the global configuration.
        models_config: section `models`: settings by model name.
        model_store: the only directory that archives are taken from; None refuses every registration.
        startup_models: comma-separated `a.mar`, `name=a.mar`, or `all`; ready before the ready line is printed.
        listening: the addresses to listen on. The caller has checked that it may.
        restore: without startup models, register what the last snapshot says (TorchServe's `--ncs` says no).
        write_snapshots: write down what is registered (TorchServe's `--ncs` says no).
        model_snapshot: TorchServe's key of that name, a JSON document: what to register in place of startup models.
        snapshot_origin: the file that it is in, for messages.
        properties: TorchServe's configuration that this one was made of, for snapshots.
        strict_startup: a startup model that was named and cannot be served ends the start; otherwise it is logged, as
            in TorchServe.
        answers_while_loading: calls are accepted when the startup models are registered, and predictions wait until
            they are ready, as in TorchServe; otherwise when they are ready.
        token_authorization: calls of the inference and management APIs need their token.
        tokens_offered: keys are written down for clients that read them, though no call needs one.
        global_config: the file, for the middleware in workers.
        embedding_config: the file, for the middleware in workers.
        shards: addresses of the embedding servers, comma-separated; None takes `infer_config.servers`.
        shard_addresses: the same servers, in order, for the frontend itself.
        shard_tls: what the frontend shows to them, and whom it believes; None: the way there is not encrypted.
    """

    config: ServingConfig = field(default_factory=ServingConfig)
    models_config: Mapping[str, ModelConfig] = field(default_factory=dict)
    model_store: Path | None = None
    startup_models: str | None = None
    listening: Listening = field(default_factory=Listening)
    restore: bool = True
    write_snapshots: bool = True
    model_snapshot: str | None = None
    snapshot_origin: str = "config.properties"
    properties: Mapping[str, str] = field(default_factory=dict)
    strict_startup: bool = True
    answers_while_loading: bool = False
    token_authorization: bool = False
    tokens_offered: bool = False
    global_config: Path | None = None
    embedding_config: Path | None = None
    shards: str | None = None
    shard_addresses: Sequence[str] = ()
    shard_tls: Tls | None = None

    def worker_environment(self) -> dict[str, str]:
        """The variables that a worker gets on top of this process's own.

        What was given here wins over the environment; the services' addresses are defaults.
        """
        variables = {name: os.environ.get(name) or "satrap:local" for name in LOCAL_SERVICE_VARIABLES}
        if self.global_config is not None:
            variables["PERSIA_GLOBAL_CONFIG"] = str(self.global_config.absolute())
        if self.embedding_config is not None:
            variables["PERSIA_EMBEDDING_CONFIG"] = str(self.embedding_config.absolute())
        if self.shards is not None:
            variables["SATRAP_SHARDS"] = self.shards
        return variables
