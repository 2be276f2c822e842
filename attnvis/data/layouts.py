"""How the field's data sets lie on disk: a folder in, a `Dataset` out, one function for each layout.

Fixations are where the files have them, to the pixel; those that MATLAB counts from 1 lose the 1.  What lies
beyond the photo stays in the truth, and no metric counts it.
"""

import csv as csv_files
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float, Int

from attnvis.data.samples import (
    Dataset,
    Sample,
    Sizes,
    find_photo,
    find_photos,
    list_photos,
    photo_size,
    read_grey,
)
from attnvis.data.truth import other_fixations
from attnvis.types import Box, PhotoError, Truth, UnavailableError

__all__ = ["MASK_FOLDERS", "cat2000", "classes", "coco", "csv", "masks", "mit1003", "osie", "salicon", "voc"]

FIXATIONS = frozenset({"fixations", "others"})
MASK_FOLDERS = (  # of photos, of their masks
    ("images", "masks"),
    ("images", "ground_truth_mask"),  # ECSSD
    ("Image", "Mask"),
    ("DUTS-TE-Image", "DUTS-TE-Mask"),
    ("DUTS-TR-Image", "DUTS-TR-Mask"),
    ("datasets/imgs/pascal", "datasets/masks/pascal"),  # PASCAL-S
    ("imgs/pascal", "masks/pascal"),
    ("im", "gt"),
)
SPLITS = (
    "train",
    "val",
    "train2017",
    "val2017",
    "train2014",
    "val2014",
)  # folders of photos, COCO's and SALICON's


# ---------------------------------------------------------------------------------------------- fixations


def osie(folder: Path) -> Dataset:
    """OSIE (Xu et al. 2014): stimuli/*.jpg and eye/fixations.mat as they come; or images/*.jpg and
    fixations.npz with names and, of each fixation, image (index into names), subject, x and y in pixels.

    Raises ValueError where an array is missing.
    """
    path = folder / "fixations.npz"
    if not path.exists():
        base = folder if (folder / "eye").is_dir() else folder / "data"
        return osie_as_it_comes(base)
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"names", "image", "subject", "x", "y"} - set(arrays)
        if missing:
            raise ValueError(f"{path} lacks the array {min(missing)}")
        names = tuple(arrays["names"].tolist())
        places = np.stack([arrays["y"], arrays["x"]], 1).astype(float)
        photos, observers = arrays["image"].astype(int), arrays["subject"].astype(int)
    paths = find_photos(folder, ("images", "stimuli", "."), names)
    return fixation_dataset(
        "osie", names, paths, places=places, photos=photos, observers=observers, degree=24.0
    )


def osie_as_it_comes(folder: Path) -> Dataset:
    records = read_mat(folder / "eye" / "fixations.mat")["fixations"].flatten()
    records = [record[0, 0] for record in records]
    names = tuple(str(record["img"][0]) for record in records)
    rows = []
    for photo, record in enumerate(records):
        for observer, subject in enumerate(record["subjects"].flatten()):
            gaze = subject[0, 0]
            xs, ys = gaze["fix_x"].flatten(), gaze["fix_y"].flatten()
            rows += [(photo, observer, y, x) for x, y in zip(xs, ys, strict=True)]
    table = np.array(rows, float).reshape(-1, 4)
    paths = find_photos(folder, ("stimuli",), names)
    return fixation_dataset(
        "osie",
        names,
        paths,
        places=table[:, 2:],
        photos=table[:, 0].astype(int),
        observers=table[:, 1].astype(int),
        degree=24.0,
    )


def mit1003(folder: Path) -> Dataset:
    """MIT1003 (Judd et al. 2009): ALLSTIMULI/*.jpeg, and ALLFIXATIONMAPS/ with NAME_fixPts.jpg and
    NAME_fixMap.jpg.

    The points are those pixels of _fixPts that are brighter than half; a pixel that was fixated twice counts
    once there.  (The raw gaze in DATA/ needs the authors' MATLAB to become fixations.)
    """
    paths = list_photos(folder / "ALLSTIMULI") if (folder / "ALLSTIMULI").is_dir() else []
    maps = folder / "ALLFIXATIONMAPS"
    if not paths or not maps.is_dir():
        raise ValueError(f"{folder} lacks ALLSTIMULI/ with photos, or ALLFIXATIONMAPS/, of MIT1003")
    points = [next(maps.glob(f"{path.stem}_fixPts.*"), None) for path in paths]
    blurred = [next(maps.glob(f"{path.stem}_fixMap.*"), None) for path in paths]
    return point_dataset("mit1003", folder / "ALLSTIMULI", paths, points=points, blurred=blurred, degree=35.0)


