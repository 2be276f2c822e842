"""The name of a generated data set in, its pictures with certain truth out, drawn when they are asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from attnvis.data import stimuli
from attnvis.data.decoding import load
from attnvis.data.layouts import classes
from attnvis.data.preprocessing import resample
from attnvis.data.samples import Dataset, Sample
from attnvis.types import PhotoError, Truth

__all__ = ["LEVELS", "generate", "ladder", "mosaics", "step_of"]

COUNT = 100  # pictures
LEVELS = {  # of each kind, if none is given: degrees of hue, of angle, times the size, items
    "colour": 60.0,
    "orientation": 30.0,
    "size": 1.6,
    "feature": 49.0,
    "conjunction": 49.0,
    "tilted": 49.0,
    "upright": 49.0,
    "scenes": 0.3,  # the share of the fixations that fall anywhere
}
TILE = 224  # pixels of a mosaic's side of one photo


def generate(text: str) -> Dataset:
    """KIND, KIND:LEVEL or KIND:LEVEL:COUNT -> pictures number 0, 1 ... COUNT - 1, the same at every call.

    colour, orientation, size              pop-out arrays, the target apart by LEVEL: see `stimuli.pop_out`
    feature, conjunction, tilted, upright  searches among LEVEL items: see `stimuli.search`
    scenes                                 a textured shape; and 60 fixations, a share LEVEL of them anywhere

    Raises ValueError for another kind, and for a level or count that is none.
    """
    kind, *numbers = text.split(":")
    if kind not in LEVELS or len(numbers) > 2:
        raise ValueError(
            f"there is no generated:{text}; write generated:KIND:LEVEL:COUNT, of {', '.join(LEVELS)}"
        )
    try:
        level = float(numbers[0]) if numbers and numbers[0] else LEVELS[kind]
        count = int(numbers[1]) if len(numbers) > 1 else COUNT
    except ValueError:
        raise ValueError(
            f"generated:{text}: LEVEL and COUNT are numbers, as in generated:colour:60:100"
        ) from None
    draw = draw_scene if kind == "scenes" else draw_array
    draw(kind, level, 0)  # a level that does not fit is told at once
    names = tuple(f"{kind}_{level:g}_{index:04d}.png" for index in range(count))

    def read(index: int) -> Sample:
        picture, truth = draw(kind, level, index)
        return Sample(names[index], truth, picture=picture)

    known = {"mask", "fixations", "others", "category"} if kind == "scenes" else {"mask", "distractors"}
    return Dataset("generated", names, known=frozenset(known), read=read)


def ladder(levels: Mapping[str, Sequence[int | float]], repeats: int) -> Dataset:
    """Arrays of each kind at each of its levels, `repeats` of each; `step_of` tells a name's kind and level.

    The arrays of two levels of a kind have no seed in common, those of two kinds at levels of equal rank the
    same seeds.  Raises ValueError for an unknown kind, a level that does not fit, and fewer than 1 repeat.
    """
    kinds = (*stimuli.KINDS, *stimuli.SEARCHES)
    if unknown := [kind for kind in levels if kind not in kinds]:
        raise ValueError(f"there are no arrays {unknown[0]!r}; levels are those of {', '.join(kinds)}")
    if repeats < 1:
        raise ValueError(f"repeats={repeats} draws no array; give 1 or more")
    arrays = [
        (kind, float(level), rank * repeats + repeat)
        for kind, of_kind in levels.items()
        for rank, level in enumerate(of_kind)
        for repeat in range(repeats)
    ]
    for kind, level, seed in arrays[::repeats]:
        draw_array(kind, level, seed)  # a level that does not fit is told at once
    names = tuple(f"{kind}_{level:g}_{seed:05d}.png" for kind, level, seed in arrays)

    def read(index: int) -> Sample:
        picture, truth = draw_array(*arrays[index])
        return Sample(names[index], truth, picture=picture)

    return Dataset("generated", names, known=frozenset({"mask", "distractors"}), read=read)


def step_of(name: str) -> tuple[str, float, int]:
    """(kind, level, seed) of an array of a ladder, by its name."""
    kind, level, seed = name.removesuffix(".png").split("_")
    return kind, float(level), int(seed)


def draw_array(kind: str, level: float, seed: int) -> tuple[UInt8[np.ndarray, "H W 3"], Truth]:
    if kind in stimuli.KINDS:
        picture, target, distractors = stimuli.pop_out(kind, level, seed=seed)
    else:
        picture, target, distractors = stimuli.search(kind, round(level), seed=seed)
    return picture, Truth(target.shape, mask=target, distractors=distractors)


def draw_scene(kind: str, level: float, seed: int) -> tuple[UInt8[np.ndarray, "H W 3"], Truth]:
    """Raises ValueError for a share that is none."""
    if not 0 <= level <= 1:
        raise ValueError(
            f"generated:{kind}:{level:g}: behind {kind}: stands the share of fixations that fall anywhere, "
            "from 0 to 1; fewer photos are taken by most=5"
        )
    picture, mask, labels = stimuli.scene(seed)
    density = (1 - level) * mask / mask.sum() + level / mask.size
    truth = Truth(
        mask.shape,
        fixations=stimuli.simulated_fixations(density, 60, seed=seed),
        # objects lie anywhere: other photos' fixations tell nothing
        others=np.random.default_rng(seed).uniform(0, mask.shape, (600, 2)),
        mask=mask,
        category=labels["shape"],
        names=tuple(labels.values()),
    )
    return picture, truth


def mosaics(folder: Path) -> Dataset:
    """Photos in folders by class -> mosaics of 2 x 2: each photo once the target, beside three of others.

    The mask is the target's tile, the category its class: a query for it has to find the tile.  Raises
    ValueError where there are fewer than four classes.
    """
    photos = classes(folder)
    categories = [photos[index].truth.category for index in range(len(photos))]
    if len(set(categories)) < 4:
        raise ValueError(f"{folder} has photos of {len(set(categories))} classes; a mosaic takes 4")

    def read(index: int) -> Sample:
        rng = np.random.default_rng(index)
        chosen = [index]
        for other in rng.permutation(len(photos)).tolist():
            if len(chosen) < 4 and categories[other] not in {categories[each] for each in chosen}:
                chosen.append(other)
        tiles = [tile_of(photos[each]) for each in chosen]
        places = rng.permutation(4).tolist()
        picture = np.zeros((2 * TILE, 2 * TILE, 3), np.uint8)
        mask = np.zeros((2 * TILE, 2 * TILE), bool)
        for tile, place in zip(tiles, places, strict=True):
            picture[square(place)] = tile
        mask[square(places[0])] = True
        return Sample(
            photos.names[index], Truth(mask.shape, mask=mask, category=categories[index]), picture=picture
        )

    return Dataset("mosaics", photos.names, known=frozenset({"mask", "category"}), read=read)


def square(place: int) -> tuple[slice, slice]:
    """Of 0 ... 3: above left, above right, below left, below right."""
    row, column = divmod(place, 2)
    return slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE)


def tile_of(sample: Sample) -> UInt8[np.ndarray, "H W 3"]:
    """The middle square of a photo, TILE pixels wide."""
    if sample.path is None:
        raise PhotoError(f"{sample.name} is no file")
    pixels = load(sample.path).pixels
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return resample(pixels[top : top + side, left : left + side], (TILE, TILE))
