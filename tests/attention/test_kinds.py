"""Queries against plain loops, NumPy, SciPy and the counting of points."""

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import no_network
from fake_features import (
    CATEGORIES,
    GRID,
    TEXTS,
    B,
    D,
    N,
    Q,
    box_at,
    close,
    complaint,
    few,
    normal,
    one_photo,
    placed,
    point_at,
    query_vector,
    quick,
    rectangle,
    tiled,
    two_photos,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from torch import Tensor

from attnvis import catalogue
from attnvis.attention import query, scaling
from attnvis.attention.query import kinds
from attnvis.attention.query.kinds import KINDS
from attnvis.attention.query.language import build_queries, parse
from attnvis.class_names import find_class
from attnvis.methods.answer import FREE_SIGN
from attnvis.methods.attention import AttentionMethod
from attnvis.types import Box, ClassScore, Features, PhotoError, Placement, Query, Scores, percent


def test_what_a_text_may_name_a_config_may_call_and_there_is_a_yaml_of_it():
    assert set(KINDS.values()) == {getattr(query, name) for name in query.__all__} - {
        query.several,
        query.formula,
    }
    assert sorted(KINDS) == sorted(set(catalogue.options("query")) - {"several", "formula"})
    for name, function in KINDS.items():
        target = f"attnvis.attention.query.{function.__name__}"
        assert catalogue.settings(f"query/{name}")["_target_"] == target


# mean, class


def test_mean_is_the_mean_patch():
    features = two_photos()
    (result,) = build_queries(query.mean, features)
    expected = [[math.fsum(features.tokens[b, :, d].tolist()) / N for d in range(D)] for b in range(B)]
    close(result.vectors, torch.tensor(expected, dtype=torch.float64).unsqueeze(1))
    assert result.labels == (("mean",),) * B


@pytest.mark.parametrize("index, category", list(enumerate(CATEGORIES)))
def test_class_scores_average_to_the_logit(index, category):
    features = two_photos()
    (result,) = build_queries(partial(query.class_, name=index), features)
    assert result.labels == ((category,),) * B
    scores = Scores(result.vectors, features.tokens).products
    for b in range(B):
        mean = [math.fsum(features.tokens[b, :, d].tolist()) / N for d in range(D)]
        logit = math.fsum(w * m for w, m in zip(features.head.weight[index].tolist(), mean)) + float(
            features.head.bias[index]
        )
        assert math.fsum(scores[b, 0].tolist()) / N + float(features.head.bias[index]) == pytest.approx(
            logit, abs=1e-12
        )
        assert logit == pytest.approx(float(features.logits[b, index]), abs=1e-12)


@pytest.mark.parametrize(
    "name, index",
    [
        ("tabby", 0),
        (" Tabby", 0),
        ("TIGER_CAT", 1),
        ("tiger cat", 1),
        ("egyptian cat", 3),
        ("egyptian-cat", 3),
        ("Egyptian  CAT", 3),
        ("teddy bear", 8),  # a synonym
        ("COFFEE_mug ", 4),
        ("st. bernard", 6),
        ("teddy, teddy bear", 8),
        ("5", 5),
        (5, 5),
        (0, 0),
        (len(CATEGORIES) - 1, len(CATEGORIES) - 1),
    ],
)
def test_a_class_goes_by_name_or_index(name, index):
    features = two_photos()
    for function in (partial(query.class_, name=name), parse(f"class:{name}")):
        (result,) = build_queries(function, features)
        close(result.vectors, features.head.weight[index].expand(B, 1, D))
        assert result.labels == ((CATEGORIES[index],),) * B


def test_a_name_is_looked_up_among_the_classes_that_are_given():
    """Which are remembered: the same text may be another class of another network, or none."""
    for _ in range(2):
        assert find_class("tabby", ["owl", "tabby, tabby cat"], 2) == 1
        assert find_class("tabby", ("tabby", "owl"), 2) == 0
        assert find_class("1", ("tabby", "owl"), 2) == find_class(1, (), 2) == 1
        with pytest.raises(ValueError, match="unknown class 'tabby' among the 1 of this backbone"):
            find_class("tabby", ("owl",), 1)


def test_predicted_is_each_photos_own_best_class():
    features = two_photos()
    likely = torch.zeros(B, len(CATEGORIES), dtype=torch.float64)
    likely[0, 4] = likely[1, 5] = 1
    (result,) = build_queries(query.class_, replace(features, logits=likely))
    assert result.labels == (("coffee mug",), ("crane",)) and result.text == "class"
    close(result.vectors, features.head.weight[[4, 5]].unsqueeze(1))


def test_a_classifier_without_names_has_numbered_classes():
    features = two_photos()
    features = replace(features, head=replace(features.head, categories=()))
    assert query.class_(features, 3).labels == (("class 3",),) * B
    assert query.class_(features, "class 3").labels == (("class 3",),) * B, "what a page prints can be typed"
    assert "'tabby'" in (message := complaint(ValueError, query.class_, features, "tabby"))
    assert "have no names" in message and "0 ... 10" in message


@pytest.mark.parametrize(
    "name, hints",
    [
        ("taby", ["'taby'", "tabby"]),
        ("cat", ["'cat'", "tiger cat", "Egyptian cat"]),
        ("tabby cat", ["tabby, tiger cat"]),
        ("egyptian-cats", ["Egyptian cat"]),
        ("crane", ["2 classes of this backbone are called 'crane'", "2 or 5"]),
        ("xyzzy", ["'xyzzy'", "nothing"]),
        ("meen", ["'meen'", "Or the query mean?"]),
        ("-1", ["-1", "0 ... 10"]),
        (11, ["11", "0 ... 10"]),
        ("4711", ["4711", "0 ... 10"]),
    ],
)
def test_an_unknown_class_is_told_with_what_is_spelled_nearly_so(name, hints):
    message = complaint(ValueError, query.class_, two_photos(), name)
    assert all(hint in message for hint in hints), message


def test_a_class_query_needs_a_classifier():
    headless = replace(two_photos(), head=None)
    assert "give it a head" in complaint(ValueError, query.class_, headless)
    assert "Or the query point?" in complaint(ValueError, query.class_, headless, "pointt")


def test_an_earlier_layer_gives_its_logits_only_when_they_are_needed():
    features = two_photos()
    assert torch.equal(query.class_(replace(features, logits=None)).vectors, query.class_(features).vectors)


def test_a_class_comes_with_its_probability_logit_and_rank():
    features = two_photos()
    for name in (*range(len(CATEGORIES)), "predicted"):
        result = query.class_(features, name)
        for b in range(B):
            logits = features.logits[b].tolist()
            chosen = logits.index(max(logits)) if name == "predicted" else name
            total = math.fsum(math.exp(logit) for logit in logits)
            (score,) = result.classes[b]
            assert (score.index, score.name) == (chosen, CATEGORIES[chosen])
            assert score.probability == pytest.approx(math.exp(logits[chosen]) / total, rel=1e-12)
            assert score.logit == pytest.approx(logits[chosen], abs=1e-12)
            assert score.rank == sorted(logits, reverse=True).index(logits[chosen]) + 1


def test_a_class_score_stays_finite_where_exp_would_not():
    logits = torch.tensor([[1000.0, 999.0, -1000.0] + [0.0] * 8, [0.0] * 11], dtype=torch.float64)
    features = replace(two_photos(), logits=logits)
    likely, unlikely = (query.class_(features, name).classes[0][0] for name in (0, 2))
    assert likely.probability == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-12) and likely.rank == 1
    assert (unlikely.probability, unlikely.rank) == (0, 11)
    tied = query.class_(features, 7).classes[1][0]
    assert tied.probability == pytest.approx(1 / 11) and tied.rank == 1  # no class is likelier


