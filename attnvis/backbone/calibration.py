"""Maps of photos and of their mirror images in, the place where cells really look out.  No labels are needed.

Geometry (`receptive_field`) says where a cell's receptive field is centred; training moves the effective
centre by up to half a stride.  The flip test finds it: a cell that is drawn where it looks marks the same
spot whether the photo is mirrored or not.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Float

from attnvis.files import LONG_AGO, default_folder, remove_parts, write_bytes
from attnvis.geometry import Shift
from attnvis.json_files import read_json, sealed
from attnvis.metrics.intervals import FEWEST_OF_MEANS, mean_interval
from attnvis.types import Batch, Features

__all__ = [
    "SHIFTS",
    "Calibration",
    "calibration_file",
    "compare",
    "estimate_shift",
    "flip_agreements",
    "flip_correlations",
    "patch_norms",
    "places_of",
    "read_calibration",
    "store_calibration",
]

WIDEST = 0.5  # strides, of a shift's scatter or interval that is still worth something
RESAMPLES = 2000  # of the photos
SHIFTS = np.arange(-48, 49) / 64  # that are tried, in strides from where geometry centres the cells
FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """How far the cells of one layer, with one set of weights, look from where geometry centres them.

    In pixels of the input; negative: up and to the left.  Measured along the rows; used for both axes, since
    a photo upside down is nothing that networks learn.
    """

    shift: float
    interval: tuple[float, float]  # 95 %, over photos
    photos: int
    before: float  # correlation of map and mirrored map, mean over photos, where geometry puts the cells
    after: float  # the same with the shift that the other half of the photos gave
    halves: tuple[float, float]  # the shift by each half alone
    backbone: str = ""
    digest: str = ""  # of the weights
    layer: str = ""  # the node of the network
    size: int = 0  # short side of the input in pixels
    # the shifts of copies with random weights, as far as their maps gave any
    controls: tuple[float, ...] = ()

    @property
    def measured(self) -> Shift:
        """As a backbone applies it."""
        source = f"attnvis calibrate, {self.photos} photos of {self.size} px"
        if self.controls:
            source += f"; random weights {min(self.controls):.4g} ... {max(self.controls):.4g} px"
        return Shift(self.shift, self.interval, source)

    @property
    def by_chance(self) -> bool:
        """Whether the shift lies among those of random weights: training need not have moved the cells."""
        return bool(self.controls) and min(self.controls) <= self.shift <= max(self.controls)

    @property
    def text(self) -> bytes:
        """What its file holds."""
        return (json.dumps(sealed({"format": FORMAT} | asdict(self)), indent=2) + "\n").encode()


# ---------------------------------------------------------------------------------------------- the flip test


def flip_agreements(
    backbone: Callable[[Batch], tuple[Features, ...]],
) -> Callable[[Batch], list[list[Float[np.ndarray, " S"]]]]:
    """A method: for every photo and layer, how well its map and its mirror image's agree under each shift."""

    def call(batch: Batch) -> list[list[Float[np.ndarray, " S"]]]:
        mirrored = replace(batch, images=batch.images.flip(3))
        return compare(backbone(batch), backbone(mirrored))

    return call


def compare(photos: Sequence[Features], mirrored: Sequence[Features]) -> list[list[Float[np.ndarray, " S"]]]:
    """Layers of photos, and of the same mirrored left to right: for every photo and layer the agreements.

    Raises ValueError where maps are too small to be compared.
    """
    tables = []
    for layer, other in zip(photos, mirrored, strict=True):
        placement = layer.placements[0]
        first, step, width = placement.first[1], placement.step[1], placement.size[1]
        plain, flipped = patch_norms(layer.maps), patch_norms(other.maps)
        tables.append(flip_correlations(plain, flipped, first=first / step, width=width / step))
    return [list(photo) for photo in zip(*tables, strict=True)]


def patch_norms(maps: Float[torch.Tensor, "B D h w"]) -> Float[np.ndarray, "B h w"]:
    """The norm of every patch feature.

    Unlike a distance to the mean patch it depends on no other cell: borders stay at the border.
    """
    return maps.float().norm(dim=1).cpu().numpy()


