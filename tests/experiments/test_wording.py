"""Numbers as a page tells them."""

import math

import pytest

from attnvis.experiments.wording import between, listed, many, percent, points
from attnvis.metrics.intervals import Interval


@pytest.mark.parametrize(
    "share, text",
    [
        (0.0, "0"),
        (1.0, "100"),
        (0.031, "3.1"),
        (0.97, "97"),
        (0.996, "99.6"),
        (0.99999, "> 99.9"),
        (1e-6, "< 0.01"),
        (math.nan, "–"),
    ],
)
def test_what_is_not_all_is_not_called_all(share, text):
    assert percent(share).replace("\u00a0%", "") == text


def test_an_interval_has_one_sign_of_percent_and_needs_two_photos():
    assert between(Interval(0.2, 0.1, 0.3, 5), percent) == "[10, 30\u00a0%]"
    assert between(Interval(-0.2, -0.25, 0.3, 5), points) == "[−25.0, +30.0]"
    assert between(Interval(0.2, 0.2, 0.2, 1)) == ""


def test_things_are_listed_and_counted_as_in_a_sentence():
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert many(1, "map") == "1 map" and many(2000, "map") == "2 000 maps"
