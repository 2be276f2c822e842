"""PNGs written by hand: four fields of known colour in every depth, colour type and space; and profiles."""

import struct
import zlib

import numpy as np
import pytest
from fake_pictures import NEEDS_AVIF, STORED, encode, largest_difference, load_error, noise, scene
from fake_pngs import (
    SPACES,
    Case,
    chunk,
    every_case,
    exif,
    grey_profile,
    in_srgb,
    p3_profile,
    quadrants,
    shown_corners,
    stored_corners,
    write_png,
)
from PIL import Image, ImageCms

from attnvis.data.decoding import load


@pytest.mark.parametrize("space", SPACES)
def test_every_png_is_shown_as_it_was_written(space, capfd):
    cases = [case for case in every_case() if case.space == space]
    assert len(cases) == 52
    for case in cases:
        stored = np.ascontiguousarray(STORED[case.orientation](quadrants(stored_corners(case))))
        photo = load(write_png(case, stored))
        assert largest_difference(photo.pixels, quadrants(shown_corners(case))) <= 1.6, case
        assert any("PQ" in note for note in photo.notes) == (space == "cICP PQ")
        is_grey = case.colour in (0, 4)
        assert ("Display P3 to sRGB" in photo.notes) == (
            space.endswith("P3") and not (is_grey and "iCCP" in space)
        )
    assert capfd.readouterr().err == ""


def test_plain_pngs_have_no_notes():
    assert load(write_png(Case())).notes == load(write_png(Case(3, 4, space="sRGB"))).notes == ()


def test_transparency_that_hides_nothing_is_not_said():
    picture = quadrants(np.dstack([stored_corners(Case()), np.full((2, 2), 255)]))
    assert load(write_png(Case(colour=6), picture)).notes == ()
    assert load(write_png(Case(colour=6))).notes == ("transparency on white",)


def test_megabytes_of_text_do_not_make_a_png_damaged():
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000)))
    unpacked = chunk(b"iTXt", b"Comment\0\0\0\0\0" + b"x" * 2_000_000)
    for more in (text, unpacked, text + unpacked):
        assert np.array_equal(load(write_png(Case(), more=more)).pixels, load(write_png(Case())).pixels)


def test_significant_bits_change_nothing_that_viewers_show():
    case = Case(0, 16)
    assert np.array_equal(
        load(write_png(case, more=chunk(b"sBIT", b"\x0c"))).pixels, load(write_png(case)).pixels
    )


def test_a_png_of_twelve_bits_is_said_and_can_be_brightened():
    for colour, channels in ((0, 1), (2, 3)):
        levels = quadrants(np.array([[0, 1360], [2720, 4080]]))[..., None].repeat(channels, 2)
        data = write_png(Case(colour, 16), levels)
        assert load(data).pixels[::28, ::36, 0].ravel().tolist() == [0, 5, 11, 16]
        assert load(data).notes[0].startswith("only 12 of 16 bits used")
        assert load(data, depth=12).pixels[::28, ::36, 0].ravel().tolist() == [0, 85, 169, 254]


def test_a_huge_png_of_16_bits_is_cut_to_8_which_is_said(monkeypatch):
    monkeypatch.setattr("attnvis.data.decoding.MOST_DEEP_PIXELS", 100)
    for colour in (2, 4, 6):
        photo = load(write_png(Case(colour, 16)))
        assert "16 bits cut to 8" in photo.notes
        assert largest_difference(photo.pixels, quadrants(shown_corners(Case(colour, 16)))) <= 2
    assert "preprocess.depth=12" in load_error(write_png(Case(2, 16)), depth=12)


def test_pixels_that_are_not_square_are_said():
    more = chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0))
    (note,) = load(write_png(Case(), more=more)).notes
    assert note.startswith("pixels not square")
    assert load(write_png(Case(), more=chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)))).notes == ()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_rows_that_a_png_lacks_are_grey_where_that_is_asked_for(orientation):
    picture = noise(60, 80)
    stored = np.ascontiguousarray(STORED[orientation](picture))
    whole = write_png(Case(), stored)
    head = chunk(b"eXIf", exif(orientation))
    whole = whole[:33] + head + whole[33 + len(chunk(b"eXIf", exif(1))) :]
    data = whole[: len(whole) // 2]
    assert "truncated PNG" in load_error(data) and "preprocess.truncated=take" in load_error(data)
    photo = load(data, truncated="take")
    missing = (photo.pixels == 128).all(2)
    assert 0.3 < missing.mean() < 0.7
    assert np.array_equal(photo.pixels[~missing], picture[~missing])
    assert photo.notes[-1].startswith("cut short: ") and "grey" in photo.notes[-1]
    assert load(whole, truncated="take").notes == ()


# Profiles


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 98, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        pytest.param("AVIF", {"quality": 98, "subsampling": "4:4:4"}, marks=NEEDS_AVIF),
    ],
)
def test_display_p3_is_shown_as_css_converts_it(kind, options):
    photo = load(encode(scene(), kind, icc_profile=p3_profile(), **options))
    expected = 255 * in_srgb(scene() / 255, "iCCP P3")
    is_lossy = "quality" in options
    assert np.abs(photo.pixels - expected).mean() < (1 if is_lossy else 0.3)
    assert "Display P3 to sRGB" in photo.notes
    assert np.abs(scene() - expected).mean() > 5  # the two differ to the eye


def test_what_is_srgb_by_its_profile_is_left_as_it_is():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert load(encode(scene(), "PNG", icc_profile=srgb)).notes == ()
    grey = Image.fromarray(scene()).convert("L")
    photo = load(encode(grey, "PNG", icc_profile=grey_profile()))
    assert photo.notes == () and np.array_equal(photo.pixels[..., 0], np.asarray(grey))


def test_a_profile_that_cannot_be_read_is_said_and_does_no_harm(capfd):
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        photo = load(encode(scene(), kind, icc_profile=b"junk" * 50, **options))
        assert photo.notes == ("its ICC profile cannot be read: taken for sRGB",)
        assert largest_difference(photo.pixels, scene()) == 0
    assert capfd.readouterr().err == ""


def test_cmyk_without_a_profile_is_said_to_be_approximate():
    for kind in ("JPEG", "TIFF"):
        photo = load(encode(Image.fromarray(scene()).convert("CMYK"), kind))
        assert photo.notes == ("CMYK without a profile: colours are approximate",)
