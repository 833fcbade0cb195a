"""TorchServe's handler classes. They import torch: only a worker imports this package."""
