"""Intervals against the bootstrap in plain words: photos drawn again and again."""

import math

import numpy as np
import pytest

from attnvis.metrics.intervals import bootstrap, estimate, mean_interval, median_interval

RANDOM = np.random.default_rng(0)


def test_the_interval_of_a_constant_is_that_constant():
    for interval in (median_interval(np.full(7, 3.25)), mean_interval(np.ones(7))):
        assert interval.low == interval.value == interval.high
        assert interval.count == 7


@pytest.mark.parametrize("count", [5, 6, 40, 41])
def test_the_median_is_bootstrapped_as_by_resampling_photos(count):
    values = RANDOM.normal(size=count) ** 3
    medians = [np.median(RANDOM.choice(values, count)) for _ in range(20_000)]
    interval = median_interval(values)
    assert interval.value == np.median(values)
    for end, percent in (
        (interval.low, 2.5),
        (interval.high, 97.5),
    ):  # 2,000 resamples reach the rank to about 0.35 %
        near = np.percentile(medians, (percent - 1.2, percent + 1.2))
        assert near[0] <= end <= near[1]


def test_the_share_of_photos_is_bootstrapped_as_by_resampling_photos():
    flags = np.array([1.0] * 30 + [0.0] * 70)
    shares = [RANDOM.choice(flags, 100).mean() for _ in range(20_000)]
    interval = mean_interval(flags)
    assert interval.value == 0.3
    assert (interval.low, interval.high) == pytest.approx(np.percentile(shares, (2.5, 97.5)), abs=0.011)


def test_photos_without_a_number_are_left_out():
    assert median_interval(np.array([1.0, math.nan, 3.0])).count == 2
    assert median_interval(np.array([1.0, math.nan, 3.0])).value == 2
    nothing = median_interval(np.array([math.nan]))
    assert nothing.count == 0 and math.isnan(nothing.value)


def test_the_same_numbers_give_the_same_interval():
    values = RANDOM.normal(size=30)
    assert median_interval(values) == median_interval(values[::-1])


def test_paired_resamples_draw_the_same_photos_for_every_column():
    values = RANDOM.normal(size=20)
    means = bootstrap(np.stack([values, values + 3, -2 * values], axis=1), resamples=50)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 3)
    np.testing.assert_allclose(means[:, 2], -2 * means[:, 0])


def test_paired_resamples_spread_as_the_mean_of_the_photos_does():
    values = RANDOM.normal(size=400)
    means = bootstrap(values[:, None], resamples=4000)[:, 0]
    assert means.mean() == pytest.approx(values.mean(), abs=0.004)
    assert means.std() == pytest.approx(values.std() / math.sqrt(400), rel=0.05)


@pytest.mark.parametrize("low, certain", [(0.1, True), (-0.1, False), (-1.4, True)])
def test_a_difference_is_certain_where_its_interval_leaves_out_zero(low, certain):
    means = np.linspace(
        low - 0.025, low + 1.025, 106
    )  # 2.5 % of 1.05 lie below low, about as much above low + 1
    interval = estimate(low + 0.5, means)
    assert (interval.low, interval.high) == pytest.approx((low, low + 1), abs=0.002)
    assert interval.certain == certain
