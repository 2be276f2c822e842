"""Queries against plain loops, NumPy's linear algebra, SciPy's Mahalanobis distance and the counting of points."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import no_network
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from torch import Tensor

from attnvis.attention import normalise, query, scaling
from attnvis.attention.query.language import ask, parse
from attnvis.attention.spec import UnknownName, read, spell
from attnvis.backbone.heads import Linear
from attnvis.methods.answer import FREE_SIGN
from attnvis.methods.attention import AttentionMethod
from attnvis.types import Box, ClassScore, Features, PhotoError, Placement, Query, Scores, percent

B, Q, D = 2, 3, 7  # different primes: a transposed axis cannot pass unnoticed
GRID = (5, 11)
N = GRID[0] * GRID[1]
CATEGORIES = (
    "tabby",
    "tiger cat",
    "crane",
    "Egyptian cat",
    "coffee mug",
    "crane",
    "St. Bernard",
    "goldfish",
    "teddy, teddy_bear",
    "bee",
    "ant",
)
quick = settings(deadline=None, derandomize=True, max_examples=30)
few = settings(quick, max_examples=8)
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)

TEXTS = [
    "mean",
    "class",
    "class:tiger cat",
    "class:3",
    "point:40,31.5",
    "box:12,3,50.5,20",
    "random:3",
    "rarity:4",
    "pca:2",
    "pca:2,false",
]
TEXTS += ["distance", "norm"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rectangle(*numbers: float) -> Box:
    return Box(*map(float, numbers))


def placed(first, step, grid: tuple[int, int], size: tuple[int, int], *seen: float) -> Placement:
    """Seen: top, left, height, width; without, the whole photo."""
    return Placement(
        tuple(map(float, first)), tuple(map(float, step)), grid, size, rectangle(*(seen or (0, 0, *size)))
    )


def whole(size: tuple[int, int], grid: tuple[int, int] = GRID) -> Placement:
    """Tiles of equal size that cover the photo."""
    step = (size[0] / grid[0], size[1] / grid[1])
    return placed((step[0] / 2, step[1] / 2), step, grid, size)


def some(tokens: Tensor | None = None, *placements: Placement) -> Features:
    """Two photos of different shapes, with a classifier on the mean patch."""
    tokens = normal(B, N, D) if tokens is None else tokens
    placements = placements or (whole((60, 90)), whole((100, 77)))
    head = Linear(normal(len(CATEGORIES), D, seed=1), normal(len(CATEGORIES), seed=2), CATEGORIES)
    names = ("one.jpg", "two.jpg")[: len(tokens)]
    return Features(tokens, placements[0].grid, placements, head, head(tokens.mean(1)), names)


def one(placement: Placement) -> Features:
    return some(normal(1, math.prod(placement.grid), D), placement)


def at(x: float, y: float) -> partial:
    return partial(query.point, x=float(x), y=float(y))


def box(x: float, y: float, width: float, height: float) -> partial:
    return partial(query.box, x=float(x), y=float(y), width=float(width), height=float(height))


def vector(function, features: Features) -> Tensor:
    """The one query on the one photo."""
    (asked,) = ask(function, features)
    assert asked.vectors.shape[:2] == (1, 1)
    return asked.vectors[0, 0]


def complaint(kind: type[ValueError], function, *arguments) -> str:
    with pytest.raises(kind) as caught:
        function(*arguments)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message and "object at 0x" not in message
    return message


# Reading and spelling


@pytest.mark.parametrize(
    "text",
    [
        *("mean", "class", "class:tabby", "class:teddy, teddy bear", "class:281", "random:3", "random:3,2"),
        *("point:120,80", "point:0.5,1234.25", "point:123456.5,1000000", "box:10,20,100,50"),
        *("rarity", "rarity:8,0.05", "pca", "pca:2", "pca:1,False", "distance", "norm"),
    ],
)
def test_a_query_is_spelled_as_it_was_read(text):
    assert spell(parse(text)) == text


@given(x=st.floats(0, 99_999).map(lambda n: round(n, 3)), y=st.floats(0, 99_999).map(lambda n: round(n, 3)))
@quick
def test_a_point_survives_spelling_to_a_thousandth_of_a_pixel(x, y):
    assert parse(spell(at(x, y))).keywords == {"x": x, "y": y}


@pytest.mark.parametrize(
    "function, text",
    [
        (partial(query.point, y=8.5, x=12.0), "point:12,8.5"),
        (partial(query.random, count=2), "random:0,2"),
        (partial(query.pca, centred=False), "pca:1,False"),
        (partial(query.pca, component=1, centred=True), "pca"),
        (partial(query.class_, name="predicted"), "class"),
        (partial(query.box, height=4.0, width=3.0, y=2.0, x=1.0), "box:1,2,3,4"),
        (query.class_, "class"),
        (partial(query.class_, name=3), "class:3"),
    ],
)
def test_settings_are_spelled_in_the_order_in_which_they_are_read(function, text):
    assert spell(function) == text
    same, other = ask(function, some()), ask(parse(text), some())
    assert [one.text for one in same] == [one.text for one in other] == [text]
    assert torch.equal(same[0].vectors, other[0].vectors)


def test_blanks_around_a_name_and_its_settings_do_not_matter():
    assert parse("  point: 120 , 80 ").keywords == {"x": 120.0, "y": 80.0}
    assert parse("class: tiger cat ").keywords == {"name": "tiger cat"}
    assert parse("mean:").keywords == {}


@pytest.mark.parametrize(
    "said, meant",
    [("true", True), ("True", True), ("1", True), ("false", False), ("False", False), ("no", False)],
)
def test_a_yes_or_no_is_read_in_words_or_digits(said, meant):
    assert parse(f"pca:2,{said}").keywords == {"component": 2, "centred": meant}


def test_settings_take_the_types_of_the_signature():
    functions = {name: getattr(normalise, name) for name in normalise.__all__} | {
        "temperature": scaling.temperature
    }
    assert read("temperature:2", functions, "scaling").keywords == {"tau": 2.0}
    assert read("top_k:3", functions, "normalise").keywords == {"k": 3}
    assert read("sigmoid:-2.5", functions, "normalise").keywords == {"bias": -2.5}  # float | None
    gates = [1 / (1 + math.exp(2.5 - z)) for z in (0.0, 1.0)]
    close(
        read("sigmoid:-2.5", functions, "normalise")(torch.tensor([[[0.0, 1.0]]]).double())[0, 0],
        torch.tensor(gates, dtype=torch.float64) / sum(gates),
    )


@pytest.mark.parametrize(
    "text, hints",
    [
        ("meen", ["'meen'", "did you mean mean?", "box, class, distance, mean"]),
        ("points:1,2", ["'points:1,2'", "did you mean point?"]),
        ("xyzzy", ["'xyzzy'", "class:NAME"]),
        ("several:mean", ["several"]),  # a list cannot be written in one text
        ("parse", ["parse"]),
        ("", ["''"]),
    ],
)
def test_an_unknown_query_is_told_with_those_that_there_are(text, hints):
    message = complaint(UnknownName, parse, text)
    assert all(hint in message for hint in [*hints, "mean", "rarity"]), message


@pytest.mark.parametrize(
    "text, hint",
    [
        ("point", "point:x,y"),
        ("point:3", "point:x,y"),
        ("point:1,2,3", "2,3"),
        ("point:left,top", "left"),
        ("box:1,2,3", "box:x,y,width,height"),
        ("box:1,2,3,4,5", "4,5"),
        ("mean:3", "no settings"),
        ("pca:first", "first"),
        ("pca:1,centred", "centred"),
        ("random:1.5", "1.5"),
        ("random:1,2,3", "2,3"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_one_line_with_the_text_that_was_given(text, hint):
    message = complaint(ValueError, parse, text)
    assert repr(text) in message and hint in message.replace(repr(text), ""), message


# Functions of the user's own


def test_a_function_of_ones_own_may_return_bare_vectors():
    def corner_patches(features):
        return features.tokens[:, [0, -1]]

    (asked,) = ask(corner_patches, some())
    assert torch.equal(asked.vectors, some().tokens[:, [0, -1]])
    assert (
        asked.labels == (("corner_patches #1", "corner_patches #2"),) * B
        and asked.text == "corner_patches"
        and asked.keys is None
    )


def test_a_function_of_ones_own_with_settings_says_them():
    def patch(features, row: int, share: float = 0.5):
        return share * features.tokens[:, row : row + 1]

    (asked,) = ask(partial(patch, row=2, share=0.25), some())
    assert asked.text == "patch:2,0.25" and asked.labels == (("patch:2,0.25",),) * B


def test_a_callable_object_goes_by_the_name_of_its_class():
    class Exemplar:
        def __call__(self, features):
            return torch.ones(len(features.tokens), 1, D, dtype=torch.float64)

    (asked,) = ask(Exemplar(), some())
    assert asked.text == "Exemplar" and asked.labels == (("Exemplar",),) * B


def test_a_function_of_ones_own_may_return_many_queries_and_each_says_what_was_asked():
    def both(features):
        return [query.mean(features), replace(query.pca(features), text="shape")]

    assert [asked.text for asked in ask(both, some())] == ["both", "shape"]


@pytest.mark.parametrize("shape", [(B, D), (B, 1, D, 1), (D,), (B + 1, 1, D)])
def test_bare_vectors_of_another_shape_are_refused_at_the_door(shape):
    def wrong(features):
        return torch.ones(shape)

    message = complaint(ValueError, ask, wrong, some())
    assert "wrong" in message and str(list(shape)) in message and "[B, Q, D]" in message


# mean, class


def test_mean_is_the_mean_patch():
    features = some()
    (asked,) = ask(query.mean, features)
    expected = [[math.fsum(features.tokens[b, :, d].tolist()) / N for d in range(D)] for b in range(B)]
    close(asked.vectors, torch.tensor(expected, dtype=torch.float64).unsqueeze(1))
    assert asked.labels == (("mean",),) * B


@pytest.mark.parametrize("index, category", list(enumerate(CATEGORIES)))
def test_class_scores_average_to_the_logit(index, category):
    features = some()
    (asked,) = ask(partial(query.class_, name=index), features)
    assert asked.labels == ((category,),) * B
    scores = Scores(asked.vectors, features.tokens).products
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
        ("crane", 2),  # of two, the first
        ("st. bernard", 6),
        ("teddy, teddy bear", 8),
        ("5", 5),
        (5, 5),
        (0, 0),
        (len(CATEGORIES) - 1, len(CATEGORIES) - 1),
    ],
)
def test_a_class_goes_by_name_or_index(name, index):
    features = some()
    for function in (partial(query.class_, name=name), parse(f"class:{name}")):
        (asked,) = ask(function, features)
        close(asked.vectors, features.head.weight[index].expand(B, 1, D))
        assert asked.labels == ((CATEGORIES[index],),) * B


def test_predicted_is_each_photos_own_best_class():
    features = some()
    likely = torch.zeros(B, len(CATEGORIES), dtype=torch.float64)
    likely[0, 4] = likely[1, 5] = 1
    (asked,) = ask(query.class_, replace(features, logits=likely))
    assert asked.labels == (("coffee mug",), ("crane",)) and asked.text == "class"
    close(asked.vectors, features.head.weight[[4, 5]].unsqueeze(1))


def test_a_classifier_without_names_has_numbered_classes():
    features = some()
    features = replace(features, head=replace(features.head, categories=()))
    assert query.class_(features, 3).labels == (("class 3",),) * B
    assert "'tabby'" in complaint(ValueError, query.class_, features, "tabby")


@pytest.mark.parametrize(
    "name, hints",
    [
        ("taby", ["'taby'", "tabby"]),
        ("cat", ["'cat'", "tiger cat", "egyptian cat"]),
        ("xyzzy", ["'xyzzy'", "nothing"]),
        ("-1", ["'-1'"]),
        (11, ["11", "0 ... 10"]),
        ("4711", ["4711", "0 ... 10"]),
    ],
)
def test_an_unknown_class_is_told_with_what_is_spelled_nearly_so(name, hints):
    message = complaint(ValueError, query.class_, some(), name)
    assert all(hint in message for hint in hints) and "11 " in message, message


def test_a_class_query_needs_a_classifier():
    assert "give it a head" in complaint(ValueError, query.class_, replace(some(), head=None))


def test_an_earlier_layer_is_asked_for_its_logits_only_when_they_are_needed():
    features = some()
    assert torch.equal(query.class_(replace(features, logits=None)).vectors, query.class_(features).vectors)


def test_a_class_comes_with_its_probability_logit_and_rank():
    features = some()
    for name in (*range(len(CATEGORIES)), "predicted"):
        asked = query.class_(features, name)
        for b in range(B):
            logits = features.logits[b].tolist()
            chosen = logits.index(max(logits)) if name == "predicted" else name
            total = math.fsum(math.exp(logit) for logit in logits)
            (score,) = asked.classes[b]
            assert (score.index, score.name) == (chosen, CATEGORIES[chosen])
            assert score.probability == pytest.approx(math.exp(logits[chosen]) / total, rel=1e-12)
            assert score.logit == pytest.approx(logits[chosen], abs=1e-12)
            assert score.rank == sorted(logits, reverse=True).index(logits[chosen]) + 1


def test_a_class_score_stays_finite_where_exp_would_not():
    logits = torch.tensor([[1000.0, 999.0, -1000.0] + [0.0] * 8, [0.0] * 11], dtype=torch.float64)
    features = replace(some(), logits=logits)
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
def test_a_share_reads_as_a_percentage_of_two_digits_and_never_as_0_unless_it_is(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    "text", ["mean", "class:tabby", "random", "rarity", "point:40,31.5", "distance", "norm"]
)
def test_only_a_class_has_a_class_score_and_only_a_free_sign_a_margin(text):
    (answer, _) = (answers[0] for answers in AttentionMethod(no_network, parse(text)).answer((some(),)))
    assert (answer.class_score is not None) == text.startswith("class") and answer.sign_margin is None


# distance, norm


def of_one_number(text: str, features: Features) -> np.ndarray:
    (asked,) = ask(parse(text), features)
    assert asked.labels == ((text,),) * B and asked.text == text
    assert asked.vectors.shape == (B, 1, 1) and asked.keys.shape == (B, N, 1)
    return Scores(asked.vectors, asked.keys).products[:, 0].numpy()


def test_distance_is_how_far_a_patch_lies_from_the_mean_patch():
    features = some(normal(B, N, D) + 3)
    for scores, tokens in zip(of_one_number("distance", features), features.tokens.tolist()):
        mean = [math.fsum(token[d] for token in tokens) / N for d in range(D)]
        np.testing.assert_allclose(scores, [math.dist(token, mean) for token in tokens], rtol=1e-12)


def test_norm_is_the_length_of_a_patch():
    features = some(normal(B, N, D) + 3)
    for scores, tokens in zip(of_one_number("norm", features), features.tokens.tolist()):
        np.testing.assert_allclose(
            scores, [math.sqrt(math.fsum(value**2 for value in token)) for token in tokens], rtol=1e-12
        )


@pytest.mark.parametrize("text", ["distance", "norm"])
@pytest.mark.parametrize("scale", [scaling.inv_sqrt_d, scaling.inv_d])
def test_a_question_of_one_number_is_left_as_it_is_by_the_root_of_d(text, scale):
    plain, scaled = (
        AttentionMethod(no_network, parse(text), how).answer((some(),)) for how in (scaling.none, scale)
    )
    for first, second in zip(plain, scaled):
        assert torch.equal(first[0].attention.logits, second[0].attention.logits)


@given(seed=st.integers(0, 999), shift=st.floats(-5, 5), stretch=st.floats(0.1, 10))
@few
def test_distance_does_not_see_what_all_patches_share_and_norm_does(seed, shift, stretch):
    tokens, common = normal(B, N, D, seed=seed), 1 + shift**2 * normal(D, seed=seed + 1).abs()
    distances, norms = of_one_number("distance", some(tokens)), of_one_number("norm", some(tokens))
    np.testing.assert_allclose(
        of_one_number("distance", some(stretch * tokens + common)), stretch * distances, rtol=1e-9
    )
    assert not np.allclose(of_one_number("norm", some(tokens + common)), norms)
    np.testing.assert_allclose(of_one_number("norm", some(-stretch * tokens)), stretch * norms, rtol=1e-12)


@given(seed=st.integers(0, 999), text=st.sampled_from(["mean", "distance", "norm", "rarity", "class:tabby"]))
@quick
def test_the_mirrored_features_give_the_mirrored_map_and_never_its_negative(seed, text):
    tokens = normal(B, N, D, seed=seed)
    mirrored = tokens.unflatten(1, GRID).flip(2).flatten(1, 2)
    for straight, turned in zip(
        AttentionMethod(no_network, parse(text)).answer((some(tokens),)),
        AttentionMethod(no_network, parse(text)).answer((some(mirrored),)),
    ):
        logits, opposite = (answer[0].attention.logits.reshape(GRID) for answer in (straight, turned))
        close(opposite.flip(1), logits)


# point


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
sides = st.tuples(st.integers(1, 1500), st.integers(1, 1500))


@st.composite
def placements(draw) -> Placement:
    """Grids of all shapes on photos of all shapes; the outer cells may lie anywhere from the photo's edge to a step inside it."""
    grid, size = draw(shapes), draw(sides)
    first, step = zip(
        *((begin * side, (end - begin) * side / max(1, cells - 1)) for side, cells, begin, end in
          zip(size, grid, draw(st.tuples(*[st.floats(0, 0.3)] * 2)), draw(st.tuples(*[st.floats(0.6, 0.99)] * 2))))
    )  # fmt: skip
    return placed(first, step, grid, size)


