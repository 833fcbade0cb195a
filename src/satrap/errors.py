"""Every error that satrap raises on purpose.

    SatrapError                        INTERNAL             500
    ├── InvalidInputError              INVALID_ARGUMENT     400
    │   ├── ConfigError                a configuration file: path, key, line
    │   ├── BatchError                 batch bytes or what they ask for: feature, offset
    │   │   ├── BatchDecodeError       the bytes are not a batch
    │   │   ├── UnsupportedBatchError  a batch that inference cannot answer (gradients, remote references)
    │   │   └── UnknownFeatureError    a feature that the embedding config lacks
    │   ├── ArchiveError               a model archive: archive, reason
    │   │   └── RequirementsError      the packages of its requirements file cannot be installed: model, log
    │   ├── DownloadError              an archive could not be downloaded: url, reason
    │   ├── CheckpointError            a checkpoint: path, reason
    │   │   ├── CheckpointIncompleteError   a marker or a file is missing
    │   │   └── CheckpointCorruptError      a file is not what it says: offset
    │   └── UpdateError                a packet or a manifest: code, path, reason
    │       ├── ManifestError          bad_manifest: the manifest is not what the format says
    │       ├── FormatVersionError     format_version: written by a later format
    │       ├── PathEscapeError        path_escape: a file outside the manifest's directory
    │       ├── MissingFileError       missing_file: a file that the manifest names is not there
    │       ├── TruncatedFileError     truncated_file: a file is shorter or longer than the manifest says
    │       ├── ChecksumError          bad_checksum: a file has other bytes than the manifest says
    │       ├── RowFileError           bad_row_file: a file is not the Arrow file that the format describes
    │       ├── RowCountError          wrong_row_count: a file has other rows than the manifest says
    │       ├── MisroutedSignError     misrouted_sign: a row of another shard than the file says
    │       ├── OrdinalRangeError      ordinal_range: 2^32 or more
    │       ├── ForkedStreamError      forked_stream: two manifests of one sequence
    │       ├── ForeignConfigError     foreign_config: a packet of another embedding config, or of a dim it lacks
    │       ├── GuardrailError         guardrail: rows that the guardrails refuse
    │       └── PersiaPacketError      bad_persia_packet: a .inc file does not parse: offset
    ├── NotFoundError                  NOT_FOUND            404
    │   ├── ModelNotFoundError         model
    │   ├── ModelVersionNotFoundError  model, version
    │   ├── ArchiveNotFoundError       an archive that the model store does not offer: url
    │   └── ResourceNotFoundError      a path that the REST API does not have
    ├── MethodNotAllowedError          UNIMPLEMENTED        405
    │   └── ModelApiDisabledError      PERMISSION_DENIED    405
    ├── UnsupportedError               UNIMPLEMENTED        501
    ├── InvalidTokenError              PERMISSION_DENIED    400
    ├── RequestTooLargeError           RESOURCE_EXHAUSTED   413: limit
    ├── ConflictError                  ABORTED              409
    │   ├── ArchiveExistsError         an archive of that name is in the store: name
    │   ├── VersionRegisteredError     model, version
    │   └── DefaultVersionError        PERMISSION_DENIED    403: model
    ├── ShardMismatchError             FAILED_PRECONDITION  412: expected, actual
    ├── UnavailableError               UNAVAILABLE          503
    │   ├── ShardUnavailableError      replica_index, address, reason
    │   ├── MiddlewareUnavailableError addresses, reason
    │   ├── NoWorkerError              model, version
    │   ├── NoDescribeWorkerError      model
    │   ├── NoDescriptionError         a handler could not describe itself: model, reason
    │   └── VersionWaitsError          model, version, sequence
    ├── OverloadedError                RESOURCE_EXHAUSTED   503: what, limit
    ├── NoSpaceError                   RESOURCE_EXHAUSTED   507: reason
    ├── StorageError                   UNAVAILABLE          503: url, reason
    ├── DeadlineError                  DEADLINE_EXCEEDED    504
    ├── WorkerError                    INTERNAL             500
    │   ├── WorkerStartError           model, version, reason
    │   └── WorkerDiedError            model, version
    ├── TableFolderError               INTERNAL             500: path, reason
    │   └── TableHeldError             ABORTED              409: path, pid
    ├── UnregisterTimeoutError     FAILED_PRECONDITION  408: model
    ├── RemoteError                    as the server said: status, details
    └── UnexpectedAnswerError          an answer that is not what the API promises

Caller mistakes are `InvalidInputError`; weather is the rest. Facts are attributes, the sentence is built from
them. `grpc_status` and `http_status` say how an error travels; lower-layer errors (native decoders, grpc, OS)
become one of these where they enter: `satrap.batch`, `satrap.formats`, `satrap.storage`,
`satrap.rpc`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import grpc

__all__ = [
    "ArchiveError",
    "ArchiveExistsError",
    "ArchiveNotFoundError",
    "BatchDecodeError",
    "BatchError",
    "CheckpointCorruptError",
    "CheckpointError",
    "CheckpointIncompleteError",
    "ChecksumError",
    "ConfigError",
    "ConflictError",
    "DeadlineError",
    "DefaultVersionError",
    "DownloadError",
    "ForeignConfigError",
    "ForkedStreamError",
    "FormatVersionError",
    "GuardrailError",
    "InvalidInputError",
    "InvalidTokenError",
    "ManifestError",
    "MethodNotAllowedError",
    "MiddlewareUnavailableError",
    "MisroutedSignError",
    "MissingFileError",
    "ModelApiDisabledError",
    "ModelNotFoundError",
    "ModelVersionNotFoundError",
    "NoDescribeWorkerError",
    "NoDescriptionError",
    "NoSpaceError",
    "NoWorkerError",
    "NotFoundError",
    "OrdinalRangeError",
    "OverloadedError",
    "PathEscapeError",
    "PersiaPacketError",
    "RemoteError",
    "RequestTooLargeError",
    "RequirementsError",
    "ResourceNotFoundError",
    "RowCountError",
    "RowFileError",
    "SatrapError",
    "ShardMismatchError",
    "ShardUnavailableError",
    "StorageError",
    "TableFolderError",
    "TableHeldError",
    "TruncatedFileError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "UnknownFeatureError",
    "UnregisterTimeoutError",
    "UnsupportedBatchError",
    "UnsupportedError",
    "UpdateError",
    "VersionRegisteredError",
    "VersionWaitsError",
    "WorkerDiedError",
    "WorkerError",
    "WorkerStartError",
]


class SatrapError(Exception):
    """The root: whatever satrap raises on purpose."""

    grpc_status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500


class InvalidInputError(SatrapError):
    """The caller gave something that cannot be used; the same call fails again."""

    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400


class ConfigError(InvalidInputError):
    """A configuration file is wrong at `key` (dotted path), on `line` (1-based, 0 if unknown) of `path`."""

    def __init__(self, path: Path | str, key: str, line: int, reason: str) -> None:
        """Build the sentence `path:line: key: reason`."""
        self.path, self.key, self.line, self.reason = Path(path), key, line, reason
        place = f"{path}:{line}" if line else f"{path}"
        super().__init__(f"{place}: {key}: {reason}" if key else f"{place}: {reason}")


class BatchError(InvalidInputError):
    """A batch cannot be answered. `feature` is empty and `offset` is None where they do not apply."""

    def __init__(self, reason: str, *, feature: str = "", offset: int | None = None) -> None:
        """Build the sentence from the reason, the feature and the byte offset."""
        self.reason, self.feature, self.offset = reason, feature, offset
        where = f"feature {feature!r}: " if feature else ""
        place = f" (at byte {offset})" if offset is not None else ""
        super().__init__(f"bad batch: {where}{reason}{place}")


class BatchDecodeError(BatchError):
    """The bytes are not a batch: cut, inflated, or inconsistent."""


class UnsupportedBatchError(BatchError):
    """A well-formed batch that inference cannot answer."""


class UnknownFeatureError(BatchError):
    """A feature that `slots_config` of the embedding config does not name."""


class ArchiveError(InvalidInputError):
    """A model archive is refused."""

    def __init__(self, archive: str, reason: str) -> None:
        """Build the sentence `archive: reason`."""
        self.archive, self.reason = archive, reason
        super().__init__(f"{archive}: {reason}")


class RequirementsError(ArchiveError):
    """The packages of an archive's requirements file cannot be had. The sentence begins as TorchServe's."""

    def __init__(self, archive: str, model: str, reason: str, log: str = "") -> None:
        """Build the sentence; `log` is the end of what the installer wrote, and follows it."""
        self.model, self.log = model, log
        sentence = f"Custom pip package installation failed for model {model}: {reason}"
        super().__init__(archive, f"{sentence}\n{log}" if log else sentence)


class DownloadError(InvalidInputError):
    """An archive could not be downloaded; nothing of it stays. The sentence begins as TorchServe's."""

    def __init__(self, url: str, reason: str) -> None:
        """Build TorchServe's sentence, with the reason behind it."""
        self.url, self.reason = url, reason
        super().__init__(f"Failed to download archive from: {url}: {reason}")


