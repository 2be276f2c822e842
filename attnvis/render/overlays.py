"""A raw map and its photo in, pictures out: RGB, uint8.  The only room that rescales values for the eye.

A map holds N*a_i, "times uniform": 1 = no preference; NaN where the network never looked.  Maps, photos and pictures are rows x columns.
With its placement a map is one value per cell of the network's grid, else one per pixel.  Only what is coloured is smooth:
the cells' logarithms are interpolated bicubically, and every number stays what it is.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from attnvis.files import write_bytes
from attnvis.geometry import to_pixels
from attnvis.render.lettering import tag
from attnvis.types import Box, Placement

__all__ = ["Style", "encode", "heatmap", "level", "limits", "overlay", "write"]

# CIELAB at equal steps: cream, gold, orange, red, deep red.  Lightness falls evenly, so a grey print and the colour-blind keep
# the order, and the reddest is the strongest.  Black, purple, bright red looked well alone and was lost on dark photos.
SCORCH = ((97, -3, 20), (83, 10, 58), (69, 41, 64), (55, 68, 58), (41, 66, 52))
COLOURS = ("scorch", "turbo", "viridis", "magma", "inferno", "plasma", "cividis", "jet")
FORMATS = ("jpg", "png", "webp")

LINES = (4.0, 16.0, 64.0)  # times uniform
HATCH = (np.uint8(222), np.uint8(240))  # two light greys: far from every colour of every colour map

Mark = Box | tuple[float, float] | None


@dataclass(frozen=True)
class Style:
    """How maps look.  `times_uniform` compares between photos and runs; `min_max` stretches each photo by itself, and says so."""

    colours: str = "scorch"
    scale: str = "times_uniform"  # log2 of the map between low and high | min_max
    low: float = 1 / 4  # times uniform; what lies beyond low or high gets the end's colour
    high: float = 64.0
    opacity: float = 0.6  # at most: what is hottest stays visible, and from 24 times uniform on red on a photo of any colour
    follow: bool = True  # opacity follows the weight: none up to uniform, full from half-way to the top; False: the same everywhere
    contours: bool = True  # thin lines at 4, 16 and 64 times uniform; under min_max at a half and three quarters of the way
    marks: bool = True  # draw what was asked: the point or the box
    field: bool = False  # outline the receptive field of the cell that was asked about, or of the hottest one; say so if it is all
    format: str = "jpg"
    quality: int = 92  # of jpg and webp
    longest: int | None = None  # of the overlay's sides, in pixels; None: as large as the photo
    panel: bool = True  # photo | heatmap | overlay with its colour bar, beside the plain overlay

    def __post_init__(self) -> None:
        choices = {"colours": COLOURS, "scale": ("times_uniform", "min_max"), "format": FORMATS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is not known; choose one of {', '.join(allowed)}"
                )
        if not 0 < self.low <= 1 < self.high < float("inf"):
            raise ValueError(
                f"low {self.low} and high {self.high} do not enclose uniform; choose 0 < low <= 1 < high"
            )
        if not 0 <= self.opacity <= 1:
            raise ValueError(
                f"opacity {self.opacity} lies outside 0 (the photo alone) ... 1 (the colours alone)"
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality} lies outside 1 ... 100")
        if self.longest is not None and self.longest < 1:
            raise ValueError(
                f"longest {self.longest} leaves no pixel; give the longest side in pixels, or null for the photo's own"
            )


# ------------------------------------------------------------------------------------------------ values -> 0 ... 1


def limits(values: Float[np.ndarray, "h w"], style: Style) -> tuple[float, float]:
    """The values that get the coldest and the hottest colour; a constant map under min_max gets the middle one."""
    if style.scale == "times_uniform":
        return style.low, style.high
    low, high = float(np.fmin.reduce(values, None)), float(np.fmax.reduce(values, None))
    if high - low <= 1e-6 * abs(high):  # constant but for rounding: noise is not stretched into a picture
        return low - abs(low) - 1, high + abs(high) + 1
    return low, high


def level(values: Float[np.ndarray, "h w"], style: Style) -> Float[np.ndarray, "h w"]:
    """Where each value lies between the limits, 0 ... 1; NaN stays NaN."""
    return place(np.asarray(values, np.float32), *limits(values, style), style.scale)


def place(values: Float[np.ndarray, "h w"], low: float, high: float, scale: str) -> Float[np.ndarray, "h w"]:
    clipped = np.clip(values, low, high)
    if scale == "times_uniform":
        return np.log2(clipped / np.float32(low)) * np.float32(1 / np.log2(high / low))
    return (clipped - np.float32(low)) / np.float32(high - low)


def pixel_levels(
    values: Float[np.ndarray, "h w"], style: Style, size: tuple[int, int], placement: Placement | None = None
) -> Float[np.ndarray, "H W"]:
    """The level of every pixel of a picture of `size` (height, width), NaN where the network never looked.

    Cells that have a placement: bicubic through the levels of their centres - under times_uniform these are logarithms - and nowhere
    beyond the coldest and the hottest cell.  Without a placement, a map over pixels: stretched to the size as it is.
    """
    if placement is None:
        return level(resize(np.asarray(values, np.float32), size), style)
    cells = level(values, style)
    pixels = to_pixels(cells, placement, size, smooth=True)
    return np.clip(pixels, cells.min(), cells.max(), out=pixels)


def contours(style: Style) -> list[float]:
    """The levels at which an overlay has lines, 0 ... 1."""
    if not style.contours or style.opacity == 0:
        return []
    if style.scale == "min_max":
        return [0.5, 0.75]
    values = np.array([value for value in LINES if value < style.high])
    return (np.log2(values / style.low) / np.log2(style.high / style.low)).tolist()


# ------------------------------------------------------------------------------------------------ 0 ... 1 -> colours


@lru_cache
def colour_table(colours: str) -> UInt8[np.ndarray, "256 1 3"]:
    """Level 0 ... 255 -> RGB; applyColorMap answers in BGR, hence the turn."""
    if colours == "scorch":
        levels, points = np.linspace(0, 1, 256), np.linspace(0, 1, len(SCORCH))
        lab = np.stack([np.interp(levels, points, axis) for axis in zip(*SCORCH, strict=True)], axis=-1)
        rgb = cv2.cvtColor(lab[:, None].astype(np.float32), cv2.COLOR_Lab2RGB)
        return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)
    bgr = cv2.applyColorMap(
        np.arange(256, dtype=np.uint8)[:, None], getattr(cv2, f"COLORMAP_{colours.upper()}")
    )
    return np.ascontiguousarray(bgr[..., ::-1])


@lru_cache
def blend(style: Style) -> tuple[UInt8[np.ndarray, "256 1 3"], UInt8[np.ndarray, "256 1 3"]]:
    """(paint, keep) per level: picture = paint + photo * keep / 255."""
    levels = np.linspace(0, 1, 256)
    uniform = (
        np.log2(1 / style.low) / np.log2(style.high / style.low) if style.scale == "times_uniform" else 0.0
    )
    start = np.rint(255 * uniform) / 255
    above = np.clip(2 * (levels - start) / (1 - start), 0, 1)
    weight = np.sin(np.pi / 2 * above) if style.follow else np.ones(256)
    alpha = (style.opacity * weight)[:, None, None]
    paint, keep = colour_table(style.colours) * alpha, np.broadcast_to(255 * (1 - alpha), (256, 1, 3))
    return np.rint(paint).astype(np.uint8), np.rint(keep).astype(np.uint8)


def heatmap(
    values: Float[np.ndarray, "h w"],
    style: Style,
    placement: Placement | None = None,
    size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The map in colours, as large as the photo (or `size`, in pixels); never seen is hatched in light grey."""
    size = size or (values.shape if placement is None else placement.size)
    levels = pixel_levels(values, style, size, placement)
    picture = cv2.applyColorMap(cv2.convertScaleAbs(levels, alpha=255), colour_table(style.colours))
    unseen = np.isnan(levels)
    if unseen.any():
        rows, columns = np.ogrid[: size[0], : size[1]]
        stripe = (rows + columns) // max(3, min(size) // 60) % 2 == 0
        picture[unseen] = np.where(stripe, *HATCH)[unseen][:, None]
    return picture


