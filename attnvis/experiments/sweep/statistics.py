"""A sweep -> its series, one per job and query: the numbers of every photo under every setting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from attnvis.experiments.sweep.folder import AXES, Part, Sweep, setting_name
from attnvis.experiments.sweep.shapes import SHAPES
from attnvis.experiments.wording import COUNTED
from attnvis.methods.settings import TEMPERATURES
from attnvis.metrics.diagnostics import DESCRIPTIONS

__all__ = [
    "BAND",
    "SQRT_D",
    "Series",
    "band",
    "band_words",
    "series_of",
]

SQRT_D = ("inv_sqrt_d", "softmax")  # the setting that all others are compared with
BAND = (5, 95)  # percentiles over photos: the ends of what is drawn and told as usual, of COUNTED or more
ONE_COLOUR = 1.0  # of 255: a photo whose pixels spread by less is a card of one colour


def band(count: int) -> tuple[int, int]:
    """The percentiles of what is usual among so many photos: of few their lowest and their highest."""
    return BAND if count >= COUNTED else (0, 100)


def band_words(count: int) -> str:
    """The same in a sentence."""
    low, high = BAND
    return f"over the middle {high - low} % of" if count >= COUNTED else "from the lowest to the highest of"


@dataclass(frozen=True, eq=False)
class Series:
    """One job and one query: P photos down, S settings across."""

    job: str  # what tells it from the other jobs; empty where there is one
    query: str
    settings: tuple[tuple[str, str], ...]
    photos: list[str]
    patches: Float[np.ndarray, " P"]
    dim: Float[np.ndarray, " P"]  # d_k
    numbers: dict[str, Float[np.ndarray, "P S"]]  # the diagnostics and SHAPES
    curves: dict[str, np.ndarray]  # those of folder.Part, kept for the first photos only
    has_one_score: bool = True  # False of several heads, and of layers joined: no law of one score holds

    def defines_share(self, column: int) -> bool:
        """Whether the share of the patches is what a setting was told, and so nothing that was found."""
        scaling, normalise = self.settings[column]
        is_told = scaling.partition(":")[0] == "perplexity" and normalise == "softmax"
        return is_told and self.has_one_score

    def defines_sigma(self, column: int) -> bool:
        """The same of the spread of the logits."""
        return self.settings[column][0].partition(":")[0] == "zscore" and self.has_one_score

    @property
    def name(self) -> str:
        return f"{self.query}, {self.job}" if self.job else self.query

    @property
    def quoted(self) -> str:
        """The same in a sentence."""
        return f"“{self.query}”" + (f" ({self.job})" if self.job else "")

    @cached_property
    def names(self) -> list[str]:
        return [setting_name(*setting) for setting in self.settings]

    @cached_property
    def share(self) -> Float[np.ndarray, "P S"]:
        """Perplexity as a share of the patches."""
        return self.numbers["perplexity"] / self.patches[:, None]

    @property
    def score_std(self) -> Float[np.ndarray, " P"]:
        return self.numbers["score_std"][:, 0]  # of the raw scores: the same under every setting

    @cached_property
    def sqrt_d(self) -> Float[np.ndarray, " P"]:
        return np.sqrt(np.where(self.dim > 0, self.dim, np.nan))

    @cached_property
    def sigma_sqrt_d(self) -> Float[np.ndarray, " P"]:
        """sigma_eff under 1/sqrt(d_k), whether that was swept or not."""
        return self.score_std / self.sqrt_d

    @cached_property
    def softmax(self) -> Bool[np.ndarray, " S"]:
        return np.array([normalise == "softmax" for _, normalise in self.settings], bool)

    @cached_property
    def share_sqrt_d(self) -> Float[np.ndarray, " P"]:
        """Perplexity share under 1/sqrt(d_k): as measured, or read off the curve where that was not swept."""
        if SQRT_D in self.settings:
            return self.share[:, self.settings.index(SQRT_D)]
        return self.read_off("perplexity", self.sqrt_d[: self.photos_with_curves, None])[:, 0]

    def shape(self, name: str) -> Float[np.ndarray, "P S"]:
        """One of SHAPES; NaN in the rows of a sweep that was made before there were any."""
        return self.numbers.get(name, np.full(self.share.shape, np.nan))

    @property
    def one_colour(self) -> Bool[np.ndarray, " P"]:
        """Which photos are cards of one colour."""
        return self.shape("pixel_std")[:, 0] < ONE_COLOUR

    @property
    def without_contrast(self) -> bool:
        """Whether on no photo one patch scores higher than another."""
        taus = self.curves["tau"]
        return taus.size > 0 and not (taus > 0).any()

    @property
    def photos_with_curves(self) -> int:
        """Of the first photos the curves are kept one by one."""
        return len(self.curves["perplexity"])

    def read_off(self, name: str, tau: Float[np.ndarray, "P K"]) -> Float[np.ndarray, "P K"]:
        """A curve against temperature, photo by photo, at temperatures of its own.

        Linear in log tau, constant beyond the ends; P are the photos with curves.
        """
        curve = self.curves[name].astype(float)
        spread = self.score_std[: self.photos_with_curves, None]
        known = np.isfinite(tau) & (tau > 0)
        place = np.log2(np.where(known, tau, 1.0) / np.where(spread > 0, spread, 1.0))
        step = math.log2(TEMPERATURES[1] / TEMPERATURES[0])
        place = np.clip((place - math.log2(TEMPERATURES[0])) / step, 0, len(TEMPERATURES) - 1)
        below = np.minimum(place.astype(int), len(TEMPERATURES) - 2)
        left = np.take_along_axis(curve, below, 1)
        right = np.take_along_axis(curve, below + 1, 1)
        return np.where(known, left + (right - left) * (place - below), np.nan)


def series_of(sweep: Sweep) -> list[Series]:
    """Every query of every job that is done."""
    all_series, start = [], 0
    for part, job in zip(sweep.done, job_names(sweep.done), strict=True):
        rows = pq.read_metadata(part.folder / "rows.parquet").num_rows
        table = sweep.table.slice(start, rows)
        start += rows
        queries = table["query"].unique().to_pylist()  # in the order of the curves
        for query, curves in zip(queries, part.curves().values(), strict=True):
            rows_of_query = table.filter(pc.equal(table["query"], query))
            series = as_series(rows_of_query, job, query, part.record.settings, curves)
            all_series.append(replace(series, has_one_score=has_one_score(part)))
    return all_series


def has_one_score(part: Part) -> bool:
    """Whether each map of a job is a function of one score; earlier versions had no other."""
    axes = part.record.axes
    return axes.get("heads", "one") == "one" and not axes.get("fuse", "")


def as_series(
    table: pa.Table,
    job: str,
    query: str,
    settings: tuple[tuple[str, str], ...],
    curves: dict[str, np.ndarray],
) -> Series:
    """Rows come photo by photo, and of each photo setting by setting."""
    photos = table.take(np.arange(0, table.num_rows, len(settings)))  # of each its first row
    return Series(
        job,
        query,
        settings=settings,
        photos=photos["photo"].to_pylist(),
        patches=photos["patches"].to_numpy().astype(float),
        dim=photos["dim"].to_numpy().astype(float),
        numbers={
            name: table[name].to_numpy().reshape(-1, len(settings))
            for name in (*DESCRIPTIONS, *SHAPES)
            if name in table.column_names
        },
        curves=curves,
    )


def job_names(parts: Sequence[Part]) -> list[str]:
    """What differs between jobs: `resnet50`, `layer stage3, size 321`.

    The overrides themselves where no axis tells jobs apart; nothing where there is one job.
    """
    if len(parts) < 2:
        return ["" for _ in parts]
    varied = [axis for axis in AXES if len({part.record.axes.get(axis, "") for part in parts}) > 1]
    names = [job_name(part, varied) for part in parts]
    if len(set(names)) == len(names):
        return names
    return [part.overrides or f"job {part.number}" for part in parts]


def job_name(part: Part, axes: Sequence[str]) -> str:
    values = {axis: part.record.axes.get(axis, "") for axis in axes}  # earlier versions had fewer
    return ", ".join(values[axis] if axis == "backbone" else f"{axis} {values[axis]}" for axis in axes)
