"""How alike two maps are, beside SciPy, scikit-image and plain loops."""

import numpy as np
import pytest
from scipy import stats
from skimage.metrics import structural_similarity

from attnvis.experiments.sanity.likeness import largest_change, moved, pearson, spearman, ssim

RNG = np.random.default_rng(7)
ONE, OTHER = RNG.random((11, 13)), RNG.random((11, 13))
TIED = RNG.integers(0, 4, (11, 13)).astype(float) + 1


@pytest.mark.parametrize("other", [OTHER, ONE**3, -ONE + 2, TIED], ids=["noise", "cubed", "turned", "ties"])
def test_correlations_are_those_of_scipy(other):
    assert pearson(ONE, other) == pytest.approx(stats.pearsonr(ONE.ravel(), other.ravel()).statistic)
    assert spearman(ONE, other) == pytest.approx(stats.spearmanr(ONE.ravel(), other.ravel()).statistic)


def test_what_the_network_never_saw_is_left_out():
    partly = OTHER.copy()
    partly[:, :5] = np.nan
    seen = ONE[:, 5:].ravel(), OTHER[:, 5:].ravel()
    assert spearman(ONE, partly) == pytest.approx(stats.spearmanr(*seen).statistic)
    assert spearman(partly, ONE) == pytest.approx(stats.spearmanr(*seen).statistic)


def test_a_map_that_is_the_same_everywhere_has_no_correlation():
    level = np.full((11, 13), 0.3) + 1e-9 * OTHER  # but for rounding
    assert np.isnan(spearman(ONE, level)) and np.isnan(pearson(level, ONE))


@pytest.mark.parametrize("other", [OTHER, ONE**3, ONE], ids=["noise", "cubed", "itself"])
def test_structural_similarity_is_that_of_skimage(other):
    theirs = structural_similarity(ONE / ONE.max(), other / other.max(), data_range=1.0, win_size=7)
    assert ssim(ONE, other) == pytest.approx(theirs, abs=1e-9)


def test_the_share_that_moves_is_what_one_map_has_too_much():
    one, other = np.array([[3.0, 1.0], [0.0, 4.0]]), np.array([[1.0, 1.0], [2.0, 0.0]])
    # 3/8, 1/8, 0, 1/2 and 1/4, 1/4, 1/2, 0: too much are 1/8 and 1/2
    assert moved(one, other) == pytest.approx(5 / 8)
    assert moved(one, 2 * one) == 0


def test_the_largest_change_is_a_share_of_the_first_maps_highest():
    assert largest_change(np.array([[2.0, 8.0]]), np.array([[3.0, 7.5]])) == 1 / 8
