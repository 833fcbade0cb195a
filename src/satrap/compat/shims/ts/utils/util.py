from satrap.serving.label_mapping import load_label_mapping, map_class_to_label
from satrap.serving.prediction import PredictionException

__all__ = ["PredictionException", "load_label_mapping", "map_class_to_label"]
