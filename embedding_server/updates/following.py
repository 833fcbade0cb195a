"""What is followed, and the feed and the judge that come of it."""

from collections.abc import Collection
from dataclasses import dataclass

from satrap.config import UpdatesConfig
from satrap.embedding_server.target import Target
from satrap.embedding_server.updates.feed import Feed
from satrap.embedding_server.updates.guard import judge
from satrap.embedding_server.updates.packet import VerifiedPacket
from satrap.embedding_server.updates.persia import PersiaSettings
from satrap.embedding_server.updates.persia_feed import PersiaFeed
from satrap.embedding_server.updates.satrap_feed import SatrapFeed
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_packet import is_persia
from satrap.storage import Storage

__all__ = ["Feeds", "Following"]


@dataclass(frozen=True)
class Following:
    """What is followed, and how. `config_digest` and `dims` are the embedding config's; empty and None: not known."""

    storage: Storage
    config: UpdatesConfig
    config_digest: str = ""
    dims: Collection[int] | None = None

    def judge(self, packet: VerifiedPacket, target: Target, route: ShardRoute) -> None:
        """Refuse a packet whose rows must not be served; raises as `guard.judge`."""
        judge(
            packet,
            route=route,
            row_dtype=target.info.row_dtype,
            dims=self.dims,
            limits=target.origin.limits,
            config=self.config.guardrails,
        )


class Feeds:
    """The feeds of a directory, one for each generation of tables. Any thread may ask."""

    def __init__(self, following: Following, route: ShardRoute) -> None:
        self._following, self._route = following, route
        self._made: tuple[tuple[Target, Feed], ...] = ()

    def of(self, target: Target) -> Feed:
        """The feed for a target, by the format that its rows came from, or by what the directory holds.

        Raises:
            StorageError: that cannot be found out now.
        """
        storage = self._following.storage
        wanted = target.origin.format
        if not wanted:
            wanted = "persia" if is_persia(storage) else "satrap"
        for made_for, feed in self._made:
            if made_for is target and feed.format == wanted:
                return feed
        made = self._persia(target) if wanted == "persia" else self._satrap()
        # Two are needed: one for the tables in use, one for those that are loaded beside them.
        self._made = (*self._made[-1:], (target, made))
        return made

    def _satrap(self) -> Feed:
        config = self._following.config
        return SatrapFeed(
            self._following.storage,
            self._route,
            self._following.config_digest,
            config.poll_seconds,
            config.gap_alarm_seconds,
        )

    def _persia(self, target: Target) -> Feed:
        config = self._following.config
        return PersiaFeed(
            self._following.storage,
            self._route,
            PersiaSettings(target.origin.replay_from, int(config.persia_unmarked_seconds * 1e9)),
            target.folder,
            config.poll_seconds,
            lambda: target.tables,
        )
