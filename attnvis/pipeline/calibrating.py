"""Photos and a backbone in, where the cells of its layers look out: the flip test over many photos."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.backbone import calibration
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.calibration import Calibration
from attnvis.data.preprocessing import sample
from attnvis.pipeline.streaming import stream
from attnvis.types import Preprocessing

__all__ = ["flip_test", "flip_test_of_chance"]

Watch = Callable[[Iterable[Any], int], Iterable[Any]]


def unwatched(outcomes: Iterable[Any], total: int) -> Iterable[Any]:
    return outcomes


def flip_test(
    backbone: "Backbone",
    paths: list[Path],
    preprocessing: "Preprocessing",
    batch_size: int = 8,
    seed: int = 0,
    watch: Watch = unwatched,
) -> "tuple[list[Calibration], Counter[str]]":
    """What the photos say of every layer of a backbone whose placement is rf, and why some of them said nothing.

    `watch` sees photos pass: a progress bar.
    """
    strides = backbone.calibratable((preprocessing.size, preprocessing.size))
    tables, reasons = agreements(backbone, paths, preprocessing, batch_size, watch)
    found = []
    for node, stride, table in zip(backbone.nodes, strides, tables, strict=True):
        calibrated = calibration.estimate_shift(table, stride, seed)
        found.append(
            replace(
                calibrated,
                backbone=backbone.name,
                digest=backbone.digest,
                layer=node,
                size=preprocessing.size,
            )
        )
    return found, reasons


def flip_test_of_chance(
    backbone: "Backbone",
    paths: list[Path],
    preprocessing: "Preprocessing",
    copies: int,
    batch_size: int = 8,
    seed: int = 0,
    watch: Watch = unwatched,
) -> tuple[list[tuple[float, ...]], list[str]]:
    """Per layer the shifts of copies of the network with random weights, and the names of the parameters that stayed learned.

    A copy whose photos do not say where its cells look gives no shift.
    """
    strides = backbone.calibratable((preprocessing.size, preprocessing.size))
    shifts: list[list[float]] = [[] for _ in strides]
    kept: list[str] = []
    batch = sample(paths, preprocessing, count=8)
    if batch is None:  # no photo, no copy
        return [() for _ in strides], kept
    for number in range(copies):
        control, kept = backbone.with_random_weights(seed + number, batch.images)
        tables, _ = agreements(control, paths, preprocessing, batch_size, watch)
        for layer_shifts, stride, table in zip(shifts, strides, tables, strict=True):
            with contextlib.suppress(ValueError):
                layer_shifts.append(calibration.estimate_shift(table, stride, seed).shift)
    return [tuple(layer_shifts) for layer_shifts in shifts], kept


def agreements(
    backbone: "Backbone",
    paths: list[Path],
    preprocessing: "Preprocessing",
    batch_size: int,
    watch: Watch = unwatched,
) -> "tuple[list[Float[np.ndarray, 'P S']], Counter[str]]":
    """Per layer, how well maps of photos and of mirrored photos agree under every shift; and why some photos said nothing."""
    answers, reasons = [], Counter[str]()
    method = calibration.flip_agreements(backbone)
    for outcome in watch(stream(paths, method, preprocessing, batch_size), len(paths)):
        if outcome.error:
            reasons[outcome.error] += 1
        else:
            answers.append(outcome.answers)
    return [
        np.array([tables[number] for tables in answers]) for number in range(len(backbone.nodes))
    ], reasons
