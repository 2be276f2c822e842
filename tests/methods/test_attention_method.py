"""A method against attention written out in plain loops, photo by photo and query by query, on fakes of a
few patches."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import no_network, normal
from torch import Tensor

from attnvis.attention import normalise, query, scaling
from attnvis.attention.query import language
from attnvis.backbone.heads import Linear
from attnvis.methods import attention
from attnvis.methods.answer import Answer
from attnvis.methods.attention import AttentionMethod
from attnvis.metrics.diagnostics import DESCRIPTIONS, diagnose
from attnvis.types import Box, Features, Placement, Query

B, Q, D, C = 2, 3, 7, 11  # different primes: a transposed axis cannot pass unnoticed
GRID = (5, 13)
N = GRID[0] * GRID[1]
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
sharp = AttentionMethod(no_network, scaling=scaling.none)

SEVERAL = ("class:two", "random:1,3", "rarity", "point:12,31", "mean", "pca:2", "box:3,2,20,10")
ANSWERS = (
    "class:two",
    "random:1,3",
    "random:1,3",
    "random:1,3",
    "rarity",
    "point:12,31",
    "mean",
    "pca:2",
    "box:3,2,20,10",
)


def tiles(size: tuple[int, int], grid: tuple[int, int] = GRID) -> Placement:
    step = (size[0] / grid[0], size[1] / grid[1])
    return Placement(
        (step[0] / 2, step[1] / 2), step, grid, size, Box(0.0, 0.0, float(size[0]), float(size[1]))
    )


def some(tokens: Tensor | None = None) -> Features:
    tokens = normal(B, N, D) if tokens is None else tokens
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    head = Linear(normal(C, D, seed=1), normal(C, seed=2), names)
    return Features(
        tokens, GRID, (tiles((50, 65)), tiles((45, 130))), head, head(tokens.mean(1)), ("one.jpg", "two.jpg")
    )


def only(features: Features, *photos: int) -> Features:
    """Some of the photos, in that order."""
    return replace(
        features,
        tokens=features.tokens[list(photos)],
        logits=features.logits[list(photos)],
        placements=tuple(features.placements[photo] for photo in photos),
        names=tuple(features.names[photo] for photo in photos),
    )


def vectors(asked: Tensor, name: str = "asked"):
    """A user's query function that returns bare vectors."""

    def function(features: Features) -> Tensor:
        return asked

    function.__name__ = name
    return function


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def dot(first: Tensor, second: Tensor) -> float:
    return math.fsum(a * b for a, b in zip(first.tolist(), second.tolist()))


def assert_same(answer: Answer, other: Answer) -> None:
    assert (answer.query, answer.label, answer.placement, answer.mark) == (
        other.query,
        other.label,
        other.placement,
        other.mark,
    )
    assert answer.diagnostics == pytest.approx(other.diagnostics, rel=1e-9, abs=1e-9)
    for name in ("scores", "logits", "weights", "values"):
        close(getattr(answer.attention, name), getattr(other.attention, name))
    close(answer.vector, other.vector)


# One answer per photo and query


def test_every_photo_has_its_own_answer_to_every_query_in_order():
    features, asked = some(), normal(B, Q, D, seed=3)
    answers = AttentionMethod(no_network, vectors(asked)).answer((features,))
    assert [len(photo) for photo in answers] == [Q] * B
    for b in range(B):
        for q in range(Q):
            answer = answers[b][q]
            scores = [dot(asked[b, q], features.tokens[b, i]) for i in range(N)]
            weights = softmax([score / math.sqrt(D) for score in scores])
            expected = {
                "scores": scores,
                "logits": [score / math.sqrt(D) for score in scores],
                "weights": weights,
            }
            for name, numbers in expected.items():
                assert getattr(answer.attention, name).shape == (1, 1, N)
                close(getattr(answer.attention, name)[0, 0], torch.tensor(numbers, dtype=torch.float64))
            context = [
                math.fsum(a * v for a, v in zip(weights, features.tokens[b, :, d].tolist())) for d in range(D)
            ]
            close(answer.attention.context[0, 0], torch.tensor(context, dtype=torch.float64))
            assert torch.equal(answer.vector, asked[b, q])
            assert answer.placement is features.placements[b]
            assert (
                answer.query == "asked"
                and answer.label == f"asked #{q + 1}"
                and answer.mark is None
                and answer.patches == N
            )


def test_the_given_scaling_and_normaliser_are_used():
    features, asked = some(), normal(B, Q, D, seed=3)
    answers = AttentionMethod(
        no_network, vectors(asked), partial(scaling.temperature, tau=0.25), normalise.relu
    ).answer((features,))
    for b in range(B):
        for q in range(Q):
            positive = [max(0.0, 4 * dot(asked[b, q], features.tokens[b, i])) for i in range(N)]
            close(
                answers[b][q].attention.weights[0, 0],
                torch.tensor(positive, dtype=torch.float64) / math.fsum(positive),
            )


