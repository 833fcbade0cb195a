"""The tokens of the REST APIs: what comes after these routes has been let through."""

from collections.abc import Sequence

from satrap.errors import InvalidTokenError, ResourceNotFoundError
from satrap.serving.rest.prediction_path import parse_path
from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import RestResponse, document, error_document
from satrap.serving.tokens import Api, TokenAuthorization

__all__ = ["TokenRoutes"]

_REFUSED = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
"""TorchServe's sentence for a key that is not made anew; not quite the one for calls without their token."""


class TokenRoutes:
    """Refuses calls without the API's token; of the management API also `GET /token?type=...`, which makes one anew.

    Where both APIs share an address a call needs the token of the one that its path is of.
    """

    def __init__(self, tokens: TokenAuthorization, apis: Sequence[Api]) -> None:
        """Ask for the tokens of these APIs."""
        self._tokens, self._apis = tokens, tuple(apis)

    async def answer(self, request: RestRequest) -> RestResponse | None:
        """Part of `Routes`.

        Raises:
            InvalidTokenError: the request has not the token.
            InvalidInputError: the file of keys cannot be written.
        """
        header = request.header("authorization") or None
        if "management" in self._apis and request.segments == ["", "token"]:
            kind = request.parameter("type")
            try:
                self._tokens.rotate(kind, header)
            except InvalidTokenError:
                return error_document(400, "InvalidKeyException", _REFUSED)
            return document({"status": f"The key of the {kind} API is new: see the key file"})
        self._tokens.check(self._api(request), header)
        return None

    def _api(self, request: RestRequest) -> Api:
        if len(self._apis) == 1:
            return self._apis[0]
        try:
            return "inference" if parse_path(request.segments) is not None else "management"
        except ResourceNotFoundError:
            return "inference"
