"""What a sweep's first paragraph says, of sweeps that were made to give it something to say."""

import math
import re

import pyarrow.parquet as pq
import pytest
import torch
from measured_sweep import GRID, noise, series_in

from attnvis.experiments.sweep.findings import paragraph
from attnvis.experiments.sweep.statistics import orders


def words_on(folder, **more):
    """The paragraph, of a sweep of one job."""
    all_series = series_in(folder, sheets=0, **more)
    return " ".join(paragraph(all_series, orders(all_series), [0.1]))


def test_one_hot_and_nearly_uniform_are_called_so(tmp_path):
    sharp = words_on(tmp_path / "sharp", tokens=noise(spread=1.0) * 30)
    assert "1/√d_k leaves the query “mean” one-hot on" in sharp
    even = words_on(tmp_path / "even", tokens=noise(spread=0.01))
    assert re.search(r"1/√d_k leaves the query “mean” nearly uniform \(median (9\d|> 99.9|99.\d)", even)


def test_the_largest_change_is_the_largest_paired_difference(tmp_path):
    words = words_on(tmp_path)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    share = {(row["photo"], row["scaling"]): row["perplexity"] / row["patches"] for row in rows}
    photos = sorted({photo for photo, _ in share})
    by_hand = {}
    for scaling in ("none", "zscore"):
        differences = sorted(share[photo, scaling] - share[photo, "inv_sqrt_d"] for photo in photos)
        by_hand[scaling] = (differences[3] + differences[4]) / 2  # of eight
    largest = max(by_hand, key=lambda scaling: abs(by_hand[scaling]))
    assert f"The largest change against 1/√d_k is that of “{largest}”" in words
    assert f"{100 * abs(by_hand[largest]):.1f} percentage points of the patches" in words


def test_a_sweep_without_1_over_sqrt_d_says_so(tmp_path):
    words = words_on(tmp_path, scalings=("zscore:0.3", "zscore:3"))
    assert "1/√d_k, which was not part of this sweep, would leave" in words
    assert re.search(
        "The settings differ most on the query “mean”: from .* under “zscore:0.3” to .* under “zscore:3”",
        words,
    )
    assert "that of 1/√d_k on" not in words


def test_settings_that_change_nothing_are_not_said_to_differ(tmp_path):
    words = words_on(tmp_path, scalings=("inv_sqrt_d",))
    assert "largest change" not in words and "differ most" not in words


def test_the_order_is_said_to_be_kept_where_it_was(tmp_path):
    three = words_on(tmp_path / "three")
    assert (
        "All 3 settings that multiply the scores of a photo by one positive factor leave the order" in three
    )
    alone = words_on(tmp_path / "one", scalings=("none", "cosine:0.07"))
    assert "The one setting that multiplies the scores of a photo by one positive factor leaves" in alone


def test_one_photo_has_no_medians(tmp_path):
    words = words_on(tmp_path, photos=1, scalings=("temperature:2",), normalisers=("sparsemax",))
    assert "On this one photo" in words and "median" not in words


def test_photos_without_contrast_have_findings(tmp_path):
    words = words_on(tmp_path, tokens=torch.ones(8, math.prod(GRID), 16))
    assert "nearly uniform (median 100" in words
    assert "nan" not in words.lower()


@pytest.mark.parametrize("shares", [[], [0.1]])
def test_of_no_photo_there_is_nothing_to_say(shares):
    assert paragraph([], [], shares) == ["No photo was measured: there is nothing to compare."]
