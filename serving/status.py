r"""How an error travels to a client of TorchServe: status codes and details, all in one place.

TorchServe answers management calls with its exception's HTTP status translated, and details
`"<message>\n<Java class>"`; clients parse that, so it stays. Its Predictions call answers INTERNAL whatever the
exception was. What a worker answered travels with the worker's code and its sentence. Where TorchServe's
answer is UNKNOWN without a word (a version registered twice, the default version removed, a request without a
model's name) its REST status and text are used.
"""

import grpc

from satrap import errors

__all__ = [
    "PREDICTION_FAILED",
    "Status",
    "error_type",
    "inference_status",
    "management_status",
    "status_of_code",
]

Status = tuple[grpc.StatusCode, str]

PREDICTION_FAILED = "Prediction failed"
"""What a client is told when a handler raised; the traceback is in the log only."""

_JAVA = "org.pytorch.serve"
_JAVA_CLASSES: dict[type[errors.SatrapError], str] = {
    errors.ModelNotFoundError: f"{_JAVA}.archive.model.ModelNotFoundException",
    errors.ArchiveNotFoundError: f"{_JAVA}.archive.model.ModelNotFoundException",
    errors.ModelVersionNotFoundError: f"{_JAVA}.archive.model.ModelVersionNotFoundException",
    errors.ArchiveError: f"{_JAVA}.archive.model.InvalidModelException",
    errors.RequirementsError: f"{_JAVA}.archive.model.ModelException",
    errors.DownloadError: f"{_JAVA}.archive.DownloadArchiveException",
    errors.ResourceNotFoundError: f"{_JAVA}.http.ResourceNotFoundException",
    errors.MethodNotAllowedError: f"{_JAVA}.http.MethodNotAllowedException",
    errors.InvalidTokenError: f"{_JAVA}.http.InvalidKeyException",
    errors.VersionRegisteredError: f"{_JAVA}.http.ConflictStatusException",
    errors.ArchiveExistsError: f"{_JAVA}.http.ConflictStatusException",
    errors.DefaultVersionError: f"{_JAVA}.http.InvalidModelVersionException",
    errors.WorkerStartError: f"{_JAVA}.http.InternalServerException",
    errors.UnregisterTimeoutError: f"{_JAVA}.http.RequestTimeoutException",
    errors.InvalidInputError: f"{_JAVA}.http.BadRequestException",
    errors.UnavailableError: f"{_JAVA}.http.ServiceUnavailableException",
    errors.OverloadedError: f"{_JAVA}.http.ServiceUnavailableException",
    errors.RequestTooLargeError: f"{_JAVA}.http.RequestTooLargeException",
    errors.UnsupportedError: "java.lang.UnsupportedOperationException",
    errors.SatrapError: f"{_JAVA}.http.InternalServerException",
}

_BY_HTTP_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    416: grpc.StatusCode.OUT_OF_RANGE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def status_of_code(code: int) -> grpc.StatusCode:
    """TorchServe's translation of a worker's HTTP status."""
    if code in _BY_HTTP_STATUS:
        return _BY_HTTP_STATUS[code]
    if 400 <= code < 500:
        return grpc.StatusCode.FAILED_PRECONDITION
    if 500 <= code < 600:
        return grpc.StatusCode.INTERNAL
    return grpc.StatusCode.UNKNOWN


def management_status(error: errors.SatrapError) -> Status:
    """Code and details of an error of the management API."""
    return error.grpc_status, f"{error}\n{_java_class(error)}"


def inference_status(error: errors.SatrapError) -> Status:
    """Code and details of a request that no worker answered.

    INTERNAL where TorchServe says so; a full queue and a passed deadline have codes of their own, because a
    client can act on them.
    """
    match error:
        case errors.ModelNotFoundError() | errors.ModelVersionNotFoundError():
            return grpc.StatusCode.INTERNAL, f"{error}\n{_java_class(error)}"
        case errors.InvalidInputError():
            return grpc.StatusCode.INTERNAL, f"{error}\nBadRequestException.()"
        case errors.NoWorkerError():
            return grpc.StatusCode.INTERNAL, f"{error}\nInternalServerException.()"
        case errors.WorkerDiedError():
            return worker_status(error.http_status, str(error))
        case _:
            return error.grpc_status, str(error)


def worker_status(code: int, sentence: str) -> Status:
    """Code and details of a prediction that failed in its worker: TorchServe names one class, whatever the code."""
    return status_of_code(code), f"{sentence}\n{_JAVA}.http.InternalServerException"


def error_type(error: errors.SatrapError) -> str:
    """The `type` of an error's document over REST: the Java class without its package."""
    return _java_class(error).rpartition(".")[2]


def _java_class(error: errors.SatrapError) -> str:
    return next(_JAVA_CLASSES[kind] for kind in type(error).__mro__ if kind in _JAVA_CLASSES)
