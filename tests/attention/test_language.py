"""Functions of the user's own, and several questions at once."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from fake_features import TEXTS, B, D, complaint, normal, two_photos

from attnvis.attention import query
from attnvis.attention.query.language import as_query, build_queries, parse
from attnvis.attention.spec import UnknownName, format_function

# Functions of the user's own


def test_a_function_of_ones_own_may_return_bare_vectors():
    def corner_patches(features):
        return features.tokens[:, [0, -1]]

    (result,) = build_queries(corner_patches, two_photos())
    assert torch.equal(result.vectors, two_photos().tokens[:, [0, -1]])
    assert (
        result.labels == (("corner_patches #1", "corner_patches #2"),) * B
        and result.text == "corner_patches"
        and result.keys is None
    )


def test_a_function_of_ones_own_with_settings_says_them():
    def patch(features, row: int, share: float = 0.5):
        return share * features.tokens[:, row : row + 1]

    (result,) = build_queries(partial(patch, row=2, share=0.25), two_photos())
    assert result.text == "patch:2,0.25" and result.labels == (("patch:2,0.25",),) * B


def test_a_callable_object_goes_by_the_name_of_its_class():
    class Exemplar:
        def __call__(self, features):
            return torch.ones(len(features.tokens), 1, D, dtype=torch.float64)

    (result,) = build_queries(Exemplar(), two_photos())
    assert result.text == "Exemplar" and result.labels == (("Exemplar",),) * B


def test_a_function_of_ones_own_may_return_many_queries_each_with_its_text():
    def both(features):
        return [query.mean(features), replace(query.pca(features), text="shape")]

    assert [result.text for result in build_queries(both, two_photos())] == ["both", "shape"]


@pytest.mark.parametrize("shape", [(B, D), (B, 1, D, 1), (D,), (B + 1, 1, D)])
def test_bare_vectors_of_another_shape_are_refused_at_the_door(shape):
    def wrong(features):
        return torch.ones(shape)

    message = complaint(ValueError, build_queries, wrong, two_photos())
    assert "wrong" in message and str(list(shape)) in message and "[B, Q, D]" in message


# What is no text


@pytest.mark.parametrize(
    "question, text",
    [
        ((40, 31.5), "point:40,31.5"),
        ((12, 3, 50.5, 20), "box:12,3,50.5,20"),
        (3, "class:3"),
        (np.int64(3), "class:3"),
        ("tiger cat", "class:tiger cat"),
        (" TIGER_CAT ", "class:TIGER_CAT"),
        ("3", "class:3"),
        ("pca(component=2, centred=false)", "pca:2,False"),
        ("box:12,3,height=20,width=50.5", "box:12,3,50.5,20"),
    ],
)
def test_a_question_that_is_no_text_is_the_one_that_a_text_asks(question, text):
    (one,), (other,) = (
        build_queries(function, two_photos()) for function in (as_query(question), parse(text))
    )
    assert one.text == other.text == text and one.labels == other.labels and one.marks == other.marks
    assert torch.equal(one.vectors, other.vectors)


@pytest.mark.parametrize("kind", [lambda rows: rows, lambda rows: rows.numpy(), lambda rows: rows.int()])
def test_vectors_ask_for_themselves_on_every_photo(kind):
    rows = (10 * normal(3, D)).round()
    (result,) = build_queries(as_query(kind(rows)), two_photos())
    assert torch.equal(result.vectors, rows.expand(B, 3, D)) and len(result.labels[0]) == 3
    (alone,) = build_queries(as_query(kind(rows)[1]), two_photos())
    assert torch.equal(alone.vectors, rows[1].expand(B, 1, D)) and alone.labels == (("vector",),) * B


@pytest.mark.parametrize(
    "question, hint",
    [
        (torch.ones(D + 1), f"{D + 1} numbers does not fit"),
        (torch.ones(1, 1, D), "[1, 1, 7]"),
        (torch.ones(0), "[0]"),
        ((1, 2, 3), "(1, 2, 3)"),
        ((1, "b"), "(1, 'b')"),
        (1.5, "not 1.5"),
        (True, "not True"),
        (None, "not None"),
        ([1, 2], "not [1, 2]"),
    ],
)
def test_what_is_no_question_is_said(question, hint):
    message = complaint(ValueError, lambda: build_queries(as_query(question), two_photos()))
    assert hint in message, message


def test_a_seed_beyond_64_bits_is_said_with_the_range():
    assert "2^64" in complaint(ValueError, build_queries, parse(f"random:{2**64}"), two_photos())
    assert build_queries(parse(f"random:{2**64 - 1}"), two_photos())


# several


def test_several_queries_come_in_the_order_of_the_list_with_their_texts():
    features = two_photos()

    def corner(features):
        return features.tokens[:, :1]

    results = build_queries(
        partial(query.several, of=[*TEXTS, corner, partial(query.point, y=2.0, x=1.0)]), features
    )
    assert [built.text for built in results] == [format_function(parse(text)) for text in TEXTS] + [
        "corner",
        "point:1,2",
    ]
    for text, built in zip(TEXTS, results):
        (alone,) = build_queries(parse(text), features)
        assert (
            torch.equal(built.vectors, alone.vectors)
            and built.labels == alone.labels
            and built.marks == alone.marks
        )


def test_lists_within_a_list_are_flattened():
    pair = partial(query.several, of=["mean", "pca"])
    assert [
        built.text
        for built in build_queries(partial(query.several, of=["rarity", pair, "random"]), two_photos())
    ] == [
        "rarity",
        "mean",
        "pca",
        "random",
    ]


def test_an_empty_list_is_refused_and_a_wrong_entry_is_named():
    assert "query.of=" in complaint(ValueError, query.several, two_photos(), [])
    assert "'meen'" in complaint(ValueError, query.several, two_photos(), ["mean", "meen"])
    assert "'meen:1'" in complaint(UnknownName, query.several, two_photos(), ["mean", "meen:1"])
