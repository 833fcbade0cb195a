from satrap.compat.torchserve import send_intermediate_predict_response
from satrap.serving.handler_classes import import_class

__all__ = ["import_class", "send_intermediate_predict_response"]
