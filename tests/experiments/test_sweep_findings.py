"""What a sweep's first paragraph says, of sweeps that were made to give it something to say."""

import math
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from measured_sweep import GRID, noise, series_in
from scipy import stats

from attnvis.experiments.sweep.figures import sections
from attnvis.experiments.sweep.findings import paragraph
from attnvis.experiments.sweep.orderings import orders


def words_on(folder, **more):
    """The paragraph, of a sweep of one job."""
    all_series = series_in(folder, sheets=0, **more)
    return " ".join(paragraph(all_series, orders(all_series), [0.1]))


def test_one_hot_and_nearly_uniform_are_called_so(tmp_path):
    sharp = words_on(tmp_path / "sharp", tokens=noise(spread=1.0) * 30)
    assert re.search(r"1/√d_k leaves the query “mean” one-hot on \d of 8 photos", sharp)
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
    assert f"The largest of 2 changes against 1/√d_k is that of “{largest}”" in words
    assert f"{100 * abs(by_hand[largest]):.1f} percentage points of the patches" in words


def test_maps_of_several_heads_are_measured_and_nothing_is_said_of_their_scores(tmp_path):
    heads = {"axes": {"heads": "contiguous(count=2)"}}
    (joined,) = series_in(tmp_path / "heads", sheets=0, scalings=("inv_sqrt_d", "perplexity"), **heads)
    words = " ".join(paragraph([joined], [], [0.1]))
    assert words.startswith("The maps are made of several heads or layers, and no one score gives them")
    assert "1/√d_k leaves the query" in words and "“perplexity” on the query" in words
    assert not re.search("temperature,|What a scaling sets|multiply", words)
    assert not joined.defines_share(1), "the mean of heads of a tenth is no tenth"
    assert {section.heading for section in sections([joined])} == {"How the weight is shared out"}
    (plain,) = series_in(tmp_path / "one", sheets=0, scalings=("inv_sqrt_d", "perplexity"))
    assert plain.defines_share(1) and len(sections([plain])) > len(sections([joined]))
    both = " ".join(paragraph([plain, joined], orders([plain]), [0.1]))
    assert "The maps of “mean” are made of several heads" in both and "The best single temperature" in both


def test_a_sweep_without_1_over_sqrt_d_says_so(tmp_path):
    words = words_on(tmp_path, scalings=("zscore:0.3", "zscore:3"))
    assert "1/√d_k, which was not part of this sweep, would leave" in words
    assert re.search(
        "The settings differ most on the query “mean”: from .* under “zscore:0.3” to .* under “zscore:3”",
        words,
    )
    assert "that of 1/√d_k on" not in words


def test_settings_that_change_nothing_are_not_said_to_differ(tmp_path):
    words = words_on(tmp_path / "one", scalings=("inv_sqrt_d",))
    assert "largest" not in words and "differ most" not in words
    words = words_on(tmp_path / "equal", scalings=("none", "temperature:1"))
    assert "No two settings of a query differ by as much as 0.1 percentage points" in words
    assert "differ most" not in words


def test_what_a_setting_was_told_is_no_finding(tmp_path):
    words = words_on(tmp_path / "only", scalings=("inv_sqrt_d", "perplexity:0.1"))
    assert "perplexity" not in words and "against 1/√d_k" not in words
    words = words_on(tmp_path / "beside", scalings=("inv_sqrt_d", "perplexity:0.02", "none"))
    assert "The change against 1/√d_k is that of “none”" in words