class CheckpointError(InvalidInputError):
    """A checkpoint is refused; what was served before goes on."""

    def __init__(self, path: Path | str, reason: str) -> None:
        """Build the sentence `path: reason`."""
        self.path, self.reason = Path(path), reason
        super().__init__(f"{path}: {reason}")


class CheckpointIncompleteError(CheckpointError):
    """A marker or a file that has to be there is missing."""


class CheckpointCorruptError(CheckpointError):
    """A file is not what it says it is; `offset` is the byte where that was seen."""

    def __init__(self, path: Path | str, reason: str, offset: int) -> None:
        """Build the sentence `path: reason (at byte offset)`."""
        super().__init__(path, f"{reason} (at byte {offset})")
        self.offset = offset


class UpdateError(InvalidInputError):
    """A packet, a checkpoint in our format, or a manifest is refused; no row was changed.

    `code` is the word that status, metrics, alarms and quarantine records use for it.
    """

    code: ClassVar[str] = "bad_update"

    def __init__(self, path: Path | str, reason: str) -> None:
        """Build the sentence `path: reason`. `path` may be a URL."""
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}")


class ManifestError(UpdateError):
    """The manifest is not what the format says."""

    code = "bad_manifest"


class FormatVersionError(UpdateError):
    """Written by a later version of the format than this one reads."""

    code = "format_version"


