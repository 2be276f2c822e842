"""A sweep -> its series, one per job and query, and what can be said of them: theory, ranks, temperatures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from attnvis.attention.scaling import positive_factor
from attnvis.experiments.sweep.folder import AXES, Part, Sweep, setting_name
from attnvis.experiments.sweep.shapes import SHAPES
from attnvis.experiments.wording import COUNTED
from attnvis.methods.settings import TEMPERATURES
from attnvis.metrics.diagnostics import DESCRIPTIONS, freezing_point
from attnvis.metrics.intervals import FEWEST, Interval, median_interval, share_interval

__all__ = [
    "BAND",
    "EXACT",
    "SQRT_D",
    "Advice",
    "CommonTemperature",
    "Deviation",
    "Order",
    "Series",
    "Theory",
    "WeightOrder",
    "advice",
    "badness",
    "band",
    "band_words",
    "best_common_temperature",
    "cumulant_law",
    "orders",
    "series_of",
    "simple_law",
    "theory_deviation",
]

SQRT_D = ("inv_sqrt_d", "softmax")  # the setting that all others are compared with
BAND = (5, 95)  # percentiles over photos: the ends of what is drawn and told as usual, of COUNTED or more
EXACT = 1e-6  # a rank correlation this near to 1 is 1
KEPT_ORDER = 0.99  # a rank correlation of weights with scores below this one is an order lost
LAW_FROM = 0.5  # sigma_eff from which the theory says something: below, it gives over 88 % of the patches
ONE_COLOUR = 1.0  # of 255: a photo whose pixels spread by less is a card of one colour
FOLDS = 10  # parts of the photos, each judged by what the others chose


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


# -------------------------------------------------------------------------------- theory


@dataclass(frozen=True)
class Deviation:
    """|perplexity / N - law| over maps: what logits that follow the law would not show."""

    count: int
    median: float
    high: float  # 95th percentile, of few the highest


@dataclass(frozen=True)
class Theory:
    """How far maps lie from each law, of those with sigma_eff >= LAW_FROM: flatter ones fit any law."""

    simple: Deviation  # exp(-sigma_eff^2 / 2), where sigma_eff <= 1
    cumulants: Deviation  # of the same maps, the law that knows skewness and kurtosis
    unfrozen: Deviation  # the simple law, below the freezing line of each photo's N


def simple_law(sigma: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """perplexity / N of softmax, where the logits are many, independent and normal."""
    return np.exp(-(sigma**2) / 2)


def cumulant_law(
    sigma: Float[np.ndarray, "*any"], skewness: Float[np.ndarray, "*any"], kurtosis: Float[np.ndarray, "*any"]
) -> Float[np.ndarray, "*any"]:
    """The same of logits whose cumulants vanish from the fifth on; `kurtosis` is the excess.

    With K the generating function of the cumulants, ln(perplexity / N) = K(1) - K'(1).
    """
    return np.exp(-(sigma**2) / 2 - skewness * sigma**3 / 3 - kurtosis * sigma**4 / 8)


def theory_deviation(all_series: Sequence[Series]) -> Theory:
    """Of softmax, as the theory is."""

    def over_maps(numbers: Callable[[Series], Float[np.ndarray, "P S"]]) -> Float[np.ndarray, " maps"]:
        parts = [numbers(series)[:, series.softmax].ravel() for series in all_series]
        return np.concatenate([np.empty(0), *parts])

    sigma = over_maps(lambda series: series.numbers["sigma_eff"])
    share = over_maps(lambda series: series.share)
    freezing = over_maps(freezing_points)
    skewness = over_maps(lambda series: series.shape("logit_skewness"))
    kurtosis = over_maps(lambda series: series.shape("logit_kurtosis"))
    from_simple = np.abs(share - simple_law(sigma))
    telling = sigma >= LAW_FROM - 1e-6  # zscore gives its number but for rounding
    gentle = telling & (sigma <= 1 + 1e-6)
    from_cumulants = np.abs(share - cumulant_law(np.minimum(sigma, 1.0), skewness, kurtosis))
    return Theory(
        simple=deviation_of(from_simple[gentle]),
        cumulants=deviation_of(from_cumulants[gentle]),
        unfrozen=deviation_of(from_simple[telling & (sigma < freezing)]),
    )


def freezing_points(series: Series) -> Float[np.ndarray, "P S"]:
    points = np.array([freezing_point(int(count)) for count in series.patches])
    return np.broadcast_to(points[:, None], series.share.shape)


def deviation_of(differences: Float[np.ndarray, " maps"]) -> Deviation:
    known = differences[~np.isnan(differences)]
    median, high = np.percentile(known, (50, band(len(known))[1])) if len(known) else (math.nan, math.nan)
    return Deviation(len(known), float(median), float(high))


# -------------------------------------------------------------------------------- ranks


@dataclass(frozen=True)
class WeightOrder:
    """Whether the order is left in the weights too, where a normaliser may cut patches off."""

    lost: int  # maps whose Spearman of weights with scores is below KEPT_ORDER
    worst: float  # the lowest; NaN where it was not measured
    alive: int  # patches above 0 on that map
    patches: int  # of how many


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
    weights: "WeightOrder"


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
                weights=weight_order(series, column),
            )
            by_name[name] = both(by_name[name], order) if name in by_name else order
    return list(by_name.values())


def weight_order(series: Series, column: int) -> WeightOrder:
    """Of one setting in one series."""
    correlations = series.shape("weight_rank_correlation")[:, column]
    if np.isnan(correlations).all():
        return WeightOrder(0, math.nan, alive=0, patches=0)
    lowest = int(np.nanargmin(correlations))
    return WeightOrder(
        lost=int((correlations < KEPT_ORDER).sum()),
        worst=float(correlations[lowest]),
        alive=int(series.shape("alive")[lowest, column]),
        patches=int(series.patches[lowest]),
    )


def both_weights(before: WeightOrder, after: WeightOrder) -> WeightOrder:
    known = [order for order in (after, before) if not math.isnan(order.worst)]
    worse = min(known, key=lambda order: order.worst) if known else before
    return replace(worse, lost=before.lost + after.lost)


def both(before: Order, order: Order) -> Order:
    """Of one setting in two series; between equals the later photo is named."""
    worse = min((order, before), key=lambda candidate: badness(candidate.worst))
    return replace(
        worse,
        count=before.count + order.count,
        exact=before.exact + order.exact,
        broken=before.broken + order.broken,
        weights=both_weights(before.weights, order.weights),
    )


def badness(correlation: float) -> float:
    """Lowest first, and no number at all before the lowest."""
    return -2.0 if math.isnan(correlation) else correlation


# -------------------------------------------------------------------------------- temperatures


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
