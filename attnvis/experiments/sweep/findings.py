"""What a sweep found, in sentences: series of numbers in, the page's paragraph out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from attnvis.experiments.sweep.laws import LAW_FROM, theory_deviation
from attnvis.experiments.sweep.orderings import Order
from attnvis.experiments.sweep.statistics import SQRT_D, Series
from attnvis.experiments.sweep.temperatures import best_common_temperature
from attnvis.experiments.wording import between, chance, every, few, listed, many, part_of, percent, points
from attnvis.metrics.diagnostics import NEARLY_UNIFORM
from attnvis.metrics.intervals import FEWEST, holm, median_interval, sign_test

__all__ = ["paragraph"]

WORDS = 4  # series that a sentence names one by one
ONE_HOT = 0.5  # of the photos with more than .99 on one patch
VISIBLE = 0.001  # of the patches: a smaller change of the median is no finding
REAL = 0.05  # a chance below this is called real


def paragraph(all_series: Sequence[Series], checked: Sequence[Order], shares: Sequence[float]) -> list[str]:
    """What was found, for somebody who reads nothing else."""
    if not all_series:
        return ["No photo was measured: there is nothing to compare."]
    cards = sentence_on_cards(all_series)
    if all(series.one_colour.all() for series in all_series):
        return [cards]
    of_one_score = [series for series in all_series if series.has_one_score]
    sentences = [
        cards,
        sentence_on_joined_maps(all_series),
        sentence_on_contrast(of_one_score),
        sentence_on_sqrt_d(all_series),
        sentence_on_temperature(of_one_score, shares[0] if shares else 0.1) if of_one_score else "",
        sentence_on_change(all_series),
        sentence_on_theory(of_one_score),
        sentence_on_order(checked),
        sentence_on_weights(checked),
    ]
    return [sentence for sentence in sentences if sentence]


def most_photos(all_series: Sequence[Series]) -> int:
    return max(len(series.photos) for series in all_series)


def these_photos(count: int) -> str:
    return "this one photo" if count == 1 else f"these {many(count, 'photo')}"


# -------------------------------------------------------------------------------- photos that say nothing


def sentence_on_cards(all_series: Sequence[Series]) -> str:
    """That photos are of one colour: their maps show the network's edges and not what is on a photo."""
    photos = dict.fromkeys(name for series in all_series for name in series.photos)
    cards = dict.fromkeys(
        name
        for series in all_series
        for name, one_colour in zip(series.photos, series.one_colour, strict=True)
        if one_colour
    )
    if not cards:
        return ""
    edges = "what differs between their patches is how the network treats the edge"
    if len(cards) == len(photos):
        whole = "The one photo is" if len(photos) == 1 else f"{every(len(photos), 'photo').capitalize()} are"
        return f"{whole} of one colour: {edges}, and nothing on this page speaks of photos."
    names = listed(list(cards)[:WORDS]) + (" …" if len(cards) > WORDS else "")
    are = "is" if len(cards) == 1 else "are"
    return (
        f"{len(cards)} of {many(len(photos), 'photo')} {are} of one colour ({names}): {edges}. They count in "
        "every number below."
    )


def sentence_on_joined_maps(all_series: Sequence[Series]) -> str:
    """That maps of several heads or layers are no function of one score, and where they are left out."""
    names = [series.quoted for series in all_series if not series.has_one_score]
    if not names:
        return ""
    named = listed(names) if len(names) <= WORDS else f"{names[0]} and {len(names) - 1} more combinations"
    maps = "The maps are" if len(names) == len(all_series) else f"The maps of {named} are"
    return (
        f"{maps} made of several heads or layers, and no one score gives them: they are in the pictures, the "
        "ranked weights and the table, and not in what is said of scores, temperatures and orders."
    )