class PathEscapeError(UpdateError):
    """A manifest names a file outside its own directory, by its path or by a symbolic link."""

    code = "path_escape"


class MissingFileError(UpdateError):
    """A file that the manifest names is not there."""

    code = "missing_file"


class TruncatedFileError(UpdateError):
    """A file has fewer or more bytes than the manifest says."""

    code = "truncated_file"


class ChecksumError(UpdateError):
    """A file has other bytes than the manifest says."""

    code = "bad_checksum"


class RowFileError(UpdateError):
    """A file is not the Arrow file that the format describes."""

    code = "bad_row_file"


class RowCountError(UpdateError):
    """A file has more or fewer rows than the manifest says."""

    code = "wrong_row_count"


class MisroutedSignError(UpdateError):
    """A file has a row of another shard than it says."""

    code = "misrouted_sign"


class OrdinalRangeError(UpdateError):
    """A sequence, or a time in seconds, that does not fit into a row's ordinal (2^32 or more)."""

    code = "ordinal_range"


class ForkedStreamError(UpdateError):
    """Two manifests have the same sequence: two trainers write one stream."""

    code = "forked_stream"


class ForeignConfigError(UpdateError):
    """A packet of another embedding config, or with rows of a dim that the embedding config lacks."""

    code = "foreign_config"


class GuardrailError(UpdateError):
    """Rows that the guardrails refuse: not finite, too large, or too many."""

    code = "guardrail"


class PersiaPacketError(UpdateError):
    """One of PERSIA's .inc files does not parse; `offset` is the byte where that was seen."""

    code = "bad_persia_packet"

    def __init__(self, path: Path | str, reason: str, offset: int) -> None:
        """Build the sentence `path: reason (at byte offset)`."""
        super().__init__(path, f"{reason} (at byte {offset})")
        self.offset = offset


class NotFoundError(SatrapError):
    """Something that was named does not exist."""

    grpc_status = grpc.StatusCode.NOT_FOUND
    http_status = 404


class ModelNotFoundError(NotFoundError):
    """No model of that name; the sentence is TorchServe's."""

    def __init__(self, model: str) -> None:
        """Build TorchServe's sentence."""
        self.model = model
        super().__init__(f"Model not found: {model}")


class ModelVersionNotFoundError(NotFoundError):
    """No such version of that model; the sentence is TorchServe's."""

    def __init__(self, model: str, version: str, sentence: str = "") -> None:
        """Build TorchServe's sentence, unless it words it otherwise."""
        self.model, self.version = model, version
        super().__init__(sentence or f"Model version: {version} does not exist for model: {model}")


class ArchiveNotFoundError(NotFoundError):
    """The model store offers no such archive; the sentence is TorchServe's."""

    def __init__(self, url: str, sentence: str) -> None:
        """Keep the url as it was given, and TorchServe's sentence."""
        self.url = url
        super().__init__(sentence)


class ResourceNotFoundError(NotFoundError):
    """No such path in the REST API; the sentence is TorchServe's."""

    def __init__(self) -> None:
        """Build TorchServe's sentence."""
        super().__init__("Requested resource is not found, please refer to API document.")