@given(placement=placements(), data=st.data())
@quick
def test_a_point_at_a_cells_centre_is_that_cells_patch(placement, data):
    features = one(placement)
    row, column = (data.draw(st.integers(0, cells - 1)) for cells in placement.grid)
    y, x = placement.first[0] + row * placement.step[0], placement.first[1] + column * placement.step[1]
    close(vector(at(x, y), features), features.tokens[0, row * placement.grid[1] + column])


@given(placement=placements(), data=st.data())
@quick
def test_a_point_half_way_between_cells_is_their_average(placement, data):
    features, (h, w) = one(placement), placement.grid
    row, column = (data.draw(st.integers(0, cells - 1)) for cells in (h, w))
    down, right = data.draw(st.booleans()) and row < h - 1, data.draw(st.booleans()) and column < w - 1
    y, x = (
        first + step * (at + half / 2)
        for first, step, at, half in zip(placement.first, placement.step, (row, column), (down, right))
    )
    around = [
        features.tokens[0, (row + i) * w + column + j] for i in range(1 + down) for j in range(1 + right)
    ]
    close(vector(at(x, y), features), sum(around) / len(around))


def test_a_point_is_bilinear_between_the_four_cells_around_it():
    features = one(placed((10, 20), (40, 8), (3, 4), (120, 60)))
    cells = features.tokens.reshape(3, 4, D)
    expected = 0.25 * (0.625 * cells[1, 2] + 0.375 * cells[1, 3]) + 0.75 * (
        0.625 * cells[2, 2] + 0.375 * cells[2, 3]
    )
    close(vector(at(39, 80), features), expected)  # 80 = 10 + 1.75 * 40, 39 = 20 + 2.375 * 8


