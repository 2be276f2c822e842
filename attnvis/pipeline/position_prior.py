"""Where a run's maps lie before any photo is looked at: m_i, the mean over photos of log N a_i, cell by cell;
and what a map holds beyond it, log N a_i - m_i.

Photos of another grid have a prior of their own: cells of different grids do not lie in the same places.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.numpy import save as save_tensors

from attnvis.backbone.tensor_file import UNREADABLE, read_tensors
from attnvis.errors import in_one_line
from attnvis.files import save
from attnvis.methods.answer import Answer
from attnvis.render import overlays, panels

__all__ = ["FILE", "LEAST", "PICTURE", "PositionPrior", "Prior", "prior_for", "read_priors"]

FILE, PICTURE = "position_prior.safetensors", "position_prior.png"
FAINTEST = 2.0**-10  # times uniform; less is as little, and 0 has no logarithm
MOST = 64  # questions and grids that are counted: each is a sum of its cells in memory
DRAWN = 12  # of those, in the picture
LEAST = 2  # photos: the prior of one is that photo's own map


@dataclass(frozen=True, eq=False)
class Prior:
    """Of one question on one grid."""

    query: str
    layer: str
    photos: int
    logs: Float[np.ndarray, "h w"]  # m_i, natural logarithm
    weights: Float[np.ndarray, "h w"]  # the mean of a_i

    @property
    def grid(self) -> tuple[int, int]:
        return self.logs.shape[0], self.logs.shape[1]

    @property
    def times_uniform(self) -> Float[np.ndarray, "h w"]:
        """N e^m_i / sum e^m: the geometric mean over photos, made to be a map like any other."""
        values = np.exp(self.logs - self.logs.max())
        return values / values.mean()

    @property
    def rim(self) -> tuple[float, float]:
        """(mean weight, share of the area) of the outer ring of cells."""
        inner = self.weights[1:-1, 1:-1]
        return 1 - float(inner.sum() / self.weights.sum()), 1 - inner.size / self.weights.size

    def beyond(self, answer: Answer) -> Float[np.ndarray, "h w"]:
        """log N a_i - m_i.  Raises ValueError for an answer on another grid."""
        if answer.placement.grid != self.grid:
            raise ValueError(f"this prior is of a grid {self.grid}, and the map's is {answer.placement.grid}")
        return log_times_uniform(answer) - self.logs

    def without(self, answer: Answer) -> Answer:
        """The answer with weights a_i / e^m_i, made to sum to 1: where this photo differs from the others.

        Without a critical score: what lies beyond chance is of the map as it was.
        """
        shifted = np.exp(self.beyond(answer))
        weights = torch.from_numpy((shifted / shifted.sum()).astype(np.float32)).flatten()
        return replace(answer, weights=weights, critical=None)


def log_times_uniform(answer: Answer) -> Float[np.ndarray, "h w"]:
    return np.log(answer.cells.astype(np.float64).clip(FAINTEST))


class PositionPrior:
    """Running means over a run's answers; `add` them as they come."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str, tuple[int, int]], list[Any]] = {}  # [photos, logs, weights]
        self.left_out = 0  # answers of questions and grids beyond MOST

    def add(self, answers: Sequence[Answer]) -> None:
        """Those of one photo.  Several of a query, as of class:predicted:3, count each."""
        for answer in answers:
            key = (answer.query, answer.layer, answer.placement.grid)
            if key not in self.sums and len(self.sums) >= MOST:
                self.left_out += 1
                continue
            entry = self.sums.setdefault(key, [0, 0.0, 0.0])
            entry[0] += 1
            entry[1] = entry[1] + log_times_uniform(answer)
            entry[2] = entry[2] + answer.cells.astype(np.float64) / answer.patches

    def priors(self) -> list[Prior]:
        """Of two photos and more, most photos first."""
        priors = [
            Prior(query, layer, count, logs / count, weights / count)
            for (query, layer, _), (count, logs, weights) in self.sums.items()
            if count >= LEAST
        ]
        return sorted(priors, key=lambda prior: -prior.photos)

    def lonely_grids(self) -> list[tuple[int, int]]:
        """On which no question has a prior: too few photos have them."""
        grids = dict.fromkeys(grid for _, _, grid in self.sums)
        return [grid for grid in grids if grid not in {prior.grid for prior in self.priors()}]

    def write(self, folder: Path, style: overlays.Style) -> bytes | None:
        """position_prior.safetensors and its picture, whose bytes this gives; None where there is none."""
        priors = self.priors()
        if not priors:
            return None
        arrays = {}
        for number, prior in enumerate(priors):
            arrays[f"logs.{number}"] = prior.logs.astype(np.float32)
            arrays[f"weights.{number}"] = prior.weights.astype(np.float32)
        about = [{"query": prior.query, "layer": prior.layer, "photos": prior.photos} for prior in priors]
        save(folder, FILE, save_tensors(arrays, {"attnvis": json.dumps({"priors": about})}))
        picture = overlays.encode(self.draw(priors, style), "png")
        save(folder, PICTURE, picture)
        return picture

    def draw(self, priors: Sequence[Prior], style: overlays.Style) -> UInt8[np.ndarray, "_ _ 3"]:
        """A tile a question and grid, on the scale of the run's own pictures."""
        style = replace(style, scale="times_uniform")
        tiles = [(tile(prior, style), caption(prior)) for prior in priors[:DRAWN]]
        more = f"; {len(priors) - DRAWN} more in {FILE}" if len(priors) > DRAWN else ""
        left_out = f"; {self.left_out} maps of others are not counted" if self.left_out else ""
        title = f"Position prior: the geometric mean over photos{more}{left_out}"
        return panels.contact_sheet(tiles, columns=4, side=260, title=title, style=style)


