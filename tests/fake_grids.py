"""Views, cells and their reach, known by hand."""

import numpy as np
from hypothesis import settings

from attnvis.data.preprocessing import preprocess
from attnvis.geometry import ReceptiveField
from attnvis.types import Box, Photo, Preprocessing, View

FITS = ["resize", "crop", "letterbox", "stretch"]
quick = settings(deadline=None, derandomize=True, max_examples=40)


def rectangle(*numbers: float) -> Box:
    return Box(*map(float, numbers))


def seen_as(size: tuple[int, int], how: str, side: int = 225, resize: int | None = None) -> View:
    """How a photo of that size would be shown to a network."""
    return preprocess(
        Photo("sized", np.zeros((1, 1, 3), np.uint8), size, ""),
        Preprocessing(side, how, resize=resize, multiple=32),
    )[1]


def reaching(first: float, step: float) -> ReceptiveField:
    return ReceptiveField((float(first), float(first)), (float(step), float(step)))
