"""A metric beside another library's, on maps like those that metrics meet."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnvis.metrics.metric import facts
from attnvis.types import Truth

CLOSE = 1e-6

SIZE, OTHER_SIZE = (48, 60), (36, 80)  # of the photo, and of the other whose fixations shuffle

KINDS = ("noise", "smooth", "density", "patches", "many zeros", "signed", "64 levels", "level")


@dataclass(frozen=True)
class Row:
    """One metric, and how another library computes it of one map."""

    metric: Callable[..., Tensor]
    library: str
    theirs: Callable[[np.ndarray], float]
    truth: Any  # what the metric takes beside the maps
    name: str = ""
    left_out: tuple[str, ...] = ()  # kinds of maps on which the two are meant to differ
    reason: str = ""  # why they differ there

    @property
    def label(self) -> str:
        return self.name or facts(self.metric).name


def random_maps(seed: int = 0) -> np.ndarray:
    """[len(KINDS), H, W]: what maps look like, ties and zeros included."""
    rng = np.random.default_rng(seed)
    noise = rng.random(SIZE)
    rows, columns = (np.linspace(-1, 1, length) for length in SIZE)
    smooth = sum(
        rng.random() * np.exp(-8 * ((rows[:, None] - y) ** 2 + (columns - x) ** 2))
        for y, x in rng.uniform(-1, 1, (6, 2))
    )
    smooth = smooth / smooth.max()
    density = np.exp(5 * smooth + 0.1 * noise)
    patches = np.kron(rng.random((6, 6)), np.ones((8, 10)))
    zeros = np.maximum(0, smooth + 0.2 * noise - 0.5)
    levels = np.floor(64 * smooth) / 64
    return np.stack(
        [noise, smooth, density / density.sum(), patches, zeros, smooth - noise, levels, np.full(SIZE, 0.25)]
    )


def random_truth(seed: int = 1) -> Truth:
    """Fixations, some twice; those of another photo, already stretched; a blob for a mask."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, SIZE, (40, 2))
    others = rng.uniform(0, OTHER_SIZE, (90, 2)) * np.divide(SIZE, OTHER_SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = ((y - 22) / 13) ** 2 + ((x - 35) / 17) ** 2 + 0.3 * np.sin(x / 3) < 1
    return Truth(SIZE, fixations=np.concatenate([places, places[:5]]), others=others, mask=mask)


def our_values(row: Row, maps: np.ndarray) -> np.ndarray:
    values = row.metric(torch.from_numpy(maps), row.truth)
    finish = facts(row.metric).finish
    return (finish(values) if finish else values).numpy()


def compare(row: Row, maps: np.ndarray) -> SimpleNamespace:
    """Ours and theirs of every map, and the largest difference where they are meant to agree; NaN is NaN."""
    ours = our_values(row, maps)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        theirs = np.array([row.theirs(values) for values in maps], float)
    counts = np.array([kind not in row.left_out for kind in KINDS])
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):  # inf - inf, where both are
        differences = np.where(same, 0, np.abs(ours - theirs))[counts]
    return SimpleNamespace(ours=ours, theirs=theirs, difference=float(np.max(differences)))