def test_a_class_score_reads_as_one_line():
    assert str(ClassScore(7, "cock", 0.0163, -2.345, 12)) == "cock: 1.6% (rank 12, logit -2.3)"


@pytest.mark.parametrize(
    "share, text",
    [
        (0.0163, "1.6%"),
        (0.000021, "0.0021%"),
        (1.0, "100%"),
        (0.0, "0%"),
        (0.5, "50%"),
        (0.996, "100%"),
        (0.994, "99%"),
        (0.1, "10%"),
        (1.2e-6, "0.00012%"),
        (3e-9, "3e-07%"),
    ],
)
def test_a_percentage_has_two_digits_and_is_0_only_for_a_share_of_0(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    "text", ["mean", "class:tabby", "random", "rarity", "point:40,31.5", "distance", "norm"]
)
def test_only_a_class_has_a_class_score_and_only_a_free_sign_a_margin(text):
    (answer, _) = (answers[0] for answers in AttentionMethod(no_network, parse(text)).answer((two_photos(),)))
    assert (answer.class_score is not None) == text.startswith("class") and answer.sign_margin is None


# distance, norm


def of_one_number(text: str, features: Features) -> np.ndarray:
    (result,) = build_queries(parse(text), features)
    assert result.labels == ((text,),) * B and result.text == text
    assert result.vectors.shape == (B, 1, 1) and result.keys.shape == (B, N, 1)
    return Scores(result.vectors, result.keys).products[:, 0].numpy()


