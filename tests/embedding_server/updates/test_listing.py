"""Knowing what lies in a directory, by listing it now and then and by what is told of it in between."""

import pytest

from satrap.embedding_server.updates.listing import PacketListing
from satrap.formats.manifest import manifest_name
from satrap.storage import open_storage


class Clock:
    """Seconds, as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def listing(tmp_path, clock):
    return PacketListing(open_storage(tmp_path), 1.0, clock)


@pytest.fixture
def publish(tmp_path, listing):
    """publish(sequence, writer, told) lets a manifest appear, and inotify tell of it or not."""

    def manifest(sequence: int, writer: str = "w", *, told: bool = True) -> str:
        name = manifest_name(sequence, writer)
        (tmp_path / name).write_text("{}")
        if told:
            listing.arrived(name)
        return name

    return manifest


def sequences(listing: PacketListing) -> list[int]:
    return [sequence for _, sequence in listing.names]


def test_what_is_told_needs_no_listing(listing, publish, clock):
    for sequence in (1, 2, 3):
        publish(sequence)
    listing.refresh(0)
    assert sequences(listing) == [1, 2, 3] and listing.listings == 1
    publish(5)
    publish(4)
    publish(4, "x")
    listing.refresh(2)
    assert sequences(listing) == [2, 3, 4, 4, 5] and listing.listings == 1
    clock.now += 1
    publish(6, told=False)
    listing.refresh(5)
    assert sequences(listing) == [5, 6] and listing.listings == 2


def test_what_goes(listing, publish, tmp_path):
    publish(1)
    listing.refresh(0)
    name = publish(1, "x")
    listing.refresh(0)
    assert len(listing.names) == 2
    (tmp_path / name).unlink()
    listing.arrived(name)
    listing.refresh(0)
    assert sequences(listing) == [1] and listing.listings == 1


def test_always_listed_where_nobody_tells(listing, publish):
    for sequence in (1, 2, 3):
        publish(sequence, told=False)
        listing.refresh(0)
    assert sequences(listing) == [1, 2, 3] and listing.listings == 3


def test_remote_ones_are_always_listed(publish, clock):
    storage = open_storage("memory://always-listed")
    listing = PacketListing(storage, 1.0, clock)
    for sequence in (1, 2):
        name = manifest_name(sequence, "w")
        storage.publish(name, b"{}", replace=True)
        listing.arrived(name)
        listing.refresh(0)
    assert listing.listings == 2


@pytest.mark.parametrize("name", ["", "hold-main.json", "s0"])
def test_everything_is_looked_at_when_it_is_unclear(listing, publish, name, tmp_path):
    publish(1)
    listing.refresh(0)
    publish(2, told=False)
    if name.endswith(".json"):
        (tmp_path / name).write_text("{}")
    listing.arrived(name)
    listing.refresh(0)
    assert sequences(listing) == [1, 2] and listing.listings == 2
    assert [entry.name for entry in listing.others] == [name] * name.endswith(".json")


def test_back_again(listing, publish):
    """After a rollback what was left behind counts again."""
    for sequence in (1, 2, 3):
        publish(sequence)
    listing.refresh(0)
    listing.refresh(3)
    assert sequences(listing) == [3]
    listing.refresh(1)
    assert sequences(listing) == [1, 2, 3]


def test_large_directories_are_listed_more_rarely(tmp_path, clock, publish):
    storage = open_storage(tmp_path)

    class Slow:
        """The storage, with listings that take a second of the clock."""

        local, exists = storage.local, storage.exists

        def list(self, after: str):
            clock.now += 1
            return storage.list(after=after)

    listing = PacketListing(Slow(), 1.0, clock)
    listing.arrived(publish(1))
    listing.refresh(0)
    for _ in range(19):
        clock.now += 1
        listing.refresh(0)
    assert listing.listings == 1
    clock.now += 1
    listing.refresh(0)
    assert listing.listings == 2


def test_below_what_is_applied(listing, publish, tmp_path):
    publish(5)
    listing.refresh(4)
    name = publish(2, "x")
    listing.refresh(4)
    assert listing.below == [(name, 2)] and sequences(listing) == [5]
    (tmp_path / name).unlink()
    listing.refresh(4)
    assert listing.below == []
