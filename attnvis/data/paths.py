"""What a person names - files, folders, globs, lists, samples - in; paths and bytes of photos out."""

import difflib
import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from attnvis.data.lists import ADDRESS, MOST_LIST, listed_paths
from attnvis.data.signatures import ENOUGH, photo_kind
from attnvis.files import open_checked, open_regular
from attnvis.types import PhotoError

__all__ = ["Listing", "find", "survey"]

SAMPLES = {  # photos that scikit-image ships in its wheel
    "cat": "chelsea.png",
    "astronaut": "astronaut.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
    "camera": "camera.png",
}
NAMES = {Path(file).stem: file for file in SAMPLES.values()} | SAMPLES
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".avif", ".heic", ".heif", ".hif"),
    *(".jpe", ".jfif", ".apng", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)

MOST_KINDS = 8  # that are named of what was passed over
MOST_PIXELS = 178_956_970  # where PIL sees a decompression bomb: 512 MiB of RGB
MOST_BYTES = 8 * MOST_PIXELS  # of a file: so many pixels of four 16-bit channels each, uncompressed


@dataclass(frozen=True, eq=False)
class Listing:
    """The files that were meant, and what folders and globs held beside them."""

    paths: list[Path]
    passed_over: Counter[str]  # by kind: .mov, hidden, link to a folder, no suffix

    def __str__(self) -> str:
        """`3 files passed over: 2 .mov, 1 .txt`; "" where none was."""
        return passed_over_text(self.passed_over)


def passed_over_text(kinds: Counter[str]) -> str:
    count = kinds.total()
    if not count:
        return ""
    parts = [
        f"{number} {kind}" for kind, number in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    ]
    rest = len(parts) - MOST_KINDS
    if rest > 0:
        parts = [*parts[:MOST_KINDS], f"{rest} more kinds"]
    return f"{count} {'file' if count == 1 else 'files'} passed over: {', '.join(parts)}"


