"""Maps and boxes -> how often a box drawn about the hot part fits one of them (Choe et al. 2020).

The only metrics that need OpenCV: for the outlines of what lies above a threshold.
"""

import math
from itertools import pairwise

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attnvis.metrics.fixations import undefined, unit_range
from attnvis.metrics.metric import best_of_thresholds, filled, metric
from attnvis.metrics.regions import resized
from attnvis.types import Box, Truth

__all__ = ["max_box_acc", "max_box_acc_v2"]

CUTS = 255  # an 8-bit map has no more thresholds
OVERLAPS = (0.3, 0.5, 0.7)


def mean_of_best_cuts(curves: Float[Tensor, "*any T"]) -> Float[Tensor, "*any"]:
    return curves.unflatten(-1, (len(OVERLAPS), -1)).amax(-1).mean(-1)


@metric("mask|boxes", finish=best_of_thresholds)
def max_box_acc(maps: Float[Tensor, "M H W"], truth: Truth, side: int = 224) -> Float[Tensor, "M T"]:
    """How often the box about the largest part above a threshold overlaps a true box by half (Choe 2020).

    side   of the square to which maps and boxes are brought; 0: they stay as they are

    The threshold is the one that is best on the data set: it favours every map alike, but a single number of
    it is no forecast.  Overlap is intersection over union, counted in whole pixels.
    """
    return overlaps_along_cuts(maps, truth, side=side, every_part=False, least=(0.5,))


@metric("mask|boxes", finish=mean_of_best_cuts)
def max_box_acc_v2(maps: Float[Tensor, "M H W"], truth: Truth, side: int = 224) -> Float[Tensor, "M T"]:
    """As `max_box_acc`, the best of the boxes about all parts, the mean over overlaps of .3, .5 and .7."""
    return overlaps_along_cuts(maps, truth, side=side, every_part=True, least=OVERLAPS)


def overlaps_along_cuts(
    maps: Float[Tensor, "M H W"], truth: Truth, *, side: int, every_part: bool, least: tuple[float, ...]
) -> Float[Tensor, "M T"]:
    """1 where a box of the map overlaps a true one enough, by overlap and threshold: [M, len * 255]."""
    values = filled(maps)
    boxes = true_boxes(truth)
    if not len(boxes):
        return undefined(maps)[:, None].expand(-1, len(least) * CUTS)
    if side:
        boxes = boxes * ([side / truth.size[1], side / truth.size[0]] * 2)
        values = resized(values, (side, side))
    edges = np.array([values.shape[2] - 1, values.shape[1] - 1] * 2)
    corners = np.clip(boxes.astype(np.int64), 0, edges)
    shares = unit_range(values)
    curves = torch.full((len(maps), len(least), CUTS), math.nan, dtype=torch.float64)
    for number, share in enumerate(shares.cpu().numpy()):
        if not np.isnan(share).any():
            overlaps = best_overlaps((share * 255).astype(np.uint8), corners, every_part)
            curves[number] = torch.from_numpy(overlaps >= np.array(least)[:, None])
    return curves.flatten(1).to(maps.device)


def true_boxes(truth: Truth) -> Float[np.ndarray, "K 4"]:
    """The boxes as (left, top, right, bottom); of a mask the one around it."""
    boxes = truth.boxes
    if boxes is None:
        rows, columns = np.nonzero(truth.mask if truth.mask is not None else np.zeros((0, 0)))
        if not len(rows):
            return np.empty((0, 4))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        boxes = (Box(float(rows.min()), float(columns.min()), float(height), float(width)),)
    corners = [(box.left, box.top, box.left + box.width, box.top + box.height) for box in boxes]
    return np.array(corners, float).reshape(-1, 4)


def best_overlaps(
    levels: UInt8[np.ndarray, "H W"], boxes: Int[np.ndarray, "K 4"], every_part: bool
) -> Float[np.ndarray, " T"]:
    """The best overlap of the map's boxes with the true ones, for what lies above 0, 1 ... 254."""
    overlaps = np.zeros(CUTS)
    present = np.unique(levels).tolist()
    for low, high in pairwise([*present, CUTS]):  # above `low` and above all that is below `high` is the same
        if low < high:
            drawn = outline_boxes(levels > low, every_part)
            overlaps[low:high] = overlap(drawn, boxes).max()
    return overlaps


def outline_boxes(mask: np.ndarray, every_part: bool) -> Int[np.ndarray, "K 4"]:
    """(left, top, right, bottom) about the outlines of the mask, holes too, or about the one with the largest
    area; the first pixel where there is none.
    """
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return np.zeros((1, 4), np.int64)
    if not every_part:
        outlines = (max(outlines, key=cv2.contourArea),)
    left, top, width, height = np.array([cv2.boundingRect(outline) for outline in outlines]).T
    right = np.minimum(left + width, mask.shape[1] - 1)
    bottom = np.minimum(top + height, mask.shape[0] - 1)
    return np.stack([left, top, right, bottom], 1)


def overlap(first: Int[np.ndarray, "A 4"], second: Int[np.ndarray, "B 4"]) -> Float[np.ndarray, "A B"]:
    """Intersection over union; the far corners belong to the boxes."""
    starts = np.maximum(first[:, None, :2], second[:, :2])
    ends = np.minimum(first[:, None, 2:], second[:, 2:])
    both = np.maximum(0, ends - starts + 1).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(-1) for boxes in (first, second)]
    return both / (areas[0][:, None] + areas[1] - both)
