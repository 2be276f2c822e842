"""The page of a sweep: what it says beside its figures, what it holds, and what a browser makes of it."""

import json
import math
import re
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Page
from measured_sweep import GRID, measure, measured, noise, planned

from attnvis.experiments.sweep import page as sweep_page
from attnvis.experiments.sweep.figures import Section
from attnvis.experiments.sweep.figures.common import Table
from attnvis.experiments.sweep.folder import read_sweep
from attnvis.experiments.sweep.job import JobWriter
from attnvis.experiments.sweep.page import write_comparison
from attnvis.experiments.sweep.statistics import series_of
from attnvis.experiments.sweep.temperatures import advice


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """One job: two queries under four scalings."""
    return measured(
        tmp_path_factory.mktemp("sweep"),
        scalings=("none", "inv_sqrt_d", "zscore", "cosine:0.07"),
        asked=("mean", "random"),
    )


@pytest.fixture(scope="module")
def page(sweep):
    return Page(write_comparison(sweep))


@pytest.fixture
def undrawn(monkeypatch):
    """No figures, which take most of a page's time."""
    monkeypatch.setattr(sweep_page, "sections", lambda all_series: [Section("No figure", (), ())])


# -------------------------------------------------------------------------------- one file


def test_the_page_needs_nothing_from_elsewhere(page, sweep):
    pictures = [attributes["src"] for attributes in page.all("img", "src")]
    assert len([source for source in pictures if source.startswith("data:image/")]) > 10
    # but for pictures of other photos than the first, which lie beside it
    beside = {source for source in pictures if not source.startswith("data:image/")}
    assert all(source.startswith("./tiles/") and (sweep.folder / source).is_file() for source in beside)
    assert not re.search(r"https?:|@import|url\(", page.source)
    linked = [attributes["href"] for tag, attributes in page.tags if tag == "link"]
    assert linked == ["data:,"]
    assert not [
        name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"
    ]


