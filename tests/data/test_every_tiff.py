"""TIFFs written by hand: four fields of known colour in every depth, kind of channels, layout and codec."""

from dataclasses import replace

import numpy as np
import pytest
from fake_pictures import STORED, load_error
from fake_tiffs import DEPTHS, KINDS, Case, every_case, quadrants, shown_corners, stored_corners, write_tiff

from attnvis.data.decoding import load

ROUNDING = {
    "CIELAB": {"u8": 12, "u16": 2},
    "ICCLAB": {"u8": 12, "u16": 2},
}  # a level of b is 12 of sRGB's near blue


def shown(case: Case, **settings) -> np.ndarray:
    return load(write_tiff(case), **settings).pixels


def require_shown(case: Case) -> None:
    """That a case is read as its construction says, turned as its orientation says."""
    stored = np.ascontiguousarray(STORED[case.orientation](quadrants(stored_corners(case))))
    pixels = load(write_tiff(case, stored)).pixels
    difference = np.abs(pixels - quadrants(shown_corners(case))).max()
    assert difference <= ROUNDING.get(case.kind, {}).get(case.depth, 1), case


def varied(number: int, case: Case) -> Case:
    """The same with what every case may have beside."""
    is_reversed = number % 7 == 0 and case.compression == "none"
    return replace(case, orientation=1 + number % 8, big=number % 5 == 0, reversed_bits=is_reversed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_of_every_kind_is_shown_as_it_was_written(depth, kind):
    cases = [case for case in every_case() if (case.depth, case.kind) == (depth, kind)]
    for number, case in list(enumerate(cases))[:: max(1, len(cases) // 6)]:
        require_shown(varied(number, case))


@pytest.mark.slow
def test_every_tiff_that_can_be_written_is_shown_as_it_was_written():
    cases = list(every_case())
    assert len(cases) > 5000
    for number, case in enumerate(cases):
        require_shown(varied(number, case))


def test_planes_apart_are_the_picture_of_planes_together():
    for depth in ("u8", "u16", "f32"):
        together, apart = (shown(Case(depth, planar=planar)) for planar in (False, True))
        assert np.array_equal(together, apart)
        assert apart[0, 0].tolist() == [255, 0, 0] and apart[-1, -1].tolist() == [64, 64, 64]


# Numbers that do not fill their type


def test_twelve_of_sixteen_bits_stay_dark_and_are_said_with_what_brightens_them():
    levels = np.array([[0, 1360], [2720, 4080]], np.uint16)
    case = Case("u16", "grey")
    data = write_tiff(case, quadrants(levels)[..., None])
    dark = load(data)
    assert dark.pixels[::28, ::36, 0].ravel().tolist() == [0, 5, 11, 16]  # levels / 257
    assert dark.notes == ("only 12 of 16 bits used, so it is dark: preprocess.depth=12 brightens it",)
    bright = load(data, depth=12)
    assert bright.pixels[::28, ::36, 0].ravel().tolist() == [0, 85, 169, 254]  # levels / 4095 * 255
    assert bright.notes == ("12 of 16 bits: 4095 is white",)
    stretched = load(data, depth="used")
    assert stretched.pixels[::28, ::36, 0].ravel().tolist() == [0, 85, 170, 255]
    assert stretched.notes == ("levels stretched: 0 is black, 4080 white",)


def test_the_depth_asked_for_changes_no_photo_of_eight_bits():
    for depth in (12, "used"):
        assert np.array_equal(shown(Case("u8"), depth=depth), shown(Case("u8")))


def test_numbers_beyond_the_depth_asked_for_are_refused():
    assert "numbers from 0 to 65535, beyond [0, 4095]" in load_error(write_tiff(Case("u16")), depth=12)


@pytest.mark.parametrize("depth", ["f16", "f32", "f64"])
def test_floats_beyond_0_to_1_are_refused_or_stretched_never_called_damaged(depth):
    values = quadrants(np.array([[-3.0, 1.0], [2.0, 7.0]]))[..., None].astype(f"f{int(depth[1:]) // 8}")
    data = write_tiff(Case(depth, "grey"), values)
    assert "holds numbers from -3 to 7, beyond [0, 1]; preprocess.depth=used" in load_error(data)
    photo = load(data, depth="used")
    assert photo.pixels[::28, ::36, 0].ravel().tolist() == [0, 102, 128, 255]  # (v + 3) / 10 * 255
    assert photo.notes == ("levels stretched: -3 is black, 7 white",)


def test_floats_that_are_no_numbers_are_refused():
    values = np.full((4, 5, 1), np.nan, np.float32)
    assert "no numbers (NaN or infinite)" in load_error(write_tiff(Case("f32", "grey"), values), depth="used")


def test_the_range_that_a_file_gives_is_its_black_and_white():
    levels = quadrants(np.array([[0, 1360], [2720, 4080]], np.uint16))[..., None]
    photo = load(write_tiff(Case("u16", "grey", more={341: ("H", (4080,))}), levels))
    assert photo.pixels[::28, ::36, 0].ravel().tolist() == [0, 85, 170, 255]
    assert photo.notes == ("levels as the file says: 0 is black, 4080 white",)


# What is refused, and why


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({339: ("H", (2, 2, 2))}, "signed numbers of 8 bits"),
        ({262: ("H", (32803,))}, "a camera's raw mosaic"),
        ({259: ("H", (34712,))}, "compression 34712"),
        ({254: ("I", (1,))}, "begins with a thumbnail"),
        ({258: ("H", (5, 6, 5))}, "channels have 5 and 6 bits"),
        ({258: ("H", tuple(range(1, 3000)))}, "channels have 1 to 2999 bits"),
        ({332: ("H", (2,)), 262: ("H", (5,)), 277: ("H", (4,))}, "inks other than CMYK"),
    ],
)
def test_a_whole_tiff_that_is_not_read_is_called_what_it_is(more, reason):
    case = Case(kind="CMYK" if 332 in more else "RGB", more=more)
    message = load_error(write_tiff(case), name="x.tif")
    assert message.startswith("x.tif ") and reason in message
    assert "damaged" not in message and "save" in message and len(message) < 200


def test_a_field_of_a_camera_that_leads_nowhere_spoils_no_photo():
    data = bytearray(write_tiff(Case("u16", more={37500: ("B", (1,) * 9)})))
    place = data.index(b"\x7c\x92\x01\x00")  # tag 37500, bytes
    data[place + 8 : place + 12] = b"\xff\xff\xff\x7f"
    assert np.array_equal(load(bytes(data)).pixels, shown(Case("u16")))


def test_of_several_pages_the_first_counts_and_that_is_said():
    first, second = write_tiff(Case("u16")), Case("u16")
    assert load(first).notes == ("16 bits rounded to 8",)
    fields = first.index(b"\0\0\0\0", 8 + 2 + 12 * int.from_bytes(first[8:10], "little"))
    data = first[:fields] + len(first).to_bytes(4, "little") + first[fields + 4 :] + write_tiff(second)[8:]
    assert "first of several pages" in load(data).notes


# Cut short


@pytest.mark.parametrize("depth", ["u8", "u16"])
def test_strips_that_are_missing_are_grey_where_that_is_asked_for(depth):
    whole = write_tiff(Case(depth, layout="strips"))
    data = whole[: len(whole) * 2 // 3]
    assert "truncated" in load_error(data) and "preprocess.truncated=take" in load_error(data)
    photo = load(data, truncated="take")
    expected = quadrants(shown_corners(Case(depth)))
    missing = (photo.pixels == 128).all((1, 2))
    assert 5 <= missing.sum() <= 15 and missing[-5:].all() and not missing[:15].any()
    assert np.array_equal(photo.pixels[~missing], expected[~missing])
    assert photo.notes[-1] == f"cut short: {missing.mean():.0%} of it is missing and grey"