class MethodNotAllowedError(SatrapError):
    """That path has another method; the sentence is TorchServe's."""

    grpc_status = grpc.StatusCode.UNIMPLEMENTED
    http_status = 405

    def __init__(self, sentence: str = "") -> None:
        """Build TorchServe's sentence, unless there is a better one."""
        super().__init__(sentence or "Requested method is not allowed, please refer to API document.")


class ModelApiDisabledError(MethodNotAllowedError):
    """Models are neither registered nor unregistered over the API, by configuration."""

    grpc_status = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self) -> None:
        """Say which key allows it."""
        super().__init__(
            "Model API disabled: models cannot be registered or unregistered at this server. To allow it start with "
            "--enable-model-api, or set serving.model_api (enable_model_api in config.properties) to true"
        )


class UnsupportedError(SatrapError):
    """Something of TorchServe's that satrap does not do, and will not when it is asked again."""

    grpc_status = grpc.StatusCode.UNIMPLEMENTED
    http_status = 501


class InvalidTokenError(SatrapError):
    """The caller did not show the token that this API asks for; the sentence is TorchServe's."""

    grpc_status = grpc.StatusCode.PERMISSION_DENIED
    http_status = 400

    def __init__(self) -> None:
        """Build TorchServe's sentence."""
        super().__init__(
            "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
        )


class RequestTooLargeError(SatrapError):
    """A request is larger than allowed."""

    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 413

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes."""
        self.limit = limit
        super().__init__(
            f"the request is larger than {limit} bytes: raise serving.max_request_bytes (max_request_size in "
            "config.properties), or send less"
        )


class ConflictError(SatrapError):
    """The call does not fit the present state."""

    grpc_status = grpc.StatusCode.ABORTED
    http_status = 409


class ArchiveExistsError(ConflictError):
    """A URL names an archive whose name is taken in the store; the sentence is TorchServe's."""

    def __init__(self, name: str) -> None:
        """Build TorchServe's sentence."""
        self.name = name
        super().__init__(f"Model file already exists {name}")


class VersionRegisteredError(ConflictError):
    """That version is registered already; the sentence is TorchServe's."""

    def __init__(self, model: str, version: str) -> None:
        """Build TorchServe's sentence."""
        self.model, self.version = model, version
        super().__init__(f"Model version {version} is already registered for model {model}")


class DefaultVersionError(ConflictError):
    """The default version cannot be removed while there are others; the sentence is TorchServe's."""

    grpc_status = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403

    def __init__(self, model: str) -> None:
        """Build TorchServe's sentence."""
        self.model = model
        super().__init__(f"Cannot remove default version for model {model}")


class ShardMismatchError(SatrapError):
    """Client and embedding server disagree on which shard this is; pairs are (replica_index, replica_size)."""

    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 412

    def __init__(self, expected: tuple[int, int], actual: tuple[int, int], address: str = "") -> None:
        """Build the sentence from what the client expected and what the server is."""
        self.expected, self.actual, self.address = expected, actual, address
        where = f" at {address}" if address else ""
        super().__init__(
            f"the embedding server{where} is shard {actual[0]} of {actual[1]}, but the client asked for shard "
            f"{expected[0]} of {expected[1]}: make the addresses in infer_config.servers (in order, all of them) "
            "agree with --replica-index and --replica-size"
        )


class UnavailableError(SatrapError):
    """Something needed cannot answer at the moment; the same call may succeed later."""

    grpc_status = grpc.StatusCode.UNAVAILABLE
    http_status = 503


class ShardUnavailableError(UnavailableError):
    """An embedding server is down, or loading. `address` is empty where a server speaks of itself."""

    def __init__(self, replica_index: int, replica_size: int, address: str, reason: str) -> None:
        """Build the sentence from shard, address and state."""
        self.replica_index, self.replica_size = replica_index, replica_size
        self.address, self.reason = address, reason
        where = f" at {address}" if address else ""
        super().__init__(f"embedding shard {replica_index} of {replica_size}{where}: {reason}")


class MiddlewareUnavailableError(UnavailableError):
    """No `satrap middleware` of the list answers."""

    def __init__(self, addresses: Sequence[str], reason: str) -> None:
        """Build the sentence from the addresses tried."""
        self.addresses, self.reason = tuple(addresses), reason
        super().__init__(f"no middleware answers at {', '.join(addresses)}: {reason}")


class NoWorkerError(UnavailableError):
    """A version has no worker; the sentence is TorchServe's, without its stray quote."""

    def __init__(self, model: str, version: str) -> None:
        """Build the sentence."""
        self.model, self.version = model, version
        super().__init__(
            f'Model "{model}" Version {version} has no worker to serve inference request. '
            "Please use scale workers API to add workers."
        )


