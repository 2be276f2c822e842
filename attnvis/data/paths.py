"""What a person names - files, folders, globs, lists, samples - in; paths and bytes of photos out."""

import glob
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from attnvis.data import stores
from attnvis.data.lists import MOST_LIST, listed_paths
from attnvis.data.reading import (
    SUFFIXES,
    begins_like_a_photo,
    looks_like_a_photo,
    missing_error,
    read_named,
    suggest,
)
from attnvis.data.sources import APART, Broken, Stored, TableRow, key_of
from attnvis.data.tables import photos_in_table
from attnvis.data.tars import find_member, members
from attnvis.types import PhotoError, Source

__all__ = ["Listing", "expand", "find", "passed_over_text", "source_of", "survey"]

T = TypeVar("T")

SAMPLES = {  # photos that scikit-image ships in its wheel
    "cat": "chelsea.png",
    "astronaut": "astronaut.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
    "camera": "camera.png",
}
NAMES = {Path(file).stem: file for file in SAMPLES.values()} | SAMPLES
MOST_KINDS = 8  # that are named of what was passed over
CONTAINERS = (".tar", ".parquet", ".csv", ".tsv")  # what a word may name that holds or lists many photos
INSIDE = re.compile(rf"(.+?\.(tar|parquet)){APART}(.+)", re.IGNORECASE | re.DOTALL)
NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")  # WebDataset's: photos-{000..127}.tar


@dataclass(frozen=True, eq=False)
class Listing:
    """The photos that were meant, and what folders, globs and archives held beside them."""

    paths: list[Source]
    passed_over: Counter[str]  # by kind: .mov, hidden, link to a folder, no suffix

    def __str__(self) -> str:
        """`3 files passed over: 2 .mov, 1 .txt`; "" where none was."""
        return passed_over_text(self.passed_over)


@dataclass(eq=False)
class Search:
    """What lies beside the photos, by its kind; and whether archives are opened or only named."""

    inside: Counter[str] = field(default_factory=Counter)  # of archives and stores, and of the only folder
    files: dict[str, str] = field(default_factory=dict)  # a file -> its kind: another word may mean it
    is_only_folder: bool = False  # no other word can mean what lies in it: a count will do
    opens_archives: bool = True

    def add(self, path: str, kind: str) -> None:
        if self.is_only_folder:
            self.inside[kind] += 1
        else:
            self.files.setdefault(os.path.abspath(path), kind)

    def kinds(self, meant: Container[str] = ()) -> Counter[str]:
        """How many there are of each kind, without the files that are meant after all."""
        return self.inside + Counter(kind for file, kind in self.files.items() if file not in meant)


@dataclass(frozen=True, slots=True)
class Unopened:
    """An archive that is to be opened elsewhere."""

    archive: str

    def __str__(self) -> str:
        return self.archive

    @property
    def name(self) -> str:
        return self.archive

    stem = name


def passed_over_text(kinds: Counter[str]) -> str:
    """3 files passed over: 2 .mov, 1 .txt; "" where none was."""
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


def find(images: str | Path | Sequence[str | Path]) -> list[Source]:
    """The photos meant, as `survey` lists them.  Raises PhotoError as that does."""
    return survey(images).paths


def survey(images: str | Path | Sequence[str | Path]) -> Listing:
    """The photos meant by a file, a folder, a glob, a list, a tar, a table, an address, or a list of these.

    Folders are searched to the bottom for what looks like a photo: by its suffix, or without one by its
    first bytes.  "samples" means scikit-image's photos and "samples/cat" one of them; a folder of that name
    is "./samples".  Sorted within each item; a file named twice comes once, which is counted.  A missing file
    among others is left to `load`, which fails for it alone, and so is an archive that is damaged.  Raises
    PhotoError where nothing is meant, and for what is missing or damaged and alone.
    """
    items = [images] if isinstance(images, str | Path) else list(images)
    search = Search(is_only_folder=len(items) == 1 and os.path.isdir(items[0]))
    keys: set[str] = set()
    paths: list[Source] = []
    again: Counter[str] = Counter()
    for photo in (photo for item in items for photo in photos_of(item, search)):
        if not search.is_only_folder:  # which names none twice
            key = key_of(photo)
            if key in keys:
                again["named again"] += 1
                continue
            keys.add(key)
        paths.append(photo)
    if not paths:
        raise PhotoError(
            f"no photos in the list {items}; give a file, a folder, a glob, a .txt list, or samples"
        )
    if len(paths) == 1:
        require_there(paths[0])
    return Listing(paths, search.kinds(keys) + again)


def require_there(photo: Source) -> None:
    """Raises PhotoError for the only photo that was meant, where it is missing, or nothing to begin with."""
    if isinstance(photo, Broken):
        raise PhotoError(photo.reason)
    if isinstance(photo, Path) and not os.path.exists(os.path.abspath(photo)):
        raise missing_error(photo)


