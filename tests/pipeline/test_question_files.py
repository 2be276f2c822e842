"""The files that a question is read from: one that changed is another question, and no folder has both."""

import hashlib
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo

from attnvis.attention.query.language import parse, several
from attnvis.experiments.sweep import page
from attnvis.pipeline.question_files import query_files, require_same_files, setting_files

WORDS = ("preprocess.size=64", "logger.mode=disabled", "hydra.run.dir=out", "render.panel=false")


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def given(here):
    """Photos, an exemplar, a mask and a vector of the default network's 320 channels."""
    for number in range(2):
        make_photo(here / "album" / f"{number}.png", seed=number)
    make_photo(here / "other.png", seed=5)
    cv2.imwrite("mask.png", np.full((70, 90), 255, np.uint8))
    np.save("q.npy", np.linspace(-1, 1, 1280))
    return here


def test_every_file_of_a_query_is_found_wherever_it_stands(given):
    text = "2*exemplar:other.png,10,5,40,30 - mask:mask.png"
    query = partial(several, of=[text, "vector:q.npy", "mask:1,1,9,1,9,9", "mean"])
    assert query_files(query) == {name: sha(name) for name in ("other.png", "mask.png", "q.npy")}
    of_folder = query_files(parse("exemplar:album"))
    assert of_folder == {f"album/{number}.png": sha(f"album/{number}.png") for number in range(2)}
    assert query_files(parse("class:tabby")) == {}


def test_the_runs_own_photos_are_one_entry(given):
    photos = [Path("album/0.png"), Path("album/1.png")]
    before = query_files(parse("exemplar:run"), photos)
    assert list(before) == ["exemplar:run"] and query_files(parse("exemplar:run"), photos) == before
    make_photo(given / "album/1.png", seed=9)
    assert query_files(parse("exemplar:run"), photos) != before


def test_files_of_other_stages_are_those_that_their_settings_name(given):
    settings = {"tau": 2, "file": "q.npy", "of": "album", "text": "x" * 5000, "zero": "\0", "empty": ""}
    assert setting_files(settings) == {"q.npy": sha("q.npy")}


def test_what_came_or_went_is_named_too_and_an_earlier_version_says_nothing():
    folder = Path("out")
    require_same_files(folder, None, {"a": "1"})
    require_same_files(folder, {"a": "1"}, {"a": "1"})
    for before, now in ([{"a": "1"}, {"a": "2"}], [{}, {"a": "2"}], [{"a": "1"}, {}]):
        with pytest.raises(ValueError, match="out was begun with other content of a:"):
            require_same_files(folder, before, now)


def change(name):
    if name == "q.npy":
        np.save(name, np.linspace(1, -1, 1280))
    elif name == "names.txt":
        lines = Path(name).read_text().splitlines()
        Path(name).write_text("\n".join(lines[::-1]))
    else:
        make_photo(Path(name), seed=7)


def refused(ended, name):
    assert ended.code == 1
    assert f"out was begun with other content of {name}: its rows would answer two questions" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_a_run_goes_on_only_with_the_files_it_was_begun_with(attnvis, given):
    Path("names.txt").write_text("\n".join(f"class {number}" for number in range(1000)))
    words = (
        "query=vector:q.npy",
        "backbone.categories=names.txt",
    )
    assert attnvis("run", "album", *words, *WORDS).code == 0
    rows = Path("out/records.csv").read_text()
    for name in ("q.npy", "names.txt"):
        before = Path(name).read_bytes()
        change(name)
        refused(attnvis("run", "--resume", "out", *words), name)
        Path(name).write_bytes(before)
    assert Path("out/records.csv").read_text() == rows
    assert attnvis("run", "--resume", "out", *words).code == 0


def test_a_run_asked_by_its_own_photos_goes_on_with_the_same(attnvis, given):
    assert attnvis("run", "album", "query=exemplar:run", *WORDS).code == 0
    assert attnvis("run", "--resume", "out").code == 0
    change("album/1.png")
    ended = attnvis("run", "--resume", "out")
    assert ended.code == 1 and "out was begun with other content of exemplar:run" in ended.err


def test_jobs_of_a_sweep_are_other_jobs_where_a_file_of_a_query_changed(attnvis, given, monkeypatch):
    monkeypatch.setattr(page, "write_comparison", lambda sweep: sweep.folder / "index.html")
    words = ("query=vector:q.npy", "scaling=none", "sheets=0", "hydra.sweep.dir=out", *WORDS[:3])
    call = partial(attnvis, "sweep", "album", *words)
    assert call().code == 0
    record = json.loads(Path("out/job.json").read_text())
    assert record["asked"]["inputs"] == {"q.npy": sha("q.npy")}
    curves = Path("out/curves.safetensors").stat().st_mtime_ns
    assert call().code == 0 and Path("out/curves.safetensors").stat().st_mtime_ns == curves
    change("q.npy")
    assert call().code == 0 and Path("out/curves.safetensors").stat().st_mtime_ns > curves
