"""A sweep's figures: they can be drawn of whatever was measured, and their captions have true numbers."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from measured_sweep import GRID, series_in

from attnvis.experiments.sweep import figures
from attnvis.experiments.sweep.figures import Section, common, gaps, gradient, ranks, sections
from attnvis.experiments.wording import superscript
from attnvis.methods import settings
from attnvis.render.plots import Figure


@pytest.fixture(scope="module")
def all_series(tmp_path_factory):
    return series_in(
        tmp_path_factory.mktemp("sweep"), scalings=("none", "inv_sqrt_d", "zscore"), asked=("mean", "random")
    )


def test_dividing_is_said_to_shift_the_gaps_by_its_logarithm(all_series):
    """16 channels: log10 of 1/4 is -.602; the histogram's bins are a sixth of a decade wide."""
    moved = re.search(r"mean −(0\.\d+) \(log₁₀ of 0.2500 is −0.602\)", " ".join(gaps.caption(all_series)))
    assert float(moved[1]) == pytest.approx(0.602, abs=0.03)


def test_captions_say_how_much_was_really_measured(all_series, monkeypatch):
    assert "Of 512 pairs of patches a photo" in gaps.caption(all_series)[0]
    assert "at 57 temperatures of 2⁻⁷ … 2⁷ standard deviations" in gradient.caption(all_series)[0]
    monkeypatch.setattr(gaps, "PAIRS", 100)
    assert "Of 100 pairs of patches a photo" in gaps.caption(all_series)[0]
    monkeypatch.setattr(gradient, "TEMPERATURES", settings.TEMPERATURES[4:])
    assert "at 53 temperatures of 2⁻⁶ … 2⁷ standard deviations" in gradient.caption(all_series)[0]


def test_one_photo_and_one_setting_can_be_drawn(tmp_path):
    alone = series_in(tmp_path, photos=1, scalings=("temperature:2",), normalisers=("sparsemax",))
    drawn = sections(alone)
    assert [len(section.figures) for section in drawn] == [1] * len(figures.SECTIONS)
    assert all(section.caption for section in drawn) and "temperature:2 sparsemax" in alone[0].names


def test_photos_without_contrast_can_be_drawn(tmp_path):
    flat = series_in(tmp_path, tokens=torch.ones(8, math.prod(GRID), 16))
    words = " ".join(paragraph for section in sections(flat) for paragraph in section.caption)
    assert "nan" not in words.lower()


def test_of_nothing_there_is_no_figure():
    assert sections([]) == []


def test_a_figure_may_have_nothing_to_show(all_series, monkeypatch):
    shown = Section("shown", (), ())
    monkeypatch.setattr(figures, "SECTIONS", (lambda _: None, lambda _: shown))
    assert sections(all_series) == [shown]


def test_there_is_an_end_to_figures_of_one_kind(all_series, monkeypatch):
    monkeypatch.setattr(gaps, "hills", lambda series, name: Figure(name, series.name, b"", b""))
    many = [replace(all_series[0], query=f"q{number}") for number in range(11)]
    section = gaps.section(many)
    assert [figure.name for figure in section.figures] == [f"gaps_q{number}" for number in range(8)]
    assert "Drawn are the first 8 of 11; all are in the table below." in section.caption[0]


def test_names_that_become_one_are_told_apart():
    assert common.file_names("gaps", ["a b", "a/b", ""]) == ["gaps_a-b", "gaps_a-b-2", "gaps"]


@pytest.mark.parametrize(
    "setting, kind",
    [
        (("none", "softmax"), "one factor for every photo"),
        (("temperature:4", "softmax"), "one factor for every photo"),
        (("perplexity:0.1", "softmax"), "a factor of each photo's own"),
        (("cosine:0.07", "softmax"), "cosine: a factor of each patch's own"),
        (("none", "sparsemax"), "not softmax"),
        (("my_module.mine", "softmax"), "yours"),
    ],
)
def test_a_colour_stands_for_what_the_factor_depends_on(setting, kind):
    assert common.kind_of_scaling(setting) == kind and kind in common.SCALING_COLOURS


def test_the_middle_of_a_histogram_lies_inside_its_bin():
    """72 bins from 10^-6 to 10^6: three counts in the bin from 0 on, one in the next; half is 2/3 through."""
    counts = np.zeros(72)
    counts[36], counts[37] = 3, 1
    assert gaps.middle_gap(counts) == pytest.approx(2 / 3 / 6)
    assert math.isnan(gaps.middle_gap(np.zeros(72)))


def test_powers_are_raised():
    assert superscript(-17) == "⁻¹⁷"


def test_few_lines_are_drawn_and_the_sharpest_the_flattest_and_sqrt_d_are_among_them():
    assert ranks.few_of(np.array([3.0, 9.0, 1.0, 2.0])) == [1, 0, 3, 2]
    hottest = np.arange(20.0)[::-1].copy()
    hottest[[0, 1]] = hottest[[1, 0]]  # the second setting is the sharpest
    for usual in range(20):
        few = ranks.few_of(hottest, usual)
        assert len(few) == len(set(few)) == 6 and {1, 19, usual} <= set(few)
        assert hottest[few].tolist() == sorted(hottest[few], reverse=True)


def test_labels_keep_their_distance_and_their_order():
    heights = [0.0, 0.1, 5.0, 0.2, -3.0]
    moved = ranks.apart(heights, gap=1.0)
    assert np.argsort(moved).tolist() == np.argsort(heights).tolist()
    assert np.diff(sorted(moved)).min() >= 1 - 1e-9
    assert moved == pytest.approx([-0.9, 0.1, 5.0, 1.1, -3.0])  # three around their mean of .1; two stay
