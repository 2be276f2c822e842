"""Series in, the temperatures that serve them out: one for all queries, and one for each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from attnvis.experiments.sweep.statistics import Series, band
from attnvis.metrics.intervals import FEWEST, Interval, median_interval, share_interval

__all__ = ["Advice", "CommonTemperature", "advice", "best_common_temperature"]

FOLDS = 10  # parts of the photos, each judged by what the others chose


def serves(shares: Float[np.ndarray, "*any"], wanted: float) -> Bool[np.ndarray, "*any"]:
    """Whether perplexity / N lies between wanted / 2 and 2 * wanted."""
    return (wanted / 2 <= shares) & (shares <= 2 * wanted)


@dataclass(frozen=True)
class CommonTemperature:
    """The one temperature that serves the worst-served query best, and on which share of the photos."""

    tau: float
    served: list[float]  # per series: share of the photos within a factor two of the wanted sharpness
    judged: list[float] | None  # the same on photos that did not choose it; None below FEWEST photos

    @property
    def shares(self) -> list[float]:
        """What may be said of it: of photos that did not choose it, where there are enough."""
        return self.served if self.judged is None else self.judged

    @property
    def worst(self) -> float:
        return min(self.shares)


def best_common_temperature(all_series: Sequence[Series], wanted: float) -> CommonTemperature | None:
    """Chosen on all photos, and judged in FOLDS parts, each by what the other photos choose.

    None where no scores have contrast.
    """
    spreads = [series.score_std[series.score_std > 0] for series in all_series]
    if not all_series or not all(len(spread) for spread in spreads):
        return None
    medians = [float(np.median(spread)) for spread in spreads]
    first = math.floor(4 * math.log2(min(medians) / 64))  # in quarters of an octave
    last = math.ceil(4 * math.log2(max(medians) * 64))
    tau = 2.0 ** (np.arange(first, last + 1) / 4)
    served = []  # of each series [P, T]
    for series in all_series:
        taus = np.broadcast_to(tau, (series.photos_with_curves, len(tau)))
        served.append(serves(series.read_off("perplexity", taus), wanted))
    best = most_serving(served)
    return CommonTemperature(
        float(tau[best]),
        served=[float(row[:, best].mean()) for row in served],
        judged=judged_elsewhere(served, [fold_of(series, all_series) for series in all_series]),
    )


def most_serving(served: Sequence[Bool[np.ndarray, "P T"]]) -> int:
    """Which temperature serves the worst-served series best; of equals, what serves the others better."""
    shares = np.stack([row.mean(0) for row in served])
    return int(np.lexsort((shares.mean(0), shares.min(0)))[-1])


def fold_of(series: Series, all_series: Sequence[Series]) -> Float[np.ndarray, " P"]:
    """In which part each photo with curves is: in every series the same."""
    names = dict.fromkeys(name for every in all_series for name in every.photos)
    numbers = {name: number % FOLDS for number, name in enumerate(names)}
    return np.array([float(numbers[name]) for name in series.photos[: series.photos_with_curves]])


def judged_elsewhere(
    served: Sequence[Bool[np.ndarray, "P T"]], folds: Sequence[Float[np.ndarray, " P"]]
) -> list[float] | None:
    """Per series the share of the photos that are served by the choice of the others."""
    if min(len(row) for row in served) < FEWEST:
        return None
    counts = np.zeros(len(served))
    for fold in range(FOLDS):
        others = [row[own != fold] for row, own in zip(served, folds, strict=True)]
        if not all(len(row) for row in others):
            return None
        best = most_serving(others)
        counts += [row[own == fold, best].sum() for row, own in zip(served, folds, strict=True)]
    return [float(count / len(row)) for count, row in zip(counts, served, strict=True)]


@dataclass(frozen=True)
class Advice:
    """The temperature that spreads a query over a share of the patches, and what it leaves photo by photo."""

    job: str
    query: str
    share: float
    tau: Interval
    times_sqrt_d: float
    low: float  # `band` of the shares that the photos with contrast get under that temperature
    high: float
    flat: int  # photos without contrast: no temperature sharpens them
    within: Interval  # share of the photos within a factor two, each under the median of the other photos


def advice(all_series: Sequence[Series], shares: Sequence[float]) -> list[Advice]:
    """For each series and each of `shares`, where any photo has contrast."""
    pieces = []
    for series in all_series:
        for column, share in enumerate(shares):
            taus = series.curves["tau"][:, column]
            contrast = np.isfinite(taus) & (taus > 0)
            known = taus[contrast]
            if not len(known):
                continue
            tau = median_interval(known)
            same_tau = np.full((series.photos_with_curves, 1), tau.value)
            reached = series.read_off("perplexity", same_tau)[contrast, 0]
            low, high = np.percentile(reached, band(len(reached)))
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
                    within=within_factor_two(series, taus, share),
                )
            )
    return pieces


def within_factor_two(series: Series, taus: Float[np.ndarray, " P"], share: float) -> Interval:
    """Of the photos with contrast, how many the median temperature of the *other* photos serves.

    Below FEWEST photos it is the median of all.
    """
    contrast = np.isfinite(taus) & (taus > 0)
    known = taus[contrast]
    chosen = np.full(taus.shape, float(np.median(known)))
    if len(known) >= FEWEST:
        chosen[contrast] = medians_without_one(known)
    served = serves(series.read_off("perplexity", chosen[:, None])[:, 0], share)
    return share_interval(served[contrast].astype(float))


def medians_without_one(values: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """Of each value the median of all the others; at least two values."""
    return np.array([float(np.median(np.delete(values, place))) for place in range(len(values))])
