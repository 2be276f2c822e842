"""Photos and a backbone in, where the cells of its layers look out: the flip test over many photos."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.backbone.backbone import Backbone
from attnvis.backbone.calibration import Calibration, calibration_file, estimate_shift, flip_agreements
from attnvis.data.preprocessing import sample
from attnvis.files import Held, locked
from attnvis.pipeline.streaming import first_photos, stream
from attnvis.types import Preprocessing, Source

__all__ = ["flip_test", "flip_test_of_chance", "held"]

Watch = Callable[[Iterable[Any], int], Iterable[Any]]


def unwatched(outcomes: Iterable[Any], total: int) -> Iterable[Any]:
    return outcomes


@contextlib.contextmanager
def held(backbone: Backbone) -> Iterator[None]:
    """The calibrations of these weights for this process alone; said before the photos are read.

    Raises ValueError where another one calibrates them, OSError where they cannot be stored.
    """
    folder = calibration_file(backbone.digest, "").with_suffix("")
    try:
        lock = locked(folder)
    except Held:
        raise ValueError(f"{backbone.name} is being calibrated by another process; wait for it") from None
    try:
        yield
    finally:
        lock.close()
        with contextlib.suppress(OSError):  # another one holds it by now
            folder.rmdir()


def flip_test(
    backbone: Backbone,
    paths: list[Source],
    preprocessing: Preprocessing,
    batch_size: int = 8,
    seed: int = 0,
    watch: Watch = unwatched,
) -> tuple[list[Calibration], Counter[str]]:
    """How far the cells of every layer look from where they are placed, and why some photos were left out.

    `watch` sees photos pass: a progress bar.  Raises ValueError where the flip test would mean nothing, and
    where the photos do not say where the cells look.
    """
    strides = strides_of(backbone, preprocessing)
    tables, reasons = agreement_tables(backbone, paths, preprocessing, batch_size, watch)
    calibrations = []
    for node, stride, table in zip(backbone.network.nodes, strides, tables, strict=True):
        calibration = replace(
            estimate_shift(table, stride, seed),
            backbone=backbone.name,
            digest=backbone.digest,
            layer=node,
            size=preprocessing.size,
        )
        calibrations.append(calibration)
    return calibrations, reasons


def flip_test_of_chance(
    backbone: Backbone,
    paths: list[Source],
    preprocessing: Preprocessing,
    copies: int,
    batch_size: int = 8,
    seed: int = 0,
    watch: Watch = unwatched,
) -> tuple[list[tuple[float, ...]], list[str]]:
    """Per layer the shifts of copies with random weights, and the names of parameters that stayed learned.

    A copy whose photos do not say where its cells look gives no shift.  Raises ValueError where the flip test
    would mean nothing.
    """
    strides = strides_of(backbone, preprocessing)
    shifts: list[list[float]] = [[] for _ in strides]
    unchanged: list[str] = []
    batch = sample(first_photos(paths, preprocessing).values(), preprocessing)
    if batch is None:  # no photo, no copy
        return [() for _ in strides], unchanged
    for number in range(copies):
        control, unchanged = backbone.with_random_weights(seed + number, batch.images)
        tables, _ = agreement_tables(control, paths, preprocessing, batch_size, watch)
        for layer_shifts, stride, table in zip(shifts, strides, tables, strict=True):
            with contextlib.suppress(ValueError):
                layer_shifts.append(estimate_shift(table, stride, seed).shift)
    return [tuple(layer_shifts) for layer_shifts in shifts], unchanged


def strides_of(backbone: Backbone, preprocessing: Preprocessing) -> list[float]:
    """The stride of every layer in pixels.  Raises ValueError where the flip test would mean nothing."""
    if backbone.digest == "random":
        raise ValueError("random weights cannot be calibrated: nothing was learned; give trained weights")
    cells, size = backbone.cells, (preprocessing.size, preprocessing.size)
    strides = []
    for number, layer in enumerate(backbone.layers):
        field = cells.receptive_field(size, number)
        if field is None:
            reason = cells.unplaced or f"placement={cells.placement}"
            raise ValueError(
                f"layer {layer} of {backbone.name} cannot be calibrated, "
                f"for its cells could not be probed: {reason}"
            )
        strides.append(field.stride[1])
    return strides


def agreement_tables(
    backbone: Backbone,
    paths: list[Source],
    preprocessing: Preprocessing,
    batch_size: int,
    watch: Watch = unwatched,
) -> tuple[list[Float[np.ndarray, "P S"]], Counter[str]]:
    """Per layer, how well maps of photos and of mirrored photos agree; and why some photos were left out."""
    photos, reasons = [], Counter[str]()
    method = flip_agreements(backbone)
    for outcome in watch(stream(paths, method, preprocessing, batch_size), len(paths)):
        if outcome.error:
            reasons[outcome.error] += 1
        elif not all(np.isfinite(agreements).all() for agreements in outcome.answers):
            reasons[f"{outcome.path.name}: features that are not finite (NaN or infinite)"] += 1
        else:
            photos.append(outcome.answers)
    layers = range(len(backbone.layers))
    return [np.array([agreements[number] for agreements in photos]) for number in layers], reasons
