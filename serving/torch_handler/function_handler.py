"""The model-servers style: a handler made of functions, one of which makes the model."""

import fcntl
import importlib
import io
import logging
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from satrap.errors import ArchiveError
from satrap.serving.context import Context
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.input_value import decoded, kind_of
from satrap.serving.torch_handler.refusals import RefusingHandler, per_request, row_value

__all__ = ["FunctionHandler", "handler_factory"]

log = logging.getLogger(__name__)

_MEGABYTE = 1024**2
_SETUP_MARK = ".satrap_setup"


@dataclass(frozen=True)
class Functions:
    """What a handler is made of; `arguments` and `keywords` are the init function's."""

    init: Callable[..., Any]
    preprocess: Callable[[Any], Any] | None = None
    postprocess: Callable[[Any], Any] | None = None
    install_packages: Callable[[], object] | None = None
    unpack_dependencies: Callable[[], object] | None = None
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


def handler_factory(
    init_function: Callable[..., Any],
    preprocess_function: Callable[[Any], Any] | None = None,
    postprocess_function: Callable[[Any], Any] | None = None,
    install_packages: Callable[[], object] | None = None,
    unpack_dependencies: Callable[[], object] | None = None,
    *args: Any,
    **kwargs: Any,
) -> type["FunctionHandler"]:
    """Make a handler class. The model file that assigns it to a name, as its last line, is the handler.

    Args:
        init_function: Makes the model, a `torch.nn.Module`; its weights are loaded afterwards from the archive's
            checkpoint (a state dict), unless there is none or it is empty.
        preprocess_function: From one request's input to one sample for the model, a tensor. Without it numbers (JSON,
            or a NumPy file) are taken as the tensor.
        postprocess_function: From the model's output for one sample to the answer. Without it the output as numbers.
        install_packages: Called once for a version, before the model is made, in the archive's directory.
        unpack_dependencies: The same, after `install_packages`.
        *args: For `init_function`.
        **kwargs: For `init_function`.
    """
    functions = Functions(
        init_function,
        preprocess_function,
        postprocess_function,
        install_packages,
        unpack_dependencies,
        args,
        kwargs,
    )
    # The class belongs to the module that asked for it: a handler is the one class that its module defines.
    caller = sys._getframe(1).f_globals.get("__name__", __name__)
    members = {"__module__": caller, "__doc__": FunctionHandler.__doc__, "functions": functions}
    return type("Handler", (FunctionHandler,), {**members, "is_made_by_factory": True})


