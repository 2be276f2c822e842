"""A data set's folder in, photos with what is known of them out: where people looked, where things are.

Each layout is a function from a folder to a `Dataset`.  Nothing but lists and small files is read before a
sample is asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from attnvis.data.truth import other_fixations
from attnvis.types import Box, PhotoError, Truth

__all__ = ["LAYOUTS", "Dataset", "Sample", "masks", "open_dataset", "osie", "voc"]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


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
        return Dataset(self.layout, names, known=self.known, read=lambda index: self.read(indices[index]))


def open_dataset(folder: str | Path, layout: str = "auto") -> Dataset:
    """The data set in a folder.

    layout   one of LAYOUTS; auto: the one whose files lie there

    Raises ValueError where there is no such folder or layout, where nothing tells the layout, and where the
    folder lacks what the layout needs.
    """
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"there is no data set {folder}")
    if layout == "auto":
        layout = guess_layout(folder)
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r} of a data set; there are {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](folder)


def guess_layout(folder: Path) -> str:
    """The first layout whose mark is there."""
    for layout, marks in MARKS.items():
        if any(next(folder.glob(mark), None) for mark in marks):
            return layout
    raise ValueError(
        f"nothing in {folder} tells the layout of a data set; give layout=, one of {', '.join(LAYOUTS)}"
    )


# ---------------------------------------------------------------------------------------------- fixations


def osie(folder: Path) -> Dataset:
    """OSIE (Xu et al. 2014): images/*.jpg, and fixations.npz with names and, of each fixation, image (index
    into names), subject, x and y in pixels.

    Raises ValueError where an array is missing.
    """
    path = folder / "fixations.npz"
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"names", "image", "subject", "x", "y"} - set(arrays)
        if missing:
            raise ValueError(f"{path} lacks the array {sorted(missing)[0]}")
        names = tuple(arrays["names"].tolist())
        places = np.stack([arrays["y"], arrays["x"]], 1).astype(float)
        photos, observers = arrays["image"].astype(int), arrays["subject"].astype(int)
    photo_of = {name: find_photo(folder, ("images", "stimuli", "."), name) for name in names}
    sizes = SizesOnDemand([photo_of[name] for name in names])

    def read(index: int) -> Sample:
        own = photos == index
        truth = Truth(
            sizes[index],
            fixations=places[own],
            observers=observers[own],
            others=other_fixations(places, photos, index=index, sizes=sizes),
            degree=24.0,
        )
        return Sample(names[index], truth, path=photo_of[names[index]])

    return Dataset("osie", names, known=frozenset({"fixations", "others"}), read=read)


# -------------------------------------------------------------------------------------------------- masks


def masks(folder: Path) -> Dataset:
    """Images beside masks of the same names, as ECSSD, DUTS and PASCAL-S come; a mask is above 128.

    The folders may be called images and masks, or as each of the three calls them.  Raises ValueError where
    there is no such pair of folders.
    """
    for photos, others in MASK_FOLDERS:
        found = [path for name in others if (path := folder / name).is_dir()]
        if (folder / photos).is_dir() and found:
            return masks_beside(folder / photos, found[0])
    pairs = ", ".join(f"{photos}/ and {others[0]}/" for photos, others in MASK_FOLDERS)
    raise ValueError(f"{folder} has no photos beside masks: none of {pairs}")


def masks_beside(photos: Path, folder: Path) -> Dataset:
    paths = list_photos(photos)
    mask_of = {path.stem: path for path in list_photos(folder)}
    names = tuple(path.name for path in paths)

    def read(index: int) -> Sample:
        path = paths[index]
        if path.stem not in mask_of:
            raise PhotoError(f"{path}: there is no mask of this name in {folder}")
        mask = read_grey(mask_of[path.stem]) > 128
        return Sample(path.name, Truth(mask.shape, mask=mask), path=path)

    return Dataset("masks", names, known=frozenset({"mask"}), read=read)


# -------------------------------------------------------------------------------------------------- boxes


def voc(folder: Path) -> Dataset:
    """PASCAL VOC's: an XML file of boxes for each photo, in annotations/ or Annotations/ beside images/ or
    JPEGImages/.  Its corners are pixels, counted from 1, and belong to the box.
    """
    files = sorted(path for name in ("annotations", "Annotations") for path in (folder / name).glob("*.xml"))
    files = list({path.resolve(): path for path in files}.values())
    if not files:
        raise ValueError(f"{folder} has no annotations/*.xml")

    def read(index: int) -> Sample:
        try:
            root = ElementTree.parse(files[index]).getroot()
            size = (int(text_of(root, "size/height")), int(text_of(root, "size/width")))
            objects = root.findall("object")
            boxes = tuple(voc_box(each) for each in objects)
            names = tuple(text_of(each, "name") for each in objects)
            name = text_of(root, "filename")
        except (ElementTree.ParseError, ValueError) as error:
            raise PhotoError(f"{files[index]} is no VOC annotation: {error}") from None
        path = find_photo(folder, ("images", "JPEGImages", "."), name, stem=files[index].stem)
        return Sample(path.name, Truth(size, boxes=boxes, names=names), path=path)

    return Dataset("voc", tuple(path.stem for path in files), known=frozenset({"boxes"}), read=read)


def voc_box(element: ElementTree.Element) -> Box:
    left, top, right, bottom = (
        float(text_of(element, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax")
    )
    return Box(top - 1, left - 1, height=bottom - top + 1, width=right - left + 1)


def text_of(element: ElementTree.Element, path: str) -> str:
    """Raises ValueError where the element lacks it."""
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"it has no {path}")
    return text.strip()


# -------------------------------------------------------------------------------------------------- files


class SizesOnDemand:
    """(height, width) of each photo, read from its header when it is first asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.known: dict[int, tuple[int, int]] = {}

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index not in self.known:
            self.known[index] = photo_size(self.paths[index])
        return self.known[index]


def photo_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright photo, by its header.  Raises PhotoError where it is none."""
    try:
        with Image.open(path) as header:
            width, height = header.size
            is_rotated = header.getexif().get(0x0112) in ROTATED
    except (OSError, UnidentifiedImageError) as error:
        raise PhotoError(f"{path} cannot be read: {error}") from None
    return (width, height) if is_rotated else (height, width)


def read_grey(path: Path) -> UInt8[np.ndarray, "H W"]:
    """A mask's or a map's file.  Raises PhotoError where it cannot be read."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise PhotoError(f"{path} cannot be read: {error}") from None


def list_photos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def find_photo(folder: Path, places: Sequence[str], name: str, stem: str | None = None) -> Path:
    """The photo of this name in one of these folders, or else of this stem with any ending.

    Raises PhotoError where there is none.
    """
    for place in places:
        if (path := folder / place / Path(name).name).is_file():
            return path
    for place in places:
        for path in (folder / place).glob(f"{stem or Path(name).stem}.*"):
            if path.suffix.lower() in ENDINGS:
                return path
    raise PhotoError(f"{folder} has no photo {name}")


LAYOUTS: dict[str, Callable[[Path], Dataset]] = {"osie": osie, "masks": masks, "voc": voc}
MASK_FOLDERS = (  # photos; masks
    ("images", ("masks", "mask", "ground_truth_mask")),
)
MARKS = {"osie": ("fixations.npz",), "voc": ("annotations/*.xml", "Annotations/*.xml"), "masks": ("masks",)}
