"""What was measured in, of every map and check a figure, a bound and a verdict out.

A bound is a number that somebody can justify, or there is none and then no verdict.  Where it is itself
measured on the photos, figure and bound are compared photo by photo: a paired bootstrap, after Holm over the
maps of the check.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from attnvis.experiments.evaluate.statistics import (
    RESAMPLES,
    bootstrap_chance,
    percentiles,
    resampled,
    weighted_means,
)
from attnvis.experiments.sanity.likeness import MARGIN_OF_STEP
from attnvis.experiments.sanity.measure import MARGIN, Measured
from attnvis.metrics.intervals import FEWEST_OF_MEANS, LEVEL, NOTHING, Interval, holm, share_interval

__all__ = ["CHECKS", "FAILS", "PASSES", "UNTOLD", "Cascade", "Check", "Verdict", "cascades", "verdicts"]

PASSES, FAILS, UNTOLD = "passes", "fails", "cannot be told"
SMALL = 0.1  # the smallest correlation that is called an effect (Cohen 1988): a hundredth of the variance
CROWDED = 0.9  # where other photos' maps are this alike there is no room above them


@dataclass(frozen=True)
class Check:
    """One question to every map.

    what     is done
    figure   what is measured
    bound    what it is held against, and why
    """

    name: str
    what: str
    figure: str
    bound: str


CHECKS = {
    check.name: check
    for check in (
        Check(
            "classifier",
            "the classifier's weights are drawn anew, the class stays the same",
            "|Spearman| of the map before and after",
            "that with another photo's map, + 0.1: an unrelated map of the same kind is so much alike, and "
            "0.1 is the smallest correlation that is called an effect (Cohen 1988)",
        ),
        Check(
            "weights",
            "all weights are drawn anew",
            "|Spearman| of the map before and after",
            "as above: what is left above it comes from the photo and the architecture, not from training",
        ),
        Check(
            "patches",
            "the keys come in another order",
            "the largest difference to the reordered map, of its highest value",
            "1/510: half of one of the 255 steps of a picture; a map of patches knows no places",
        ),
        Check(
            "query",
            "the patches are asked with another photo's query",
            "share of the weight that moves",
            "the share that moves when the photo is shifted by one pixel: a map that hangs on its query "
            "changes more",
        ),
        Check(
            "mirror",
            "the photo is mirrored, the same class is asked for, the map turned back",
            "photos whose map is no longer like itself (Spearman not above 0)",
            "none: it is the same question about the same thing",
        ),
        Check(
            "shift",
            "the input is moved by 1/32 of its short side, the same class is asked for, the map moved back",
            "photos whose map is no longer like itself (Spearman not above 0)",
            "none: it is the same question about the same thing",
        ),
        Check(
            "bf16",
            "the network runs in bfloat16 instead of float32",
            "share of the weight that moves",
            "the share that moves when the photo is shifted by one pixel, which nobody calls another photo",
        ),
        Check(
            "batch",
            "a photo goes through the network alone, and among 8",
            "the largest difference, of the map's highest value",
            "1/510: half of one of the 255 steps of a picture",
        ),
    )
}


@dataclass(frozen=True)
class Verdict:
    """One map under one check.

    bound     NaN: there is none
    verdict   "": it is not asked, and `why` says so
    """

    map: str
    check: str
    figure: Interval
    bound: float
    verdict: str
    why: str = ""


@dataclass(frozen=True)
class Cascade:
    """How like itself a map is after one stage: means over photos; `other`: to another photo's map."""

    map: str
    stage: str
    spearman: Interval
    absolute: Interval
    pearson: Interval
    ssim: Interval
    other: Interval


def verdicts(measured: Measured, seed: int = 0) -> list[Verdict]:
    """Check by check, of each check every map."""
    last = len(measured.stages) - 1
    columns: dict[str, Callable[[str], Verdict | Paired]] = {
        "classifier": lambda row: of_weights(measured, row, "classifier", stage=0),
        "weights": lambda row: of_weights(measured, row, "weights", stage=last),
        "patches": lambda row: of_steps(measured, row, "patches", figure="order"),
        "query": lambda row: of_query(measured, row),
        "mirror": lambda row: of_change(measured, row, "mirror"),
        "shift": lambda row: of_change(measured, row, "shift"),
        "bf16": lambda row: of_precision(measured, row),
        "batch": lambda row: of_steps(measured, row, "batch", figure="batch"),
    }
    decided = []
    for name, verdict_of in columns.items():
        decided += with_chances([verdict_of(row) for row in measured.maps], seed)
        assert all(each.check == name for each in decided[-len(measured.maps) :])
    return decided


# --------------------------------------------------------------------------------------- against the photos


@dataclass(frozen=True, eq=False)
class Paired:
    """Figure and bound of every photo: the map passes where the figure is shown to lie on the right side."""

    map: str
    check: str
    figures: Float[np.ndarray, " P"]
    bounds: Float[np.ndarray, " P"]
    below: bool  # whether it passes below the bound, or above

    @property
    def differences(self) -> Float[np.ndarray, " P"]:
        return self.figures - self.bounds


def with_chances(entries: list[Verdict | Paired], seed: int) -> list[Verdict]:
    """Those that are still to be decided, decided together."""
    chances: dict[int, float] = {}
    drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for number, entry in enumerate(entries):
        if isinstance(entry, Paired):
            draws = resampled(len(entry.figures), RESAMPLES, seed)
            values = np.stack([entry.figures, entry.differences], 1)
            own, difference = weighted_means(values, draws).T
            drawn[number] = own, difference
            if (~np.isnan(entry.differences)).sum() >= FEWEST_OF_MEANS:
                chances[number] = bootstrap_chance(difference)
    raised = dict(zip(chances, holm(list(chances.values())), strict=True))
    return [
        decided(entry, drawn[number][0], raised.get(number)) if isinstance(entry, Paired) else entry
        for number, entry in enumerate(entries)
    ]


