"""Photos in, batches that a network can read out: `preprocess` gives a photo its size, `collate` stacks what fits together."""

import contextlib
from collections.abc import Hashable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from attnvis.data.decoding import Pixels, full_pixels, load
from attnvis.types import Batch, Box, Photo, PhotoError, Preprocessing, View

__all__ = ["collate", "preprocess", "shape_key"]

LONGEST = {
    "resize": 8,
    "crop": 64,
}  # long side : short side; a photo more elongated than this is squeezed, so that memory stays bounded


def preprocess(photo: Photo, how: Preprocessing) -> tuple[Pixels, View]:
    """The network input for a photo, in 8 bits, and where it lies on the photo.

    resize: the whole photo, short side = size, long side = size + a multiple, at most 8 x size; the aspect changes by a hair.
    crop: short side = resize, then the centre: the geometry of torchvision's Resize and CenterCrop; aspects beyond 64 are squeezed.
    letterbox: long side = size, centred on the mean colour.  stretch: both sides = size.
    """
    full, size = layout(photo.size, how)
    shift = [
        round((side - whole) / 2) for side, whole in zip(size, full, strict=True)
    ]  # negative: cut off; positive: margin
    scale = [whole / side for whole, side in zip(full, photo.size, strict=True)]
    cut, margin = [max(0, -s) for s in shift], [max(0, s) for s in shift]
    inside = [min(side, whole) for side, whole in zip(size, full, strict=True)]

    # Reduced pixels end with a partial block: less than half an input pixel at the far edge.
    enough = photo.pixels.shape[0] >= full[0] and photo.pixels.shape[1] >= full[1]
    pixels = resample(photo.pixels if enough else full_pixels(photo), full)
    pixels = pixels[cut[0] : cut[0] + size[0], cut[1] : cut[1] + size[1]]
    if pixels.shape[:2] != size:
        canvas = np.full((*size, 3), [round(255 * mean) for mean in how.mean], np.uint8)
        canvas[margin[0] : margin[0] + inside[0], margin[1] : margin[1] + inside[1]] = pixels
        pixels = canvas

    height, width = (i * side / whole for i, side, whole in zip(inside, photo.size, full, strict=True))
    seen = Box(cut[0] / scale[0], cut[1] / scale[1], height, width)
    return pixels, View((scale[0], scale[1]), (float(shift[0]), float(shift[1])), seen, size)


def layout(size: tuple[int, int], how: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the whole photo is resampled to, and the size of the input: the two differ for crop (larger) and letterbox (smaller)."""
    short, long = sorted(size)
    side, square = how.size, (how.size, how.size)
    if not 32 <= side <= 8192 or how.multiple < 1:
        raise ValueError(
            f"size {side} with multiple {how.multiple}; give a size from 32 to 8192 pixels and a multiple of at least 1"
        )
    match how.fit:
        case "resize":
            steps = min(
                round((side * long / short - side) / how.multiple),
                (LONGEST["resize"] - 1) * side // how.multiple,
            )
            sides = side, side + steps * how.multiple
        case "crop":
            first = side if how.resize is None else how.resize
            if not side <= first <= 8192:
                raise ValueError(
                    f"resize {first} before a crop of {side}; give at least the size of the crop, at most 8192"
                )
            sides = first, min(int(first * long / short), LONGEST["crop"] * first)
        case "letterbox":
            sides = max(1, round(side * short / long)), side
        case "stretch":
            sides = square
        case _:
            raise ValueError(f"there is no fit {how.fit!r}; choose resize, crop, letterbox or stretch")
    full = sides if size[0] <= size[1] else sides[::-1]
    return full, square if how.fit in ("crop", "letterbox") else full


def resample(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """First what shrinks, averaged over areas, then what grows: OpenCV antialiases only where no axis grows."""
    height, width = (min(sides) for sides in zip(pixels.shape[:2], size, strict=True))
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return (
        pixels if (height, width) == size else cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    )


def shape_key(photo: Photo, how: Preprocessing) -> Hashable:
    """Equal for photos that may share a batch: one input size and, letterboxed, one rectangle in it.  Told from sizes alone."""
    full, size = layout(photo.size, how)
    return (size, full) if how.fit == "letterbox" else size


def collate(photos: Sequence[Photo], how: Preprocessing) -> Batch:
    """(rgb / 255 - mean) / std, in channels_last memory, which convolutions prefer.  The photos share a `shape_key`."""
    fitted = [preprocess(photo, how) for photo in photos]
    sizes = {view.size: photo.name for photo, (_, view) in zip(photos, fitted, strict=True)}
    if len(sizes) != 1:
        raise ValueError(
            f"a batch has photos of one input size, not {sizes or 'none'}; group them by shape_key, or use a square fit"
        )
    table = ((np.arange(256)[:, None] / 255 - how.mean) / how.std).astype(np.float32)  # [256, 3]
    images = np.stack([cv2.LUT(pixels, table[None]) for pixels, _ in fitted])  # [B, H, W, 3]
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2), tuple(view for _, view in fitted), tuple(photos)
    )


def sample(paths: list[Path], preprocessing: "Preprocessing", count: int = 2) -> "Batch | None":
    """Photos of one shape among the first, by which engines are compared; none where there is but one photo."""
    found: list[Photo] = []
    for path in paths[:8] if len(paths) > 1 else []:
        if len(found) == count:
            break
        with contextlib.suppress(PhotoError):
            photo = load(path, short=preprocessing.size)
            if not found or shape_key(photo, preprocessing) == shape_key(found[0], preprocessing):
                found.append(photo)
    return collate(found, preprocessing) if found else None
