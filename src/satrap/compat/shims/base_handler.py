from satrap.serving.torch_handler.function_handler import handler_factory

__all__ = ["handler_factory"]
