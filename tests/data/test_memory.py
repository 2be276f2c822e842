"""Pictures that a program holds.  Expected values come from PIL's own conversions and from arithmetic."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_pictures import STORED, encode, load_error, noise, scene
from PIL import Image, ImageOps

from attnvis.data.decoding import load

HEIGHT, WIDTH = 20, 31


def on_white(picture: Image.Image) -> np.ndarray:
    rgba = picture.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def rgba() -> np.ndarray:
    opacity = np.linspace(0, 255, HEIGHT * WIDTH).round().astype(np.uint8).reshape(HEIGHT, WIDTH, 1)
    return np.concatenate([noise(HEIGHT, WIDTH), opacity], axis=2)


def transparent_palette() -> Image.Image:
    picture = Image.fromarray(noise(HEIGHT, WIDTH)).quantize(16)
    picture.info["transparency"] = 3
    return picture


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "HSV", "CMYK", "RGBX"])
def test_a_picture_of_pils_is_what_pil_converts_it_to(mode):
    picture = Image.fromarray(noise(HEIGHT, WIDTH)).convert(mode)
    np.testing.assert_array_equal(load(picture).pixels, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_what_is_transparent_lies_on_white(mode):
    picture = Image.fromarray(rgba())
    picture = picture.convert("LA").convert(mode) if mode in ("LA", "PA") else picture.convert(mode)
    photo = load(picture)
    np.testing.assert_array_equal(photo.pixels, on_white(picture))
    has_alpha = picture.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    assert photo.notes == ("transparency on white",) * has_alpha
    np.testing.assert_array_equal(load(transparent_palette()).pixels, on_white(transparent_palette()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_by_its_exif_as_pil_turns_it(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(np.ascontiguousarray(STORED[orientation](scene())), "PNG", exif=exif)
    for picture in (Image.open(io.BytesIO(data)), Image.open(io.BytesIO(data)).convert("RGB")):
        photo = load(picture)
        np.testing.assert_array_equal(photo.pixels, np.asarray(ImageOps.exif_transpose(picture)))
        np.testing.assert_array_equal(photo.pixels, scene())
        assert photo.size == scene().shape[:2]


def doors(tmp_path: Path) -> dict[str, object]:
    """One RGB photo in every way that a program may hold it."""
    pixels = noise(HEIGHT, WIDTH)
    path = tmp_path / "photo.png"
    path.write_bytes(encode(pixels, "PNG"))
    tensor = torch.from_numpy(pixels)
    floats = tensor.permute(2, 0, 1) / 255
    return {
        "text": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "memory": memoryview(path.read_bytes()),
        "buffer": io.BytesIO(path.read_bytes()),
        "file": path.open("rb"),
        "opened": Image.open(path),
        "picture": Image.fromarray(pixels),
        "rgba": Image.fromarray(pixels).convert("RGBA"),
        "array": pixels,
        "channels first": np.moveaxis(pixels, 2, 0),
        "opaque": np.dstack([pixels, np.full((HEIGHT, WIDTH), 255, np.uint8)]),
        "floats": pixels / 255,
        "float32": (pixels / 255).astype(np.float32),
        "float16": (pixels / 255).astype(np.float16),
        "big endian": (pixels / 255).astype(">f4"),
        "uint16": pixels.astype(np.uint16) * 257,
        "tensor": tensor,
        "CHW": tensor.permute(2, 0, 1),
        "CHW floats": floats,
        "HWC floats": tensor / 255,
        "float64": floats.double(),
        "half": floats.half(),
        "leaf": floats.clone().requires_grad_(),
        "graph": floats.clone().requires_grad_() * 1,
        "batch of one": floats[None],
        "arrays of others": Wrapped(pixels),
    }


class Wrapped:
    """What another library's array is to numpy."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.pixels


def test_every_door_gives_the_pixels_of_the_file(tmp_path):
    for door, photo in doors(tmp_path).items():
        loaded = load(photo)
        np.testing.assert_array_equal(loaded.pixels, noise(HEIGHT, WIDTH), err_msg=door)
        assert loaded.size == (HEIGHT, WIDTH) and loaded.pixels.flags.c_contiguous, door
        assert ("a batch of one" in loaded.notes) == (door == "batch of one")


@pytest.mark.parametrize("bits", [16, 12])
def test_sixteen_bits_are_rounded_as_a_files(bits):
    grey = (np.arange(HEIGHT * WIDTH) * 105 % 2**bits).astype(np.uint16).reshape(HEIGHT, WIDTH)
    of_file = load(encode(Image.fromarray(grey), "PNG")).pixels
    expected = np.repeat(np.rint(grey / 65535 * 255)[..., None], 3, axis=2)
    for photo in (grey, Image.fromarray(grey), torch.from_numpy(grey), grey[None], grey[..., None]):
        np.testing.assert_array_equal(load(photo).pixels, of_file)
        np.testing.assert_array_equal(load(photo).pixels, expected)
    (note,) = load(grey).notes
    assert note == "16 bits rounded to 8" if bits == 16 else note.startswith("only 12 of 16 bits used")


