"""The names of PERSIA and TorchServe that existing handlers and client scripts import."""