def sentence_on_contrast(all_series: Sequence[Series]) -> str:
    """That a query's scores are all equal, so that no setting can prefer a patch."""
    flat = [series.quoted for series in all_series if series.without_contrast]
    if not flat:
        return ""
    names = listed(flat) if len(flat) <= WORDS else f"{flat[0]} and {len(flat) - 1} more combinations"
    scores = "The scores of the query" if len(flat) == 1 else "The scores of the queries"
    photos = "on the photo" if most_photos(all_series) == 1 else "on any photo"
    return f"{scores} {names} do not differ between the patches {photos}: no setting can prefer one."


# -------------------------------------------------------------------------------- 1/sqrt(d_k)


def sentence_on_sqrt_d(all_series: Sequence[Series]) -> str:
    """One-hot, nearly uniform or between, for each query; the two ends where there are many."""
    measured = [series for series in all_series if not np.isnan(series.share_sqrt_d).all()]
    if not measured:
        return ""
    swept = all(SQRT_D in series.settings for series in measured)
    ordered = sorted(measured, key=lambda series: float(np.nanmedian(series.share_sqrt_d)))
    named = ordered if len(ordered) <= WORDS else [ordered[0], ordered[-1]]
    start = "1/√d_k leaves" if swept else "1/√d_k, which was not part of this sweep, would leave"
    among = "" if named is ordered else f", the sharpest and the most even of {len(ordered)} combinations"
    verdicts = listed([f"{series.quoted} {verdict_on_sqrt_d(series)}" for series in named])
    photos = these_photos(most_photos(all_series))
    distinct = {verdict_on_sqrt_d(series) for series in ordered}
    if among and len(distinct) == 1:
        same = distinct.pop()
        return f"On {photos}, {start} {every(len(ordered), 'combination')} of network and query {same}."
    return f"On {photos}, {start} the query {verdicts}{among}."


def verdict_on_sqrt_d(series: Series) -> str:
    share = series.share_sqrt_d
    middle = float(np.nanmedian(share))
    alone = len(series.photos) == 1
    if SQRT_D in series.settings:
        column = series.settings.index(SQRT_D)
        hot = float(np.nanmean(series.numbers["saturated"][:, column]))
        if hot >= ONE_HOT:
            return "one-hot" if alone else f"one-hot on {part_of(hot, len(series.photos))}"
    elif middle * float(np.median(series.patches)) < 1.06:  # perplexity of .99 on one patch
        return "one-hot"
    if middle > NEARLY_UNIFORM:
        return f"nearly uniform ({'' if alone else 'median '}{percent(middle)} of the patches)"
    return f"spread over {'' if alone else 'a median of '}{percent(middle)} of the patches"


# -------------------------------------------------------------------------------- one temperature


def sentence_on_temperature(all_series: Sequence[Series], wanted: float) -> str:
    """Whether one temperature can serve all photos and queries, judged on photos that did not choose it."""
    best = best_common_temperature(all_series, wanted)
    photos = max(series.photos_with_curves for series in all_series)
    if best is None or (photos == 1 and len(all_series) == 1):
        return ""
    about = f"about {percent(wanted)} of the patches (within a factor of two)"
    if best.judged is None:
        how = f"chosen on {these_photos(photos)}, and not tried on others"
    else:
        how = "photos that did not choose it"
    least = all_series[int(np.argmin(best.shares))]
    reached = part_of(best.worst, least.photos_with_curves)
    if len(all_series) == 1:
        query = least.quoted
        if not max(best.served):
            return f"No single temperature brings the query {query} to {about} on any photo."
        return (
            f"The best single temperature, {best.tau:.3g}, brings the query {query} to {about} on {reached} "
            f"({how})."
        )
    one_job = len({series.job for series in all_series}) == 1
    things = "queries" if one_job else "combinations of network and query"
    what = f"both {things}" if len(all_series) == 2 else f"all {len(all_series)} {things}"
    if not min(best.served):
        each = "this one photo" if photos == 1 else "even one photo for each"
        return f"No single temperature brings {what} to {about} on {each}."
    if best.worst >= 0.9:
        return f"One temperature, {best.tau:.3g}, brings {what} to {about} on at least {reached} ({how})."
    if not best.worst:
        return (
            f"No single temperature that some photos choose brings {what} to {about} on the others: "
            f"{least.quoted} gets there on none of {many(least.photos_with_curves, 'photo')}."
        )
    return (
        f"No single temperature brings {what} to {about} on nine photos out of ten: "
        f"the best common one, {best.tau:.3g}, does so on {reached} for {least.quoted} ({how})."
    )