def flip_correlations(
    plain: Float[np.ndarray, "B h w"], mirrored: Float[np.ndarray, "B h w"], first: float, width: float
) -> Float[np.ndarray, "B S"]:
    """How well maps of photos and of mirrored photos (as the network gave them) agree, for each of SHIFTS.

    All lengths are in strides: geometry centres column i at first + i from the left edge of a photo that is
    `width` wide.  Both maps are read at the same places of the photo as if the cells were shifted, then
    correlated over rows and places.  The places lie symmetrically about the middle, an eighth of a stride
    apart, so that under every shift they fall on cells as often as between them; none of the shifts needs a
    cell beyond the grid.  This is the correlation of M2[x - d / 2] with M1[x + d / 2], M2 being the mirrored
    map mirrored back and d = width - (w - 1) - 2 (first + shift).  Raises ValueError where less than three
    columns can be read.
    """
    columns, middle = plain.shape[2], width / 2
    room = min(middle - (first + SHIFTS[-1]), first + SHIFTS[0] + columns - 1 - middle)
    if 2 * room < 3 - 1e-9:
        raise ValueError(
            f"maps of {columns} columns are too small to calibrate a placement; "
            "use larger inputs (preprocess.size)"
        )
    steps = int(8 * room + 1e-9)
    places = middle + np.arange(-steps, steps + 1) / 8
    coefficients = spline_coefficients(columns)
    correlations = []
    for shift in SHIFTS:
        interpolation = (basis(places - first - shift, columns) @ coefficients).T
        correlations.append(correlation(plain @ interpolation, (mirrored @ interpolation)[:, :, ::-1]))
    return np.stack(correlations, 1)


def correlation(
    maps: Float[np.ndarray, "B h K"], others: Float[np.ndarray, "B h K"]
) -> Float[np.ndarray, " B"]:
    """Pearson's, of each pair over rows and places.

    What is flat but for rounding agrees with nothing: 0.  NaN stays.
    """
    centred = maps - maps.mean((1, 2), keepdims=True)
    others_centred = others - others.mean((1, 2), keepdims=True)
    product = (centred * others_centred).sum((1, 2))
    variance = (centred * centred).sum((1, 2))
    others_variance = (others_centred * others_centred).sum((1, 2))
    energy = np.maximum((maps * maps).sum((1, 2)), (others * others).sum((1, 2)))
    is_flat = np.minimum(variance, others_variance) <= 1e-10 * energy + 1e-30
    return np.where(is_flat, 0, product / np.sqrt(variance * others_variance + 1e-30))


def spline(positions: Float[np.ndarray, " K"], cells: int) -> Float[np.ndarray, "K w"]:
    """Cubic spline interpolation as a matrix: row k holds the shares of the cells at position k (in cells).

    Mirrored at either end.
    """
    return basis(positions, cells) @ spline_coefficients(cells)


def spline_coefficients(cells: int) -> Float[np.ndarray, "w w"]:
    """The coefficients of the spline through each cell alone, as columns."""
    return np.linalg.inv(basis(np.arange(cells), cells))


def basis(positions: np.ndarray, cells: int) -> Float[np.ndarray, "K w"]:
    """The shares of the spline's coefficients, one a cell, at position k (in cells)."""
    away = np.abs(positions[:, None] - np.arange(-1, cells + 1))  # one coefficient more at either end
    shares = np.where(away < 1, 2 / 3 - away**2 + away**3 / 2, np.maximum(2 - away, 0) ** 3 / 6)
    shares[:, [2, -3]] += shares[:, [0, -1]]
    return shares[:, 1:-1]


