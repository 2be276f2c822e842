"""A file that a person named in, its bytes out: bounded, and a PhotoError for what is no file."""

import difflib
import os
import stat
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from attnvis.data.signatures import ENOUGH, photo_kind
from attnvis.files import open_checked, open_regular
from attnvis.types import PhotoError

__all__ = [
    "MOST_BYTES",
    "MOST_PIXELS",
    "SUFFIXES",
    "begins_like_a_photo",
    "looks_like_a_photo",
    "missing_error",
    "read_named",
    "suggest",
]

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".avif", ".heic", ".heif", ".hif"),
    *(".jpe", ".jfif", ".apng", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)

MOST_PIXELS = 178_956_970  # where PIL sees a decompression bomb: 512 MiB of RGB
MOST_BYTES = 8 * MOST_PIXELS  # of a file: so many pixels of four 16-bit channels each, uncompressed


def begins_like_a_photo(path: str) -> bool:
    """Whether a file's first bytes are a photo's.  Opens no pipe and no device."""
    try:
        with open_regular(Path(path), most=MOST_BYTES) as file:
            return photo_kind(file.read(ENOUGH)) is not None
    except (OSError, ValueError):
        return False


def looks_like_a_photo(path: str) -> bool:
    """Whether a path ends as a photo's does; the file need not exist."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def missing_error(path: Path) -> PhotoError:
    """Says that there is no such file, and what may have been meant."""
    folder = path.parent
    if not os.path.isdir(folder):
        return PhotoError(f"no such photo: {path}; there is no folder {folder}")
    try:
        with os.scandir(folder) as entries:
            # Not all: a list may name thousands that are missing, in a folder of a million.
            first = list(islice(entries, 1000))
            # a dangling link is there itself
            names = [entry.name for entry in first if entry.name != path.name]
    except OSError:
        names = []
    hint = suggest(path.name, names) or f"; see what lies in {folder.absolute()}"
    return PhotoError(f"no such photo: {path}{hint}")


def suggest(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` with the names that are spelled nearly so; "" where none is."""
    by_folded = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), by_folded)
    if not near:
        return ""
    return f"; did you mean {' or '.join(by_folded[folded] for folded in near)}?"


def read_named(path: Path, most: int = MOST_BYTES, noun: str = "photo") -> bytes:
    """The bytes of a file that a person named, at most so many.  Never waits for a pipe or opens a device.

    Raises PhotoError, nothing else.
    """
    try:
        with open_checked(path, lambda status: check_named(path, status, most=most, noun=noun)) as file:
            return file.read(os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise missing_error(path) from None
    except PermissionError:
        raise PhotoError(f"{path} may not be read (permission denied); allow it with chmod +r") from None
    except MemoryError:
        raise PhotoError(f"{path} does not fit into memory; shrink it, or close other programs") from None
    except PhotoError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PhotoError(f"{path} cannot be read ({reason}); check the name and the disk") from None


def check_named(path: Path, status: os.stat_result, most: int, noun: str) -> None:
    """Raises PhotoError unless this is the status of a regular file of at most so many bytes."""
    file_type = stat.S_IFMT(status.st_mode)
    if file_type == stat.S_IFDIR:
        raise PhotoError(f"{path} is a folder, not a {noun}; name a photo in it, or let find() list them")
    if file_type != stat.S_IFREG:
        kind = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}.get(file_type, "a device")
        raise PhotoError(f"{path} is {kind}, not a {noun}; save the {noun} to a file and name that")
    if status.st_size > most:
        raise PhotoError(
            f"{path} has {status.st_size:,} bytes, which is more than any {noun}'s {most:,}; "
            "see whether it is one"
        )
