from satrap.compat.torchserve_metrics import Units

__all__ = ["Units"]
