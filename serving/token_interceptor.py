"""Asks every call of a gRPC API for its token, before the call is begun."""

from collections.abc import Awaitable, Callable

import grpc

from satrap.errors import InvalidTokenError
from satrap.rpc import AioContext, AioInterceptor, Handler
from satrap.serving.metrics.calls import CallLog
from satrap.serving.tokens import Api, TokenAuthorization

__all__ = ["TokenInterceptor"]

_HEADER = "authorization"


class TokenInterceptor(AioInterceptor):
    """Refuses calls whose metadata lacks `authorization: Bearer KEY` with the key of this API."""

    def __init__(self, tokens: TokenAuthorization, api: Api, calls: CallLog | None = None) -> None:
        """Ask for that API's key; `calls` is told about every call that is refused."""
        self._tokens = tokens
        self._api: Api = api
        self._calls = calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The call's handler, or one of the same kind that refuses."""
        handler = await continuation(handler_call_details)
        header = next(
            (value for key, value in handler_call_details.invocation_metadata or () if key == _HEADER), None
        )
        try:
            self._tokens.check(self._api, header if isinstance(header, str) else None)
        except InvalidTokenError as error:
            refused = self._refused(handler_call_details.method, error)
            return _refusal(handler, refused)
        return handler

    def _refused(
        self, method: str, error: InvalidTokenError
    ) -> Callable[[object, AioContext], Awaitable[None]]:
        async def refuse(_: object, context: AioContext) -> None:
            if self._calls is not None:
                self._calls.grpc_refused(method.removeprefix("/"), context.peer(), "token")
            await context.abort(error.grpc_status, str(error))

        return refuse


def _refusal(handler: Handler | None, refuse: Callable[[object, AioContext], Awaitable[None]]) -> Handler:
    # Of the same kind: a stream is refused at once, whether or not the client ever sends something. No handler, no such
    # method: that is not for strangers to know.
    if handler is None or not (handler.request_streaming or handler.response_streaming):
        return grpc.unary_unary_rpc_method_handler(refuse)
    if not handler.request_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    if not handler.response_streaming:
        return grpc.stream_unary_rpc_method_handler(refuse)
    return grpc.stream_stream_rpc_method_handler(refuse)
