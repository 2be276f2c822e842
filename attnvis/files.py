"""Whole files or none, names that every file system takes, one run a folder, and the cache folder."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not told from one another
    fcntl = None  # type: ignore[assignment]

__all__ = ["default_folder", "locked", "save", "slug", "unique", "whole_file", "write_bytes"]


def default_folder() -> Path:
    """Of what is kept from run to run: $ATTNVIS_CACHE, else attnvis/ in the user's own cache."""
    folder = os.environ.get("ATTNVIS_CACHE")
    if not folder:
        user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = f"{user_cache}/attnvis"
    return Path(folder).expanduser()


def write_bytes(path: Path, content: bytes) -> None:
    """The whole file or none: a run that dies here leaves nothing that only looks whole.

    Raises OSError, with the file's name, where it cannot be written: a full disk, no folder, no permission.
    """
    with whole_file(path) as part:
        part.write_bytes(content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write to, which becomes `path` when the block ends: who dies in it leaves nothing half done.

    Raises OSError with the name of `path`.  One at a time in a folder and thread, which name the part.
    """
    # short: path.name may use up what a file system allows
    part = path.parent / f".{os.getpid()}-{threading.get_ident()}.part"
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.errno is None:
            raise  # a library's own, with words of its own
        raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk names no file by itself
    finally:
        part.unlink(missing_ok=True)


def locked(folder: Path) -> TextIO:
    """Holds a folder until it is closed, or its process ends; makes the folder where there is none.

    Two runs in one folder would write over each other's files.  Raises ValueError where another run holds it,
    OSError where it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("w")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise ValueError(
                f"another run is writing into {folder}; "
                "wait for it, or choose another with hydra.run.dir=FOLDER"
            ) from None
    return file


def save(path: Path, content: bytes) -> None:
    """`write_bytes`, into folders that it makes.  Raises OSError as that does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def slug(text: str) -> str:
    """A name of at most 80 letters, safe in every file system; what it stands for is in the records."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "photo"


def unique(name: str, taken: dict[str, int]) -> str:
    """`name`, or name-2, name-3, ...; on file systems that ignore case too.

    `taken` remembers how far each name has counted, and gains this one.
    """
    key = name.lower()
    candidate = name
    while candidate.lower() in taken:
        taken[key] += 1
        candidate = f"{name}-{taken[key]}"
    taken[candidate.lower()] = 1
    return candidate
