"""A score as its channels: beside plain loops, and by hand."""

import math

import pytest
import torch
from conftest import normal

from attnvis.attention.channels import favourites, parts

N, D = 13, 7


def test_the_channels_of_every_patch_sum_to_its_score():
    query, keys = normal(D, seed=1), normal(N, D, seed=2)
    scores = [sum(float(query[c]) * float(keys[i, c]) for c in range(D)) for i in range(N)]
    for patch in range(N):
        found = parts(query, keys, patch)
        assert float(found.products.sum()) == pytest.approx(scores[patch], abs=1e-12)
        assert float(found.above_mean.sum()) == pytest.approx(scores[patch] - sum(scores) / N, abs=1e-12)
        assert found.query_norm * found.key_norm * found.cosine == pytest.approx(scores[patch], abs=1e-12)
        assert found.key_norm == pytest.approx(math.sqrt(sum(float(k) ** 2 for k in keys[patch])))


def test_a_vector_of_length_0_has_the_cosine_0():
    assert parts(torch.zeros(D), normal(N, D), 3).cosine == 0


def test_favourites_are_those_to_which_a_channel_adds_most_or_takes_most_from():
    products = torch.tensor([3.0, -1.0, 5.0, 0.0, 5.0, -4.0])
    assert favourites(products, sign=1.0, count=2) == [(2, 5.0), (4, 5.0)]
    assert favourites(products, sign=1.0, count=9, without=2) == [(4, 5.0), (0, 3.0)]
    assert favourites(products, sign=-2.0, count=9) == [(5, -4.0), (1, -1.0)]
    assert favourites(products, sign=-2.0, count=0) == []
