"""A sweep -> its series, one per job and query, and what can be said of them: medians with intervals, theory, ranks, temperatures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from attnvis.attention.scaling import positive_factor
from attnvis.experiments.sweep.folder import AXES, Part, Sweep, setting_name
from attnvis.methods.settings import TEMPERATURES
from attnvis.metrics.diagnostics import DESCRIPTIONS, freezing_point

__all__ = [
    "BAND",
    "EXACT",
    "SQRT_D",
    "Common",
    "Deviation",
    "Order",
    "Series",
    "badness",
    "best_common_temperature",
    "orders",
    "series_of",
    "theory_deviation",
]

SQRT_D = ("inv_sqrt_d", "softmax")  # the setting that all others are compared with
BAND = (5, 95)  # percentiles over photos: the ends of what is drawn and told as usual
EXACT = 1e-6  # a rank correlation this near to 1 is 1


@dataclass(frozen=True, eq=False)
class Series:
    """One job and one query: P photos down, S settings across."""

    job: str  # what tells it from the other jobs; empty where there is one
    query: str
    settings: tuple[tuple[str, str], ...]
    photos: list[str]
    patches: Float[np.ndarray, " P"]
    dim: Float[np.ndarray, " P"]  # d_k
    numbers: dict[str, Float[np.ndarray, "P S"]]  # the diagnostics
    curves: dict[str, np.ndarray]  # those of folder.Part, kept for the first photos only

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
        return self.read_off("perplexity", self.sqrt_d[: self.kept, None])[:, 0]

    @property
    def kept(self) -> int:
        return len(self.curves["perplexity"])

    def read_off(self, name: str, tau: Float[np.ndarray, "P K"]) -> Float[np.ndarray, "P K"]:
        """A curve against temperature, photo by photo, at temperatures of its own: linear in log tau, constant beyond the ends."""
        curve = self.curves[name].astype(float)
        spread = self.score_std[: self.kept, None]
        known = np.isfinite(tau) & (tau > 0)
        place = np.log2(np.where(known, tau, 1.0) / np.where(spread > 0, spread, 1.0))
        step = math.log2(TEMPERATURES[1] / TEMPERATURES[0])
        place = np.clip((place - math.log2(TEMPERATURES[0])) / step, 0, len(TEMPERATURES) - 1)
        below = np.minimum(place.astype(int), len(TEMPERATURES) - 2)
        left, right = np.take_along_axis(curve, below, 1), np.take_along_axis(curve, below + 1, 1)
        return np.where(known, left + (right - left) * (place - below), np.nan)


def series_of(sweep: Sweep) -> list[Series]:
    """Every query of every job that is done."""
    every, start = [], 0
    for part, job in zip(sweep.done, job_names(sweep.done), strict=True):
        rows = pq.read_metadata(part.folder / "rows.parquet").num_rows
        table = sweep.table.slice(start, rows)
        start += rows
        queries = table["query"].unique().to_pylist()  # in the order of the curves
        for query, curves in zip(queries, part.curves().values(), strict=True):
            rows_of_query = table.filter(pc.equal(table["query"], query))
            every.append(series(rows_of_query, job, query, part.record.settings, curves))
    return every


def series(
    table: pa.Table,
    job: str,
    query: str,
    settings: tuple[tuple[str, str], ...],
    curves: dict[str, np.ndarray],
) -> Series:
    """Rows come photo by photo, and of each photo setting by setting."""
    numbers = {name: table[name].to_numpy().reshape(-1, len(settings)) for name in DESCRIPTIONS}
    firsts = table.take(np.arange(0, table.num_rows, len(settings)))
    patches, dim = (firsts[name].to_numpy().astype(float) for name in ("patches", "dim"))
    return Series(job, query, settings, firsts["photo"].to_pylist(), patches, dim, numbers, curves)


def job_names(parts: Sequence[Part]) -> list[str]:
    """What differs between jobs: `resnet50`, `layer stage3, size 321`.

    The overrides themselves where no axis tells jobs apart; nothing where there is one job.
    """
    if len(parts) < 2:
        return ["" for _ in parts]
    varied = [axis for axis in AXES if len({part.record.axes[axis] for part in parts}) > 1]
    names = [job_name(part, varied) for part in parts]
    if len(set(names)) == len(names):
        return names
    return [part.overrides or f"job {part.number}" for part in parts]


def job_name(part: Part, axes: Sequence[str]) -> str:
    values = part.record.axes
    return ", ".join(values[axis] if axis == "backbone" else f"{axis} {values[axis]}" for axis in axes)


# ------------------------------------------------------------------------------------------------ theory


@dataclass(frozen=True)
class Deviation:
    """|perplexity / N - exp(-sigma_eff^2 / 2)| over (photo, query, setting): what independent normal scores would not show."""

    count: int
    median: float
    high: float  # 95th percentile


def theory_deviation(series: Sequence[Series]) -> tuple[Deviation, Deviation]:
    """(where sigma_eff <= 1, below the freezing line of each photo's N); of softmax, which the theory is about."""
    sigma, share, freezing = [], [], []
    for one in series:
        sigma.append(one.numbers["sigma_eff"][:, one.softmax])
        share.append(one.share[:, one.softmax])
        freezing.append(
            np.broadcast_to(np.array([freezing_point(int(n)) for n in one.patches])[:, None], sigma[-1].shape)
        )
    s, p, f = (
        np.concatenate([part.ravel() for part in parts]) if parts else np.empty(0)
        for parts in (sigma, share, freezing)
    )
    difference = np.abs(p - np.exp(-(s**2) / 2))
    deviations = []  # zscore gives 1 but for rounding
    for inside in (s <= 1 + 1e-6, s < f):
        known = difference[inside & ~np.isnan(difference)]
        median, high = np.percentile(known, (50, 95)) if len(known) else (math.nan, math.nan)
        deviations.append(Deviation(len(known), float(median), float(high)))
    return deviations[0], deviations[1]


# ------------------------------------------------------------------------------------------------ ranks


@dataclass(frozen=True)
class Order:
    """Whether a setting left the order of the patches alone, over all jobs, queries and photos."""

    setting: str
    factor: bool  # the scaling multiplies by one positive factor, so that it must
    count: int  # maps
    exact: int  # of them with Spearman 1 to EXACT
    worst: float
    photo: str  # where that was
    broken: int  # of a factor: maps below what ties from rounding can explain


def orders(series: Sequence[Series]) -> list[Order]:
    """Setting by setting, in order of appearance.

    Rounding can make two scores equal, and that costs 3 / (N (N^2 - 1)) of Spearman's correlation; as many such pairs as a quarter of
    the patches are let pass.
    """
    found: dict[str, Order] = {}
    for one in series:
        allowed = np.maximum(EXACT, 0.75 / np.maximum(one.patches**2 - 1, 1e-9))
        for column, (setting, name) in enumerate(zip(one.settings, one.names, strict=True)):
            seen = one.numbers["rank_correlation"][:, column]
            if not len(seen):
                continue
            before = found.get(name) or Order(name, positive_factor(setting[0]), 0, 0, math.inf, "", 0)
            lowest = int(np.argmin(np.where(np.isnan(seen), -2, seen)))  # no number at all is the worst
            worst = min(
                (float(seen[lowest]), one.photos[lowest]),
                (before.worst, before.photo),
                key=lambda pair: badness(pair[0]),
            )
            good = int((seen >= 1 - allowed).sum())
            found[name] = Order(
                name, before.factor, before.count + len(seen), before.exact + int((seen >= 1 - EXACT).sum()), *worst,
                before.broken + (len(seen) - good if before.factor else 0),
            )  # fmt: skip
    return list(found.values())


def badness(correlation: float) -> float:
    """Lowest first, and no number at all before the lowest."""
    return -2.0 if math.isnan(correlation) else correlation


# ------------------------------------------------------------------------------------------------ temperatures


@dataclass(frozen=True)
class Common:
    """The one temperature that serves the worst-served query best, and on which share of the photos it does."""

    tau: float
    served: list[float]  # per series: share of the photos within a factor two of the wanted sharpness

    @property
    def worst(self) -> float:
        return min(self.served)


def best_common_temperature(series: Sequence[Series], wanted: float) -> Common | None:
    """Serving: perplexity / N between wanted / 2 and 2 * wanted.  None where no scores have contrast."""
    spreads = [one.score_std[one.score_std > 0] for one in series]
    if not series or not all(len(spread) for spread in spreads):
        return None
    middles = [float(np.median(spread)) for spread in spreads]
    steps = np.arange(
        math.floor(4 * math.log2(min(middles) / 64)), math.ceil(4 * math.log2(max(middles) * 64)) + 1
    )
    tau = 2.0 ** (steps / 4)
    served = np.empty((len(series), len(tau)))
    for row, one in zip(served, series, strict=True):
        shares = one.read_off("perplexity", np.broadcast_to(tau, (one.kept, len(tau))))
        row[:] = ((wanted / 2 <= shares) & (shares <= 2 * wanted)).mean(0)
    best = int(
        np.lexsort((served.mean(0), served.min(0)))[-1]
    )  # between equals, what serves the others better
    return Common(float(tau[best]), served[:, best].tolist())
