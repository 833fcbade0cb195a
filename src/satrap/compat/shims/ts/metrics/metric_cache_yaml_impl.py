from satrap.compat.torchserve_metrics import FileMetrics as MetricsCacheYamlImpl

__all__ = ["MetricsCacheYamlImpl"]
