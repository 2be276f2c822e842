"""The order check looks at weights: for every scaling that is a factor, under every normaliser."""

import math

import numpy as np
import pytest
import torch
from measured_sweep import GRID, measured, noise
from scipy import stats

from attnvis.attention import normalise, scaling
from attnvis.attention.scaling import positive_factor
from attnvis.attention.spec import functions
from attnvis.experiments.sweep.findings import paragraph
from attnvis.experiments.sweep.orderings import orders
from attnvis.experiments.sweep.statistics import series_of
from attnvis.types import Scores

PHOTOS = 3


@pytest.mark.parametrize("name", normalise.__all__)
def test_whether_the_order_is_left_is_judged_by_weights_under_every_scaling(name, tmp_path):
    """Beside scipy's Spearman of weights, computed anew, with scores: a normaliser that cuts makes ties."""
    sweep = measured(tmp_path, PHOTOS, scalings=tuple(scaling.__all__), normalisers=(name,), sheets=0)
    all_series = series_of(sweep)
    checked = {order.setting.partition(" ")[0]: order for order in orders(all_series)}
    assert list(checked) == list(scaling.__all__)
    tokens = noise(PHOTOS)
    scores = Scores(tokens.mean(1, keepdim=True), tokens)
    (normaliser,) = functions("normalise", [name]).values()
    lost = {}
    for text, order in checked.items():
        weights = normaliser(getattr(scaling, text)(scores))[:, 0].numpy()
        correlations = [
            stats.spearmanr(row, of_photo).statistic if np.ptp(of_photo) else 1.0
            for row, of_photo in zip(scores.products[:, 0].numpy(), weights, strict=True)
        ]
        lost[text] = sum(value < 0.99 for value in correlations)
        assert order.weights.lost == lost[text]
        assert order.weights.worst == pytest.approx(min(correlations), abs=1e-6)
        assert order.weights.patches == math.prod(GRID)
        assert order.factor == positive_factor(text) and not order.broken
    words = " ".join(paragraph(all_series, list(checked.values()), [0.1]))
    factors_lost = [text for text, count in lost.items() if count and positive_factor(text)]
    assert ("In the weights, where those that are 0 are ties" in words) == bool(factors_lost)
    assert ("in the logits and in the weights" in words) == (not factors_lost)


def test_a_normaliser_that_cuts_loses_the_order_of_what_it_cuts():
    """Of five scores sparsemax leaves two: three ties."""
    scores = torch.tensor([[[0.0, 0.1, 0.2, 3.0, 3.1]]])
    weights = normalise.sparsemax(scores).flatten().numpy()
    assert (weights > 0).sum() == 2
    assert stats.spearmanr(scores.flatten().numpy(), weights).statistic < 0.99
