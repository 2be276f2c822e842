"""What was done to a photo, what a folder held beside photos: in the terminal, the record and the page."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photo, records
from PIL import Image

from attnvis.types import Preprocessing


def write_twelve_bits(path: Path) -> None:
    levels = np.arange(70 * 90).reshape(70, 90) * 4095 // (70 * 90 - 1)
    Image.fromarray(levels.astype(np.uint16)).save(path)


def write_cut_short(path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((70, 90, 3), 200, np.uint8)).save(file, "JPEG")
    path.write_bytes(file.getvalue()[:-2])


@pytest.fixture
def album(here) -> Path:
    """Five photos to which something is done or nothing, and three files that are none."""
    folder = here / "album"
    folder.mkdir()
    make_photo(folder / "plain.png")
    for name in ("a.png", "b.png"):
        write_twelve_bits(folder / name)
    write_cut_short(folder / "cut.jpg")
    Image.new("RGBA", (90, 70), (200, 0, 0, 100)).save(folder / "glass.png")
    for name in ("clip.mov", "clip2.mov", "list.txt"):
        (folder / name).touch()
    return folder


def test_what_is_done_and_passed_over_is_said_everywhere(attnvis, album, here):
    ended = attnvis("run", "album", "preprocess.truncated=take", "logger.mode=disabled")
    assert ended.code == 0
    assert [line.removeprefix("attnvis: ") for line in ended.err.splitlines()] == [
        "3 files passed over: 2 .mov, 1 .txt",
        "2 photos: only 12 of 16 bits used, so it is dark: preprocess.depth=12 brightens it",
        "1 photo: cut short: what is missing is grey",
        "1 photo: transparency on white",
    ]
    assert (
        json.loads(Path("out/run.json").read_text())["passed over"] == "3 files passed over: 2 .mov, 1 .txt"
    )
    assert {row["photo"]: row["photo_note"].partition(",")[0] for row in records()} == {
        "a.png": "only 12 of 16 bits used",
        "b.png": "only 12 of 16 bits used",
        "cut.jpg": "cut short: what is missing is grey",
        "glass.png": "transparency on white",
        "plain.png": "",
    }
    page = Path("out/index.html").read_text()
    assert "3 files passed over: 2 .mov, 1 .txt" in page and "transparency on white" in page
    redrawn = attnvis("redraw", "out", "hydra.run.dir=again")  # reads what is cut short as the run did
    assert redrawn.code == 0
    assert [row["photo_note"] for row in records("again")] == [row["photo_note"] for row in records()]


def test_what_is_cut_short_fails_alone_unless_it_is_asked_for(attnvis, album):
    ended = attnvis("run", "album", "preprocess.depth=12", "logger.mode=disabled")
    assert ended.code == 1 and "preprocess.truncated=take" in ended.err
    assert "2 photos: 12 of 16 bits: 4095 is white" in ended.err
    assert [row["photo"] for row in records() if row["status"] == "failed"] == ["cut.jpg"]


def test_a_sweep_says_it_too(attnvis, album):
    small = ["preprocess.size=96", "sheets=0", "logger.mode=disabled", "hydra.run.dir=out", "cache.use=false"]
    ended = attnvis("sweep", "album", "query=mean", "scaling=none", "preprocess.truncated=take", *small)
    assert ended.code == 0
    assert "3 files passed over: 2 .mov, 1 .txt" in ended.err and "2 photos: only 12 of 16 bits" in ended.err
    assert json.loads(Path("out/job.json").read_text())["photo_notes"] == {
        "only 12 of 16 bits used, so it is dark: preprocess.depth=12 brightens it": 2,
        "cut short: what is missing is grey": 1,
        "transparency on white": 1,
    }


def test_plain_photos_are_not_spoken_of(attnvis, cat):
    ended = attnvis("run", "cat.png", "logger.mode=disabled")
    assert ended.code == 0 and ended.err == "" and records()[0]["photo_note"] == ""


@pytest.mark.parametrize("word", ["preprocess.depth=7", "preprocess.depth=deep", "preprocess.truncated=yes"])
def test_a_way_of_reading_that_is_none_is_refused(word, attnvis, cat):
    ended = attnvis("run", "cat.png", word, "logger.mode=disabled")
    assert ended.code == 1 and "give" in ended.err and ended.err.count("\n") == 1


def test_changed_preprocessing_keeps_the_ways_of_reading():
    how = Preprocessing(224).changed(fit="crop", size=None, depth=12, truncated="take")
    assert (how.size, how.fit, how.depth, how.truncated) == (224, "crop", 12, "take")
