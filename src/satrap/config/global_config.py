"""`global_config.yaml`: PERSIA's sections as they are, and satrap's own.

The file of that name at the root of the repository shows every key with its unit, its default, and when to
change it.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from satrap.config import yaml12
from satrap.config.validation import PersiaSection, Section, Warn, validate
from satrap.tls import Tls

__all__ = [
    "CheckpointingConfig",
    "CommonConfig",
    "CorsConfig",
    "EmbeddingServerConfig",
    "EmbeddingWorkerConfig",
    "GlobalConfig",
    "GuardrailsConfig",
    "InferConfig",
    "InternalTlsConfig",
    "MetricsConfig",
    "MiddlewareConfig",
    "ModelConfig",
    "ParameterServerConfig",
    "ServingConfig",
    "TlsConfig",
    "TokenConfig",
    "TrainerConfig",
    "UpdatesConfig",
    "VersionConfig",
    "load_global_config",
]

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
NonNegativeSeconds = Annotated[float, Field(ge=0)]


def _folder_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", value):
        raise ValueError(
            f"{value!r} cannot name a folder: use up to 64 letters, digits, '.', '_' and '-', not beginning with "
            "'.' or '-'"
        )
    return value


FolderName = Annotated[str, AfterValidator(_folder_name)]


def _absolute(value: str) -> str:
    if not Path(value).is_absolute():
        raise ValueError(f"{value!r} is no absolute path")
    return value


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


def _regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from error
    return value


Pattern = Annotated[str, AfterValidator(_regular_expression)]


class MetricsConfig(PersiaSection):
    """PERSIA's metrics push: read, not used."""

    enable_metrics: bool = True
    job_name: str = "persia_default_jobname"
    push_interval_seconds: Count = 10


class InferConfig(PersiaSection):
    """Where the embedding servers are, and which checkpoint they serve."""

    servers: list[str] = Field(default_factory=list)
    embedding_checkpoint: str = ""


class CheckpointingConfig(PersiaSection):
    """PERSIA's checkpoint threads: read, not used (`embedding_server.load_threads` is ours)."""

    num_workers: Positive = 4


class CommonConfig(PersiaSection):
    """What PERSIA's processes have in common."""

    metrics_config: MetricsConfig = MetricsConfig()
    job_type: Literal["Train", "Eval", "Infer"] = "Train"
    infer_config: InferConfig = InferConfig()
    checkpointing_config: CheckpointingConfig = CheckpointingConfig()


class EmbeddingWorkerConfig(PersiaSection):
    """PERSIA's worker: read, not used (it configures training)."""

    forward_buffer_size: Count = 1000
    buffered_data_expired_sec: Count = 1000


class ParameterServerConfig(PersiaSection):
    """PERSIA's embedding server. Capacity and internal shards are read, not used: tables grow as needed."""

    capacity: Count = 1_000_000_000
    num_hashmap_internal_shards: Count = 100
    enable_incremental_update: bool = False
    incremental_buffer_size: Count = 1_000_000
    incremental_dir: str = "/workspace/incremental_dir/"
    storage: Literal["local", "ceph", "hdfs"] = "local"
    incremental_channel_capacity: Count = 1000


class EmbeddingServerConfig(Section):
    """satrap's embedding server."""

    row_dtype: Literal["float32", "float16"] = "float32"
    table_directory: AbsolutePath = "/dev/shm/satrap"  # noqa: S108  shared on purpose; each user has a folder there
    namespace: FolderName = "default"
    table_group: str | None = None
    metrics_port: Port | None = None
    load_threads: Positive = 2
    rpc_threads: Positive = 4


class GuardrailsConfig(Section):
    """What a packet's rows must be like before they become visible. `None`: not looked at."""

    max_norm: PositiveNumber | None = None
    max_norm_over_checkpoint: PositiveNumber | None = None
    max_changed_share: Share | None = None


class UpdatesConfig(Section):
    """How an embedding server follows a trainer."""

    directory: str = ""
    poll_seconds: Seconds = 1.0
    checkpoint_switch: Literal["beside", "in_place"] = "beside"
    quarantine: Literal["hold", "skip"] = "hold"
    guardrails: GuardrailsConfig = GuardrailsConfig()
    gap_alarm_seconds: NonNegativeSeconds = 5.0
    ready_with_gap: bool = True
    max_staleness_seconds: Seconds | None = None
    undo_packets: Count = 16
    persia_replay_margin_seconds: Count = 600
    persia_unmarked_seconds: NonNegativeSeconds = 60.0


class TrainerConfig(Section):
    """How a training job publishes."""

    stream: FolderName = "default"
    num_shards: Positive | None = None
    row_dtype: Literal["float32", "float16"] = "float32"
    incremental_flush_seconds: Seconds = 10.0
    waiting_packets: Positive = 4


class MiddlewareConfig(Section):
    """satrap's middleware, in a worker and as a server."""

    lookup_timeout_seconds: Seconds = 5.0
    startup_timeout_seconds: Seconds = 60.0
    local_lookup: bool = True
    orphan_grace_seconds: NonNegativeSeconds = 5.0
    rpc_threads: Positive = 4


