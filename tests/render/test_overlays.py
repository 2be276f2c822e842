"""Overlays: colours from the colour maps' publications, lightness from scikit-image, blends by hand."""

import colorsys
import math
import resource
import tracemalloc

import cv2
import numpy as np
import pytest
from fake_maps import TOPS, H, W, cells_of, noise, placed, plain, ramp, uniform
from PIL import Image
from skimage.color import rgb2lab

from attnvis.render import (
    Style,
    encode,
    heatmap,
    overlay,
    panel,
    write,
)
from attnvis.render.overlays import COLOURS, colour_table, lab_to_rgb, pixel_levels, to_levels
from attnvis.types import Box, Placement


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# ----------------------------------------------------------------------------------------------------- levels


def test_levels_are_log2_between_the_limits():
    values = np.array([[1 / 4, 1 / 2, 1, 3, 64]], np.float32)
    expected = [(math.log2(value) + 2) / 8 for value in values[0].tolist()]
    np.testing.assert_allclose(to_levels(values, Style())[0], expected, atol=1e-6)


def test_levels_stop_at_the_limits():
    np.testing.assert_allclose(
        to_levels(np.array([[0, 1e-9, 65, 1e9]], np.float32), Style()), [[0, 0, 1, 1]], atol=1e-6
    )


def test_min_max_levels_span_each_photo():
    np.testing.assert_allclose(
        to_levels(np.array([[2, 3], [4, 6]], np.float32), Style(scale="min_max")), [[0, 0.25], [0.5, 1]]
    )


def test_never_seen_stays_nan_and_does_not_move_the_limits():
    values = np.array([[np.nan, 3], [4, 5]], np.float32)
    for style in (Style(), Style(scale="min_max")):
        np.testing.assert_array_equal(np.isnan(to_levels(values, style)), [[True, False], [False, False]])
    np.testing.assert_allclose(to_levels(values, Style(scale="min_max"))[1], [0.5, 1])
    assert np.isnan(to_levels(uniform(value=np.nan), Style(scale="min_max"))).all()


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.0, 1e9])
def test_a_constant_map_gets_the_middle_colour_under_min_max(constant):
    np.testing.assert_allclose(to_levels(uniform(value=constant), Style(scale="min_max")), 0.5)


@pytest.mark.parametrize(
    "style", [Style(), Style(scale="min_max"), Style(longest=40)], ids=["plain", "min-max", "small"]
)
def test_levels_that_are_known_change_no_picture(style):
    cells, size = np.random.default_rng(0).uniform(0, 9, (5, 7)).astype(np.float32), (55, 77)
    placement = placed((5, 7), size)
    levels = pixel_levels(cells, style, size, placement)
    photo = plain((60, 90, 200), *size)
    expected = overlay(photo, cells, style, placement=placement)
    np.testing.assert_array_equal(overlay(photo, cells, style, placement=placement, levels=levels), expected)
    for of_size in (None, (40, 56)):  # of another size they are none of its own
        expected = heatmap(cells, style, placement, size=of_size)
        np.testing.assert_array_equal(heatmap(cells, style, placement, size=of_size, levels=levels), expected)


def test_rounding_noise_is_not_stretched_into_a_picture():
    values = uniform() + np.random.default_rng(0).uniform(-1e-7, 1e-7, (H, W)).astype(np.float32)
    np.testing.assert_allclose(to_levels(values, Style(scale="min_max")), 0.5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("colours, top", TOPS.items())
def test_the_hottest_pixel_has_the_published_top_colour(colours, top):
    np.testing.assert_array_equal(heatmap(ramp(), Style(colours=colours))[0, -1], top)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "PNG"])
