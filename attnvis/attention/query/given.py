"""What the user brings: another photo, a mask of this one, a vector from a file."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnvis.attention.query.patches import (
    labels,
    mask_shares,
    named_placements,
    numbered,
    polygon_shares,
    weighted_mean,
)
from attnvis.types import Features, PhotoError, Placement, Query

__all__ = ["Exemplar", "Mask", "Outside", "Vectors", "exemplar", "look_at", "mask", "vector"]

PREPARED = "attnvis.explain does, and so does attnvis.pipeline.preparing.prepared(query, ...)"


@dataclass(frozen=True)
class Outside:
    """What a query may see beside the photo that is asked; each raises ValueError for what is none."""

    encode: Callable[[str], Iterable[Sequence[Features]]]  # photos by their name -> each one's layers
    read_mask: Callable[[str], Bool[np.ndarray, "H W"]]  # a picture's file -> where it is light
    read_vectors: Callable[[str], Float[Tensor, "Q D"]]  # a file of numbers


NUMBER = r"\s*-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*"


def exemplar(features: Features, photo: str) -> Query:
    """q = what lies in another photo: where is more of that?

    photo: a file, samples/cat; a box of it, cat.jpg,230,60,250,180, or a point, cat.jpg,120,80; a folder or a
    pattern, for the mean of its photos; run, for the mean of the run's own.  It is prepared with the network
    before the first photo (`language.prepare`), once.  Raises ValueError where that was not done.
    """
    raise ValueError(
        f"query exemplar:{photo} sees another photo, and no network was given to see it with; {PREPARED}"
    )


@dataclass(frozen=True, eq=False)
class Exemplar:
    """An exemplar that was looked at: a query function with the vectors of every layer."""

    text: str
    label: str
    vectors: dict[str, Float[Tensor, "1 1 D"]]  # by layer

    def __call__(self, features: Features) -> Query:
        vector = self.vectors[features.layer].to(features.tokens)
        return Query(
            vector.expand(len(features.tokens), -1, -1), labels(features, self.label), text=self.text
        )


def look_at(photo: str, outside: Outside) -> Exemplar:
    """The mean over the photos of their mean patch, or of the part that is meant, layer by layer."""
    name, part = part_of_photo(photo)
    totals: dict[str, Tensor] = {}
    count = 0
    for layers in outside.encode(name):
        count += 1
        for features in layers:
            vectors = part(features).vectors.double()
            totals[features.layer] = totals.get(features.layer, torch.zeros_like(vectors)) + vectors
    if not count:
        raise ValueError(f"query exemplar:{photo}: no photo could be read")
    means = {layer: total / count for layer, total in totals.items()}
    text = photo if count == 1 or name == "run" else f"{photo}, {count} photos"
    return Exemplar(f"exemplar:{photo}", label=f"as in {text}", vectors=means)


def part_of_photo(photo: str) -> tuple[str, Callable[[Features], Query]]:
    """cat.jpg,230,60,250,180 -> its file, and the query that gives its box; a file of that name is itself."""
    from attnvis.attention.query import kinds

    match = re.fullmatch(rf"(.*?)((?:,{NUMBER}){{4}}|(?:,{NUMBER}){{2}})", photo, re.DOTALL)
    if match is None or Path(photo).exists():
        return photo, kinds.mean
    numbers = [float(number) for number in match[2].split(",")[1:]]
    if len(numbers) == 2:
        return match[1], functools.partial(kinds.point, x=numbers[0], y=numbers[1])
    x, y, width, height = numbers
    return match[1], functools.partial(kinds.box, x=x, y=y, width=width, height=height)


def mask(features: Features, shape: str) -> Query:
    """q = the mean patch of a part of the photo, cells weighted by the area that they share with it.

    shape: a polygon, x,y,x,y,x,y in pixels of the original, or a picture of the photo's size that is light
    where the part is.  Raises ValueError for what is neither, PhotoError where it touches nothing of a photo
    that was seen, or a picture has another size.
    """
    corners = as_corners(shape)
    if not corners:
        raise ValueError(f"query mask:{shape} sees a file, and nobody read it; {PREPARED}")
    return part_of(features, shape, lambda placement: polygon_shares(placement, corners))


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask whose file was read: a query function."""

    shape: str
    pixels: Bool[np.ndarray, "H W"]

    def __call__(self, features: Features) -> Query:
        height, width = self.pixels.shape
        for name, placement in named_placements(features):
            if self.pixels.shape != placement.size:
                tall, wide = placement.size
                raise PhotoError(
                    f"the mask {self.shape} has {width}x{height} pixels and the photo {name} {wide}x{tall}"
                )
        query = part_of(features, self.shape, lambda placement: mask_shares(placement, self.pixels))
        return replace(query, text=f"mask:{self.shape}")


def part_of(features: Features, shape: str, shares_of: Callable[[Placement], Float[Tensor, " N"]]) -> Query:
    """The mean patch of a part of every photo; raises PhotoError where none of it was seen."""
    shares = []
    for name, placement in named_placements(features):
        areas = shares_of(placement)
        if not areas.sum() > 0:
            height, width = placement.size
            raise PhotoError(
                f"mask {shape} touches no part of the {width}x{height} photo {name} that was seen"
            )
        shares.append(areas)
    return Query(weighted_mean(features, shares), labels(features, f"mask {shape}"))


def as_corners(shape: str) -> list[tuple[float, float]]:
    """The corners (x, y) of a polygon; none for what is no list of numbers.

    Raises ValueError for numbers that make no polygon.
    """
    if not re.fullmatch(rf"{NUMBER}(,{NUMBER})*", shape):
        return []
    numbers = list(map(float, shape.split(",")))
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(
            f"a polygon is x,y,x,y,x,y: at least three corners, and {shape} is {len(numbers)} numbers"
        )
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def vector(features: Features, file: str) -> Query:
    """q = the numbers of a file, .npy or .safetensors (of one tensor): [D], or [Q, D] for several.

    It is read before the first photo, by `language.prepare`.  Raises ValueError where that was not done, and
    where the numbers are not as many as a patch has.
    """
    raise ValueError(f"query vector:{file} sees a file, and nobody read it; {PREPARED}")


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors that were read from a file: a query function."""

    file: str
    rows: Float[Tensor, "Q D"]

    def __call__(self, features: Features) -> Query:
        photos, _, channels = features.tokens.shape
        if self.rows.shape[1] != channels:
            raise ValueError(
                f"the vector of {self.file} has {self.rows.shape[1]} numbers, "
                f"and the patches of layer {features.layer} have {channels}"
            )
        vectors = self.rows.to(features.tokens).expand(photos, -1, -1)
        count = len(self.rows)
        texts = numbered(Path(self.file).name, count)
        return Query(vectors, (texts,) * photos, text=f"vector:{self.file}", marks=(None,) * count)