def test_distance_is_how_far_a_patch_lies_from_the_mean_patch():
    features = two_photos(normal(B, N, D) + 3)
    for scores, tokens in zip(of_one_number("distance", features), features.tokens.tolist()):
        mean = [math.fsum(token[d] for token in tokens) / N for d in range(D)]
        np.testing.assert_allclose(scores, [math.dist(token, mean) for token in tokens], rtol=1e-12)


def test_norm_is_the_length_of_a_patch():
    features = two_photos(normal(B, N, D) + 3)
    for scores, tokens in zip(of_one_number("norm", features), features.tokens.tolist()):
        np.testing.assert_allclose(
            scores, [math.sqrt(math.fsum(value**2 for value in token)) for token in tokens], rtol=1e-12
        )


@pytest.mark.parametrize("text", ["distance", "norm"])
@pytest.mark.parametrize("scale", [scaling.inv_sqrt_d, scaling.inv_d])
def test_a_question_of_one_number_is_left_as_it_is_by_the_root_of_d(text, scale):
    plain, scaled = (
        AttentionMethod(no_network, parse(text), how).answer((two_photos(),)) for how in (scaling.none, scale)
    )
    for first, second in zip(plain, scaled):
        assert torch.equal(first[0].attention.logits, second[0].attention.logits)


@given(seed=st.integers(0, 999), shift=st.floats(-5, 5), stretch=st.floats(0.1, 10))
@few
def test_distance_does_not_see_what_all_patches_share_and_norm_does(seed, shift, stretch):
    tokens, common = normal(B, N, D, seed=seed), 1 + shift**2 * normal(D, seed=seed + 1).abs()
    distances, norms = (
        of_one_number("distance", two_photos(tokens)),
        of_one_number("norm", two_photos(tokens)),
    )
    np.testing.assert_allclose(
        of_one_number("distance", two_photos(stretch * tokens + common)), stretch * distances, rtol=1e-9
    )
    assert not np.allclose(of_one_number("norm", two_photos(tokens + common)), norms)
    np.testing.assert_allclose(
        of_one_number("norm", two_photos(-stretch * tokens)), stretch * norms, rtol=1e-12
    )


@given(seed=st.integers(0, 999), text=st.sampled_from(["mean", "distance", "norm", "rarity", "class:tabby"]))
@quick
def test_mirrored_features_give_the_mirrored_map_and_never_its_negative(seed, text):
    tokens = normal(B, N, D, seed=seed)
    mirrored = tokens.unflatten(1, GRID).flip(2).flatten(1, 2)
    for straight, turned in zip(
        AttentionMethod(no_network, parse(text)).answer((two_photos(tokens),)),
        AttentionMethod(no_network, parse(text)).answer((two_photos(mirrored),)),
    ):
        logits, opposite = (answer[0].attention.logits.reshape(GRID) for answer in (straight, turned))
        close(opposite.flip(1), logits)


# point


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
sides = st.tuples(st.integers(1, 1500), st.integers(1, 1500))


@st.composite
def placements(draw) -> Placement:
    """Grids of all shapes on photos of all shapes.

    The outer cells may lie anywhere from the photo's edge to a step inside it.
    """
    grid, size = draw(shapes), draw(sides)
    begins = draw(st.tuples(*[st.floats(0, 0.3)] * 2))
    ends = draw(st.tuples(*[st.floats(0.6, 0.99)] * 2))
    first = [begin * side for begin, side in zip(begins, size)]
    step = [
        (end - begin) * side / max(1, cells - 1) for side, cells, begin, end in zip(size, grid, begins, ends)
    ]
    return placed(first, step, grid, size)


@given(placement=placements(), data=st.data())
@quick
def test_a_point_at_a_cells_centre_is_that_cells_patch(placement, data):
    features = one_photo(placement)
    row, column = (data.draw(st.integers(0, cells - 1)) for cells in placement.grid)
    y, x = placement.first[0] + row * placement.step[0], placement.first[1] + column * placement.step[1]
    close(query_vector(point_at(x, y), features), features.tokens[0, row * placement.grid[1] + column])