@pytest.mark.parametrize(
    "draw",
    [heatmap, lambda values, style: overlay(plain((60, 90, 200)), values, style)],
    ids=["heatmap", "overlay"],
)
def test_in_the_written_file_hot_is_red_and_under_turbo_cold_is_blue(tmp_path, suffix, draw):
    for style in (Style(), Style(colours="turbo", opacity=0.8)):
        write(tmp_path / f"picture.{suffix}", draw(ramp(), style))
        written = read(tmp_path / f"picture.{suffix}").astype(int)
        hottest, coldest = written[H // 2, -2], written[H // 2, 1]
        assert hottest[0] > hottest[2] + 30
        assert coldest[2] > coldest[0] or style.colours == "scorch"


@pytest.mark.parametrize(
    "photo", [(0, 0, 255), (0, 255, 0), (0, 255, 255), (255, 255, 255), (0, 0, 0), (90, 160, 250)]
)
def test_what_is_hottest_is_red_on_a_photo_of_any_colour(photo):
    for hottest in (24.0, 64.0, 1000.0):  # half of the photos end beyond 24 times uniform
        red, green, blue = overlay(plain(photo), uniform(value=hottest), Style())[9, 9].astype(int)
        assert red > max(green, blue), (photo, hottest, red, green, blue)


def test_under_what_is_hottest_the_photo_can_be_seen():
    stripes = plain((0, 0, 0))
    stripes[:, ::2] = 255
    drawn = overlay(stripes, uniform(value=64.0), Style()).astype(int)
    assert (drawn[:, ::2] - drawn[:, 1::2]).min() >= 0.4 * 255 - 1


# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0: on linear RGB
DEFICIENCIES = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def lightness(colours):
    """CIE L* of RGB 0 ... 255."""
    return rgb2lab(np.asarray(colours)[None] / 255)[0, :, 0]


def seen_with(deficiency, colours):
    signal = np.asarray(colours) / 255
    linear = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(DEFICIENCIES[deficiency]).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_lightness_falls_all_the_way_along_the_bar_and_evenly():
    along = lightness(colour_table("scorch")[:, 0])
    # eight bits a channel: steps of a 64th of the bar are well above rounding
    assert np.diff(along[::4]).max() < 0
    assert np.diff(along).max() < 0.2
    steps = -np.diff(along[[0, 64, 128, 191, 255]])
    assert steps.min() > 0.8 * steps.mean()
    assert along[0] - along[-1] > 50


def test_the_strongest_colours_are_red_and_the_hottest_the_reddest():
    red, green, blue = colour_table("scorch")[:, 0].astype(int).T
    assert (red[192:] > 2 * np.maximum(green, blue)[192:]).all()
    assert (red[-1], max(green[-1], blue[-1])) > (190, 0) and red[-1] > 8 * max(green[-1], blue[-1])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colour_blind_see_the_same_order(deficiency):
    along = lightness(seen_with(deficiency, colour_table("scorch")[:, 0]))
    assert np.diff(along[::4]).max() < 0
    assert along[0] - along[-1] > 45


def test_turbo_is_why_the_default_changed():
    along = lightness(colour_table("turbo")[:, 0])
    assert np.diff(along).max() > 0 > np.diff(along).min()


@pytest.mark.parametrize("colours", COLOURS)
def test_every_colour_map_can_be_chosen_by_name(colours):
    assert heatmap(ramp(), Style(colours=colours)).shape == (H, W, 3)


def test_png_keeps_every_colour(tmp_path):
    write(tmp_path / "picture.png", heatmap(ramp(), Style(colours="turbo")))
    np.testing.assert_array_equal(read(tmp_path / "picture.png")[0, -1], TOPS["turbo"])


def test_uniform_has_the_same_colour_in_any_two_photos():
    first, second = ramp(), uniform(value=0.5)
    first[3, 5] = second[3, 5] = 1
    np.testing.assert_array_equal(heatmap(first, Style())[3, 5], heatmap(second, Style())[3, 5])
    style = Style(scale="min_max")
    assert np.abs(heatmap(first, style)[3, 5].astype(int) - heatmap(second, style)[3, 5]).max() > 50


def test_hatching_is_a_grey_that_no_colour_map_contains():
    values = ramp()
    values[:, :20] = np.nan
    for colours in COLOURS:
        hatch = heatmap(values, Style(colours=colours))[:, :20].reshape(-1, 3).astype(int)
        assert (hatch.max(1) == hatch.min(1)).all()
        assert len(np.unique(hatch)) == 2
        assert np.abs(hatch[:, None] - colour_table(colours)[:, 0].astype(int)).max(-1).min() > 20


# --------------------------------------------------------------------------------------------------- overlays


def test_without_opacity_the_photo_comes_back():
    np.testing.assert_array_equal(overlay(noise(), ramp(), Style(opacity=0.0)), noise())


def test_at_uniform_and_below_the_photo_shows_through():
    photo, drawn = noise(), overlay(noise(), ramp(), Style())
    below = ramp()[0] <= 1
    np.testing.assert_array_equal(drawn[:, below], photo[:, below])
    assert (drawn[:, ~below] != photo[:, ~below]).any(-1).mean() > 0.9


def test_constant_opacity_mixes_photo_and_colour_by_hand():
    style = Style(opacity=0.25, follow=False, contours=False)
    expected = 0.75 * noise() + 0.25 * heatmap(ramp(), style)
    assert np.abs(overlay(noise(), ramp(), style) - expected).max() <= 1.5  # two roundings


def test_full_opacity_at_the_top_hides_the_photo():
    drawn = overlay(noise(), ramp(), Style(opacity=1.0, colours="turbo"))
    np.testing.assert_array_equal(drawn[:, -1], np.tile(TOPS["turbo"], (H, 1)))


def test_a_pixel_depends_on_its_own_photo_and_weight_alone():
    dark, bright = plain((0, 0, 0)), plain((255, 255, 255))
    dark[7, 9] = bright[7, 9] = (10, 120, 200)
    weak, strong = uniform(value=0.2), ramp()
    weak[7, 9] = strong[7, 9] = 4
    style = Style(contours=False)
    np.testing.assert_array_equal(overlay(dark, weak, style)[7, 9], overlay(bright, strong, style)[7, 9])


def test_never_seen_keeps_the_hue_of_the_photo_and_is_dimmed():
    photo = plain((200, 40, 120))
    for style in (Style(), Style(scale="min_max"), Style(follow=False), Style(colours="jet", opacity=1.0)):
        values = ramp()
        values[:, -30:] = np.nan
        drawn = overlay(photo, values, style)[5, -10] / 255
        hue, saturation, brightness = colorsys.rgb_to_hsv(*(photo[5, -10] / 255))
        assert colorsys.rgb_to_hsv(*drawn)[0] == pytest.approx(hue, abs=0.02)
        assert colorsys.rgb_to_hsv(*drawn)[1] < saturation
        assert colorsys.rgb_to_hsv(*drawn)[2] < brightness


def test_never_seen_is_drawn_the_same_whatever_the_map_says_elsewhere():
    first, second = ramp(), uniform(value=0.1)
    first[:9] = second[:9] = np.nan
    np.testing.assert_array_equal(overlay(noise(), first, Style())[:9], overlay(noise(), second, Style())[:9])


def test_arguments_are_left_as_they_were():
    photo, values = noise(), ramp()
    values[:5] = np.nan
    before = photo.copy(), values.copy()
    for style in (Style(), Style(scale="min_max"), Style(longest=30)):
        overlay(photo, values, style, mark=(20.0, 30.0))
        overlay(photo, values, style, mark=Box(3.0, 4.0, 20.0, 30.0))
        heatmap(values, style)
        panel(photo, values, style, "title", [("query", "mean")], mark=(20.0, 30.0))
    np.testing.assert_array_equal(photo, before[0])
    np.testing.assert_array_equal(values, before[1])


def test_read_only_and_strided_pixels_are_fine():
    photo = noise(2 * H, 2 * W)[::2, ::-2]
    photo.flags.writeable = False
    expected = overlay(np.ascontiguousarray(photo), ramp(), Style())
    np.testing.assert_array_equal(overlay(photo, ramp()[::-1][::-1], Style()), expected)
    np.testing.assert_array_equal(overlay(photo, ramp().astype(np.float64), Style()), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (37, 2000), (2000, 37)])
