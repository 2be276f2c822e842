"""NaN and infinity never become a map: they fail their photo, by the name of the layer that gave them."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import make_photo, no_network

from attnvis.attention import normalise, scaling
from attnvis.attention.query import kinds
from attnvis.backbone.heads import Linear
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.experiments.recognition.measure import Recogniser, settings
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import SettingGrid
from attnvis.pipeline.streaming import stream
from attnvis.types import Box, Features, PhotoError, Placement, Preprocessing, Query

B, N, D = 3, 6, 5
PLACE = Placement((10.0, 10.0), (20.0, 20.0), (2, 3), (40, 60), Box(0.0, 0.0, 40.0, 60.0))


def features(tokens: torch.Tensor) -> Features:
    names = tuple(f"{number}.jpg" for number in range(len(tokens)))
    return Features(tokens, (2, 3), (PLACE,) * len(tokens), names=names, layer="stage3")


def spoiled(value: float) -> torch.Tensor:
    tokens = torch.randn(B, N, D, generator=torch.Generator().manual_seed(0))
    tokens[1, 4, 2] = tokens[1, 0, 0] = value
    return tokens


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scale", scaling.__all__)
def test_a_spoiled_feature_fails_under_every_scaling_with_the_layers_name(scale, value):
    method = AttentionMethod(no_network, kinds.norm, getattr(scaling, scale))
    with pytest.raises(PhotoError, match=r"^1\.jpg: 2 of 30 features of layer stage3 are not finite"):
        method.answer((features(spoiled(value)),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_finite_features_whose_sum_is_not_are_taken(dtype):
    tokens = torch.full((1, N, D), 0.9 * torch.finfo(dtype).max, dtype=dtype)
    assert tokens.sum().isinf()

    def small(features: Features) -> torch.Tensor:
        return torch.ones(1, 1, D) * 1e-30

    ((answer,),) = AttentionMethod(no_network, small).answer((features(tokens),))
    assert answer.weights.tolist() == pytest.approx([1 / N] * N)


@pytest.mark.parametrize("name", normalise.__all__)
def test_scores_that_overflow_fail_under_every_normaliser(name):
    tokens = torch.full((1, N, D), 3e19)  # finite, and their squares are not: 9e38 is beyond float32

    def first(features: Features) -> torch.Tensor:
        return features.tokens[:, :1]

    method = AttentionMethod(no_network, first, scaling.none, getattr(normalise, name))
    with pytest.raises(PhotoError, match=r"6 of 6 scores of layer stage3 are not finite"):
        method.answer((features(tokens),))


def ask(vectors, keys=None):
    """A query of its own vectors and keys."""

    def query(features: Features) -> Query:
        labels = tuple(("own",) for _ in features.tokens)
        return Query(vectors, labels, keys=keys)

    return query


def places(value):
    """Where a number that is not finite can sit: (features, query, what the line says)."""
    tokens = torch.randn(1, N, D, generator=torch.Generator().manual_seed(0))
    own, keys = tokens[:, :1].clone(), tokens.clone()
    own[0, 0, 2], keys[0, 4, 1] = value, value
    spoiled_tokens = tokens.clone()
    spoiled_tokens[0, 3, 3] = value
    logits = torch.zeros(1, 3)
    logits[0, 1] = value
    head = Linear(
        torch.randn(3, D, generator=torch.Generator().manual_seed(1)), torch.zeros(3), ("a", "b", "c")
    )
    classed = replace(features(tokens), head=head, logits=logits)
    return {
        "a feature": (features(spoiled_tokens), kinds.mean, "1 of 30 features of layer stage3"),
        "the query": (features(tokens), ask(own), "6 of 6 scores of layer stage3"),
        "a key": (features(tokens), ask(tokens[:, :1], keys), "1 of 6 scores of layer stage3"),
        "a class logit": (classed, kinds.mean, "1 of 3 class logits of layer stage3"),
        "the predicted class": (classed, kinds.class_, "1 of 3 class logits of layer stage3"),
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", places(math.nan))
def test_wherever_it_sits_every_scaling_and_normaliser_refuses(place, value):
    """In a run and in a sweep; never a map."""
    layer, query, words = places(value)[place]
    every = {name: getattr(scaling, name) for name in scaling.__all__}
    every_normaliser = {name: getattr(normalise, name) for name in normalise.__all__}
    for function, normaliser in product(every.values(), every_normaliser.values()):
        with pytest.raises(PhotoError, match=f"^0.jpg: {words} are not finite"):
            AttentionMethod(no_network, query, function, normaliser).answer((layer,))
        grid = SettingGrid(no_network, {"own": query}, {"one": function}, {"other": normaliser})
        with pytest.raises(PhotoError, match=f"^0.jpg: {words} are not finite"):
            grid.answer((layer,))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", normalise.__all__)
def test_a_scaling_of_your_own_that_gives_one_fails_under_every_normaliser(name, value):
    def odd(scores):
        logits = scores.products.clone()
        logits[..., 2] = value
        return logits

    layer = features(torch.randn(1, N, D, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(
        PhotoError, match=r"(weights after scaling|largest logits) of layer stage3 are not finite"
    ):
        AttentionMethod(no_network, kinds.mean, odd, getattr(normalise, name)).answer((layer,))
    grid = SettingGrid(no_network, {"mean": kinds.mean}, {"odd": odd}, {name: getattr(normalise, name)})
    with pytest.raises(PhotoError, match=rf"under odd {name} of layer stage3 are not finite"):
        grid.answer((layer,))


@pytest.mark.parametrize("name", normalise.__all__)
def test_patches_that_a_scaling_of_your_own_masks_are_allowed_all_of_them_not(name):
    layer = features(torch.randn(1, N, D, generator=torch.Generator().manual_seed(0)))

    def masked(count):
        return lambda scores: scores.products.abs().index_fill(-1, torch.arange(count), -math.inf)

    (answers,) = AttentionMethod(no_network, kinds.mean, masked(2), getattr(normalise, name)).answer((layer,))
    assert (answers[0].weights[:2] == 0).all() and float(answers[0].weights.sum()) == pytest.approx(1)
    with pytest.raises(PhotoError, match="not finite"):
        AttentionMethod(no_network, kinds.mean, masked(N), getattr(normalise, name)).answer((layer,))


def test_attended_class_logits_that_are_not_finite_fail_their_photo(tmp_path):
    """A NaN ranks behind nothing: the truth would be among the first five."""
    bias = torch.tensor([0.0, math.nan, 0.0])
    head = Linear(torch.randn(3, D, generator=torch.Generator().manual_seed(1)), bias, ("a", "b", "c"))
    layer = replace(features(torch.randn(1, N, D, generator=torch.Generator().manual_seed(0))), head=head)
    recogniser = Recogniser(lambda batch: (layer,), settings(D))
    with pytest.raises(PhotoError, match=r"0\.jpg: .* attended class logits of layer stage3 are not finite"):
        recogniser(collate([load(make_photo(tmp_path / "0.jpg"))], Preprocessing(65)))


def test_a_sweep_says_the_same():
    grid = SettingGrid(
        no_network, {"mean": kinds.mean}, {"none": scaling.none}, {"softmax": normalise.softmax}
    )
    with pytest.raises(PhotoError, match="2 of 30 features of layer stage3"):
        grid.answer((features(spoiled(math.nan)),))


def test_the_other_photos_of_the_batch_are_answered(tmp_path):
    paths = [make_photo(tmp_path / f"{number}.png", (40, 60), number) for number in range(B)]

    def network(batch):
        rows = [int(photo.name[0]) for photo in batch.photos]
        return (
            Features(
                spoiled(math.nan)[rows],
                (2, 3),
                (PLACE,) * len(rows),
                names=tuple(photo.name for photo in batch.photos),
            ),
        )

    outcomes = list(stream(paths, AttentionMethod(network), Preprocessing(64, "stretch"), batch_size=3))
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
    assert outcomes[1].error.startswith("1.png: 2 of 30 features of layer last are not finite")


def test_a_scaling_that_overflows_fails_instead_of_drawing():
    def huge(scores):
        return scores.products * 1e38 * 1e38

    tokens = torch.randn(1, N, D, generator=torch.Generator().manual_seed(0))
    with pytest.raises(PhotoError, match="weights after scaling of layer stage3 are not finite"):
        AttentionMethod(no_network, kinds.mean, huge).answer((features(tokens),))
    grid = SettingGrid(no_network, {"mean": kinds.mean}, {"huge": huge}, {"softmax": normalise.softmax})
    with pytest.raises(PhotoError, match="weights under huge softmax of layer stage3"):
        grid.answer((features(tokens),))