@given(placement=placements(), data=st.data())
@quick
def test_a_point_half_way_between_cells_is_their_average(placement, data):
    features, (h, w) = one_photo(placement), placement.grid
    row, column = (data.draw(st.integers(0, cells - 1)) for cells in (h, w))
    down, right = data.draw(st.booleans()) and row < h - 1, data.draw(st.booleans()) and column < w - 1
    y, x = (
        first + step * (at + half / 2)
        for first, step, at, half in zip(placement.first, placement.step, (row, column), (down, right))
    )
    around = [
        features.tokens[0, (row + i) * w + column + j] for i in range(1 + down) for j in range(1 + right)
    ]
    close(query_vector(point_at(x, y), features), sum(around) / len(around))


def test_a_point_is_bilinear_between_the_four_cells_around_it():
    features = one_photo(placed((10, 20), (40, 8), (3, 4), (120, 60)))
    cells = features.tokens.reshape(3, 4, D)
    expected = 0.25 * (0.625 * cells[1, 2] + 0.375 * cells[1, 3]) + 0.75 * (
        0.625 * cells[2, 2] + 0.375 * cells[2, 3]
    )
    close(query_vector(point_at(39, 80), features), expected)  # 80 = 10 + 1.75 * 40, 39 = 20 + 2.375 * 8


@pytest.mark.parametrize(
    "x, y, row, column",
    [(0, 0, 0, 0), (59.9, 0, 0, 3), (0, 119.9, 2, 0), (59.9, 119.9, 2, 3), (59.9, 50, 1, 3)],
)
def test_beyond_the_outer_centres_a_point_is_the_outer_cell(x, y, row, column):
    features = one_photo(placed((10, 20), (40, 8), (3, 4), (120, 60)))
    close(query_vector(point_at(x, y), features), features.tokens[0, row * 4 + column])


def test_a_point_is_found_on_each_photo_by_its_own_size_and_marked():
    features = two_photos()
    (result,) = build_queries(parse("point:45,30"), features)
    close(result.vectors[0, 0], features.tokens[0, 2 * 11 + 5])  # the middle of 60 x 90
    assert result.marks == ((30.0, 45.0),) and result.labels == (("point 45,30",),) * B


@pytest.mark.parametrize(
    "x, y", [(77, 3), (90, 3), (-0.5, 3), (3, 60), (3, -1), (math.nan, 3), (3, math.nan), (math.inf, 3)]
)
def test_a_point_outside_any_photo_is_told_with_that_photos_size(x, y):
    message = complaint(PhotoError, point_at(x, y), two_photos())
    assert f"point {x:g},{y:g}" in message and (
        "90x60 photo one.jpg" in message or "77x100 photo two.jpg" in message
    ), message


@pytest.mark.parametrize(
    "x, y, fine", [(20, 30, True), (19.9, 30, False), (69.9, 30, True), (70, 30, False), (5, 5, False)]
)
def test_a_point_that_was_cropped_away_is_refused(x, y, fine):
    cropped = one_photo(placed((6, 25), (12, 4), GRID, (60, 90), 0, 20, 60, 50))
    if fine:
        query_vector(point_at(x, y), cropped)
    else:
        message = complaint(PhotoError, point_at(x, y), cropped)
        assert f"point {x:g},{y:g} of one.jpg" in message and "cropped" in message and "fit=resize" in message


# box


def counted(features: Features, area: Box, fine: int = 8) -> Tensor:
    """The mean patch by counting.

    Every point of a fine lattice in the box and in what was seen belongs to the nearest cell.
    """
    (placement,) = features.placements

    def owners(axis: int, *regions: tuple[float, float]) -> list[int]:
        """The nearest cell of each position of the lattice that lies in all regions (start, length)."""
        positions = [(k + 0.5) / fine for k in range(placement.size[axis] * fine)]
        centres = [
            placement.first[axis] + placement.step[axis] * cell for cell in range(placement.grid[axis])
        ]
        inside = [at for at in positions if all(start <= at < start + length for start, length in regions)]
        return [min(range(len(centres)), key=lambda cell: abs(centres[cell] - at)) for at in inside]

    rows = owners(0, (area.top, area.height), (placement.seen.top, placement.seen.height))
    columns = owners(1, (area.left, area.width), (placement.seen.left, placement.seen.width))
    points = Counter(row * placement.grid[1] + column for row in rows for column in columns)
    return sum(count * features.tokens[0, patch] for patch, count in points.items()) / points.total()


