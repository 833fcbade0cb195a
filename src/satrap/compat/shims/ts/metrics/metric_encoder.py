from satrap.compat.torchserve_metrics import MetricEncoder

__all__ = ["MetricEncoder"]
