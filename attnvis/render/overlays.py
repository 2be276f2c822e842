"""A raw map and its photo in, pictures out: RGB, uint8.  The only room that rescales values for the eye.

A map holds N*a_i, "times uniform": 1 = no preference; NaN where the network never looked.  Maps, photos and
pictures are rows x columns.  With its placement a map is one value per cell of the network's grid, else one
per pixel.  Only what is coloured is smooth: the cells' logarithms are interpolated bicubically, and every
number stays what it is.
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
from attnvis.render.lettering import draw_label
from attnvis.types import Box, Placement

__all__ = ["Style", "at_most", "encode", "heatmap", "limits", "overlay", "pixel_levels", "to_levels", "write"]

# CIELAB at equal steps: cream, gold, orange, red, deep red.  Lightness falls evenly, so a grey print and the
# colour-blind keep the order, and the reddest is the strongest.  Black, purple, bright red looked well alone
# and was lost on dark photos.
SCORCH = ((97, -3, 20), (83, 10, 58), (69, 41, 64), (55, 68, 58), (41, 66, 52))
D65 = np.array([0.950456, 1, 1.088754])  # the white of sRGB in CIE XYZ
XYZ_TO_RGB = np.array(
    [[3.240479, -1.53715, -0.498535], [-0.969256, 1.875991, 0.041556], [0.055648, -0.204043, 1.057311]]
)
COLOURS = ("scorch", "turbo", "viridis", "magma", "inferno", "plasma", "cividis", "jet")
FORMATS = ("jpg", "png", "webp")

BEYOND_CHANCE = (70, 200, 255)  # RGB, of the outline of what no chance gives
LINES = (4.0, 16.0, 64.0)  # times uniform
HATCH = (np.uint8(222), np.uint8(240))  # two light greys: far from every colour of every colour map

Mark = Box | tuple[float, float] | None


@dataclass(frozen=True)
class Style:
    """How maps look.  Raises ValueError for a setting that is none.

    The scale `times_uniform` compares between photos and runs; `min_max` stretches each photo by itself, and
    says so.
    """

    colours: str = "scorch"
    scale: str = "times_uniform"  # log2 of the map between low and high | min_max
    low: float = 1 / 4  # times uniform; what lies beyond low or high gets the end's colour
    high: float = 64.0
    # At most: what is hottest stays visible, and from 24 times uniform on red on a photo of any colour.
    opacity: float = 0.6
    # It follows the weight: none up to uniform, full from half-way to the top.  False: the same everywhere.
    follow: bool = True
    # Thin lines at 4, 16 and 64 times uniform; under min_max at a half and three quarters of the way.
    contours: bool = True
    marks: bool = True  # draw what was asked: the point or the box
    # Outline the receptive field of the cell that was asked about, or of the hottest; say so if it is all.
    field: bool = False
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
                f"longest {self.longest} leaves no pixel; "
                "give the longest side in pixels, or null for the photo's own"
            )


# ------------------------------------------------------------------------------------------ values -> 0 ... 1


def limits(values: Float[np.ndarray, "h w"], style: Style) -> tuple[float, float]:
    """The values that get the coldest and the hottest colour.

    A constant map under min_max gets the middle one.
    """
    if style.scale == "times_uniform":
        return style.low, style.high
    low, high = float(np.fmin.reduce(values, None)), float(np.fmax.reduce(values, None))
    if high - low <= 1e-6 * abs(high):  # constant but for rounding: noise is not stretched into a picture
        return low - abs(low) - 1, high + abs(high) + 1
    return low, high


def to_levels(values: Float[np.ndarray, "h w"], style: Style) -> Float[np.ndarray, "h w"]:
    """Where each value lies between the limits, 0 ... 1; NaN stays NaN."""
    low, high = limits(values, style)
    clipped = np.clip(np.asarray(values, np.float32), low, high)
    if style.scale == "times_uniform":
        return np.log2(clipped / np.float32(low)) * np.float32(1 / np.log2(high / low))
    return (clipped - np.float32(low)) / np.float32(high - low)


def octave_level(value: Any, style: Style) -> Any:
    """Where a value, or an array of them, lies between the limits of a times-uniform style.

    Beyond 0 ... 1 outside of them.
    """
    return np.log2(value / style.low) / np.log2(style.high / style.low)


def pixel_levels(
    values: Float[np.ndarray, "h w"], style: Style, size: tuple[int, int], placement: Placement | None = None
) -> Float[np.ndarray, "H W"]:
    """The level, 0 ... 1, of every pixel of a picture of `size` (height, width); NaN where it never looked.

    Cells that have a placement: bicubic through the levels of their centres - under times_uniform these are
    logarithms - and nowhere beyond the coldest and the hottest cell.  Without a placement, a map over pixels:
    stretched to the size as it is.
    """
    if placement is None:
        return to_levels(resize(np.asarray(values, np.float32), size), style)
    cells = to_levels(values, style)
    pixels = to_pixels(cells, placement, size=size, smooth=True)
    return np.clip(pixels, cells.min(), cells.max(), out=pixels)


def contour_levels(style: Style) -> list[float]:
    """The levels at which an overlay has lines, 0 ... 1."""
    if not style.contours or style.opacity == 0:
        return []
    if style.scale == "min_max":
        return [0.5, 0.75]
    values = np.array([value for value in LINES if value < style.high])
    return octave_level(values, style).tolist()


# ----------------------------------------------------------------------------------------- 0 ... 1 -> colours


@lru_cache
def colour_table(colours: str) -> UInt8[np.ndarray, "256 1 3"]:
    """Level 0 ... 255 -> RGB; applyColorMap answers in BGR, hence the turn."""
    if colours == "scorch":
        levels = np.linspace(0, 1, 256)
        steps = np.linspace(0, 1, len(SCORCH))
        channels = [np.interp(levels, steps, channel) for channel in zip(*SCORCH, strict=True)]
        rgb = lab_to_rgb(np.stack(channels, axis=-1))
        return np.rint(255 * rgb).astype(np.uint8)[:, None]
    number = getattr(cv2, f"COLORMAP_{colours.upper()}")
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)
    return np.ascontiguousarray(bgr[..., ::-1])


def lab_to_rgb(lab: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """CIELAB under D65 -> sRGB (IEC 61966-2-1), 0 ... 1, clipped.

    By hand: OpenCV takes a tenth of a second for the tables of its first conversion.
    """
    y = (lab[:, 0] + 16) / 116
    roots = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], axis=-1)
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * D65
    linear = np.clip(xyz @ XYZ_TO_RGB.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache
def blend_tables(style: Style) -> tuple[UInt8[np.ndarray, "256 1 3"], UInt8[np.ndarray, "256 1"]]:
    """(paint, keep) per level 0 ... 255: picture = paint + photo * keep / 255."""
    levels = np.linspace(0, 1, 256)
    weights = np.ones(256)
    if style.follow:
        uniform = octave_level(1, style) if style.scale == "times_uniform" else 0.0
        start = np.rint(255 * uniform) / 255
        above = np.clip(2 * (levels - start) / (1 - start), 0, 1)
        weights = np.sin(np.pi / 2 * above)
    alpha = (style.opacity * weights)[:, None]
    paint = colour_table(style.colours) * alpha[..., None]
    return np.rint(paint).astype(np.uint8), np.rint(255 * (1 - alpha)).astype(np.uint8)


def heatmap(
    values: Float[np.ndarray, "h w"],
    style: Style,
    placement: Placement | None = None,
    size: tuple[int, int] | None = None,
    levels: Float[np.ndarray, "_ _"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The map in colours, as large as the photo or of `size` (height, width); hatched where never seen.

    `levels`: its `pixel_levels` at some size, taken if it is this one.
    """
    size = size or (values.shape if placement is None else placement.size)
    if levels is None or levels.shape != size:
        levels = pixel_levels(values, style, size=size, placement=placement)
    picture = cv2.applyColorMap(cv2.convertScaleAbs(levels, alpha=255), colour_table(style.colours))
    if np.isnan(levels.min()):
        unseen = np.isnan(levels)
        rows, columns = np.ogrid[: size[0], : size[1]]
        stripe_width = max(3, min(size) // 60)
        is_even_stripe = (rows + columns) // stripe_width % 2 == 0
        picture[unseen] = np.where(is_even_stripe, *HATCH)[unseen][:, None]
    return picture


def overlay(
    photo: UInt8[np.ndarray, "H W 3"],
    values: Float[np.ndarray, "h w"],
    style: Style,
    mark: Mark = None,
    size: tuple[int, int] | None = None,
    field: Box | None = None,
    placement: Placement | None = None,
    excess: Float[np.ndarray, "h w"] | None = None,
    levels: Float[np.ndarray, "_ _"] | None = None,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photo, coloured where the attention is; greyed and dimmed where the network never looked.

    `values` are cells with their `placement`, or without one a map over pixels that covers the whole photo,
    stretched to it where the sizes differ.  `mark` and `field`, a receptive field to be outlined, are in
    photo coordinates; `size` is the original's (height, width) where `photo` was decoded reduced.
    `excess`, cells as `values` are, is outlined in blue where it is above 0: where a map is no chance.
    `levels`: its `pixel_levels` at some size, taken if it is the picture's.
    """
    size = size or photo.shape[:2]
    photo = np.ascontiguousarray(at_most(photo, style.longest))
    if levels is None or levels.shape != photo.shape[:2]:
        levels = pixel_levels(values, style, size=photo.shape[:2], placement=placement)
    indices = cv2.convertScaleAbs(levels, alpha=255)
    picture = paint(photo, indices, style=style)
    draw_contours(picture, indices, levels=contour_levels(style))
    if excess is not None and placement is not None and style.contours:
        draw_outline(picture, excess, placement)
    if np.isnan(levels.min()):
        unseen = np.isnan(levels).astype(np.uint8)
        picture = cv2.copyTo(dimmed(photo), unseen, picture)

    scale = (picture.shape[0] / size[0], picture.shape[1] / size[1])
    words = ["min–max"] if style.scale == "min_max" else []
    if style.field and field is not None:
        whole = Box(0.0, 0.0, float(size[0]), float(size[1])) if placement is None else placement.seen
        if covers(field, whole):
            words.append("one cell sees all of it")
        else:
            draw_mark(picture, field, scale=scale)
    taken = None
    if style.marks and mark is not None:
        draw_mark(picture, mark, scale=scale)
        taken = mark_extent(picture, mark, scale=scale)
    if words and picture.shape[1] >= 80:
        draw_label(picture, " · ".join(words), taken=taken)
    return picture


def paint(
    photo: UInt8[np.ndarray, "H W 3"], indices: UInt8[np.ndarray, "H W"], style: Style
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the photo under the colours of its levels, `indices` 0 ... 255."""
    paint_table, keep_table = blend_tables(style)
    # Levels below the first that paints leave the photo as it is: under softmax most of it.
    first_painted = int((keep_table == 255).sum())
    is_painted = cv2.threshold(indices, first_painted - 1, 255, cv2.THRESH_BINARY)[1]
    left, top, width, height = cv2.boundingRect(is_painted)
    picture = photo.copy()
    # Rows at a time: what fits the processor's cache is three times as fast.
    step = max(1, 2**17 // max(1, width))
    for start in range(top, top + height, step):
        stop = min(start + step, top + height)
        part = (slice(start, stop), slice(left, left + width))
        index = np.ascontiguousarray(indices[part])
        keep = cv2.cvtColor(cv2.LUT(index, keep_table), cv2.COLOR_GRAY2RGB)
        kept = cv2.multiply(photo[part], keep, scale=1 / 255, dst=keep)
        picture[part] = cv2.add(kept, cv2.applyColorMap(index, paint_table), dst=kept)
    return picture


def dimmed(photo: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Half as bright, and greyer: mixing with grey keeps the hue."""
    grey = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(photo, 0.15, grey, 0.35, 0)


def draw_contours(
    picture: UInt8[np.ndarray, "h w 3"], indices: UInt8[np.ndarray, "h w"], levels: Iterable[float]
) -> None:
    """A thin white line where the `indices` (0 ... 255) pass each of `levels` (0 ... 1)."""
    width = max(1, round(min(picture.shape[:2]) / 500))
    # With a rim, a line that leaves the picture does not come back along its edge.
    rim = width + 2
    with_rim = cv2.copyMakeBorder(indices, rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    for level in levels:
        above = cv2.threshold(with_rim, 255 * level, 255, cv2.THRESH_BINARY)[1]
        lines = cv2.findContours(above, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=(-rim, -rim))[0]
        cv2.polylines(
            picture, lines, isClosed=True, color=(255, 255, 255), thickness=width, lineType=cv2.LINE_AA
        )


def draw_outline(
    picture: UInt8[np.ndarray, "h w 3"], excess: Float[np.ndarray, "r c"], placement: Placement
) -> None:
    """A blue line, dark at its sides, around the tiles of all cells above 0: of what lies between two cells
    nothing was tested.
    """
    width = max(2, round(min(picture.shape[:2]) / 200))
    down, across = picture.shape[0] / placement.size[0], picture.shape[1] / placement.size[1]
    tiles = np.zeros(picture.shape[:2], np.uint8)
    for row, column in np.argwhere(excess > 0).tolist():
        tile = placement.tile(row, column)
        top, left = max(0, round(tile.top * down)), max(0, round(tile.left * across))
        bottom = max(0, round((tile.top + tile.height) * down))
        tiles[top:bottom, left : max(0, round((tile.left + tile.width) * across))] = 1
    rim = 2 * width + 2
    above = cv2.copyMakeBorder(tiles, rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    lines = cv2.findContours(above, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=(-rim, -rim))[0]
    for colour, thickness in (((20, 20, 20), width + 2), (BEYOND_CHANCE, width)):
        cv2.polylines(picture, lines, isClosed=True, color=colour, thickness=thickness, lineType=cv2.LINE_AA)


# ------------------------------------------------------------------------------------------------------ marks


def covers(field: Box, seen: Box) -> bool:
    """Whether a cell can see all that the network saw, to a pixel.

    Its outline would be a frame that says nothing.
    """
    return field.height >= seen.height - 1 and field.width >= seen.width - 1


def draw_mark(
    picture: UInt8[np.ndarray, "h w 3"], mark: Box | tuple[float, float], scale: tuple[float, float]
) -> None:
    """A box, or a ring with four ticks around a point: dark under light, seen on any background.

    The mark is in photo coordinates, of which `scale` (rows, columns) makes pixels of the picture.
    """
    width, radius = mark_sizes(picture)
    for colour, thickness in (((20, 20, 20), width + max(2, width)), ((255, 255, 255), width)):
        brush = {"color": colour, "thickness": thickness, "lineType": cv2.LINE_AA, "shift": 4}
        if isinstance(mark, Box):
            draw_box(picture, mark, scale=scale, brush=brush)
        else:
            draw_ring(picture, sixteenths(*mark, scale=scale), radius=radius, brush=brush)


def draw_box(
    picture: UInt8[np.ndarray, "h w 3"], box: Box, scale: tuple[float, float], brush: dict[str, Any]
) -> None:
    """Along the outermost pixels that the box holds."""
    left, top = sixteenths(box.top, box.left, scale=scale)
    right, bottom = sixteenths(box.top + box.height, box.left + box.width, scale=scale)
    cv2.rectangle(picture, (left + 8, top + 8), (right - 8, bottom - 8), **brush)


def draw_ring(
    picture: UInt8[np.ndarray, "h w 3"], centre: tuple[int, int], radius: float, brush: dict[str, Any]
) -> None:
    """A ring with four ticks through it; `centre` (x, y) in sixteenths, `radius` in pixels of the picture."""
    x, y = centre
    cv2.circle(picture, (x, y), round(16 * radius), **brush)
    inner, outer = 0.55 * radius, 1.7 * radius
    for across, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        start = (x + round(16 * inner * across), y + round(16 * inner * down))
        end = (x + round(16 * outer * across), y + round(16 * outer * down))
        cv2.line(picture, start, end, **brush)


def sixteenths(row: float, column: float, scale: tuple[float, float]) -> tuple[int, int]:
    """Photo coordinates -> (x, y) in sixteenths of a pixel, as cv2 takes them with shift=4.

    Photo coordinates put a pixel's centre at .5, cv2 at 0.
    """
    return round((column * scale[1] - 0.5) * 16), round((row * scale[0] - 0.5) * 16)


def mark_sizes(picture: UInt8[np.ndarray, "h w 3"]) -> tuple[int, float]:
    """(width of a mark's lines, radius of a point's ring) in pixels of the picture."""
    short = min(picture.shape[:2])
    return max(1, round(short / 280)), max(6.0, short / 40)


def mark_extent(
    picture: UInt8[np.ndarray, "h w 3"], mark: Box | tuple[float, float], scale: tuple[float, float]
) -> Box:
    """What a mark takes up, in pixels of the picture."""
    width, radius = mark_sizes(picture)
    if isinstance(mark, Box):
        box = mark
        room = 2.0 * width
    else:
        box = Box(mark[0], mark[1], height=0.0, width=0.0)
        room = 2 * width + 1.7 * radius
    return Box(
        top=box.top * scale[0] - room,
        left=box.left * scale[1] - room,
        height=box.height * scale[0] + 2 * room,
        width=box.width * scale[1] + 2 * room,
    )


# ------------------------------------------------------------------------------------------------------ sizes


def at_most(pixels: np.ndarray, side: int | None) -> np.ndarray:
    """The picture itself, or as `resize_longest_side` where its longest side is longer; None: any side."""
    return pixels if side is None or side >= max(pixels.shape[:2]) else resize_longest_side(pixels, side)


def resize_longest_side(pixels: np.ndarray, side: int) -> np.ndarray:
    """The same picture or map with `side` pixels as its longest side, at least one pixel each way."""
    scale = side / max(pixels.shape[:2])
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return resize(pixels, (height, width))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same picture or map at another size (height, width): averaged where a side shrinks, else linear."""
    if pixels.shape[:2] == size:
        return pixels
    shrinks = pixels.shape[0] > size[0] or pixels.shape[1] > size[1]
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


# ------------------------------------------------------------------------------------------------------ files


def encode(pixels: UInt8[np.ndarray, "h w 3"], format: str = "jpg", quality: int = 92) -> bytes:
    """The bytes of a jpg, png or webp file.  The one place where RGB becomes the BGR that cv2 writes.

    `quality`, 1 ... 100, of jpg and webp.  Raises ValueError for another format, and for a picture that is
    too large for it.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; choose one of {', '.join(FORMATS)}")
    settings = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "png": [],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }[format]
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    data = None
    with suppress(cv2.error):  # versions differ in how they say no
        data = cv2.imencode(f".{format}", bgr, settings)[1]
    if data is None or not len(data):
        raise ValueError(
            f"a picture of {pixels.shape[1]}x{pixels.shape[0]} does not fit a {format} file; "
            "set longest, or use png"
        )
    return data.tobytes()


def write(path: Path, pixels: UInt8[np.ndarray, "h w 3"], quality: int = 92) -> None:
    """The suffix picks the format.  Nothing half-written is left.

    Raises OSError (disk full, no folder, no permission), and ValueError as `encode` does.
    """
    format = path.suffix.lower().lstrip(".").replace("jpeg", "jpg")
    write_bytes(path, encode(pixels, format, quality=quality))
