"""What a person names - files, folders, globs, lists, samples - in; paths of photos, and their bytes, out."""

import difflib
import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from attnvis.types import PhotoError

__all__ = ["find"]

SAMPLES = {  # photos that scikit-image ships in its wheel
    "cat": "chelsea.png",
    "astronaut": "astronaut.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
    "camera": "camera.png",
}
NAMES = {Path(file).stem: file for file in SAMPLES.values()} | SAMPLES
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp")

MOST_PIXELS = 178_956_970  # where PIL sees a decompression bomb: 512 MiB of RGB
MOST_BYTES = 8 * MOST_PIXELS  # of a file: so many pixels of four 16-bit channels each, uncompressed


def find(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files meant by a photo, a folder (searched to the bottom), a glob, a .txt with one path a line, or a list of these.

    "samples" means scikit-image's photos and "samples/cat" one of them; a folder of that name is "./samples".  Sorted within each item;
    a file named twice comes once.  A missing file among others is left to `load`, which fails for it alone; alone it raises PhotoError.
    """
    items = [images] if isinstance(images, str | Path) else list(images)
    files: dict[str, Path] = {}
    for item in items:
        for path in expand(item):
            files.setdefault(os.path.abspath(path), path)
    if not files:
        raise PhotoError(
            f"no photos in the list {items}; give a file, a folder, a glob, a .txt list, or samples"
        )
    if len(files) == 1 and not any(map(os.path.exists, files)):
        raise missing(*files.values())
    return list(files.values())


def expand(item: str | Path) -> list[Path]:
    """The files that one item stands for; an item that is nothing else is the name of a file, which need not exist."""
    if item == "samples":
        return [bundled(name) for name in SAMPLES]
    if isinstance(item, str) and item.startswith("samples/"):
        name = item.removeprefix("samples/")
        if name in NAMES or not (os.path.exists(item) or glob.has_magic(item)):
            return [bundled(name)]
    text = os.path.expanduser(item)
    if not text:
        raise PhotoError(
            "an empty name was given for a photo; give a file, a folder, a glob, a .txt list, or samples"
        )
    path = Path(text)
    if os.path.isdir(path):
        return ordered(below(text), f"no photos in the folder {path}")
    if os.path.isfile(path):
        return listed(path) if path.suffix.lower() == ".txt" else [path]
    if glob.has_magic(text):
        return ordered(matching(text), f"no photos match {text}")
    return [path]


def tree(root: str) -> Iterator[tuple[str, list[os.DirEntry[str]] | OSError]]:
    """A folder and the visible ones below it, each with its visible entries or why it cannot be opened.

    Links to folders are not followed, so a loop of links ends; and nothing recurses, so folders may lie deeper than Python calls.
    """
    waiting = [root]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            yield here, error
            continue
        yield here, entries
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def below(folder: str) -> Iterator[str]:
    """The photos of a folder, to the bottom.  A folder in it that cannot be opened is given too: it fails alone, with a reason."""
    for here, entries in tree(folder):
        if not isinstance(entries, OSError):
            yield from (
                entry.path
                for entry in entries
                if looks_like_a_photo(entry.path) and not os.path.isdir(entry.path)
            )
        elif here == folder:
            raise PhotoError(
                f"the folder {folder} cannot be opened ({entries.strerror}); name photos or another folder"
            )
        else:
            yield here


def matching(pattern: str) -> Iterator[str]:
    """The photos that a glob means; like a folder, ** does not follow links, of which glob.iglob would go round a loop for ever."""
    start, *rest = re.split(r"(?:^|(?<=/))(?:\*\*(?:/+|$))+", pattern, maxsplit=1)
    if not rest:
        yield from (
            path for path in glob.iglob(pattern) if looks_like_a_photo(path) and not os.path.isdir(path)
        )
        return
    for root in glob.iglob(start) if start else ["."]:
        for here, _ in tree(root):
            yield from matching(os.path.join(glob.escape(here), rest[0] or "*"))


def looks_like_a_photo(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def ordered(photos: Iterable[str], otherwise: str) -> list[Path]:
    found = [Path(path) for path in sorted(set(photos), key=lambda path: path.split(os.sep))]
    if not found:
        raise PhotoError(f"{otherwise}; looked for {' '.join(SUFFIXES)}")
    return found


def listed(path: Path) -> list[Path]:
    lines = (line.strip() for line in read_bytes(path).decode("utf-8-sig", "surrogateescape").splitlines())
    found = [path.parent / os.path.expanduser(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise PhotoError(f"the list {path} names no photos; write one path a line, relative to the list")
    return found


def bundled(name: str) -> Path:
    """One of the samples, by its own name or by what it shows."""
    if name not in NAMES:
        raise PhotoError(
            f"there is no sample {name!r}{suggest(name, NAMES)}; the samples are {', '.join(SAMPLES)}"
        )
    spec = find_spec("skimage")  # finds the package without importing it
    if spec is None or spec.origin is None:
        raise PhotoError(
            "the samples come with scikit-image, which is not installed; pip install scikit-image, or name photos of yours"
        )
    return Path(spec.origin).parent / "data" / NAMES[name]


def missing(path: Path) -> PhotoError:
    if not os.path.isdir(path.parent):
        return PhotoError(f"no such photo: {path}; there is no folder {path.parent}")
    try:
        with os.scandir(
            path.parent
        ) as entries:  # not all: a list may name thousands that are missing, in a folder of a million
            names = [
                entry.name for entry in islice(entries, 1000) if entry.name != path.name
            ]  # a dangling link is there itself
    except OSError:
        names = []
    return PhotoError(
        f"no such photo: {path}{suggest(path.name, names) or f'; see what lies in {path.parent.absolute()}'}"
    )


def suggest(name: str, names: Iterable[str]) -> str:
    known = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), known)
    return f"; did you mean {' or '.join(known[name] for name in near)}?" if near else ""


def read_bytes(path: Path) -> bytes:
    """A file's bytes.  Never waits for a pipe, never opens a device, never takes in more than MOST_BYTES."""
    try:
        check(path, os.stat(path))  # first: to open a device may set something off
        with open(path, "rb", opener=without_waiting) as file:
            status = os.fstat(file.fileno())
            check(path, status)  # again: it may have become another meanwhile
            return file.read(status.st_size)
    except FileNotFoundError:
        raise missing(path) from None
    except PermissionError:
        raise PhotoError(f"{path} may not be read (permission denied); allow it with chmod +r") from None
    except MemoryError:
        raise PhotoError(f"{path} does not fit into memory; shrink it, or close other programs") from None
    except PhotoError:
        raise
    except (OSError, ValueError) as error:
        raise PhotoError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); check the name and the disk"
        ) from None


def check(path: Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise PhotoError(f"{path} is a folder, not a photo; name a photo in it, or let find() list them")
    if kind != stat.S_IFREG:
        what = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}.get(kind, "a device")
        raise PhotoError(f"{path} is {what}, not a photo; save the photo to a file and name that")
    if status.st_size > MOST_BYTES:
        raise PhotoError(
            f"{path} has {status.st_size:,} bytes, which is more than any photo's {MOST_BYTES:,}; see whether it is one"
        )


def without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
