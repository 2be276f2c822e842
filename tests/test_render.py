"""Pictures: the expected colours come from the colour maps' publications, the blends from arithmetic by hand."""

import colorsys
import math
import resource
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from attnvis.render import Style, colour_bar, contact_sheet, encode, heatmap, level, overlay, panel, table, write
from attnvis.values import Box

H, W = 48, 112  # wide, and no multiple of the other: a transposed axis cannot pass unnoticed
TOPS = {  # matplotlib's tables, last entry, 0 ... 255
    "turbo": (122, 4, 3),
    "jet": (128, 0, 0),
    "viridis": (253, 231, 37),
    "magma": (252, 253, 191),
    "inferno": (252, 255, 164),
    "plasma": (240, 249, 33),
    "cividis": (254, 232, 56),
}


def ramp(height=H, width=W, low=1 / 32, high=64.0):
    """Grows from left to right, beyond both limits of the default style."""
    return np.exp2(np.linspace(math.log2(low), math.log2(high), width, dtype=np.float32))[None].repeat(height, 0)


def noise(height=H, width=W, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(colour, height=H, width=W):
    return np.full((height, width, 3), colour, np.uint8)


def uniform(height=H, width=W, value=1.0):
    return np.full((height, width), value, np.float32)


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# ---------------------------------------------------------------------------------------------- levels


def test_levels_are_log2_between_the_limits():
    values = np.array([[1 / 8, 1 / 4, 1, 3, 16]], np.float32)
    expected = [(math.log2(value) + 3) / 7 for value in values[0].tolist()]
    np.testing.assert_allclose(level(values, Style())[0], expected, atol=1e-6)


def test_levels_stop_at_the_limits():
    np.testing.assert_allclose(level(np.array([[0, 1e-9, 17, 1e9]], np.float32), Style()), [[0, 0, 1, 1]], atol=1e-6)


def test_min_max_levels_span_each_photo():
    np.testing.assert_allclose(level(np.array([[2, 3], [4, 6]], np.float32), Style(scale="min_max")), [[0, 0.25], [0.5, 1]])


def test_never_seen_stays_nan_and_does_not_move_the_limits():
    values = np.array([[np.nan, 3], [4, 5]], np.float32)
    for style in (Style(), Style(scale="min_max")):
        np.testing.assert_array_equal(np.isnan(level(values, style)), [[True, False], [False, False]])
    np.testing.assert_allclose(level(values, Style(scale="min_max"))[1], [0.5, 1])
    assert np.isnan(level(uniform(value=np.nan), Style(scale="min_max"))).all()


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.0, 1e9])
def test_a_constant_map_gets_the_middle_colour_under_min_max(constant):
    np.testing.assert_allclose(level(uniform(value=constant), Style(scale="min_max")), 0.5)


def test_rounding_noise_is_not_stretched_into_a_picture():
    values = uniform() + np.random.default_rng(0).uniform(-1e-7, 1e-7, (H, W)).astype(np.float32)
    np.testing.assert_allclose(level(values, Style(scale="min_max")), 0.5, atol=1e-6)


# ---------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("colours, top", TOPS.items())
def test_the_hottest_pixel_has_the_published_top_colour(colours, top):
    np.testing.assert_array_equal(heatmap(ramp(), Style(colours=colours))[0, -1], top)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "PNG"])
