from satrap.serving.torch_handler.object_detector import ObjectDetector

__all__ = ["ObjectDetector"]
