"""A sweep's job leaves the same bytes however many threads measure its photos, whichever is the quicker."""

import json
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import fake_backbone, make_photo
from safetensors.numpy import load_file
from torch import nn

from attnvis.attention.query import language
from attnvis.attention.spec import functions
from attnvis.experiments.sweep import curves
from attnvis.experiments.sweep.job import GridWriter, JobWriter
from attnvis.experiments.sweep.shapes import colour_spread
from attnvis.methods.settings import SettingGrid
from attnvis.pipeline.streaming import stream
from attnvis.types import Preprocessing

AXES = {"backbone": "fake", "weights": "given", "layer": "last", "fit": "resize", "size": "32", "seed": "0"}
HOW = Preprocessing(32, "resize", multiple=8)
SHAPES = [(40, 60), (60, 40), (40, 60), (50, 50), (40, 90), (60, 40), (50, 50), (40, 60), (40, 90), (40, 60)]
DAMAGED, DARK = 0, 4  # of the photos: one that is none, one of which the network makes no numbers


class Uneven(nn.Module):
    """Maps of 8 channels; a dark photo gives NaN, and a batch is slower the fewer photos it has."""

    def __init__(self, most: int = 100) -> None:
        super().__init__()
        self.most = most  # photos that memory holds
        self.convolution = nn.Conv2d(3, 8, 8, stride=8)
        with torch.no_grad():
            weight = torch.randn(self.convolution.weight.shape, generator=torch.Generator().manual_seed(0))
            self.convolution.weight.copy_(weight / 8)
            self.convolution.bias.zero_()

    def forward(self, images):
        if len(images) > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        time.sleep(0.02 / len(images))
        dark = images.amax((1, 2, 3)) < -1
        return torch.where(dark[:, None, None, None], torch.nan, self.convolution(images))


@pytest.fixture
def photos(tmp_path):
    paths = [make_photo(tmp_path / f"{number}.png", size, number) for number, size in enumerate(SHAPES)]
    paths[DAMAGED].write_bytes(b"no picture")
    cv2.imwrite(str(paths[DARK]), np.zeros((*SHAPES[DARK], 3), np.uint8))
    return paths


def measure(folder: Path, paths, workers=1, ahead=True, most=100, batch_size=3, sheets=None, say=print):
    """A job's folder: every file's bytes, and what it says of the photos that failed."""
    grid = SettingGrid(
        fake_backbone(Uneven(most), HOW),
        {text: language.parse(text) for text in ("mean", "random:0,2")},
        functions("scaling", ["none", "cosine:0.07", "perplexity:0.3"]),
        functions("normalise", ["softmax"]),
    )
    with JobWriter(folder, {}) as job:
        job.update(axes=AXES, provenance={})
        with GridWriter(job, grid.settings, (0.3,), sheets) as writer:
            after = writer.summarise if ahead else None
            for outcome in stream(
                paths, grid, HOW, batch_size=batch_size, workers=workers, after=after, say=say
            ):
                writer.add(outcome)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    record = json.loads(files.pop("job.json"))
    return files, {name: record[name] for name in ("done", "failures", "files", "queries", "tiles")}


@pytest.mark.parametrize("sheets", [None, 3])
def test_one_two_and_three_workers_leave_the_same_bytes(tmp_path, photos, monkeypatch, sheets):
    monkeypatch.setattr(curves, "KEPT", 5)  # the fifth that is kept is the seventh in the list
    alone, record = measure(tmp_path / "no thread", photos, ahead=False, sheets=sheets)
    for workers in (1, 2, 3):
        assert measure(tmp_path / str(workers), photos, workers, sheets=sheets) == (alone, record)
    good = [number for number in range(len(photos)) if number not in (DAMAGED, DARK)]
    table = pq.read_table(tmp_path / "3" / "rows.parquet")
    assert table["index"].to_pylist() == [number for number in good for _ in range(3 * 3)]
    assert [Path(failure["path"]).stem for failure in record["failures"]] == ["0", "4"]
    assert "not finite" in record["failures"][1]["reason"]
    kept = load_file(tmp_path / "3" / "curves.safetensors")
    assert {kept[f"{query}/{name}"].shape[0] for query in range(3) for name in ("perplexity", "tau")} == {5}
    drawn = [f"sheets/{number}.jpg" for number in good[:sheets]]
    assert sorted(name for name in alone if name.startswith("sheets/")) == drawn
    assert sum(name.startswith("tiles/") for name in alone) == 3 * 3 * len(drawn) == len(record["tiles"])


def test_a_batch_that_memory_does_not_hold_is_halved_and_told(tmp_path, photos):
    notes: list[str] = []
    small, record = measure(tmp_path / "small", photos, batch_size=1)
    halved = measure(tmp_path / "halved", photos, workers=2, most=1, batch_size=2, say=notes.append)
    assert halved == (small, record)
    assert notes and all("the same as batch_size=1" in note for note in notes)


def test_an_error_in_a_thread_ends_the_job_and_its_threads(tmp_path, photos, monkeypatch):
    def broken(self, outcome):
        if outcome.index == 5:
            raise RuntimeError("the drawing broke")
        return summarise(self, outcome)

    summarise = GridWriter.summarise
    monkeypatch.setattr(GridWriter, "summarise", broken)
    with pytest.raises(RuntimeError, match="the drawing broke"):
        measure(tmp_path / "out", photos, workers=2, sheets=0)
    assert json.loads((tmp_path / "out/job.json").read_text())["reason"] == "the drawing broke"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["job.json"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("attnvis")]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 61)])
@pytest.mark.parametrize("low, high", [(0, 256), (254, 256), (7, 8)])
def test_the_spread_of_colours_is_numpys_standard_deviation(size, low, high):
    pixels = np.random.default_rng(0).integers(low, high, (*size, 3), dtype=np.uint8)
    expected = pixels.astype(float).std((0, 1)).max()
    assert colour_spread(pixels) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert colour_spread(np.ascontiguousarray(pixels[::-1])[::-1]) == colour_spread(pixels)


def test_a_card_of_one_colour_has_no_spread_at_all():
    card = np.full((480, 641, 3), (255, 7, 130), np.uint8)
    assert colour_spread(card) == 0
