"""A sweep's folder as its jobs leave it, over tokens that a test makes up."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from conftest import no_network

from attnvis.attention.query import language as queries
from attnvis.attention.spec import functions
from attnvis.experiments.sweep.folder import read_sweep
from attnvis.experiments.sweep.job import GridWriter, JobWriter
from attnvis.experiments.sweep.statistics import series_of
from attnvis.methods.settings import SettingGrid
from attnvis.pipeline.streaming import Outcome
from attnvis.types import Box, Features, Photo, Placement

GRID = (5, 7)
AXES = {"backbone": "fake", "weights": "none", "layer": "last", "fit": "resize", "size": "65", "seed": "0"}


def measure(
    folder,
    names,
    tokens,
    scalings=("none", "inv_sqrt_d", "zscore"),
    asked=("mean",),
    normalisers=("softmax",),
    cards=0,
    **more,
):
    """A job's folder, as a sweep over these tokens [photos, N, D] writes it; the first photos are cards."""
    size = (50, 70)
    placement = Placement((5.0, 5.0), (10.0, 10.0), GRID, size, Box(0.0, 0.0, 50.0, 70.0))
    features = Features(tokens, GRID, tuple(placement for _ in names))
    grid = SettingGrid(
        no_network,
        {text: queries.parse(text) for text in asked},
        functions("scaling", scalings),
        functions("normalise", normalisers),
    )
    with JobWriter(folder, {"images": "some"}) as job:
        provenance = {"device": "cpu"} | more.pop("provenance", {})
        job.update(axes=AXES | more.pop("axes", {}), provenance=provenance, passes=len(names))
        with GridWriter(job, grid.settings, sharpness=[0.1], **more) as writer:
            for index, (name, answers) in enumerate(zip(names, grid.answer((features,)))):
                pixels = np.full((*size, 3), 10 * index % 256, np.uint8)
                if index >= cards:
                    pixels[:25] = 255 - pixels[:25]
                    pixels[::2] //= 2
                photo = Photo(name, pixels, size, f"digest of {name}")
                writer.add(Outcome(index, Path(name), photo, answers))


def planned(folder, jobs=("",)):
    folder.mkdir(exist_ok=True)
    plan = {"command": "attnvis sweep photos", "jobs": list(jobs), "many": len(jobs) > 1}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def noise(photos=8, spread=1.0, channels=16, seed=0):
    """Tokens whose scores with their mean spread by about `spread` times that mean's length."""
    random = torch.Generator().manual_seed(seed)
    return 1 + spread * torch.randn(photos, math.prod(GRID), channels, generator=random)


def measured(folder, photos=8, **more):
    """A sweep of one job; `more` is that of `measure`."""
    names = [f"{number}.jpg" for number in range(photos)]
    measure(planned(folder), names, more.pop("tokens", noise(photos)), **more)
    return read_sweep(folder)


def series_in(folder, **more):
    return series_of(measured(folder, **more))
