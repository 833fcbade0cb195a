from satrap.serving.handler_metrics import MetricTypes

__all__ = ["MetricTypes"]