def test_every_shape_can_be_drawn(size):
    for style in (Style(), Style(scale="min_max"), Style(longest=50)):
        drawn = overlay(noise(*size), ramp(*size), style, mark=(size[0] / 2, size[1] / 2))
        assert drawn.shape[:2] == size if style.longest is None else max(drawn.shape) <= 50
        assert panel(noise(*size), ramp(*size), style, "photo").shape[1] <= 3 * 480 + 2 * 20 + 2 * 32


def test_longest_caps_the_picture_and_keeps_its_shape():
    assert overlay(noise(), ramp(), Style(longest=56)).shape == (24, 56, 3)
    assert overlay(noise(), ramp(), Style(longest=500)).shape == (H, W, 3)


def test_a_photo_of_twelve_megapixels_is_drawn_in_bytes_not_in_floats():
    photo, values = np.zeros((3000, 4000, 3), np.uint8), ramp(3000, 4000)
    tracemalloc.start()
    try:
        assert overlay(photo, values, Style(), mark=(1500.0, 2000.0)).shape == photo.shape
        assert tracemalloc.get_traced_memory()[1] < 6 * photo.nbytes  # colours in floats alone are 4 more
    finally:
        tracemalloc.stop()


def test_min_max_is_written_on_the_picture():
    corner = np.s_[-15:, :30]
    plainly = overlay(plain((90, 90, 90), 300, 400), uniform(300, 400), Style())[corner]
    labelled = overlay(
        plain((90, 90, 90), 300, 400), uniform(300, 400, 1.0), Style(scale="min_max", opacity=0.0)
    )[corner]
    assert (plainly == 90).all()
    assert labelled.max() > 200 and labelled.min() < 40


