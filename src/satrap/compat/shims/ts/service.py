from satrap.compat.torchserve import emit_metrics
from satrap.serving.context import Context, RequestProcessor
from satrap.serving.prediction import PredictionException

__all__ = ["Context", "PredictionException", "RequestProcessor", "emit_metrics"]
