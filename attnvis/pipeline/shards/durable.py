"""Files that are there whole even after a power cut: under another name, synced, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnvis.files import naming, whole_file

__all__ = ["durable", "sync"]


@contextmanager
def durable(path: Path) -> Iterator[Path]:
    """`files.whole_file` whose bytes are on the disk before it has its name; makes the folder.

    Raises OSError with the name of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        yield part
        with naming(path):
            sync(part)
    with suppress(OSError):  # not every file system syncs folders
        sync(path.parent)


def sync(path: Path) -> None:
    """What was written to a file, or which files a folder has, is on the disk.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
