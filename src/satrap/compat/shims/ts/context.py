from satrap.serving.context import Context, RequestProcessor

__all__ = ["Context", "RequestProcessor"]