def expand(words: Iterable[str | Path]) -> Iterator[Source]:
    """The photos meant by some words, one after another, as `survey` lists them: for more than memory holds.

    A photo that two words mean comes twice.  Raises PhotoError as `photos_of` does.
    """
    search = Search(is_only_folder=True)
    for word in words:
        yield from photos_of(word, search)


def photos_of(item: str | Path, search: Search) -> Iterator[Source]:
    """The photos that one item stands for; what it holds beside photos goes into `search`.

    An item that is nothing else is a file's name, which need not exist.  An archive or a table that cannot
    be read gives a Broken, which fails alone.  Raises PhotoError where a folder, a glob or a list has no
    photos, a sample is unknown, or the name is empty.
    """
    if item == "samples":
        yield from map(sample_path, SAMPLES)
        return
    if isinstance(item, str) and item.startswith("samples/"):
        name = item.removeprefix("samples/")
        if name in NAMES or not (os.path.exists(item) or glob.has_magic(item)):
            yield sample_path(name)
            return
    text = os.path.expanduser(item)
    is_word = not os.path.exists(text)
    if is_word and NUMBERS.search(text):
        for word in numbered(text):
            yield from photos_of(word, search)
    elif is_word and INSIDE.fullmatch(text):
        yield source_of(text)
    elif is_word and stores.check_address(text):
        yield from photos_at(text, search)
    elif not text:
        raise PhotoError(
            "an empty name was given for a photo; give a file, a folder, a glob, a .txt list, or samples"
        )
    elif os.path.isdir(text):
        photos = photos_below(text, search)
        yield from required(photos, f"no photos in the folder {Path(text)}", search)
    elif os.path.isfile(text):
        yield from photos_in(text, search)
    elif glob.has_magic(text):
        names = sorted(set(photos_matching(text, search)), key=lambda path: path.split(os.sep))
        for path in required(names, f"no photos match {text}", search):
            yield from photos_in(path, search, is_list=False)
    else:
        yield Path(text)


def numbered(text: str) -> Iterator[str]:
    """photos-{08..11}.tar -> photos-08.tar, photos-09.tar, ...; the zeros are those of the first number."""
    match = NUMBERS.search(text)
    if match is None:
        yield text
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from numbered(text[: match.start()] + str(number).zfill(len(first)) + text[match.end() :])


def photos_in(name: str, search: Search, is_list: bool = True) -> Iterator[Source]:
    """The photos that a file holds or lists; itself, where it is none of those that do.

    `is_list`: a .txt is a list, too.  Raises PhotoError for a list that is none.
    """
    suffix = os.path.splitext(name)[1].lower()
    if suffix == ".tar" and not search.opens_archives:
        yield Unopened(name)
    elif suffix == ".tar":
        yield from members(name, search.inside)
    elif suffix in CONTAINERS:
        yield from photos_in_table(name, source_of)
    elif suffix == ".txt" and is_list:
        yield from read_list(Path(name), search)
    else:
        yield Stored(name) if stores.ADDRESS.match(name) else Path(name)


def photos_at(address: str, search: Search) -> Iterator[Source]:
    """The photos at an address: a file, an archive, a table, a folder or a glob.

    Raises PhotoError where a folder or a glob has none, or the store does not answer.
    """
    is_web = address.lower().startswith("http")
    is_pattern = glob.has_magic(address) and not is_web
    if is_pattern and looks_like_a_photo(address) and stores.kind_at(address) == "file":
        is_pattern = False  # its name has brackets
    if is_pattern:
        photos = stored_photos(stores.matching(address), address, search)
        for name in required(photos, f"no photos match {address}", search):
            yield from photos_in(name, search, is_list=False)
    elif is_web or looks_like_a_photo(address) or address.lower().endswith(CONTAINERS):
        yield from photos_in(address, search, is_list=False)
    elif stores.kind_at(address) == "folder":
        photos = stored_photos(stores.entries_below(address), "", search)
        yield from map(Stored, required(photos, f"no photos in {address}", search))
    elif stores.kind_at(address) == "file":
        yield Stored(address)
    else:
        yield Broken(address, f"there is nothing at {address}; see what lies beside it")


def stored_photos(addresses: Iterable[str], pattern: str, search: Search) -> Iterator[str]:
    """Those that end as photos do, or as the archives and tables that a glob asks for."""
    for address in addresses:
        suffix = os.path.splitext(address)[1].lower()
        is_container = suffix in CONTAINERS and pattern.lower().endswith(suffix)
        if looks_like_a_photo(address) or is_container:
            yield address
        else:
            search.inside[suffix or "without a suffix"] += 1


