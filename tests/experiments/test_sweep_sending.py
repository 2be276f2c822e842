"""A sweep at W&B: one group, one run a job, one for the comparison, and none twice."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_photo
from fake_wandb import announced, history, inspect, logs, summary, table

from attnvis.experiments.sweep import page

SMALL = (
    "cache.folder=cache",
    "hydra.run.dir=out",
    "hydra.sweep.dir=out",
    "query=mean",
    "scaling=none,cosine",
)


@pytest.fixture
def sweep(attnvis, here, wandb, monkeypatch):
    """`attnvis sweep photos WORDS` in this process, into ./out; the page has tests of its own."""
    for number in range(2):
        make_photo(here / "photos" / f"281_{number}.png", seed=number)
    monkeypatch.setattr(page, "write_comparison", small_page)
    return lambda *words: attnvis("sweep", "photos", *SMALL, *words)


def small_page(results):
    page.write_table(results)
    path = results.folder / "index.html"
    path.write_text("<p>what all jobs found</p>")
    return path


def by_hand(folder, scaling, name):
    """The mean of a column over the photos of a job."""
    rows = [row for row in pq.read_table(folder / "rows.parquet").to_pylist() if row["scaling"] == scaling]
    return np.mean([row[name] for row in rows])


@pytest.mark.slow
def test_a_single_job_is_a_single_run_with_all_of_it(sweep):
    ended = sweep("preprocess.size=96", "name=ablation")
    assert ended.code == 0 and "W&B" not in ended.err
    (log,) = logs()
    kinds = inspect(log)
    (run,), items, totals = kinds["run"], history(kinds), summary(kinds)
    assert run["run_group"] == "ablation" and run["job_type"] == "sweep"
    config = run["config"]["update"]
    assert config["scalings"] == ["none", "cosine"] and config["queries"] == ["mean"]
    assert config["preprocess"]["size"] == 96 and config["layer"] == "last"
    for scaling in ("none", "cosine"):
        wanted = by_hand(Path("out"), scaling, "perplexity")
        assert totals[f"mean/{scaling}/perplexity"] == pytest.approx(wanted)
    places = [item["index"] for item in items if "sheet.path" in item]
    assert places == [0, 1]
    assert table(log, items, "medians")["columns"][-1] == "dead_mean"
    assert any("page.path" in item for item in items)
    files = {entry["path"] for made in kinds["artifact"] for entry in made["manifest"]["contents"]}
    assert {"sweep.parquet", "rows.parquet", "sheets/281_0.jpg", "index.html"} <= files


@pytest.mark.slow
def test_jobs_and_their_comparison_are_one_group_and_keep_their_ids(sweep, attnvis):
    assert sweep("preprocess.size=96,128", "logger.group=mine", "logger.tags=[t]").code == 0
    runs = [announced(folder)[0] for folder in ("out", "out/0", "out/1")]
    assert {run["run_group"] for run in runs} == {"mine"} and all(run["tags"] == ["t"] for run in runs)
    assert [run["job_type"] for run in runs] == ["comparison", "sweep", "sweep"]
    ids = [run["run_id"] for run in runs]
    assert len(set(ids)) == 3 and ids[1].startswith(ids[0])
    config = runs[0]["config"]["update"]
    assert config["scalings"] == ["none", "cosine"] and sorted(config["size"]) == ["128", "96"]
    Path("out/1/job.json").unlink()
    assert attnvis("sweep", "--resume", "out", "cache.folder=cache").code == 0
    again = [announced(folder) for folder in ("out", "out/0", "out/1")]
    assert [len(logs_of) for logs_of in again] == [2, 1, 2], "what was done is not sent twice"
    assert [[run["run_id"] for run in logs_of] for logs_of in again] == [[ids[0]] * 2, ids[1:2], ids[2:] * 2]
    assert again[0][1]["resume"] and again[2][1]["resume"]


def test_what_wandb_refuses_is_refused_before_the_first_job(sweep):
    ended = sweep("preprocess.size=96,128", "logger.project=a/b")
    assert "logger.project='a/b'" in ended.complaint and not Path("out/0").exists()


@pytest.mark.slow
def test_a_variable_that_is_made_fit_is_said_once_for_all_jobs(sweep, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "x" * 130)
    ended = sweep("preprocess.size=96,128")
    assert ended.code == 0 and ended.err.count("WANDB_RUN_GROUP") == 1
    plan = json.loads(Path("out/plan.json").read_text())
    assert plan["logger"]["group"] == "x" * 128


def test_a_job_that_measures_accuracy_sends_its_page(sweep):
    assert sweep("preprocess.size=96", "study=recognition").code == 0
    (log,) = logs()
    assert any("page.path" in item for item in history(inspect(log)))
