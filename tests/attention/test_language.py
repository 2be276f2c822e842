"""Functions of the user's own, and several questions at once."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from fake_features import TEXTS, B, D, complaint, some

from attnvis.attention import query
from attnvis.attention.query.language import build_queries, parse
from attnvis.attention.spec import UnknownName, format_function

# Functions of the user's own


def test_a_function_of_ones_own_may_return_bare_vectors():
    def corner_patches(features):
        return features.tokens[:, [0, -1]]

    (asked,) = build_queries(corner_patches, some())
    assert torch.equal(asked.vectors, some().tokens[:, [0, -1]])
    assert (
        asked.labels == (("corner_patches #1", "corner_patches #2"),) * B
        and asked.text == "corner_patches"
        and asked.keys is None
    )


def test_a_function_of_ones_own_with_settings_says_them():
    def patch(features, row: int, share: float = 0.5):
        return share * features.tokens[:, row : row + 1]

    (asked,) = build_queries(partial(patch, row=2, share=0.25), some())
    assert asked.text == "patch:2,0.25" and asked.labels == (("patch:2,0.25",),) * B


def test_a_callable_object_goes_by_the_name_of_its_class():
    class Exemplar:
        def __call__(self, features):
            return torch.ones(len(features.tokens), 1, D, dtype=torch.float64)

    (asked,) = build_queries(Exemplar(), some())
    assert asked.text == "Exemplar" and asked.labels == (("Exemplar",),) * B


def test_a_function_of_ones_own_may_return_many_queries_each_with_its_text():
    def both(features):
        return [query.mean(features), replace(query.pca(features), text="shape")]

    assert [asked.text for asked in build_queries(both, some())] == ["both", "shape"]


@pytest.mark.parametrize("shape", [(B, D), (B, 1, D, 1), (D,), (B + 1, 1, D)])
def test_bare_vectors_of_another_shape_are_refused_at_the_door(shape):
    def wrong(features):
        return torch.ones(shape)

    message = complaint(ValueError, build_queries, wrong, some())
    assert "wrong" in message and str(list(shape)) in message and "[B, Q, D]" in message


# several


def test_several_queries_come_in_the_order_of_the_list_with_their_texts():
    features = some()

    def corner(features):
        return features.tokens[:, :1]

    asked = build_queries(
        partial(query.several, of=[*TEXTS, corner, partial(query.point, y=2.0, x=1.0)]), features
    )
    assert [one.text for one in asked] == [format_function(parse(text)) for text in TEXTS] + [
        "corner",
        "point:1,2",
    ]
    for text, one in zip(TEXTS, asked):
        (alone,) = build_queries(parse(text), features)
        assert (
            torch.equal(one.vectors, alone.vectors)
            and one.labels == alone.labels
            and one.marks == alone.marks
        )


def test_lists_within_a_list_are_flattened():
    pair = partial(query.several, of=["mean", "pca"])
    assert [
        one.text for one in build_queries(partial(query.several, of=["rarity", pair, "random"]), some())
    ] == [
        "rarity",
        "mean",
        "pca",
        "random",
    ]


def test_an_empty_list_is_refused_and_a_wrong_entry_is_named():
    assert "query.of=" in complaint(ValueError, query.several, some(), [])
    assert "'meen'" in complaint(UnknownName, query.several, some(), ["mean", "meen"])
