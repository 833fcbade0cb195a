"""The headers of requests, out of blocks that `hpack` decodes; blocks that come again and again are decoded once."""

from hpack import Decoder, HPACKError

from satrap.serving.grpc_server.http2_frames import BrokenConnectionError, ErrorCode

__all__ = ["Header", "HeaderDecoder"]

Header = tuple[bytes, bytes]

_REMEMBERED_BLOCKS = 64


class HeaderDecoder:
    """Of one connection: every block changes, or may change, how the next ones are read, so it must see them all."""

    def __init__(self, header_bytes: int) -> None:
        """`header_bytes` of one request are decoded at most."""
        self._decoder = Decoder(max_header_list_size=header_bytes)
        self._known: dict[bytes, list[Header]] = {}  # as long as the decoder's table stays as it is

    def decode(self, block: bytes) -> list[Header]:
        """A block's headers.

        Raises:
            BrokenConnectionError: it is none, or there are more headers than may be.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        before = table.dynamic_entries[0] if table.dynamic_entries else None
        size = table.maxsize
        try:
            headers = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except HPACKError as error:
            reason = f"headers cannot be decoded: {error}"
            raise BrokenConnectionError(ErrorCode.COMPRESSION_ERROR, reason) from None
        after = table.dynamic_entries[0] if table.dynamic_entries else None
        if after is not before or table.maxsize != size:
            self._known.clear()
        elif len(self._known) < _REMEMBERED_BLOCKS:
            self._known[block] = headers
        return headers
