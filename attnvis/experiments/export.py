"""The maps that a run kept in, files as benchmark sites and pysaliency take them out.

A map becomes a density over the photo's own pixels by the same geometry by which `attnvis evaluate` measures
it (`PlacedMap.density`): what is drawn between the cells' centres, divided by its sum; what the network never
saw has no mass.

    mit         a grey picture a photo, of the photo's size and name (MIT300, CAT2000)
    salicon     results.zip of one JSON: [{"image_id": 42, "saliency_map": base64 of a grey PNG}]
    pysaliency  log densities, in the HDF5 file of `pysaliency.HDF5Model` (Tuebingen), or as .npy files for
                `pysaliency.ModelFromDirectory`

A picture is the density divided by its largest value, never stretched to its smallest: SIM and KL would
change.
"""

import base64
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from attnvis.data.sources import APART
from attnvis.experiments.evaluate.maps import PlacedMap, Row
from attnvis.files import save, whole_file
from attnvis.json_files import read_json, write_json
from attnvis.methods.saliency import as_weights
from attnvis.pipeline.kept_maps import KeptMap, KeptPhoto, KeptRun
from attnvis.pipeline.resume import remove_file, require_own_files
from attnvis.types import PhotoError

__all__ = ["FORMATS", "Density", "Exporter", "export_run", "file_names", "grey"]

FORMATS = {"mit": ("jpg", "png", "png16", "npy"), "salicon": ("zip",), "pysaliency": ("hdf5", "npy")}
RECORD = "export.json"
AUTO = "auto"
MAPS = "maps"  # the folder of the maps
LARGEST = {"png": 255, "jpg": 255, "png16": 65535}  # of a grey picture
BLACK = 0.5  # the share of pixels whose mass is rounded to 0 above which a picture is named
REACH = 4.0  # standard deviations to which a blur reaches


@dataclass(frozen=True)
class Density:
    """What is made of a map beside its placement; each is left out at 0.

    blur     standard deviation of a Gaussian in pixels of the photo; beyond the photo there is nothing
    centre   P * C^centre of a Gaussian C in the middle, of a quarter of each side: log P + centre log C, as
             in DeepGaze
    floor    the share of a uniform density in the whole, so that no pixel has a probability of 0
    """

    between: str = "linear"
    blur: float = 0.0
    centre: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for settings beyond their range."""
        if self.between not in ("linear", "nearest"):
            raise ValueError(f"between={self.between}: give linear or nearest")
        for name, value, most in (("blur", self.blur, 1e4), ("centre", self.centre, 1e3)):
            if not 0 <= value <= most:
                raise ValueError(f"{name}={value}: give a number from 0 to {most:g}")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor={self.floor}: give a share from 0 to 1")

    def __call__(self, kept: KeptMap) -> Float[np.ndarray, "H W"]:
        """Over the photo's own pixels, of sum 1.  Raises PhotoError where nothing is left of a map."""
        placed = PlacedMap(Row(kept.name, kept.name), as_weights(kept.weights), kept.placement)
        density = np.nan_to_num(placed.density(kept.placement.size, self.between).numpy(), nan=0.0)
        if self.blur:
            density = blurred(density, self.blur)
        if self.centre:
            density = drawn_in(density, self.centre)
        total = density.sum()
        if not 0 < total < math.inf:
            raise PhotoError(f"{kept.name}: no pixel has any mass; give less blur or centre")
        density = density / total
        return (1 - self.floor) * density + self.floor / density.size


def blurred(density: Float[np.ndarray, "H W"], sigma: float) -> Float[np.ndarray, "H W"]:
    """By a Gaussian; what lies beyond the photo is 0, and what is carried there is lost."""
    places = np.arange(-math.ceil(REACH * sigma), math.ceil(REACH * sigma) + 1)
    along = np.exp(-(places**2) / (2 * sigma**2))
    kernel = along / along.sum()
    return cv2.sepFilter2D(density, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)


def drawn_in(density: Float[np.ndarray, "H W"], power: float) -> Float[np.ndarray, "H W"]:
    """Times the Gaussian of the middle to this power, the largest of them 1: far from it numbers vanish."""
    with np.errstate(divide="ignore"):
        logarithms = np.log(density) + power * log_middle(density.shape)
    highest = logarithms.max()
    return np.exp(logarithms - highest) if np.isfinite(highest) else np.zeros_like(density)