@pytest.mark.parametrize(
    "x, y, row, column",
    [(0, 0, 0, 0), (59.9, 0, 0, 3), (0, 119.9, 2, 0), (59.9, 119.9, 2, 3), (59.9, 50, 1, 3)],
)
def test_beyond_the_outer_centres_a_point_is_the_outer_cell(x, y, row, column):
    features = one(placed((10, 20), (40, 8), (3, 4), (120, 60)))
    close(vector(at(x, y), features), features.tokens[0, row * 4 + column])


def test_a_point_is_found_on_each_photo_by_its_own_size_and_marked():
    features = some()
    (asked,) = ask(parse("point:45,30"), features)
    close(asked.vectors[0, 0], features.tokens[0, 2 * 11 + 5])  # the middle of 60 x 90
    assert asked.marks == ((30.0, 45.0),) and asked.labels == (("point 45,30",),) * B


@pytest.mark.parametrize(
    "x, y", [(77, 3), (90, 3), (-0.5, 3), (3, 60), (3, -1), (math.nan, 3), (3, math.nan), (math.inf, 3)]
)
def test_a_point_outside_any_photo_is_told_with_that_photos_size(x, y):
    message = complaint(PhotoError, at(x, y), some())
    assert f"point {x:g},{y:g}" in message and (
        "90x60 photo one.jpg" in message or "77x100 photo two.jpg" in message
    ), message


