from satrap.serving.torch_handler.timing import timed

__all__ = ["timed"]
