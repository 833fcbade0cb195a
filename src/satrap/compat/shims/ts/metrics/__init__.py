"""TorchServe's metrics, as handlers use them."""
