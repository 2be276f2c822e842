"""Intervals against scipy, sums by hand and simulated photos."""

import math

import numpy as np
import pytest
from scipy import stats

from attnvis.metrics.intervals import (
    FEWEST,
    FEWEST_OF_MEANS,
    Interval,
    change_interval,
    exact_limits,
    holm,
    mean_interval,
    median_interval,
    share_interval,
    sign_test,
    student,
    unbent,
)

RANDOM = np.random.default_rng(0)


def flags(of, count):
    return np.array([1.0] * of + [0.0] * (count - of))


# -------------------------------------------------------------------------------- medians


def test_the_interval_of_a_constant_median_is_that_constant():
    interval = median_interval(np.full(7, 3.25))
    assert interval.low == interval.value == interval.high == 3.25
    assert interval.count == 7


@pytest.mark.parametrize(
    "count, rank",
    [  # the tables of the sign test, such as Conover 1999, table A3
        (6, 1),
        (8, 1),
        (9, 2),
        (10, 2),
        (20, 6),
        (30, 10),
        (50, 18),
        (100, 40),
    ],
)
def test_a_median_lies_between_the_values_that_tables_name(count, rank):
    values = RANDOM.permutation(np.arange(1.0, count + 1))
    interval = median_interval(values)
    assert (interval.low, interval.high) == (rank, count + 1 - rank)
    assert interval.value == (count + 1) / 2


def test_below_six_photos_there_is_a_median_and_no_interval():
    assert FEWEST == 6
    for count in range(1, 6):
        interval = median_interval(np.arange(float(count)))
        assert interval.value == (count - 1) / 2 and interval.count == count
        assert math.isnan(interval.low) and math.isnan(interval.high)
    assert not math.isnan(median_interval(np.arange(6.0)).low)


def test_a_stricter_level_needs_more_photos():
    """Six photos give 1 - 2 / 64 = 96.9 %, seven 98.4 %."""
    assert math.isnan(median_interval(np.arange(6.0), level=0.98).low)
    assert median_interval(np.arange(7.0), level=0.98).low == 0


@pytest.mark.parametrize("above, below", [(8, 0), (7, 1), (5, 5), (0, 1), (20, 7), (0, 0)])
def test_the_sign_test_is_the_binomial_test(above, below):
    differences = np.array([0.3] * above + [-2.0] * below + [0.0, math.nan])
    expected = stats.binomtest(above, above + below).pvalue if above + below else 1.0
    assert sign_test(differences) == pytest.approx(expected)