def cat2000(folder: Path) -> Dataset:
    """CAT2000's training set (Borji and Itti 2015): Stimuli/CATEGORY/001.jpg, FIXATIONLOCS/CATEGORY/001.mat
    with fixLocs, 1 where a pixel was fixated, and FIXATIONMAPS/CATEGORY/001.jpg.
    """
    base = folder if (folder / "Stimuli").is_dir() else folder / "trainSet"
    photos = base / "Stimuli"
    if not photos.is_dir() or not (base / "FIXATIONLOCS").is_dir():
        raise ValueError(f"{folder} lacks Stimuli/ or FIXATIONLOCS/ of CAT2000's training set")
    paths = [
        path for category in sorted(photos.iterdir()) if category.is_dir() for path in list_photos(category)
    ]
    inner = [path.relative_to(photos) for path in paths]
    points = [existing(base / "FIXATIONLOCS" / name.with_suffix(".mat")) for name in inner]
    blurred = [existing(base / "FIXATIONMAPS" / name) for name in inner]
    return point_dataset("cat2000", photos, paths, points=points, blurred=blurred, degree=38.0)


def salicon(folder: Path) -> Dataset:
    """SALICON (Jiang et al. 2015): images/SPLIT/*.jpg, fixations/SPLIT/*.mat with gaze, and maps/SPLIT/*.png;
    of the splits train, val the first that has fixations, or a folder of its own for each.
    """
    split = next(
        (name for name in ("train", "val", "") if any((folder / "fixations" / name).glob("*.mat"))), None
    )
    if split is None:
        raise ValueError(f"{folder} has no fixations/train/*.mat, fixations/val/*.mat or fixations/*.mat")
    files = sorted((folder / "fixations" / split).glob("*.mat"))
    rows = []
    for photo, file in enumerate(files):
        for observer, gaze in enumerate(read_mat(file)["gaze"].flatten()):
            rows += [(photo, observer, y - 1, x - 1) for x, y in np.reshape(gaze["fixations"], (-1, 2))]
    table = np.array(rows, float).reshape(-1, 4)
    paths = find_photos(folder / "images", (split, "."), [file.stem + ".jpg" for file in files])
    return fixation_dataset(
        "salicon",
        tuple(path.name for path in paths),
        paths,
        places=table[:, 2:],
        photos=table[:, 0].astype(int),
        observers=table[:, 1].astype(int),
        blurred=[existing(folder / "maps" / split / f"{file.stem}.png") for file in files],
    )


def point_dataset(
    layout: str,
    folder: Path,
    paths: Sequence[Path],
    *,
    points: Sequence[Path | None],
    blurred: Sequence[Path | None],
    degree: float,
) -> Dataset:
    """Photos with files that have a point for every fixated pixel."""
    places: list[np.ndarray] = [np.empty((0, 2))]
    photos = [np.empty(0, int)]
    for photo, file in enumerate(points):
        if file is not None:
            pixels = np.argwhere(point_mask(file)) + 0.5  # their centres
            places.append(pixels)
            photos.append(np.full(len(pixels), photo))
    return fixation_dataset(
        layout,
        tuple(path.relative_to(folder).as_posix() for path in paths),
        paths,
        places=np.concatenate(places),
        photos=np.concatenate(photos),
        blurred=blurred,
        degree=degree,
        lacking={photo for photo, file in enumerate(points) if file is None},
    )


def point_mask(file: Path) -> np.ndarray:
    if file.suffix == ".mat":
        return read_mat(file)["fixLocs"] > 0
    return read_grey(file) > 127


def fixation_dataset(
    layout: str,
    names: tuple[str, ...],
    paths: Sequence[Path],
    *,
    places: Float[np.ndarray, "F 2"],
    photos: Int[np.ndarray, " F"],
    observers: Int[np.ndarray, " F"] | None = None,
    blurred: Sequence[Path | None] = (),
    degree: float | None = None,
    lacking: frozenset[int] | set[int] = frozenset(),
) -> Dataset:
    """Photos with fixations of all of them in one table.

    blurred   files of the data set's own maps of where people looked
    lacking   numbers of photos of which there is no file of fixations
    """
    size_of = Sizes(paths)
    order = np.argsort(photos, kind="stable")
    places, photos = places[order], photos[order]
    observers = None if observers is None else observers[order]

    def read(index: int) -> Sample:
        if index in lacking:
            raise PhotoError(f"{paths[index]}: the data set has no file of its fixations")
        own = slice(*np.searchsorted(photos, [index, index + 1]))
        looks = None
        if blurred and (file := blurred[index]) is not None:
            looks = read_grey(file).astype(float)
            if looks.shape != size_of(index):
                raise PhotoError(f"{file} is {looks.shape}, its photo {size_of(index)} (height, width)")
        truth = Truth(
            size_of(index),
            fixations=places[own],
            observers=None if observers is None else observers[own],
            others=other_fixations(places, photos, index=index, size_of=size_of),
            looks=looks,
            degree=degree,
        )
        return Sample(names[index], truth, path=paths[index])

    known = FIXATIONS | ({"looks"} if any(blurred) else frozenset())
    return Dataset(layout, names, known=known, read=read, remark=lambda: size_of.remark(photos))


