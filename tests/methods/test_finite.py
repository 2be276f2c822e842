"""NaN and infinity never become a map: they fail their photo, by the name of the layer that gave them."""

import math

import pytest
import torch
from conftest import make_photo, no_network

from attnvis.attention import normalise, scaling
from attnvis.attention.query import kinds
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import SettingGrid
from attnvis.pipeline.streaming import stream
from attnvis.types import Box, Features, PhotoError, Placement, Preprocessing

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


@pytest.mark.parametrize("name", normalise.__all__)
def test_scores_that_overflow_fail_under_every_normaliser(name):
    tokens = torch.full((1, N, D), 3e19)  # finite, and their squares are not: 9e38 is beyond float32

    def first(features: Features) -> torch.Tensor:
        return features.tokens[:, :1]

    method = AttentionMethod(no_network, first, scaling.none, getattr(normalise, name))
    with pytest.raises(PhotoError, match=r"6 of 6 scores of layer stage3 are not finite"):
        method.answer((features(tokens),))


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
