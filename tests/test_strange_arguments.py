"""What people pass to Python by mistake: one true line."""

import pytest
import torch

from attnvis.api import loaded
from attnvis.attention.query.language import own_vectors
from attnvis.attention.scaling import temperature
from attnvis.data.paths import survey
from attnvis.types import Scores


def test_a_temperature_under_which_nothing_differs_is_refused():
    scores = Scores(torch.ones(1, 1, 3), torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="tau must be a number, not inf"):
        temperature(scores, tau=float("inf"))


def test_a_query_vector_that_is_not_finite_is_said_to_be_so():
    with pytest.raises(ValueError, match="2 of a query vector's 5 numbers are NaN or infinite"):
        own_vectors(torch.tensor([1.0, float("nan"), 2.0, float("inf"), 0.0]))


def test_an_argument_that_nothing_takes_is_named_with_its_neighbour():
    with pytest.raises(TypeError, match=r"takes scalling=; did you mean scaling\?"):
        loaded("efficientnet_lite0", {"scalling": "none"})


def test_a_photo_named_twice_is_counted(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    listing = survey([str(tmp_path / "a.jpg"), str(tmp_path), f"{tmp_path}/*.jpg"])
    assert [path.name for path in listing.paths] == ["a.jpg", "b.jpg"]
    assert str(listing) == "3 files passed over: 3 named again"