def source_of(text: str) -> Source:
    """The photo with this id: a path, an address, or what is in an archive or a table.

    One that is not there fails alone, with its reason.
    """
    if os.path.lexists(text):
        return Path(text)
    try:
        inside = INSIDE.fullmatch(text)
        if inside and inside[2].lower() == "parquet":
            is_row = inside[3].isdecimal() and inside[3].isascii()
            return (
                TableRow(inside[1], int(inside[3]))
                if is_row
                else Broken(text, f"{text} names no row; write the number of one")
            )
        if inside:
            return find_member(inside[1], inside[3])
        return Stored(text) if stores.check_address(text) else Path(text)
    except PhotoError as error:
        return Broken(text, str(error))


def walk(root: str) -> Iterator[str]:
    """A folder and the visible ones below it that can be opened.

    Links to folders are not followed, so a loop of links ends; and nothing recurses, so folders may lie
    deeper than Python calls.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        yield folder
        with suppress(OSError), os.scandir(folder) as entries:
            folders += [
                entry.path
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]


def photos_below(root: str, search: Search) -> Iterator[Path]:
    """The photos of a folder, to the bottom, in the order of their names.

    Each folder is listed once, and of those above a photo the names of photos and folders are held.  Links to
    folders are not followed.  A folder in it that cannot be opened is given too: it fails alone, with a
    reason.  Raises PhotoError where the folder itself cannot be opened.
    """
    waiting = [[root]]  # of each folder on the way, what is still to come: the last first; folders end in /
    is_root = True
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            continue
        place = waiting[-1].pop()
        if not place.endswith(os.sep) and not is_root:
            yield Path(place)
            continue
        place = place if is_root else place.removesuffix(os.sep)
        try:
            waiting.append(photos_and_folders(place, search))
        except OSError as error:
            if is_root:
                raise PhotoError(
                    f"the folder {root} cannot be opened ({error.strerror}); name photos or another folder"
                ) from None
            yield Path(place)
        is_root = False


def photos_and_folders(folder: str, search: Search) -> list[str]:
    """What is to be looked at in a folder, the last first; folders end in a slash.  Raises OSError."""
    inside = []
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and not entry.name.startswith("."):
                inside.append(entry.path + os.sep)
                continue
            if entry.is_symlink():  # one that leads to itself is none, and is_dir would raise
                is_folder = os.path.isdir(entry.path)
            if is_photo(entry.path, search, is_folder):
                inside.append(entry.path)
    return sorted(inside, key=lambda path: path.removesuffix(os.sep), reverse=True)


def photos_matching(pattern: str, search: Search, is_searched: bool = False) -> Iterator[str]:
    """The photos that a glob means, and the archives and tables where it ends as they do.

    Like a folder, ** does not follow links, of which glob.iglob would go round a loop for ever.
    `is_searched`: the folders that match too are searched by the caller.
    """
    before, *after = re.split(r"(?:^|(?<=/))(?:\*\*(?:/+|$))+", pattern, maxsplit=1)  # at the first **
    if not after:
        for path in glob.iglob(pattern):
            suffix = os.path.splitext(path)[1].lower()
            is_container = suffix in CONTAINERS and pattern.lower().endswith(suffix)
            is_folder = os.path.isdir(path)
            if (is_container and not is_folder) or is_photo(path, search, is_folder):
                yield path
            elif is_folder and not is_searched:
                search.files.setdefault(os.path.abspath(path), "folder")
        return
    for root in glob.iglob(before) if before else ["."]:
        for folder in walk(root):
            inner = os.path.join(glob.escape(folder), after[0] or "*")
            yield from photos_matching(inner, search, is_searched=True)


def is_photo(path: str, search: Search, is_folder: bool) -> bool:
    """Whether a path of a folder is a photo to be drawn; what is none, and no plain folder, is noted."""
    name = os.path.basename(path)
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
    search.add(path, kind)
    return False


def required(photos: Iterable[T], complaint: str, search: Search) -> Iterator[T]:
    """The same photos.

    Raises PhotoError, which begins with `complaint` and names what there is instead, where there are none.
    """
    is_empty = True
    for photo in photos:
        is_empty = False
        yield photo
    if is_empty:
        kinds = search.kinds()
        others = passed_over_text(kinds)
        also = f" ({others})" if others else ""
        held = [suffix for suffix in CONTAINERS if kinds[suffix]]
        advice = f"; an archive or a table is named itself, as in *{held[0]}" if held else ""
        raise PhotoError(f"{complaint}{also}{advice}; looked for {' '.join(SUFFIXES)}")


def read_list(path: Path, search: Search) -> Iterator[Source]:
    """The photos in a text file, one path or address a line, relative to the file; # begins a comment.

    Raises PhotoError where the file cannot be read, names no photos, or is no list of them.
    """
    content = read_named(path, most=MOST_LIST, noun="list")
    for name in listed_paths(content, path, (*SUFFIXES, *CONTAINERS)):
        if isinstance(name, Path) and not name.name.lower().endswith(CONTAINERS):
            yield name
        else:
            yield from photos_in(str(name), search, is_list=False)


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
