"""The exception by which a handler chooses what its client is told."""

__all__ = ["PredictionException"]


class PredictionException(Exception):  # noqa: N818 (TorchServe's name, which handlers import)
    """Raised by a handler, or put into its list of results in place of one request's answer.

    Raised, every request of the batch gets it; as an element, that request alone. `error_code` is an HTTP
    status; over gRPC it travels as the status code that TorchServe maps it to (400 INVALID_ARGUMENT, 404
    NOT_FOUND, 503 UNAVAILABLE, other 5xx INTERNAL), with `message` as its details.
    """

    def __init__(self, message: str, error_code: int = 500) -> None:
        """Keep both; `error_code` is an HTTP status."""
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"
