"""How often a target was found at each level of difference -> a psychometric curve and its threshold.

    P(found at x) = guess + (1 - guess - lapse) / (1 + exp(-slope (log2 x - log2 threshold)))

The guess rate is known; threshold, slope and lapse are the likeliest of a grid of curves (Wichmann and Hill
2001 fit the same four numbers), so that no fit can run away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Psychometric", "fit_psychometric", "probability"]

THRESHOLDS = 181  # from an octave below the lowest level to one above the highest
SLOPES = 8
LAPSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)  # of the easiest targets, the share that is missed
FLATTEST = 0.5  # in logits an octave
STEEPEST = 6.0  # logits between two levels, 5 to 95 %: the levels cannot tell a steeper curve from this
DRAWS = 1000
BLOCK = 250  # draws that are fitted together
LEVEL = 0.95


@dataclass(frozen=True)
class Psychometric:
    """A curve that was fitted.

    threshold   the level at which the target is found half-way between guess and 1 - lapse; -inf and inf: it
                lies below or above all levels that were shown
    low, high   its 95 % interval, by a parametric bootstrap; -inf and inf as of the threshold
    slope       logits an octave of the level
    chance      that finds rise as much as here where they do not depend on the level at all
    lost        of DRAWS bootstrap draws, those whose threshold lies beyond the levels that were shown
    """

    threshold: float
    low: float
    high: float
    slope: float
    lapse: float
    guess: float
    chance: float
    lost: int

    def at(self, levels: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
        """P(found); NaN where the threshold lies beyond the levels."""
        if not math.isfinite(self.threshold):
            return np.full(len(levels), np.nan)
        octaves = np.log2(levels) - math.log2(self.threshold)
        return probability(octaves, self.slope, lapse=self.lapse, guess=self.guess)


def probability(
    octaves: Float[np.ndarray, "*any"], slope: float | np.ndarray, lapse: float | np.ndarray, guess: float
) -> Float[np.ndarray, "*any"]:
    """P(found) so many octaves above the threshold."""
    with np.errstate(over="ignore"):
        return guess + (1 - guess - lapse) / (1 + np.exp(-slope * octaves))


@dataclass(frozen=True, eq=False)
class Curves:
    """The G curves that are tried, and the logs of finding and of missing at each of L levels."""

    thresholds: Float[np.ndarray, " G"]  # log2
    slopes: Float[np.ndarray, " G"]
    lapses: Float[np.ndarray, " G"]
    chances: Float[np.ndarray, "L G"]
    found: Float[np.ndarray, "L G"]
    missed: Float[np.ndarray, "L G"]

    def likeliest(
        self, found: Float[np.ndarray, "R L"], trials: Float[np.ndarray, " L"]
    ) -> tuple[Int[np.ndarray, " R"], Float[np.ndarray, " R"]]:
        """Of each row of counts the curve, and the log of its likelihood."""
        best, logs = [], []
        for start in range(0, len(found), BLOCK):
            counts = found[start : start + BLOCK]
            likelihoods = counts @ self.found + (trials - counts) @ self.missed
            best.append(likelihoods.argmax(1))
            logs.append(likelihoods.max(1))
        return np.concatenate(best), np.concatenate(logs)

    def levels_of(self, curves: Int[np.ndarray, " R"], levels: Sequence[float]) -> Float[np.ndarray, " R"]:
        """The curves' thresholds; -inf and inf beyond the levels that were shown."""
        thresholds = 2 ** self.thresholds[curves]
        inside = np.where(thresholds < min(levels) * (1 - 1e-9), -math.inf, thresholds)
        return np.where(thresholds > max(levels) * (1 + 1e-9), math.inf, inside)


@lru_cache(maxsize=16)
def curves_over(levels: tuple[float, ...], guess: float) -> Curves:
    """All that are tried at these levels, ascending."""
    octaves = np.log2(np.array(levels))
    steepest = max(STEEPEST / float(np.diff(octaves).min()), 2 * FLATTEST)
    axes = (
        np.linspace(octaves[0] - 1, octaves[-1] + 1, THRESHOLDS),
        np.geomspace(FLATTEST, steepest, SLOPES),
        np.array([lapse for lapse in LAPSES if lapse < 1 - guess]),
    )
    thresholds, slopes, lapses = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    chances = probability(octaves[:, None] - thresholds, slopes, lapse=lapses, guess=guess)
    chances = chances.clip(1e-9, 1 - 1e-9)
    return Curves(thresholds, slopes, lapses, chances, np.log(chances), np.log1p(-chances))


def fit_psychometric(
    levels: Sequence[float],
    found: Float[np.ndarray, " L"],
    trials: Int[np.ndarray, " L"],
    guess: float,
    seed: int = 0,
    draws: int = DRAWS,
) -> Psychometric:
    """The likeliest curve through `found` of `trials` at each level, its interval and its chance.

    levels   ascending, above 0, at least 3
    guess    how often a map that knows nothing finds the target, above 0 and below 1

    Raises ValueError for other levels and guesses.
    """
    if len(levels) < 3 or min(levels) <= 0 or (np.diff(levels) <= 0).any():
        raise ValueError(f"levels {', '.join(f'{each:g}' for each in levels)}: give 3 or more, rising from above 0")
    if not 0 < guess < 1:
        raise ValueError(f"a guess rate of {guess:g}: give one above 0 and below 1")
    rng = np.random.default_rng(seed)
    curves = curves_over(tuple(map(float, levels)), float(guess))
    (best,), (log,) = curves.likeliest(found[None], trials)
    again = rng.binomial(trials, curves.chances[:, best], (draws, len(trials))).astype(float)
    thresholds = np.sort(curves.levels_of(curves.likeliest(again, trials)[0], levels))
    ends = [int((1 - LEVEL) / 2 * (draws - 1)), math.ceil((1 + LEVEL) / 2 * (draws - 1))]
    low, high = thresholds[ends].tolist()  # of infinite ones there is no mean
    share = float(found.sum() / trials.sum())
    flat = rng.binomial(trials, share, (draws, len(trials))).astype(float)
    rises = curves.likeliest(flat, trials)[1] - flat_likelihood(flat, trials)
    rise = log - flat_likelihood(found[None], trials)[0]
    return Psychometric(
        float(curves.levels_of(np.array([best]), levels)[0]),
        low,
        high=high,
        slope=float(curves.slopes[best]),
        lapse=float(curves.lapses[best]),
        guess=guess,
        chance=float((1 + (rises >= rise - 1e-9).sum()) / (draws + 1)),
        lost=int((~np.isfinite(thresholds)).sum()),
    )


def flat_likelihood(
    found: Float[np.ndarray, "R L"], trials: Int[np.ndarray, " L"]
) -> Float[np.ndarray, " R"]:
    """The log likelihood where every level has the same share."""
    total = trials.sum()
    share = (found.sum(1) / total).clip(1e-9, 1 - 1e-9)
    return found.sum(1) * np.log(share) + (total - found.sum(1)) * np.log1p(-share)