@pytest.mark.parametrize("draw", [heatmap, lambda values, style: overlay(plain((60, 90, 200)), values, style)], ids=["heatmap", "overlay"])
def test_in_the_written_file_hot_is_red_and_cold_is_blue(tmp_path, suffix, draw):
    write(tmp_path / f"picture.{suffix}", draw(ramp(), Style()))
    written = read(tmp_path / f"picture.{suffix}").astype(int)
    hottest, coldest = written[H // 2, -2], written[H // 2, 1]
    assert hottest[0] > hottest[2] + 30
    assert coldest[2] > coldest[0]


def test_png_keeps_every_colour(tmp_path):
    write(tmp_path / "picture.png", heatmap(ramp(), Style()))
    np.testing.assert_array_equal(read(tmp_path / "picture.png")[0, -1], TOPS["turbo"])


def test_uniform_has_the_same_colour_in_any_two_photos():
    one, two = ramp(), uniform(value=0.5)
    one[3, 5] = two[3, 5] = 1
    np.testing.assert_array_equal(heatmap(one, Style())[3, 5], heatmap(two, Style())[3, 5])
    style = Style(scale="min_max")
    assert np.abs(heatmap(one, style)[3, 5].astype(int) - heatmap(two, style)[3, 5]).max() > 50


def test_hatching_is_a_grey_that_no_colour_map_contains():
    values = ramp()
    values[:, :20] = np.nan
    for colours in TOPS:
        hatch = heatmap(values, Style(colours=colours))[:, :20].reshape(-1, 3).astype(int)
        assert (hatch.max(1) == hatch.min(1)).all()
        assert len(np.unique(hatch)) == 2
        assert np.abs(hatch[:, None] - table(colours)[:, 0].astype(int)).max(-1).min() > 20


# ---------------------------------------------------------------------------------------------- overlays


def test_without_opacity_the_photo_comes_back():
    np.testing.assert_array_equal(overlay(noise(), ramp(), Style(opacity=0.0)), noise())


def test_at_uniform_and_below_the_photo_shows_through():
    photo, drawn = noise(), overlay(noise(), ramp(), Style())
    below = ramp()[0] <= 1
    np.testing.assert_array_equal(drawn[:, below], photo[:, below])
    assert (drawn[:, ~below] != photo[:, ~below]).any(-1).mean() > 0.9


def test_constant_opacity_mixes_photo_and_colour_by_hand():
    style = Style(opacity=0.25, follow=False)
    expected = 0.75 * noise() + 0.25 * heatmap(ramp(), style)
    assert np.abs(overlay(noise(), ramp(), style) - expected).max() <= 1.5  # two roundings


def test_full_opacity_at_the_top_hides_the_photo():
    np.testing.assert_array_equal(overlay(noise(), ramp(), Style(opacity=1.0))[:, -1], np.tile(TOPS["turbo"], (H, 1)))


def test_a_pixel_depends_on_its_own_photo_and_weight_alone():
    dark, bright = plain((0, 0, 0)), plain((255, 255, 255))
    dark[7, 9] = bright[7, 9] = (10, 120, 200)
    weak, strong = uniform(value=0.2), ramp()
    weak[7, 9] = strong[7, 9] = 4
    np.testing.assert_array_equal(overlay(dark, weak, Style())[7, 9], overlay(bright, strong, Style())[7, 9])


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
    one, two = ramp(), uniform(value=0.1)
    one[:9] = two[:9] = np.nan
    np.testing.assert_array_equal(overlay(noise(), one, Style())[:9], overlay(noise(), two, Style())[:9])


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


def test_a_photo_of_twelve_megapixels_is_drawn_in_a_moment():
    photo, values = np.zeros((3000, 4000, 3), np.uint8), ramp(3000, 4000)
    overlay(photo[:10], values[:10], Style())
    start = time.process_time()
    assert overlay(photo, values, Style(), mark=(1500.0, 2000.0)).shape == photo.shape
    assert time.process_time() - start < 1  # about .06 s; a float or per-row way of drawing takes several


def test_min_max_is_written_on_the_picture():
    corner = np.s_[-15:, :30]
    plainly = overlay(plain((90, 90, 90), 300, 400), uniform(300, 400), Style())[corner]
    labelled = overlay(plain((90, 90, 90), 300, 400), uniform(300, 400, 1.0), Style(scale="min_max", opacity=0.0))[corner]
    assert (plainly == 90).all()
    assert labelled.max() > 200 and labelled.min() < 40


# ---------------------------------------------------------------------------------------------- marks


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


def test_marks_are_in_coordinates_of_the_original_where_the_photo_was_decoded_reduced():
    where, _ = changed((400.0, 1000.0), size=(4 * 301, 4 * 403))
    np.testing.assert_allclose(where.mean(0), (99.5, 249.5), atol=0.05)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_marks_are_dark_and_light_and_so_seen_on_any_background(background):
    for mark in ((150.0, 200.0), Box(40.0, 60.0, 100.0, 200.0)):
        drawn = overlay(plain((background,) * 3, 301, 403), uniform(301, 403), Style(), mark)
        assert drawn.max() > 200 and drawn.min() < 60


def test_marks_grow_with_the_picture():
    assert len(changed((750.0, 1000.0), height=1500, width=2000)[0]) > 10 * len(changed((150.0, 200.0), height=300, width=400)[0])


def test_marks_can_be_left_out():
    assert len(changed((100.0, 100.0), marks=False)[0]) == 0


def test_marks_beyond_the_edge_do_no_harm():
    changed((-50.0, 1e5))
    changed(Box(-20.0, -20.0, 1000.0, 1000.0))


# ---------------------------------------------------------------------------------------------- words


def test_the_colour_bar_runs_from_cold_to_hot_and_marks_uniform():
    bar = colour_bar(Style(), 701)
    np.testing.assert_array_equal(bar[30, -1], TOPS["turbo"])
    np.testing.assert_array_equal(bar[30, 0], (48, 18, 59))
    at = 700 * 3 // 7  # log2(1) lies 3/7 of the way from log2(1/8) to log2(16)
    assert (bar[44, at - 2 : at + 2].max(-1) < 100).any()
    assert (bar[44, at + 10 : at + 60] > 200).all()


@pytest.mark.parametrize("width", [1, 60, 240, 2000])
@pytest.mark.parametrize("limits", [(1 / 8, 16.0), (0.3, 5.0), (1.0, 1.5), (1e-9, 1e9)])
def test_a_colour_bar_of_any_width_and_limits(width, limits):
    for scale in ("times_uniform", "min_max"):
        assert colour_bar(Style(scale=scale, low=limits[0], high=limits[1]), width).shape == (68, width, 3)


def alarms(picture):
    """How many pixels have the colour of a banner."""
    return (picture == (255, 233, 214)).all(-1).sum()


def test_a_warning_is_a_banner_across_the_panel():
    spoken = panel(noise(), ramp(), Style(), "photo", [("query", "mean")])
    warned = panel(noise(), ramp(), Style(), "photo", iter([("query", "mean"), ("warning", "RANDOM WEIGHTS")]))
    assert alarms(spoken) == 0
    assert alarms(warned) > 20 * warned.shape[1]


@pytest.mark.parametrize("text", ["", "照片-été.jpg", "a\nb\tc\x00", "x" * 5000, "\ud800broken", "😀 🏳️‍🌈", "<b>&amp;</b>", "%s %d {0}"])
def test_any_text_can_be_written_on_a_panel(text):
    assert panel(noise(), ramp(), Style(), text, [(text, text), ("warning", text)]).shape[2] == 3


def test_a_panel_of_never_seen_pixels_can_be_drawn():
    panel(noise(), uniform(value=np.nan), Style())
    panel(noise(), uniform(value=np.nan), Style(scale="min_max"))


def test_a_panel_shows_photo_heatmap_and_overlay():
    photo = noise(240, 480)
    drawn = panel(photo, ramp(240, 480), Style(opacity=1.0), "title")
    top = next(row for row in range(len(drawn)) if (drawn[row, 32 : 32 + 480] == photo[0]).all())
    body = drawn[top : top + 240]
    np.testing.assert_array_equal(body[:, 32 : 32 + 480], photo)
    np.testing.assert_array_equal(body[:, 532 : 532 + 480], heatmap(ramp(240, 480), Style()))
    np.testing.assert_array_equal(body[:, 1032 : 1032 + 480], overlay(photo, ramp(240, 480), Style(opacity=1.0)))


def test_a_contact_sheet_lays_tiles_out_in_rows():
    tiles = [(plain((10 * i, 100, 200), 40, 60), f"number {i}") for i in range(5)]
    sheet = contact_sheet(tiles, columns=3, side=60)
    found = [np.argwhere((sheet == (10 * i, 100, 200)).all(-1)) for i in range(5)]
    assert [len(where) for where in found] == [40 * 60] * 5
    corners = np.array([where.min(0) for where in found])
    assert len({*corners[:3, 0]}) == 1 and len({*corners[3:, 0]}) == 1 and corners[3, 0] > corners[0, 0] + 40
    assert list(corners[:3, 1]) == sorted({*corners[:3, 1]}) and corners[0, 1] == corners[3, 1]
    assert contact_sheet([]).ndim == 3
    assert len(contact_sheet(tiles, style=Style(), title="Five")) > len(contact_sheet(tiles))


# ---------------------------------------------------------------------------------------------- files


def test_encoded_bytes_are_the_format_that_was_asked():
    magic = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG", "webp": b"RIFF"}
    for format, start in magic.items():
        assert encode(noise(), format).startswith(start)
    assert len(encode(noise(), "jpg", 50)) < len(encode(noise(), "jpg", 95))
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(encode(noise(), "png"), np.uint8), cv2.IMREAD_COLOR)[..., ::-1], noise())


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
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))  # writing beyond fails half-way, as on a full disk
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
    write(tmp_path / ("n" * 251 + ".jpg"), noise())
    write(tmp_path / ("照" * 83 + ".png"), noise())


# ---------------------------------------------------------------------------------------------- style


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"colours": "rainbow"}, "colours 'rainbow' is not known; choose one of turbo, viridis"),
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