def overlay(
    photo: UInt8[np.ndarray, "H W 3"],
    values: Float[np.ndarray, "h w"],
    style: Style,
    mark: Mark = None,
    size: tuple[int, int] | None = None,
    field: Box | None = None,
    placement: Placement | None = None,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photo, coloured where the attention is; greyed and dimmed where the network never looked.

    `values` are cells with their `placement`, or without one a map over pixels that covers the whole photo, stretched to it where
    the sizes differ.  `mark` and `field`, a receptive field to be outlined, are in photo coordinates; `size` is the original's
    (height, width) where `photo` was decoded reduced.
    """
    size = size or photo.shape[:2]
    photo = (
        resize_longest_side(photo, style.longest)
        if style.longest and style.longest < max(photo.shape[:2])
        else np.ascontiguousarray(photo)
    )
    levels = pixel_levels(values, style, photo.shape[:2], placement)
    indices = cv2.convertScaleAbs(levels, alpha=255)
    picture = painted(photo, indices, style)
    draw_contours(picture, indices, contours(style))
    if np.isnan(levels.min()):
        grey = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        unseen = np.isnan(levels).astype(np.uint8)
        picture = cv2.copyTo(
            cv2.addWeighted(photo, 0.15, grey, 0.35, 0), unseen, picture
        )  # mixing with grey keeps the hue
    scale = (picture.shape[0] / size[0], picture.shape[1] / size[1])
    words = ["min–max"] if style.scale == "min_max" else []
    if style.field and field is not None:
        whole = Box(0.0, 0.0, float(size[0]), float(size[1])) if placement is None else placement.seen
        if covers(field, whole):
            words.append("one cell sees all of it")
        else:
            draw_mark(picture, field, scale)
    taken = None
    if style.marks and mark is not None:
        draw_mark(picture, mark, scale)
        taken = extent(mark, picture, scale)
    if words and picture.shape[1] >= 80:
        tag(picture, " · ".join(words), taken)
    return picture


def painted(
    photo: UInt8[np.ndarray, "H W 3"], indices: UInt8[np.ndarray, "H W"], style: Style
) -> UInt8[np.ndarray, "H W 3"]:
    """The photo under the colours of its levels, 0 ... 255."""
    paint, keep = blend(style)
    bare = int(
        (keep[:, 0, 0] == 255).sum()
    )  # levels below this one leave the photo as it is: under softmax most of it
    touched = cv2.threshold(indices, bare - 1, 255, cv2.THRESH_BINARY)[1]
    left, top, width, height = cv2.boundingRect(touched)
    picture, columns = photo.copy(), slice(left, left + width)
    step = max(
        1, 2**17 // max(1, width)
    )  # rows at a time: what fits the processor's cache is three times as fast
    for start in range(top, top + height, step):
        part = slice(start, min(start + step, top + height)), columns
        below, index = photo[part], np.ascontiguousarray(indices[part])
        drawn = cv2.multiply(below, cv2.applyColorMap(index, keep), scale=1 / 255)
        picture[part] = cv2.add(drawn, cv2.applyColorMap(index, paint), dst=drawn)
    return picture


def draw_contours(
    picture: UInt8[np.ndarray, "h w 3"], indices: UInt8[np.ndarray, "h w"], levels: Iterable[float]
) -> None:
    """A thin white line where the levels (0 ... 255) pass each of `levels` (0 ... 1)."""
    width = max(1, round(min(picture.shape[:2]) / 500))
    rim = width + 2
    # with a rim, a line that leaves the picture does not come back along its edge
    beyond = cv2.copyMakeBorder(indices, rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    for level in levels:
        inside = cv2.threshold(beyond, 255 * level, 255, cv2.THRESH_BINARY)[1]
        lines = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=(-rim, -rim))[0]
        cv2.polylines(
            picture, lines, isClosed=True, color=(255, 255, 255), thickness=width, lineType=cv2.LINE_AA
        )


def covers(field: Box, seen: Box) -> bool:
    """Whether a cell can see all that the network saw, to a pixel: its outline would be a frame that says nothing."""
    return field.height >= seen.height - 1 and field.width >= seen.width - 1


def draw_mark(
    picture: UInt8[np.ndarray, "h w 3"], mark: Box | tuple[float, float], scale: tuple[float, float]
) -> None:
    """A box, or a ring with four ticks around a point: dark under light, seen on any background."""

    def spot(row: float, column: float) -> tuple[int, int]:
        # photo coordinates put a pixel's centre at .5, cv2 at 0; cv2 takes sixteenths of a pixel and (x, y)
        return round((column * scale[1] - 0.5) * 16), round((row * scale[0] - 0.5) * 16)

    width, radius = pen(picture)
    for colour, thick in (((20, 20, 20), width + max(2, width)), ((255, 255, 255), width)):
        brush: dict[str, Any] = {"color": colour, "thickness": thick, "lineType": cv2.LINE_AA, "shift": 4}
        if isinstance(mark, Box):
            (left, top), (right, bottom) = (
                spot(mark.top, mark.left),
                spot(mark.top + mark.height, mark.left + mark.width),
            )
            cv2.rectangle(
                picture, (left + 8, top + 8), (right - 8, bottom - 8), **brush
            )  # along the outermost pixels that it holds
            continue
        x, y = spot(*mark)
        cv2.circle(picture, (x, y), round(16 * radius), **brush)
        for across, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            start, end = (
                (x + round(16 * reach * across), y + round(16 * reach * down))
                for reach in (0.55 * radius, 1.7 * radius)
            )
            cv2.line(picture, start, end, **brush)


def pen(picture: UInt8[np.ndarray, "h w 3"]) -> tuple[int, float]:
    """(width of a mark's lines, radius of a point's ring) in pixels of the picture."""
    short = min(picture.shape[:2])
    return max(1, round(short / 280)), max(6.0, short / 40)


def extent(
    mark: Box | tuple[float, float], picture: UInt8[np.ndarray, "h w 3"], scale: tuple[float, float]
) -> Box:
    """What a mark takes up, in pixels of the picture."""
    width, radius = pen(picture)
    box = mark if isinstance(mark, Box) else Box(mark[0], mark[1], 0.0, 0.0)
    room = 2 * width + (0 if isinstance(mark, Box) else 1.7 * radius)
    top, left = box.top * scale[0] - room, box.left * scale[1] - room
    return Box(top, left, box.height * scale[0] + 2 * room, box.width * scale[1] + 2 * room)


def resize_longest_side(pixels: np.ndarray, side: int) -> np.ndarray:
    """The same picture or map with `side` as its longest side."""
    scale = side / max(pixels.shape[:2])
    return resize(pixels, (max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    shrinks = pixels.shape[0] > size[0] or pixels.shape[1] > size[1]
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


# ------------------------------------------------------------------------------------------------ files


def encode(pixels: UInt8[np.ndarray, "h w 3"], format: str = "jpg", quality: int = 92) -> bytes:
    """The bytes of a jpg, png or webp file.  The one place where RGB becomes the BGR that cv2 writes."""
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; choose one of {', '.join(FORMATS)}")
    settings = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "png": [],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }[format]
    bgr, data = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), None
    with suppress(cv2.error):  # versions differ in how they say no
        data = cv2.imencode(f".{format}", bgr, settings)[1]
    if data is None or not len(data):
        raise ValueError(
            f"a picture of {pixels.shape[1]}x{pixels.shape[0]} does not fit a {format} file; set longest, or use png"
        )
    return data.tobytes()


def write(path: Path, pixels: UInt8[np.ndarray, "h w 3"], quality: int = 92) -> None:
    """The suffix picks the format.  Raises OSError (disk full, no folder, no permission) and leaves nothing half-written."""
    write_bytes(path, encode(pixels, path.suffix.lower().lstrip(".").replace("jpeg", "jpg"), quality))
