"""Medians with intervals, theory, order and temperatures, against loops, arithmetic by hand and synthetic scores."""

import math

import numpy as np
import pytest
import torch
from conftest import diagnose_attention

from attnvis.experiments.sweep.statistics import Series, best_common_temperature, orders, theory_deviation
from attnvis.methods.settings import TEMPERATURES
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.types import Attention

RANDOM = np.random.default_rng(0)


def series(
    settings=(("none", "softmax"),), patches=(100,), dim=64, curves=None, job="", query="mean", **numbers
):
    """Numbers that are not given are 0; each is a row per photo."""
    photos, count = len(patches), len(settings)
    every = {name: np.zeros((photos, count)) for name in DESCRIPTIONS}
    every |= {name: np.array(values, float).reshape(photos, count) for name, values in numbers.items()}
    flat = np.ones((photos, len(TEMPERATURES)))
    curves = {"perplexity": flat, "gradient": flat, "tau": np.ones((photos, 1))} | (curves or {})
    names = [f"{number}.jpg" for number in range(photos)]
    return Series(
        job,
        query,
        tuple(settings),
        names,
        np.array(patches, float),
        np.full(photos, float(dim)),
        every,
        curves,
    )


# ------------------------------------------------------------------------------------------------ theory


def test_normal_scores_follow_the_law_within_two_percent():
    patches, sigmas = 20_000, (0.1, 0.5, 1.0)
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 1, patches)))
    scores = (scores - scores.mean()) / scores.std(correction=0)
    perplexities = [
        float((sigma * scores).softmax(-1).mul(-1).mul((sigma * scores).log_softmax(-1)).sum().exp())
        for sigma in sigmas
    ]
    settings = [(f"temperature:{1 / sigma:g}", "softmax") for sigma in sigmas]
    gentle, unfrozen = theory_deviation(
        [series(settings, (patches,), sigma_eff=sigmas, perplexity=perplexities)]
    )
    assert (gentle.count, unfrozen.count) == (3, 3)
    assert gentle.high < 0.02


def test_deviation_by_hand():
    """Of sigma 0 and share .9: .1; of sigma 2 and share .5: .5 - e^-2; sigma 9 is frozen; sparsemax is not what the theory is about."""
    settings = [
        ("none", "softmax"),
        ("temperature:2", "softmax"),
        ("inv_d", "softmax"),
        ("none", "sparsemax"),
    ]
    one = series(settings, (100,), sigma_eff=[0, 2, 9, 1], perplexity=[90, 50, 50, 1])
    gentle, unfrozen = theory_deviation([one])
    assert (gentle.count, unfrozen.count) == (1, 2)
    assert gentle.median == pytest.approx(0.1)
    assert unfrozen.median == pytest.approx((0.1 + 0.5 - math.exp(-2)) / 2)


def test_a_z_score_counts_as_one_whatever_rounding_made_of_it():
    one = series([("zscore", "softmax")], (100, 100), sigma_eff=[1 - 1e-7, 1 + 1e-7], perplexity=[60, 60])
    assert theory_deviation([one])[0].count == 2


# ------------------------------------------------------------------------------------------------ order


def test_a_tie_from_rounding_is_let_pass_and_a_turned_order_is_not():
    patches = 49
    scores = torch.arange(patches, dtype=torch.float64).view(1, 1, -1)
    tied = scores.clone()
    tied[..., 3] = tied[..., 4]
    cost = 3 / (patches * (patches**2 - 1))
    tie = float(diagnose_attention(attend_to(scores, tied))["rank_correlation"])
    assert 1 - tie == pytest.approx(cost, rel=0.01)
    (found,) = orders([series(patches=(patches, patches), rank_correlation=[1.0, tie])])
    assert (found.broken, found.exact, found.count, found.photo) == (0, 1, 2, "1.jpg")
    (found,) = orders([series(patches=(patches, patches), rank_correlation=[1.0, 0.99])])
    assert (found.broken, found.worst) == (1, 0.99)
    (found,) = orders([series(patches=(patches,), rank_correlation=[math.nan])])
    assert found.broken == 1


def attend_to(scores, logits):
    return Attention(scores, logits, logits.softmax(-1), values=scores.mT, dim=4)


def test_cosine_may_change_the_order():
    (found,) = orders([series([("cosine:0.07", "softmax")], rank_correlation=[0.2])])
    assert not found.factor and found.broken == 0 and found.worst == 0.2


# ------------------------------------------------------------------------------------------------ temperatures


def measured(scores, query="mean"):
    """A series of one photo per row of scores, its curve in plain loops."""
    spread = scores.std(-1)
    curve = [
        [perplexity(row / (tau * std)) / len(row) for tau in TEMPERATURES] for row, std in zip(scores, spread)
    ]
    patches = [scores.shape[1]] * len(scores)
    return series(patches=patches, score_std=spread, curves={"perplexity": np.array(curve)}, query=query)


def perplexity(logits):
    weights = np.exp(logits - logits.max())
    weights = weights[weights > 0] / weights.sum()
    return float(np.exp(-(weights * np.log(weights)).sum()))


def test_the_curve_is_read_at_a_temperature():
    scores = RANDOM.normal(size=(2, 50)) * [[3.0], [40.0]]
    found = measured(scores).read_off("perplexity", np.array([[2.0, 100.0], [2.0, 100.0]]))
    for row, values in zip(scores, found):
        for tau, value in zip((2.0, 100.0), values):
            assert value == pytest.approx(perplexity(row / tau) / 50, abs=0.01)


def test_one_temperature_serves_equal_photos_and_not_unlike_queries():
    scores = np.stack([RANDOM.permutation(60) for _ in range(8)]).astype(float)
    alone = best_common_temperature([measured(scores)], 0.1)
    assert alone.worst == 1.0
    assert np.mean([0.05 <= perplexity(row / alone.tau) / 60 <= 0.2 for row in scores]) == 1
    both = best_common_temperature([measured(scores), measured(100 * scores, "class")], 0.1)
    assert both.worst == 0.0


def test_without_contrast_there_is_no_temperature():
    assert best_common_temperature([series(score_std=[0.0])], 0.1) is None
