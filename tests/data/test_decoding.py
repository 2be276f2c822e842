"""Expected values come from PIL, from arithmetic by hand, and from pictures whose pixels the test chose."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_pictures import STORED, encode, huge_jpeg, largest_difference, load_error, noise, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from attnvis.data.decoding import full_pixels, load
from attnvis.types import PhotoError

EXACT = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("BMP", {}),
]


# Reading


@pytest.mark.parametrize(("kind", "options"), EXACT)
def test_lossless_files_come_back_pixel_for_pixel(kind, options, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(encode(scene(), kind, **options))
    photo = load(path)
    assert largest_difference(photo.pixels, scene()) == 0
    assert (photo.size, photo.name, photo.path) == ((40, 64), "photo", path)
    assert photo.pixels.flags.c_contiguous and photo.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "options", [{"quality": 95, "subsampling": 0}, {"quality": 95, "progressive": True, "subsampling": 0}]
)
def test_jpeg_comes_back_as_pil_reads_it(options):
    data = encode(scene(), "JPEG", **options)
    assert largest_difference(load(data).pixels, np.asarray(Image.open(io.BytesIO(data)))) <= 2
    assert largest_difference(load(data).pixels, scene()) < 40  # red is red, not blue


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_mode_becomes_rgb(mode, kind):
    picture = Image.fromarray(scene()).convert(mode)
    assert largest_difference(load(encode(picture, kind)).pixels, np.asarray(picture.convert("RGB"))) == 0


def test_grey_and_cmyk_jpegs_become_rgb():
    for mode, near in (("L", 3), ("CMYK", 3)):
        data = encode(Image.fromarray(scene()).convert(mode), "JPEG", quality=95)
        assert (
            largest_difference(load(data).pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
            <= near
        )


def test_transparency_is_laid_on_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (200, 100, 0, 0), (200, 100, 0, 51), (200, 100, 0, 255)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = load(encode(rgba, kind, **options)).pixels
        # 51 / 255 = .2: .2 * (200, 100, 0) + .8 * 255
        assert largest_difference(pixels[0], np.array([[255, 255, 255], [244, 224, 204], [200, 100, 0]])) <= 1
        assert (pixels[1] == 255).all()


def test_a_transparent_palette_colour_is_white_and_the_others_stay():
    picture = Image.new("P", (3, 2))
    picture.putpalette([10, 20, 30, 200, 100, 0])
    picture.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        pixels = load(encode(picture, kind, transparency=0)).pixels
        assert pixels[0, 1].tolist() == [200, 100, 0] and (pixels[1] == 255).all()
        assert load(encode(picture, kind)).pixels[1, 0].tolist() == [10, 20, 30]


def test_a_transparent_key_colour_without_alpha_is_white():
    picture = Image.fromarray(np.array([[[9, 9, 9], [1, 2, 3]]], np.uint8))
    assert load(encode(picture, "PNG", transparency=(9, 9, 9))).pixels.tolist() == [
        [[255, 255, 255], [1, 2, 3]]
    ]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_divided_by_257_not_clipped(suffix, channels):
    eight = scene()[..., :channels].squeeze()
    deep = eight.astype(np.uint16) * 257
    data = cv2.imencode(suffix, deep if channels == 1 else deep[..., ::-1])[1].tobytes()
    assert (
        largest_difference(load(data).pixels, np.broadcast_to(eight.reshape(40, 64, channels), (40, 64, 3)))
        == 0
    )


def test_every_depth_of_grey_is_rounded_to_the_nearest():
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert (
        largest_difference(load(cv2.imencode(".png", deep)[1].tobytes()).pixels[..., 0], np.round(deep / 257))
        == 0
    )
    assert load(np.full((1, 1), 0.999)).pixels.tolist() == [[[255, 255, 255]]]


def test_a_float_tiff_in_0_to_1_is_a_photo_and_one_beyond_is_not():
    assert (
        load(encode(np.full((4, 5), 0.2, np.float32), "TIFF")).pixels.tolist()
        == np.full((4, 5, 3), 51).tolist()
    )
    assert "[0, 1]" in load_error(encode(np.full((4, 5), 7, np.float32), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind):
    first, second = (Image.new("RGB", (5, 4), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = load(encode(first, kind, save_all=True, append_images=[second], **options)).pixels
    assert pixels.shape == (4, 5, 3) and (pixels == [255, 0, 0]).all()


def test_of_an_animated_png_the_picture_that_plain_viewers_show_counts():
    red, green, blue = (Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue"))
    pixels = load(encode(red, "PNG", save_all=True, append_images=[green, blue], default_image=True)).pixels
    assert (pixels == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_are_upright_whatever_the_camera_held(orientation, kind):
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(np.ascontiguousarray(STORED[orientation](scene())), kind, exif=exif, **options)
    photo = load(data)
    assert photo.size == (40, 64)
    assert np.abs(photo.pixels.astype(float) - scene()).mean() < (2 if kind == "JPEG" else 1e-9)
    assert (
        np.abs(
            np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(float) - photo.pixels
        ).mean()
        < 0.5
    )


def test_an_orientation_that_no_camera_writes_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert load(encode(scene(), "PNG", exif=exif)).size == (40, 64)
    assert load(encode(scene(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")).size == (40, 64)


def test_exif_after_the_pixels_of_a_png_counts_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(np.ascontiguousarray(STORED[6](scene())), "PNG")
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    assert largest_difference(load(data[:-12] + chunk(b"eXIf", body) + data[-12:]).pixels, scene()) == 0


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_a_telephones_jpeg_with_a_second_picture_reads_as_the_first(tmp_path):
    path = tmp_path / "telephone.jpg"
    path.write_bytes(
        encode(
            Image.fromarray(scene(80, 128)), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 40))]
        )
    )
    assert np.abs(load(path).pixels.astype(float) - scene(80, 128)).mean() < 5
    assert load(path, 20).pixels.shape == (40, 64, 3)


# Arrays


def test_arrays_are_copied_and_never_changed():
    for array in (
        scene(),
        scene()[..., 0],
        scene() / 255,
        (scene() / 255).astype(np.float16),
        scene()[::-1, ::2],
    ):
        array = array[...]
        before = array.copy()
        array.flags.writeable = False
        photo = load(array, name="mine")
        colour = before if before.ndim == 3 else np.stack([before] * 3, -1)
        assert largest_difference(
            photo.pixels, colour if before.dtype == np.uint8 else (colour.astype(float) * 255).round()
        ) <= (before.dtype == np.float16)
        assert np.array_equal(array, before) and not np.shares_memory(photo.pixels, array)
        assert photo.name == "mine" and photo.path is None and photo.pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.zeros((4, 5, 4), np.uint8), "[4, 5, 4]"),
        (np.zeros((3,), np.uint8), "[3]"),
        (np.zeros((0, 5, 3), np.uint8), "[0, 5, 3]"),
        (np.zeros((6, 5, 3), np.int64), "int64"),
        (np.full((6, 5, 3), 255.0), "from 255 to 255"),
        (np.full((4, 5), -0.1), "-0.1"),
        (np.full((4, 5), np.nan), "nan"),
    ],
)
def test_an_array_that_is_no_photo_is_refused_with_its_fault(array, fault):
    assert fault in load_error(array)


def test_a_digest_tells_contents_apart_and_names_do_not_matter(tmp_path):
    data = encode(scene(), "PNG")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(data)
    assert (
        load(tmp_path / "a.png").digest
        == load(str(tmp_path / "b.png")).digest
        == load(data).digest
        == hashlib.sha256(data).hexdigest()
    )
    assert load(scene()).digest == load(scene() / 255).digest != load(scene()[::-1]).digest
    assert load(np.zeros((4, 6), np.uint8)).digest != load(np.zeros((6, 4), np.uint8)).digest


# Files that are no photos


def with_thumbnail() -> bytes:
    """A JPEG whose EXIF segment holds a whole JPEG, end marker and all."""
    thumbnail = encode(scene(), "JPEG")
    whole = encode(noise(60, 80), "JPEG", quality=90)
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]


@pytest.mark.parametrize("fraction", [0.02, 0.2, 0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    "kind", ["JPEG", "progressive", "thumbnail", "PNG", "WEBP", "TIFF", "LZW", "GIF", "BMP"]
)
def test_a_truncated_file_is_refused(kind, fraction, tmp_path, capfd):
    name, options = {
        "progressive": ("JPEG", {"progressive": True}),
        "LZW": ("TIFF", {"compression": "tiff_lzw"}),
    }.get(kind, (kind, {}))
    data = with_thumbnail() if kind == "thumbnail" else encode(noise(60, 80), name, **options)
    load(data)  # whole, it is fine
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data[: max(16, int(fraction * len(data)))])
    message = load_error(path)
    assert str(path) in message and "truncated" in message and "again" in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "whole", [encode(noise(60, 80), "JPEG", quality=90), with_thumbnail()], ids=["plain", "thumbnail"]
)
def test_a_download_that_stopped_in_a_preallocated_file_is_refused(whole):
    half = len(whole) * 2 // 3
    data = whole[:half] + bytes(len(whole) - half)
    # PIL sees nothing wrong, nor does OpenCV
    assert np.asarray(Image.open(io.BytesIO(data))).shape == (60, 80, 3)
    assert "truncated JPEG (no end marker)" in load_error(data)


def test_bytes_after_the_end_do_no_harm():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        assert load(encode(scene(), kind) + b"trailing\xff").size == (40, 64)
    assert load(with_thumbnail() + bytes(100)).size == (60, 80)


def test_a_flipped_bit_in_a_png_is_noticed_in_silence(capfd):
    data = bytearray(encode(noise(60, 80), "PNG"))
    data[len(data) // 2] ^= 1
    assert "damaged" in load_error(bytes(data))
    assert capfd.readouterr().err == ""


def test_bombs_are_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    message = load_error(path)
    assert str(path) in message and "178,956,970 pixels" in message and "shrink" in message


def test_bombs_are_refused_where_pil_was_told_to_allow_them(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    assert "178,956,970" in load_error(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def test_each_unreadable_file_has_its_own_reason(tmp_path, monkeypatch):
    empty, text, folder = tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "folder.jpg"
    empty.touch()
    text.write_text("hello, world")
    folder.mkdir()
    assert f"{empty} is empty" in load_error(empty)
    assert "no photo of a kind that is read" in load_error(text) and "JPEG, PNG" in load_error(text)
    assert f"{folder} is a folder" in load_error(folder)
    assert f"no such photo: {tmp_path / 'text.jpeg'}; did you mean text.jpg" in load_error(
        tmp_path / "text.jpeg"
    )
    assert f"there is no folder {tmp_path / 'nowhere'}" in load_error(tmp_path / "nowhere" / "x.jpg")
    assert "cannot be read" in load_error("nul\0byte.jpg") and "cannot be read" in load_error("x" * 5000)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # chmod does not stop root
    assert "permission denied" in load_error(text)


def test_postscript_is_not_handed_to_ghostscript():
    assert "is no photo" in load_error(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


def test_bytes_are_called_by_the_name_given():
    assert load_error(b"", name="upload.png").startswith("upload.png is empty")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0", b"GIF89a", b"BM"]
    ),
)
def test_rubbish_never_raises_anything_but_a_photo_error(rubbish, start):
    load_error(start + rubbish)


# Reduced decoding


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> Path:
    return huge_jpeg(tmp_path_factory.mktemp("huge"))


@pytest.mark.parametrize(
    ("short", "sides"), [(None, 1201), (601, 1201), (300, 601), (150, 301), (75, 151), (10, 151)]
)
def test_a_jpeg_is_decoded_no_larger_than_twice_what_is_needed(short, sides, huge):
    photo = load(huge, short)
    assert photo.size == (1201, 1603) and photo.pixels.shape[0] == sides
    assert full_pixels(photo).shape == (1201, 1603, 3)
    assert largest_difference(full_pixels(photo), load(huge).pixels) == 0
    assert photo.digest == load(huge).digest


def test_pixels_without_a_file_are_never_reduced(huge):
    assert load(huge.read_bytes(), 10).pixels.shape == (1201, 1603, 3)


def test_a_file_that_changed_since_is_not_mixed_up(huge, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(huge.read_bytes())
    photo = load(path, 32)
    path.write_bytes(encode(scene(), "JPEG"))
    with pytest.raises(PhotoError, match="changed"):
        full_pixels(photo)