def test_holm_by_hand():
    """The smallest of four counts four times, the next three times, and none less than one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


# -------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(
    "of, count", [(0, 6), (6, 6), (1, 10), (30, 100), (200, 200), (199, 200), (3, 2000), (999, 1000)]
)
def test_the_limits_of_a_share_are_those_of_scipy(of, count):
    interval = share_interval(flags(of, count))
    expected = stats.binomtest(of, count).proportion_ci(0.95, method="exact")
    assert interval.value == of / count and interval.count == count
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_all_or_nothing_has_limits_by_hand():
    """None of three: (1 - p)^3 = .025 at p = .708; all of 200: p^200 = .025 at .9817, and 1."""
    assert exact_limits(0, 3) == pytest.approx((0, 1 - 0.025 ** (1 / 3)))
    assert exact_limits(0, 3)[1] == pytest.approx(0.708, abs=5e-4)
    assert exact_limits(200, 200) == pytest.approx((0.025 ** (1 / 200), 1))


def test_below_six_photos_there_is_a_share_and_no_interval():
    for count in (1, 3, 5):
        interval = share_interval(flags(0, count))
        assert interval.value == 0 and math.isnan(interval.low) and math.isnan(interval.high)


# -------------------------------------------------------------------------------- coverage

DRAWS = 4000  # leave a standard error of .35 %
FORCED = {6: 0.97, 10: 0.979, 30: 0.958, 100: 0.965}  # 1 - 2 P(Binomial(n, 1/2) < k) of the ranks above


@pytest.mark.parametrize("count", [6, 10, 30, 100])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_the_intervals_of_medians_cover(count, kind):
    random = np.random.default_rng(count)
    values = random.normal(size=(DRAWS, count))
    values = np.exp(values) - 1 if kind == "skewed" else values  # the median is 0 of both
    intervals = [median_interval(row) for row in values]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert covered == pytest.approx(FORCED[count], abs=0.011)


@pytest.mark.parametrize("count", [6, 10, 30, 100])
def test_the_intervals_of_medians_of_tied_values_cover_at_least_as_often(count):
    """Poisson of mean 2.5: the median is 2."""
    values = np.random.default_rng(count).poisson(2.5, size=(DRAWS, count)).astype(float)
    intervals = [median_interval(row) for row in values]
    assert np.mean([interval.low <= 2 <= interval.high for interval in intervals]) > 0.945


@pytest.mark.parametrize("count", [6, 10, 30, 100])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 1.0])
def test_the_intervals_of_shares_cover_at_least_95_percent(count, share):
    drawn = np.random.default_rng(count).binomial(count, share, size=DRAWS)
    limits = np.array([exact_limits(of, count) for of in range(count + 1)])
    covered = (limits[drawn, 0] <= share) & (share <= limits[drawn, 1])
    assert covered.mean() > 0.943


MEANS = {  # numbers of mean 0
    "normal": lambda random, size: random.normal(size=size),
    "uniform": lambda random, size: random.uniform(-1, 1, size=size),
    "heavy tails": lambda random, size: random.standard_t(3, size=size),
    "exponential": lambda random, size: random.exponential(size=size) - 1,
    "mostly small": lambda random, size: random.gamma(0.5, size=size) - 0.5,
    "log-normal": lambda random, size: random.lognormal(size=size) - math.exp(0.5),
}


@pytest.mark.parametrize("count", [30, 100])
@pytest.mark.parametrize("kind", MEANS)
def test_the_intervals_of_means_cover(kind, count):
    """4,000 draws leave a standard error of .35 %."""
    values = MEANS[kind](np.random.default_rng(count), (DRAWS, count))
    intervals = [mean_interval(row) for row in values]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.93 < covered < 0.975


@pytest.mark.parametrize("count", [1, 6, 29])
def test_below_thirty_photos_there_is_a_mean_and_no_interval(count):
    assert FEWEST_OF_MEANS == 30
    interval = mean_interval(np.arange(float(count)))
    assert interval.value == (count - 1) / 2 and interval.count == count and not interval.certain
    assert math.isnan(interval.low) and math.isnan(interval.high)


@pytest.mark.parametrize("freedom", [29, 40, 99, 1000])
def test_students_t_is_that_of_scipy(freedom):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-5)


@pytest.mark.parametrize("skewness", [-3.0, -0.2, 1e-5, 0.7, 4.0])
@pytest.mark.parametrize("t", [-2.1, 2.1])
def test_halls_transformation_of_its_inverse_is_the_number_itself(t, skewness):
    n = 37
    x = unbent(t, skewness, n)
    bent = x + skewness * x**2 / (3 * n**0.5) + skewness**2 * x**3 / (27 * n) + skewness / (6 * n**0.5)
    assert bent == pytest.approx(t, rel=1e-6)


def test_the_interval_of_a_mean_is_no_narrower_than_students_and_mirrors():
    values = RANDOM.lognormal(size=50)
    interval, mirrored = mean_interval(values), mean_interval(-values)
    plain = stats.t.interval(0.95, 49, values.mean(), stats.sem(values))
    assert interval.low <= plain[0] + 1e-4 and interval.high > plain[1] + 0.01
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))
    symmetric = np.concatenate([values, -values])
    plain = stats.t.interval(0.95, 99, 0, stats.sem(symmetric))
    assert (mean_interval(symmetric).low, mean_interval(symmetric).high) == pytest.approx(plain, rel=1e-5)


def test_a_mean_of_what_is_all_alike_or_infinite():
    alike = mean_interval(np.full(40, 0.1))
    assert (alike.low, alike.high) == pytest.approx((0.1, 0.1))
    assert mean_interval(np.zeros(40)).low == 0
    endless = mean_interval(np.array([math.inf, *range(39)]))
    assert endless.value == math.inf and math.isnan(endless.low)
    assert mean_interval(np.array([math.nan] * 3)).count == 0
    assert mean_interval(np.array([math.nan, *range(40)])).value == 19.5


@pytest.mark.parametrize("count, families", [(8, 1), (12, 6), (30, 20)])
def test_holm_calls_chance_real_in_one_family_of_twenty_at_most(count, families):
    """Correlated differences, of which none is real: signs of a shared and an own part."""
    random = np.random.default_rng(count)
    wrong = 0
    for _ in range(1000):
        changes = random.normal(size=(families, count)) + random.normal(size=count)
        wrong += min(holm([sign_test(row) for row in changes])) < 0.05
    assert wrong < 72  # 50 expected at most, standard deviation 7


@pytest.mark.parametrize("count, changes", [(10, 3), (30, 20), (100, 60)])
def test_the_interval_of_the_largest_of_many_medians_covers(count, changes):
    """As a sweep's sentence makes it: a level of 1 - .05 / m for what is chosen among m."""
    random = np.random.default_rng(changes)
    held = 0
    for _ in range(600):
        rows = random.normal(size=(changes, count))
        chosen = max(rows, key=lambda row: abs(np.median(row)))
        interval = median_interval(chosen, level=1 - 0.05 / changes)
        held += interval.low <= 0 <= interval.high
    assert held > 0.93 * 600


