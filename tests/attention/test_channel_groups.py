"""Groups of channels that are asked each by itself: plain loops, and what turning the channels changes."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import no_network
from fake_features import B, D, N, close, complaint, normal, one_photo, tiled, two_photos

from attnvis.attention import heads, keys, scaling
from attnvis.attention.dot_product import attend
from attnvis.attention.query.language import build_queries, parse
from attnvis.attention.spec import as_function, format_function
from attnvis.methods.attention import AttentionMethod
from attnvis.types import PhotoError, Scores

FEATURES = two_photos()
COUNT = 3  # of 7 channels: groups of 3, 2 and 2
FUNCTIONS = [partial(function, count=COUNT) for function in (heads.contiguous, heads.random, heads.pca)]


def answers(text, features=FEATURES, **stages):
    return [
        of_photo[0] for of_photo in AttentionMethod(no_network, parse(text), **stages).answer((features,))
    ]


def vectors(text, features=FEATURES):
    (query,) = build_queries(parse(text), features)
    return query.vectors


def test_a_map_of_heads_is_the_mean_of_each_groups_softmax():
    channels = [[0, 1, 2], [3, 4], [5, 6]]
    asked = vectors("class:3")
    for photo, answer in enumerate(answers("class:3", heads=partial(heads.contiguous, count=COUNT))):
        assert answer.heads.shape == (COUNT, N)
        for head, group in enumerate(channels):
            exponentials = []
            for patch in range(N):
                product = sum(
                    float(asked[photo, 0, channel] * FEATURES.tokens[photo, patch, channel])
                    for channel in group
                )
                exponentials.append(math.exp(product / math.sqrt(len(group))))
            expected = [value / sum(exponentials) for value in exponentials]
            assert answer.heads[head].tolist() == pytest.approx(expected)
        assert answer.weights.tolist() == pytest.approx(answer.heads.mean(0).tolist())
        correlations = np.corrcoef(answer.heads.numpy())[np.triu_indices(COUNT, 1)]
        assert answer.head_agreement == pytest.approx(correlations.mean())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_heads_scores_add_up_to_the_whole_product(function):
    scores = Scores(vectors("point:40,31.5"), FEATURES.tokens)
    parts = function(scores)
    close(sum(part.products for part in parts), scores.products)
    assert [part.dim for part in parts] == [3, 2, 2]


@pytest.mark.parametrize("function", [heads.one, partial(heads.contiguous, count=1)])
@pytest.mark.parametrize("text", ["mean", "class:3", "rarity:4"])
def test_one_head_changes_no_bit(function, text):
    (query,) = build_queries(parse(text), FEATURES)
    whole = attend(query.vectors, FEATURES.tokens if query.keys is None else query.keys)
    for photo, answer in enumerate(answers(text, heads=function)):
        assert torch.equal(answer.weights, whole.weights[photo, 0]) and answer.heads is None
        assert not math.isnan(answer.diagnostics["jacobian_norm"])


def test_turned_channels_change_every_heads_map_but_the_principal_ones():
    basis, _ = torch.linalg.qr(normal(D, D, seed=3))
    turned = two_photos(FEATURES.tokens @ basis)

    def change(function):
        before, after = (answers("point:40,31.5", of, heads=function) for of in (FEATURES, turned))
        return max(float((a.weights - b.weights).abs().max()) for a, b in zip(before, after, strict=True))

    assert change(heads.one) < 1e-12 and change(partial(heads.pca, count=COUNT)) < 1e-6
    assert change(partial(heads.contiguous, count=COUNT)) > 1e-3


def test_random_groups_are_neighbours_among_shuffled_channels():
    order = torch.randperm(D, generator=torch.Generator().manual_seed(5))
    scores = Scores(vectors("mean"), FEATURES.tokens)
    shuffled = Scores(scores.query[..., order], scores.keys[..., order])
    for drawn, part in zip(heads.random(scores, COUNT, 5), heads.contiguous(shuffled, COUNT), strict=True):
        assert torch.equal(drawn.keys, part.keys) and torch.equal(drawn.query, part.query)


def test_heads_of_other_keys_are_groups_of_those():
    stages = {"keys": partial(keys.pca, components=4), "scaling": scaling.none}
    (answer, _) = answers("class:3", heads=partial(heads.contiguous, count=2), **stages)
    space = keys.pca(FEATURES, components=4)
    query = space.project(vectors("class:3"))
    parts = [(query[..., half] @ space.keys[..., half].mT).softmax(-1) for half in (slice(2), slice(2, 4))]
    close(answer.heads, torch.cat([part[0] for part in parts]))


def test_a_number_of_heads_is_a_text():
    assert format_function(as_function("heads", "4")) == "contiguous"
    assert format_function(as_function("heads", "3")) == "contiguous:3"
    assert format_function(as_function("heads", "1")) == "one"
    assert "random:4" in complaint(ValueError, as_function, "heads", 4)


def test_more_heads_than_numbers_are_refused():
    scores = Scores(vectors("mean"), FEATURES.tokens)
    for function in (heads.contiguous, heads.random, heads.pca):
        assert "at least 1 head" in complaint(ValueError, function, scores, 0)
        assert "have 7 numbers a patch" in complaint(ValueError, function, scores, 8)
    few = Scores(vectors("mean"), FEATURES.tokens[:, :2])
    assert "have 2 directions" in complaint(PhotoError, heads.pca, few, 3), "other photos may have more"
    method = AttentionMethod(no_network, parse("norm"), heads=partial(heads.contiguous, count=2))
    assert "1 number a patch" in complaint(ValueError, method.answer, (FEATURES,))


def test_a_photo_of_too_few_patches_for_its_heads_is_named():
    few = one_photo(tiled((10, 20), (1, 2)))
    few = replace(few, tokens=normal(1, 2, 7), names=("small.png",), head=None, logits=None)
    method = AttentionMethod(no_network, parse("mean"), heads=partial(heads.pca, count=3))
    message = complaint(PhotoError, method.answer, (few,))
    assert message.startswith("small.png: heads=pca:3") and "2 directions" in message


def test_no_derivative_of_several_heads_is_told():
    (answer, _) = answers("mean", heads=heads.contiguous)
    assert math.isnan(answer.diagnostics["gradient_norm"]) and len(answers("mean")) == B


def test_p_values_are_those_of_one_head():
    method = partial(AttentionMethod, no_network, random_classes=19)
    assert "heads=1" in complaint(ValueError, partial(method, heads=partial(heads.contiguous, count=2)))
    assert method(heads=partial(heads.one)).random_classes == 19
