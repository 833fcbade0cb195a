"""Loads a checkpoint beside, and then in place, and tells the most memory that this took besides the tables.

loading_process.py TABLES SMALL_CHECKPOINT CHECKPOINT
"""

import json
import sys
import threading
from pathlib import Path

from satrap.embedding_server.loading import LoadProgress
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.formats.persia_checkpoint import ShardRoute


def anonymous_bytes() -> int:
    """Memory of this process that is neither a file's nor shared with others."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def main() -> None:
    """Load, looking at each step of the progress."""
    tables, small, checkpoint = map(Path, sys.argv[1:])
    directory = TableDirectory(TablePlace(tables), ShardRoute())
    state = ShardState(directory, "float32", 2)
    never = threading.Event()
    state.load(small, lambda progress: None, never)  # imports
    before, most = anonymous_bytes(), 0

    def look(progress: LoadProgress) -> None:
        nonlocal most
        most = max(most, anonymous_bytes() - before)

    state.load(checkpoint, look, never)
    state.load_in_place(checkpoint, look, never)
    rows = state.generation().rows
    state.close()
    directory.close()
    print(json.dumps({"most": most, "rows": rows}))


if __name__ == "__main__":
    main()
