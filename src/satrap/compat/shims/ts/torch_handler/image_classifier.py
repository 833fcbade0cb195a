from satrap.serving.torch_handler.image_classifier import ImageClassifier

__all__ = ["ImageClassifier"]