class FunctionHandler(RefusingHandler):
    """Answers requests one by one before and after the model, and together in the model.

    A request's input is called `data` or `body` (where it has one only: whatever it is called). `preprocess_function`
    gets it decoded: JSON's objects, an image of Pillow, a tensor from a NumPy file, otherwise text or bytes. Samples of
    equal shapes go through the model together. A request that cannot be processed has its own error.

    Of the archive's config file `system: {maxGPUMemory: MB}` bounds what the process may have of its GPU.
    """

    functions: ClassVar[Functions]

    def initialize(self, context: Context) -> None:
        """Prepare the archive's directory, make the model and load its weights.

        Raises:
            ArchiveError: what `init_function` made is no model, the checkpoint does not fit it, or the config file is
                wrong.
        """
        self._set_up(context)
        assert self.device is not None
        directory = Path(str(context.system_properties["model_dir"]))
        self._limit_memory(context)
        self._prepare_once(directory)
        model = self.functions.init(*self.functions.arguments, **self.functions.keywords)
        if not isinstance(model, torch.nn.Module):
            raise ArchiveError(
                context.model_name, f"init_function must return a torch.nn.Module, not {type(model).__name__}"
            )
        if name := context.manifest.get("model", {}).get("serializedFile"):
            self.model_pt_path = str(directory / name)
            _load_weights(model, directory / name)
        self.model = model.to(self.device).eval()
        self.initialized = True

    def preprocess(self, data: Any) -> list[torch.Tensor]:
        """One sample per request that can be answered.

        Raises:
            PredictionException: none can.
        """
        return self.accepted(data, self._sample)

    def inference(self, data: list[torch.Tensor], *args: Any, **kwargs: Any) -> list[Any]:
        """The model's output for each sample; where it fails on samples of one shape, that is their error alone."""
        outputs: list[Any] = [None] * len(data)
        groups: dict[Hashable, list[int]] = {}
        for place, sample in enumerate(data):
            groups.setdefault((sample.dtype, sample.shape), []).append(place)
        for places in groups.values():
            for place, part in zip(
                places, self._forward([data[place] for place in places], *args, **kwargs), strict=True
            ):
                outputs[place] = part
        return outputs

    def _forward(self, samples: list[torch.Tensor], *args: Any, **kwargs: Any) -> list[Any]:
        try:
            with torch.inference_mode():
                output = self.model(torch.stack(samples).to(self.device), *args, **kwargs)
                return _parts(output, len(samples))
        except MemoryError:
            raise
        except Exception as error:  # whatever the model thinks of these samples
            if "CUDA" in str(error):
                raise  # most likely the GPU's memory: nothing of these samples, see `results.error_answer`
            log.exception("the model failed on %d samples of shape %s", len(samples), tuple(samples[0].shape))
            return [PredictionException("Prediction failed", 503)] * len(samples)

    def postprocess(self, data: list[Any]) -> list[Any]:
        """The answer to each sample, or the error of its own that it has."""
        return [self._answer(output) for output in data]

    def _sample(self, row: Mapping[str, Any]) -> torch.Tensor:
        value = decoded(row_value(row) if len(row) != 1 else next(iter(row.values())))
        if self.functions.preprocess is not None:
            value = per_request(self.functions.preprocess, value)
        elif isinstance(value, Image.Image | str | bytes | bytearray | dict):
            raise PredictionException(
                f"the input is {kind_of(value)}, and the model has no preprocess_function for it: send numbers, as "
                "JSON or as a NumPy file",
                400,
            )
        try:
            return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PredictionException(f"the input cannot become a tensor: {error}", 400) from error

    def _answer(self, output: Any) -> Any:
        if isinstance(output, PredictionException):
            return output
        if self.functions.postprocess is None:
            return _plain(output)
        try:
            return _plain(per_request(self.functions.postprocess, output))
        except PredictionException as error:
            return error  # as an element of the list it is this request's answer alone

    def _limit_memory(self, context: Context) -> None:
        system = context.model_yaml_config.get("system") or {}
        limit = system.get("maxGPUMemory") if isinstance(system, dict) else None
        if limit is None:
            return
        if not isinstance(limit, int | float) or isinstance(limit, bool) or limit <= 0:
            raise ArchiveError(
                context.model_name, f"system.maxGPUMemory is {limit!r}, not a number of megabytes"
            )
        if self.device is None or self.device.type != "cuda":
            log.info("system.maxGPUMemory says nothing about %s: the model is not on a GPU", self.device)
            return
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit * _MEGABYTE / total), self.device)

    def _prepare_once(self, directory: Path) -> None:
        """Workers of a version share its directory: the first one prepares it, the others wait for that."""
        steps = [s for s in (self.functions.install_packages, self.functions.unpack_dependencies) if s]
        if not steps:
            return
        with _locked(directory / _SETUP_MARK) as mark:
            if not mark.read():
                for step in steps:
                    step()
                mark.write("done")
        importlib.invalidate_caches()


@contextmanager
def _locked(path: Path) -> Iterator[io.TextIOWrapper]:
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ArchiveError(path.name, "the manifest's serializedFile is not in the archive")
    if path.stat().st_size == 0:
        return  # init_function loads the weights itself
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a bad file: RuntimeError, UnpicklingError, ...
        raise ArchiveError(path.name, f"cannot be loaded into {type(model).__name__}: {error}") from error


def _parts(output: Any, count: int) -> list[Any]:
    """A batch's output, taken apart."""
    if isinstance(output, torch.Tensor):
        if output.ndim == 0 or len(output) != count:
            raise ValueError(f"the model's output of shape {tuple(output.shape)} is not for {count} samples")
        return list(output.detach().cpu())
    if isinstance(output, Mapping):
        columns = [_parts(value, count) for value in output.values()]
        return [dict(zip(output, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(output, list | tuple):
        return list(zip(*(_parts(value, count) for value in output), strict=True))
    raise TypeError(f"the model returned {type(output).__name__}, not tensors")


def _plain(value: Any) -> Any:
    """Tensors and arrays as numbers, which JSON can say."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
