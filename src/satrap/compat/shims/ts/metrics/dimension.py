from satrap.compat.torchserve_metrics import Dimension

__all__ = ["Dimension"]
