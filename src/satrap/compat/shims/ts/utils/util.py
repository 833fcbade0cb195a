from satrap.compat.torchserve import deprecated, get_yaml_config
from satrap.serving.handler_classes import list_classes_from_module
from satrap.serving.label_mapping import load_label_mapping, map_class_to_label
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.compilation import PT2Backend, check_valid_pt2_backend
from satrap.serving.torch_handler.text_tokens import CLEANUP_REGEX

__all__ = [
    "CLEANUP_REGEX",
    "PT2Backend",
    "PredictionException",
    "check_valid_pt2_backend",
    "deprecated",
    "get_yaml_config",
    "list_classes_from_module",
    "load_label_mapping",
    "map_class_to_label",
]