def test_the_picture_has_every_cell_s_own_colour_at_its_centre():
    cells = cells_of()
    # 11 pixels a cell: the middle one is the centre
    levels = pixel_levels(cells, Style(), (55, 77), placed((5, 7), (55, 77)))
    expected = [[(math.log2(value) + 2) / 8 for value in row] for row in cells.tolist()]
    np.testing.assert_allclose(levels[5::11, 5::11], expected, atol=1e-6)


def test_between_two_cells_it_is_their_logarithms_that_are_interpolated():
    levels = pixel_levels(np.array([[1, 1, 16, 16]], np.float32), Style(), (1, 44), placed((1, 4), (1, 44)))
    half_way = (levels[0, 21] + levels[0, 22]) / 2
    # 4 times uniform, where linear interpolation has 8.5
    assert half_way == pytest.approx((0.25 + 0.75) / 2, abs=1e-6)


def test_the_logarithms_follow_catmull_and_rom_s_cubic():
    values = [0.5, 8.0, 2.0, 32.0, 1.0]
    points = [(math.log2(value) + 2) / 8 for value in values]
    levels = pixel_levels(np.array([values], np.float32), Style(), (1, 50), placed((1, 5), (1, 50)))
    for pixel in range(15, 35):  # between the second and the fourth centre
        position = (pixel + 0.5 - 5) / 10
        cell, t = int(position), position - int(position)
        before, current, after, next_ = points[cell - 1 : cell + 3]
        expected = 0.5 * (
            2 * current + (after - before) * t
            + (2 * before - 5 * current + 4 * after - next_) * t**2
            + (3 * current - before - 3 * after + next_) * t**3
        )  # fmt: skip
        assert levels[0, pixel] == pytest.approx(min(expected, max(points)), abs=1e-5)


