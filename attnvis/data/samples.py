"""What a data set is: photos with what is known of them, read one at a time; and its files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError

from attnvis.data.decoding import load
from attnvis.data.reading import looks_like_a_photo
from attnvis.errors import in_one_line
from attnvis.types import PhotoError, Truth

__all__ = [
    "Dataset",
    "Sample",
    "Sizes",
    "find_photo",
    "find_photos",
    "list_photos",
    "photo_size",
    "read_grey",
]

ORIENTATION = 0x0112  # of EXIF
ROTATED = (5, 6, 7, 8)  # the orientations that swap height and width
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # as PIL says it


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo, as a file or drawn, and what is known of it."""

    name: str  # within the data set: 1001.jpg, Action/001.jpg
    truth: Truth
    path: Path | None = None
    picture: UInt8[np.ndarray, "H W 3"] | None = None  # of a generated one


@dataclass(frozen=True, eq=False)
class Dataset:
    """Photos with truth, read one at a time: `dataset[i]`, or `for sample in dataset`.

    A sample whose truth cannot be read raises PhotoError; the others are not affected.
    """

    layout: str  # the name of the function that made it
    names: tuple[str, ...]  # of the samples
    known: frozenset[str]  # what is known of its photos, see Truth.known
    read: Callable[[int], Sample]
    remark: Callable[[], str] = str  # what was left out of the truths that were read so far; "" for nothing

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self.names):
            raise IndexError(f"there are {len(self.names)} samples, no number {index}")
        return self.read(index)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, range(len(self.names)))

    def chosen(self, indices: Sequence[int]) -> "Dataset":
        """Some of the samples.  What is known of the other photos stays that of the whole data set."""
        names = tuple(self.names[index] for index in indices)
        return replace(self, names=names, read=lambda index: self.read(indices[index]))


@dataclass(frozen=True, eq=False)
class Sizes:
    """(height, width) by a photo's number, read from its header when it is first asked for."""

    paths: Sequence[Path]
    read: dict[int, tuple[int, int]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)  # why a photo has none

    def __call__(self, index: int) -> tuple[int, int]:
        """Raises PhotoError where the photo cannot be read, at every call."""
        if index not in self.read and index not in self.broken:
            try:
                self.read[index] = photo_size(self.paths[index])
            except PhotoError as error:
                self.broken[index] = str(error)
        if index in self.broken:
            raise PhotoError(self.broken[index])
        return self.read[index]

    def remark(self, photos: Int[np.ndarray, " F"]) -> str:
        """How many fixations are nobody's "others"; photos: the number of each fixation's photo."""
        lost = int(np.isin(photos, list(self.broken)).sum())
        if not lost:
            return ""
        count = len(np.intersect1d(photos, list(self.broken)))
        return (
            f"{lost} of {len(photos)} fixations do not count among the other photos': the size of "
            f"{count} {'photo' if count == 1 else 'photos'} cannot be read"
        )


def photo_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright photo, by its header.  Raises PhotoError where it is none."""
    if not path.exists():
        raise PhotoError(f"there is no photo {path}, of which the data set has the truth")
    try:
        with Image.open(path) as header:
            width, height = header.size
            is_rotated = header.getexif().get(ORIENTATION) in ROTATED
    except UnidentifiedImageError:
        return load(path).size  # of what PIL does not know, as HEIC
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    return (width, height) if is_rotated else (height, width)


def read_grey(path: Path) -> UInt8[np.ndarray, "H W"]:
    """A mask's or a map's file.  Raises PhotoError where it cannot be read."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L"))
    except UNREADABLE as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> PhotoError:
    return PhotoError(f"{path} cannot be read: {in_one_line(error)}")


def list_photos(folder: Path) -> list[Path]:
    """What looks like a photo in a folder, by its name, in order.  Raises OSError where there is none."""
    return sorted(path for path in folder.iterdir() if looks_like_a_photo(str(path)))


def find_photo(folder: Path, places: Sequence[str], name: str, stem: str | None = None) -> Path:
    """The photo of this name in one of these folders, or else of this stem with any ending.

    Raises PhotoError where there is none.
    """
    for place in places:
        if (path := folder / place / Path(name).name).is_file():
            return path
    for place in places:
        for path in (folder / place).glob(f"{stem or Path(name).stem}.*"):
            if looks_like_a_photo(str(path)):
                return path
    raise PhotoError(f"{folder} has no photo {name}")


def find_photos(folder: Path, places: Sequence[str], names: Sequence[str]) -> list[Path]:
    """The photos of these names; one that is missing is where it should be, so that it alone fails when read.

    Raises PhotoError where all are missing.
    """
    paths = []
    for name in names:
        try:
            paths.append(find_photo(folder, places, name))
        except PhotoError:
            paths.append(folder / places[0] / Path(name).name)
    if names and not any(path.exists() for path in paths):
        raise PhotoError(
            f"{folder} has none of the {len(names)} photos that its fixations are of: no {paths[0]}"
        )
    return paths