def tile(prior: Prior, style: overlays.Style) -> UInt8[np.ndarray, "_ _ 3"]:
    """Cells as squares: where on no photo in particular."""
    zoom = max(1, 260 // max(prior.grid))
    values = prior.times_uniform.repeat(zoom, 0).repeat(zoom, 1).astype(np.float32)
    return overlays.heatmap(values, style)


def caption(prior: Prior) -> str:
    rows, columns = prior.grid
    weight, area = prior.rim
    layer = "" if prior.layer == "last" else f", {prior.layer}"
    return f"{prior.query}{layer}, {rows} x {columns}, {prior.photos} photos: rim {weight:.0%} on {area:.0%}"


def read_priors(folder: Path) -> list[Prior]:
    """What a run's folder keeps.  Raises ValueError where it keeps none, or a damaged one."""
    path = folder / FILE
    try:
        metadata, tensors = read_tensors(path)
        return [
            Prior(
                str(entry["query"]),
                str(entry["layer"]),
                int(entry["photos"]),
                logs=tensors[f"logs.{number}"].numpy().astype(np.float64),
                weights=tensors[f"weights.{number}"].numpy().astype(np.float64),
            )
            for number, entry in enumerate(metadata["priors"])
        ]
    except FileNotFoundError:
        raise ValueError(
            f"{folder} keeps no position prior; run with position_prior=true, over two photos or more"
        ) from None
    except UNREADABLE as error:
        raise ValueError(f"{path} is damaged ({in_one_line(error, most=120)}); run again") from None


def prior_for(priors: Sequence[Prior], answer: Answer) -> Prior:
    """The one of an answer's question and grid.  Raises ValueError where there is none."""
    for prior in priors:
        if (prior.query, prior.layer, prior.grid) == (answer.query, answer.layer, answer.placement.grid):
            return prior
    rows, columns = answer.placement.grid
    raise ValueError(f"the position prior has no {answer.query} on {rows} x {columns} cells: too few photos")