@pytest.mark.parametrize("style", [Style(), Style(scale="min_max")], ids=["times_uniform", "min_max"])
def test_a_mirrored_map_has_a_mirrored_picture_and_a_turned_one_a_turned(style):
    cells, size = cells_of(), (61, 83)
    levels = pixel_levels(cells, style, size, placed((5, 7), size))
    np.testing.assert_allclose(
        pixel_levels(cells[:, ::-1], style, size, placed((5, 7), size)), levels[:, ::-1], atol=1e-5
    )
    np.testing.assert_allclose(
        pixel_levels(cells[::-1], style, size, placed((5, 7), size)), levels[::-1], atol=1e-5
    )
    np.testing.assert_allclose(
        pixel_levels(cells.T, style, size[::-1], placed((7, 5), size[::-1])), levels.T, atol=1e-5
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_pixel_is_hotter_or_colder_than_every_cell(seed):
    cells = cells_of(seed=seed)
    for style in (Style(), Style(scale="min_max")):
        levels, points = (
            pixel_levels(cells, style, (60, 90), placed((5, 7), (60, 90))),
            to_levels(cells, style),
        )
        assert levels.min() >= points.min() and levels.max() <= points.max()


def test_cells_without_weight_lie_at_the_cold_end():
    cells = np.array([[0, 0, 12, 0, 0, 0]], np.float32)  # sparsemax
    levels = pixel_levels(cells, Style(), (1, 66), placed((1, 6), (1, 66)))
    assert np.isfinite(levels).all() and levels[0, 0] == levels[0, -1] == 0
    assert levels[0, 27] == pytest.approx((math.log2(12) + 2) / 8, abs=1e-6)


def test_beyond_the_outer_cells_the_picture_is_level():
    size = (60, 80)
    levels = pixel_levels(
        cells_of((2, 3)), Style(), size, placed((2, 3), size, first=(25.0, 30.0), step=(10.0, 10.0))
    )
    assert (levels[:25] == levels[0]).all() and (levels[35:] == levels[-1]).all()
    assert (levels[:, :30] == levels[:, :1]).all() and (levels[:, 50:] == levels[:, -1:]).all()


def test_one_cell_colours_the_whole_photo_evenly():
    np.testing.assert_allclose(
        pixel_levels(np.full((1, 1), 4.0), Style(), (30, 40), placed((1, 1), (30, 40))), 0.5, atol=1e-6
    )


def bend(levels):
    """The sharpest change of slope from one pixel to the next, in levels."""
    return max(np.abs(np.diff(levels, 2, axis=axis)).max() for axis in (0, 1))


def test_peaks_have_no_rectangular_edges():
    cells, size = np.full((7, 10), 1 / 50, np.float32), (448, 640)  # one face among cold cells
    cells[3, 4] = cells[3, 5] = 30
    placement = placed((7, 10), size)
    by_log = pixel_levels(cells, Style(), size, placement)
    rows, columns = (
        np.maximum(
            0,
            1
            - np.abs(np.clip((np.arange(pixels) + 0.5) / 64 - 0.5, 0, count - 1)[:, None] - np.arange(count)),
        )
        for pixels, count in ((448, 7), (640, 10))
    )
    # bilinear, then coloured on a logarithmic scale: until version 0.7
    by_value = to_levels(rows @ cells @ columns.T, Style())
    assert bend(by_value) > 10 * bend(by_log)
    assert np.abs(np.diff(by_log, axis=1)).max() < 0.03 < np.abs(np.diff(by_value, axis=1)).max()


def test_never_seen_stays_never_seen():
    placement = Placement((20.0, 20.0), (20.0, 20.0), (3, 3), (60, 100), Box(0.0, 0.0, 60.0, 70.0))
    levels = pixel_levels(cells_of((3, 3)), Style(), (60, 100), placement)
    assert np.isnan(levels[:, 70:]).all() and np.isfinite(levels[:, :70]).all()
    hatch = heatmap(cells_of((3, 3)), Style(), placement)[:, 70:]
    assert (hatch.max(-1) == hatch.min(-1)).all()


def test_min_max_names_and_shows_the_cells_own_limits():
    cells, size = cells_of(), (55, 77)
    levels = pixel_levels(cells, Style(scale="min_max"), size, placed((5, 7), size))
    row, column = np.unravel_index(cells.argmax(), cells.shape)
    assert levels[5 + 11 * row, 5 + 11 * column] == pytest.approx(1, abs=1e-6)
    row, column = np.unravel_index(cells.argmin(), cells.shape)
    assert levels[5 + 11 * row, 5 + 11 * column] == pytest.approx(0, abs=1e-6)


# --------------------------------------------------------------------------------------------------- contours


def test_lines_run_where_the_map_passes_4_and_16_times_uniform():
    values = ramp(61, 801, 1 / 4, 64.0)  # 100 pixels an octave: 4 at 400, 16 at 600
    lined, bare = (
        overlay(plain((90, 90, 90), 61, 801), values, Style(contours=given)) for given in (True, False)
    )
    changed = np.flatnonzero((lined != bare).any((0, 2)))
    assert {*changed} <= {*range(397, 405), *range(597, 605)}
    assert min(lined[30, 398:403].min(-1).max(), lined[30, 598:603].min(-1).max()) > 200


def test_a_line_that_leaves_the_picture_does_not_run_along_its_edge():
    lined, bare = (
        overlay(plain((90, 90, 90), 61, 801), ramp(61, 801, 1 / 4, 64.0), Style(contours=given))
        for given in (True, False)
    )
    np.testing.assert_array_equal(lined[:, 610:], bare[:, 610:])


def test_a_map_below_four_times_uniform_has_no_lines():
    values = ramp(low=1 / 4, high=3.9)
    np.testing.assert_array_equal(
        overlay(noise(), values, Style()), overlay(noise(), values, Style(contours=False))
    )


# ------------------------------------------------------------------------------------------------------ marks


def changed(mark, size=None, height=301, width=403, **style):
    """Rows and columns of the pixels that the mark changes; at uniform nothing else does."""
    drawn = overlay(plain((128, 128, 128), height, width), uniform(height, width), Style(**style), mark, size)
    return np.argwhere((drawn != 128).any(-1)), drawn


def test_a_point_is_marked_at_its_pixel():
    where, _ = changed((100.5, 251.5))  # the centre of pixel (100, 251)
    np.testing.assert_allclose(where.mean(0), (100, 251), atol=0.05)


def test_a_point_stays_visible_under_its_mark():
    _, drawn = changed((100.5, 251.5))
    assert (drawn[100, 251] == 128).all()


def test_a_box_is_marked_along_its_edges():
    where, drawn = changed(Box(40.0, 60.0, 100.0, 200.0))
    np.testing.assert_allclose(where.mean(0), (40 + 50 - 0.5, 60 + 100 - 0.5), atol=0.05)
    assert np.abs(where.min(0) - (40, 60)).max() <= 3 and np.abs(where.max(0) - (139, 259)).max() <= 3
    assert (drawn[90, 160] == 128).all()


def test_on_a_photo_decoded_reduced_marks_are_where_the_original_has_them():
    where, _ = changed((400.0, 1000.0), size=(4 * 301, 4 * 403))
    np.testing.assert_allclose(where.mean(0), (99.5, 249.5), atol=0.05)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_marks_are_dark_and_light_and_so_seen_on_any_background(background):
    for mark in ((150.0, 200.0), Box(40.0, 60.0, 100.0, 200.0)):
        drawn = overlay(plain((background,) * 3, 301, 403), uniform(301, 403), Style(), mark)
        assert drawn.max() > 200 and drawn.min() < 60


def test_marks_grow_with_the_picture():
    assert len(changed((750.0, 1000.0), height=1500, width=2000)[0]) > 10 * len(
        changed((150.0, 200.0), height=300, width=400)[0]
    )


def test_marks_can_be_left_out():
    assert len(changed((100.0, 100.0), marks=False)[0]) == 0


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_min_max_label_leaves_a_marked_point_visible(corner):
    style, grey = Style(scale="min_max", opacity=0.0), plain((128, 128, 128), 300, 400)
    mark = (6.0 + 288 * corner[0], 6.0 + 388 * corner[1])
    marked, unlabelled = (
        overlay(grey, uniform(300, 400), style, mark),
        overlay(grey, uniform(300, 400), Style(opacity=0.0), mark),
    )
    where = (unlabelled != 128).any(-1)
    np.testing.assert_array_equal(marked[where], unlabelled[where])
    assert ((marked != 128).any(-1) & ~where).sum() > 300  # and the label is there


def test_a_receptive_field_that_is_the_whole_photo_is_named_and_not_framed():
    grey, whole = plain((128, 128, 128), 300, 400), Box(0.0, 0.0, 300.0, 400.0)
    drawn = overlay(grey, uniform(300, 400), Style(field=True), field=whole)
    assert (drawn[:250] == 128).all() and (drawn[:, 390:] == 128).all()
    assert (drawn[-18:, :40] != 128).any()
    smaller = overlay(grey, uniform(300, 400), Style(field=True), field=Box(0.0, 0.0, 300.0, 350.0))
    assert (smaller[:, 340:360] != 128).any()


@pytest.mark.parametrize(
    "mark", [(-50.0, 1e5), (-16.0, 200.0), (150.0, 419.0), Box(-20.0, -20.0, 1000.0, 1000.0)]
)
def test_a_mark_that_lies_outside_the_picture_changes_no_pixel(mark):
    # In a picture of 301 x 403 a tick ends 1.7 * 301 / 40 = 12.8 pixels from its point, its brush 1.5 later.
    assert len(changed(mark)[0]) == 0


@pytest.mark.parametrize("down, across", [(2, 200), (298, 60), (150, 3), (4, 400), (299, 1)])
def test_of_a_ring_at_the_edge_the_part_inside_is_drawn(down, across):
    _, drawn = changed((down + 0.5, across + 0.5))
    radius = 301 / 40
    counted = 0
    for row in range(301):
        for column in range(403):
            distance = math.hypot(row - down, column - across)
            near_a_tick = min(abs(row - down), abs(column - across)) <= 2
            if abs(distance - radius) <= 0.25:  # on the light line, one pixel wide
                assert (drawn[row, column] > 128).all()
                counted += 1
            if 1 <= abs(distance - radius) <= 1.4 and not near_a_tick:  # on the dark one under it, three wide
                assert (drawn[row, column] < 128).all()
            if distance > 1.7 * radius + 3 or distance < 0.55 * radius - 3:
                assert (drawn[row, column] == 128).all()
    assert counted >= 3


def test_a_box_that_begins_outside_has_its_other_edges_where_they_are():
    _, drawn = changed(Box(-30.0, -40.0, 130.0, 240.0))  # ends before row 100 and column 200
    light, dark = drawn > 200, drawn < 100
    assert light[99, 1:199].all() and light[1:99, 199].all()
    assert (
        dark[98, 1:197].all() and dark[100, 1:197].all() and dark[1:97, 198].all() and dark[1:97, 200].all()
    )
    inside, outside = drawn[:95, :195], np.concatenate([drawn[104:].ravel(), drawn[:, 204:].ravel()])
    assert (inside == 128).all() and (outside == 128).all()


# ------------------------------------------------------------------------------------------------------ files


def test_encoded_bytes_are_the_format_that_was_asked():
    magic = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG", "webp": b"RIFF"}
    for format, start in magic.items():
        assert encode(noise(), format).startswith(start)
    assert len(encode(noise(), "jpg", 50)) < len(encode(noise(), "jpg", 95))
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(encode(noise(), "png"), np.uint8), cv2.IMREAD_COLOR)[..., ::-1], noise()
    )


