"""Files of PERSIA's packets: read once where that is possible, and never taken for what they were."""

import pytest
from persia_packets import PersiaTrainer, inc_bytes, rows_of

from satrap.embedding_server.updates.persia_files import PersiaFiles
from satrap.errors import MissingFileError, TruncatedFileError
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_packet import PersiaFile
from satrap.storage import open_storage


@pytest.fixture
def trainer(tmp_path):
    return PersiaTrainer(tmp_path / "packets")


def written(trainer, name, value=3.0, unix_seconds=100):
    """A packet's file, as a listing has it."""
    path = trainer.write("s0/inc_a", name, rows_of([1], value), unix_seconds)
    status = path.stat()
    return path, PersiaFile(f"s0/inc_a/{name}", status.st_size, status.st_mtime_ns)


def reader(trainer, **options):
    return PersiaFiles(open_storage(str(trainer.root)), ShardRoute(), **options)


def test_the_packets_read_last_are_kept_until_they_are_fetched(trainer):
    _, file = written(trainer, "0_0.inc")
    others = [written(trainer, f"0_{number}.inc")[1] for number in (1, 2)]
    files = reader(trainer, cache_bytes=2 * file.size)
    checksums = {each: files.read(each).checksum for each in (file, *others)}
    for path in (trainer.root / "s0/inc_a").iterdir():
        path.unlink()
    for each in others:
        assert files.fetch(each, checksums[each]).unix_seconds == 100
    for gone in (file, *others):  # the one was put out by the others, they were kept for one fetch
        with pytest.raises(MissingFileError):
            files.fetch(gone, checksums[gone])


def test_a_file_of_another_content_or_size_is_refused(trainer):
    path, file = written(trainer, "0_0.inc")
    checksum = reader(trainer).read(file).checksum
    path.write_bytes(inc_bytes(rows_of([1], 4.0), 100))
    with pytest.raises(TruncatedFileError, match="changed while it was read"):
        reader(trainer).fetch(file, checksum)
    path.write_bytes(inc_bytes(rows_of([1, 2], 4.0), 100))
    with pytest.raises(TruncatedFileError, match="and has more"):
        reader(trainer).read(file)
    path.write_bytes(b"short")
    with pytest.raises(TruncatedFileError, match="and has 5"):
        reader(trainer).content(file)
    assert reader(trainer).content(file, checked=False) == b"short"
