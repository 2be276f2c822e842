"""Fixation metrics against plain loops, golden values, MATLAB's published numbers and symmetries."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_truth import REFERENCE, published, read_grey, toy
from scipy.ndimage import gaussian_filter

from attnvis.metrics import fixations
from attnvis.metrics.fixations import (
    auc,
    auc_borji,
    auc_judd,
    cc,
    ig,
    kl,
    looked_at,
    nss,
    sauc,
    sauc_borji,
    sim,
)
from attnvis.types import Truth

M, F, H, W = 3, 11, 13, 17  # different primes: a transposed axis cannot pass unnoticed


def random_case(seed=0, levels=6):
    """Maps with many ties, fixations with repeats, and those of other photos."""
    chance = np.random.default_rng(seed)
    maps = torch.from_numpy(chance.integers(levels, size=(M, H, W)) / levels)
    places = chance.uniform(0, (H, W), (F, 2))
    truth = Truth(
        (H, W), fixations=np.concatenate([places, places[:3]]), others=chance.uniform(0, (H, W), (29, 2))
    )
    return maps, truth


def wins(positives, negatives):
    """P(>) + P(=) / 2, pair by pair."""
    pairs = [(a > b) + 0.5 * (a == b) for a in positives for b in negatives]
    return sum(pairs) / len(pairs)


def at(values, places):
    return [values[int(row)][int(column)] for row, column in places]


# -------------------------------------------------------------------------------------------------- goldens


def test_the_toy_has_the_values_that_pysaliency_and_matlab_give():
    maps, truth = toy()
    assert nss(maps, truth).item() == pytest.approx(1.0801378384, abs=1e-10)
    assert auc(maps, truth).item() == pytest.approx(0.7520833333, abs=1e-10)
    assert auc(maps, truth, "unfixated", False).item() == pytest.approx(0.7102272727, abs=1e-10)
    assert auc_judd(maps, truth).item() == pytest.approx(0.8153409091, abs=1e-10)
    assert sauc(maps, truth).item() == pytest.approx(0.7, abs=1e-10)
    assert cc(maps, truth).item() == pytest.approx(0.8226941083, abs=1e-10)
    assert sim(maps, truth).item() == pytest.approx(0.6969934357, abs=1e-10)
    assert sim(maps, truth, convention="matlab").item() == pytest.approx(0.6966453338, abs=1e-10)
    assert kl(maps, truth).item() == pytest.approx(0.3033317103, abs=1e-10)
    density = (maps / 3).flatten(1).softmax(1).view_as(maps)
    assert ig(density, truth, baseline="uniform", floor=0.0).item() == pytest.approx(0.8160881253, abs=1e-10)


@pytest.mark.parametrize(
    "tau, expected",
    [
        (0.25, (0.752083, 2.8063, -10.1888, 0.4533, 0.1597, 9.4196)),
        (1, (0.752083, 2.7681, 0.1981, 0.6665, 0.4902, 0.8982)),
        (4, (0.752083, 1.7752, 0.7025, 0.8696, 0.7521, 0.2176)),
        (100, (0.752083, 1.1086, 0.0390, 0.8273, 0.5598, 0.5716)),
    ],
)
def test_along_the_temperature_ranks_stand_still_and_values_move(tau, expected):
    scores, truth = toy()
    maps = (scores / tau).flatten(1).softmax(1).view_as(scores)
    values = [
        metric(maps, truth).item()
        for metric in (auc, nss, lambda m, t: ig(m, t, baseline="uniform", floor=0.0), cc, sim, kl)
    ]
    assert values == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("case", [pytest.param(0, marks=published)])
def test_the_published_maps_have_matlabs_values(case):
    fixated, others = (
        np.argwhere(read_grey(REFERENCE / f"road_{name}.png") > 0) for name in ("fixation", "other")
    )
    first, second = (
        read_grey(REFERENCE / f"road_{name}.png").astype(float) for name in ("saliency1", "saliency2")
    )
    truth = Truth(first.shape, fixations=fixated + 0.5, others=others + 0.5, looks=second)
    maps = torch.from_numpy(first)[None]
    assert nss(maps, truth, "matlab").item() == pytest.approx(0.94992533, abs=1e-8)
    assert cc(maps, truth).item() == pytest.approx(0.41267651, abs=1e-8)
    assert sim(maps, truth, convention="matlab").item() == pytest.approx(0.43001505, abs=1e-8)
    # these draw by chance: MATLAB's own number is one draw of many
    assert auc_judd(maps, truth, jitter=1e-7).item() == pytest.approx(0.76289570, abs=1e-3)
    assert auc_borji(maps, truth).item() == pytest.approx(0.75449380, abs=1e-2)
    assert sauc_borji(maps, truth).item() == pytest.approx(0.79630240, abs=1e-2)


# ------------------------------------------------------------------------------------------------ by loops


def test_auc_counts_every_pair_and_ties_by_half():
    maps, truth = random_case()
    for values, number in zip(maps.tolist(), auc(maps, truth).tolist()):
        everything = [value for row in values for value in row]
        assert number == pytest.approx(wins(at(values, truth.fixations), everything), abs=1e-12)


def test_shuffled_auc_counts_every_fixation_of_the_others():
    maps, truth = random_case()
    for values, number in zip(maps.tolist(), sauc(maps, truth).tolist()):
        expected = wins(at(values, truth.fixations), at(values, truth.others))
        assert number == pytest.approx(expected, abs=1e-12)


def test_auc_judd_steps_from_one_fixated_value_to_the_next():
    maps, truth = random_case(levels=10**6)
    taken = np.zeros((H, W), bool)
    taken[tuple(truth.fixations.astype(int).T)] = True
    for values, number in zip(maps.numpy(), auc_judd(maps, truth).tolist()):
        hits, alarms = [0.0], [0.0]
        for count, threshold in enumerate(sorted(values[taken], reverse=True), 1):
            hits.append(count / taken.sum())
            alarms.append(((values >= threshold).sum() - count) / (~taken).sum())
        assert number == pytest.approx(np.trapezoid([*hits, 1], [*alarms, 1]), abs=1e-12)


@pytest.mark.parametrize("metric", [auc_borji, sauc_borji])
def test_the_split_aucs_are_the_mean_over_their_draws(metric):
    maps, truth = random_case()
    own = sorted({int(row) * W + int(column) for row, column in truth.fixations})
    others = sorted({int(row) * W + int(column) for row, column in truth.others})
    chance = np.random.default_rng(3)
    if metric is auc_borji:
        draws = chance.integers(H * W, size=(4, len(own)))
    else:
        draws = [np.array(others)[chance.permutation(len(others))[: len(own)]] for _ in range(4)]
    for values, number in zip(maps.flatten(1).numpy(), metric(maps, truth, splits=4, seed=3).tolist()):
        values = (values - values.min()) / (values.max() - values.min())
        areas = []
        for drawn in draws:
            curve = [(0, 0)]
            for step in range(10, -1, -1):
                curve.append([(values[list(pixels)] >= 0.1 * step).mean() for pixels in (drawn, own)])
            areas.append(
                np.trapezoid([hit for _, hit in [*curve, (1, 1)]], [alarm for alarm, _ in [*curve, (1, 1)]])
            )
        assert number == pytest.approx(np.mean(areas), abs=1e-12)


def test_nss_is_the_mean_z_score_and_counts_repeats():
    maps, truth = random_case()
    for values, number in zip(maps.numpy(), nss(maps, truth).tolist()):
        expected = np.mean([(value - values.mean()) / values.std() for value in at(values, truth.fixations)])
        assert number == pytest.approx(expected, abs=1e-12)
    once = replace(truth, fixations=truth.fixations[:F])
    assert not torch.allclose(nss(maps, truth), nss(maps, once))
    torch.testing.assert_close(nss(maps, truth, "matlab"), nss(maps, once, "matlab"))


def test_where_people_looked_is_scipys_blur_of_the_counts():
    _, truth = random_case()
    counts = np.zeros((H, W))
    for row, column in truth.fixations.astype(int):
        counts[row, column] += 1
    expected = gaussian_filter(counts, 2.5, mode="nearest")
    np.testing.assert_allclose(looked_at(truth, 2.5).numpy(), expected, atol=1e-12)


def test_information_gain_over_the_centre_is_that_over_a_fitted_gaussian():
    maps, truth = random_case()
    pixels = np.floor(truth.others)
    y, x = np.mgrid[:H, :W]
    means, spreads = pixels.mean(0), pixels.std(0)
    base = np.exp(-(((y - means[0]) / spreads[0]) ** 2 + ((x - means[1]) / spreads[1]) ** 2) / 2)
    for values, number in zip(maps.numpy(), ig(maps, truth, floor=0.1).tolist()):
        ours, theirs = (0.9 * each / each.sum() + 0.1 / (H * W) for each in (values, base))
        gains = [math.log2(a / b) for a, b in zip(at(ours, truth.fixations), at(theirs, truth.fixations))]
        assert number == pytest.approx(np.mean(gains), abs=1e-12)


def test_the_gain_of_the_true_density_is_its_divergence_from_the_baseline():
    chance = np.random.default_rng(0)
    density = chance.dirichlet(np.full(H * W, 0.5))
    pixels = chance.choice(H * W, size=20_000, p=density)
    places = np.stack([pixels // W, pixels % W], 1) + 0.5
    truth = Truth((H, W), fixations=places)
    gain = ig(torch.from_numpy(density).view(1, H, W), truth, baseline="uniform", floor=0.0).item()
    bits = np.log2(density * H * W)
    assert gain == pytest.approx((density * bits).sum(), abs=4 * bits.std() / math.sqrt(len(pixels)) + 0.02)


# ------------------------------------------------------------------------------- what no metric may get wrong


def test_a_level_map_has_chance_and_is_never_nan():
    _, truth = random_case()
    for value in (0.0, 0.1, 1 / 3):
        maps = torch.full((1, H, W), value, dtype=torch.float64)
        assert auc(maps, truth).item() == sauc(maps, truth).item() == 0.5
        assert nss(maps, truth).item() == cc(maps, truth).item() == 0
        assert ig(maps, truth, baseline="uniform").item() == pytest.approx(0, abs=1e-12)


def test_tied_patches_move_matlabs_auc_but_not_ours():
    """A patch grid drawn without smoothing has nothing but ties."""
    chance = np.random.default_rng(1)
    noise, tied = [], []
    for _ in range(60):
        maps = torch.from_numpy(np.kron(chance.random((3, 4)), np.ones((20, 20))))[None] * 1e-7
        truth = Truth((60, 80), fixations=chance.uniform(0, (60, 80), (30, 2)))
        noise.append(auc(maps, truth).item())
        tied.append(auc_judd(maps, truth).item())
    assert abs(np.mean(noise) - 0.5) < 0.02
    assert abs(np.mean(tied) - np.mean(noise)) > 0.01


def test_the_centre_alone_has_half_of_shuffled_auc_where_all_look_alike():
    chance = np.random.default_rng(2)
    places = chance.normal((30, 40), (8, 10), (4000, 2))
    truth = Truth((60, 80), fixations=places[:2000], others=places[2000:])
    y, x = np.mgrid[:60, :80]
    centre = torch.from_numpy(np.exp(-(((y - 30) / 8) ** 2 + ((x - 40) / 10) ** 2) / 2))[None]
    assert auc(centre, truth).item() > 0.85
    assert sauc(centre, truth).item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", fixations.__all__)
def test_a_photo_that_nobody_looked_at_is_undefined(name):
    maps, truth = random_case()
    empty = replace(truth, fixations=np.empty((0, 2)))
    assert getattr(fixations, name)(maps, empty).isnan().all()
    assert getattr(fixations, name)(torch.ones_like(maps), empty).isnan().all(), "of a level map"


@pytest.mark.parametrize("name", ["sauc", "sauc_borji", "ig"])
def test_without_other_photos_what_needs_them_is_undefined(name):
    maps, truth = random_case()
    assert getattr(fixations, name)(maps, replace(truth, others=None)).isnan().all()


def test_fixations_beyond_the_photo_do_not_count():
    maps, truth = random_case()
    outside = np.array([(-0.5, 3), (H + 0.0, 2), (4, W + 1.0), (2, -7)])
    more = replace(truth, fixations=np.concatenate([truth.fixations, outside]))
    assert nss(maps, more).tolist() == nss(maps, truth).tolist()


@pytest.mark.parametrize("call", [lambda m, t: auc(m, t, "some"), lambda m, t: ig(m, t, "some")])
def test_a_wrong_setting_is_told_with_the_right_ones(call):
    with pytest.raises(ValueError, match="'some'; give"):
        call(*random_case())