def log_middle(size: tuple[int, ...], width: float = 0.25) -> Float[np.ndarray, "H W"]:
    """The logarithm of the Gaussian of `method=centre`: its deviation is a share of each side."""
    rows, columns = (-(((np.arange(pixels) + 0.5) / pixels - 0.5) ** 2) / (2 * width**2) for pixels in size)
    return np.add.outer(rows, columns)


def grey(density: Float[np.ndarray, "H W"], largest: int) -> np.ndarray:
    """As a picture: the largest value becomes `largest`, 0 stays 0."""
    kind = np.uint8 if largest < 256 else np.uint16
    return np.rint(density * (largest / density.max())).astype(kind)


# ---------------------------------------------------------------------------------------------- which, where


def chosen_map(photo: KeptPhoto, wanted: str) -> KeptMap:
    """The map that is meant, by its question or by its label on this photo; AUTO: the only one.

    Raises ValueError that says which there are.
    """
    if wanted == AUTO and len(photo.maps) == 1:
        return photo.maps[0]
    offered = ", ".join(repr(kept.name) for kept in photo.maps)
    if wanted == AUTO:
        raise ValueError(f"{photo.path} has {len(photo.maps)} maps; choose one with map=...: {offered}")
    named = [kept for kept in photo.maps if kept.name == wanted]
    named = named or [kept for kept in photo.maps if kept.label == wanted]
    if len(named) == 1:
        return named[0]
    if named:
        raise ValueError(f"map={wanted} names {len(named)} maps of {photo.path}; it has {offered}")
    raise ValueError(f"map={wanted} is none of the maps of {photo.path}: it has {offered}")


def file_names(paths: Sequence[str]) -> list[PurePosixPath]:
    """Photos' paths without the folders that all share: the shortest names that tell them apart, as
    pysaliency and data sets in folders of categories have them.

    Raises ValueError for one that would lead out of the folder.
    """
    parts = [PurePosixPath(path.replace(APART, "/").replace("\\", "/")).parts for path in paths]
    shared = 0
    shortest = min(len(of_path) for of_path in parts)
    while shared < shortest - 1 and len({of_path[shared] for of_path in parts}) == 1:
        shared += 1
    names = []
    for of_path, path in zip(parts, paths, strict=True):
        name = PurePosixPath(*[part for part in of_path[shared:] if part not in ("/", ".")])
        if ".." in name.parts or not name.parts:
            raise ValueError(f"{path} would be written out of the folder; its name leads elsewhere")
        names.append(name)
    return names


def require_different(names: Mapping[str, str]) -> dict[str, str]:
    """Photo -> file, the same.  Raises ValueError where two photos would have one file."""
    owners: dict[str, str] = {}
    for path, name in names.items():
        other = owners.setdefault(name.lower(), path)
        if other != path:
            raise ValueError(
                f"{other} and {path} would both be {name}; export runs over them apart, or rename one"
            )
    return dict(names)


def image_number(name: PurePosixPath) -> int:
    """COCO_val2014_000000000042.jpg -> 42.  Raises ValueError for a name without a number."""
    number = re.search(r"(?:^|_)([0-9]{1,15})$", name.stem, re.ASCII)
    if not number:
        raise ValueError(
            f"{name} has no number; format=salicon knows photos by it, as in COCO_val2014_000042.jpg"
        )
    return int(number[1])


# ------------------------------------------------------------------------------------------------- the files


class Pictures:
    """A file a photo: grey pictures, or arrays."""

    def __init__(self, folder: Path, kind: str, logarithm: bool) -> None:
        self.folder, self.kind, self.logarithm = folder, kind, logarithm

    def name(self, photo: PurePosixPath) -> str:
        suffix = "png" if self.kind == "png16" else self.kind
        return f"{MAPS}/{photo.with_suffix('')}.{suffix}"

    def add(self, name: str, density: Float[np.ndarray, "H W"]) -> None:
        save(self.folder, name, encoded(density, self.kind, self.logarithm))

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(self, *error: Any) -> None:
        """Every file is whole already."""