ODD = {  # tile edges on eighths of a pixel, so that counting is exact
    "even tiles": placed((3, 2.5), (6, 5), (3, 4), (18, 20), 0, 0, 18, 20),
    "corners": placed((0.5, 0.5), (5, 6.25), (4, 4), (17, 22), 0, 0, 17, 22),
    "lower right": placed((7.25, 6), (4.5, 4), (3, 4), (18, 21), 0, 0, 18, 21),
    "cropped": placed((4.5, 2), (5, 3), (3, 5), (17, 16), 2, 1, 14, 14.5),
    "one cell": placed((1, 2), (9, 9), (1, 1), (9, 7), 0, 0, 9, 7),
}


@pytest.mark.parametrize("name", ODD)
def test_a_box_around_everything_weighs_each_patch_by_its_area(name):
    features, (height, width) = one_photo(ODD[name]), ODD[name].size
    everything = counted(features, rectangle(0, 0, height, width))
    close(query_vector(box_at(0, 0, width, height), features), everything)
    close(query_vector(box_at(-50, -9, 999, math.inf), features), everything)


def test_where_all_tiles_are_equal_a_box_around_everything_is_the_mean():
    features = one_photo(tiled((60, 90)))
    close(query_vector(parse("box:0,0,90,60"), features), features.mean[0])


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(
    "area",
    [
        rectangle(3, 4, 5, 2),
        rectangle(2.5, 1.25, 7.75, 3.125),
        rectangle(-3, -2, 6, 8),
        rectangle(6, 3, 90, 90),
        rectangle(4, 4, 0.25, 0.25),
    ],
)
def test_a_box_weighs_each_patch_by_the_area_that_they_share(name, area):
    features = one_photo(ODD[name])
    (result,) = build_queries(box_at(area.left, area.top, area.width, area.height), features)
    close(result.vectors[0, 0], counted(features, area))
    assert result.marks == (area,)


@pytest.mark.parametrize("row, column", [(0, 0), (1, 2), (2, 3)])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_a_box_within_one_tile_is_that_patch(row, column, share):
    features = one_photo(ODD["even tiles"])
    inside = box_at(5 * column, 6 * row, 5 * share, 6 * share)
    close(query_vector(inside, features), features.tokens[0, row * 4 + column])


@pytest.mark.parametrize("width, height", [(0, 5), (5, 0), (-3, 5), (math.nan, 5), (5, math.nan)])
def test_an_empty_box_is_refused(width, height):
    assert f"{width:g}x{height:g}" in complaint(ValueError, box_at(1, 1, width, height), two_photos())


@pytest.mark.parametrize(
    "x, y", [(90, 0), (0, 60), (-5, 0), (0, -5), (500, 500), (math.nan, 0), (0, math.nan)]
)
def test_a_box_beside_the_photo_is_refused(x, y):
    message = complaint(PhotoError, box_at(x, y, 5, 5), one_photo(tiled((60, 90))))
    assert f"box {x:g},{y:g},5,5" in message and "90x60 photo one.jpg" in message


def test_a_box_in_the_part_that_was_cropped_away_is_refused():
    cropped = one_photo(placed((6, 25), (12, 4), GRID, (60, 90), 0, 20, 60, 50))
    assert "seen" in complaint(PhotoError, box_at(0, 0, 20, 60), cropped)
    close(query_vector(box_at(0, 0, 20.5, 60), cropped), cropped.tokens.reshape(5, 11, D)[:, 0].mean(0))


# random


