from satrap.serving.torch_handler.text_classifier import TextClassifier

__all__ = ["TextClassifier"]
