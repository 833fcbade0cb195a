from satrap.serving.torch_handler.micro_batching import MicroBatching

__all__ = ["MicroBatching"]
