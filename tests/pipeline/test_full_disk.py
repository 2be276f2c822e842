"""No room: whatever is being written, one sentence that names the file and what to type, which then works."""

import errno
import os
import re
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import make_photo, records

from attnvis.cli.messages import format_error
from attnvis.pipeline import calibrating

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="quotas and limits are Unix'")

SENTENCE = re.compile(
    r"attnvis: (?:job \d+ \([^)]*\) failed: )?no room for (?P<file>\S+) \((?P<why>[^)]+)\); make room"
    r"(?P<onwards>, then go on with (?P<again>attnvis .+)|, or choose another place with .+|)"
)
SMALL = ("preprocess.size=96", "logger.mode=disabled", "hydra.run.dir=out", "batch_size=1")


@contextmanager
def full_for(monkeypatch, name, after=0):
    """No room for files of this name, but for the first so many of them."""
    met, replace = [], Path.replace

    def replace_or_refuse(part, target):
        if re.search(name, str(target)):
            met.append(target)
            if len(met) > after:
                raise OSError(errno.ENOSPC, "No space left on device")
        return replace(part, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_refuse)
        yield
    assert len(met) > after, f"nothing was written that is called {name}"


@pytest.fixture
def album(here):
    for number in range(3):
        make_photo(here / "album" / f"{number}.jpg", seed=number)
    return "album"


def told(ended):
    """The one sentence of a command that had no room, and what it says to type."""
    assert ended.code == 1 and "Traceback" not in ended.err, ended.err
    sentences = [SENTENCE.fullmatch(line) for line in ended.err.splitlines()]
    assert any(sentences), ended.err
    return next(filter(None, sentences))


RUN_FILES = [
    ("run.json", 0), ("records.csv", 0), ("overlays/1", 0), ("maps/0", 0), ("index.html", 0),
    ("plan.json", 1),
]  # fmt: skip


@pytest.mark.parametrize("name, after", RUN_FILES)
def test_a_run_without_room_says_so_and_goes_on_as_it_says(attnvis, album, monkeypatch, name, after):
    with full_for(monkeypatch, name, after=after):
        sentence = told(attnvis("run", album, *SMALL))
    assert name.partition("/")[0] in sentence["file"] and sentence["why"] == "No space left on device"
    again = shlex.split(sentence["again"])[1:] if sentence["again"] else ["run", album, *SMALL]
    ended = attnvis(*again)
    assert (ended.code, ended.err) == (0, "") and "3 photos done" in ended.out
    assert [row["status"] for row in records()] == ["done"] * 3
    assert not list(Path("out").rglob("*.part"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_quota_and_the_largest_file_are_told_like_a_full_disk(number):
    error = OSError(number, os.strerror(number), "out/a.jpg")
    assert format_error(error) == (
        f"no room for out/a.jpg ({os.strerror(number)}); make room, "
        "or choose another place with hydra.run.dir=FOLDER, and type the command again"
    )
    assert format_error(error, resume="attnvis run --resume out") == (
        f"no room for out/a.jpg ({os.strerror(number)}); make room, then go on with attnvis run --resume out"
    )


SWEEP_FILES = [
    "out/job.json", "curves.safetensors", "rows.parquet", "sheets/", "tiles/", "figures/.*png",
    "figures/.*svg", "sweep.parquet", "index.html",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEP_FILES)
def test_a_sweep_without_room_says_so_and_goes_on_as_it_says(attnvis, album, monkeypatch, name):
    words = ("sweep", album, "cache.use=false", "sheets=1", *SMALL)
    with full_for(monkeypatch, name):
        ended = attnvis(*words)
    told(ended)
    assert "go on with attnvis sweep --resume out" in ended.err or (
        "for the rest: attnvis sweep --resume out" in ended.err.replace(str(Path.cwd()) + "/", "")
    )
    assert attnvis("sweep", "--resume", "out").code == 0
    assert Path("out/index.html").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize("name", ["run.json", "records.csv", "overlays/1", "index.html"])
def test_a_redrawing_without_room_says_so_and_goes_on_as_it_says(attnvis, album, monkeypatch, name):
    assert attnvis("run", album, *SMALL, "render.panel=false").code == 0
    words = ("redraw", "out", "render.colours=viridis")
    with full_for(monkeypatch, name):
        sentence = told(attnvis(*words, "hydra.run.dir=full"))
    assert name.partition("/")[0] in sentence["file"]
    again = shlex.split(sentence["again"])[1:] if sentence["again"] else [*words, "hydra.run.dir=elsewhere"]
    assert attnvis(*again).code == 0


def test_a_calibration_without_room_says_where_else(attnvis, album, monkeypatch, here):
    from attnvis.backbone.calibration import Calibration

    measured = Calibration(
        backbone="efficientnet_lite0", layer="last", digest="d" * 64, shift=-14.0, interval=(-15.0, -13.0),
        halves=(-14.0, -14.0), before=0.5, after=0.6, photos=3, size=224,
    )  # fmt: skip
    monkeypatch.setenv("ATTNVIS_CACHE", str(here / "full"))
    monkeypatch.setattr(calibrating, "flip_test", lambda *_, **__: ([measured], {}))
    monkeypatch.setattr(calibrating, "flip_test_of_chance", lambda *_, **__: ([()], []))
    with full_for(monkeypatch, "full/"):
        sentence = told(attnvis("calibrate", album))
    assert sentence["file"].startswith("full/") and "ATTNVIS_CACHE=FOLDER" in sentence["onwards"]
    monkeypatch.setenv("ATTNVIS_CACHE", str(here / "elsewhere"))
    assert "stored in" in attnvis("calibrate", album).out
    assert len(list((here / "elsewhere").rglob("*.json"))) == 1
