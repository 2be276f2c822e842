"""Maps of several layers as one: plain loops over cells, and softmax of the mean logits on a common grid."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import no_network
from fake_features import close, complaint, normal, one_photo, tiled

from attnvis.attention import keys, normalise, scaling
from attnvis.attention.query.language import parse
from attnvis.methods.answer import Attended
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.fusing import FUSIONS, NO_CONTEXT, fused
from attnvis.types import PhotoError

SIZE = (40, 60)
QUERIES = "mean", "point:15,5"


def layer(name, grid, seed, channels=5):
    tokens = normal(1, grid[0] * grid[1], channels, seed=seed)
    return replace(one_photo(tiled(SIZE, grid)), tokens=tokens, layer=name, head=None, logits=None)


COARSE, FINE, OTHER = layer("coarse", (2, 3), 1), layer("fine", (4, 6), 2), layer("other", (4, 6), 3)


def answers(layers, text="mean", **settings):
    return AttentionMethod(no_network, parse(text), **settings).answer(layers)[0]


def interpolated(coarse, row, column):
    """Linear between the centres of 2 x 3 cells, at the middle of one of 4 x 6; level beyond them."""
    down, across = min(max((row - 0.5) / 2, 0), 1), min(max((column - 0.5) / 2, 0), 2)
    total = 0.0
    for i in range(2):
        for j in range(3):
            total += max(0, 1 - abs(i - down)) * max(0, 1 - abs(j - across)) * float(coarse[3 * i + j])
    return total


RULES = {
    "mixture": lambda a, b: (a + b) / 2,
    "product": lambda a, b: (a * b) ** 0.5,
    "max": max,
}


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("order", [(COARSE, FINE), (FINE, COARSE)])
def test_layers_are_joined_cell_by_cell_on_the_finest_grid(name, order):
    *alone, joined = answers(order, fuse=name)
    by_layer = {answer.layer: answer.weights for answer in alone}
    coarse = [interpolated(by_layer["coarse"], row, column) for row in range(4) for column in range(6)]
    coarse = [value / sum(coarse) for value in coarse]  # as much mass as before
    expected = [RULES[name](a, float(b)) for a, b in zip(coarse, by_layer["fine"], strict=True)]
    expected = [value / sum(expected) for value in expected]
    assert joined.weights.tolist() == pytest.approx(expected)
    assert (joined.placement, joined.attention, joined.vector) == (FINE.placements[0], None, None)
    assert joined.label == f"mean, {name}" and joined.layer == "+".join(of.layer for of in order)
    assert "sigma_eff" not in joined.diagnostics and joined.diagnostics["max"] == pytest.approx(max(expected))


def test_the_product_of_two_layers_is_softmax_of_their_mean_logits():
    first, second, joined = answers((FINE, OTHER), scaling=scaling.none, fuse="product")
    logits = [answer.attention.logits[0, 0] for answer in (first, second)]
    close(joined.weights, ((logits[0] + logits[1]) / 2).softmax(0))


@pytest.mark.parametrize("name", FUSIONS)
def test_a_layer_joined_with_itself_is_itself(name):
    first, _, joined = answers((FINE, replace(FINE, layer="again")), fuse=name)
    close(joined.weights, first.weights)


def test_every_question_is_joined_of_its_own_layers():
    method = AttentionMethod(
        no_network, partial(lambda features, of: [*of(features)], of=two), fuse="mixture"
    )
    of_photo = method.answer((COARSE, FINE))[0]
    assert [(answer.label, answer.layer) for answer in of_photo] == [
        ("mean, coarse", "coarse"),
        ("point 15,5, coarse", "coarse"),
        ("mean, fine", "fine"),
        ("point 15,5, fine", "fine"),
        ("mean, mixture", "coarse+fine"),
        ("point 15,5, mixture", "coarse+fine"),
    ]
    for joined, text in zip(of_photo[4:], QUERIES, strict=True):
        assert torch.equal(joined.weights, answers((COARSE, FINE), text, fuse="mixture")[-1].weights)


def two(features):
    from attnvis.attention.query.language import build_queries

    return [query for text in QUERIES for query in build_queries(parse(text), features)]


def test_a_joined_map_has_nothing_of_the_last_layers_context():
    first, second = answers((FINE, OTHER))
    of_last = replace(second, p_value=0.01, critical=2.0, attended=Attended(reason="none"))
    joined = fused([first, of_last], "mixture", base="mean")
    assert (joined.p_value, joined.critical, joined.attended) == (None, None, None)
    assert joined.patches_beyond_chance is None and joined.remarks == (NO_CONTEXT,)
    assert fused([first, second], "mixture", base="mean").remarks == (), "nobody asked"


def test_what_cannot_be_joined_is_said():
    assert "there are mixture, product, max" in complaint(
        ValueError, partial(AttentionMethod, no_network, fuse="sum")
    )
    method = AttentionMethod(no_network, parse("mean"), fuse="max")
    assert "fine is one; give two layers or more" in complaint(ValueError, method.answer, (FINE,))
    layered = replace(method, keys=partial(keys.layer, name="coarse"))
    message = complaint(ValueError, layered.answer, (COARSE, FINE))
    assert "keys=layer:coarse leaves one, fine" in message and "third layer" in message
    sharp = AttentionMethod(no_network, parse("mean"), scaling.none, partial(normalise.top_k, k=1))
    first, second = sharp.answer((FINE, OTHER))[0]
    assert first.hottest != second.hottest
    message = complaint(PhotoError, fused, [first, second], "product", "mean")
    assert "share no cell" in message