@pytest.mark.parametrize("count", [6, 10, 30, 100])
@pytest.mark.parametrize("gained, lost", [(0.3, 0.2), (0.1, 0.05), (0.4, 0.1), (0.02, 0.01)])
def test_the_intervals_of_differences_of_accuracy_cover(count, gained, lost):
    drawn = np.random.default_rng(count).choice(
        [1.0, -1.0, 0.0], p=[gained, lost, 1 - gained - lost], size=(DRAWS, count)
    )
    intervals = [change_interval(changes) for changes in drawn]
    assert np.mean([entry.low <= gained - lost <= entry.high for entry in intervals]) > 0.935


def test_a_difference_of_accuracy_by_hand():
    """3 of 10 gained, 1 lost: (2 +- 1.96 sqrt(5 - 4 / 12)) / 12; none of 40 changed: 1.96 / 42."""
    change = change_interval(np.array([1.0] * 3 + [-1.0] + [0.0] * 6))
    half = 1.959964 * math.sqrt(5 - 4 / 12)
    assert change.value == pytest.approx(0.2)
    assert (change.low, change.high) == pytest.approx(((2 - half) / 12, (2 + half) / 12))
    assert change_interval(np.zeros(40)).high == pytest.approx(1.959964 / 42)
    assert math.isnan(change_interval(np.zeros(5)).low)


# -------------------------------------------------------------------------------- photos


def test_photos_without_a_number_are_left_out():
    assert median_interval(np.array([1.0, math.nan, 3.0])).count == 2
    assert median_interval(np.array([1.0, math.nan, 3.0])).value == 2
    for nothing in (median_interval(np.array([math.nan])), share_interval(np.array([math.nan]))):
        assert nothing.count == 0 and math.isnan(nothing.value)


def test_the_same_numbers_give_the_same_interval():
    values = RANDOM.normal(size=30)
    assert median_interval(values) == median_interval(values[::-1])


@pytest.mark.parametrize("low, certain", [(0.1, True), (-0.1, False), (-1.4, True), (math.nan, False)])
def test_a_difference_is_certain_where_its_interval_leaves_out_zero(low, certain):
    assert Interval(low + 0.5, low, high=low + 1, count=40).certain is certain
