"""The same on maps of real photos: means, differences, CPU seconds."""

import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from attnvis.metrics import fixations, regions
from attnvis.types import Truth
from metric_oracles.common import Row, our_values
from metric_oracles.regions import region_rows

PHOTO_METHODS = ("gradcam", "eigencam", "spectral_residual", "centre")

PHOTO_QUERIES = ("norm", "class")


def photo_maps(
    dataset: Any, longest: int, methods: tuple[str, ...] = PHOTO_METHODS
) -> Iterator[tuple[Truth, np.ndarray]]:
    """Of every photo the truth, and a few methods' maps on EfficientNet-Lite0, as evaluate has them."""
    from attnvis.attention.query.language import parse
    from attnvis.attention.spec import functions
    from attnvis.backbone.sources import load_backbone
    from attnvis.data.decoding import load
    from attnvis.data.preprocessing import collate
    from attnvis.data.truth import resize_truth
    from attnvis.experiments.evaluate.maps import MapMaker
    from attnvis.experiments.evaluate.measure import size_within
    from attnvis.experiments.evaluate.naming import parse_methods

    backbone = load_backbone("efficientnet_lite0", precision="fp32", engine="eager")
    maker = MapMaker(
        backbone,
        backbone,
        queries={text: parse(text) for text in PHOTO_QUERIES},
        scalings=functions("scaling", ["zscore"]),
        normalisers=functions("normalise", ["softmax"]),
        methods=parse_methods(methods),
    )
    for sample in dataset:
        (maps,) = maker(collate([load(sample.path)], backbone.preprocessing))[0]
        size = size_within(sample.truth.size, longest)
        yield resize_truth(sample.truth, size), maps.densities(size).numpy()


def photo_rows(truth: Truth) -> list[Row]:
    """What pysaliency, Quantus and scikit-learn say of a photo's maps: by fixations, or by boxes."""
    if truth.fixations is None:
        mask = regions.region_of(truth)
        assert mask is not None
        boxed = Truth(truth.size, mask=mask.reshape(truth.size).numpy())
        shown = ("pointing_game", "energy", "relevance_rank", "mask_auc", "average_precision")
        return [row for row in region_rows(boxed) if row.label in shown]
    their = importlib.import_module("pysaliency.metrics")
    roc = importlib.import_module("pysaliency.roc")
    y, x = truth.fixations.astype(int).T
    assert truth.others is not None
    others_y, others_x = truth.others.astype(int).T
    looks = fixations.looked_at(truth).numpy()
    return [
        Row(
            fixations.auc,
            "pysaliency roc",
            lambda s: roc.general_rocs_per_positive(s[y, x], s.ravel()).mean(),
            truth,
        ),
        Row(
            fixations.sauc,
            "pysaliency roc",
            lambda s: roc.general_rocs_per_positive(s[y, x], s[others_y, others_x]).mean(),
            truth,
        ),
        Row(fixations.nss, "pysaliency NSS", lambda s: their.NSS(s, x, y).mean(), truth),
        Row(fixations.cc, "pysaliency CC", lambda s: their.CC(s, looks), truth),
        Row(fixations.sim, "pysaliency SIM", lambda s: their.SIM(s, looks), truth),
        Row(fixations.kl, "pysaliency MIT_KLDiv", lambda s: their.MIT_KLDiv(s, looks), truth),
    ]


def print_photos(folder: Path, count: int, longest: int = 256) -> None:
    """Means over photos and maps, the largest difference of any map, and the CPU seconds of both."""
    from attnvis.data.datasets import open_dataset

    np.trapz = np.trapezoid  # type: ignore[attr-defined]  # noqa: NPY201
    torch.set_num_threads(1)
    dataset = open_dataset(folder)
    dataset = dataset.chosen(range(min(count, len(dataset))))
    table: dict[str, SimpleNamespace] = {}
    maps_in_all = 0
    for truth, maps in photo_maps(dataset, longest):
        warm = not table
        maps_in_all += len(maps)
        for row in photo_rows(truth):
            line = table.setdefault(
                row.label, SimpleNamespace(row=row, ours=[], theirs=[], seconds=np.zeros(2))
            )
            if warm:
                row.theirs(maps[0])  # what numba compiles
            started = time.process_time()
            ours = our_values(row, maps)
            middle = time.process_time()
            library = [row.theirs(values) for values in maps]
            line.seconds += middle - started, time.process_time() - middle
            line.ours.append(ours)
            line.theirs.append(library)
    print(
        f"| {len(dataset)} photos, {maps_in_all} maps | library | ours | theirs | largest difference "
        "| ours, CPU s | theirs, CPU s |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, line in table.items():
        ours, theirs = (np.concatenate(each) for each in (line.ours, line.theirs))
        mine, others = line.seconds
        print(
            f"| {name} | {line.row.library} | {np.nanmean(ours):.6f} | {np.nanmean(theirs):.6f} "
            f"| {np.nanmax(np.abs(ours - theirs)):.1e} | {mine:.2f} | {others:.2f} |"
        )
