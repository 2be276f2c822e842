"""What an explorer's file holds of a photo's features, and how far that is off."""

import gzip

import numpy as np
import pytest
import torch

from attnvis.attention.query import kinds
from attnvis.backbone.heads import Linear
from attnvis.explorer import encode
from attnvis.types import Box, Features, Placement

N, D, C = 12, 7, 5


def features(tokens=None, grid=(3, 4), head=True) -> Features:
    generator = torch.Generator().manual_seed(0)
    if tokens is None:
        tokens = torch.randn(1, N, D, generator=generator).relu() * 3
    weight, bias = torch.randn(C, D, generator=generator), torch.randn(C, generator=generator)
    classifier = Linear(weight, bias, tuple("abcde")) if head else None
    placement = Placement(
        (10.0, 10.0),
        (20.0, 20.0),
        grid=grid,
        size=(60, 80),
        seen=Box(0.0, 0.0, 60.0, 80.0),
        field=(90.0, 90.0),
    )
    logits = classifier(tokens.mean(1)) if classifier else None
    return Features(tokens, grid, (placement,), head=classifier, logits=logits)


def unplaned(packed: bytes, rows: int) -> np.ndarray:
    """By hand: the first half of the bytes are the low ones."""
    data = np.frombuffer(gzip.decompress(packed), np.uint8).astype(int)
    return (data[: len(data) // 2] + 256 * data[len(data) // 2 :]).reshape(rows, -1)


def test_tokens_come_back_within_half_a_step():
    tokens = features().tokens[0].numpy()
    packed, step, _ = encode.pack_tokens(tokens)
    levels = unplaned(packed, D)
    levels = np.where(levels > 32767, levels - 65536, levels)
    assert np.abs(levels.T * step - tokens).max() <= step / 2 * 1.0001


def test_the_error_is_that_of_the_worst_pair_of_patches_by_loops():
    tokens = features().tokens[0].numpy()
    _, step, error = encode.pack_tokens(tokens)
    rounded = np.rint(tokens.astype(float) / step) * step
    worst = max(
        abs(float(rounded[i] @ rounded[j]) - float(tokens[i].astype(float) @ tokens[j]))
        for i in range(N)
        for j in range(N)
    )
    largest = max(abs(float(one @ other)) for one in tokens for other in tokens)
    assert worst <= error <= worst + 2e-6 * largest


def test_a_large_number_among_small_ones_still_fits_sixteen_bits():
    tokens = np.full((3, 2), 0.001, np.float32)
    tokens[1, 1] = -9000.0
    packed, step, _ = encode.pack_tokens(tokens)
    levels = unplaned(packed, 2)
    assert (levels[1, 1] - 65536) * step == pytest.approx(-9000, rel=1e-4)


@pytest.mark.parametrize("tokens", [np.zeros((4, 3), np.float32), np.zeros((1, 1), np.float32)])
def test_features_that_are_all_zero_are_packed(tokens):
    packed, step, error = encode.pack_tokens(tokens)
    assert step > 0 and error == 0 and not unplaned(packed, tokens.shape[1]).any()


def test_rows_come_back_within_half_a_step_whatever_their_range():
    rows = np.stack([np.linspace(-3, 9, N), np.linspace(0, 1e6, N), np.full(N, 7.5), np.linspace(0, 1e-4, N)])
    packed, lows, steps = encode.pack_rows(rows, np.array([0.001, 0.001, 0.0, 0.0]))
    back = lows[:, None] + steps[:, None] * unplaned(packed, 4)
    assert (np.abs(back - rows) <= steps[:, None] / 2 + 1e-6 * np.abs(rows).max(1, keepdims=True)).all()
    assert steps[0] == pytest.approx(0.001, rel=1e-3) and steps[1] > 10 and steps[3] < 2e-9


def test_class_rows_are_the_likeliest_first_with_their_dot_products():
    sample = features()
    rows = encode.class_rows(sample, 3)
    weight = sample.head.weight.numpy().astype(float)
    order = np.argsort(-sample.logits[0].numpy())[:3]
    assert list(rows.indices) == order.tolist()
    for row, index in zip(rows.scores, order):
        assert row == pytest.approx(
            [float(patch @ weight[index]) for patch in sample.tokens[0].numpy().astype(float)], abs=1e-4
        )
    assert rows.gram == pytest.approx(weight[order] @ weight[order].T, abs=1e-5)


@pytest.mark.parametrize("classes, count", [("auto", C), ("all", C), (2, 2), ([4], C)])
def test_classes_are_chosen_as_asked(classes, count):
    assert len(encode.class_rows(features(), classes).indices) == count


@pytest.mark.parametrize("classes", ["every", 0, -3, [C], ["tabby"]])
def test_classes_that_mean_nothing_are_refused(classes):
    with pytest.raises(ValueError, match=r"give auto, all, or how many|is no index of the"):
        encode.class_rows(features(), classes)


def test_a_network_without_a_classifier_has_no_classes():
    assert encode.class_rows(features(head=False)).indices == ()


def test_rows_of_questions_are_those_of_the_queries():
    sample = features()
    rows = {row.name: row for row in encode.question_rows(sample)}
    tokens = sample.tokens[0].numpy().astype(float)
    mean = tokens.mean(0)
    assert rows["norm"].scores == pytest.approx([np.sqrt((patch**2).sum()) for patch in tokens], rel=1e-5)
    assert rows["distance"].scores == pytest.approx(
        [np.sqrt(((patch - mean) ** 2).sum()) for patch in tokens], rel=1e-5
    )
    assert (rows["norm"].dim, rows["rarity"].dim, rows["pca:1"].dim) == (1, D, D)
    vector = kinds.random(sample, 2).vectors[0, 0].double().numpy()
    assert rows["random:2"].length == pytest.approx(np.sqrt((vector**2).sum()))


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (3, 1)])
def test_a_grid_of_one_row_or_one_cell_is_encoded(grid):
    tokens = torch.ones(1, grid[0] * grid[1], D)
    layer = encode.encode_layer(features(tokens, grid))
    assert layer.facts["grid"] == grid and set(layer.packed) == {"tokens", "rows", "scales"}


def test_features_that_are_not_finite_are_refused():
    tokens = torch.ones(1, N, D)
    tokens[0, 3, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 84 features of layer last are not finite"):
        encode.encode_layer(features(tokens))