# -------------------------------------------------------------------------------- change


@dataclass(frozen=True, eq=False)
class Change:
    """What one setting changes against another on one query, photo by photo."""

    series: Series
    setting: str
    base: str
    differences: Float[np.ndarray, " P"]  # of the shares of the patches

    @property
    def median(self) -> float:
        differences = self.differences[~np.isnan(self.differences)]
        return float(np.median(differences)) if len(differences) else 0.0

    @property
    def photos(self) -> int:
        return int((~np.isnan(self.differences)).sum())


def changes_from_sqrt_d(all_series: Sequence[Series]) -> Iterator[Change]:
    """Without settings that are defined by their share: what those change was asked for, and not found."""
    for series in all_series:
        if SQRT_D not in series.settings:
            continue
        base = series.settings.index(SQRT_D)
        for column in range(len(series.settings)):
            if column != base and not series.defines_share(column):
                differences = series.share[:, column] - series.share[:, base]
                yield Change(series, series.names[column], "1/√d_k", differences)


def changes_between(all_series: Sequence[Series]) -> Iterator[Change]:
    """Of every two settings of a query, the sharper of the two the base."""
    for series in all_series:
        free = [column for column in range(len(series.settings)) if not series.defines_share(column)]
        for first, second in combinations(free, 2):
            differences = series.share[:, second] - series.share[:, first]
            change = Change(series, series.names[second], series.names[first], differences)
            if change.median < 0:
                change = Change(series, series.names[first], series.names[second], -differences)
            yield change


def sentence_on_change(all_series: Sequence[Series]) -> str:
    """The largest difference to 1/sqrt(d_k), photo by photo; where that was not swept, of two settings."""
    if not any(SQRT_D in series.settings for series in all_series):
        return sentence_on_range(all_series)
    changes = list(changes_from_sqrt_d(all_series))
    if not changes:
        return ""
    largest = max(changes, key=lambda change: abs(change.median))
    if abs(largest.median) < VISIBLE:
        if len(changes) == 1:
            return (
                f"“{largest.setting}” changes the share of the patches under 1/√d_k by less than "
                "0.1 percentage points."
            )
        return (
            f"None of {len(changes)} changes moves the share of the patches under 1/√d_k by as much as "
            "0.1 percentage points."
        )
    more = "more" if largest.median > 0 else "fewer"
    by = f"{abs(100 * largest.median):.1f} percentage points of the patches {more}"
    start = "The change" if len(changes) == 1 else f"The largest of {len(changes)} changes"
    return (
        f"{start} against 1/√d_k is that of “{largest.setting}” on the query {largest.series.quoted}: "
        f"{by} ({certainty(largest, changes)})."
    )


def sentence_on_range(all_series: Sequence[Series]) -> str:
    """The two settings furthest apart on one query."""
    changes = list(changes_between(all_series))
    if not changes:
        return ""
    largest = max(changes, key=lambda change: abs(change.median))
    if abs(largest.median) < VISIBLE:
        return (
            f"No two settings of a query differ by as much as 0.1 percentage points of the patches "
            f"({many(len(changes), 'pair')})."
        )
    names = largest.series.names
    low, high = (
        float(np.nanmedian(largest.series.share[:, names.index(name)]))
        for name in (largest.base, largest.setting)
    )
    return (
        f"The settings differ most on the query {largest.series.quoted}: from {percent(low)} of the patches "
        f"under “{largest.base}” to {percent(high)} under “{largest.setting}” "
        f"({certainty(largest, changes)})."
    )