class NoDescribeWorkerError(UnavailableError):
    """No worker can describe a version; the sentence is TorchServe's."""

    def __init__(self, model: str) -> None:
        """Build TorchServe's sentence."""
        self.model = model
        super().__init__(
            f'Model "{model}" has no worker to serve describe request. Please use scale workers API to add workers.'
        )


class NoDescriptionError(UnavailableError):
    """A handler that was asked to describe itself failed. The sentence begins with what its worker answered."""

    def __init__(self, model: str, reason: str) -> None:
        """Build the sentence."""
        self.model, self.reason = model, reason
        super().__init__(
            f'{reason}: the handler of model "{model}" was asked to describe itself (header describe: True) and did '
            "not; the server's log says why"
        )


class VersionWaitsError(UnavailableError):
    """A version waits until every embedding server has applied the sequence that it needs."""

    def __init__(self, model: str, version: str, sequence: int) -> None:
        """Build the sentence."""
        self.model, self.version, self.sequence = model, version, sequence
        super().__init__(
            f'Model "{model}" Version {version} is waiting for sequence {sequence} of its embeddings: it answers when '
            "every embedding server has applied it. DescribeModel and `satrap status` say how far each is"
        )


class OverloadedError(SatrapError):
    """A queue is full."""

    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 503

    def __init__(self, what: str, limit: int) -> None:
        """Build the sentence from the queue and its limit."""
        self.what, self.limit = what, limit
        super().__init__(f"{what}: the queue is full ({limit} requests wait); try again later or add workers")


class NoSpaceError(SatrapError):
    """No memory, no room for tables, or no descriptors; what was served before goes on."""

    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 507

    def __init__(self, reason: str) -> None:
        """The reason names what was short, where, and the way out."""
        self.reason = reason
        super().__init__(reason)


class StorageError(SatrapError):
    """A directory of packets or checkpoints cannot be listed, read or written at the moment."""

    grpc_status = grpc.StatusCode.UNAVAILABLE
    http_status = 503

    def __init__(self, url: Path | str, reason: str) -> None:
        """Build the sentence `url: reason`."""
        self.url, self.reason = str(url), reason
        super().__init__(f"{url}: {reason}")


class DeadlineError(SatrapError):
    """The caller's deadline passed before the answer was there."""

    grpc_status = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504


class WorkerError(SatrapError):
    """A model's worker process failed."""


class WorkerStartError(WorkerError):
    """A worker did not come up: the handler could not be loaded or initialised."""

    def __init__(self, model: str, version: str, reason: str) -> None:
        """Build TorchServe's sentence, with the reason behind it."""
        self.model, self.version, self.reason = model, version, reason
        super().__init__(f"Failed to start workers for model {model} version: {version}: {reason}")


class WorkerDiedError(WorkerError):
    """A worker ended while it had requests, or did not answer in time; the sentence is TorchServe's."""

    def __init__(self, model: str, version: str) -> None:
        """Build TorchServe's sentence."""
        self.model, self.version = model, version
        super().__init__("Worker died.")


class TableFolderError(SatrapError):
    """A folder or file of tables cannot be used: damaged, foreign, or not to be had."""

    def __init__(self, path: Path | str, reason: str) -> None:
        """Build the sentence `path: reason`."""
        self.path, self.reason = Path(path), reason
        super().__init__(f"{path}: {reason}")


class TableHeldError(TableFolderError):
    """A living process holds the tables; `pid` is 0 if it did not say who it is."""

    grpc_status = grpc.StatusCode.ABORTED
    http_status = 409

    def __init__(self, path: Path | str, pid: int) -> None:
        """Name the holder, and say what to do."""
        super().__init__(
            path,
            f"process {pid or '(unknown)'} holds these tables: stop it, or choose other tables "
            "(embedding_server.namespace in the global config, or --table-directory)",
        )
        self.pid = pid


class UnregisterTimeoutError(SatrapError):
    """A version was taken out, but some of its requests were not finished in time; the sentence is TorchServe's."""

    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 408

    def __init__(self, model: str) -> None:
        """Build TorchServe's sentence."""
        self.model = model
        super().__init__(f"Timed out while cleaning resources: {model}")


class RemoteError(SatrapError):
    """A server answered with an error that has no class of its own here."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        """Keep the status and the server's sentence."""
        self.status, self.details = status, details
        super().__init__(f"{status.name}: {details}")


class UnexpectedAnswerError(SatrapError):
    """A server answered with success, and with something that its API does not promise."""
