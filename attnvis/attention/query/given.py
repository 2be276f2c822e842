"""What the user brings: another photo, a mask of this one, a vector from a file."""

import functools
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.query.patches import (
    labels,
    mask_shares,
    named_placements,
    polygon_shares,
    weighted_mean,
)
from attnvis.files import read_bytes
from attnvis.types import Features, PhotoError, Query

__all__ = ["Encode", "Exemplar", "exemplar", "mask", "part_of_photo", "vector"]

Encode = Callable[[str], Iterable[Sequence[Features]]]  # photos by their name -> each one's layers
NUMBER = r"\s*-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*"


def exemplar(features: Features, photo: str) -> Query:
    """q = what lies in another photo: where is more of that?

    photo: a file, samples/cat; a box of it, cat.jpg,230,60,250,180, or a point, cat.jpg,120,80; a folder or a
    pattern, for the mean of its photos; run, for the mean of the run's own.  It is prepared with the network
    before the first photo (`language.prepare`), once.  Raises ValueError where that was not done.
    """
    raise ValueError(
        f"query exemplar:{photo} sees another photo, and no network was given to see it with; "
        "attnvis.explain and attnvis.methods.exemplars.prepared give one"
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


def look_at(photo: str, encode: Encode) -> Exemplar:
    """The mean over the photos of their mean patch, or of the part that is meant, layer by layer."""
    name, part = part_of_photo(photo)
    totals: dict[str, Tensor] = {}
    count = 0
    for layers in encode(name):
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
    pixels = None if corners else read_mask(shape)
    shares = []
    for name, placement in named_placements(features):
        if pixels is not None and pixels.shape != placement.size:
            (height, width), (tall, wide) = pixels.shape, placement.size
            raise PhotoError(
                f"the mask {shape} has {width}x{height} pixels and the photo {name} {wide}x{tall}"
            )
        areas = mask_shares(placement, pixels) if pixels is not None else polygon_shares(placement, corners)
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


@functools.lru_cache(maxsize=8)
def read_mask(file: str) -> np.ndarray:
    """[height, width], whether a pixel is light.  Raises ValueError for what is no picture."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(read_bytes(Path(file)))).convert("L")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"mask {file} is neither a polygon, x,y,x,y,x,y, nor a picture that is read ({one_line(error)})"
        ) from None
    return np.asarray(picture) > 127


def vector(features: Features, file: str) -> Query:
    """q = the numbers of a file, .npy or .safetensors (of one tensor): [D], or [Q, D] for several.

    Raises ValueError where it cannot be read, and where the numbers are not as many as a patch has.
    """
    rows = read_vectors(file)
    photos, _, channels = features.tokens.shape
    if rows.shape[1] != channels:
        raise ValueError(
            f"the vector of {file} has {rows.shape[1]} numbers, "
            f"and the patches of layer {features.layer} have {channels}"
        )
    name = Path(file).name
    texts = (name,) if len(rows) == 1 else tuple(f"{name} #{number}" for number in range(1, len(rows) + 1))
    vectors = rows.to(features.tokens).expand(photos, -1, -1)
    return Query(vectors, (texts,) * photos, marks=(None,) * len(rows))


@functools.lru_cache(maxsize=8)
def read_vectors(file: str) -> Float[Tensor, "Q D"]:
    """Raises ValueError for what holds no vector."""
    try:
        content = read_bytes(Path(file))
        if file.endswith(".npy"):
            numbers = torch.from_numpy(
                np.asarray(np.load(io.BytesIO(content), allow_pickle=False), np.float64)
            )
        else:
            numbers = only_tensor(content, file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no vector can be read from {file} ({one_line(error)}); give a .npy or .safetensors"
        ) from None
    if numbers.ndim not in (1, 2) or not numbers.numel() or not numbers.isfinite().all():
        raise ValueError(
            f"{file} holds {list(numbers.shape)}; a query's vector is [D], several are [Q, D], all finite"
        )
    return numbers.reshape(-1, numbers.shape[-1])


def only_tensor(content: bytes, file: str) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if len(tensors) != 1:
        raise ValueError(f"it holds {len(tensors)} tensors, and one is wanted")
    return next(iter(tensors.values())).double()


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
