"""Functions of the user's own, and several questions at once."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from fake_features import TEXTS, B, D, complaint, two_photos

from attnvis.attention import query
from attnvis.attention.query.language import build_queries, parse
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
    assert "'meen'" in complaint(UnknownName, query.several, two_photos(), ["mean", "meen"])
