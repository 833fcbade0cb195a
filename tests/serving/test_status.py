"""Every error of satrap has a status, and TorchServe's are TorchServe's."""

import re

import grpc
import pytest

from satrap import errors
from satrap.serving.status import inference_status, management_status, status_of_code

NOT_FOUND = "org.pytorch.serve.archive.model.ModelNotFoundException"


def test_management_details_carry_the_java_class() -> None:
    assert management_status(errors.ModelNotFoundError("nope")) == (
        grpc.StatusCode.NOT_FOUND,
        f"Model not found: nope\n{NOT_FOUND}",
    )
    code, details = management_status(errors.VersionRegisteredError("m", "1.0"))
    assert code is grpc.StatusCode.ABORTED
    assert details.splitlines()[0] == "Model version 1.0 is already registered for model m"
    code, details = management_status(errors.ArchiveExistsError("a.mar"))
    assert (code.name, details) == (
        "ABORTED",
        "Model file already exists a.mar\norg.pytorch.serve.http.ConflictStatusException",
    )
    code, details = management_status(errors.DefaultVersionError("m"))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert details.splitlines()[0] == "Cannot remove default version for model m"


def test_predictions_are_internal_as_in_torchserve() -> None:
    assert inference_status(errors.ModelNotFoundError("nope")) == (
        grpc.StatusCode.INTERNAL,
        f"Model not found: nope\n{NOT_FOUND}",
    )
    assert inference_status(errors.InvalidInputError("Parameter model_name is required.")) == (
        grpc.StatusCode.INTERNAL,
        "Parameter model_name is required.\nBadRequestException.()",
    )
    assert inference_status(errors.WorkerDiedError("m", "1")) == (
        grpc.StatusCode.INTERNAL,
        "Worker died.\norg.pytorch.serve.http.InternalServerException",
    )


def test_what_a_client_can_act_on_has_its_own_code() -> None:
    assert inference_status(errors.OverloadedError("q", 1))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert inference_status(errors.DeadlineError("late"))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (400, "INVALID_ARGUMENT"),
        (404, "NOT_FOUND"),
        (409, "ABORTED"),
        (412, "FAILED_PRECONDITION"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (507, "INTERNAL"),
        (513, "INTERNAL"),
        (302, "UNKNOWN"),
    ],
)
def test_codes_of_workers(code: int, status: str) -> None:
    assert status_of_code(code) is grpc.StatusCode[status]


def every_error() -> list[type[errors.SatrapError]]:
    return [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_status(kind: type[errors.SatrapError]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "why")
    code, details = management_status(error)
    assert code is not grpc.StatusCode.UNKNOWN
    # The class that TorchServe names: its own, or Java's for what is not supported.
    assert re.search(r"\n(org\.pytorch\.serve|java\.lang)\.[\w.]*Exception$", details)