class Answers:
    """results.zip, which holds results.json: written photo by photo, and never whole in memory.

    Without a photo there is no file.
    """

    FILE = "results.zip"

    def __init__(self, folder: Path) -> None:
        self.folder, self.stack = folder, ExitStack()
        self.entry: Any = None  # results.json, a file to write to, from the first photo on

    def name(self, photo: PurePosixPath) -> str:
        return str(image_number(photo))

    def add(self, name: str, density: Float[np.ndarray, "H W"]) -> None:
        picture = base64.b64encode(encoded(density, "png", logarithm=False)).decode()
        row = json.dumps({"image_id": int(name), "saliency_map": picture})
        before = ", " if self.entry else "["
        self.opened().write(f"{before}{row}".encode())

    def opened(self) -> Any:
        if self.entry is None:
            part = self.stack.enter_context(whole_file(self.folder / self.FILE))
            archive = self.stack.enter_context(zipfile.ZipFile(part, "w"))
            information = zipfile.ZipInfo("results.json", date_time=(1980, 1, 1, 0, 0, 0))
            information.compress_type = zipfile.ZIP_DEFLATED
            self.entry = self.stack.enter_context(archive.open(information, "w", force_zip64=True))
        return self.entry

    def __enter__(self) -> "Answers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self.entry is not None:
            self.stack.callback(self.entry.write, b"]")  # before the entry is closed; what fails is removed
        self.stack.__exit__(kind, error, trace)


class LogDensities:
    """log_densities.hdf5: a dataset a photo, under its name, as pysaliency's own export has them.

    Raises ValueError where h5py is not installed.
    """

    FILE = "log_densities.hdf5"

    def __init__(self, folder: Path) -> None:
        try:
            import h5py
        except ModuleNotFoundError:
            raise ValueError(
                "an HDF5 file needs h5py: pip install 'attnvis[hdf5]'; or give kind=npy, "
                "which pysaliency.ModelFromDirectory reads"
            ) from None
        self.open: Callable[[Path], Any] = lambda path: h5py.File(path, "w")
        self.folder, self.stack = folder, ExitStack()

    def name(self, photo: PurePosixPath) -> str:
        return str(photo)

    def add(self, name: str, density: Float[np.ndarray, "H W"]) -> None:
        values = as_logarithms(density)
        self.file.create_dataset(name, data=values, compression=4)

    def __enter__(self) -> "LogDensities":
        with ExitStack() as stack:
            part = stack.enter_context(whole_file(self.folder / self.FILE))
            self.file = stack.enter_context(self.open(part))
            self.stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.__exit__(kind, error, trace)


