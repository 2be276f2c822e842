"""How often a target was found at each level of difference -> a psychometric curve and its threshold.

    P(found at x) = guess + (1 - guess - lapse) / (1 + exp(-slope (log2 x - log2 threshold)))

The guess rate is known; threshold, slope and lapse are the likeliest within limits (Wichmann and Hill 2001
fit the same numbers), looked for on a grid and then in shrinking steps from its best: no fit can run away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Psychometric", "fit_psychometric", "probability"]

GRID = (
    61,
    7,
    5,
)  # thresholds, from an octave below the lowest level to one above the highest; slopes; lapses
ROUNDS = 18  # of steps from the best of the grid to a better neighbour; where there is none steps are halved
MOST_LAPSES = 0.5  # of the easiest targets, the share that is missed
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
    misfit      how often points that do follow the curve lie as far from it as these, or farther
    lost        of DRAWS bootstrap draws, those whose threshold lies beyond the levels that were shown
    """

    threshold: float
    low: float
    high: float
    slope: float
    lapse: float
    guess: float
    chance: float
    misfit: float
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
    """The curves that may be fitted at L levels: a grid of G to begin with, and steps that shrink from there.

    numbers      [log2 of the threshold, log of the slope, lapse]
    found, missed   the logs of the grid's chances of either
    """

    octaves: Float[np.ndarray, " L"]  # log2 of the levels
    guess: float
    numbers: Float[np.ndarray, "G 3"]
    steps: Float[np.ndarray, " 3"]  # of the grid
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]
    found: Float[np.ndarray, "L G"]
    missed: Float[np.ndarray, "L G"]

    def likeliest(
        self, found: Float[np.ndarray, "R L"], trials: Int[np.ndarray, " L"]
    ) -> tuple[Float[np.ndarray, "R 3"], Float[np.ndarray, " R"]]:
        """Of each row of counts the numbers of its curve, and the log of its likelihood."""
        best = [
            (part @ self.found + (trials - part) @ self.missed).argmax(1)
            for part in np.split(found, range(BLOCK, len(found), BLOCK))
        ]
        numbers = self.numbers[np.concatenate(best)]
        steps = np.repeat(self.steps[None] / 2, len(found), 0)
        neighbours = np.stack(np.meshgrid(*[(-1.0, 0.0, 1.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
        rows, middle = np.arange(len(found)), len(neighbours) // 2
        logs = np.full(len(found), -math.inf)
        for _ in range(ROUNDS):
            near = (numbers[:, None] + steps[:, None] * neighbours).clip(self.low, self.high)  # [R, 27, 3]
            chances = chances_at(self.octaves, near, self.guess)
            counts = found[:, None]
            likelihoods = (counts * np.log(chances) + (trials - counts) * np.log1p(-chances)).sum(-1)
            chosen = likelihoods.argmax(1)
            stays = likelihoods[rows, chosen] <= likelihoods[:, middle]
            chosen[stays] = middle
            numbers, logs = near[rows, chosen], likelihoods[rows, chosen]
            steps[stays] /= 2
        return numbers, logs

    def thresholds(self, numbers: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, " R"]:
        """As levels; -inf and inf beyond those that were shown."""
        octaves = numbers[:, 0]
        inside = np.where(octaves < self.octaves[0] - 1e-9, -math.inf, 2**octaves)
        return np.where(octaves > self.octaves[-1] + 1e-9, math.inf, inside)


def chances_at(
    octaves: Float[np.ndarray, " L"], numbers: Float[np.ndarray, "*any 3"], guess: float
) -> Float[np.ndarray, "*any L"]:
    """P(found) of curves at each level, kept off 0 and 1."""
    threshold, slope, lapse = (numbers[..., place, None] for place in range(3))
    chances = probability(octaves - threshold, np.exp(slope), lapse=lapse, guess=guess)
    return chances.clip(1e-9, 1 - 1e-9)


@lru_cache(maxsize=16)
def curves_over(levels: tuple[float, ...], guess: float) -> Curves:
    """Those that are tried at these levels, ascending."""
    octaves = np.log2(np.array(levels))
    steepest = max(STEEPEST / float(np.diff(octaves).min()), 2 * FLATTEST)
    low = np.array([octaves[0] - 1, math.log(FLATTEST), 0.0])
    high = np.array([octaves[-1] + 1, math.log(steepest), min(MOST_LAPSES, (1 - guess) / 2)])
    axes = [np.linspace(*ends) for ends in zip(low, high, GRID, strict=True)]
    numbers = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    steps = (high - low) / (np.array(GRID) - 1)
    chances = chances_at(octaves, numbers, guess).T
    found, missed = np.log(chances), np.log1p(-chances)
    return Curves(octaves, guess, numbers, steps, low=low, high=high, found=found, missed=missed)


def fit_psychometric(
    levels: Sequence[int | float],
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
        raise ValueError(
            f"levels {', '.join(f'{each:g}' for each in levels)}: give 3 or more, rising from above 0"
        )
    if not 0 < guess < 1:
        raise ValueError(f"a guess rate of {guess:g}: give one above 0 and below 1")
    rng = np.random.default_rng(seed)
    curves = curves_over(tuple(map(float, levels)), float(guess))
    best, (log,) = curves.likeliest(found[None], trials)
    again = rng.binomial(trials, chances_at(curves.octaves, best, guess), (draws, len(trials))).astype(float)
    fits, logs = curves.likeliest(again, trials)
    thresholds = np.sort(curves.thresholds(fits))
    apart = best_likelihood(again, trials) - logs
    ends = [int((1 - LEVEL) / 2 * (draws - 1)), math.ceil((1 + LEVEL) / 2 * (draws - 1))]
    low, high = thresholds[ends].tolist()  # of infinite ones there is no mean
    share = float(found.sum() / trials.sum())
    flat = rng.binomial(trials, share, (draws, len(trials))).astype(float)
    rises = curves.likeliest(flat, trials)[1] - flat_likelihood(flat, trials)
    rise = log - flat_likelihood(found[None], trials)[0]
    return Psychometric(
        float(curves.thresholds(best)[0]),
        low,
        high=high,
        slope=math.exp(best[0, 1]),
        lapse=float(best[0, 2]),
        guess=guess,
        chance=float((1 + (rises >= rise - 1e-9).sum()) / (draws + 1)),
        misfit=float(
            (1 + (apart >= best_likelihood(found[None], trials)[0] - log - 1e-9).sum()) / (draws + 1)
        ),
        lost=int((~np.isfinite(thresholds)).sum()),
    )


def flat_likelihood(
    found: Float[np.ndarray, "R L"], trials: Int[np.ndarray, " L"]
) -> Float[np.ndarray, " R"]:
    """The log likelihood where every level has the same share."""
    total = trials.sum()
    share = (found.sum(1) / total).clip(1e-9, 1 - 1e-9)
    return found.sum(1) * np.log(share) + (total - found.sum(1)) * np.log1p(-share)


def best_likelihood(
    found: Float[np.ndarray, "R L"], trials: Int[np.ndarray, " L"]
) -> Float[np.ndarray, " R"]:
    """The log likelihood where every level has the share that was found at it."""
    shares = (found / trials).clip(1e-9, 1 - 1e-9)
    return (found * np.log(shares) + (trials - found) * np.log1p(-shares)).sum(1)
