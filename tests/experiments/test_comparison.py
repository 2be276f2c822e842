"""The page of a sweep: what it says, what it holds, and what a browser makes of it."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Page, no_network

from attnvis.attention.query import language as queries
from attnvis.attention.spec import functions
from attnvis.experiments.sweep.folder import read_sweep
from attnvis.experiments.sweep.job import Job
from attnvis.experiments.sweep.page import write_comparison
from attnvis.experiments.wording import percent
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
    **more,
):
    """A job's folder, as a sweep over these tokens [photos, N, D] writes it."""
    size = (50, 70)
    placement = Placement((5.0, 5.0), (10.0, 10.0), GRID, size, Box(0.0, 0.0, 50.0, 70.0))
    features = Features(tokens, GRID, tuple(placement for _ in names))
    grid = SettingGrid(
        no_network,
        {text: queries.parse(text) for text in asked},
        functions("scaling", scalings),
        functions("normalise", normalisers),
    )
    with Job(folder, {"images": "some"}) as job:
        job.axes, job.facts = AXES | more.pop("axes", {}), {"device": "cpu"}
        job.open(grid.settings, sharpness=[0.1], **more)
        for index, (name, answers) in enumerate(zip(names, grid.answer((features,)))):
            pixels = np.full((*size, 3), 10 * index % 256, np.uint8)
            job.add(Outcome(index, Path(name), Photo(name, pixels, size, f"digest of {name}"), answers))
        job.passes = len(names)


def planned(folder, jobs=("",)):
    folder.mkdir(exist_ok=True)
    plan = {"command": "attnvis sweep photos", "jobs": list(jobs), "many": len(jobs) > 1}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def noise(photos=8, spread=1.0, channels=16, seed=0):
    """Tokens whose scores with their mean have a standard deviation of about `spread` times that mean's length."""
    random = torch.Generator().manual_seed(seed)
    return 1 + spread * torch.randn(photos, math.prod(GRID), channels, generator=random)


def compared(folder, photos=8, **more):
    measure(
        planned(folder),
        [f"{number}.jpg" for number in range(photos)],
        more.pop("tokens", noise(photos)),
        **more,
    )
    return Page(write_comparison(read_sweep(folder)))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return compared(
        tmp_path_factory.mktemp("sweep"),
        scalings=("none", "inv_sqrt_d", "zscore", "cosine:0.07"),
        asked=("mean", "random"),
    )


# ------------------------------------------------------------------------------------------------ one file


def test_the_page_needs_nothing_from_elsewhere(page):
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) > 10
    assert all(source.startswith("data:image/") for source in pictures)
    assert not re.search(r"https?:|@import|url\(", page.source)
    linked = [attributes["href"] for tag, attributes in page.tags if tag == "link"]
    assert linked == ["data:,"]
    assert not [
        name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"
    ]