def as_logarithms(density: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Natural logarithms in float32, -inf where there is no mass."""
    with np.errstate(divide="ignore"):
        return np.log(density).astype(np.float32)


def encoded(density: Float[np.ndarray, "H W"], kind: str, logarithm: bool) -> bytes:
    """A density as a file of this kind."""
    if kind == "npy":
        content = io.BytesIO()
        values = as_logarithms(density) if logarithm else density.astype(np.float32)
        np.save(content, values, allow_pickle=False)
        return content.getvalue()
    quality = [cv2.IMWRITE_JPEG_QUALITY, 100] if kind == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 4]
    suffix = ".jpg" if kind == "jpg" else ".png"
    return cv2.imencode(suffix, grey(density, LARGEST[kind]), quality)[1].tobytes()


# ------------------------------------------------------------------------------------------------ all photos


@dataclass
class Exporter:
    """What is exported, and what became of it.

    kind      how a map is written: one of FORMATS[format]; AUTO: the first of them
    wanted    the name of the map; AUTO: the only one that a photo has
    failures  reason -> photos
    dark      pictures in which most of the pixels that have mass are rounded to 0
    empty     photos with pixels of no mass, whose log density is -inf
    """

    folder: Path
    format: str
    kind: str
    density: Density
    wanted: str = AUTO
    done: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    dark: int = 0
    empty: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a format or a kind of file that there is not."""
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format}: there are {', '.join(FORMATS)}")
        kinds = FORMATS[self.format]
        self.kind = kinds[0] if self.kind == AUTO else self.kind
        if self.kind not in kinds:
            raise ValueError(f"kind={self.kind}: format={self.format} takes {', '.join(kinds)}")

    def writer(self) -> "Pictures | Answers | LogDensities":
        if self.kind == "zip":
            return Answers(self.folder)
        if self.kind == "hdf5":
            return LogDensities(self.folder)
        return Pictures(self.folder, self.kind, logarithm=self.format == "pysaliency")

    def fail(self, reason: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def density_of(self, photo: str, kept: KeptMap) -> Float[np.ndarray, "H W"]:
        """Raises PhotoError, with the photo's name."""
        try:
            return self.density(kept)
        except PhotoError as error:
            raise PhotoError(f"{photo}: {error}") from None

    def add(
        self, writer: "Pictures | Answers | LogDensities", name: str, density: Float[np.ndarray, "H W"]
    ) -> None:
        if self.format == "pysaliency":
            self.empty += int((density == 0).any())
        elif self.kind != "npy":
            picture = grey(density, LARGEST.get(self.kind, 255))
            self.dark += int((picture[density > 0] == 0).mean() > BLACK)
        writer.add(name, density)
        self.done += 1

    def remarks(self) -> list[str]:
        """What somebody should know before the files are sent anywhere."""
        texts = []
        if self.dark:
            finer = "; kind=png16 keeps more" if self.format == "mit" and self.kind != "png16" else ""
            texts.append(
                f"{counted(self.dark)}: more than half of the pixels that have mass are black{finer}"
            )
        if self.empty:
            texts.append(
                f"{counted(self.empty)}: some pixels have no mass, and a log density of -inf: one fixation "
                "there costs everything; floor=0.01 gives them a uniform share"
            )
        return texts


def counted(photos: int) -> str:
    return f"{photos} photo{'s' * (photos != 1)}"


def export_run(
    run: KeptRun,
    exporter: Exporter,
    record: Mapping[str, Any],
    watch: Callable[[Iterable[KeptPhoto], int], Iterable[KeptPhoto]] = lambda photos, total: photos,
) -> list[Path]:
    """Writes every photo's map; gives the files, or the folder of many.

    record   what export.json is to say beside the names of the files

    Raises ValueError where the folder holds files of somebody else, where two photos would have one file,
    and where a map has to be chosen; OSError where there is no room.
    """
    writer = exporter.writer()
    names = dict(zip(run.photos, file_names(run.photos), strict=True))
    files = require_different({path: writer.name(name) for path, name in names.items()})
    written = sorted(files.values()) if isinstance(writer, Pictures) else [writer.FILE]
    first = next((photo for photo in run if not photo.failure), None)
    if first is None:
        raise ValueError(f"{run.folder} has no photo whose maps can be read; run again to make them")
    chosen_map(first, exporter.wanted)  # before anything is removed
    clear(exporter.folder)
    write_json(exporter.folder, RECORD, dict(record) | {"files": written})
    with writer:
        for photo in watch(run, len(run)):
            try:
                if photo.failure:
                    raise PhotoError(photo.failure)
                kept = chosen_map(photo, exporter.wanted)
                density = exporter.density_of(photo.path, kept)
            except ValueError as error:  # a photo without this map is left out, as one that failed
                exporter.fail(str(error))
                continue
            exporter.add(writer, files[photo.path], density)
    if isinstance(writer, Pictures):
        return [exporter.folder / MAPS]
    return [exporter.folder / writer.FILE]


def clear(folder: Path) -> None:
    """What an earlier export left here is removed.

    Raises ValueError where there is something else in the place of what is to be written.
    """
    require_own_files(folder, files=(RECORD, Answers.FILE, LogDensities.FILE), folders=(MAPS,))
    try:
        before = read_json(folder / RECORD)["files"] if (folder / RECORD).is_file() else []
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / RECORD} is damaged; export into another folder") from None
    present = {str(path.relative_to(folder)) for path in (folder / MAPS).rglob("*") if not path.is_dir()}
    present |= {name for name in (Answers.FILE, LogDensities.FILE) if (folder / name).is_file()}
    if strange := sorted(present - set(before)):
        raise ValueError(f"{folder / strange[0]} is not of an earlier export; export into another folder")
    for name in sorted(present):
        remove_file(folder, name)
