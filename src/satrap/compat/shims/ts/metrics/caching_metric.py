from satrap.serving.handler_metrics import HandlerMetric as CachingMetric

__all__ = ["CachingMetric"]
