from satrap.serving.handler_metrics import HandlerMetrics as MetricCacheAbstract

__all__ = ["MetricCacheAbstract"]