def read_mat(path: Path) -> dict[str, Any]:
    """A file of MATLAB's, up to version 7.  Raises UnavailableError without scipy, PhotoError for others."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UnavailableError(
            f"{path} is a file of MATLAB's; reading it needs scipy: pip install scipy"
        ) from None
    try:
        return loadmat(path)
    except (OSError, ValueError, NotImplementedError, TypeError) as error:
        raise PhotoError(f"{path} cannot be read as a file of MATLAB's: {error}") from None


def existing(path: Path) -> Path | None:
    return path if path.is_file() else None


# -------------------------------------------------------------------------------------------------- masks


def masks(folder: Path) -> Dataset:
    """Photos beside masks of the same names, as ECSSD, DUTS and PASCAL-S come; a mask is above 128 of 255.

    MASK_FOLDERS has what the two folders may be called.  Raises ValueError where there is no such pair.
    """
    for photos, others in MASK_FOLDERS:
        if (folder / photos).is_dir() and (folder / others).is_dir():
            return masks_beside(folder / photos, folder / others)
    pairs = ", ".join(f"{photos}/ and {others}/" for photos, others in MASK_FOLDERS)
    raise ValueError(f"{folder} has no photos beside masks: none of {pairs}")


def masks_beside(photos: Path, folder: Path) -> Dataset:
    paths = list_photos(photos)
    mask_of = {path.stem: path for path in list_photos(folder)}

    def read(index: int) -> Sample:
        path = paths[index]
        if path.stem not in mask_of:
            raise PhotoError(f"{path}: there is no mask of this name in {folder}")
        mask = read_grey(mask_of[path.stem]) > 128
        return Sample(path.name, Truth(mask.shape, mask=mask), path=path)

    return Dataset("masks", tuple(path.name for path in paths), known=frozenset({"mask"}), read=read)


# -------------------------------------------------------------------------------------------------- boxes


def voc(folder: Path) -> Dataset:
    """PASCAL VOC's: an XML file of boxes for each photo, in annotations/ or Annotations/ beside images/ or
    JPEGImages/.  Its corners are pixels, counted from 1, and belong to the box.
    """
    places = [folder / name for name in ("annotations", "Annotations") if (folder / name).is_dir()]
    files = sorted(places[0].glob("*.xml")) if places else []
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
        except (OSError, ElementTree.ParseError, ValueError) as error:
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


def coco(folder: Path) -> Dataset:
    """COCO's: one JSON file of all boxes, itself or the first in annotations/ or in the folder; photos beside
    it, in images/, or in a folder called by the split.  Boxes of crowds are left out.

    Raises ValueError where there is no such file, or it is none of COCO's.
    """
    given = folder.is_file()
    files = [folder] if given else sorted([*folder.glob("annotations/*.json"), *folder.glob("*.json")])
    if not files:
        raise ValueError(f"{folder} has no annotations/*.json")
    base = folder.parent if given else folder
    base = base.parent if given and base.name == "annotations" else base
    try:
        content = json.loads(files[0].read_text(encoding="utf-8"))
        images = {int(image["id"]): image for image in content["images"]}
        names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        objects = defaultdict(list)
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                left, top, width, height = map(float, annotation["bbox"])
                box = Box(top, left, height=height, width=width)
                objects[int(annotation["image_id"])].append((box, names[int(annotation["category_id"])]))
        file_names = tuple(str(image["file_name"]) for image in images.values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{files[0]} is no annotation file of COCO's: {error!r}") from None
    identities = list(images)

    def read(index: int) -> Sample:
        image, name = images[identities[index]], file_names[index]
        try:
            size = (int(image["height"]), int(image["width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PhotoError(f"{files[0]} says no height and width of {name}: {error!r}") from None
        path = find_photo(base, ("images", *SPLITS, *(f"images/{split}" for split in SPLITS), "."), name)
        boxes, labels = (
            zip(*objects[identities[index]], strict=True) if objects[identities[index]] else ((), ())
        )
        return Sample(name, Truth(size, boxes=tuple(boxes), names=tuple(labels)), path=path)

    return Dataset("coco", file_names, known=frozenset({"boxes"}), read=read)


# ------------------------------------------------------------------------------------------- one's own


def classes(folder: Path) -> Dataset:
    """Photos in folders called by their class, or called by it: tabby/1.jpg, 281/1.jpg, 281_tabby.jpg."""
    paths = sorted(path for path in folder.rglob("*") if path in set(list_photos(path.parent)))
    names = tuple(path.relative_to(folder).as_posix() for path in paths)

    def read(index: int) -> Sample:
        path = paths[index]
        category = path.parent.name if path.parent != folder else path.stem.partition("_")[0]
        return Sample(names[index], Truth(photo_size(path), category=category), path=path)

    return Dataset("classes", names, known=frozenset({"category"}), read=read)


COLUMNS = ("photo", "x", "y", "observer", "left", "top", "width", "height", "name", "mask", "class")


def csv(folder: Path) -> Dataset:
    """A table of one's own: a .csv file, or truth.csv in the folder.  Its first line names the columns.

    photo                      path, relative to the table; a photo has as many lines as there is to say of it
    x, y, observer             one fixation, in pixels of the upright photo
    left, top, width, height   one box, in pixels; name: what is in it
    mask                       path of a picture that is bright where the thing is
    class                      the photo's class: a name or an index

    An empty cell says nothing.  Raises ValueError for an unknown column, a missing one, and a line that does
    not read.
    """
    file = folder if folder.is_file() else folder / "truth.csv"
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv_files.DictReader(lines)
            columns = table.fieldnames or []
            unknown = [column for column in columns if column not in COLUMNS]
            if unknown or "photo" not in columns:
                wrong = f"the column {unknown[0]!r}" if unknown else "no column photo"
                raise ValueError(f"{file} has {wrong}; its columns are some of {', '.join(COLUMNS)}")
            rows = defaultdict(list)
            for number, row in enumerate(table, 2):
                rows[row["photo"]].append((number, {key: value for key, value in row.items() if value}))
    except (OSError, UnicodeDecodeError, csv_files.Error) as error:
        raise ValueError(f"{file} cannot be read as a table: {error}") from None
    names = tuple(rows)
    paths = [file.parent / name for name in names]
    parsed = [[parse_row(row, f"{file}, line {number}") for number, row in rows[name]] for name in names]
    looked = [[row["fixation"] for row in each if "fixation" in row] for each in parsed]
    places = np.array([place for each in looked for place in each], float).reshape(-1, 3)
    photos = np.repeat(np.arange(len(names)), [len(each) for each in looked])
    size_of = Sizes(paths)
    known = {kind for each in parsed for row in each for kind in row} - {"name"}
    known = {{"fixation": "fixations", "box": "boxes", "class": "category"}.get(kind, kind) for kind in known}
    known |= {"others"} & ({"others"} if "fixations" in known else set())

    def read(index: int) -> Sample:
        each = parsed[index]
        own = photos == index
        others = None
        if len(places):
            others = other_fixations(places[:, :2], photos, index=index, size_of=size_of)
        truth = Truth(
            size_of(index),
            fixations=places[own, :2] if own.any() else None,
            observers=places[own, 2].astype(int) if own.any() else None,
            others=others,
            mask=own_mask(file.parent, each, size_of(index)),
            boxes=tuple(row["box"] for row in each if "box" in row) or None,
            names=tuple(row.get("name", "") for row in each if "box" in row),
            category=next((row["class"] for row in each if "class" in row), ""),
        )
        return Sample(names[index], truth, path=paths[index])

    return Dataset("csv", names, known=frozenset(known), read=read, remark=lambda: size_of.remark(photos))


def parse_row(row: dict[str, str], where: str) -> dict[str, Any]:
    """What one line says: fixation (row, column, observer), box, name, mask, class.  Raises ValueError."""
    parsed: dict[str, Any] = {key: row[key] for key in ("name", "mask", "class") if key in row}
    try:
        if "x" in row or "y" in row:
            parsed["fixation"] = (float(row["y"]), float(row["x"]), float(row.get("observer", 0)))
        if row.keys() & {"left", "top", "width", "height"}:
            left, top, width, height = (float(row[key]) for key in ("left", "top", "width", "height"))
            parsed["box"] = Box(top, left, height=height, width=width)
    except KeyError as error:
        raise ValueError(f"{where}: {error.args[0]} is empty, which belongs to the others") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return parsed


def own_mask(folder: Path, rows: Sequence[dict[str, Any]], size: tuple[int, int]) -> np.ndarray | None:
    """All masks of one photo together; None without any.  Raises PhotoError where one has another size."""
    files = [folder / row["mask"] for row in rows if "mask" in row]
    parts = [read_grey(file) > 128 for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.shape != size:
            raise PhotoError(f"{file} is {part.shape}, its photo {size} (height, width)")
    return np.any(parts, axis=0) if parts else None
