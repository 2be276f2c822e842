"""Maps of photos and of their mirror images in, the place where cells really look out.  No labels are needed.

Geometry (`receptive_field`) says where a cell's receptive field is centred; training moves the effective centre by up to half a stride.
The flip test finds it: a cell that is drawn where it looks marks the same spot whether the photo is mirrored or not.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Float

from attnvis.files import default_folder, write_bytes
from attnvis.geometry import Shift
from attnvis.types import Batch, Features

__all__ = [
    "SHIFTS",
    "Calibration",
    "address",
    "agreement",
    "compare",
    "energy",
    "estimate_shift",
    "read",
    "store",
]

FEWEST = 20  # photos
WIDEST = 0.5  # strides, of an interval that is still worth something
SHIFTS = np.arange(-48, 49) / 64  # that are tried, in strides from where geometry centres the cells
FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """How far the cells of one layer, with one set of weights, look from where geometry centres them; in pixels of the input.

    Negative: up and to the left.  Measured along the rows; used for both axes, since a photo upside down is nothing that networks learn.
    """

    shift: float
    interval: tuple[float, float]  # 95 %, bootstrap over photos
    photos: int
    before: float  # correlation of map and mirrored map, mean over photos, where geometry puts the cells
    after: float  # the same with the shift that the other half of the photos gave
    halves: tuple[float, float]  # the shift by each half alone
    backbone: str = ""
    digest: str = ""  # of the weights
    layer: str = ""  # the node of the network
    size: int = 0  # short side of the input in pixels
    controls: tuple[
        float, ...
    ] = ()  # the shifts of copies with random weights, of those copies whose maps say any

    @property
    def measured(self) -> Shift:
        """As a backbone applies it."""
        source = f"attnvis calibrate, {self.photos} photos of {self.size} px"
        if self.controls:
            source += f"; random weights {min(self.controls):.4g} ... {max(self.controls):.4g} px"
        return Shift(self.shift, self.interval, source)

    @property
    def by_chance(self) -> bool:
        """Whether the shift lies among those of random weights: then training need not have moved the cells at all."""
        return bool(self.controls) and min(self.controls) <= self.shift <= max(self.controls)

    @property
    def text(self) -> bytes:
        """What its file holds."""
        return (json.dumps({"format": FORMAT} | asdict(self), indent=2) + "\n").encode()


# ------------------------------------------------------------------------------------------------------------ the flip test


def flip_agreements(
    backbone: Callable[[Batch], tuple[Features, ...]],
) -> Callable[[Batch], list[list[Float[np.ndarray, " S"]]]]:
    """A method: for every photo and every layer, how well its map and its mirror image's agree under each of SHIFTS."""

    def call(batch: Batch) -> list[list[Float[np.ndarray, " S"]]]:
        mirrored = replace(batch, images=batch.images.flip(3))
        return compare(backbone(batch), backbone(mirrored))

    return call


def compare(photos: Sequence[Features], mirrored: Sequence[Features]) -> list[list[Float[np.ndarray, " S"]]]:
    """Of the layers of photos, and of the photos mirrored left to right: for every photo and layer the agreements."""
    tables = []
    for layer, other in zip(photos, mirrored, strict=True):
        placement = layer.placements[0]
        first, step = placement.first[1], placement.step[1]
        tables.append(
            agreement(energy(layer.maps), energy(other.maps), first / step, placement.size[1] / step)
        )
    return [list(photo) for photo in zip(*tables, strict=True)]


def energy(maps: Float[torch.Tensor, "B D h w"]) -> Float[np.ndarray, "B h w"]:
    """The norm of every patch feature.  Unlike a distance to the mean patch it depends on no other cell: borders stay at the border."""
    return maps.float().norm(dim=1).cpu().numpy()


def agreement(
    plain: Float[np.ndarray, "B h w"], mirrored: Float[np.ndarray, "B h w"], first: float, width: float
) -> Float[np.ndarray, "B S"]:
    """How well the maps of photos and of the mirrored photos (as the network gave them) agree, for every one of SHIFTS.

    All lengths are in strides: geometry centres column i at first + i from the left edge of a photo that is `width` wide.  Both maps are
    read at the same places of the photo as if the cells were shifted, then correlated over rows and places.  The places lie symmetrically
    about the middle, an eighth of a stride apart, so that under every shift they fall on cells as often as between them; none of the
    shifts needs a cell beyond the grid.  This is the correlation of M2[x - d / 2] with M1[x + d / 2], M2 being the mirrored map mirrored
    back and d = width - (w - 1) - 2 (first + shift).  Raises ValueError where less than three columns can be read.
    """
    columns, middle = plain.shape[2], width / 2
    room = min(middle - (first + SHIFTS[-1]), first + SHIFTS[0] + columns - 1 - middle)
    if 2 * room < 3 - 1e-9:
        raise ValueError(
            f"maps of {columns} columns are too small to calibrate a placement; use larger inputs (preprocess.size)"
        )
    steps = int(8 * room + 1e-9)
    places = middle + np.arange(-steps, steps + 1) / 8
    table = []
    for shift in SHIFTS:
        reader = spline(places - first - shift, columns).T
        both = [plain @ reader, (mirrored @ reader)[:, :, ::-1]]
        a, b = (read - read.mean((1, 2), keepdims=True) for read in both)
        product, own, other = ((x * y).sum((1, 2)) for x, y in ((a, b), (a, a), (b, b)))
        least = (
            1e-10 * np.maximum(*((read * read).sum((1, 2)) for read in both)) + 1e-30
        )  # flat but for rounding: agrees with nothing
        table.append(np.where(np.minimum(own, other) > least, product / np.sqrt(own * other + 1e-30), 0))
    return np.stack(table, 1)


