"""What is no attention stands in the same table: a function of a batch whose answers are maps alone."""

import csv
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import make_photo

from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import diagnose
from attnvis.pipeline.maps import read_maps
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.run_folder import RunWriter
from attnvis.pipeline.streaming import stream
from attnvis.render import Style
from attnvis.types import Batch, Box, Placement, Preprocessing, Provenance

GRID = (3, 5)
HOW = Preprocessing(size=96, fit="stretch")
NETWORK = Provenance(backbone="none", weights="none", layer="none")


def centre_bias(batch: Batch) -> list[list[Answer]]:
    """Everybody looks at the middle: 9 twelfths there, the rest on the four cells beside it."""
    weights = torch.zeros(GRID)
    weights[1, 2] = 9 / 12
    weights[0, 2] = weights[2, 2] = weights[1, 1] = weights[1, 3] = 1 / 16
    diagnostics = {name: float(value) for name, value in diagnose(weights.flatten()).items()}
    return [
        [Answer("centre", "centre bias", weights.flatten(), placed, diagnostics)]
        for placed in map(whole, batch.photos)
    ]


def whole(photo) -> Placement:
    height, width = photo.size
    step = (height / GRID[0], width / GRID[1])
    return Placement(
        (step[0] / 2, step[1] / 2), step, GRID, photo.size, Box(0.0, 0.0, float(height), float(width))
    )


@pytest.fixture
def finished(tmp_path):
    """A run's folder that a method without any network has left."""
    paths = [make_photo(tmp_path / f"{number}.png", (60, 100), number) for number in range(2)]
    folder = tmp_path / "out"
    with RunWriter(folder, RunPlan(tuple(paths), Style(), NETWORK, {"name": "bias"})) as results:
        for outcome in stream(paths, centre_bias, HOW, after=results.render):
            results.record(outcome)
    return folder


def test_it_leaves_records_maps_pictures_and_a_page_like_any_other(finished):
    with (finished / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "done"]
    # by hand: entropy = -(3/4 ln 3/4 + 4/16 ln 1/16)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(1 / 16))
    assert float(rows[0]["perplexity"]) == pytest.approx(np.exp(entropy), rel=1e-6)
    assert float(rows[0]["max_times_uniform"]) == pytest.approx(15 * 0.75)
    assert rows[0]["sigma_eff"] == "" and rows[0]["predicted"] == "", "it has neither logits nor a classifier"
    assert all((finished / row[name]).is_file() for row in rows for name in ("map", "overlay", "panel"))
    assert "centre bias" in (finished / "index.html").read_text("utf-8")


def test_its_map_comes_back_without_stages_it_never_had(finished):
    (answer,) = read_maps(next((finished / "maps").iterdir()))
    assert answer.attention is None and answer.vector is None and answer.hottest == (1, 2)
    assert answer.weights.reshape(GRID)[1].tolist() == [0, 1 / 16, 0.75, 1 / 16, 0]
    density = answer.density((30, 50))  # ten by ten pixels a cell
    row, column = np.unravel_index(density.argmax(), density.shape)
    assert (row // 10, column // 10) == (1, 2) and density.sum() == pytest.approx(1, rel=1e-5)
    assert asdict(answer.placement)["grid"] == GRID