def test_every_figure_is_there_for_a_paper(page, tmp_path):
    compared(tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    stems = {"collapse_by_scaling", "gaps_mean", "gradient", "ranks_mean", "ecdf", "self_check"}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    assert (tmp_path / "figures/ecdf.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.rglob("*.part"))


def test_all_rows_of_all_jobs_are_in_one_table(tmp_path):
    planned(tmp_path, ["backbone.layer=last", "backbone.layer=stage3"])
    for number, layer in enumerate(("last", "stage3")):
        measure(tmp_path / str(number), ["a.jpg", "b.jpg"], noise(2, seed=number), axes={"layer": layer})
    page = Page(write_comparison(read_sweep(tmp_path)))
    table = pq.read_table(tmp_path / "sweep.parquet")
    assert table.num_rows == 2 * 2 * 3
    assert table["layer"].to_pylist() == ["last"] * 6 + ["stage3"] * 6
    assert "layer stage3" in page.words
    assert "3 settings × 1 query × 2 jobs on 2 photos" in page.words


# ------------------------------------------------------------------------------------------------ what it says


def test_one_hot_and_nearly_uniform_are_called_so(tmp_path):
    sharp = compared(tmp_path / "sharp", tokens=noise(spread=1.0) * 30)
    assert "1/√d_k leaves the query “mean” one-hot on" in sharp.words
    even = compared(tmp_path / "even", tokens=noise(spread=0.01))
    assert re.search(r"1/√d_k leaves the query “mean” nearly uniform \(median (9\d|> 99.9|99.\d)", even.words)


def test_the_largest_change_is_the_largest_paired_difference(tmp_path):
    page = compared(tmp_path)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    share = {(row["photo"], row["scaling"]): row["perplexity"] / row["patches"] for row in rows}
    photos = sorted({photo for photo, _ in share})
    by_hand = {}
    for scaling in ("none", "zscore"):
        differences = sorted(share[photo, scaling] - share[photo, "inv_sqrt_d"] for photo in photos)
        by_hand[scaling] = (differences[3] + differences[4]) / 2  # of eight
    largest = max(by_hand, key=lambda scaling: abs(by_hand[scaling]))
    assert f"The largest change against 1/√d_k is that of “{largest}”" in page.words
    assert f"{100 * abs(by_hand[largest]):.1f} percentage points of the patches" in page.words
    for scaling, value in by_hand.items():
        assert re.search(
            rf"<b>{scaling}</b>.*?{'+' if value > 0 else '−'}{100 * abs(value):.1f} <small>\[",
            page.source,
            re.DOTALL,
        )


def test_a_sweep_without_1_over_sqrt_d_says_so(tmp_path):
    page = compared(tmp_path, scalings=("zscore:0.3", "zscore:3"))
    assert "1/√d_k, which was not part of this sweep, would leave" in page.words
    assert re.search(
        "The settings differ most on the query “mean”: from .* under “zscore:0.3” to .* under “zscore:3”",
        page.words,
    )
    assert "that of 1/√d_k on" not in page.words


def test_one_photo_and_one_setting_make_a_page_without_intervals(tmp_path):
    page = compared(tmp_path, photos=1, scalings=("temperature:2",), normalisers=("sparsemax",))
    assert "1 setting × 1 query on 1 photo" in page.words
    assert "On this one photo" in page.words and "no interval" in page.words
    assert "median" not in page.words.partition("One photo:")[0]
    assert "temperature:2 sparsemax" in page.words


def test_photos_without_contrast_make_a_page(tmp_path):
    page = compared(tmp_path, tokens=torch.ones(8, math.prod(GRID), 16))
    assert "nearly uniform (median 100" in page.words
    assert "nan" not in page.words.lower().replace("nano", "")


def test_no_photo_at_all_makes_a_page(tmp_path):
    planned(tmp_path)
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert "there is nothing to compare" in page.words
    assert "it was never started" in page.words


@pytest.mark.parametrize(
    "share, said",
    [
        (0.0, "0"),
        (1.0, "100"),
        (0.031, "3.1"),
        (0.97, "97"),
        (0.996, "99.6"),
        (0.99999, "> 99.9"),
        (1e-6, "< 0.01"),
        (math.nan, "–"),
    ],
)
def test_what_is_not_all_is_not_called_all(share, said):
    assert percent(share).replace("\u00a0%", "") == said


# ------------------------------------------------------------------------------------------------ what is missing or wrong


def test_missing_jobs_and_failed_photos_are_named(tmp_path):
    planned(tmp_path, ["size=1", "size=2", "size=3"])
    measure(tmp_path / "0", ["a.jpg", "b.jpg"], noise(2))
    with pytest.raises(ValueError, match="such"), Job(tmp_path / "1", {}):
        raise ValueError("no such layer <b>here</b>")
    told = json.loads((tmp_path / "0/job.json").read_text())
    told["failures"] = [{"path": "c.jpg", "reason": "c.jpg is no photo"}]
    (tmp_path / "0/job.json").write_text(json.dumps(told))
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert "2 jobs are missing" in page.words
    assert "job 1: size=2 failed: no such layer <b>here</b>" in page.words
    assert "job 2: size=3 missing: it was never started" in page.words
    assert f"attnvis sweep --resume {shlex.quote(str(tmp_path))}" in page.words
    assert "c.jpg is no photo" in page.words


def test_a_turned_order_is_an_alarm(tmp_path):
    whole = compared(tmp_path)
    assert "broken" not in whole.classes()
    assert (
        "All 3 settings that multiply the scores of a photo by one positive factor leave the order"
        in whole.words
    )
    table = pq.read_table(tmp_path / "rows.parquet")
    values = np.array(table["rank_correlation"].to_pylist())
    values[4] = 0.9  # photo 1, inv_sqrt_d
    column = table.schema.get_field_index("rank_correlation")
    pq.write_table(table.set_column(column, "rank_correlation", pa.array(values)), tmp_path / "rows.parquet")
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert "broken" in page.classes()
    assert re.search(r"inv_sqrt_d 1 of 8 maps; lowest rank correlation 0.9, on 1.jpg", page.words)
    assert "leave the order of the patches as it was" not in page.words


def test_cosine_is_no_alarm(page):
    assert "broken" not in page.classes()
    assert "Free to reorder" in page.words and "under cosine:0.07" in page.words


def test_strange_names_stay_text(tmp_path):
    nasty = '<b>&"$x_1$.jpg'
    planned(tmp_path)
    measure(tmp_path, [nasty, "{{ 7 * 7 }}.jpg"], noise(2), axes={"backbone": "<script>alert(1)</script>"})
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert nasty in page.words
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert(1)</script>" in page.words


# ------------------------------------------------------------------------------------------------ pictures


def test_a_strip_shows_every_setting_of_the_first_photo(page):
    told = re.findall(r"<figcaption><b>(.*?)</b>", page.source)
    assert told == 2 * ["none", "inv_sqrt_d", "zscore", "cosine:0.07"]
    assert "of 35 patches" in page.words


def test_without_sheets_there_are_no_strips(tmp_path):
    assert "strip" not in compared(tmp_path, sheets=0).classes()


def test_dividing_is_said_to_shift_the_gaps_by_its_logarithm(page):
    """16 channels: log10 of 1/4 is -.602; the histogram's bins are a sixth of a decade wide."""
    moved = re.search(r"mean −(0\.\d+) \(log₁₀ of 0.2500 is −0.602\)", page.words)
    assert float(moved[1]) == pytest.approx(0.602, abs=0.03)
