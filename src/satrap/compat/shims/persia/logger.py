from satrap.compat.logger import get_default_logger, get_logger

__all__ = ["get_default_logger", "get_logger"]
