"""TorchServe's names, as far as handlers use them, for satrap's own implementation."""
