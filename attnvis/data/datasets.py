"""A data set's folder in, photos with what is known of them out: where people looked, where things are.

Nothing but lists and small files is read before a sample is asked for.
"""

from collections.abc import Callable
from pathlib import Path

from attnvis.data import layouts
from attnvis.data.generated import generate, mosaics
from attnvis.data.samples import Dataset, Sample

__all__ = ["LAYOUTS", "Dataset", "Sample", "open_dataset"]

LAYOUTS: dict[str, Callable[[Path], Dataset]] = {
    "osie": layouts.osie,
    "mit1003": layouts.mit1003,
    "cat2000": layouts.cat2000,
    "salicon": layouts.salicon,
    "voc": layouts.voc,
    "coco": layouts.coco,
    "masks": layouts.masks,
    "csv": layouts.csv,
    "classes": layouts.classes,
    "mosaics": mosaics,
}
GENERATED = "generated:"
MARKS = {  # what lies in a folder of that layout; the first that is there tells it
    "osie": ("fixations.npz", "eye/fixations.mat", "data/eye/fixations.mat"),
    "mit1003": ("ALLFIXATIONMAPS", "ALLSTIMULI"),
    "cat2000": ("FIXATIONLOCS", "trainSet/FIXATIONLOCS"),
    "salicon": ("fixations/*/*.mat", "fixations/*.mat"),
    "voc": ("annotations/*.xml", "Annotations/*.xml"),
    "coco": ("annotations/*.json", "*.json"),
    "masks": tuple(masks for _, masks in layouts.MASK_FOLDERS),
    "csv": ("truth.csv",),
    "classes": ("*/*.jpg", "*/*.jpeg", "*/*.JPEG", "*/*.png", "[0-9]*_*.jpg"),
}


def open_dataset(folder: str | Path, layout: str = "auto") -> Dataset:
    """The data set in a folder, or of a .csv or .json file; generated:KIND is drawn (`generated.generate`).

    layout   one of LAYOUTS; auto: the one whose files lie there

    Raises ValueError where there is no such folder or layout, where nothing tells the layout, and where the
    folder lacks what the layout needs.
    """
    if str(folder).startswith(GENERATED):
        return generate(str(folder).removeprefix(GENERATED))
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"there is no data set {folder}; give the folder that holds its photos and truth")
    if layout == "auto":
        layout = guess_layout(folder)
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r} of a data set; there are {', '.join(LAYOUTS)}")
    dataset = LAYOUTS[layout](folder)
    if not len(dataset):
        raise ValueError(f"{folder} holds no photos that the layout {layout} knows of")
    return dataset


def guess_layout(folder: Path) -> str:
    """The first layout whose mark is there.  Raises ValueError where there is none."""
    if folder.is_file() and folder.suffix in (".csv", ".json"):
        return {".csv": "csv", ".json": "coco"}[folder.suffix]
    for layout, marks in MARKS.items():
        if folder.is_dir() and any(next(folder.glob(mark), None) for mark in marks):
            return layout
    raise ValueError(
        f"nothing in {folder} tells the layout of a data set; give layout=, one of {', '.join(LAYOUTS)}"
    )
