"""A version's description, key for key as TorchServe's DescribeModel gives it."""

import datetime
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from satrap.serving.roster import WorkerState, WorkerStatus
from satrap.serving.snapshot import VersionState
from satrap.serving.sparse_gate import ShardProgress, describe
from satrap.serving.version import Version

__all__ = ["describe_version", "state_of"]

DEFAULT_CLIENT_TIMEOUT_MS = 0


def describe_version(
    version: Version,
    shards: Sequence[ShardProgress] = (),
    *,
    is_waiting: bool = False,
    becomes_default: bool = False,
) -> dict[str, Any]:
    """The document; a worker whose process is being started again is UNLOADING, TorchServe's other word.

    A worker of a version with a requirements file says which environment it runs in, and whether it was forked. A
    version that needs a sequence of its embeddings has satrap's own keys besides, see `sparse_gate.describe`.
    """
    spec = version.spec
    sparse: dict[str, Any] = {}
    if spec.sparse_sequence:
        sparse = describe(spec.sparse_sequence, shards, is_waiting=is_waiting)
        sparse["becomesDefault"] = becomes_default
    return {
        "modelName": spec.model,
        "modelVersion": spec.version,
        "modelUrl": spec.url,
        "runtime": spec.runtime,
        "minWorkers": version.pool.roster.minimum,
        "maxWorkers": version.pool.roster.maximum,
        "batchSize": spec.batching.batch_size,
        "maxBatchDelay": round(spec.batching.max_delay * 1000),
        "responseTimeout": spec.response_timeout,
        "startupTimeout": spec.startup_timeout,
        "maxRetryTimeoutInSec": spec.max_retry_timeout,
        "clientTimeoutInMills": DEFAULT_CLIENT_TIMEOUT_MS,
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "gpu" if spec.devices else "cpu",
        **({"deviceIds": list(spec.device_ids)} if spec.device_ids else {}),
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": spec.environment is not None,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0,
        "loadedAtStartup": spec.loaded_at_startup,
        "workers": [_describe_worker(version, status) for status in version.pool.roster.workers()],
        "jobQueueStatus": {
            "remainingCapacity": spec.batching.capacity - version.pending,
            "pendingRequests": version.pending,
        },
        **sparse,
    }


def state_of(version: Version, *, is_default: bool) -> VersionState:
    """What a snapshot says of it."""
    spec = version.spec
    return VersionState(
        version=spec.version,
        archive=spec.downloaded.name if spec.downloaded else PurePosixPath(spec.url.replace("\\", "/")).name,
        is_default=is_default,
        min_workers=version.pool.roster.minimum,
        max_workers=version.pool.roster.maximum,
        batch_size=spec.batching.batch_size,
        max_batch_delay=round(spec.batching.max_delay * 1000),
        response_timeout=spec.response_timeout,
        startup_timeout=spec.startup_timeout,
        runtime=spec.runtime,
        handler=spec.handler if spec.handler != spec.manifest.handler else "",
    )


def _describe_worker(version: Version, status: WorkerStatus) -> dict[str, Any]:
    process = version.pool.process(status.number)
    pid = process.pid if process else None
    return {
        "id": str(status.number),
        "startTime": _iso(process.started_at) if process else "",
        "status": "READY" if status.state is WorkerState.READY else "UNLOADING",
        "memoryUsage": _resident_bytes(pid) if pid else 0,
        "pid": pid if pid else -1,
        "gpu": bool(version.spec.devices),
        "gpuUsage": "N/A",
        **({"environment": version.spec.environment.describe()} if version.spec.environment else {}),
    }


def _iso(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0  # it has just ended
    return pages * os.sysconf("SC_PAGE_SIZE")
