from satrap.serving.torch_handler.vision_handler import VisionHandler

__all__ = ["VisionHandler"]
