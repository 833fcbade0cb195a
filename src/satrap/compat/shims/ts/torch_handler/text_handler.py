from satrap.serving.torch_handler.text_handler import TextHandler

__all__ = ["TextHandler"]
