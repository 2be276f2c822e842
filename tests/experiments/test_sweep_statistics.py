"""Medians with intervals, theory, order and temperatures, against loops, sums by hand, synthetic scores."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import diagnose_attention

from attnvis.experiments.sweep.laws import cumulant_law, simple_law, theory_deviation
from attnvis.experiments.sweep.orderings import orders
from attnvis.experiments.sweep.statistics import Series
from attnvis.experiments.sweep.temperatures import FOLDS, advice, best_common_temperature, medians_without_one
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


# -------------------------------------------------------------------------------- theory


def test_normal_scores_follow_the_law_within_two_percent():
    patches, sigmas = 20_000, (0.1, 0.5, 1.0)
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 1, patches)))
    scores = (scores - scores.mean()) / scores.std(correction=0)
    perplexities = [
        float((sigma * scores).softmax(-1).mul(-1).mul((sigma * scores).log_softmax(-1)).sum().exp())
        for sigma in sigmas
    ]
    settings = [(f"temperature:{1 / sigma:g}", "softmax") for sigma in sigmas]
    theory = theory_deviation([series(settings, (patches,), sigma_eff=sigmas, perplexity=perplexities)])
    assert (theory.simple.count, theory.unfrozen.count) == (2, 2)  # .1 says nothing
    assert theory.simple.high < 0.02


def test_deviation_by_hand():
    """Sigma 1 and share .9: .9 - e^-.5; sigma 2 and share .5: .5 - e^-2; sigma 9 is frozen, 0 fits any law,
    and sparsemax is not what the theory is of."""
    settings = [
        ("none", "softmax"),
        ("temperature:2", "softmax"),
        ("inv_d", "softmax"),
        ("none", "sparsemax"),
        ("temperature:99", "softmax"),
    ]
    one = series(settings, (100,), sigma_eff=[1, 2, 9, 1, 0], perplexity=[90, 50, 50, 1, 100])
    theory = theory_deviation([one])
    assert (theory.simple.count, theory.unfrozen.count) == (1, 2)
    assert theory.simple.median == pytest.approx(0.9 - math.exp(-0.5))
    assert theory.unfrozen.median == pytest.approx((0.9 - math.exp(-0.5) + 0.5 - math.exp(-2)) / 2)
    assert theory.cumulants.count == 0  # rows of an earlier version know no skewness


@pytest.mark.parametrize("sigma", [0.3, 0.5])
def test_the_law_with_cumulants_is_nearer_on_skewed_logits(sigma):
    """A million exponential logits: skewness 2, excess kurtosis 6; their perplexity in plain sums."""
    logits = sigma * (np.random.default_rng(0).exponential(size=1_000_000) - 1)
    share = perplexity(logits) / len(logits)
    near, far = cumulant_law(*np.array([[sigma], [2.0], [6.0]])), simple_law(np.array([sigma]))
    assert abs(share - near) < 0.3 * abs(share - far)


def test_the_law_with_cumulants_by_hand():
    """-1/8 - .2/24 - .8/128 = -.139583."""
    assert cumulant_law(*np.array([[0.5], [0.2], [0.8]])) == pytest.approx(math.exp(-0.1395833), rel=1e-6)
    one = series(
        [("none", "softmax")],
        (100,),
        sigma_eff=[0.5],
        perplexity=[100 * math.exp(-0.1395833)],
        logit_skewness=[0.2],
        logit_kurtosis=[0.8],
    )
    theory = theory_deviation([one])
    assert theory.cumulants.median < 1e-6
    assert theory.simple.median == pytest.approx(math.exp(-0.125) - math.exp(-0.1395833))


def test_a_z_score_counts_as_one_whatever_rounding_made_of_it():
    one = series([("zscore", "softmax")], (100, 100), sigma_eff=[1 - 1e-7, 1 + 1e-7], perplexity=[60, 60])
    assert theory_deviation([one]).simple.count == 2


# -------------------------------------------------------------------------------- order


def test_a_tie_from_rounding_is_let_pass_and_a_turned_order_is_not():
    patches = 49
    scores = torch.arange(patches, dtype=torch.float64).view(1, 1, -1)
    tied = scores.clone()
    tied[..., 3] = tied[..., 4]
    cost = 3 / (patches * (patches**2 - 1))
    tie = float(diagnose_attention(attend_to(scores, tied))["rank_correlation"])
    assert 1 - tie == pytest.approx(cost, rel=0.01)
    (order,) = orders([series(patches=(patches, patches), rank_correlation=[1.0, tie])])
    assert (order.broken, order.exact, order.count, order.photo) == (0, 1, 2, "1.jpg")
    (order,) = orders([series(patches=(patches, patches), rank_correlation=[1.0, 0.99])])
    assert (order.broken, order.worst) == (1, 0.99)
    (order,) = orders([series(patches=(patches,), rank_correlation=[math.nan])])
    assert order.broken == 1


def attend_to(scores, logits):
    return Attention(scores, logits, logits.softmax(-1), values=scores.mT, dim=4)


def test_weights_that_are_cut_off_are_told_from_logits_that_are_not():
    """One of four patches is left above 0: the others are three ties."""
    cut = series(
        [("none", "sparsemax")],
        (4, 4),
        rank_correlation=[1, 1],
        weight_rank_correlation=[1, 0.77],
        alive=[4, 1],
    )
    (order,) = orders([cut, replace(cut, query="class")])
    assert (order.broken, order.exact, order.count) == (0, 4, 4)
    assert (order.weights.lost, order.weights.worst, order.weights.alive) == (2, 0.77, 1)
    (order,) = orders([series(rank_correlation=[1.0])])  # an earlier version's
    assert order.weights.lost == 0 and math.isnan(order.weights.worst)


def test_cosine_may_change_the_order():
    (order,) = orders([series([("cosine:0.07", "softmax")], rank_correlation=[0.2])])
    assert not order.factor and order.broken == 0 and order.worst == 0.2


# -------------------------------------------------------------------------------- temperatures


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
    shares = measured(scores).read_off("perplexity", np.array([[2.0, 100.0], [2.0, 100.0]]))
    for row, values in zip(scores, shares):
        for tau, value in zip((2.0, 100.0), values):
            assert value == pytest.approx(perplexity(row / tau) / 50, abs=0.01)


def test_one_temperature_serves_equal_photos_and_not_unlike_queries():
    scores = np.stack([RANDOM.permutation(60) for _ in range(8)]).astype(float)
    alone = best_common_temperature([measured(scores)], 0.1)
    assert alone.worst == 1.0
    assert np.mean([0.05 <= perplexity(row / alone.tau) / 60 <= 0.2 for row in scores]) == 1
    both = best_common_temperature([measured(scores), measured(100 * scores, "class")], 0.1)
    assert both.worst == 0.0


def test_a_common_temperature_is_judged_by_photos_that_did_not_choose_it():
    """Every photo's scores are 8 times those of the photo before: one temperature serves one of twelve, and
    whatever the other photos choose serves them and not the one left out."""
    scores = np.stack([RANDOM.permutation(60) * 8.0**number for number in range(12)])
    best = best_common_temperature([measured(scores)], 0.1)
    assert best.served == [pytest.approx(1 / 12)]
    assert best.judged == [0.0] and best.worst == 0.0
    few = best_common_temperature([measured(scores[:5])], 0.1)
    assert few.judged is None and few.worst == pytest.approx(1 / 5)


def test_of_like_photos_what_others_choose_serves_all():
    scores = np.stack([RANDOM.permutation(60) for _ in range(3 * FOLDS)]).astype(float)
    assert best_common_temperature([measured(scores)], 0.1).judged == [1.0]


def test_the_advice_is_judged_under_the_median_of_the_other_photos():
    assert medians_without_one(np.array([1.0, 5.0, 2.0, 9.0])).tolist() == [5.0, 2.0, 5.0, 2.0]
    scores = np.stack([RANDOM.permutation(60)] * 7 + [RANDOM.permutation(60) * 1000.0])
    photos = measured(scores)
    photos.curves["tau"] = np.array([2.0] * 7 + [2000.0])[:, None]
    (piece,) = advice([photos], [perplexity(scores[0] / 2) / 60])
    assert piece.within.value == 7 / 8 and piece.within.count == 8


def test_without_contrast_there_is_no_temperature():
    assert best_common_temperature([series(score_std=[0.0])], 0.1) is None


def test_the_advice_tells_the_5th_and_the_95th_photo_of_a_hundred():
    """21 photos: 5 % lies on the second from either end, 25 % on the sixth."""
    scores = np.stack([RANDOM.permutation(60) * 1.15**number for number in range(21)])
    photos = measured(scores)
    wanted = [2.0 * 1.15**number for number in range(21)]  # every photo's own; the middle one is the median
    photos.curves["tau"] = np.array(wanted)[:, None]
    (piece,) = advice([photos], [0.1])
    tau = wanted[10]
    assert piece.tau.value == pytest.approx(tau) and piece.share == 0.1
    assert piece.times_sqrt_d == pytest.approx(tau / 8)  # d_k is 64
    shares = sorted(perplexity(row / tau) / 60 for row in scores)
    assert piece.low == pytest.approx(shares[1], rel=0.03)
    assert piece.high == pytest.approx(shares[19], rel=0.03)
    assert shares[5] > 1.2 * shares[1] and shares[15] < 0.8 * shares[19]  # far from 25 and 75 %


def test_photos_without_contrast_are_counted_beside_the_advice():
    flat = series(
        patches=(100, 100, 100), score_std=[0, 1, 1], curves={"tau": np.array([[0.0], [4.0], [4.0]])}
    )
    (piece,) = advice([flat], [0.1])
    assert (piece.flat, piece.tau.count, piece.tau.value) == (1, 2, 4.0)
    assert advice([series(score_std=[0], curves={"tau": np.zeros((1, 1))})], [0.1]) == []