@pytest.mark.parametrize(
    "x, y, fine", [(20, 30, True), (19.9, 30, False), (69.9, 30, True), (70, 30, False), (5, 5, False)]
)
def test_a_point_that_was_cropped_away_is_refused(x, y, fine):
    cropped = one(placed((6, 25), (12, 4), GRID, (60, 90), 0, 20, 60, 50))
    if fine:
        vector(at(x, y), cropped)
    else:
        message = complaint(PhotoError, at(x, y), cropped)
        assert f"point {x:g},{y:g} of one.jpg" in message and "cropped" in message and "fit=resize" in message


# box


def counted(features: Features, area: Box, fine: int = 8) -> Tensor:
    """The mean patch by counting: every point of a fine lattice in the box and in what was seen belongs to the nearest cell."""
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
    features, (height, width) = one(ODD[name]), ODD[name].size
    everything = counted(features, rectangle(0, 0, height, width))
    close(vector(box(0, 0, width, height), features), everything)
    close(vector(box(-50, -9, 999, math.inf), features), everything)


def test_where_all_tiles_are_equal_a_box_around_everything_is_the_mean():
    features = one(whole((60, 90)))
    close(vector(parse("box:0,0,90,60"), features), features.mean[0])


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
    features = one(ODD[name])
    (asked,) = ask(box(area.left, area.top, area.width, area.height), features)
    close(asked.vectors[0, 0], counted(features, area))
    assert asked.marks == (area,)


