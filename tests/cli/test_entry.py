"""The door: from words to a run's folder, and out of it in order."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_photo, records

import attnvis as package
from attnvis import render
from attnvis.cli import entry
from attnvis.methods import answer, attention
from attnvis.render import panels

ROOT = Path(package.__file__).resolve().parents[1]


def test_the_script_is_the_same_door(cat, monkeypatch, capsys):
    import runpy

    monkeypatch.setattr(sys, "argv", ["run.py", "cat.png", "preprocess.size=96", "hydra.run.dir=out"])
    runpy.run_path(str(ROOT / "scripts" / "run.py"), run_name="__main__")
    assert "1 photo done" in capsys.readouterr().out and len(records()) == 1
    monkeypatch.setattr(sys, "argv", ["run.py", "--help"])
    runpy.run_path(str(ROOT / "scripts" / "run.py"), run_name="__main__")
    assert "query=..." in capsys.readouterr().out


def test_a_command_looks_for_cycles_seldom_and_the_callers_way_comes_back(attnvis, cat, monkeypatch):
    seen, before = [], gc.get_threshold()
    gc.set_threshold(701, 11, 12)
    try:
        monkeypatch.setattr(
            entry, "enter", lambda verb, words: seen.append(gc.get_threshold()) or sys.exit(3)
        )
        assert attnvis("run", "cat.png").code == 3
        assert seen == [(50_000, 11, 12)] and gc.get_threshold() == (701, 11, 12)
    finally:
        gc.set_threshold(*before)


def test_the_end_of_a_process_is_cut_short_by_the_console_alone(attnvis, here, monkeypatch):
    registered = []
    monkeypatch.setattr(entry.atexit, "register", registered.append)
    assert attnvis("--version").code == 0 and registered == []
    entry.console()
    assert registered == [entry.end_uncollected]


def test_records_say_how_likely_an_asked_class_is_and_how_free_a_sign(attnvis, cat):
    words = ("query=several", 'query.of=["class:espresso",pca,mean]', "render.panel=false")
    assert attnvis("run", "cat.png", *words).code == 0
    asked, free, plain = records()
    assert (
        asked["class_index"] == "967"
        and 0 < float(asked["class_probability"]) < 1
        and int(asked["class_rank"]) >= 1
    )
    assert 0 <= float(free["sign_margin"]) <= 1 and free["class_rank"] == asked["sign_margin"] == ""
    assert plain["class_rank"] == plain["sign_margin"] == "" and plain["placement"] == "rf -14 px"


def test_random_weights_are_said_on_the_panels(attnvis, cat, monkeypatch):
    lines = []
    panel = render.panel
    monkeypatch.setattr(
        panels, "panel", lambda *words, **more: lines.extend(more["lines"]) or panel(*words, **more)
    )
    assert attnvis("run", "cat.png", "backbone.weights=random").code == 0
    assert ("warning", "random weights: nothing was learned, the maps mean nothing") in lines


def test_ctrl_c_keeps_what_was_done(attnvis, here, monkeypatch):
    for number in range(3):
        make_photo(here / f"{number}.png", seed=number)
    predictions, calls = answer.predictions, []

    def tired(*words):
        calls.append(words)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predictions(*words)

    monkeypatch.setattr(attention, "predictions", tired)
    ended = attnvis("run", "0.png", "1.png", "2.png", "batch_size=1", "render.panel=false")
    assert ended.code == 130 and "stopped" in ended.complaint
    assert [row["photo"] for row in records()] == ["0.png", "1.png"]
    assert "1.png" in Path("out/index.html").read_text()
    assert len(list(Path("out/overlays").iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are Unix'")
def test_a_full_disk_is_one_line_and_leaves_nothing_that_only_looks_whole(cat):
    make_photo(Path("big.png"), (600, 800))
    code = """
import resource, sys
from attnvis import cli
import hydra, torch, wandb
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
photos = ["cat.png", "big.png"]
settings = ["preprocess.size=96", "batch_size=1", "render.format=png", "hydra.run.dir=out"]
sys.argv = ["attnvis", "run", *photos, *settings]
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1 and len(lines) == 1 and lines[0].startswith("attnvis: "), ended.stderr
    assert "File too large" in lines[0] and "make room" in lines[0]
    assert [row["photo"] for row in records()] == ["cat.png"]
    assert not list(Path("out").rglob("*.part")) and not list(Path("out/overlays").glob("big*"))
    assert not Path("out/index.html").exists() or Path("out/index.html").read_text().rstrip().endswith(
        "</html>"
    )
