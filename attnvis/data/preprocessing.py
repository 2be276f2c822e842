"""Photos in, batches that a network can read out.

`preprocess` gives a photo its size, `collate` stacks what fits together.
"""

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from attnvis.data.decoding import full_pixels
from attnvis.data.pixels import Pixels
from attnvis.types import Batch, Box, Photo, PhotoError, Preprocessing, View

__all__ = ["collate", "preprocess", "sample", "shape_key"]

# Long side : short side; a photo more elongated than this is squeezed, so that memory stays bounded.
LONGEST = {"resize": 8, "crop": 64}


def preprocess(photo: Photo, how: Preprocessing) -> tuple[Pixels, View]:
    """The network input for a photo, in 8 bits [height, width, RGB], and where it lies on the photo.

    resize: the whole photo, short side = size, long side = size + a multiple, at most 8 x size; the aspect
    changes by a hair.
    crop: short side = resize, then the centre: the geometry of torchvision's Resize and CenterCrop; aspects
    beyond 64 are squeezed.
    letterbox: long side = size, centred on the mean colour.
    stretch: both sides = size.

    Raises ValueError for a fit or a size that is none, PhotoError where the photo must be read again and has
    changed.
    """
    whole, size = layout(photo.size, how)
    scale = (whole[0] / photo.size[0], whole[1] / photo.size[1])
    # Where the whole photo begins on the input; negative: so much is cut off.
    shift = (round((size[0] - whole[0]) / 2), round((size[1] - whole[1]) / 2))
    crop_top, crop_left = max(0, -shift[0]), max(0, -shift[1])
    margin_top, margin_left = max(0, shift[0]), max(0, shift[1])
    height, width = min(size[0], whole[0]), min(size[1], whole[1])  # of the part that is seen

    # Reduced pixels end with a partial block: less than half an input pixel at the far edge.
    has_enough = photo.pixels.shape[0] >= whole[0] and photo.pixels.shape[1] >= whole[1]
    pixels = resample(photo.pixels if has_enough else full_pixels(photo), whole)
    pixels = pixels[crop_top : crop_top + height, crop_left : crop_left + width]
    if pixels.shape[:2] != size:
        mean_colour = [round(255 * mean) for mean in how.mean]
        canvas = np.full((*size, 3), mean_colour, np.uint8)
        canvas[margin_top : margin_top + height, margin_left : margin_left + width] = pixels
        pixels = canvas

    seen = Box(
        top=crop_top / scale[0],
        left=crop_left / scale[1],
        height=height * photo.size[0] / whole[0],
        width=width * photo.size[1] / whole[1],
    )
    return pixels, View(scale, (float(shift[0]), float(shift[1])), seen=seen, size=size)


def layout(size: tuple[int, int], how: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the whole photo of `size` is resampled to, and the size of the input; all are (height, width).

    The two differ for crop (the photo is larger) and for letterbox (it is smaller).  Raises ValueError for a
    fit or a size that is none.
    """
    side = how.size
    if not 32 <= side <= 8192 or how.multiple < 1:
        raise ValueError(
            f"size {side} with multiple {how.multiple}; "
            "give a size from 32 to 8192 pixels and a multiple of at least 1"
        )
    short, long = sorted(size)
    match how.fit:
        case "resize":
            steps = round((side * long / short - side) / how.multiple)
            most_steps = (LONGEST["resize"] - 1) * side // how.multiple
            whole = (side, side + min(steps, most_steps) * how.multiple)
        case "crop":
            before_crop = side if how.resize is None else how.resize
            if not side <= before_crop <= 8192:
                raise ValueError(
                    f"resize {before_crop} before a crop of {side}; "
                    "give at least the size of the crop, at most 8192"
                )
            whole = (before_crop, min(int(before_crop * long / short), LONGEST["crop"] * before_crop))
        case "letterbox":
            whole = (max(1, round(side * short / long)), side)
        case "stretch":
            whole = (side, side)
        case _:
            raise ValueError(f"there is no fit {how.fit!r}; choose resize, crop, letterbox or stretch")
    if size[0] > size[1]:
        whole = whole[::-1]  # until here the short side came first
    return whole, ((side, side) if how.fit in ("crop", "letterbox") else whole)


def resample(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels at another size (height, width).

    First what shrinks, averaged over areas, then what grows: OpenCV antialiases only where no axis grows.
    """
    shrunk = (min(pixels.shape[0], size[0]), min(pixels.shape[1], size[1]))
    if pixels.shape[:2] != shrunk:
        pixels = cv2.resize(pixels, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != size:
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    return pixels


def shape_key(photo: Photo, how: Preprocessing) -> Hashable:
    """Equal for photos that may share a batch: one input size and, letterboxed, one rectangle in it.

    Found from sizes alone.  Raises ValueError for a fit or a size that is none.
    """
    whole, size = layout(photo.size, how)
    return (size, whole) if how.fit == "letterbox" else size


def collate(photos: Sequence[Photo], how: Preprocessing) -> Batch:
    """(rgb / 255 - mean) / std, in channels_last memory, which convolutions prefer.

    The photos share a `shape_key`.  Raises ValueError where their inputs differ in size, or there are none,
    and what `preprocess` raises.
    """
    inputs = [preprocess(photo, how) for photo in photos]
    views = tuple(view for _, view in inputs)
    sizes = {view.size: photo.name for photo, view in zip(photos, views, strict=True)}
    if len(sizes) != 1:
        raise ValueError(
            f"a batch has photos of one input size, not {sizes or 'none'}; "
            "group them by shape_key, or use a square fit"
        )
    images = torch.empty(len(inputs), *views[0].size, 3)  # [B, H, W, 3]
    table = level_table(how.mean, how.std)
    for image, (pixels, _) in zip(images.numpy(), inputs, strict=True):
        cv2.LUT(pixels, table, dst=image)
    return Batch(images.permute(0, 3, 1, 2), views, photos=tuple(photos))


@lru_cache(maxsize=8)
def level_table(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[np.ndarray, "1 256 3"]:
    """What becomes of every level of every channel."""
    levels = np.arange(256)[:, None] / 255
    return ((levels - mean) / std).astype(np.float32)[None]


def sample(photos: Iterable[Photo | PhotoError], how: Preprocessing) -> Batch | None:
    """Of a run's first photos those of the first one's shape, by which engines are timed and compared.

    None where there is no photo.  Raises ValueError as `collate` does.
    """
    groups: dict[Hashable, list[Photo]] = {}  # the first one's is the first
    for photo in photos:
        if isinstance(photo, Photo):
            groups.setdefault(shape_key(photo, how), []).append(photo)
    return collate(next(iter(groups.values())), how) if groups else None
