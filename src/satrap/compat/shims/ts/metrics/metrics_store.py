from satrap.compat.torchserve_metrics import StoredMetrics as MetricsStore

__all__ = ["MetricsStore"]
