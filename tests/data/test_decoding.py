"""Expected values come from PIL, from torchvision, from arithmetic by hand, and from pictures whose pixels the test chose."""

import hashlib
import io
import os
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import v2

from attnvis.data.decoding import full_pixels, load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate, preprocess, shape_key
from attnvis.types import Photo, PhotoError, Preprocessing

BLACK = (0.0, 0.0, 0.0)
FITS = ["resize", "crop", "letterbox", "stretch"]
EXACT = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("BMP", {}),
]


def scene(height: int = 40, width: int = 64) -> np.ndarray:
    """Smooth, without any symmetry: red grows to the right, green downwards, blue is a corner."""
    row, column = np.mgrid[:height, :width]
    corner = 200 * (row < height / 3) * (column < width / 4)
    return np.stack([220 * column / width, 220 * row / height, corner], -1).round().astype(np.uint8)


def encode(picture: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def sized(height: int, width: int) -> Photo:
    """A photo of which only the size matters."""
    return Photo("sized", np.zeros((1, 1, 3), np.uint8), (height, width), "")


def off(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).max())


def complaint(*arguments, **keywords) -> str:
    with pytest.raises(PhotoError) as caught:
        load(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message and "object at 0x" not in message
    return message


# Reading


@pytest.mark.parametrize(("kind", "options"), EXACT)
def test_lossless_files_come_back_pixel_for_pixel(kind, options, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(encode(scene(), kind, **options))
    photo = load(path)
    assert off(photo.pixels, scene()) == 0
    assert (photo.size, photo.name, photo.path) == ((40, 64), "photo", path)
    assert photo.pixels.flags.c_contiguous and photo.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "options", [{"quality": 95, "subsampling": 0}, {"quality": 95, "progressive": True, "subsampling": 0}]
)
def test_jpeg_comes_back_as_pil_reads_it(options):
    data = encode(scene(), "JPEG", **options)
    assert off(load(data).pixels, np.asarray(Image.open(io.BytesIO(data)))) <= 2
    assert off(load(data).pixels, scene()) < 40  # red is red, not blue


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_mode_becomes_rgb(mode, kind):
    picture = Image.fromarray(scene()).convert(mode)
    assert off(load(encode(picture, kind)).pixels, np.asarray(picture.convert("RGB"))) == 0


def test_grey_and_cmyk_jpegs_become_rgb():
    for mode, near in (("L", 3), ("CMYK", 3)):
        data = encode(Image.fromarray(scene()).convert(mode), "JPEG", quality=95)
        assert off(load(data).pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= near


def test_transparency_is_laid_on_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (200, 100, 0, 0), (200, 100, 0, 51), (200, 100, 0, 255)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = load(encode(rgba, kind, **options)).pixels
        # 51 / 255 = .2: .2 * (200, 100, 0) + .8 * 255
        assert off(pixels[0], np.array([[255, 255, 255], [244, 224, 204], [200, 100, 0]])) <= 1
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
    assert off(load(data).pixels, np.broadcast_to(eight.reshape(40, 64, channels), (40, 64, 3))) == 0


def test_every_depth_of_grey_is_rounded_to_the_nearest():
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert off(load(cv2.imencode(".png", deep)[1].tobytes()).pixels[..., 0], np.round(deep / 257)) == 0
    assert load(np.full((1, 1), 0.999)).pixels.tolist() == [[[255, 255, 255]]]


def test_a_float_tiff_in_0_to_1_is_a_photo_and_one_beyond_is_not():
    assert (
        load(encode(np.full((4, 5), 0.2, np.float32), "TIFF")).pixels.tolist()
        == np.full((4, 5, 3), 51).tolist()
    )
    assert "[0, 1]" in complaint(encode(np.full((4, 5), 7, np.float32), "TIFF"))


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


# What a viewer must do to show the stored pixels upright (EXIF 2.3, tag 274), and its inverse: what a camera stores.
STORED = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),  # shown after a quarter turn clockwise
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


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
    assert off(load(data[:-12] + chunk(b"eXIf", body) + data[-12:]).pixels, scene()) == 0


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
        assert off(
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
        (np.zeros((4, 5, 3), np.int64), "int64"),
        (np.full((4, 5, 3), 255.0), "from 255 to 255"),
        (np.full((4, 5), -0.1), "-0.1"),
        (np.full((4, 5), np.nan), "nan"),
    ],
)
def test_an_array_that_is_no_photo_is_refused_with_its_fault(array, fault):
    assert fault in complaint(array)


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
    message = complaint(path)
    assert str(path) in message and "truncated" in message and "again" in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "whole", [encode(noise(60, 80), "JPEG", quality=90), with_thumbnail()], ids=["plain", "thumbnail"]
)
def test_a_download_that_stopped_in_a_preallocated_file_is_refused(whole):
    half = len(whole) * 2 // 3
    data = whole[:half] + bytes(len(whole) - half)
    assert np.asarray(Image.open(io.BytesIO(data))).shape == (
        60,
        80,
        3,
    )  # PIL sees nothing wrong, nor does OpenCV
    assert "truncated JPEG (no end marker)" in complaint(data)


