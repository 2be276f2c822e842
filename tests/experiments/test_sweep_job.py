"""A job keeps every number it measured, tells what became of it, and is read again whatever that was."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import no_network
from safetensors.numpy import load_file

from attnvis import files
from attnvis.attention import query
from attnvis.attention.query import language
from attnvis.attention.spec import functions
from attnvis.data.decoding import load
from attnvis.experiments.sweep import curves, rows, sheets
from attnvis.experiments.sweep.folder import AXES, Sweep, finished, read_sweep, setting_name
from attnvis.experiments.sweep.job import GridWriter, JobWriter
from attnvis.experiments.sweep.sending import means
from attnvis.experiments.sweep.sending import sheets as sent_sheets
from attnvis.methods.settings import GAPS, RANKS, TEMPERATURES, PhotoResult, SettingGrid
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.pipeline.streaming import Outcome
from attnvis.render import Style
from attnvis.types import Box, Features, Placement

P, D = 3, 5  # photos, channels
GRID = (2, 2)
N = 4
AXES_OF_JOB = {
    "backbone": "fake",
    "weights": "given",
    "layer": "last",
    "fit": "resize",
    "size": "65",
    "seed": "0",
    "keys": "same",
    "heads": "one",
    "fuse": "",
}
PROVENANCE = {"precision": "float32", "weights digest": "5" * 64}
ASKED = {"queries": ["mean"], "scalings": ["none"], "seed": 0}
SHARPNESS = (0.3, 0.6)
GRIDDED = SettingGrid(
    no_network,
    {text: language.parse(text) for text in ("mean", "random:0,3")},
    functions("scaling", ["none", "temperature:2"]),
    functions("normalise", ["softmax", "sparsemax"]),
)
SETTINGS = ["none", "none sparsemax", "temperature:2", "temperature:2 sparsemax"]
QUERIES = ["mean", "random:0,3", "random:0,3-2", "random:0,3-3"]


def measured(count: int = P, *names: str, grid: SettingGrid = GRIDDED) -> list[Outcome[PhotoResult]]:
    """What a stream would give for this many photos of four patches."""
    tokens = torch.randn(count, N, D, generator=torch.Generator().manual_seed(0))
    seen = Placement((10.0, 15.0), (20.0, 30.0), GRID, (40, 60), Box(0.0, 0.0, 40.0, 60.0))
    answers = grid.answer((Features(tokens, GRID, (seen,) * count),))
    outcomes = []
    for number in range(count):
        name = names[number] if number < len(names) else f"{number}.jpg"
        photo = load(np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8), name=name)
        outcomes.append(Outcome(number, Path("photos") / name, photo, answers[number]))
    return outcomes


def run_job(
    folder: Path, outcomes: Iterable[Outcome[PhotoResult]], most: int | None = 0, asked=ASKED, **changes
) -> GridWriter:
    with JobWriter(folder, asked) as job:
        job.update(axes=AXES_OF_JOB | changes, provenance=PROVENANCE)
        with GridWriter(job, GRIDDED.settings, SHARPNESS, most, Style()) as writer:
            for outcome in outcomes:
                writer.add(outcome)
    return writer


def plan(folder: Path, *jobs: str, many: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(
        json.dumps({"command": "attnvis sweep photos", "jobs": jobs, "many": many})
    )
    return folder


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def perplexity(weights: np.ndarray) -> float:
    return float(np.exp(-sum(weight * np.log(weight) for weight in weights if weight > 0)))


def record_in(folder: Path) -> dict:
    return json.loads((folder / "job.json").read_text())


def single(folder: Path) -> Sweep:
    return read_sweep(plan(folder, "", many=False))


def rewritten(folder: Path, table: pa.Table) -> bytes:
    """The rows of a job exchanged by these."""
    pq.write_table(table, folder / "rows.parquet")
    return (folder / "rows.parquet").read_bytes()


# What a job keeps


def test_the_table_has_the_measured_numbers_by_photo_query_and_setting(tmp_path):
    outcomes = measured()
    run_job(tmp_path, outcomes)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(rows) == P * len(QUERIES) * len(SETTINGS)
    left = iter(rows)
    for number, outcome in enumerate(outcomes):
        for name, result in zip(QUERIES, outcome.answers, strict=True):
            for setting, (scaling, normalise) in enumerate(GRIDDED.settings):
                row = next(left)
                assert {axis: row[axis] for axis in AXES} == {
                    axis: str(value) for axis, value in AXES_OF_JOB.items()
                }
                assert (row["photo"], row["path"], row["index"]) == (
                    f"{number}.jpg",
                    f"photos/{number}.jpg",
                    number,
                )
                assert row["digest"] == outcome.photo.digest and row["label"] == result.label
                assert (row["query"], row["scaling"], row["normalise"]) == (name, scaling, normalise)
                assert (row["patches"], row["rows"], row["columns"], row["dim"]) == (4, 2, 2, D)
                weights = result.weights[setting].double()
                assert row["max"] == pytest.approx(float(weights.max()), rel=1e-6)
                assert row["effective_patches"] == pytest.approx(1 / float((weights**2).sum()), rel=1e-6)
                for diagnostic in DESCRIPTIONS:
                    np.testing.assert_array_equal(row[diagnostic], result.numbers[diagnostic][setting])


def test_the_job_tells_what_was_asked_of_which_network_and_how_it_ended(tmp_path):
    run_job(tmp_path, measured())
    record = record_in(tmp_path)
    assert (record["status"], record["reason"], record["done"], record["failures"]) == ("done", "", P, [])
    assert record["asked"] == ASKED and record["axes"] == {
        axis: str(value) for axis, value in AXES_OF_JOB.items()
    }
    assert record["queries"] == QUERIES and record["sharpness"] == list(SHARPNESS)
    assert [setting_name(*setting) for setting in record["settings"]] == SETTINGS
    assert record["precision"] == "float32" and record["weights digest"] == "5" * 64
    assert 0 <= record["seconds"] < 60 and sorted(path.name for path in tmp_path.iterdir()) == [
        "curves.safetensors",
        "job.json",
        "rows.parquet",
    ]


def test_a_photo_that_failed_is_told_and_has_no_row(tmp_path):
    first, second = measured(2)
    bad = Outcome(3, Path("photos/bad\udce9.jpg"), error="photos/bad.jpg holds no picture")
    writer = run_job(
        tmp_path, [bad, first, Outcome(4, Path("gone.jpg"), error="gone.jpg: no such file"), second, bad]
    )
    assert [failure["reason"] for failure in record_in(tmp_path)["failures"]] == [
        bad.error,
        "gone.jpg: no such file",
        bad.error,
    ]
    assert record_in(tmp_path)["failures"][0]["path"] == "photos/bad\udce9.jpg"
    assert (
        writer.job.reasons == {bad.error: 2, "gone.jpg: no such file": 1} and record_in(tmp_path)["done"] == 2
    )
    assert set(pq.read_table(tmp_path / "rows.parquet")["index"].to_pylist()) == {0, 1}


def test_a_job_whose_photos_all_failed_is_done_with_an_empty_table(tmp_path):
    run_job(tmp_path, [Outcome(0, Path("a.jpg"), error="no")], most=None)
    (part,) = single(tmp_path).parts
    assert part.status == "done" and single(tmp_path).table.num_rows == 0 and part.curves() == {}


def test_rows_written_in_groups_make_the_same_table(tmp_path, monkeypatch):
    run_job(tmp_path / "at once", measured())
    monkeypatch.setattr(rows, "GROUP", 1)
    run_job(tmp_path / "in groups", measured())
    whole, parts = (pq.ParquetFile(tmp_path / name / "rows.parquet") for name in ("at once", "in groups"))
    assert whole.num_row_groups == 1 and parts.num_row_groups >= P
    assert whole.read().equals(parts.read())


def test_queries_of_one_text_are_told_apart(tmp_path):
    twice = SettingGrid(
        no_network, {"mean": query.mean, "again": query.mean}, GRIDDED.scalings, GRIDDED.normalisers
    )
    run_job(tmp_path, measured(grid=twice))
    assert record_in(tmp_path)["queries"] == ["mean", "mean-2"]
    table = pq.read_table(tmp_path / "rows.parquet").to_pydict()
    assert table["query"][:8] == ["mean"] * 4 + ["mean-2"] * 4


def test_what_wandb_is_told_are_the_means_over_photos(tmp_path):
    outcomes = measured()
    run_job(tmp_path, outcomes)
    totals = means(pq.read_table(tmp_path / "rows.parquet"))
    for column, name in enumerate(QUERIES):
        for setting, text in enumerate(SETTINGS):
            spreads = [outcome.answers[column].numbers["perplexity"][setting] for outcome in outcomes]
            assert totals[f"{name}/{text}/perplexity"] == pytest.approx(sum(spreads) / P)
            assert totals[f"{name}/{text}/perplexity_share"] == pytest.approx(sum(spreads) / P / N)


def test_every_contact_sheet_is_found_at_its_photos_place(tmp_path):
    outcomes = measured()
    run_job(tmp_path, outcomes, most=2)
    found = dict(sent_sheets(tmp_path, pq.read_table(tmp_path / "rows.parquet")))
    assert {place: photo for place, (_, photo) in found.items()} == {0: "0.jpg", 1: "1.jpg"}
    assert {path for path, _ in found.values()} == set((tmp_path / "sheets").iterdir())


# Curves


def test_curves_are_means_over_photos_or_each_photos_own(tmp_path):
    outcomes = measured()
    run_job(tmp_path, outcomes)
    (part,) = single(tmp_path).parts
    curves = part.curves()
    assert list(curves) == QUERIES
    for column, name in enumerate(QUERIES):
        answers = [outcome.answers[column] for outcome in outcomes]
        arrays = curves[name]
        assert arrays["ranks"].shape == (4, RANKS) and arrays["gaps"].shape == (5, GAPS[2])
        assert arrays["perplexity"].shape == arrays["gradient"].shape == (P, len(TEMPERATURES)) and arrays[
            "tau"
        ].shape == (P, 2)
        hottest = np.log2([4 * answer.weights.amax(-1).double().numpy() for answer in answers]).mean(0)
        np.testing.assert_allclose(arrays["ranks"][:, 0], hottest, rtol=1e-6)
        assert (np.diff(arrays["ranks"]) <= 0).all()
        np.testing.assert_array_equal(
            arrays["gaps"], sum(answer.batch.gaps[:, *answer.at].numpy() for answer in answers)
        )
        for photo, answer in enumerate(answers):
            scores = answer.scores.double().numpy()
            weights = softmax(scores / scores.std())  # temperature 1 in units of the standard deviation
            assert arrays["perplexity"][photo, 28] == pytest.approx(perplexity(weights) / N, rel=1e-5)
            jacobian = np.diag(weights) - np.outer(weights, weights)
            assert arrays["gradient"][photo, 28] == pytest.approx(np.linalg.norm(jacobian), rel=1e-5)
            for share, tau in zip(SHARPNESS, arrays["tau"][photo]):
                assert perplexity(softmax(scores / tau)) == pytest.approx(share * N, rel=1e-6)


def test_of_very_many_photos_the_first_have_curves_and_all_are_in_the_means(tmp_path, monkeypatch):
    run_job(tmp_path / "all", measured())
    monkeypatch.setattr(curves, "KEPT", 2)
    run_job(tmp_path / "two", measured())
    whole, capped = (load_file(tmp_path / name / "curves.safetensors") for name in ("all", "two"))
    for number in range(len(QUERIES)):
        assert np.array_equal(whole[f"{number}/ranks"], capped[f"{number}/ranks"])
        for name in ("perplexity", "gradient", "tau"):
            assert np.array_equal(whole[f"{number}/{name}"][:2], capped[f"{number}/{name}"])


def test_without_a_wanted_sharpness_there_are_no_temperatures(tmp_path):
    with JobWriter(tmp_path, ASKED) as job:
        job.update(axes=AXES_OF_JOB, provenance=PROVENANCE)
        with GridWriter(job, GRIDDED.settings, sheets=0) as writer:
            for outcome in measured():
                writer.add(outcome)
    (part,) = single(tmp_path).parts
    assert part.curves()["mean"]["tau"].shape == (P, 0)


# Pictures


@pytest.mark.parametrize("sheets, drawn", [(None, ["0.jpg", "1.jpg", "2.jpg"]), (1, ["0.jpg"]), (0, [])])
def test_as_many_photos_get_a_sheet_as_were_asked_for(tmp_path, sheets, drawn):
    run_job(tmp_path, measured(), sheets)
    assert sorted(path.name for path in tmp_path.glob("sheets/*")) == drawn
    tiles = record_in(tmp_path)["tiles"]
    of_a_photo = len(QUERIES) * len(SETTINGS)
    assert len(tiles) == of_a_photo * len(drawn) == len(list(tmp_path.glob("tiles/*")))
    places = [(tile["place"], tile["photo"]) for tile in tiles]
    assert places == [(place, name) for place, name in enumerate(drawn) for _ in range(of_a_photo)]


def test_only_so_many_photos_have_tiles_and_the_first_has_all_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, "TILES", 2 * len(QUERIES) * len(SETTINGS) + 1)
    run_job(tmp_path / "two", measured(3), None)
    assert {tile["place"] for tile in record_in(tmp_path / "two")["tiles"]} == {0, 1}
    monkeypatch.setattr(sheets, "TILES", 1)
    run_job(tmp_path / "one", measured(3), None)
    assert [tile["place"] for tile in record_in(tmp_path / "one")["tiles"]] == [0] * len(QUERIES) * len(
        SETTINGS
    )


def test_a_sheet_has_settings_across_and_queries_down(tmp_path):
    run_job(tmp_path, measured(1), None)
    sheet = cv2.imread(str(tmp_path / "sheets" / "0.jpg"))
    assert sheet.shape[1] >= 4 * sheets.TILE and sheet.shape[0] >= 4 * sheets.TILE * 40 / 60
    tiles = record_in(tmp_path)["tiles"]
    assert [tile["setting"] for tile in tiles] == SETTINGS * 4
    assert [tile["label"] for tile in tiles][::4] == ["mean", "random 0 #1", "random 0 #2", "random 0 #3"]
    first = cv2.imread(str(tmp_path / tiles[0]["file"]))
    assert first.shape[:2] == (round(sheets.LARGE * 40 / 60), sheets.LARGE)


def test_the_hottest_patch_is_the_hottest_corner_of_its_tile(tmp_path):
    outcome = measured(1)[0]
    black = load(np.zeros((40, 60, 3), np.uint8), name="black.png")
    run_job(tmp_path, [Outcome(0, Path("black.png"), black, outcome.answers)], None)
    for tile, (result, setting) in zip(
        record_in(tmp_path)["tiles"], ((result, s) for result in outcome.answers for s in range(4))
    ):
        weights = result.weights[setting].reshape(GRID).numpy()
        if N * weights.max() < 1.5:
            continue  # nearly uniform is nearly the bare photo
        picture = cv2.imread(str(tmp_path / tile["file"])).astype(float).sum(-1)
        height, width = picture.shape
        corners = [[picture[: height // 4, : width // 4], picture[: height // 4, -width // 4 :]]]
        corners += [[picture[-height // 4 :, : width // 4], picture[-height // 4 :, -width // 4 :]]]
        light = np.array([[corner.mean() for corner in row] for row in corners])
        assert light.argmax() == weights.argmax(), tile


def test_names_of_strange_characters_break_neither_table_nor_pictures(tmp_path):
    names = ("caf\udce9.jpg", 'two\nlines, "quoted".jpg', "caf\udce9.jpg")
    run_job(tmp_path, measured(P, *names), None)
    (part,) = single(tmp_path).parts
    table = single(tmp_path).table
    assert part.status == "done"
    assert sorted(set(table["photo"].to_pylist())) == ["caf\\udce9.jpg", 'two\nlines, "quoted".jpg']
    assert set(table["path"].to_pylist()) == {"photos/caf\\udce9.jpg", 'photos/two\nlines, "quoted".jpg'}
    sheets = [path.name for path in (tmp_path / "sheets").iterdir()]
    assert len(sheets) == 3 and all(name.isascii() and "\n" not in name for name in sheets)


# How a job ends


def test_a_job_that_fails_tells_why_and_leaves_nothing_that_looks_whole(tmp_path):
    def melting():
        yield measured()[0]
        raise RuntimeError("the network\n  has  melted")

    with pytest.raises(RuntimeError, match="the network"):
        run_job(tmp_path, melting())
    assert (record_in(tmp_path)["status"], record_in(tmp_path)["reason"]) == (
        "failed",
        "the network has melted",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]
    (part,) = single(tmp_path).missing
    assert (part.status, part.reason) == ("failed", "the network has melted")


def test_a_job_that_fails_before_it_knows_its_network_tells_why(tmp_path):
    with pytest.raises(ValueError, match="no photos"), JobWriter(tmp_path, ASKED):
        raise ValueError("no photos here")
    assert (record_in(tmp_path)["status"], record_in(tmp_path)["reason"]) == ("failed", "no photos here")
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_job_that_stops_within_a_row_tells_why_and_not_what_followed(tmp_path, monkeypatch, error):
    def stopped(result):
        raise error("ctrl c")

    monkeypatch.setattr(rows, "shapes_of", stopped)
    with pytest.raises(error):
        run_job(tmp_path, measured())
    assert (record_in(tmp_path)["status"], record_in(tmp_path)["reason"]) == (
        "failed",
        "it was stopped" if error is KeyboardInterrupt else "ctrl c",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_a_disk_that_is_full_at_the_end_is_no_job_done(tmp_path, monkeypatch):
    def refuse(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_bytes", refuse)
    with pytest.raises(OSError, match="No space"):
        run_job(tmp_path, measured())
    (part,) = single(tmp_path).parts
    assert part.status != "done" and not finished(tmp_path, ASKED)


def killed(folder: Path, asked=ASKED) -> None:
    """As a process leaves it that is killed in the middle."""
    job = JobWriter(folder, asked)
    job.update(axes=AXES_OF_JOB, provenance=PROVENANCE)
    writer = GridWriter(job, GRIDDED.settings, sheets=0)
    writer.add(measured()[0])
    writer.rows.flush()


def test_done_failed_killed_and_never_started_jobs_are_told_apart(tmp_path):
    folder = plan(
        tmp_path,
        "backbone.layer=last",
        "backbone.layer=stage9",
        "backbone.layer=stage2",
        "backbone.layer=stage3",
        "seed=1",
    )
    run_job(tmp_path / "0", measured())
    with pytest.raises(ValueError, match="stage9"), JobWriter(tmp_path / "1", ASKED):
        raise ValueError("no layer stage9")
    killed(tmp_path / "2")
    run_job(tmp_path / "4", measured(2), seed="1")
    sweep = read_sweep(folder)
    assert sweep.command == "attnvis sweep photos"
    assert [part.status for part in sweep.parts] == ["done", "failed", "missing", "missing", "done"]
    assert [part.number for part in sweep.parts] == [0, 1, 2, 3, 4] and sweep.parts[
        1
    ].overrides == "backbone.layer=stage9"
    assert [part.reason for part in sweep.missing] == [
        "no layer stage9",
        "it was started and never ended: killed, out of memory, or out of room",
        "it was never started, or could not write",
    ]
    each = len(QUERIES) * len(SETTINGS)
    assert sweep.table["seed"].to_pylist() == ["0"] * P * each + ["1"] * 2 * each
    assert sweep.parts[4].record.done == 2


def test_a_job_killed_while_its_network_loads_was_started(tmp_path):
    JobWriter(tmp_path, ASKED)
    assert single(tmp_path).parts[0].reason.startswith("it was started and never ended")


def test_a_sweep_of_one_job_lies_in_its_own_folder(tmp_path):
    run_job(tmp_path, measured())
    (part,) = single(tmp_path).parts
    assert (part.status, part.folder, part.overrides) == ("done", tmp_path, "")


def test_a_sweep_of_which_nothing_is_done_has_an_empty_table(tmp_path):
    sweep = read_sweep(plan(tmp_path, "a", "b"))
    assert [part.status for part in sweep.parts] == ["missing"] * 2 and sweep.table.num_rows == 0
    run_job(tmp_path / "0", measured())
    assert read_sweep(tmp_path).table.column_names == sweep.table.column_names


def test_half_a_job_json_is_no_job_done(tmp_path):
    run_job(tmp_path, measured())
    (tmp_path / "job.json").write_text((tmp_path / "job.json").read_text()[:100])
    assert not finished(tmp_path, ASKED)
    assert single(tmp_path).parts[0].status == "missing"


def test_another_folder_is_no_sweep(tmp_path):
    with pytest.raises(ValueError, match=r"it has no plan\.json; give one such as"):
        read_sweep(tmp_path)


def test_a_job_killed_while_it_is_done_anew_is_not_taken_for_the_one_before(tmp_path):
    run_job(tmp_path, measured())
    killed(tmp_path, ASKED | {"seed": 1})
    (part,) = single(tmp_path).parts
    assert part.status == "missing" and "killed" in part.reason
    assert not finished(tmp_path, ASKED)


# Whether it was done before


@pytest.mark.parametrize(
    "digest, reason", [("kept", "is not what was written"), ("renewed", "47 rows of 48"), ("none", "47 rows")]
)
def test_rows_that_are_not_a_jobs_own_are_refused_before_unfolding(tmp_path, monkeypatch, digest, reason):
    """3 photos, 4 queries, 4 settings: 48 rows; a file of few bytes may unfold to many."""
    run_job(tmp_path, measured())
    content = rewritten(tmp_path, pq.read_table(tmp_path / "rows.parquet").slice(1))
    record = record_in(tmp_path)
    del record["seal"]  # whoever exchanges rows may write a record for them
    if digest == "renewed":
        record["files"]["rows.parquet"] = hashlib.sha256(content).hexdigest()
    elif digest == "none":  # as earlier versions left it
        record["files"] = {}
    (tmp_path / "job.json").write_text(json.dumps(record))
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("it was unfolded"))
    (part,) = single(tmp_path).parts
    assert part.status == "missing" and reason in part.reason


def test_a_job_is_finished_for_the_same_asked_config_and_no_other(tmp_path):
    asked = {**ASKED, "size": None, "limit": 20.0, "sharpness": (0.1, 0.2), "cosine": {"tau": 0.07}}
    assert not finished(tmp_path, asked)
    run_job(tmp_path, measured(), asked=asked)
    assert finished(tmp_path, asked)
    assert finished(tmp_path, {**asked, "sharpness": [0.1, 0.2]}), "JSON knows no tuples"
    for key, value in {"seed": 1, "size": 225, "cosine": {"tau": 0.08}, "queries": ["mean", "pca"]}.items():
        assert not finished(tmp_path, {**asked, key: value})
    assert not finished(tmp_path, {**asked, "more": 1}) and not finished(tmp_path, ASKED)


def test_a_failed_or_killed_job_is_not_finished_and_can_be_done_again(tmp_path):
    with pytest.raises(RuntimeError), JobWriter(tmp_path, ASKED):
        raise RuntimeError("no")
    assert not finished(tmp_path, ASKED)
    killed(tmp_path)
    assert not finished(tmp_path, ASKED)
    run_job(tmp_path, measured())
    assert finished(tmp_path, ASKED) and single(tmp_path).parts[0].status == "done"
    assert (
        single(tmp_path).table.num_rows == P * len(QUERIES) * len(SETTINGS)
        and not (tmp_path / ".rows.part").exists()
    )


def test_settings_are_named_as_typed_and_softmax_goes_without_saying():
    assert setting_name("temperature:2", "softmax") == "temperature:2"
    assert setting_name("cosine:0.07", "sparsemax") == "cosine:0.07 sparsemax"


def test_pictures_of_an_earlier_try_are_removed_and_those_of_nobody_are_not(tmp_path):
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets/mine.jpg").write_bytes(b"mine")
    JobWriter(tmp_path, {}).end("failed")  # a folder that was no job's before
    assert (tmp_path / "sheets/mine.jpg").exists()
    JobWriter(tmp_path, {}).end("failed")  # now it is: its photos may have been others
    assert not list((tmp_path / "sheets").iterdir())
