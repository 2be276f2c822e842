"""What the size of a batch changes: nothing but the rounding of whoever multiplies the matrices."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import LOADED, make_photo, no_network

from attnvis.attention import normalise, scaling
from attnvis.attention.query import kinds
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.methods.attention import AttentionMethod
from attnvis.types import Box, Features, Placement, Preprocessing

B, N, D = 7, 35, 11
PLACE = Placement((5.0, 5.0), (10.0, 10.0), (5, 7), (50, 70), Box(0.0, 0.0, 50.0, 70.0))
KINDS = (kinds.mean, kinds.norm, kinds.distance, kinds.rarity, kinds.pca)


def features(tokens):
    return Features(tokens, (5, 7), (PLACE,) * len(tokens), names=tuple(map(str, range(len(tokens)))))


def answers(tokens, method, size):
    """Photo by photo, `size` of them at once."""
    parts = [method.answer((features(part),)) for part in tokens.split(size)]
    return [answer for part in parts for (answer,) in part]


@pytest.mark.parametrize("query", KINDS)
def test_of_equal_features_the_batch_size_changes_rounding_alone(query):
    """Maps to 1e-5 of their largest weight, diagnostics to 1e-5; the same batches to the bit."""
    tokens = torch.randn(B, N, D, generator=torch.Generator().manual_seed(0)).relu()
    scalings = (scaling.inv_sqrt_d, scaling.zscore, scaling.perplexity)
    for scale, normaliser in product(scalings, (normalise.softmax, normalise.sparsemax)):
        method = AttentionMethod(no_network, query, scale, normaliser)
        whole = answers(tokens, method, B)
        for size in (1, 3):
            for alone, together in zip(answers(tokens, method, size), whole, strict=True):
                largest = float(together.weights.max())
                torch.testing.assert_close(alone.weights, together.weights, rtol=0, atol=1e-5 * largest)
                for name, value in together.diagnostics.items():
                    if name not in ("above_uniform", "margin"):  # a count, and a difference of near numbers
                        assert alone.diagnostics[name] == pytest.approx(
                            value, rel=1e-5, abs=1e-6, nan_ok=True
                        )
        for again, together in zip(answers(tokens, method, B), whole, strict=True):
            assert torch.equal(again.weights, together.weights)
            assert again.diagnostics == pytest.approx(together.diagnostics, rel=0, abs=0, nan_ok=True)


def test_of_equal_photos_the_batch_size_changes_what_the_networks_kernels_do(tmp_path):
    """To 1e-5 of the largest number, in single precision."""
    net, how = LOADED(precision="fp32"), Preprocessing(65, "stretch")
    photos = [load(make_photo(tmp_path / f"{number}.png", (80, 90), number)) for number in range(7)]
    (whole,) = net(collate(photos, how))
    for size in (1, 3):
        parts = [net(collate(photos[start : start + size], how))[0] for start in range(0, 7, size)]
        for name in ("tokens", "logits"):
            expected = getattr(whole, name)
            found = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_order_in_which_photos_share_a_batch_changes_rounding_alone():
    tokens = torch.randn(B, N, D, generator=torch.Generator().manual_seed(1)).relu()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(2))
    method = AttentionMethod(no_network, kinds.mean)
    here, there = answers(tokens, method, B), answers(tokens[order], method, B)
    for place, photo in enumerate(order.tolist()):
        torch.testing.assert_close(there[place].weights, here[photo].weights, rtol=1e-6, atol=1e-9)
        assert replace(there[place], weights=here[photo].weights).diagnostics["perplexity"] == pytest.approx(
            here[photo].diagnostics["perplexity"], rel=1e-6
        )
