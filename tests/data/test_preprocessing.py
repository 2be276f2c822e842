"""Network inputs against torchvision, arithmetic by hand, and blobs painted at known places."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fake_pictures import BLACK, FITS, encode, huge_jpeg, largest_difference, noise, scene, sized
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate, preprocess, shape_key
from attnvis.types import Preprocessing


def test_pixels_reduced_too_far_are_read_again(huge):
    how = Preprocessing(600)
    assert largest_difference(preprocess(load(huge, 32), how)[0], preprocess(load(huge), how)[0]) == 0


def test_a_reduced_photo_looks_the_same_to_the_network(huge):
    for name in FITS:
        how = Preprocessing(64, name)
        (small, reduced_view), (whole, whole_view) = (
            preprocess(load(huge, 64), how),
            preprocess(load(huge), how),
        )
        assert reduced_view == whole_view
        assert np.abs(small.astype(float) - whole).mean() < 1.5


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> Path:
    return huge_jpeg(tmp_path_factory.mktemp("huge"))


# One photo


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
    # one row off would cost about 1 for most sizes
    assert np.abs(ours.astype(float) - theirs.permute(1, 2, 0).numpy()).mean() < 0.4


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
    assert largest_difference(preprocess(photo, Preprocessing(224))[0], photo.pixels) == 0
    assert largest_difference(preprocess(photo, Preprocessing(224, "crop"))[0], photo.pixels[:, 32:256]) == 0


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
        # as long as may be
        assert (
            abs(max(view.size) - long) <= multiple / 2
            or max(view.size) <= 8 * size < max(view.size) + multiple
        )
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


def test_a_batch_is_its_definition_photo_by_photo():
    """The same resize, then (rgb / 255 - mean) / std in float64."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pictures = [noise(90 + number, 121 + number) for number in range(3)]
    batch = collate([load(pixels) for pixels in pictures], Preprocessing(64, "stretch", mean=mean, std=std))
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for image, pixels in zip(batch.images.double(), pictures, strict=True):
        small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
        defined = (torch.from_numpy(small).double() / 255 - torch.tensor(mean)) / torch.tensor(std)
        assert (image.permute(1, 2, 0) - defined).abs().max() < 1e-6
