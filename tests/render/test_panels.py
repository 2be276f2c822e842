"""Panels, colour bars, contact sheets: pictures found again on them, words heard as they are drawn."""

from itertools import pairwise

import numpy as np
import pytest
from fake_maps import TOPS, cells_of, noise, placed, plain, ramp, uniform

from attnvis.render import (
    Style,
    colour_bar,
    contact_sheet,
    heatmap,
    lettering,
    overlay,
    panel,
    panels,
)


def test_panel_heatmap_and_overlay_colour_the_same_levels():
    cells, size = cells_of(), (240, 480)
    placement, photo = placed((5, 7), size), plain((128, 128, 128), *size)
    style = Style(opacity=1.0, follow=False, contours=False)
    drawn = panel(photo, cells, style, "title", placement=placement)
    top = next(row for row in range(len(drawn)) if (drawn[row, 32 : 32 + 480] == 128).all())
    body = drawn[top : top + 240]
    np.testing.assert_array_equal(body[:, 532 : 532 + 480], heatmap(cells, style, placement))
    np.testing.assert_array_equal(body[:, 1032 : 1032 + 480], heatmap(cells, style, placement))
    np.testing.assert_array_equal(
        overlay(photo, cells, style, placement=placement), heatmap(cells, style, placement)
    )


# ------------------------------------------------------------------------------------------------------ words


def test_the_colour_bar_runs_from_cold_to_hot_and_marks_uniform():
    bar = colour_bar(Style(colours="turbo", low=1 / 8, high=16.0), 701)
    np.testing.assert_array_equal(bar[panels.RAMP.start, -1], TOPS["turbo"])
    np.testing.assert_array_equal(bar[panels.RAMP.start, 0], (48, 18, 59))
    at = 700 * 3 // 7  # log2(1) lies 3/7 of the way from log2(1/8) to log2(16)
    assert (bar[panels.UNIFORM_TICK.stop - 1, at - 2 : at + 2].max(-1) < 100).any()
    assert (bar[panels.UNIFORM_TICK.stop - 1, at + 10 : at + 60] > 200).all()


def test_the_colour_bar_shows_the_lines_of_the_overlay():
    bar = colour_bar(Style(), 801)  # a quarter to 64: 4 lies half-way, 16 at three quarters
    assert np.flatnonzero((bar[panels.RAMP.start] == 255).all(-1)).tolist() == [400, 600]
    assert not (colour_bar(Style(contours=False), 801)[panels.RAMP.start] == 255).all(-1).any()


def written(monkeypatch, draw):
    """Every line of words that `draw` writes whole, and where: (text, x, baseline, width)."""
    lines = []
    draw_text = lettering.draw_text

    def listen(canvas, text, x, baseline, font, room=2**20, align=0.0):
        width = lettering.text_width(text, font)
        if width <= room:
            lines.append((text, x - align * width, baseline, width))
        draw_text(canvas, text, x, baseline, font, room, align)

    monkeypatch.setattr(panels, "draw_text", listen)
    panels.drawn_bar.cache_clear()  # else what was drawn before is not drawn anew
    draw()
    return lines


@pytest.mark.parametrize("width", [200, 240, 320, 440, 1200])
@pytest.mark.parametrize("scale", ["times_uniform", "min_max"])
def test_a_colour_bar_of_any_width_says_what_it_measures_and_its_limits(monkeypatch, width, scale):
    lines = written(monkeypatch, lambda: colour_bar(Style(scale=scale), width, seen=(0.0123, 43.21)))
    texts = [text for text, *_ in lines]
    assert "uniform" in texts[0] if scale == "times_uniform" else "min" in texts[0]
    ends = (
        {"≤ 1/4×" if width > 200 else "1/4×", "1×", "≥ 64×"}
        if scale == "times_uniform"
        else {"max 43.2×", "min 0.0123×"}
    )
    assert ends <= {*texts}
    labels = sorted((x, x + wide) for _, x, baseline, wide in lines if baseline > 40)
    assert labels[0][0] >= 0 and labels[-1][1] <= width
    assert all(end < start for (_, end), (start, _) in pairwise(labels))


def test_a_legend_has_a_margin_of_paper():
    bar, legend = colour_bar(Style(), 440), colour_bar(Style(), 440, margin=16)
    np.testing.assert_array_equal(legend[16:-16, 16:-16], bar)
    legend[16:-16, 16:-16] = legend[0, 0]
    assert (legend == (252, 252, 250)).all()


@pytest.mark.parametrize("width", [1, 60, 240, 2000])
@pytest.mark.parametrize("limits", [(1 / 8, 16.0), (0.3, 5.0), (1.0, 1.5), (1e-9, 1e9)])
def test_a_colour_bar_of_any_width_and_limits(width, limits):
    for scale in ("times_uniform", "min_max"):
        assert colour_bar(Style(scale=scale, low=limits[0], high=limits[1]), width).shape == (
            panels.BAR_HEIGHT,
            width,
            3,
        )


def alarms(picture):
    """How many pixels have the colour of a banner."""
    return (picture == (255, 233, 214)).all(-1).sum()


def test_a_warning_is_a_banner_across_the_panel():
    spoken = panel(noise(), ramp(), Style(), "photo", [("query", "mean")])
    warned = panel(
        noise(), ramp(), Style(), "photo", iter([("query", "mean"), ("warning", "RANDOM WEIGHTS")])
    )
    assert alarms(spoken) == 0
    assert alarms(warned) > 20 * warned.shape[1]