def test_a_picture_too_large_for_its_format_says_what_to_do():
    with pytest.raises(ValueError, match="17000x1 does not fit a webp file"):
        encode(noise(1, 17000), "webp")


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="'gif' is not known; choose one of jpg, png, webp"):
        write(tmp_path / "picture.gif", noise())
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_leaves_the_old_picture_and_nothing_else(tmp_path):
    write(tmp_path / "picture.png", plain((1, 2, 3)))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    # writing beyond fails half-way, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / "picture.png", noise(200, 200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    np.testing.assert_array_equal(read(tmp_path / "picture.png")[0, 0], (1, 2, 3))


def test_a_new_picture_takes_the_place_of_the_old_in_one_step(tmp_path):
    write(tmp_path / "picture.png", plain((1, 2, 3)))
    (tmp_path / "reader.png").hardlink_to(tmp_path / "picture.png")  # as one who has the old file open
    write(tmp_path / "picture.png", plain((4, 5, 6)))
    np.testing.assert_array_equal(read(tmp_path / "reader.png")[0, 0], (1, 2, 3))
    np.testing.assert_array_equal(read(tmp_path / "picture.png")[0, 0], (4, 5, 6))


def test_a_folder_that_cannot_be_written_raises_oserror(tmp_path):
    with pytest.raises(OSError):  # noqa: PT011 - which of its kinds is the system's affair
        write(tmp_path / "absent" / "picture.png", noise())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):  # noqa: PT011
        write(tmp_path / "file" / "picture.png", noise())


