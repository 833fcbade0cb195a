from satrap.serving.handler_metrics import HandlerMetric as MetricAbstract

__all__ = ["MetricAbstract"]
