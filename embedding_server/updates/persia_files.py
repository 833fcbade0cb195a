"""The files of PERSIA's packets, read whole, parsed, and known again by their checksums."""

from collections import OrderedDict
from typing import NamedTuple

import xxhash

from satrap.errors import MissingFileError, TruncatedFileError
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_packet import PersiaFile, PersiaPacket, parse_packet
from satrap.storage import Storage

__all__ = ["PersiaFiles", "ReadFile"]

_CACHE_BYTES = 64 << 20
"""Packets that are kept between the look that proves them whole and the fetch that follows."""


class ReadFile(NamedTuple):
    """A whole file: what it says, and its checksum."""

    packet: PersiaPacket
    checksum: str


class PersiaFiles:
    """Reads the files of one packet directory for one server. One thread at a time."""

    def __init__(self, storage: Storage, route: ShardRoute, cache_bytes: int = _CACHE_BYTES) -> None:
        """Read nothing. The packets read last are kept until they are fetched, of files of `cache_bytes` together."""
        self._storage, self._route = storage, route
        self._cache = _PacketCache(cache_bytes)

    def read(self, file: PersiaFile) -> ReadFile:
        """Read a file to its end, and keep its packet for `fetch`.

        Raises:
            MissingFileError, TruncatedFileError, PathEscapeError, StorageError: as `content`.
            PersiaPacketError: it is no packet.
        """
        data = self.content(file)
        packet = parse_packet(self._storage.path_of(file.name), data, self._route)
        self._cache.keep(file, packet, len(data))
        return ReadFile(packet, _checksum(data))

    def fetch(self, file: PersiaFile, checksum: str) -> PersiaPacket:
        """The packet of a file that had that checksum when it was read.

        Raises:
            MissingFileError, TruncatedFileError, PathEscapeError, PersiaPacketError, StorageError: it is gone or has
                changed since.
        """
        packet = self._cache.take(file)
        if packet is None:
            data = self.content(file)
            packet = parse_packet(self._storage.path_of(file.name), data, self._route)
            if _checksum(data) != checksum:
                raise TruncatedFileError(
                    self._storage.path_of(file.name), "changed while it was read; it is looked at again"
                )
        return packet

    def content(self, file: PersiaFile, *, checked: bool = True) -> bytes:
        """All of a file, never more than was listed.

        Raises:
            MissingFileError: it is gone.
            TruncatedFileError: `checked`, and its size is another than the listing's.
            PathEscapeError: it is a link that leads out of the directory.
            StorageError: it cannot be read.
        """
        try:
            data = self._storage.read(file.name, limit=file.size)
        except FileNotFoundError as error:
            raise MissingFileError(self._storage.path_of(file.name), "is gone since it was listed") from error
        if checked and len(data) != file.size:
            more = "more" if len(data) > file.size else f"{len(data):,}"
            raise TruncatedFileError(
                self._storage.path_of(file.name), f"was listed with {file.size:,} bytes, and has {more}"
            )
        return data


class _PacketCache:
    """The packets read last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._packets: OrderedDict[PersiaFile, tuple[PersiaPacket, int]] = OrderedDict()

    def keep(self, file: PersiaFile, packet: PersiaPacket, size: int) -> None:
        self.take(file)
        self._packets[file] = packet, size
        self._bytes += size
        while self._bytes > self._limit:
            self._bytes -= self._packets.popitem(last=False)[1][1]

    def take(self, file: PersiaFile) -> PersiaPacket | None:
        packet, size = self._packets.pop(file, (None, 0))
        self._bytes -= size
        return packet


def _checksum(data: bytes) -> str:
    return f"xxh3_64:{xxhash.xxh3_64_hexdigest(data)}"