def estimate_shift(table: Float[np.ndarray, "P S"], stride: float, seed: int = 0) -> Calibration:
    """The shift at which the mean agreement of all photos is largest, and how far it can be trusted.

    table: a photo a row, SHIFTS across; stride: in pixels of the input.  `before` and `after` are honest: the
    photos are halved at random, and each half is judged with the shift that the other half gave.  Raises
    ValueError where the photos do not say where the cells look.
    """
    count, rng = len(table), np.random.default_rng(seed)
    if count < FEWEST_OF_MEANS:
        raise ValueError(
            f"{count} photo{'s' * (count != 1)} cannot calibrate a placement; "
            f"give at least {FEWEST_OF_MEANS}, better 100, of any kind"
        )
    drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    scatter = np.quantile(SHIFTS[(drawn @ table).argmax(1)], [0.025, 0.975])
    places = places_of(table)
    shift = mean_interval(places)
    low, high = shift.low, shift.high
    if math.isnan(low) or max(np.ptp(scatter), high - low) > WIDEST:
        best = SHIFTS[table.mean(0).argmax()]
        low, high = np.nanmin([low, scatter[0]]), np.nanmax([high, scatter[1]])
        raise ValueError(
            f"the photos do not say where the cells look: the best shift is {stride * best:.1f} px "
            f"[{stride * low:.1f}, {stride * high:.1f}], and cells are {stride:.4g} px apart; "
            "give more photos, or keep placement=rf"
        )
    first, second = np.array_split(rng.permutation(count), 2)
    best_first, best_second = (int(table[half].mean(0).argmax()) for half in (first, second))
    held_out = np.concatenate([table[second, best_first], table[first, best_second]])
    return Calibration(
        shift=round(stride * shift.value, 2),
        interval=(round(stride * low, 2), round(stride * high, 2)),
        photos=count,
        before=round(float(table[:, len(SHIFTS) // 2].mean()), 4),
        after=round(float(held_out.mean()), 4),
        halves=(round(float(stride * SHIFTS[best_first]), 2), round(float(stride * SHIFTS[best_second]), 2)),
    )


def places_of(table: Float[np.ndarray, "P S"]) -> Float[np.ndarray, " P"]:
    """A shift for every photo, such that their mean is the shift of all and their scatter is its doubt.

    In strides.  The shift of all is where a parabola through the best of SHIFTS and its neighbours is
    highest; a photo's own lies off it by as much as one photo more moves it, times the number of photos
    (the delta method).
    NaN where the best lies at either end of SHIFTS.
    """
    best = int(table.mean(0).argmax())
    if best in (0, len(SHIFTS) - 1):
        return np.full(len(table), np.nan)
    left, middle, right = (table[:, best + step] for step in (-1, 0, 1))
    slopes, bends = (right - left) / 2, left - 2 * middle + right  # per step
    bend = float(bends.mean())  # below 0: the left one is lower, the right one no higher
    peak = -float(slopes.mean()) / bend  # steps from the best
    pulls = -(slopes + bends * peak) / bend
    return SHIFTS[best] + (peak + pulls) * (SHIFTS[1] - SHIFTS[0])


# ------------------------------------------------------------------------------------------------------ files


def calibration_file(digest: str, layer: str) -> Path:
    """The file for one set of weights and one node of the network."""
    return default_folder() / "calibrations" / f"{digest[:32]}-{quote(layer, safe='')}.json"


def read_calibration(digest: str, layer: str) -> Calibration | None:
    """What was stored for these weights and this node; None where nothing was.

    Raises ValueError for a file that is none of ours.
    """
    path = calibration_file(digest, layer)
    try:
        record = read_json(path, most=1 << 20)
        if record.pop("format") != FORMAT or (record["digest"], record["layer"]) != (digest, layer):
            raise ValueError
        record["shift"] = float(record["shift"])
        for name in ("interval", "halves"):
            low, high = record[name]
            record[name] = (float(low), float(high))
        controls = record.get("controls", ())  # files of earlier versions have none
        record["controls"] = tuple(float(shift) for shift in controls)
        calibration = Calibration(**record)
        if not is_plausible(calibration):
            raise ValueError
        return calibration
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise ValueError(
            f"{path}, where this network's cells really look, cannot be read ({error.strerror}); "
            "let it be read, or keep such files elsewhere with ATTNVIS_CACHE=FOLDER"
        ) from None
    except (OSError, ArithmeticError, LookupError, AttributeError, TypeError, ValueError):
        raise ValueError(
            f"{path} is not a calibration that this version reads; delete it and run attnvis calibrate again"
        ) from None


def is_plausible(calibration: Calibration) -> bool:
    """Whether a file can have been measured: numbers that are finite, ordered and whole, and plain words."""
    low, high = calibration.interval
    correlations = (calibration.before, calibration.after)
    numbers: tuple[Any, ...] = (
        calibration.shift,
        *calibration.halves,
        *calibration.controls,
        low,
        high,
        *correlations,
    )
    counts: tuple[Any, ...] = (calibration.photos, calibration.size)
    words: tuple[Any, ...] = (calibration.backbone, calibration.layer, calibration.digest)
    return (
        all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and all(type(count) is int and 0 <= count < 2**53 for count in counts)
        and calibration.photos > 0
        and low <= high
        and all(abs(value) <= 1 for value in correlations)
        and all(isinstance(word, str) and word.isprintable() for word in words)
    )


def store_calibration(calibration: Calibration) -> Path:
    """Writes it where placement=calibrated looks for it; gives the file."""
    path = calibration_file(calibration.digest, calibration.layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_parts(path.parent, age=LONG_AGO)  # of processes that were killed
    write_bytes(path, calibration.text)
    return path
