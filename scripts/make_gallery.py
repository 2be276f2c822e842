"""The gallery of docs/gallery.md: six explorers, each opened with a question, and a jpg of what it shows.

    python scripts/make_gallery.py [FOLDER]

FOLDER is docs/gallery unless another is given.  Photos: samples of scikit-image in the public domain or under
CC0, and pictures that attnvis draws itself; so all of it may be passed on.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

import attnvis
from attnvis.data import stimuli
from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.render.overlays import resize_longest_side

SHOWN = 440  # pixels of the long side of the small pictures
MOST = 2_500_000  # bytes of all of it together
SIZE = 448  # pixels of the network's input
CLASSES = 24  # that an explorer holds

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True)
class Scene:
    """One explorer: its file's name, what it shows, what it asks."""

    name: str
    photo: Callable[[], str | Image.Image]
    query: str
    scaling: str


def sample(name: str) -> Callable[[], str]:
    """One of the samples, by the name by which a reader has it too."""
    return lambda: f"samples/{name}"


def album() -> Image.Image:
    """Four samples as a square of four."""
    names = ("cat", "coffee", "astronaut", "rocket")
    tiles = [middle(load(find(f"samples/{name}")[0]).pixels, side=240) for name in names]
    rows = [np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)]
    return named(np.concatenate(rows), "album.png")


def odd_one_out() -> Image.Image:
    """49 discs, one of another colour."""
    return named(stimuli.pop_out("colour", 90.0, seed=4, size=450)[0], "odd-one-out.png")


def named(pixels: Picture, name: str) -> Image.Image:
    """A picture that says what it is called."""
    picture = Image.fromarray(pixels)
    picture.filename = name  # type: ignore[attr-defined]
    return picture


def middle(photo: Picture, side: int) -> Picture:
    """The largest square in the middle of a photo, side x side pixels."""
    short = min(photo.shape[:2])
    top, left = ((length - short) // 2 for length in photo.shape[:2])
    return resize_longest_side(np.ascontiguousarray(photo[top : top + short, left : left + short]), side)


SCENES = (
    Scene("espresso", sample("coffee"), "class:espresso - class:cup", "perplexity:0.1"),
    Scene("eye", sample("cat"), "point:186,119", "perplexity:0.06"),
    Scene("album", album, "class:tabby", "perplexity:0.1"),
    Scene("odd-one-out", odd_one_out, "rarity", "perplexity:0.05"),
    Scene("rocket", sample("rocket"), "class:missile", "perplexity:0.08"),
    Scene("divided", sample("astronaut"), "mean", "inv_sqrt_d"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/gallery"))
    folder = parser.parse_args().folder
    files: list[Path] = []
    for scene in SCENES:
        explanation = attnvis.explain(scene.photo(), scene.query, scaling=scene.scaling, size=SIZE)
        files += draw(scene, explanation, folder)
        print(f"{explanation.title}: {files[-2]}")
    total = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files, {total / 1e6:.2f} MB")
    if total > MOST:
        raise SystemExit(f"that is more than the {MOST / 1e6:g} MB that the gallery may have")


def draw(scene: Scene, explanation: Any, folder: Path) -> list[Path]:
    """The explorer and its picture, written into the folder."""
    page, picture = folder / f"{scene.name}.html", folder / f"{scene.name}.jpg"
    explanation.explore(page, classes=CLASSES)
    explanation.save(picture, longest=SHOWN, quality=80)
    return [page, picture]


if __name__ == "__main__":
    main()