def test_a_change_picked_from_many_has_an_interval_wide_enough_for_all(tmp_path):
    """Of 12 photos 2 (1 + 12) / 2^12 = .0063 lie beyond the second and the eleventh: less than .05 / 4, and
    beyond the third and the tenth .039: more."""
    words = words_on(
        tmp_path, photos=12, scalings=("inv_sqrt_d", "none", "zscore", "temperature:2", "temperature:3")
    )
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    share = {(row["photo"], row["scaling"]): row["perplexity"] / row["patches"] for row in rows}
    found = re.search(r"The largest of 4 changes .* that of “(.*?)” .*? (\S+) \[(\S+), (\S+)\], wide", words)
    photos = sorted({photo for photo, _ in share})
    differences = sorted(100 * (share[photo, found[1]] - share[photo, "inv_sqrt_d"]) for photo in photos)
    by_hand = [(differences[5] + differences[6]) / 2, differences[1], differences[10]]
    assert [float(found[n].replace("−", "-")) for n in (2, 3, 4)] == pytest.approx(by_hand, abs=0.051)
    chances = []
    for setting in ("none", "zscore", "temperature:2", "temperature:3"):
        more = sum(share[photo, setting] > share[photo, "inv_sqrt_d"] for photo in photos)
        chances.append(stats.binomtest(more, 12).pvalue)
    real = 0
    while real < 4 and sorted(chances)[real] * (4 - real) < 0.05:
        real += 1
    assert f"sign test after Holm: {real} of 4 differ from 0" in words


def test_few_photos_have_no_interval_and_that_is_said(tmp_path):
    words = words_on(tmp_path / "three", photos=3)
    assert "fewer than 6 photos: no interval" in words and "[" not in words
    assert "chosen on these 3 photos, and not tried on others" in words
    words = words_on(tmp_path / "six", photos=6)
    assert "6 photos are too few for an interval that allows for 2 comparisons" in words


def test_cards_of_one_colour_are_not_told_as_photos(tmp_path):
    words = words_on(tmp_path / "all", cards=8)
    assert words.startswith("All 8 photos are of one colour:") and words.count(". ") == 0
    words = words_on(tmp_path / "two", cards=2)
    assert "2 of 8 photos are of one colour (0.jpg and 1.jpg):" in words and "1/√d_k leaves" in words


def test_settings_that_cut_patches_off_are_named(tmp_path):
    words = words_on(tmp_path, scalings=("none", "inv_sqrt_d"), normalisers=("softmax", "sparsemax"))
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    cut = [row for row in rows if row["normalise"] == "sparsemax" and row["scaling"] == "none"]
    worst = min(cut, key=lambda row: row["weight_rank_correlation"])
    assert worst["alive"] < 35
    assert "All 4 settings that multiply" in words and "as it was in the logits" in words
    assert (
        f"“none sparsemax” on 8 of 8 maps (at worst {worst['alive']:.0f} of 35 patches are above 0" in words
    )


def test_theory_stands_with_its_cumulants_beside_it(tmp_path):
    words = words_on(tmp_path, scalings=("zscore", "zscore:2"))
    found = re.search(r"to within (\S+) in the median of 16 maps with softmax, and to (\S+) of exp", words)
    errors = {"simple": [], "cumulants": []}
    for row in pq.read_table(tmp_path / "rows.parquet").to_pylist():
        s, g, k = row["sigma_eff"], row["logit_skewness"], row["logit_kurtosis"]
        share = row["perplexity"] / row["patches"]
        errors["simple"].append(abs(share - math.exp(-(s**2) / 2)))
        errors["cumulants"].append(abs(share - math.exp(-(s**2) / 2 - g * s**3 / 3 - k * s**4 / 8)))
    assert float(found[1]) == pytest.approx(np.median(errors["simple"]), rel=0.05)
    assert float(found[2]) == pytest.approx(np.median(errors["cumulants"]), rel=0.05)


def test_skewness_and_kurtosis_are_those_of_scipy(tmp_path):
    tokens = noise(3) ** 3
    words_on(tmp_path, photos=3, tokens=tokens, scalings=("none",))
    for photo, row in zip(tokens.double().numpy(), pq.read_table(tmp_path / "rows.parquet").to_pylist()):
        scores = photo @ photo.mean(0)
        assert row["logit_skewness"] == pytest.approx(stats.skew(scores), rel=1e-3)
        assert row["logit_kurtosis"] == pytest.approx(stats.kurtosis(scores), rel=1e-3, abs=1e-3)
        order = stats.spearmanr(scores, np.exp(scores - scores.max()).astype(np.float32)).statistic
        assert row["weight_rank_correlation"] == pytest.approx(order, abs=1e-3)


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