def decided(entry: Paired, draws: Float[np.ndarray, " R"], chance: float | None) -> Verdict:
    """chance: that figure and bound are equal, after Holm; None: too few photos."""
    known = ~np.isnan(entry.differences)
    figure = percentiles(float(entry.figures[known].mean()), int(known.sum()), draws)
    bound = float(entry.bounds[known].mean())
    if chance is None:
        why = f"{known.sum()} photos; from {FEWEST_OF_MEANS} on it can be"
        return Verdict(entry.map, entry.check, figure, bound, UNTOLD, why)
    if chance >= 1 - LEVEL:
        why = f"figure and bound are not shown to differ (p = {chance:.2g})"
        return Verdict(entry.map, entry.check, figure, bound, UNTOLD, why)
    is_below = float(entry.differences[known].mean()) < 0
    return Verdict(entry.map, entry.check, figure, bound, PASSES if is_below == entry.below else FAILS)


def not_asked(row: str, check: str, why: str) -> Verdict:
    return Verdict(row, check, NOTHING, math.nan, "", why)


def of_weights(measured: Measured, row: str, check: str, stage: int) -> Verdict | Paired:
    """What is left of a map after a stage of the cascade."""
    after, other = measured.of(row, f"spearman {stage}"), measured.of(row, "other")
    moved = measured.of(row, f"moved {stage}")
    if np.isnan(moved).all():
        return not_asked(row, check, "this map cannot be made after the classifier is drawn anew")
    if check == "classifier" and np.nanmax(moved) <= MARGIN:
        return not_asked(row, check, "it does not ask the classifier")
    if np.isnan(after).all():
        return Verdict(
            row, check, NOTHING, math.nan, UNTOLD, "a map that is the same everywhere has no ranks"
        )
    if np.isnan(other).all():
        return Verdict(row, check, NOTHING, math.nan, UNTOLD, "there is no other photo to compare with")
    bounds = np.abs(other) + SMALL
    if np.nanmean(np.abs(other)) > CROWDED:
        why = f"its maps are alike on all photos (|Spearman| {np.nanmean(np.abs(other)):.2f})"
        value = float(np.nanmean(np.abs(after)))
        figure = Interval(value, math.nan, high=math.nan, count=int((~np.isnan(after)).sum()))
        return Verdict(row, check, figure, float(np.nanmean(bounds)), UNTOLD, why)
    return Paired(row, check, np.abs(after), bounds, below=True)


def of_query(measured: Measured, row: str) -> Verdict | Paired:
    swapped = measured.of(row, "query")
    if np.isnan(swapped).all():
        return not_asked(row, "query", "it asks all photos the same, or is no attention")
    return Paired(row, "query", swapped, measured.of(row, "nudge"), below=False)


def of_precision(measured: Measured, row: str) -> Verdict | Paired:
    return Paired(row, "bf16", measured.of(row, "half"), measured.of(row, "nudge"), below=True)


# --------------------------------------------------------------------------------------- against fixed bounds


def of_steps(measured: Measured, row: str, check: str, figure: str) -> Verdict:
    """The largest difference on any photo, which no chance makes."""
    values = measured.of(row, figure)
    if np.isnan(values).all():
        return not_asked(row, check, "it does not look at patch after patch alone")
    largest = float(np.nanmax(values))
    interval = Interval(largest, math.nan, high=math.nan, count=int((~np.isnan(values)).sum()))
    return Verdict(row, check, interval, MARGIN_OF_STEP, PASSES if largest <= MARGIN_OF_STEP else FAILS)


def of_change(measured: Measured, row: str, check: str) -> Verdict:
    """How many maps are no longer like themselves."""
    values = measured.of(row, check)
    if check == "mirror" and row in measured.places:
        return not_asked(row, check, "it asks about a place, which lies elsewhere in the mirror")
    if np.isnan(values).all():
        return Verdict(row, check, NOTHING, 0.0, UNTOLD, "a map that is the same everywhere has no ranks")
    known = values[~np.isnan(values)]
    share = share_interval((known <= 0).astype(float))
    why = f"Spearman {np.median(known):.2f} in the middle, {known.min():.2f} at worst"
    return Verdict(row, check, share, 0.0, FAILS if (known <= 0).any() else PASSES, why)


# ------------------------------------------------------------------------------------------------ the cascade


def cascades(measured: Measured, seed: int = 0) -> Iterator[Cascade]:
    """Every map after every stage."""
    draws = resampled(len(measured.photos), RESAMPLES, seed)

    def interval(values: Float[np.ndarray, " P"]) -> Interval:
        known = ~np.isnan(values)
        if not known.any():
            return NOTHING
        own = weighted_means(values[:, None], draws)[:, 0]
        return percentiles(float(values[known].mean()), int(known.sum()), own)

    for row in measured.maps:
        other = interval(np.abs(measured.of(row, "other")))
        for number, stage in enumerate(measured.stages):
            ranks = measured.of(row, f"spearman {number}")
            yield Cascade(
                row,
                stage,
                spearman=interval(ranks),
                absolute=interval(np.abs(ranks)),
                pearson=interval(measured.of(row, f"pearson {number}")),
                ssim=interval(measured.of(row, f"ssim {number}")),
                other=other,
            )


def counts(entries: list[Verdict]) -> Mapping[str, int]:
    """passes -> how many, and so on."""
    return {text: sum(entry.verdict == text for entry in entries) for text in (PASSES, FAILS, UNTOLD)}