def find(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files meant, as `survey` lists them.  Raises PhotoError as that does."""
    return survey(images).paths


def survey(images: str | Path | Sequence[str | Path]) -> Listing:
    """The files meant by a photo, a folder, a glob, a .txt with one path a line, or a list of these.

    Folders are searched to the bottom for what looks like a photo: by its suffix, or without one by its
    first bytes.  "samples" means scikit-image's photos and "samples/cat" one of them; a folder of that name
    is "./samples".  Sorted within each item; a file named twice comes once.  A missing file among others is
    left to `load`, which fails for it alone.  Raises PhotoError where nothing is meant, and for a missing
    file that is alone.
    """
    items = [images] if isinstance(images, str | Path) else list(images)
    files: dict[str, Path] = {}
    passed_over: dict[str, str] = {}  # a file -> its kind
    for item in items:
        for path in expand(item, passed_over):
            files.setdefault(os.path.abspath(path), path)
    paths = list(files.values())
    if not paths:
        raise PhotoError(
            f"no photos in the list {items}; give a file, a folder, a glob, a .txt list, or samples"
        )
    if len(paths) == 1 and not os.path.exists(os.path.abspath(paths[0])):
        raise missing_error(paths[0])
    kinds = Counter(kind for file, kind in passed_over.items() if file not in files)
    return Listing(paths, kinds)


def expand(item: str | Path, passed_over: dict[str, str]) -> list[Path]:
    """The files that one item stands for; what it holds beside photos goes into `passed_over`.

    An item that is nothing else is a file's name, which need not exist.  Raises PhotoError where a folder, a
    glob or a list has no photos, a sample is unknown, or the name is empty.
    """
    if item == "samples":
        return [sample_path(name) for name in SAMPLES]
    if isinstance(item, str) and item.startswith("samples/"):
        name = item.removeprefix("samples/")
        if name in NAMES or not (os.path.exists(item) or glob.has_magic(item)):
            return [sample_path(name)]
    text = os.path.expanduser(item)
    if isinstance(item, str) and (address := ADDRESS.match(item)) and not os.path.exists(item):
        raise PhotoError(
            f"{address[1]}://... is an address, and addresses are not fetched; "
            "download the photo and name the file"
        )
    if not text:
        raise PhotoError(
            "an empty name was given for a photo; give a file, a folder, a glob, a .txt list, or samples"
        )
    path = Path(text)
    if os.path.isdir(path):
        return sorted_paths(photos_below(text, passed_over), f"no photos in the folder {path}", passed_over)
    if os.path.isfile(path):
        return read_list(path) if path.suffix.lower() == ".txt" else [path]
    if glob.has_magic(text):
        return sorted_paths(photos_matching(text, passed_over), f"no photos match {text}", passed_over)
    return [path]


def walk(root: str) -> Iterator[tuple[str, list[os.DirEntry[str]] | OSError]]:
    """A folder and the visible ones below it, each with its entries or why it cannot be opened.

    Links to folders are not followed, so a loop of links ends; and nothing recurses, so folders may lie
    deeper than Python calls.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                inside = list(entries)
        except OSError as error:
            yield folder, error
            continue
        yield folder, inside
        folders += [
            entry.path
            for entry in inside
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
        ]


def photos_below(root: str, passed_over: dict[str, str]) -> Iterator[str]:
    """The photos of a folder, to the bottom.

    A folder in it that cannot be opened is given too: it fails alone, with a reason.  Raises PhotoError where
    the folder itself cannot be opened.
    """
    for folder, entries in walk(root):
        if not isinstance(entries, OSError):
            for entry in entries:
                if is_photo(entry.path, passed_over):
                    yield entry.path
        elif folder == root:
            raise PhotoError(
                f"the folder {root} cannot be opened ({entries.strerror}); name photos or another folder"
            )
        else:
            yield folder


def photos_matching(pattern: str, passed_over: dict[str, str], is_searched: bool = False) -> Iterator[str]:
    """The photos that a glob means; `is_searched`: the folders that match too are searched by the caller.

    Like a folder, ** does not follow links, of which glob.iglob would go round a loop for ever.
    """
    before, *after = re.split(r"(?:^|(?<=/))(?:\*\*(?:/+|$))+", pattern, maxsplit=1)  # at the first **
    if not after:
        for path in glob.iglob(pattern):
            if is_photo(path, passed_over):
                yield path
            elif os.path.isdir(path) and not is_searched:
                passed_over.setdefault(os.path.abspath(path), "folder")
        return
    for root in glob.iglob(before) if before else ["."]:
        for folder, _ in walk(root):
            inner = os.path.join(glob.escape(folder), after[0] or "*")
            yield from photos_matching(inner, passed_over, is_searched=True)


def is_photo(path: str, passed_over: dict[str, str]) -> bool:
    """Whether a path of a folder is a photo to be drawn; what is none, and no plain folder, is noted."""
    name = os.path.basename(path)
    is_folder = os.path.isdir(path)
    if name.startswith("."):
        kind = "hidden folder" if is_folder else "hidden"
    elif is_folder:
        if not os.path.islink(path):
            return False  # it is searched itself
        kind = "link to a folder"
    elif looks_like_a_photo(path):
        return True
    else:
        suffix = os.path.splitext(name)[1].lower()
        if not suffix and begins_like_a_photo(path):
            return True
        kind = suffix if suffix.isprintable() and suffix else "without a suffix"
    passed_over[os.path.abspath(path)] = kind
    return False


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


def sorted_paths(photos: Iterable[str], complaint: str, passed_over: dict[str, str]) -> list[Path]:
    """Each path once, folder by folder.

    Raises PhotoError, which begins with `complaint` and names what there is instead, where there are none.
    """
    paths = [Path(path) for path in sorted(set(photos), key=lambda path: path.split(os.sep))]
    if not paths:
        others = passed_over_text(Counter(passed_over.values()))
        also = f" ({others})" if others else ""
        raise PhotoError(f"{complaint}{also}; looked for {' '.join(SUFFIXES)}")
    return paths


def read_list(path: Path) -> list[Path]:
    """The paths in a text file, one a line, relative to the file; those that begin with # do not count.

    Raises PhotoError where the file cannot be read, names no photos, or is no list of them.
    """
    return listed_paths(read_named(path, most=MOST_LIST, noun="list"), path, SUFFIXES)


def sample_path(name: str) -> Path:
    """One of the samples, by its own name or by what it shows.

    Raises PhotoError where there is no such sample, or scikit-image is not installed.
    """
    if name not in NAMES:
        raise PhotoError(
            f"there is no sample {name!r}{suggest(name, NAMES)}; the samples are {', '.join(SAMPLES)}"
        )
    spec = find_spec("skimage")  # finds the package without importing it
    if spec is None or spec.origin is None:
        raise PhotoError(
            "the samples come with scikit-image, which is not installed; "
            "pip install scikit-image, or name photos of yours"
        )
    return Path(spec.origin).parent / "data" / NAMES[name]


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
