"""What is known of a photo: its class by its path, where people looked at the others; on another grid."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Int

from attnvis.class_names import find_class
from attnvis.types import Box, PhotoError, Source, Truth

__all__ = ["Truth", "other_fixations", "read_truth", "resize_truth"]


def other_fixations(
    places: Float[np.ndarray, "F 2"],
    photos: Int[np.ndarray, " F"],
    *,
    index: int,
    size_of: Callable[[int], tuple[int, int]],
) -> Float[np.ndarray, "K 2"]:
    """The fixations (row, column) of all photos but number `index`, stretched from their photos to its size.

    photos    the number of each fixation's photo
    size_of   a photo's number -> its (height, width)

    Those of photos whose size cannot be read are left out.  Raises PhotoError where this photo's cannot.
    """
    size = size_of(index)
    zooms = np.ones((int(photos.max(initial=0)) + 1, 2))
    used = photos != index
    for photo in np.unique(photos[used]).tolist():
        try:
            zooms[photo] = np.divide(size, size_of(photo))
        except PhotoError:
            used &= photos != photo
    return places[used] * zooms[photos[used]]


def resize_truth(truth: Truth, size: tuple[int, int]) -> Truth:
    """The same truth on a grid of another size (height, width), for maps drawn smaller than the photo.

    Settings in pixels of the photo, as a tolerance, follow by `zoom`.  A pixel belongs to the mask where at
    least half of it did; a thing that becomes smaller than a pixel may vanish.
    """
    if size == truth.size:
        return truth
    zoom = np.divide(size, truth.size)
    mean_zoom = math.sqrt(zoom[0] * zoom[1])

    def moved(places: Float[np.ndarray, "F 2"] | None) -> Float[np.ndarray, "F 2"] | None:
        return None if places is None else places * zoom

    def shrunk(mask: np.ndarray | None) -> np.ndarray | None:
        if mask is None:
            return None
        return cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)

    mask, distractors, looks = shrunk(truth.mask), shrunk(truth.distractors), shrunk(truth.looks)
    boxes = truth.boxes
    if boxes is not None:
        boxes = tuple(
            Box(box.top * zoom[0], box.left * zoom[1], height=box.height * zoom[0], width=box.width * zoom[1])
            for box in boxes
        )
    return replace(
        truth,
        size=size,
        fixations=moved(truth.fixations),
        others=moved(truth.others),
        looks=looks,
        degree=None if truth.degree is None else truth.degree * mean_zoom,
        mask=None if mask is None else mask >= 0.5,
        distractors=None if distractors is None else distractors >= 0.5,
        boxes=boxes,
        zoom=truth.zoom * mean_zoom,
    )


def read_truth(path: Source, categories: Sequence[str], classes: int) -> int:
    """The index of the class that a photo's path tells: tabby/1.jpg, 281/1.jpg, 281_tabby/1.jpg or 281_1.jpg.

    `categories` are the names of the first of `classes` classes.  Raises PhotoError where the path tells no
    class, two, or one that there is not.
    """
    place = Path(str(path).replace("::", "/"))  # of an archive, the folder in it
    folder = place.absolute().parent.name
    name = re.sub(r"^n\d{8}[_ ]", "", folder)  # n02123045_tabby
    if not name.isdigit():
        try:
            return find_class(name, categories, count=classes)
        except ValueError:
            pass  # a folder may be called anything
    matches = (re.match(r"(\d+)_", place.name), re.match(r"(\d+)(_|$)", folder))
    indices = {int(match[1]) for match in matches if match}
    if len(indices) == 1:
        try:
            return find_class(str(*indices), categories, count=classes)
        except ValueError as error:
            raise PhotoError(f"{path}: {error}") from None
    advice = "call the file 281_anything, or its folder by index or name: 281, tabby"
    if indices:
        numbers = " and ".join(map(str, sorted(indices)))
        raise PhotoError(f"{path} names two classes, {numbers}, by its file and by its folder; {advice}")
    raise PhotoError(f"{path} does not say its class; {advice}")