@pytest.mark.parametrize("row, column", [(0, 0), (1, 2), (2, 3)])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_a_box_within_one_tile_is_that_patch(row, column, share):
    features = one(ODD["even tiles"])
    inside = box(5 * column, 6 * row, 5 * share, 6 * share)
    close(vector(inside, features), features.tokens[0, row * 4 + column])


@pytest.mark.parametrize("width, height", [(0, 5), (5, 0), (-3, 5), (math.nan, 5), (5, math.nan)])
def test_an_empty_box_is_refused(width, height):
    assert f"{width:g}x{height:g}" in complaint(ValueError, box(1, 1, width, height), some())


@pytest.mark.parametrize(
    "x, y", [(90, 0), (0, 60), (-5, 0), (0, -5), (500, 500), (math.nan, 0), (0, math.nan)]
)
def test_a_box_beside_the_photo_is_refused(x, y):
    message = complaint(PhotoError, box(x, y, 5, 5), one(whole((60, 90))))
    assert f"box {x:g},{y:g},5,5" in message and "90x60 photo one.jpg" in message


def test_a_box_in_the_part_that_was_cropped_away_is_refused():
    cropped = one(placed((6, 25), (12, 4), GRID, (60, 90), 0, 20, 60, 50))
    assert "seen" in complaint(PhotoError, box(0, 0, 20, 60), cropped)
    close(vector(box(0, 0, 20.5, 60), cropped), cropped.tokens.reshape(5, 11, D)[:, 0].mean(0))