def test_a_name_as_long_as_the_file_system_allows(tmp_path):
    for name in ("n" * 251 + ".jpg", "照" * 83 + ".png"):  # 255 and 253 bytes
        write(tmp_path / name, noise())
        assert read(tmp_path / name).shape == noise().shape


# ------------------------------------------------------------------------------------------------------ style


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"colours": "rainbow"}, "colours 'rainbow' is not known; choose one of scorch, turbo, viridis"),
        ({"scale": "minmax"}, "scale 'minmax' is not known; choose one of times_uniform, min_max"),
        ({"format": "gif"}, "format 'gif' is not known; choose one of jpg, png, webp"),
        ({"low": 2.0}, "do not enclose uniform"),
        ({"low": 0.0}, "do not enclose uniform"),
        ({"high": 1.0}, "do not enclose uniform"),
        ({"high": math.inf}, "do not enclose uniform"),
        ({"low": math.nan}, "do not enclose uniform"),
        ({"opacity": 1.5}, "opacity 1.5 lies outside"),
        ({"quality": 0}, "quality 0 lies outside"),
        ({"longest": 0}, "longest 0 leaves no pixel"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        Style(**settings)
    assert "\n" not in str(caught.value)


def test_lab_becomes_the_rgb_that_opencv_makes_of_it():
    lab = np.random.default_rng(0).uniform((0, -60, -60), (100, 80, 80), (500, 3))
    expected = cv2.cvtColor(lab[:, None].astype(np.float32), cv2.COLOR_Lab2RGB)[:, 0].clip(0, 1)
    np.testing.assert_allclose(lab_to_rgb(lab), expected, atol=2e-3)
    np.testing.assert_allclose(
        lab_to_rgb(np.array([[0.0, 0, 0], [100, 0, 0]])), [[0] * 3, [1] * 3], atol=1e-3
    )


def test_where_a_map_is_no_chance_there_is_a_blue_line_around_it():
    placement = Placement((5.0, 5.0), (10.0, 10.0), (9, 13), (90, 130), Box(0.0, 0.0, 90.0, 130.0))
    photo, values = np.full((90, 130, 3), 60, np.uint8), np.full((9, 13), 0.5, np.float32)
    excess = np.full((9, 13), -1, np.float32)
    excess[2:5, 3:8] = 1  # rows 20 ... 50, columns 30 ... 80
    style = Style()
    bare = overlay(photo, values, style, placement=placement)
    picture = overlay(photo, values, style, placement=placement, excess=excess)
    is_blue = (picture[..., 2] > 180) & (picture[..., 0] < 120)
    assert not ((bare[..., 2] > 180) & (bare[..., 0] < 120)).any()
    rows, columns = np.nonzero(is_blue)
    assert abs(rows.min() - 20) <= 3 and abs(rows.max() - 50) <= 3
    assert abs(columns.min() - 30) <= 3 and abs(columns.max() - 80) <= 3
    assert not is_blue[28:42, 38:72].any(), "a line, not a fill"
    assert np.array_equal(overlay(photo, values, style, placement=placement, excess=-1 - 0 * excess), bare)
    waves = np.where(np.indices((9, 13)).sum(0) % 2, -1e-3, -1).astype(np.float32)  # bicubic swings above 0
    assert np.array_equal(overlay(photo, values, style, placement=placement, excess=waves), bare)
    plain = Style(contours=False)
    assert not np.array_equal(picture, overlay(photo, values, plain, placement=placement, excess=excess))