def certainty(largest: Change, changes: Sequence[Change]) -> str:
    """What a change that was picked from among others is worth: an interval wide enough for all of them."""
    photos = largest.photos
    alone = len(changes) == 1
    if photos == 1:
        return f"on this one photo; {few(1)}"
    median = f"median of the paired differences {points(largest.median)}"
    if photos < FEWEST:
        return f"{median}; {few(photos)}"
    limits = between(median_interval(largest.differences, level=1 - REAL / len(changes)), points)
    if not limits:
        limits = f"; {photos} photos are too few for an interval that allows for {len(changes)} comparisons"
    elif not alone:
        limits = f" {limits}, wide enough for being the largest of {len(changes)}"
    else:
        limits = f" {limits}"
    raised = holm([sign_test(change.differences) for change in changes])
    own = raised[changes.index(largest)]
    real = sum(probability < REAL for probability in raised)
    test = "sign test" if alone else f"sign test after Holm: {real} of {len(changes)} differ from 0"
    doubt = "" if own < REAL else "; it may be chance"
    return f"{median}{limits}; {test}, {'' if alone else 'this one with '}{chance(own)}{doubt}"


# -------------------------------------------------------------------------------- theory, order


def sentence_on_theory(all_series: Sequence[Series]) -> str:
    """How far both laws are off, where they say more than that a map is nearly uniform."""
    theory = theory_deviation(all_series)
    simple, cumulants = theory.simple, theory.cumulants
    if not simple.count:
        return ""
    better = ""
    if cumulants.count == simple.count:
        better = (
            f", and to {cumulants.median:.2g} of exp(−σ²/2 − gσ³/3 − kσ⁴/8), which knows the skewness g and "
            "the excess kurtosis k of the logits"
        )
    maps = "the one map" if simple.count == 1 else f"the median of {many(simple.count, 'map')}"
    return (
        f"What a scaling sets is σ, the spread of the logits (σ_eff): for σ from {LAW_FROM:g} to 1 the share "
        f"of the patches is exp(−σ²/2) to within {simple.median:.2g} in {maps} with softmax{better}."
    )


def sentence_on_order(checked: Sequence[Order]) -> str:
    """That no factor changed the order; nothing where one did, for that is an alarm and no finding."""
    factors = [order for order in checked if order.factor]
    if not factors or any(order.broken for order in factors):
        return ""
    if len(factors) == 1:
        settings, leave = "The one setting that multiplies", "leaves"
    else:
        settings, leave = f"{every(len(factors), 'setting').capitalize()} that multiply", "leave"
    where = ""
    measured = all(not math.isnan(order.weights.worst) for order in factors)
    if measured and not any(order.weights.lost for order in factors):
        where = ", in the logits and in the weights"
    elif measured:
        where = " in the logits"
    return (
        f"{settings} the scores of a photo by one positive factor {leave} the order of the patches as it "
        f"was{where}."
    )


def sentence_on_weights(checked: Sequence[Order]) -> str:
    """Which of the same settings lose it in the weights, where a normaliser or rounding cuts patches off."""
    losing = [order for order in checked if order.factor and order.weights.lost]
    if not losing or any(order.broken for order in checked):
        return ""
    losing.sort(key=lambda order: order.weights.worst)
    texts = [
        f"“{order.setting}” on {order.weights.lost} of {many(order.count, 'map')} (at worst "
        f"{order.weights.alive} of {order.weights.patches} patches are above 0, and the rank correlation is "
        f"{order.weights.worst:.2g})"
        for order in losing[:WORDS]
    ]
    more = f", and {len(losing) - WORDS} more" if len(losing) > WORDS else ""
    return (
        f"In the weights, where those that are 0 are ties, the order is not kept under {listed(texts)}{more}."
    )
