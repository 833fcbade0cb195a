from satrap.serving.torch_handler.base_handler import BaseHandler

__all__ = ["BaseHandler"]