def test_grey_and_opacity_may_be_arrays():
    four, two = rgba(), rgba()[..., [0, 3]]
    np.testing.assert_array_equal(load(four).pixels, on_white(Image.fromarray(four)))
    np.testing.assert_array_equal(load(two).pixels, on_white(Image.fromarray(two, "LA")))
    np.testing.assert_array_equal(load(four / 255).pixels, on_white(Image.fromarray(four)))
    chw = torch.from_numpy(four).permute(2, 0, 1)
    np.testing.assert_array_equal(load(chw).pixels, on_white(Image.fromarray(four)))
    np.testing.assert_array_equal(load(four[..., 0]).pixels, load(four[None, ..., 0]).pixels)


def test_a_picture_of_pils_and_a_tensor_stay_as_they_are():
    picture = Image.fromarray(rgba())
    tensor = torch.rand(3, HEIGHT, WIDTH, requires_grad=True)
    before = picture.copy(), tensor.detach().clone()
    load(picture), load(tensor)
    assert picture == before[0] and torch.equal(tensor, before[1]) and tensor.requires_grad


def test_an_open_file_is_left_where_it_stood(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(encode(scene(), "PNG"))
    with path.open("rb") as file:
        file.seek(0, io.SEEK_END)
        assert load(file).name == "cat.png" and file.tell() == path.stat().st_size
    assert "closed" in load_error(file)
    assert load(Image.open(path)).name == "cat.png"
    with path.open(encoding="latin-1") as file:
        assert load_error(file) == "an open file gives str, not bytes; open it with 'rb'"


IMAGE = torch.rand(3, HEIGHT, WIDTH)
REFUSED = [
    (IMAGE * 2 - 1, "as after Normalize; floats must lie in [0, 1]"),
    (IMAGE * 255, "divide by 255"),
    (IMAGE.numpy() * 1.5, "divide by 255"),
    (torch.full((HEIGHT, WIDTH), torch.nan), "nan"),
    (torch.rand(3, HEIGHT, 3), "can be read in two ways: RGB first, 20 x 3 pixels, or RGB last, 3 x 20"),
    (np.zeros((4, HEIGHT, 3), np.uint8), "can be read in two ways: RGB and opacity first"),
    (IMAGE.expand(2, -1, -1, -1), "a batch of 2 photos; give one of them, or all to attnvis.explain_all"),
    (torch.rand(5, HEIGHT, WIDTH), "[5, 20, 31]"),
    (torch.zeros(0, HEIGHT, 3), "[0, 20, 3]"),
    (torch.zeros(3, HEIGHT, WIDTH, dtype=torch.int64), "int64 is no photo; give uint8, or floats in [0, 1]"),
    (np.zeros((HEIGHT, WIDTH), bool), "bool is no photo"),
    (torch.empty(3, HEIGHT, WIDTH, device="meta"), "holds no plain numbers"),
    (IMAGE.to_sparse(), "holds no plain numbers"),
    (Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.int32)), "mode I holds numbers from 9 to 9"),
    (None, "NoneType is no photo; give a file's name"),
    ({"image": IMAGE}, "dict is no photo"),
    (io.BytesIO(b""), "0 bytes"),
]


@pytest.mark.parametrize(("photo", "fault"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_photo_or_is_two_is_refused_in_one_line(photo, fault):
    assert fault in load_error(photo)


def test_rounding_alone_is_not_beyond_the_range():
    """A resized picture may reach 1.0000001; half a level of 255 rounds to white."""
    assert load(np.full((6, 5, 3), 1.001)).pixels.min() == 255
    assert load(np.full((6, 5, 3), -0.001)).pixels.max() == 0
    assert "divide" in load_error(np.full((6, 5, 3), 1.003))


def test_a_damaged_file_in_a_picture_is_refused_in_one_line():
    data = encode(noise(60, 80), "JPEG")
    assert "gives no pixels" in load_error(Image.open(io.BytesIO(data[: len(data) // 2])))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_tensor_on_a_gpu_gives_its_pixels():
    tensor = torch.from_numpy(noise(HEIGHT, WIDTH)).cuda()
    np.testing.assert_array_equal(load(tensor).pixels, noise(HEIGHT, WIDTH))
    assert "cuda" in load_error(tensor.float())
