from satrap.compat.torchserve_metrics import Metric

__all__ = ["Metric"]
