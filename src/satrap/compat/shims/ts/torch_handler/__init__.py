"""TorchServe's handler classes."""