def test_a_random_query_depends_on_its_seed_and_on_nothing_else():
    state = torch.random.get_rng_state()
    first, again, other = (build_queries(parse(f"random:{seed},{Q}"), two_photos())[0] for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.vectors.shape == (B, Q, D) and torch.equal(first.vectors[0], first.vectors[1])
    assert torch.equal(first.vectors, again.vectors) and not torch.isclose(first.vectors, other.vectors).any()
    assert first.labels == (("random 4 #1", "random 4 #2", "random 4 #3"),) * B and first.marks == (None,) * Q
    single = query.random(replace(two_photos(), tokens=two_photos().tokens.float()), seed=4)
    assert single.vectors.dtype == torch.float32 and single.labels == (("random 4",),) * B


def test_no_random_vectors_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        query.random(two_photos(), count=0)


def test_random_queries_are_standard_normal():
    numbers = np.sort(query.random(two_photos(), seed=1, count=3000).vectors[0].numpy().ravel())
    assert abs(numbers.mean()) < 0.03 and abs(numbers.std() - 1) < 0.03
    assert np.quantile(numbers, 0.975) == pytest.approx(1.96, abs=0.06)


# rarity


def rarities(features: Features, **settings) -> np.ndarray:
    (result,) = build_queries(partial(query.rarity, **settings), features)
    assert result.labels == (("rarity",),) * len(features.tokens)
    return Scores(result.vectors, result.keys).products[:, 0].numpy()


def test_rarity_without_shrinkage_is_the_squared_mahalanobis_distance():
    features = two_photos(normal(B, N, D) @ normal(D, D, seed=1) + 3)
    rare = rarities(features, components=D, shrinkage=0.0)
    for photo, tokens in zip(rare, features.tokens.numpy()):
        precision = np.linalg.inv(np.cov(tokens.T, ddof=0))
        np.testing.assert_allclose(
            photo, [mahalanobis(token, tokens.mean(0), precision) ** 2 for token in tokens], rtol=1e-8
        )
    np.testing.assert_allclose(rare.mean(1), D)


@pytest.mark.parametrize("components, shrinkage", [(1, 0.0), (3, 0.01), (D, 0.3)])
def test_rarity_is_a_shrunk_mahalanobis_distance_in_the_leading_components(components, shrinkage):
    features = two_photos(normal(B, N, D) @ normal(D, D, seed=1) + 3)
    rare = rarities(features, components=components, shrinkage=shrinkage)
    for photo, tokens in zip(rare, features.tokens.numpy()):
        centred = tokens - tokens.mean(0)
        coordinates = centred @ np.linalg.svd(centred)[2][:components].T
        covariance = np.cov(coordinates.T, ddof=0).reshape(components, components)
        covariance += shrinkage * np.trace(covariance) / components * np.eye(components)
        np.testing.assert_allclose(
            photo, np.einsum("ni,ij,nj->n", coordinates, np.linalg.inv(covariance), coordinates), rtol=1e-8
        )


@given(at=st.integers(0, N - 1), seed=st.integers(0, 99))
@few
def test_a_planted_odd_patch_is_the_rarest(at, seed):
    tokens = normal(1, N, D, seed=seed)
    tokens[0, at] = (
        4 * tokens[0].norm(dim=-1).max() * torch.nn.functional.normalize(normal(D, seed=seed + 1), dim=0)
    )
    assert rarities(two_photos(tokens, tiled((60, 90)))).argmax() == at


@given(seed=st.integers(0, 99), stretch=st.floats(0.1, 10))
@few
def test_rarity_does_not_depend_on_the_units_nor_the_origin_nor_the_axes(seed, stretch):
    tokens, rotation = normal(B, N, D, seed=seed), torch.linalg.qr(normal(D, D, seed=seed + 1))[0]
    moved = stretch * tokens @ rotation + 5
    np.testing.assert_allclose(
        rarities(two_photos(moved), components=3), rarities(two_photos(tokens), components=3), rtol=1e-6
    )


def test_rarity_takes_no_more_components_than_there_are():
    # 16 components asked for, of 7 channels
    np.testing.assert_allclose(rarities(two_photos()), rarities(two_photos(), components=D))
    few = one_photo(tiled((60, 90), (1, 3)))
    assert np.isfinite(rarities(few)).all()
    assert "0" in complaint(ValueError, partial(query.rarity, components=0), two_photos())


def test_a_flat_photo_has_no_rare_patch():
    for level in (0.0, 0.1, 1e4):
        rare = rarities(two_photos(torch.full((B, N, D), level)))
        assert (rare == rare[:, :1]).all()


# pca


@pytest.mark.parametrize("component", [1, 2, D])
@pytest.mark.parametrize("centred", [True, False])
def test_pca_is_a_right_singular_vector(component, centred):
    features = two_photos(normal(B, N, D) @ normal(D, D, seed=1) + 2)
    (result,) = build_queries(partial(query.pca, component=component, centred=centred), features)
    assert result.labels == ((f"pca {component}",),) * B
    for photo, tokens in zip(result.vectors[:, 0].numpy(), features.tokens.numpy()):
        expected = np.linalg.svd(tokens - tokens.mean(0) * centred)[2][component - 1]
        assert abs(photo @ expected) == pytest.approx(1, abs=1e-10) and np.linalg.norm(
            photo
        ) == pytest.approx(1, abs=1e-10)


@given(seed=st.integers(0, 999), component=st.integers(1, 4), centred=st.booleans())
@few
def test_pca_points_to_the_patches_of_larger_norm(seed, component, centred):
    features = two_photos(normal(B, N, D, seed=seed) + normal(D, seed=seed + 1))
    vectors = query.pca(features, component, centred).vectors
    scores, norms = (
        (features.tokens @ vectors.mT)[..., 0].numpy(),
        np.linalg.norm(features.tokens.numpy(), axis=-1),
    )
    assert all(np.corrcoef(s, n)[0, 1] >= 0 for s, n in zip(scores, norms))
    close(query.pca(two_photos(-features.tokens), component, centred).vectors, -vectors, atol=1e-7, rtol=0)
    close(
        query.pca(two_photos(features.tokens.flip(1)), component, centred).vectors, vectors, atol=1e-7, rtol=0
    )


@given(seed=st.integers(0, 999), component=st.integers(1, 4), centred=st.booleans())
@few
def test_the_margin_of_a_free_sign_is_the_correlation_of_scores_and_norms(seed, component, centred):
    features = two_photos(normal(B, N, D, seed=seed) + normal(D, seed=seed + 1))
    result = query.pca(features, component, centred)
    assert result.sign_margin.shape == (B, 1)
    for photo, tokens in enumerate(features.tokens.numpy()):
        scores, norms = tokens @ result.vectors[photo, 0].numpy(), np.linalg.norm(tokens, axis=-1)
        assert float(result.sign_margin[photo, 0]) == pytest.approx(
            np.corrcoef(scores, norms)[0, 1], abs=1e-9
        )


def with_margin(margin: float) -> Features:
    """Four patches on a cross: PC1 is the long arm, one of whose ends sets the correlation by its norm."""
    low, high = 0.0, 50.0
    for _ in range(60):
        ahead = (low + high) / 2
        norms, scores = np.array([10 + ahead, 10, 3, 3]), np.array([10 + ahead, -10, 0, 0])
        low, high = (ahead, high) if abs(np.corrcoef(scores, norms)[0, 1]) < margin else (low, ahead)
    tokens = torch.tensor([[10 + ahead, 0], [-10, 0], [0, 3], [0, -3]], dtype=torch.float64)
    return Features(tokens.unsqueeze(0), (2, 2), (tiled((20, 20), (2, 2)),))


@pytest.mark.parametrize(
    "margin, warned", [(0.02, True), (FREE_SIGN - 0.01, True), (FREE_SIGN + 0.01, False), (0.9, False)]
)
def test_a_sign_that_is_hardly_chosen_is_warned_of_with_its_margin(margin, warned):
    ((answer,),) = AttentionMethod(no_network, query.pca, scaling.zscore).answer((with_margin(margin),))
    assert answer.sign_margin == pytest.approx(margin, abs=1e-6)
    texts = [text for text in answer.warnings if "free sign" in text]
    assert len(texts) == warned and all(f"{margin:.2f}" in text for text in texts)


def test_the_sign_of_patches_without_contrast_is_free():
    assert query.pca(two_photos(torch.full((B, N, D), 0.3))).sign_margin.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("shape", [(12544, 24), (24, 12544), (19712, 8)])
@pytest.mark.parametrize("function", [query.pca, query.rarity])
def test_no_query_is_cubic_in_the_larger_of_patches_and_channels(function, shape, monkeypatch):
    solved = []

    def recorded(matrix: Tensor, solve=torch.linalg.eigh):
        solved.append(matrix.shape[-1])
        return solve(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", recorded)
    patches, channels = shape
    function(Features(normal(2, patches, channels).relu(), (patches, 1), ()))
    assert solved == [min(shape)] * 2, "one problem a photo, of the smaller side"


@pytest.mark.parametrize("decay", [0.5, 0.03])  # slow decay needs more of the space
@pytest.mark.parametrize("count", [1, 16])
def test_large_eigenproblems_are_solved_in_a_small_space_to_rounding(count, decay, monkeypatch):
    size = 600
    monkeypatch.setattr(kinds, "MOST_SOLVED", 128)
    axes = np.linalg.qr(normal(size, size).numpy())[0]
    values = np.exp(-decay * np.arange(size)) + 1e-3
    vectors, squares = kinds.leading_eigenvectors(torch.from_numpy(axes * values @ axes.T), count)
    assert squares.numpy() == pytest.approx(values[:count], rel=1e-11)
    assert np.abs((vectors.numpy() * axes[:, :count]).sum(0)) == pytest.approx(np.ones(count), abs=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_the_longest_query_ends_soon_after_a_signal(signal):
    """Eight photos of 4,096 patches and 2,048 channels: some ten seconds of one core, counted as it works."""
    program = f"""if True:
        import os, signal, threading, time, torch
        from attnvis.attention.query import kinds
        from attnvis.types import Features
        torch.set_num_threads(1)
        signal.signal(signal.{signal}, signal.default_int_handler)  # a shell may have had it ignored
        features = Features(torch.randn(8, 4096, 2048), (64, 64), ())
        begun, sent = time.process_time(), []
        def send():
            while time.process_time() < begun + 3:
                time.sleep(0.01)
            sent.append(time.process_time())
            os.kill(os.getpid(), signal.{signal})
        threading.Thread(target=send, daemon=True).start()
        try:
            kinds.pca(features)
            print("it came to its end")
        except KeyboardInterrupt:
            print(time.process_time() - sent[0])
    """
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert float(ended.stdout) < 5  # seconds of the processor


def test_rectified_features_have_a_non_negative_first_uncentred_direction():
    assert (query.pca(two_photos(normal(B, N, D).relu()), 1, centred=False).vectors >= 0).all()  # Perron


def test_pca_works_where_there_are_more_channels_than_patches():
    tokens = normal(1, 6, 41)
    for component in range(1, 6):
        direction = query.pca(Features(tokens, (2, 3), ()), component).vectors[0, 0].numpy()
        assert abs(
            direction @ np.linalg.svd(tokens[0].numpy() - tokens[0].numpy().mean(0))[2][component - 1]
        ) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(
    "channels, centred, last", [(D, True, D), (D, False, D), (101, True, N - 1), (101, False, N)]
)
@pytest.mark.parametrize("component", [0, -1, None])
def test_a_component_that_does_not_exist_is_refused(channels, centred, last, component):
    features, component = (
        Features(normal(1, N, channels), GRID, ()),
        last + 1 if component is None else component,
    )
    message = complaint(ValueError, query.pca, features, component, centred)
    assert f"pca component {component}" in message and f"1 ... {last}" in message
    query.pca(features, last, centred)


# All of them


@pytest.mark.parametrize("text", TEXTS)
def test_a_photos_queries_do_not_depend_on_the_others_in_the_batch(text):
    features = two_photos()

    def part(photos: list[int]) -> Query:
        (result,) = build_queries(
            parse(text),
            replace(
                features,
                tokens=features.tokens[photos],
                logits=features.logits[photos],
                placements=tuple(features.placements[photo] for photo in photos),
                names=tuple(features.names[photo] for photo in photos),
            ),
        )
        return result

    together, swapped = part([0, 1]), part([1, 0])
    for photo in range(B):
        alone = part([photo])
        for other, number in ((alone, 0), (swapped, 1 - photo)):
            close(other.vectors[number], together.vectors[photo])
            assert other.labels[number] == together.labels[photo] and other.marks == together.marks
            assert (other.keys is None) == (together.keys is None)
            if other.keys is not None:
                close(other.keys[number], together.keys[photo])


@given(seed=st.integers(0, 99), factor=st.floats(-3, 3))
@quick
def test_scores_are_linear_in_the_query(seed, factor):
    features = two_photos(normal(B, N, D, seed=seed))

    def scores(result: Tensor) -> Tensor:
        return Scores(result, features.tokens).products

    one, other = (build_queries(parse(text), features)[0].vectors for text in ("point:40,31.5", "class:2"))
    close(scores(factor * one + other), factor * scores(one) + scores(other))


@pytest.mark.parametrize("text", TEXTS)
def test_queries_keep_the_precision_of_the_features(text):
    features = two_photos()
    single = replace(features, tokens=features.tokens.float(), logits=features.logits.float())
    for either, dtype in ((features, torch.float64), (single, torch.float32)):
        (result,) = build_queries(parse(text), either)
        assert result.vectors.dtype == dtype and (result.keys is None or result.keys.dtype == dtype)


def test_simpool_asks_for_what_the_mean_patchs_attention_pools():
    """By plain loops: softmax of g.v / sqrt(d), then squares of what lies above the smallest number."""
    features = two_photos()
    (query,) = build_queries(parse("simpool:2"), features)
    for photo in range(B):
        patches = features.tokens[photo].tolist()
        mean = [sum(column) / N for column in zip(*patches, strict=True)]
        products = [sum(a * b for a, b in zip(mean, patch, strict=True)) / math.sqrt(D) for patch in patches]
        total = sum(math.exp(product) for product in products)
        low = min(min(patch) for patch in patches)
        for channel in range(D):
            squares = [(patch[channel] - low + 1e-6) ** 2 for patch in patches]
            pooled = sum(math.exp(p) / total * square for p, square in zip(products, squares, strict=True))
            assert float(query.vectors[photo, 0, channel]) == pytest.approx(math.sqrt(pooled))
