from satrap.compat.services import get_embedding_worker_services, get_middleware_services

__all__ = ["get_embedding_worker_services", "get_middleware_services"]
