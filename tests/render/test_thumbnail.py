"""Small pictures: sizes and colours by hand, shrinking against averages over areas."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from attnvis.render.thumbnail import LONGEST_SIDE, read_thumbnail, shrunk, thumbnail, thumbnail_of_file


def decoded(small):
    return np.asarray(Image.open(io.BytesIO(small.jpeg)))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (240, 320)),
        (3000, 40, (320, 4)),
        (7, 5, (7, 5)),
        (1, 4000, (1, 320)),
        (321, 321, (320, 320)),
    ],
)
def test_a_thumbnail_fits_its_square_and_keeps_its_colour(height, width, expected):
    small = thumbnail(np.full((height, width, 3), (200, 30, 60), np.uint8))
    assert (small.height, small.width) == decoded(small).shape[:2] == expected
    assert max(expected) <= LONGEST_SIDE
    assert np.abs(decoded(small).astype(int) - (200, 30, 60)).max() < 6


def test_what_shrinks_by_a_whole_number_is_the_mean_of_its_blocks():
    picture = np.random.default_rng(0).integers(0, 256, (7 * 4, 5 * 4, 3), dtype=np.uint8)
    means = picture.reshape(7, 4, 5, 4, 3).mean((1, 3))
    assert np.abs(shrunk(picture, (7, 5)) - means).max() <= 0.5


@pytest.mark.parametrize("size", [(480, 640), (375, 500), (1080, 1920), (2160, 3840)])
def test_shrinking_looks_like_averages_over_areas(size):
    noise = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)
    picture = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    scale = LONGEST_SIDE / max(size)
    small = (round(size[0] * scale), round(size[1] * scale))
    areas = cv2.resize(picture, small[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk(picture, small) - areas.astype(float)).mean() < 3  # levels, of 255


def test_a_file_gives_the_thumbnail_of_what_it_holds():
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    assert thumbnail_of_file(file.getvalue()) == thumbnail(picture)
    assert thumbnail_of_file(file.getvalue()[:200]) is None and thumbnail_of_file(b"") is None


def test_a_thumbnail_that_was_kept_is_read_back_as_it_is():
    small = thumbnail(np.full((48, 640, 3), 90, np.uint8))
    assert read_thumbnail(small.jpeg) == small and (small.height, small.width) == (24, 320)
    file = io.BytesIO()
    Image.new("RGB", (4, 3)).save(file, "PNG")
    assert read_thumbnail(file.getvalue()) is None and read_thumbnail(b"") is None
