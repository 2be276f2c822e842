"""AVIF, HEIC, Netpbm, odd JPEGs, and files that are no photos: what is read, and what is said of the rest."""

import struct
import sys
import types

import numpy as np
import pytest
from fake_pictures import NEEDS_AVIF, encode, largest_difference, load_error, scene
from PIL import Image, features

from attnvis.data.decoding import load

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@NEEDS_AVIF
def test_an_avif_is_told_by_its_bytes_whatever_it_is_called(tmp_path):
    path = tmp_path / "named.jpg"
    path.write_bytes(encode(scene(), "AVIF", quality=98, subsampling="4:4:4"))
    assert np.abs(load(path).pixels.astype(float) - scene()).mean() < 1


def test_an_avif_without_its_decoder_says_what_to_install(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    message = load_error(b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + bytes(9), name="x.avif")
    assert message == "x.avif is an AVIF, for which Pillow must be 11.3 or later: pip install -U pillow"


def test_a_heic_without_its_decoder_says_what_to_install(monkeypatch):
    for module in ("pi_heif", "pillow_heif"):
        monkeypatch.setitem(sys.modules, module, None)
    message = load_error(HEIC, name="IMG_1.HEIC")
    assert (
        message == 'IMG_1.HEIC is a HEIC, for which a decoder must be installed: pip install "attnvis[heic]"'
    )


@pytest.mark.parametrize("module", ["pi_heif", "pillow_heif"])
def test_a_heic_is_read_by_either_decoder(module, monkeypatch):
    picture = types.SimpleNamespace(size=(64, 40), info={}, to_pillow=lambda: Image.fromarray(scene()))
    decoder = types.ModuleType(module)
    decoder.open_heif = lambda file, convert_hdr_to_8bit: picture
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.setitem(sys.modules, module, decoder)
    assert largest_difference(load(HEIC).pixels, scene()) == 0


def netpbm() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files by hand, and what they show."""
    picture, grey = scene(), np.arange(40 * 64).reshape(40, 64) * 4095 // (40 * 64)
    shown = np.rint(grey / 4095 * 255)[..., None].repeat(3, 2)
    words = b" ".join(b"%d" % value for value in grey.ravel())
    floats = (picture[::-1] / 255).astype("<f4").tobytes()
    bits = np.array([[1, 0, 1], [0, 1, 0]])
    return {
        "P1": (b"P1 3 2\n1 0 1\n0 1 0\n", (255 - 255 * bits)[..., None].repeat(3, 2)),
        "P2": (b"P2\n# a remark\n64 40 4095\n" + words, shown),
        "P5": (b"P5\n64 40\n4095\n" + grey.astype(">u2").tobytes(), shown),
        "P6": (b"P6\n64 40\n255\n" + picture.tobytes(), picture),
        "P6 of 16 bits": (
            b"P6 64 40 65535\n" + (picture.astype(">u2") * 257).astype(">u2").tobytes(),
            picture,
        ),
        "PF": (b"PF\n64 40\n-1.0\n" + floats, picture),
    }


@pytest.mark.parametrize("kind", netpbm())
def test_netpbm_is_shown_with_its_largest_value_as_white(kind):
    data, expected = netpbm()[kind]
    assert largest_difference(load(data).pixels, expected) == 0


def test_netpbm_that_ends_early_is_truncated():
    for kind in ("P5", "P6", "PF", "P6 of 16 bits"):
        data, _ = netpbm()[kind]
        assert "truncated" in load_error(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("beginning", "reason"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000, which is not read here; save it as JPEG, PNG or TIFF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL"),
        (b"8BPS\0\1", "is a Photoshop file"),
        (b"II*\0\x10\0\0\0CR\2\0", "is a camera's raw file, which is not read here; develop it first"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "is a camera's raw file"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "is no photo but a video; draw it with attnvis video"),
        (b"<!DOCTYPE html><html>", "is no photo but a web page; a download went wrong"),
        (b"PK\3\4", "is no photo but an archive; unpack it"),
        (b"\x93NUMPY\1\0", "is no photo but a NumPy array; give the array to attnvis.explain"),
        (b"version https://git-lfs.github.com/spec/v1", "is no photo but a Git LFS pointer"),
        (b"hello, world", "is no photo of a kind that is read"),
    ],
)
def test_what_is_no_photo_that_is_read_is_called_what_it_is(beginning, reason):
    assert load_error(beginning, name="x.jpg").startswith(f"x.jpg {reason}")


def frame(code: int, bits: int) -> bytes:
    """A JPEG whose frame is of another kind than any decoder here reads."""
    head = struct.pack(">BHHBBBB", bits, 8, 8, 1, 1, 0x11, 0)
    return (
        b"\xff\xd8\xff"
        + bytes([code])
        + struct.pack(">H", len(head) + 2)
        + head
        + b"\xff\xda\0\x02\0\xff\xd9"
    )


def test_jpegs_of_other_kinds_are_not_called_damaged():
    assert "is a lossless JPEG, which is not read here" in load_error(frame(0xC3, 8))
    assert "is a 12-bit JPEG, which is not read here" in load_error(frame(0xC1, 12))


def test_a_jpeg_ls_is_called_that():
    assert "is a JPEG-LS, which is not read here" in load_error(frame(0xF7, 8))


def test_a_bmp_of_16_bits_has_white_and_every_level():
    levels = np.arange(32, dtype=np.uint16)
    head = struct.pack("<IiiHHIIiiII", 40, 32, 1, 1, 16, 0, 64, 2835, 2835, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 54 + 64, 0, 0, 54) + head + (levels * 0x421).astype("<u2").tobytes()
    assert largest_difference(load(data).pixels[0, :, 0], np.rint(levels * 255 / 31)) <= 1


@pytest.mark.parametrize("tail", [b"", b"\xff", bytes(512)])
def test_a_whole_jpeg_without_its_end_is_taken_where_that_is_asked_for(tail, capfd):
    whole = encode(scene(), "JPEG", quality=95)
    data = whole[:-2] + tail
    assert "no end marker" in load_error(data) and "preprocess.truncated=take" in load_error(data)
    photo = load(data, truncated="take")
    assert largest_difference(photo.pixels, load(whole).pixels) <= 2
    assert photo.notes == ("cut short: what is missing is grey",)
    assert load(whole, truncated="take").notes == () and capfd.readouterr().err == ""


def test_half_a_jpeg_is_grey_below_where_that_is_asked_for():
    whole = encode(scene(400, 640), "JPEG", quality=95)
    photo = load(whole[: len(whole) // 2], truncated="take")
    assert np.abs(photo.pixels[:100].astype(float) - load(whole).pixels[:100]).max() <= 3
    assert np.ptp(photo.pixels[-30:].astype(int)) < 60  # one grey, or what the last block leads to


def test_a_jpeg_that_is_cut_short_is_not_reduced(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encode(scene(400, 640), "JPEG")[:-2])
    assert load(path, short=32, truncated="take").pixels.shape == (400, 640, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP"])
def test_other_formats_that_are_cut_short_stay_refused(kind):
    data = encode(scene(), kind)
    message = load_error(data[: len(data) // 2], truncated="take")
    assert "truncated" in message and "preprocess.truncated" not in message


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_said_to_be_that(kind):
    first, second = (Image.new("RGB", (5, 4), colour) for colour in ("red", "blue"))
    data = encode(first, kind, save_all=True, append_images=[second])
    assert load(data).notes == ("first frame of an animation",)
    assert load(encode(first, kind)).notes == ()
