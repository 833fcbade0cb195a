"""TorchServe's `BaseHandler`: loads the model of an archive and runs preprocess, inference and postprocess."""

import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from satrap.errors import ArchiveError
from satrap.serving.context import Context
from satrap.serving.handler_classes import list_classes_from_module
from satrap.serving.headers import DESCRIBE_HEADER
from satrap.serving.label_mapping import load_label_mapping
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.compilation import compiled
from satrap.serving.torch_handler.timing import timed

__all__ = ["BaseHandler", "answered"]

_LABEL_MAPPING = "index_to_name.json"


class BaseHandler:
    """What handlers derive from. A subclass overrides the steps that it needs to.

    `initialize` sets, for the methods and for subclasses:

    * `model`: the model in evaluation mode on `device`, or None when the archive has no serialized file
      and no model file (such a handler loads what it needs itself);
    * `device`: the GPU that the worker was given, otherwise the CPU; `map_location`: the same for `torch.load`;
    * `manifest`, `context`, `model_yaml_config`: from the archive;
    * `mapping`: the archive's `index_to_name.json`, or None.

    `pt2` in the archive's config file compiles the model, see `compilation`; `handler: {profile: true}` reports the
    steps' times.

    One thread uses a handler at a time.
    """

    def __init__(self) -> None:
        """Set every attribute; nothing is loaded before `initialize`."""
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device: torch.device | None = None
        self.map_location: str | None = None
        self.manifest: dict[str, Any] | None = None
        self.context: Context | None = None
        self.model_pt_path: str | None = None
        self.model_yaml_config: dict[str, Any] = {}
        self.initialized = False
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Load the model: eager where the manifest has a `modelFile`, otherwise TorchScript of any suffix.

        Raises:
            ArchiveError: A file of the manifest is missing, cannot be loaded, or is of a kind (`.onnx`, `.so`)
                that needs a handler of its own.
        """
        self._set_up(context)
        folder = Path(str(context.system_properties["model_dir"]))
        described = context.manifest.get("model", {})
        serialized = described.get("serializedFile")
        weights = folder / serialized if serialized else None
        self.model_pt_path = str(weights) if weights is not None else None
        if model_file := described.get("modelFile"):
            self.model = self._load_pickled_model(str(folder), model_file, self.model_pt_path)
            self.model.to(self.device)
        elif self.model_pt_path is not None:
            self.model = self._load_torchscript_model(self.model_pt_path)
        if self.model is not None:
            self.model.eval()
            self.model = compiled(self.model, self.model_yaml_config.get("pt2"), context.model_name)
        self.mapping = load_label_mapping(folder / _LABEL_MAPPING)
        self.initialized = True

    def _set_up(self, context: Context) -> None:
        """Take over what the context says, the device first of all."""
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        gpu = context.system_properties.get("gpu_id")
        on_gpu = gpu is not None and torch.cuda.is_available()
        self.map_location = "cuda" if on_gpu else "cpu"
        self.device = torch.device(f"cuda:{gpu}" if on_gpu else "cpu")

    @timed
    def preprocess(self, data: Any) -> Any:
        """Turn the requests into what the model takes: here one tensor on `device`."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model on what `preprocess` returned."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> list[Any]:
        """Turn the model's output into a list with one element per request: here `tolist()`."""
        answers: list[Any] = data.tolist()
        return answers

    def handle(self, data: Any, context: Context) -> Any:
        """Answer a batch: `data` has one dict per request, and so many elements has the list returned.

        A request with the header `describe: True` gets `describe_handle()` instead.
        """
        return answered(self, data, context, lambda: _by_steps(self, data, context))

    def describe_handle(self) -> Any:
        """What DescribeModel with `customized` tells about this model; None: nothing."""
        return None

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Why the model says what it says: what `get_insights(tensor, input, target)` of a subclass returns.

        Raises:
            PredictionException: this handler has no `get_insights`.
        """
        explain = getattr(self, "get_insights", None)
        if explain is None:
            raise PredictionException("this handler explains nothing: it has no get_insights()", 501)
        first = raw_data[0]
        if not isinstance(first, dict):
            return explain(data_preprocess, None, 0)
        return explain(data_preprocess, first.get("data") or first.get("body"), first.get("target") or 0)

    def get_device(self) -> torch.device | None:
        """Where the model is; None before `initialize`."""
        return self.device

    def _is_describe(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, DESCRIBE_HEADER) == "True"

    def _is_explain(self) -> bool:
        if self.context is None or self.context.get_request_header(0, "explain") != "True":
            return False
        self.explain = True
        return True

    # The two loaders have TorchServe's names and arguments: handlers override them.

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        weights = Path(model_pt_path)
        if weights.suffix in (".onnx", ".so"):
            raise ArchiveError(
                weights.name,
                f"a {weights.suffix} model needs a handler that loads it in initialize(); without one, and "
                "without a modelFile, every serialized file is taken as TorchScript (torch.jit.save)",
            )
        with _loading(weights), _without_script_deprecation():
            return torch.jit.load(str(weights), map_location=self.device)  # type: ignore[no-untyped-call]

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        if not Path(model_dir, model_file).is_file():
            raise ArchiveError(model_file, "the manifest's modelFile is not in the archive")
        # By name and not by path: pickles and the archive's other modules must meet the same classes.
        module = importlib.import_module(Path(model_file).stem)
        classes: list[Any] = list(list_classes_from_module(module))
        if len(classes) != 1:
            raise ArchiveError(
                model_file,
                f"a model file defines exactly one class, this one has {len(classes)}: "
                f"{', '.join(c.__name__ for c in classes) or 'none'}",
            )
        model: torch.nn.Module = classes[0]()
        if model_pt_path:
            weights = Path(model_pt_path)
            with _loading(weights):
                model.load_state_dict(torch.load(weights, map_location=self.device, weights_only=True))
        return model


# Functions, as every name of a method could be one of a handler that derives from the class.
def answered(handler: BaseHandler, data: Any, context: Context, predict: Callable[[], Any]) -> Any:
    """What `handle` returns: a description or an explanation, if that is asked for, otherwise what `predict` does."""
    started = time.perf_counter()
    handler.context = context
    if handler._is_describe():
        answers: Any = [handler.describe_handle()]
    elif handler._is_explain():
        answers = handler.explain_handle(handler.preprocess(data), data)
    else:
        answers = predict()
    elapsed_ms = round((time.perf_counter() - started) * 1000, 2)
    context.metrics.add_time("HandlerTime", elapsed_ms, None, "ms")
    return answers


def _by_steps(handler: BaseHandler, data: Any, context: Context) -> Any:
    """The three steps, and how long each took."""
    began = time.perf_counter()
    prepared = handler.preprocess(data)
    ready = time.perf_counter()
    output = handler.inference(prepared)
    inferred = time.perf_counter()
    answers = handler.postprocess(output)
    context.metrics.add_phase("preprocess", ready - began)
    context.metrics.add_phase("inference", inferred - ready)
    context.metrics.add_phase("postprocess", time.perf_counter() - inferred)
    return answers


@contextmanager
def _loading(weights: Path) -> Iterator[None]:
    """Name the file in what torch says about it."""
    if not weights.is_file():
        raise ArchiveError(weights.name, "the manifest's serializedFile is not in the archive")
    try:
        yield
    except Exception as error:  # torch raises many kinds for a bad file: RuntimeError, UnpicklingError, ...
        raise ArchiveError(weights.name, f"cannot be loaded: {error}") from error


@contextmanager
def _without_script_deprecation() -> Iterator[None]:
    """TorchScript is what archives hold: its deprecation in torch 2.13 tells a server's user nothing to do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit", category=DeprecationWarning)
        yield