def test_every_figure_is_there_for_a_paper(page, sweep):
    names = {path.name for path in (sweep.folder / "figures").iterdir()}
    stems = {"collapse_by_scaling", "collapse_by_query", "gradient", "ecdf", "self_check"}
    stems |= {"gaps_mean", "gaps_random", "ranks_mean", "ranks_random"}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    assert (sweep.folder / "figures/ecdf.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(sweep.folder.rglob("*.part"))
    linked = [attributes["href"] for tag, attributes in page.tags if attributes.get("class") == "plot"]
    assert sorted(linked) == sorted(f"figures/{stem}.svg" for stem in stems)


def test_a_section_is_shown_whatever_it_holds(tmp_path, monkeypatch):
    table = Table("A <table>", ("what", "how much"), (("all", (("0.5", "3 maps"),)), ("none", (("–", ""),))))
    section = Section("A heading of its own", (), ("One paragraph.", "1 < 2."), table)
    monkeypatch.setattr(sweep_page, "sections", lambda all_series: [section])
    words = Page(write_comparison(measured(tmp_path, photos=1))).words
    assert "A heading of its own One paragraph. 1 < 2." in words
    assert re.search(r"A <table> what ?how much all ?0.5 3 maps none ?–", words)


def test_all_rows_of_all_jobs_are_in_one_table(tmp_path, undrawn):
    planned(tmp_path, ["backbone.layer=last", "backbone.layer=stage3"])
    for number, layer in enumerate(("last", "stage3")):
        measure(tmp_path / str(number), ["a.jpg", "b.jpg"], noise(2, seed=number), axes={"layer": layer})
    page = Page(write_comparison(read_sweep(tmp_path)))
    table = pq.read_table(tmp_path / "sweep.parquet")
    assert table.num_rows == 2 * 2 * 3
    assert table["layer"].to_pylist() == ["last"] * 6 + ["stage3"] * 6
    assert "layer stage3" in page.words
    assert "3 settings × 1 query × 2 jobs on 2 photos" in page.words


# -------------------------------------------------------------------------------- numbers


def test_the_last_column_is_the_median_of_paired_differences(page, sweep):
    rows = [row for row in sweep.table.to_pylist() if row["query"] == "mean"]
    share = {(row["photo"], row["scaling"]): row["perplexity"] / row["patches"] for row in rows}
    photos = sorted({photo for photo, _ in share})
    for scaling in ("none", "zscore"):
        differences = sorted(share[photo, scaling] - share[photo, "inv_sqrt_d"] for photo in photos)
        value = (differences[3] + differences[4]) / 2  # of eight
        text = f"{value * 100:+.1f}".replace("-", "−")
        (row,) = [row for row in page.source.split("<tr>") if f"<td>mean</td><td><b>{scaling}</b>" in row]
        assert f"{text} <small>[" in row


def test_the_advice_says_what_one_temperature_leaves_photo_by_photo(page, sweep):
    """Of eight photos the lowest and the highest."""
    (tau,) = re.findall(r"scaling=temperature:([\d.]+)</code>.*?spreads “mean”", page.source)
    curves = sweep.parts[0].curves()["mean"]
    rows = [row for row in sweep.table.to_pylist() if row["query"] == "mean" and row["scaling"] == "none"]
    steps = [-7 + number / 4 for number in range(57)]
    shares = []
    for row, curve in zip(rows, curves["perplexity"], strict=True):
        shares.append(np.interp(np.log2(float(tau) / row["score_std"]), steps, curve))
    shares.sort()
    limits = re.search(
        r"spreads “mean” over 10 % of the patches .*? gives ([\d.]+) % to ([\d.]+) % "
        r"\(from the lowest to the highest of the photos\)",
        page.words,
    )
    assert float(limits[1]) == pytest.approx(100 * shares[0], rel=0.06)
    assert float(limits[2]) == pytest.approx(100 * shares[7], rel=0.06)


def test_advice_leaves_photos_without_contrast_out_of_what_it_says(tmp_path, undrawn):
    """Ten flat photos of thirty would be spread over 100 % under every temperature."""
    tokens = torch.cat([torch.ones(10, math.prod(GRID), 16), noise(20)])
    (piece,) = advice(series_of(measured(tmp_path, 30, tokens=tokens)), [0.1])
    assert piece.flat == 10 and piece.within.count == 20 and piece.high < 0.9


# -------------------------------------------------------------------------------- what is missing or wrong


def test_no_photo_at_all_makes_a_page(tmp_path):
    planned(tmp_path)
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert "there is nothing to compare" in page.words
    assert "it was never started" in page.words


def test_one_photo_has_no_intervals(tmp_path, undrawn):
    alone = measured(tmp_path, photos=1, scalings=("temperature:2",), normalisers=("sparsemax",))
    page = Page(write_comparison(alone))
    assert "1 setting × 1 query on 1 photo" in page.words and "temperature:2 sparsemax" in page.words
    assert "One photo: no interval" in page.words
    assert not re.search(r"<small>\[", page.source)


def test_photos_without_contrast_have_a_page(tmp_path, undrawn):
    page = Page(write_comparison(measured(tmp_path, tokens=torch.ones(8, math.prod(GRID), 16))))
    assert "nearly uniform (median 100" in page.words
    assert "nan" not in page.words.lower()


def test_missing_jobs_and_failed_photos_are_named(tmp_path, undrawn):
    planned(tmp_path, ["size=1", "size=2", "size=3"])
    measure(tmp_path / "0", ["a.jpg", "b.jpg"], noise(2))
    with pytest.raises(ValueError, match="such"), JobWriter(tmp_path / "1", {}):
        raise ValueError("no such layer <b>here</b>")
    record = json.loads((tmp_path / "0/job.json").read_text())
    record["failures"] = [{"path": "c.jpg", "reason": "c.jpg is no photo"}]
    del record["seal"]  # it is written anew here
    (tmp_path / "0/job.json").write_text(json.dumps(record))
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert "2 jobs are missing" in page.words
    assert "job 1: size=2 failed: no such layer <b>here</b>" in page.words
    assert "job 2: size=3 missing: it was never started" in page.words
    assert f"attnvis sweep --resume {shlex.quote(str(tmp_path))}" in page.words
    assert "c.jpg is no photo" in page.words


def test_a_turned_order_is_an_alarm(tmp_path, undrawn):
    measured(tmp_path)
    table = pq.read_table(tmp_path / "rows.parquet")
    values = np.array(table["rank_correlation"].to_pylist())
    values[4] = 0.9  # photo 1, inv_sqrt_d
    column = table.schema.get_field_index("rank_correlation")
    pq.write_table(table.set_column(column, "rank_correlation", pa.array(values)), tmp_path / "rows.parquet")
    record = json.loads((tmp_path / "job.json").read_text())
    del record["seal"], record["files"]  # it is written anew here
    (tmp_path / "job.json").write_text(json.dumps(record))
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert "broken" in page.classes()
    assert re.search(r"inv_sqrt_d 1 of 8 maps; lowest rank correlation 0.9, on 1.jpg", page.words)
    assert "leave the order of the patches as it was" not in page.words


def test_cosine_is_no_alarm(page):
    assert "broken" not in page.classes()
    assert "All 3 settings that multiply the scores of a photo" in page.words
    assert "Free to reorder" in page.words and "under cosine:0.07" in page.words


def test_strange_names_stay_text(tmp_path):
    nasty = '<b>&"$x_1$.jpg'
    planned(tmp_path)
    measure(
        tmp_path,
        [nasty, "{{ 7 * 7 }}.jpg"],
        noise(2),
        scalings=("none",),
        axes={"backbone": "<script>alert(1)</script>"},
    )
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert nasty in page.words
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert(1)</script>" in page.words


# -------------------------------------------------------------------------------- pictures


def test_two_swept_settings_make_rows_and_columns(page, sweep):
    (first, *others) = re.findall(r'<div class="one-photo".*?</div>\n</div>', page.source, re.DOTALL)
    assert len(others) == 7 and all(" hidden>" in other.partition("\n")[0] for other in others)
    assert re.findall(r'<th scope="col">(.*?)</th>', first) == ["none", "inv_sqrt_d", "zscore", "cosine:0.07"]
    assert re.findall(r'<th scope="row">(.*?)</th>', first) == ["mean", "random 0"]
    # a cell is the tile of its row and column
    cells = re.findall(r'href="(.*?)" .*?data-caption="(.*?)"', first)
    about = {tile.file: tile for tile in sweep.parts[0].record.tiles}
    for address, caption in cells:
        tile = about[address.removeprefix("./")]
        assert (
            tile.photo == "0.jpg" and caption.startswith(tile.query) and f"under {tile.setting}:" in caption
        )
    assert len(cells) == 8 and "of 35 patches" in first


def test_one_swept_setting_makes_a_strip(tmp_path, undrawn):
    page = Page(write_comparison(measured(tmp_path, photos=1)))
    assert re.findall(r"<figcaption><b>(.*?)</b>", page.source) == ["none", "inv_sqrt_d", "zscore"]
    assert "strip" in page.classes() and "photo-choice" not in page.classes()


def test_several_jobs_stand_below_one_another(tmp_path, undrawn):
    planned(tmp_path, ["backbone.layer=last", "backbone.layer=stage3"])
    for number, layer in enumerate(("last", "stage3")):
        measure(tmp_path / str(number), ["a.jpg"], noise(1, seed=number), axes={"layer": layer})
    page = Page(write_comparison(read_sweep(tmp_path)))
    assert re.findall(r'<th scope="row">(backbone.*?)</th>', page.source) == [
        "backbone.layer=last",
        "backbone.layer=stage3",
    ]
    addresses = re.findall(r'<a href="(.*?)" data-group', page.source)
    assert addresses == [f"./{job}/tiles/{number}.jpg" for job in (0, 1) for number in range(3)]
    assert all((tmp_path / address).is_file() for address in addresses)


def test_without_sheets_there_are_no_strips(tmp_path, undrawn):
    assert "strip" not in Page(write_comparison(measured(tmp_path, sheets=0))).classes()
