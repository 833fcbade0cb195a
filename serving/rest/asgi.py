"""The names of ASGI's types, and what ours adds to a scope."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["HEADERS_AS_SENT", "IS_KEPT", "Message", "Receive", "SET_PHRASE", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEADERS_AS_SENT = "satrap.headers"
"""In a scope: the headers with their names as the client spelled them, which is how handlers ask for them."""

IS_KEPT = "satrap.is_kept"
"""In a scope: a function that says whether the connection stays open after the answer."""

SET_PHRASE = "satrap.set_phrase"
"""In a scope: a function that says with which reason phrase the answer begins; empty: the status' own."""
