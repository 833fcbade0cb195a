"""Folders of files by one name, wherever they are: a path of this machine, or a URL that fsspec knows.

    storage = open_storage("/var/lib/packets")      or s3://bucket/packets, hdfs://host/packets, memory://packets
    storage.publish("name", data)                   whole or not at all, and durable
    storage.list(after="name")                      what came later

A file appears under its name when all of it is there: by temporary name, fsync and rename where files can be renamed,
and as one whole object where they cannot. An absent folder is an empty one, as object stores know no folders. No name
leads out of its folder. `docs/storage.md` is for whoever sets a storage up.
"""

from satrap.storage.base import Entry, Storage, Upload
from satrap.storage.opening import StorageKind, full_location, open_storage
from satrap.storage.temporary import name_behind

__all__ = ["Entry", "Storage", "StorageKind", "Upload", "full_location", "name_behind", "open_storage"]