def test_bytes_after_the_end_do_no_harm():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        assert load(encode(scene(), kind) + b"trailing\xff").size == (40, 64)
    assert load(with_thumbnail() + bytes(100)).size == (60, 80)


def test_a_flipped_bit_in_a_png_is_noticed_in_silence(capfd):
    data = bytearray(encode(noise(60, 80), "PNG"))
    data[len(data) // 2] ^= 1
    assert "damaged" in complaint(bytes(data))
    assert capfd.readouterr().err == ""


def test_bombs_are_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    message = complaint(path)
    assert str(path) in message and "178,956,970 pixels" in message and "shrink" in message


def test_bombs_are_refused_where_pil_was_told_to_allow_them(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    assert "178,956,970" in complaint(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def test_each_unreadable_file_has_its_own_reason(tmp_path, monkeypatch):
    empty, text, folder = tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "folder.jpg"
    empty.touch()
    text.write_text("hello, world")
    folder.mkdir()
    assert f"{empty} is empty" in complaint(empty)
    assert "b'hello, w'" in complaint(text) and "JPEG, PNG" in complaint(text)
    assert f"{folder} is a folder" in complaint(folder)
    assert f"no such photo: {tmp_path / 'text.jpeg'}; did you mean text.jpg" in complaint(
        tmp_path / "text.jpeg"
    )
    assert f"there is no folder {tmp_path / 'nowhere'}" in complaint(tmp_path / "nowhere" / "x.jpg")
    assert "cannot be read" in complaint("nul\0byte.jpg") and "cannot be read" in complaint("x" * 5000)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # chmod does not stop root
    assert "permission denied" in complaint(text)


def test_postscript_is_not_handed_to_ghostscript():
    assert "is no photo" in complaint(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


def test_bytes_are_called_by_the_name_given():
    assert complaint(b"", name="upload.png").startswith("upload.png is empty")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0", b"GIF89a", b"BM"]
    ),
)
def test_rubbish_never_raises_anything_but_a_photo_error(rubbish, start):
    complaint(start + rubbish)


# Reduced decoding


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> Path:
    """1201 x 1603, stored on its side, so that no reduction divides it."""
    path = tmp_path_factory.mktemp("huge") / "huge.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(
        encode(np.ascontiguousarray(STORED[6](scene(1201, 1603))), "JPEG", quality=95, exif=exif)
    )
    return path


@pytest.mark.parametrize(
    ("short", "sides"), [(None, 1201), (601, 1201), (300, 601), (150, 301), (75, 151), (10, 151)]
)
def test_a_jpeg_is_decoded_no_larger_than_twice_what_is_needed(short, sides, huge):
    photo = load(huge, short)
    assert photo.size == (1201, 1603) and photo.pixels.shape[0] == sides
    assert full_pixels(photo).shape == (1201, 1603, 3)
    assert off(full_pixels(photo), load(huge).pixels) == 0
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


def test_pixels_reduced_too_far_are_read_again(huge):
    how = Preprocessing(600)
    assert off(preprocess(load(huge, 32), how)[0], preprocess(load(huge), how)[0]) == 0


def test_a_reduced_photo_looks_the_same_to_the_network(huge):
    for name in FITS:
        how = Preprocessing(64, name)
        (small, one), (whole, other) = preprocess(load(huge, 64), how), preprocess(load(huge), how)
        assert one == other
        assert np.abs(small.astype(float) - whole).mean() < 1.5


# Finding


@pytest.fixture
def album(tmp_path, monkeypatch) -> Path:
    for name in (
        "b.jpg",
        "a.PNG",
        "deep/er/c.webp",
        "deep/d.tif",
        ".hidden.jpg",
        ".cache/e.jpg",
        "notes.md",
        "odd[1].gif",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(paths: list[Path], album: Path) -> list[str]:
    return [str((album / path).relative_to(album)) for path in paths]


def lost(images) -> str:
    with pytest.raises(PhotoError) as caught:
        find(images)
    return str(caught.value)


def test_a_folder_gives_its_visible_photos_to_the_bottom_in_order(album):
    expected = ["a.PNG", "b.jpg", "deep/d.tif", "deep/er/c.webp", "odd[1].gif"]
    assert names(find(str(album)), album) == names(find(album), album) == names(find("."), album) == expected


def test_a_file_is_itself_even_where_it_is_no_photo(album):
    assert find("notes.md") == [Path("notes.md")]
    assert find("odd[1].gif") == [Path("odd[1].gif")]  # though it looks like a glob
    assert find(album / ".hidden.jpg") == [album / ".hidden.jpg"]


def test_globs_reach_one_level_or_all(album):
    assert names(find("*"), album) == ["a.PNG", "b.jpg", "odd[1].gif"]
    assert names(find("**/*.[tw]*"), album) == ["deep/d.tif", "deep/er/c.webp"]
    assert names(find(str(album / "deep" / "**")), album) == ["deep/d.tif", "deep/er/c.webp"]


def test_a_list_file_is_relative_to_itself(album):
    (album / "deep" / "list.txt").write_text(
        f"# my photos\n\nd.tif\r\n  ../b.jpg  \ngone.jpg\n{album}/a.PNG\nd.tif\n", "utf-8-sig"
    )
    assert names([Path(os.path.abspath(p)) for p in find("deep/list.txt")], album) == [
        "deep/d.tif",
        "b.jpg",
        "deep/gone.jpg",
        "a.PNG",
    ]


def test_a_list_keeps_its_order_and_each_file_once(album):
    found = find(["deep", "b.jpg", album / "b.jpg", "./deep/../b.jpg", "*.PNG"])
    assert names(found, album) == ["deep/d.tif", "deep/er/c.webp", "b.jpg", "a.PNG"]


def test_a_missing_file_among_others_fails_only_when_loaded(album):
    assert find(["b.jpg", "b.jpeg"]) == [Path("b.jpg"), Path("b.jpeg")]
    assert "did you mean b.jpg?" in complaint("b.jpeg")


def test_a_missing_file_alone_is_an_error_with_its_neighbours(album):
    assert (
        "no such photo: B.jpeg; did you mean b.jpg?"
        in lost("B.jpeg")
        == lost(["B.jpeg"])
        == lost(Path("B.jpeg"))
    )
    assert str(album) in lost("zzzzzzzzzzzzzz.qq")
    assert "there is no folder nowhere" in lost("nowhere/b.jpg")


def test_nothing_found_says_what_was_looked_for(album):
    (album / "bare").mkdir()
    (album / "none.txt").write_text("# nothing\n")
    assert "no photos in the folder bare; looked for .jpg .jpeg .png" in lost("bare")
    assert "no photos match *.bmp; looked for" in lost("*.bmp")
    assert "none.txt names no photos" in lost("none.txt")
    assert "no photos" in lost([]) and "empty name" in lost("")


def test_samples_are_photos_that_load():
    found = find("samples")
    assert len(found) >= 5 and all(min(load(path).size) >= 300 for path in found)


def test_a_sample_has_its_own_name_and_one_for_what_it_shows(album):
    assert find("samples/cat") == find("samples/chelsea") and find("samples/cat")[0].name == "chelsea.png"
    assert "did you mean astronaut" in lost("samples/astronaut.png") and "the samples are cat, " in lost(
        "samples/cow"
    )
    (album / "samples").mkdir()
    (album / "samples" / "mine.jpg").write_bytes(b"x")
    assert (
        find("samples/mine.jpg") == find("./samples") == find("samples/*.jpg") == [Path("samples/mine.jpg")]
    )


def test_finding_samples_does_not_import_skimage(monkeypatch):
    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    assert find("samples") and "skimage" not in sys.modules


# Fitting

ASPECTS = [(480, 640), (640, 480), (333, 999), (1000, 333), (301, 299), (100, 140), (50, 700), (700, 50)]


def blob(size: tuple[int, int], row: float, column: float, spread: float) -> np.ndarray:
    """A bright Gaussian centred at photo coordinates: pixel k covers [k, k + 1), so its centre is k + .5."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    bright = 250 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2))
    return np.repeat(bright.round().astype(np.uint8)[..., None], 3, axis=2)


def centroid(pixels: np.ndarray) -> tuple[float, float]:
    weight = pixels[..., 0].astype(float)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return (rows * weight).sum() / weight.sum(), (columns * weight).sum() / weight.sum()


@pytest.mark.parametrize("size", ASPECTS)
@pytest.mark.parametrize("name", FITS)
def test_a_blob_arrives_where_the_view_says(size, name):
    how = Preprocessing(224, name, resize=256 if name == "crop" else None, mean=BLACK)
    row, column = size[0] / 2 - 0.1 * min(size), size[1] / 2 + 0.15 * min(size)  # where the crop keeps it
    pixels, view = preprocess(load(blob(size, row, column, min(size) / 20)), how)
    assert pixels.shape[:2] == view.size
    assert np.allclose(centroid(pixels), view.to_input(row, column), atol=0.15)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("where", [(0.1, 0.15), (0.9, 0.85), (0.5, 0.5)])
def test_a_blob_in_a_reduced_photo_arrives_where_the_view_says(name, where, tmp_path):
    size = (1001, 1339)
    row, column = (0.3 * w + 0.35 if name == "crop" else w for w in where)
    row, column = size[0] * row, size[1] * column
    path = tmp_path / "blob.jpg"
    path.write_bytes(encode(blob(size, row, column, 25), "JPEG", quality=98))
    photo = load(path, 60)
    assert photo.pixels.shape[0] == 126 and photo.size == size
    pixels, view = preprocess(photo, Preprocessing(60, name, mean=BLACK))
    assert np.allclose(centroid(np.where(pixels > 12, pixels, 0)), view.to_input(row, column), atol=0.5)


@pytest.mark.parametrize(("size", "resize"), [(s, r) for s in ASPECTS for r in (None, 225, 256)])
def test_crop_is_torchvisions_resize_and_centre_crop(size, resize):
    # Pictures that name their own coordinates: red is the row, green the column.
    rows, columns = np.mgrid[: size[0], : size[1]]
    picture = np.stack([255 * rows / size[0], 255 * columns / size[1], 0 * rows], -1).astype(np.uint8)
    theirs = v2.Compose([v2.Resize(resize or 224, antialias=True), v2.CenterCrop(224)])(
        torch.from_numpy(picture).permute(2, 0, 1)
    )
    ours, view = preprocess(load(picture), Preprocessing(224, "crop", resize))
    assert view.size == (224, 224)
    assert (
        np.abs(ours.astype(float) - theirs.permute(1, 2, 0).numpy()).mean() < 0.4
    )  # one row off would cost about 1 for most sizes


def test_crop_has_torchvisions_sizes_and_offsets():
    for height, width in ASPECTS:
        short, long = sorted((height, width))
        full = [256 if side == short else int(256 * long / short) for side in (height, width)]
        view = preprocess(load(np.zeros((height, width), np.uint8)), Preprocessing(224, "crop", 256))[1]
        assert view.shift == tuple(-round((side - 224) / 2) for side in full)
        assert view.scale == (full[0] / height, full[1] / width)


def test_geometry_by_hand():
    # 480 x 640 at 224: 640 * 224 / 480 = 298.67, nearest 224 + 32 k is 288; letterboxed 168 rows, 28 above.
    photo = load(np.zeros((480, 640), np.uint8))
    view = {name: preprocess(photo, Preprocessing(224, name))[1] for name in FITS}
    assert view["resize"].size == (224, 288) and view["resize"].scale == (224 / 480, 288 / 640)
    assert view["letterbox"].scale == (0.35, 0.35) and view["letterbox"].shift == (28, 0)
    assert view["stretch"].scale == (224 / 480, 0.35) and view["stretch"].size == (224, 224)
    assert view["crop"].scale == (224 / 480, 298 / 640) and view["crop"].shift == (0, -37)
    seen = view["crop"].seen
    assert (seen.top, seen.height) == (0, 480) and np.allclose(
        (seen.left, seen.width), (37 * 640 / 298, 224 * 640 / 298)
    )
    for name in ("resize", "letterbox", "stretch"):
        seen = view[name].seen
        assert (seen.top, seen.left, seen.height, seen.width) == (0, 0, 480, 640)


def test_a_letterbox_has_margins_of_the_mean_colour():
    pixels, _ = preprocess(
        load(np.full((480, 640, 3), 7, np.uint8)), Preprocessing(224, "letterbox", mean=(0.5, 0.2, 0.0))
    )
    assert (
        (pixels[:28] == [128, 51, 0]).all()
        and (pixels[28:196] == 7).all()
        and (pixels[196:] == [128, 51, 0]).all()
    )


def test_a_photo_of_the_right_size_is_not_resampled():
    photo = load(noise(224, 288))
    assert off(preprocess(photo, Preprocessing(224))[0], photo.pixels) == 0
    assert off(preprocess(photo, Preprocessing(224, "crop"))[0], photo.pixels[:, 32:256]) == 0


def test_shrinking_is_antialiased_even_where_the_other_axis_grows():
    stripes = np.zeros((40, 1125), np.uint8)
    stripes[:, ::2] = 255  # five columns become one: 2 or 3 of 5 are white
    grey = preprocess(load(stripes), Preprocessing(225, "stretch"))[0]
    assert sorted(np.unique(grey)) == [102, 153]


def test_long_photos_stay_bounded():
    line = load(np.zeros((3, 5000), np.uint8))
    assert preprocess(line, Preprocessing(64))[1].size == (64, 512)
    assert preprocess(load(line.pixels.swapaxes(0, 1)), Preprocessing(64))[1].size == (512, 64)
    for name in ("crop", "letterbox", "stretch"):
        assert preprocess(line, Preprocessing(64, name))[0].shape == (64, 64, 3)


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    size=st.integers(32, 100),
    multiple=st.sampled_from([1, 16, 32]),
    resize=st.none() | st.integers(100, 140),
    name=st.sampled_from(FITS),
)
def test_views_hold_for_every_size(height, width, size, multiple, resize, name):
    photo, how = load(np.zeros((height, width), np.uint8)), Preprocessing(size, name, resize, multiple)
    pixels, view = preprocess(photo, how)
    assert pixels.shape == (*view.size, 3) and min(view.size) == size
    assert np.allclose(view.to_photo(*view.to_input(3.25, 7.5)), (3.25, 7.5))
    near, far = (
        (view.seen.top, view.seen.left),
        (view.seen.top + view.seen.height, view.seen.left + view.seen.width),
    )
    for axis, side in enumerate(photo.size):
        assert -1e-9 <= near[axis] < far[axis] <= side + 1e-9
        first, last = view.to_input(*near)[axis], view.to_input(*far)[axis]
        assert -1e-6 <= first < last <= view.size[axis] + 1e-6
        if name == "crop":
            assert np.allclose((first, last), (0, size))
        else:
            assert (near[axis], far[axis]) == (0, side)
    if name == "resize":
        long = size * max(height, width) / min(height, width)
        assert (max(view.size) - size) % multiple == 0
        assert (
            abs(max(view.size) - long) <= multiple / 2
            or max(view.size) <= 8 * size < max(view.size) + multiple
        )  # as long as may be
    assert shape_key(sized(height, width), how) == shape_key(photo, how)


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        (Preprocessing(224, "squeeze"), "'squeeze'; choose resize, crop, letterbox or stretch"),
        (Preprocessing(31), "size 31"),
        (Preprocessing(100_000), "size 100000"),
        (Preprocessing(224, multiple=0), "multiple 0"),
        (Preprocessing(224, "crop", 100), "resize 100"),
    ],
)
def test_impossible_preprocessing_is_refused(how, fault):
    with pytest.raises(ValueError, match=fault):
        preprocess(load(scene()), how)


# Batches


@pytest.mark.parametrize("name", FITS)
def test_a_batch_is_normalised_as_torchvision_does(name):
    photos = [load(noise(48, 64)), load(scene(96, 128))]
    how = Preprocessing(32, name, multiple=1)
    batch = collate(photos, how)
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(how.mean, how.std)])
    expected = torch.stack(
        [normalise(torch.from_numpy(preprocess(photo, how)[0].copy()).permute(2, 0, 1)) for photo in photos]
    )
    assert batch.images.dtype == torch.float32 and torch.allclose(batch.images, expected, atol=1e-6)
    assert batch.views == tuple(preprocess(photo, how)[1] for photo in photos) and batch.photos == tuple(
        photos
    )


def test_a_photo_looks_the_same_alone_and_among_others():
    photos, how = [load(noise(48, 64)), load(scene(96, 128))], Preprocessing(32)
    assert torch.equal(collate(photos, how).images[1:], collate(photos[1:], how).images)


def test_photos_of_different_input_sizes_are_no_batch():
    with pytest.raises(ValueError, match=r"\(32, 64\).*\(64, 32\).*shape_key"):
        collate([load(scene(40, 80)), load(scene(80, 40))], Preprocessing(32))
    with pytest.raises(ValueError, match="none"):
        collate([], Preprocessing(32))


def test_shape_keys_are_equal_exactly_where_photos_may_share_a_batch():
    wide, wider, tall = sized(480, 640), sized(481, 641), sized(640, 480)
    for name in FITS:
        how = Preprocessing(224, name)
        assert (
            shape_key(wide, how) == shape_key(sized(960, 1280), how)
            and hash(shape_key(wide, how)) is not None
        )
        assert (shape_key(wide, how) == shape_key(tall, how)) == (name in ("crop", "stretch"))
    assert shape_key(wide, Preprocessing(224)) == shape_key(wider, Preprocessing(224))
    assert shape_key(sized(100, 200), Preprocessing(224, "letterbox")) != shape_key(
        wide, Preprocessing(224, "letterbox")
    )


def test_a_dangling_link_in_a_folder_is_found_and_fails_alone(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "here.png")
    assert find(tmp_path) == [tmp_path / "gone.jpg", tmp_path / "here.png"]
    with pytest.raises(PhotoError, match="no such photo"):
        load(tmp_path / "gone.jpg")