def test_unless_told_otherwise_the_mean_patch_asks_by_scaled_dot_products():
    features = some()
    for b, (answer,) in enumerate(AttentionMethod(no_network).answer((features,))):
        mean = features.tokens[b].sum(0) / N
        weights = softmax([dot(mean, features.tokens[b, i]) / math.sqrt(D) for i in range(N)])
        close(answer.attention.weights[0, 0], torch.tensor(weights, dtype=torch.float64))
        assert answer.query == answer.label == "mean"


def test_several_kinds_of_query_are_answered_at_once_as_one_by_one():
    features = some()
    together = AttentionMethod(no_network, partial(query.several, of=list(SEVERAL))).answer((features,))
    alone = [AttentionMethod(no_network, language.parse(text)).answer((features,)) for text in SEVERAL]
    for b in range(B):
        assert tuple(answer.query for answer in together[b]) == ANSWERS
        one_by_one = [answer for answers in alone for answer in answers[b]]
        for answer, other in zip(together[b], one_by_one, strict=True):
            assert_same(answer, other)


@pytest.mark.parametrize("scale", ["inv_sqrt_d", "cosine", "perplexity", "robust_z"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_query_has_the_same_map_among_others_as_alone(scale, dtype):
    """To the last digit: the shared computations are those of a row, and the product is its own."""
    tokens = some().tokens.to(dtype)
    features = replace(some(tokens), logits=some().logits.to(dtype))
    ask = partial(AttentionMethod, no_network, scaling=getattr(scaling, scale))
    together = ask(query=partial(language.several, of=SEVERAL)).answer((features,))
    one_by_one = [ask(query=language.parse(text)).answer((features,)) for text in SEVERAL]
    for photo in range(B):
        alone = [answer for answers in one_by_one for answer in answers[photo]]
        assert [answer.query for answer in together[photo]] == [answer.query for answer in alone]
        for one, other in zip(together[photo], alone, strict=True):
            assert torch.equal(one.weights, other.weights) and torch.equal(one.vector, other.vector)
            assert one.diagnostics == pytest.approx(other.diagnostics, rel=1e-12, abs=1e-15)
            assert (one.label, one.mark, one.class_score) == (other.label, other.mark, other.class_score)


def test_queries_of_the_same_keys_share_their_diagnostics_and_large_ones_take_turns(monkeypatch):
    sizes = []

    def counted(weights, *arguments, **settings):
        sizes.append(weights.shape[1])
        return diagnose(weights, *arguments, **settings)

    monkeypatch.setattr(attention, "diagnose", counted)
    method = replace(sharp, query=partial(language.several, of=SEVERAL))
    answers = method.answer((some(),))
    assert sizes == [4, 1, 4]  # rarity has keys of its own
    sizes.clear()
    monkeypatch.setattr(attention, "SCORES", 2 * B * N)
    again = method.answer((some(),))
    assert sizes == [4, 1, 2, 2]  # random:1,3 and one before; two at a time
    for one, other in zip(answers[1], again[1], strict=True):
        assert torch.equal(one.weights, other.weights) and one.query == other.query


def test_marks_and_labels_belong_to_their_query_and_photo():
    features = some()
    likely = torch.zeros(B, C, dtype=torch.float64)
    likely[0, 5] = likely[1, 9] = 1
    of = ["class", "point:12,31", "random:1,2", "box:3,2,20,10"]
    answers = AttentionMethod(no_network, partial(query.several, of=of)).answer(
        (replace(features, logits=likely),)
    )
    assert [answer.label for answer in answers[0]] == [
        "five",
        "point 12,31",
        "random 1 #1",
        "random 1 #2",
        "box 3,2,20,10",
    ]
    assert [photo[0].label for photo in answers] == ["five", "nine"]
    assert [answer.mark for answer in answers[1]] == [
        None,
        (31.0, 12.0),
        None,
        None,
        Box(2.0, 3.0, 10.0, 20.0),
    ]


def test_many_marks_of_one_query_stay_in_order():
    asked = Query(
        normal(B, Q, D), (("a", "b", "c"), ("d", "e", "f")), marks=((1.0, 2.0), None, Box(0.0, 1.0, 2.0, 3.0))
    )
    answers = AttentionMethod(no_network, lambda features: asked).answer((some(),))
    assert [[answer.label for answer in photo] for photo in answers] == [["a", "b", "c"], ["d", "e", "f"]]
    assert [answer.mark for answer in answers[0]] == [(1.0, 2.0), None, Box(0.0, 1.0, 2.0, 3.0)]


def test_a_photos_answers_do_not_depend_on_the_others_in_the_batch():
    features, method = (
        some(),
        AttentionMethod(no_network, partial(query.several, of=list(SEVERAL)), scaling.zscore),
    )
    together, swapped = method.answer((features,)), method.answer((only(features, 1, 0),))
    for b in range(B):
        (alone,) = method.answer((only(features, b),))
        for answer, single, moved in zip(together[b], alone, swapped[1 - b], strict=True):
            assert_same(answer, single)
            assert_same(answer, moved)


# Keys and values


def test_the_keys_are_the_values_in_the_same_storage():
    features = some()
    for b, photo in enumerate(AttentionMethod(no_network, vectors(normal(B, Q, D))).answer((features,))):
        for answer in photo:
            assert answer.attention.values.shape == (1, N, D)
            assert answer.attention.values.data_ptr() == features.tokens[b].data_ptr()


def test_rarity_attends_with_keys_of_its_own_to_the_tokens():
    features = some()
    for b, (answer,) in enumerate(
        AttentionMethod(no_network, partial(query.rarity, components=Q, shrinkage=0.0), scaling.none).answer(
            (features,)
        )
    ):
        tokens = features.tokens[b].numpy()
        coordinates = (tokens - tokens.mean(0)) @ np.linalg.svd(tokens - tokens.mean(0))[2][:Q].T
        distances = (coordinates**2 / coordinates.var(0)).sum(1)
        close(answer.attention.scores[0, 0], torch.tensor(distances), rtol=1e-7, atol=1e-9)
        assert (
            answer.vector.shape == (Q,)
            and answer.attention.values.data_ptr() == features.tokens[b].data_ptr()
        )
        mean = sum(weight * token for weight, token in zip(softmax(distances.tolist()), features.tokens[b]))
        close(answer.attention.context[0, 0], mean, rtol=1e-7, atol=1e-7)


def test_scaling_by_the_dimension_goes_by_the_keys_not_by_the_values():
    for (answer,) in AttentionMethod(no_network, partial(query.rarity, components=Q)).answer((some(),)):
        close(answer.attention.logits, answer.attention.scores / math.sqrt(Q))


# What an answer draws


def test_cells_are_the_weights_times_their_number_row_by_row():
    features = some()
    for photo in AttentionMethod(no_network, vectors(normal(B, Q, D))).answer((features,)):
        for answer in photo:
            weights = answer.attention.weights[0, 0].tolist()
            expected = [
                [N * weights[row * GRID[1] + column] for column in range(GRID[1])] for row in range(GRID[0])
            ]
            np.testing.assert_allclose(answer.cells, expected, rtol=1e-6)
            assert answer.cells.dtype == np.float32 and answer.cells.mean() == pytest.approx(1, abs=1e-6)


def test_the_map_is_the_cells_interpolated_over_the_photo():
    for photo, sizes in zip(
        AttentionMethod(no_network, vectors(normal(B, Q, D))).answer((some(),)),
        [(None, (25, 39)), (None, (9, 130))],
    ):
        for answer in photo:
            for size in sizes:
                # where tiles cover the photo this is what interpolate draws
                shape = size or answer.placement.size
                cells = N * answer.attention.weights.reshape(1, 1, *GRID)
                expected = torch.nn.functional.interpolate(
                    cells, shape, mode="bilinear", align_corners=False
                )[0, 0]
                np.testing.assert_allclose(answer.map(size), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_density_sums_to_one_on_any_grid_and_its_patches_share_it():
    for photo in AttentionMethod(no_network, vectors(normal(B, Q, D))).answer((some(),)):
        for answer in photo:
            for size in (None, (20, 26), (7, 5), (1, 1)):
                density = answer.density(size)
                assert density.shape == (size or answer.placement.size) and density.sum() == pytest.approx(
                    1, abs=1e-5
                )


def test_what_was_not_seen_is_nan_in_map_and_density():
    placement = replace(tiles((50, 65)), seen=Box(0.0, 10.0, 50.0, 40.0))
    features = replace(only(some(), 0), placements=(placement,))
    ((answer,),) = AttentionMethod(no_network).answer((features,))
    unseen = [column for column in range(65) if not 10 <= column + 0.5 < 50]
    for drawn in (answer.map(), answer.density()):
        assert (
            np.flatnonzero(np.isnan(drawn).any(0)).tolist()
            == np.flatnonzero(np.isnan(drawn).all(0)).tolist()
            == unseen
        )
    assert np.nansum(answer.density()) == pytest.approx(1, abs=1e-5)


def test_the_hottest_pixel_lies_in_the_tile_of_the_best_patch():
    tokens = torch.zeros(B, N, D, dtype=torch.float64)
    tokens[0, 2 * 13 + 3, 0] = tokens[1, 4 * 13 + 11, 0] = 9
    asked = torch.zeros(B, 1, D, dtype=torch.float64)
    asked[..., 0] = 1
    for (answer,), (row, column) in zip(
        AttentionMethod(no_network, vectors(asked)).answer((some(tokens),)), [(2, 3), (4, 11)]
    ):
        for drawn in (answer.map(), answer.density()):
            hottest = np.add(np.unravel_index(drawn.argmax(), drawn.shape), 0.5)
            assert np.floor(hottest / answer.placement.step).tolist() == [row, column]


# Diagnostics and warnings


def test_diagnostics_land_on_the_right_photo_and_query():
    """Photo b and query q find their one patch with a gap of their own, so every perplexity tells where it
    belongs."""
    tokens, asked = torch.zeros(B, N, D, dtype=torch.float64), torch.zeros(B, Q, D, dtype=torch.float64)
    for b in range(B):
        for q in range(Q):
            tokens[b, 10 * b + q, q] = 1
            asked[b, q, q] = 1 + b + 2 * q
    answers = replace(sharp, query=vectors(asked)).answer((some(tokens),))
    for b in range(B):
        for q in range(Q):
            gap = 1 + b + 2 * q
            best = math.exp(gap) / (math.exp(gap) + N - 1)
            rest = (1 - best) / (N - 1)
            entropy = -best * math.log(best) - (N - 1) * rest * math.log(rest)
            found = answers[b][q].diagnostics
            assert list(found) == list(DESCRIPTIONS) and all(
                type(number) is float for number in found.values()
            )
            assert found["max"] == pytest.approx(best) and found["entropy"] == pytest.approx(entropy)
            assert found["perplexity"] == pytest.approx(math.exp(entropy)) and found[
                "score_range"
            ] == pytest.approx(gap)


def weighing(gap: float) -> Answer:
    """One patch stands out from equals by `gap`."""
    tokens, asked = torch.zeros(B, N, D, dtype=torch.float64), torch.zeros(B, 1, D, dtype=torch.float64)
    tokens[:, 3, 0], asked[..., 0] = 1, gap
    return replace(sharp, query=vectors(asked)).answer((some(tokens),))[0][0]


def test_attention_that_prefers_almost_nothing_is_warned_of():
    for gap in (0.0, 0.3):
        warning, *more = weighing(gap).warnings
        assert "uniform" in warning
        assert [text.partition(":")[0] for text in more] == ["no question"] * (gap == 0)


def test_attention_on_one_patch_is_warned_of():
    gap = math.log(99 * (N - 1))  # a weight of exactly .99
    assert weighing(gap - 1e-6).warnings == ()
    (warning,) = weighing(gap + 1e-6).warnings
    assert "one-hot" in warning and "99 %" in warning


def test_attention_between_the_two_needs_no_warning():
    assert weighing(4.0).warnings == ()


@pytest.mark.parametrize("share, warned", [(0.951, True), (0.949, False)])
def test_nearly_uniform_begins_at_a_perplexity_of_95_percent(share, warned):
    low, high = 0.0, 20.0
    for _ in range(60):  # the entropy falls as the gap grows
        gap = (low + high) / 2
        best = math.exp(gap) / (math.exp(gap) + N - 1)
        entropy = -best * math.log(best) - (1 - best) * math.log((1 - best) / (N - 1))
        low, high = (gap, high) if entropy > math.log(share * N) else (low, gap)
    assert bool(weighing(low).warnings) == warned


def test_the_hottest_patches_come_with_their_place_on_the_photo():
    answer = weighing(4.0)
    (weight, box), (second, _) = answer.top(2)
    row, column = np.unravel_index(answer.cells.argmax(), answer.placement.grid)
    assert weight == pytest.approx(answer.diagnostics["max"]) and weight > second
    assert box.holds(*answer.placement.centre(int(row), int(column)))
    assert (box.height, box.width) == answer.placement.step
    assert len(answer.top(1000)) == answer.patches


# Precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_answers_to_half_precision_features_are_in_single_precision(dtype):
    features, asked = some().tokens.to(dtype), normal(B, Q, D).to(dtype)
    exact = AttentionMethod(no_network, vectors(asked.double())).answer((some(features.double()),))
    for photo, other in zip(AttentionMethod(no_network, vectors(asked)).answer((some(features),)), exact):
        for answer, expected in zip(photo, other):
            assert answer.attention.weights.dtype == torch.float32 and answer.cells.dtype == np.float32
            np.testing.assert_allclose(answer.cells, expected.cells, rtol=1e-4, atol=1e-5)
