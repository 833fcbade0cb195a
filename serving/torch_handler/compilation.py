"""The key `pt2` of an archive's config file: whether and how `torch.compile` compiles the model."""

import enum
import logging
from typing import Any

from satrap.errors import ArchiveError

__all__ = ["PT2Backend", "check_valid_pt2_backend", "compiled"]

log = logging.getLogger(__name__)


class PT2Backend(enum.StrEnum):
    """The backends of `torch.compile` that TorchServe knows."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether TorchServe knows that backend; one that it does not know is named in the log."""
    if backend in list(PT2Backend):
        return True
    log.warning("%s is not a supported backend of torch.compile", backend)
    return False


def compiled(model: Any, pt2: object, name: str) -> Any:
    """The model as the key `pt2` wants it.

    `pt2: {compile: {enable: true, backend: inductor, mode: ...}}` gives these arguments to `torch.compile`; older
    forms are the backend alone (`pt2: inductor`) and the arguments without `compile`. With another backend, or
    `enable: false`, the model stays what it is. Compiling itself happens at the first request.

    Raises:
        ArchiveError: `pt2` is neither text nor a mapping.
    """
    options = _options(pt2, name)
    if options is None or not check_valid_pt2_backend(options.get("backend", PT2Backend.INDUCTOR)):
        return model
    import torch  # not above: the names of backends are imported by handlers that have no torch

    return torch.compile(model, **options)


def _options(pt2: object, name: str) -> dict[str, Any] | None:
    if pt2 is None:
        return None
    if isinstance(pt2, str):
        return {"backend": pt2}
    if not isinstance(pt2, dict):
        raise ArchiveError(name, f"pt2 in its config file is {pt2!r}, not a backend or a mapping")
    if "compile" not in pt2:
        return None if "export" in pt2 else dict(pt2)
    options = pt2["compile"]
    if not isinstance(options, dict):
        raise ArchiveError(name, f"pt2.compile in its config file is {options!r}, not a mapping")
    return (
        {key: value for key, value in options.items() if key != "enable"} if options.get("enable") else None
    )