# random


def test_a_random_query_is_the_same_on_every_photo_and_in_every_run_and_differs_by_seed():
    state = torch.random.get_rng_state()
    first, again, other = (ask(parse(f"random:{seed},{Q}"), some())[0] for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.vectors.shape == (B, Q, D) and torch.equal(first.vectors[0], first.vectors[1])
    assert torch.equal(first.vectors, again.vectors) and not torch.isclose(first.vectors, other.vectors).any()
    assert first.labels == (("random 4 #1", "random 4 #2", "random 4 #3"),) * B and first.marks == (None,) * Q
    single = query.random(replace(some(), tokens=some().tokens.float()), seed=4)
    assert single.vectors.dtype == torch.float32 and single.labels == (("random 4",),) * B


def test_no_random_vectors_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        query.random(some(), count=0)


def test_random_queries_are_standard_normal():
    numbers = np.sort(query.random(some(), seed=1, count=3000).vectors[0].numpy().ravel())
    assert abs(numbers.mean()) < 0.03 and abs(numbers.std() - 1) < 0.03
    assert np.quantile(numbers, 0.975) == pytest.approx(1.96, abs=0.06)


# rarity


def rarities(features: Features, **settings) -> np.ndarray:
    (asked,) = ask(partial(query.rarity, **settings), features)
    assert asked.labels == (("rarity",),) * len(features.tokens)
    return Scores(asked.vectors, asked.keys).products[:, 0].numpy()


def test_rarity_without_shrinkage_is_the_squared_mahalanobis_distance():
    features = some(normal(B, N, D) @ normal(D, D, seed=1) + 3)
    rare = rarities(features, components=D, shrinkage=0.0)
    for photo, tokens in zip(rare, features.tokens.numpy()):
        precision = np.linalg.inv(np.cov(tokens.T, ddof=0))
        np.testing.assert_allclose(
            photo, [mahalanobis(token, tokens.mean(0), precision) ** 2 for token in tokens], rtol=1e-8
        )
    np.testing.assert_allclose(rare.mean(1), D)


@pytest.mark.parametrize("components, shrinkage", [(1, 0.0), (3, 0.01), (D, 0.3)])
def test_rarity_is_taken_in_the_leading_components_with_a_share_of_their_mean_variance_added(
    components, shrinkage
):
    features = some(normal(B, N, D) @ normal(D, D, seed=1) + 3)
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
    assert rarities(some(tokens, whole((60, 90)))).argmax() == at


@given(seed=st.integers(0, 99), stretch=st.floats(0.1, 10))
@few
def test_rarity_does_not_depend_on_the_units_nor_the_origin_nor_the_axes(seed, stretch):
    tokens, rotation = normal(B, N, D, seed=seed), torch.linalg.qr(normal(D, D, seed=seed + 1))[0]
    moved = stretch * tokens @ rotation + 5
    np.testing.assert_allclose(
        rarities(some(moved), components=3), rarities(some(tokens), components=3), rtol=1e-6
    )


def test_rarity_takes_no_more_components_than_there_are():
    np.testing.assert_allclose(rarities(some()), rarities(some(), components=D))  # 16 asked of 7 channels
    few = one(whole((60, 90), (1, 3)))
    assert np.isfinite(rarities(few)).all()
    assert "0" in complaint(ValueError, partial(query.rarity, components=0), some())


def test_a_flat_photo_has_no_rare_patch():
    for level in (0.0, 0.1, 1e4):
        rare = rarities(some(torch.full((B, N, D), level)))
        assert (rare == rare[:, :1]).all()


# pca


@pytest.mark.parametrize("component", [1, 2, D])
@pytest.mark.parametrize("centred", [True, False])
def test_pca_is_a_right_singular_vector(component, centred):
    features = some(normal(B, N, D) @ normal(D, D, seed=1) + 2)
    (asked,) = ask(partial(query.pca, component=component, centred=centred), features)
    assert asked.labels == ((f"pca {component}",),) * B
    for photo, tokens in zip(asked.vectors[:, 0].numpy(), features.tokens.numpy()):
        expected = np.linalg.svd(tokens - tokens.mean(0) * centred)[2][component - 1]
        assert abs(photo @ expected) == pytest.approx(1, abs=1e-10) and np.linalg.norm(
            photo
        ) == pytest.approx(1, abs=1e-10)


@given(seed=st.integers(0, 999), component=st.integers(1, 4), centred=st.booleans())
@few
def test_pca_points_to_the_patches_of_larger_norm(seed, component, centred):
    features = some(normal(B, N, D, seed=seed) + normal(D, seed=seed + 1))
    vectors = query.pca(features, component, centred).vectors
    scores, norms = (
        (features.tokens @ vectors.mT)[..., 0].numpy(),
        np.linalg.norm(features.tokens.numpy(), axis=-1),
    )
    assert all(np.corrcoef(s, n)[0, 1] >= 0 for s, n in zip(scores, norms))
    close(query.pca(some(-features.tokens), component, centred).vectors, -vectors, atol=1e-7, rtol=0)
    close(query.pca(some(features.tokens.flip(1)), component, centred).vectors, vectors, atol=1e-7, rtol=0)


@given(seed=st.integers(0, 999), component=st.integers(1, 4), centred=st.booleans())
@few
def test_the_margin_of_a_free_sign_is_the_correlation_of_scores_and_norms(seed, component, centred):
    features = some(normal(B, N, D, seed=seed) + normal(D, seed=seed + 1))
    asked = query.pca(features, component, centred)
    assert asked.sign_margin.shape == (B, 1)
    for photo, tokens in enumerate(features.tokens.numpy()):
        scores, norms = tokens @ asked.vectors[photo, 0].numpy(), np.linalg.norm(tokens, axis=-1)
        assert float(asked.sign_margin[photo, 0]) == pytest.approx(np.corrcoef(scores, norms)[0, 1], abs=1e-9)


def with_margin(margin: float) -> Features:
    """Four patches on a cross: PC1 is the long arm, and the larger norm of one of its ends sets the correlation."""
    low, high = 0.0, 50.0
    for _ in range(60):
        ahead = (low + high) / 2
        norms, scores = np.array([10 + ahead, 10, 3, 3]), np.array([10 + ahead, -10, 0, 0])
        low, high = (ahead, high) if abs(np.corrcoef(scores, norms)[0, 1]) < margin else (low, ahead)
    tokens = torch.tensor([[10 + ahead, 0], [-10, 0], [0, 3], [0, -3]], dtype=torch.float64)
    return Features(tokens.unsqueeze(0), (2, 2), (whole((20, 20), (2, 2)),))


@pytest.mark.parametrize(
    "margin, warned", [(0.02, True), (FREE_SIGN - 0.01, True), (FREE_SIGN + 0.01, False), (0.9, False)]
)
def test_a_sign_that_is_hardly_chosen_is_warned_of_with_its_margin(margin, warned):
    ((answer,),) = AttentionMethod(no_network, query.pca, scaling.zscore).answer((with_margin(margin),))
    assert answer.sign_margin == pytest.approx(margin, abs=1e-6)
    texts = [text for text in answer.warnings if "free sign" in text]
    assert len(texts) == warned and all(f"{margin:.2f}" in text for text in texts)


def test_the_sign_of_patches_without_contrast_is_free():
    assert query.pca(some(torch.full((B, N, D), 0.3))).sign_margin.tolist() == [[0.0], [0.0]]


def test_on_rectified_features_the_first_uncentred_direction_is_non_negative():
    assert (query.pca(some(normal(B, N, D).relu()), 1, centred=False).vectors >= 0).all()  # Perron


def test_pca_works_where_there_are_more_channels_than_patches():
    tokens = normal(1, 6, 41)
    for component in range(1, 6):
        found = query.pca(Features(tokens, (2, 3), ()), component).vectors[0, 0].numpy()
        assert abs(
            found @ np.linalg.svd(tokens[0].numpy() - tokens[0].numpy().mean(0))[2][component - 1]
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


# several


def test_several_queries_come_in_the_order_of_the_list_each_with_its_own_text():
    features = some()

    def corner(features):
        return features.tokens[:, :1]

    asked = ask(partial(query.several, of=[*TEXTS, corner, partial(query.point, y=2.0, x=1.0)]), features)
    assert [one.text for one in asked] == [spell(parse(text)) for text in TEXTS] + ["corner", "point:1,2"]
    for text, one in zip(TEXTS, asked):
        (alone,) = ask(parse(text), features)
        assert (
            torch.equal(one.vectors, alone.vectors)
            and one.labels == alone.labels
            and one.marks == alone.marks
        )


def test_lists_within_a_list_are_flattened():
    pair = partial(query.several, of=["mean", "pca"])
    assert [one.text for one in ask(partial(query.several, of=["rarity", pair, "random"]), some())] == [
        "rarity",
        "mean",
        "pca",
        "random",
    ]


def test_an_empty_list_is_refused_and_a_wrong_entry_is_named():
    assert "query.of=" in complaint(ValueError, query.several, some(), [])
    assert "'meen'" in complaint(UnknownName, query.several, some(), ["mean", "meen"])


# All of them


@pytest.mark.parametrize("text", TEXTS)
def test_a_photos_queries_do_not_depend_on_the_others_in_the_batch(text):
    features = some()

    def part(photos: list[int]) -> Query:
        (asked,) = ask(
            parse(text),
            replace(
                features,
                tokens=features.tokens[photos],
                logits=features.logits[photos],
                placements=tuple(features.placements[photo] for photo in photos),
                names=tuple(features.names[photo] for photo in photos),
            ),
        )
        return asked

    together, swapped = part([0, 1]), part([1, 0])
    for photo in range(B):
        alone = part([photo])
        for other, at in ((alone, 0), (swapped, 1 - photo)):
            close(other.vectors[at], together.vectors[photo])
            assert other.labels[at] == together.labels[photo] and other.marks == together.marks
            assert (other.keys is None) == (together.keys is None)
            if other.keys is not None:
                close(other.keys[at], together.keys[photo])


@given(seed=st.integers(0, 99), factor=st.floats(-3, 3))
@quick
def test_scores_are_linear_in_the_query(seed, factor):
    features = some(normal(B, N, D, seed=seed))

    def scores(asked: Tensor) -> Tensor:
        return Scores(asked, features.tokens).products

    one, other = (ask(parse(text), features)[0].vectors for text in ("point:40,31.5", "class:crane"))
    close(scores(factor * one + other), factor * scores(one) + scores(other))


@pytest.mark.parametrize("text", TEXTS)
def test_queries_keep_the_precision_of_the_features(text):
    features = some()
    single = replace(features, tokens=features.tokens.float(), logits=features.logits.float())
    for either, dtype in ((features, torch.float64), (single, torch.float32)):
        (asked,) = ask(parse(text), either)
        assert asked.vectors.dtype == dtype and (asked.keys is None or asked.keys.dtype == dtype)
