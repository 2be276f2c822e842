"""Psychometric curves, beside the formula by hand, SciPy's maximum likelihood, and simulated observers."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from attnvis.metrics.psychometric import fit_psychometric, probability

LEVELS = [5, 8, 14, 23, 38, 63, 105, 170]
GUESS = 1 / 49


def finds(threshold, slope, lapse, trials, seed):
    """How often an observer of this threshold finds the target, level by level."""
    chances = [
        GUESS + (1 - GUESS - lapse) / (1 + (threshold / level) ** (slope / math.log(2))) for level in LEVELS
    ]
    return np.random.default_rng(seed).binomial(trials, chances).astype(float)


def test_half_way_between_guess_and_lapse_lies_the_threshold():
    assert probability(np.array([0.0]), 3.0, lapse=0.1, guess=0.02)[0] == pytest.approx(0.02 + 0.88 / 2)
    above = probability(np.array([1.0]), 3.0, lapse=0.1, guess=0.02)[0]
    assert above == pytest.approx(0.02 + 0.88 / (1 + math.exp(-3)))


@pytest.mark.parametrize("threshold, slope, lapse", [(20, 3, 0.0), (50, 2, 0.1), (11, 6, 0.05)])
def test_a_known_threshold_is_recovered(threshold, slope, lapse):
    trials = np.full(len(LEVELS), 4000)
    fit = fit_psychometric(LEVELS, finds(threshold, slope, lapse, 4000, seed=1), trials, GUESS)
    assert fit.threshold == pytest.approx(threshold, rel=0.05)
    assert fit.low < fit.threshold < fit.high < 1.2 * fit.low
    assert fit.lapse == pytest.approx(lapse, abs=0.03) and fit.chance < 0.01 and fit.lost == 0


def test_no_curve_of_scipys_is_likelier():
    found, trials = finds(30, 2.5, 0.05, 40, seed=3), np.full(len(LEVELS), 40)

    def surprise(numbers):
        threshold, slope, lapse = numbers
        chances = GUESS + (1 - GUESS - lapse) / (1 + np.exp(-slope * (np.log2(LEVELS) - threshold)))
        return -scipy.stats.binom.logpmf(found, trials, chances.clip(1e-9, 1 - 1e-9)).sum()

    best = scipy.optimize.minimize(
        surprise, (5.0, 2.0, 0.05), method="L-BFGS-B", bounds=[(1, 8), (0.5, 8), (0, 0.5)]
    )
    fit = fit_psychometric(LEVELS, found, trials, GUESS)
    assert surprise((math.log2(fit.threshold), fit.slope, fit.lapse)) < best.fun + 0.3
    assert fit.threshold == pytest.approx(2 ** best.x[0], rel=0.06)


def test_an_observer_at_chance_is_not_shown_to_rise():
    trials = np.full(len(LEVELS), 30)
    chances = []
    for seed in range(10):
        found = np.random.default_rng(seed).binomial(trials, GUESS).astype(float)
        chances.append(fit_psychometric(LEVELS, found, trials, GUESS, draws=200).chance)
    assert sum(chance < 0.05 for chance in chances) <= 2


def test_who_finds_all_or_nothing_has_a_threshold_beyond_the_levels():
    trials = np.full(len(LEVELS), 30)
    best, none = (fit_psychometric(LEVELS, found, trials, GUESS) for found in (trials * 1.0, trials * 0.0))
    assert best.threshold == best.low == -math.inf and none.threshold == math.inf
    assert np.isnan(best.at(np.array(LEVELS, float))).all()


def test_points_that_rise_and_fall_again_are_a_misfit():
    trials = np.full(len(LEVELS), 30)
    peak = fit_psychometric(LEVELS, np.array([0, 1, 2, 10, 20, 28, 28, 6.0]), trials, GUESS, draws=300)
    assert peak.misfit < 0.02
    rising = fit_psychometric(LEVELS, finds(30, 2.5, 0.05, 30, seed=5), trials, GUESS, draws=300)
    assert rising.misfit > 0.05


def test_fewer_finds_at_larger_differences_are_no_rise():
    fit = fit_psychometric(LEVELS, np.linspace(30, 0, 8).round(), np.full(8, 30), GUESS)
    assert fit.chance > 0.2


def test_what_cannot_be_fitted_is_told():
    trials = np.full(3, 10)
    with pytest.raises(ValueError, match="levels 1, 3, 2: give 3 or more, rising from above 0"):
        fit_psychometric([1, 3, 2], trials * 0.5, trials, GUESS)
    with pytest.raises(ValueError, match="a guess rate of 0: give one above 0 and below 1"):
        fit_psychometric([1, 2, 3], trials * 0.5, trials, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("threshold, slope, lapse", [(20, 3, 0.0), (60, 2, 0.1), (12, 5, 0.05)])
def test_the_interval_holds_the_threshold_as_often_as_it_says(threshold, slope, lapse):
    trials, held, count = np.full(len(LEVELS), 30), 0, 300
    for seed in range(count):
        found = finds(threshold, slope, lapse, 30, seed=seed)
        fit = fit_psychometric(LEVELS, found, trials, GUESS, seed=seed, draws=400)
        held += fit.low <= threshold <= fit.high
    assert 0.91 <= held / count <= 0.985