def spline(positions: Float[np.ndarray, " K"], cells: int) -> Float[np.ndarray, "K w"]:
    """Cubic spline interpolation as a matrix: row k holds the shares of the cells at position k (in cells); mirrored at either end."""

    def basis(where: np.ndarray) -> np.ndarray:
        away = np.abs(where[:, None] - np.arange(-1, cells + 1))  # one coefficient more at either end
        shares = np.where(away < 1, 2 / 3 - away**2 + away**3 / 2, np.maximum(2 - away, 0) ** 3 / 6)
        shares[:, [2, -3]] += shares[:, [0, -1]]
        return shares[:, 1:-1]

    return basis(positions) @ np.linalg.inv(basis(np.arange(cells)))


def estimate_shift(table: Float[np.ndarray, "P S"], stride: float, seed: int = 0) -> Calibration:
    """The shift at which the mean agreement of all photos is largest, and how far it can be trusted; stride: in pixels of the input.

    The interval comes from 2000 bootstrap draws of photos.  `before` and `after` are honest: the photos are halved at random, and each half
    is judged with the shift that the other half gave.  Raises ValueError where the photos do not say where the cells look.
    """
    count, rng = len(table), np.random.default_rng(seed)
    if count < FEWEST:
        raise ValueError(
            f"{count} photo{'s' * (count != 1)} cannot calibrate a placement; give at least {FEWEST}, better 100, of any kind"
        )
    best = int(table.mean(0).argmax())
    draws = SHIFTS[(rng.multinomial(count, np.full(count, 1 / count), 2000) @ table).argmax(1)]
    low, high = (float(end) for end in np.quantile(draws, [0.025, 0.975]))
    if best in (0, len(SHIFTS) - 1) or high - low > WIDEST:
        raise ValueError(
            f"the photos do not say where the cells look: the best shift is {stride * SHIFTS[best]:.1f} px [{stride * low:.1f}, "
            f"{stride * high:.1f}], and cells are {stride:.4g} px apart; give more photos, or keep placement=rf"
        )
    one, other = np.array_split(rng.permutation(count), 2)
    by_one, by_other = (int(table[half].mean(0).argmax()) for half in (one, other))
    return Calibration(
        shift=round(float(stride * SHIFTS[best]), 2),
        interval=(round(stride * low, 2), round(stride * high, 2)),
        photos=count,
        before=round(float(table[:, len(SHIFTS) // 2].mean()), 4),
        after=round(float(np.concatenate([table[other, by_one], table[one, by_other]]).mean()), 4),
        halves=(round(float(stride * SHIFTS[by_one]), 2), round(float(stride * SHIFTS[by_other]), 2)),
    )


# ------------------------------------------------------------------------------------------------------------------- files


def address(digest: str, layer: str) -> Path:
    """The file for one set of weights and one node of the network."""
    return default_folder() / "calibrations" / f"{digest[:32]}-{quote(layer, safe='')}.json"


def read(digest: str, layer: str) -> Calibration | None:
    """What was stored for these weights and this node; None where nothing was.  Raises ValueError for a file that is none of ours."""
    path = address(digest, layer)
    try:
        told = json.loads(path.read_bytes())
        if told.pop("format") != FORMAT or (told["digest"], told["layer"]) != (digest, layer):
            raise ValueError
        pairs = {name: (float(told[name][0]), float(told[name][1])) for name in ("interval", "halves")}
        controls = tuple(
            float(shift) for shift in told.get("controls", ())
        )  # files of earlier versions have none
        return Calibration(**told | pairs | {"shift": float(told["shift"]), "controls": controls})
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise ValueError(
            f"{path} is not a calibration that this version reads; delete it and run attnvis calibrate again"
        ) from None


def store(found: "Calibration") -> Path:
    """Where `Backbone(placement="calibrated")` looks for it."""
    path = address(found.digest, found.layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, found.text)
    return path
