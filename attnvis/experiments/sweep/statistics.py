"""A sweep -> its series, one per job and query, and what can be said of them: theory, ranks, temperatures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from attnvis.metrics.intervals import Interval, median_interval

__all__ = [
    "BAND",
    "EXACT",
    "SQRT_D",
    "Advice",
    "CommonTemperature",
    "Deviation",
    "Order",
    "Series",
    "advice",
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
        return self.read_off("perplexity", self.sqrt_d[: self.photos_with_curves, None])[:, 0]

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
            all_series.append(as_series(rows_of_query, job, query, part.record.settings, curves))
    return all_series


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
        numbers={name: table[name].to_numpy().reshape(-1, len(settings)) for name in DESCRIPTIONS},
        curves=curves,
    )


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


# -------------------------------------------------------------------------------- theory


@dataclass(frozen=True)
class Deviation:
    """|perplexity / N - exp(-sigma_eff^2 / 2)| over maps: what independent normal scores would not show."""

    count: int
    median: float
    high: float  # 95th percentile


def theory_deviation(all_series: Sequence[Series]) -> tuple[Deviation, Deviation]:
    """(where sigma_eff <= 1, below the freezing line of each photo's N); of softmax, as the theory is."""
    sigmas, shares, freezings = [np.empty(0)], [np.empty(0)], [np.empty(0)]
    for series in all_series:
        sigma = series.numbers["sigma_eff"][:, series.softmax]
        freezing = np.array([freezing_point(int(count)) for count in series.patches])
        sigmas.append(sigma.ravel())
        shares.append(series.share[:, series.softmax].ravel())
        freezings.append(np.broadcast_to(freezing[:, None], sigma.shape).ravel())
    sigma, share, freezing = np.concatenate(sigmas), np.concatenate(shares), np.concatenate(freezings)
    difference = np.abs(share - np.exp(-(sigma**2) / 2))
    gentle = difference[sigma <= 1 + 1e-6]  # zscore gives 1 but for rounding
    return deviation_of(gentle), deviation_of(difference[sigma < freezing])


def deviation_of(differences: Float[np.ndarray, " maps"]) -> Deviation:
    known = differences[~np.isnan(differences)]
    median, high = np.percentile(known, (50, 95)) if len(known) else (math.nan, math.nan)
    return Deviation(len(known), float(median), float(high))


# -------------------------------------------------------------------------------- ranks


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


def orders(all_series: Sequence[Series]) -> list[Order]:
    """Setting by setting, in order of appearance.

    Rounding can make two scores equal, and that costs 3 / (N (N^2 - 1)) of Spearman's correlation; as many
    such pairs as a quarter of the patches are let pass.
    """
    by_name: dict[str, Order] = {}
    for series in all_series:
        allowed = np.maximum(EXACT, 0.75 / np.maximum(series.patches**2 - 1, 1e-9))
        for column, (setting, name) in enumerate(zip(series.settings, series.names, strict=True)):
            correlations = series.numbers["rank_correlation"][:, column]
            if not len(correlations):
                continue
            factor = positive_factor(setting[0])
            lowest = int(np.argmin(np.where(np.isnan(correlations), -2, correlations)))  # NaN is the worst
            order = Order(
                name,
                factor,
                count=len(correlations),
                exact=int((correlations >= 1 - EXACT).sum()),
                worst=float(correlations[lowest]),
                photo=series.photos[lowest],
                broken=len(correlations) - int((correlations >= 1 - allowed).sum()) if factor else 0,
            )
            by_name[name] = both(by_name[name], order) if name in by_name else order
    return list(by_name.values())


def both(before: Order, order: Order) -> Order:
    """Of one setting in two series; between equals the later photo is named."""
    worse = min((order, before), key=lambda candidate: badness(candidate.worst))
    return replace(
        worse,
        count=before.count + order.count,
        exact=before.exact + order.exact,
        broken=before.broken + order.broken,
    )


def badness(correlation: float) -> float:
    """Lowest first, and no number at all before the lowest."""
    return -2.0 if math.isnan(correlation) else correlation


# -------------------------------------------------------------------------------- temperatures


@dataclass(frozen=True)
class CommonTemperature:
    """The one temperature that serves the worst-served query best, and on which share of the photos."""

    tau: float
    served: list[float]  # per series: share of the photos within a factor two of the wanted sharpness

    @property
    def worst(self) -> float:
        return min(self.served)


def best_common_temperature(all_series: Sequence[Series], wanted: float) -> CommonTemperature | None:
    """Serving: perplexity / N between wanted / 2 and 2 * wanted.  None where no scores have contrast."""
    spreads = [series.score_std[series.score_std > 0] for series in all_series]
    if not all_series or not all(len(spread) for spread in spreads):
        return None
    medians = [float(np.median(spread)) for spread in spreads]
    first = math.floor(4 * math.log2(min(medians) / 64))  # in quarters of an octave
    last = math.ceil(4 * math.log2(max(medians) * 64))
    tau = 2.0 ** (np.arange(first, last + 1) / 4)
    served = np.empty((len(all_series), len(tau)))
    for row, series in zip(served, all_series, strict=True):
        taus = np.broadcast_to(tau, (series.photos_with_curves, len(tau)))
        shares = series.read_off("perplexity", taus)
        row[:] = ((wanted / 2 <= shares) & (shares <= 2 * wanted)).mean(0)
    # between equals, what serves the others better
    best = int(np.lexsort((served.mean(0), served.min(0)))[-1])
    return CommonTemperature(float(tau[best]), served[:, best].tolist())


@dataclass(frozen=True)
class Advice:
    """The temperature that spreads a query over a share of the patches, and what it leaves photo by photo."""

    job: str
    query: str
    share: float
    tau: Interval
    times_sqrt_d: float
    low: float  # BAND of the shares that the photos get under that temperature
    high: float
    flat: int  # photos without contrast: no temperature sharpens them


def advice(all_series: Sequence[Series], shares: Sequence[float]) -> list[Advice]:
    """For each series and each of `shares`, where any photo has contrast."""
    pieces = []
    for series in all_series:
        for column, share in enumerate(shares):
            taus = series.curves["tau"][:, column]
            known = taus[np.isfinite(taus) & (taus > 0)]
            if not len(known):
                continue
            tau = median_interval(known)
            same_tau = np.full((series.photos_with_curves, 1), tau.value)
            low, high = np.percentile(series.read_off("perplexity", same_tau)[:, 0], BAND)
            pieces.append(
                Advice(
                    series.job,
                    series.query,
                    share=share,
                    tau=tau,
                    times_sqrt_d=tau.value / float(np.nanmedian(series.sqrt_d)),
                    low=float(low),
                    high=float(high),
                    flat=len(taus) - len(known),
                )
            )
    return pieces