class TlsConfig(Section):
    """Files of one process: its certificate and key, and who signs the certificates of its peers.

    Certificate and key are PEM files, or a PKCS12 keystore. Empty: none. With `client_authority` a server asks its
    clients for a certificate that this authority has signed.
    """

    certificate: str = ""
    private_key: str = ""
    keystore: str = ""
    keystore_password: str = Field(default="", repr=False)
    client_authority: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.certificate) != bool(self.private_key):
            raise ValueError("certificate and private_key go together: name both, or none")
        if self.certificate and self.keystore:
            raise ValueError("certificate and keystore: name one of them")
        if self.client_authority and not (self.certificate or self.keystore):
            raise ValueError(
                "client_authority without certificate and private_key, or keystore: there is no TLS without them"
            )
        return self


class InternalTlsConfig(Section):
    """TLS with certificates on both sides between satrap's own processes; all three or none."""

    certificate: str = ""
    private_key: str = ""
    authority: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len({bool(self.certificate), bool(self.private_key), bool(self.authority)}) > 1:
            raise ValueError("certificate, private_key and authority go together: name all three, or none")
        return self

    @property
    def files(self) -> Tls | None:
        """What channels and servers between our processes take; None: they are not encrypted."""
        return Tls(self.certificate, self.private_key, self.authority) if self.certificate else None


class TokenConfig(Section):
    """Token authorization as TorchServe's. `enabled` None: off on a loopback address, on elsewhere."""

    enabled: bool | None = None
    key_file: str = "key_file.json"
    expiration_minutes: PositiveNumber = 60


class CorsConfig(Section):
    """What browsers of other sites may do with the REST APIs: the three headers' values; empty: not sent."""

    allowed_origin: str = ""
    allowed_methods: str = ""
    allowed_headers: str = ""


class ServingConfig(Section):
    """satrap's serving: the frontend and its workers."""

    default_workers_per_model: Count = 0
    startup_workers_per_model: Positive = 1
    threads_per_worker: Positive = 1
    job_queue_size: Positive = 100
    default_response_timeout_seconds: Positive = 120
    default_startup_timeout_seconds: Positive = 120
    unregister_model_timeout_seconds: Positive = 120
    drain_seconds: Count = 30
    max_request_bytes: Positive = 6_553_500
    max_response_bytes: Positive = 6_553_500
    max_archive_bytes: Positive = 16 * 1024**3
    max_archive_files: Positive = 10_000
    compat: Literal["satrap", "installed"] = "satrap"
    grpc_server: Literal["lean", "grpcio"] = "lean"
    model_api: bool = True
    allowed_urls: list[Pattern] = Field(default_factory=list)
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    gpus: Count | None = None
    install_requirements: bool = True
    install_timeout_seconds: Positive = 600
    environments_directory: str | None = None
    hidden_environment: list[Pattern] = Field(default_factory=list)
    snapshot_directory: str | None = None
    metrics_mode: Literal["prometheus", "legacy", "log"] = "prometheus"
    metrics_config: str = ""
    metrics_auto_detect: bool = False
    system_metrics: bool = True
    system_metrics_seconds: Positive = 60
    access_log: bool = False
    token: TokenConfig = TokenConfig()
    tls: TlsConfig = TlsConfig()
    cors: CorsConfig = CorsConfig()


class VersionConfig(Section):
    """Settings of one version. `None`: what the archive or TorchServe's default says."""

    workers: Positive | None = None
    max_workers: Positive | None = None
    batch_size: Positive | None = None
    max_batch_delay_ms: Count | None = None
    response_timeout_seconds: Positive | None = None
    startup_timeout_seconds: Positive | None = None


class ModelConfig(VersionConfig):
    """Settings of one model, for all versions; `versions` has what differs for one."""

    default_version: Literal["explicit", "newest"] = "explicit"
    versions: dict[str, VersionConfig] = Field(default_factory=dict)

    def of(self, version: str) -> VersionConfig:
        """What counts for that version."""
        own = self.versions.get(version, VersionConfig())
        return VersionConfig(
            **{
                name: value if (value := getattr(own, name)) is not None else getattr(self, name)
                for name in VersionConfig.model_fields
            }
        )


class GlobalConfig(PersiaSection):
    """The whole file."""

    common_config: CommonConfig = CommonConfig()
    embedding_worker_config: EmbeddingWorkerConfig = EmbeddingWorkerConfig()
    embedding_parameter_server_config: ParameterServerConfig = ParameterServerConfig()
    embedding_server: EmbeddingServerConfig = EmbeddingServerConfig()
    updates: UpdatesConfig = UpdatesConfig()
    trainer: TrainerConfig = TrainerConfig()
    middleware: MiddlewareConfig = MiddlewareConfig()
    serving: ServingConfig = ServingConfig()
    internal_tls: InternalTlsConfig = InternalTlsConfig()
    models: dict[str, ModelConfig] = Field(default_factory=dict)

    @property
    def packet_directory(self) -> str:
        """Where packets are, for who publishes and who follows: our key, otherwise PERSIA's; empty: nowhere."""
        persia = self.embedding_parameter_server_config
        return self.updates.directory or (persia.incremental_dir if persia.enable_incremental_update else "")


def load_global_config(path: Path | str, warn: Warn) -> GlobalConfig:
    """Read and check the file; `warn` gets a sentence for each unknown key of PERSIA's sections.

    Raises:
        ConfigError: naming the file, the key and the line.
    """
    return validate(GlobalConfig, yaml12.load(Path(path)), warn)