def test_what_is_too_long_for_a_column_takes_the_row(monkeypatch):
    cut = []
    shorten = panels.draw_text
    monkeypatch.setattr(
        panels,
        "draw_text",
        lambda canvas, text, **how: cut.append((text, how)) or shorten(canvas, text, **how),
    )
    column = 240  # of a panel of so small a photo
    for letters in range(10, 40):
        cut.clear()
        text = "m" * letters
        panels.fact_sheet([("a", text)], lefts=[32, 292, 552], column=column, width=824)
        how = next(how for written, how in cut if written == text)
        assert how["room"] >= lettering.text_width(text, panels.FACT_VALUE), letters


@pytest.mark.parametrize(
    "text",
    ["", "照片-été.jpg", "a\nb\tc\x00", "x" * 5000, "\ud800broken", "😀 🏳️‍🌈", "<b>&amp;</b>", "%s %d {0}"],
)
def test_any_text_can_be_written_on_a_panel(text):
    assert panel(noise(), ramp(), Style(), text, [(text, text), ("warning", text)]).shape[2] == 3


@pytest.mark.parametrize("scale", ["times_uniform", "min_max"])
def test_a_panel_of_never_seen_pixels_is_hatched_and_dimmed(scale):
    photo, height = noise(240, 480), 200  # below: the label of min_max
    drawn = panel(photo, uniform(240, 480, np.nan), Style(scale=scale), "title")
    top = next(row for row in range(len(drawn)) if (drawn[row, 32 : 32 + 480] == photo[0]).all())
    hatched, dimmed = (drawn[top : top + height, left : left + 480].astype(int) for left in (532, 1032))
    for row in range(0, height, 3):
        for column in range(0, 480, 7):
            light = 222 if (row + column) // 4 % 2 == 0 else 240  # stripes of 240 / 60 pixels
            assert hatched[row, column].tolist() == [light] * 3
    red, green, blue = np.moveaxis(photo[:height].astype(float), -1, 0)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    expected = 0.15 * photo[:height] + 0.35 * grey[..., None]
    assert np.abs(dimmed - expected).max() <= 1  # two roundings


def test_a_panel_shows_photo_heatmap_and_overlay():
    photo = noise(240, 480)
    drawn = panel(photo, ramp(240, 480), Style(opacity=1.0), "title")
    top = next(row for row in range(len(drawn)) if (drawn[row, 32 : 32 + 480] == photo[0]).all())
    body = drawn[top : top + 240]
    np.testing.assert_array_equal(body[:, 32 : 32 + 480], photo)
    np.testing.assert_array_equal(body[:, 532 : 532 + 480], heatmap(ramp(240, 480), Style()))
    np.testing.assert_array_equal(
        body[:, 1032 : 1032 + 480], overlay(photo, ramp(240, 480), Style(opacity=1.0))
    )


def test_a_contact_sheet_lays_tiles_out_in_rows():
    tiles = [(plain((10 * i, 100, 200), 40, 60), f"number {i}") for i in range(5)]
    sheet = contact_sheet(tiles, columns=3, side=60)
    pixels = [np.argwhere((sheet == (10 * i, 100, 200)).all(-1)) for i in range(5)]
    assert [len(where) for where in pixels] == [40 * 60] * 5
    corners = np.array([where.min(0) for where in pixels])
    assert len({*corners[:3, 0]}) == 1 and len({*corners[3:, 0]}) == 1 and corners[3, 0] > corners[0, 0] + 40
    assert list(corners[:3, 1]) == sorted({*corners[:3, 1]}) and corners[0, 1] == corners[3, 1]
    assert contact_sheet([]).ndim == 3
    assert len(contact_sheet(tiles, style=Style(), title="Five")) > len(contact_sheet(tiles))


@pytest.mark.parametrize("columns", [1, 3, 7, 12, 30])
@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (40, 60), (30, 900)])
def test_a_contact_sheet_is_never_wider_than_a_page_and_keeps_its_groups(columns, shape):
    tiles = [(plain((5 * i, 100, 200), *shape), "") for i in range(2 * columns)]
    sheet = contact_sheet(tiles, columns, side=360)
    assert sheet.shape[1] <= 1280
    corners = [np.argwhere((sheet == (5 * i, 100, 200)).all(-1)).min(0) for i in (0, columns)]
    # the second group begins a row of its own
    assert corners[0][1] == corners[1][1] and corners[1][0] > corners[0][0]


def test_captions_on_a_contact_sheet_keep_their_numbers(monkeypatch):
    captions = [
        f"class:{'long ' * 8 * many}perplexity:0.1: {many + 0.5} of 77 patches, max 2{many}.4x"
        for many in range(9)
    ]
    tiles = [(noise(300, 400, seed), caption) for seed, caption in enumerate(captions)]
    lines = written(monkeypatch, lambda: contact_sheet(tiles, columns=9, side=320))
    words = " ".join(text for text, *_ in lines)
    assert all(f"2{many}.4x" in words for many in range(9))
    assert captions[0] in words and captions[1] in words  # what fits three lines is not shortened


def test_a_contact_sheet_names_its_groups(monkeypatch):
    tiles = [(noise(), "") for _ in range(5)]
    lines = written(monkeypatch, lambda: contact_sheet(tiles, columns=3, headings=("class", "mean")))
    class_, mean = (baseline for text, _, baseline, _ in lines if text in ("class", "mean"))
    assert (
        class_ == mean == 18
        and len(contact_sheet(tiles, 3, headings=("class", "mean"))) == len(contact_sheet(tiles, 3)) + 2 * 30
    )
