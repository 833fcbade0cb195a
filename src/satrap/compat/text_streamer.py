"""`TextIteratorStreamerBatch`: the texts of a batch as `transformers` generates them."""

import importlib
from collections.abc import Iterator
from typing import Any

__all__ = ["TextIteratorStreamerBatch"]


class TextIteratorStreamerBatch:
    """Given to `generate()` as its streamer, iterated over by the handler: lists of `{"text": piece}`.

    Ends as soon as one of the texts does. Needs the package transformers.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        """One streamer per text.

        Raises:
            ModuleNotFoundError: transformers is not installed.
        """
        streamer = importlib.import_module("transformers").TextIteratorStreamer
        self.batch_size = batch_size
        self.streamers = [
            streamer(tokenizer, skip_prompt, timeout, **decode_kwargs) for _ in range(batch_size)
        ]
        self._pieces = [iter(one) for one in self.streamers]

    def put(self, value: Any) -> None:
        """Take the next tokens, one row per text.

        Raises:
            ValueError: another number of rows.
        """
        if value.shape[0] != self.batch_size:
            raise ValueError(
                f"a streamer for {self.batch_size} texts was given tokens of shape {tuple(value.shape)}"
            )
        for place, streamer in enumerate(self.streamers):
            streamer.put(value[place : place + 1])

    def end(self) -> None:
        """No text has more tokens."""
        for streamer in self.streamers:
            streamer.end()

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        return self

    def __next__(self) -> list[dict[str, str]]:
        return [{"text": next(pieces)} for pieces in self._pieces]
