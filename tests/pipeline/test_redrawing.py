"""A run is drawn again: in its own style but for what is asked, from its maps alone, and gone on with."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import make_photo, records

from attnvis.json_files import sealed
from attnvis.pipeline.drawing import PhotoDrawer

NAMES = ("0.png", "1.png", "2.png")
ASKED = ("query=several", "query.of=[class,pca]", "batch_size=1")


@pytest.fixture
def photos(here):
    for number, name in enumerate(NAMES):
        make_photo(here / name, seed=number)


@pytest.fixture
def redraw(attnvis):
    """`attnvis redraw SOURCE WORDS` into a folder."""

    def call(source, folder, *words):
        return attnvis("redraw", source, *words, f"hydra.run.dir={folder}")

    return call


def files(folder, *kinds):
    """Every file below these folders, byte for byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for kind in kinds or ("overlays", "panels", "maps")
        for path in Path(folder, kind).iterdir()
    }


def record(folder):
    return json.loads(Path(folder, "run.json").read_text())


def test_a_redraw_in_the_runs_own_style_leaves_the_runs_own_pictures(attnvis, photos, redraw):
    style = ("render.colours=viridis", "render.high=32", "render.format=png")
    assert attnvis("run", *NAMES, *ASKED, *style).code == 0
    assert redraw("out", "again").code == 0
    assert files("again") == files("out")  # the panels too: they say what the network predicted
    assert record("again")["style"] == record("out")["style"]
    assert record("again")["style"]["colours"] == "viridis" and record("again")["style"]["high"] == 32
    assert record("again")["config"]["render"] == record("out")["config"]["render"]
    assert record("again")["redrawn from"] == "out" and "redrawn from" not in record("out")
    assert records("again") == records("out")


def test_a_redraw_can_be_drawn_again(attnvis, photos, redraw):
    assert attnvis("run", *NAMES, *ASKED).code == 0
    assert redraw("out", "magma", "render.colours=magma").code == 0
    shutil.rmtree("out")  # it stands by itself
    assert redraw("magma", "again").code == 0
    assert files("again") == files("magma") and records("again") == records("magma")
    assert record("again")["style"]["colours"] == "magma"


@pytest.mark.parametrize(
    "words, colours, high, form",
    [
        ((), "viridis", 32, "png"),
        (("render.high=16",), "viridis", 16, "png"),
        (("render.colours=scorch", "render.format=jpg"), "scorch", 32, "jpg"),  # the defaults, typed
        (("render=plain",), "scorch", 64, "png"),  # a style as a whole
        (("render=overlay", "render.high=8"), "scorch", 8, "jpg"),
    ],
)
def test_a_redraw_changes_only_what_is_typed(attnvis, photos, redraw, words, colours, high, form):
    style = ("render.colours=viridis", "render.high=32", "render.format=png", "render.panel=false")
    assert attnvis("run", "0.png", *style).code == 0
    assert redraw("out", "again", *words).code == 0
    drawn = record("again")["style"]
    assert (drawn["colours"], drawn["high"], drawn["format"]) == (colours, high, form)
    assert all(row["overlay"].endswith(f".{form}") for row in records("again"))


def test_maps_of_before_they_held_predictions_are_drawn_with_the_records(
    attnvis, photos, redraw, monkeypatch
):
    from attnvis.pipeline import maps

    described = maps.described
    monkeypatch.setattr(
        maps, "described", lambda answer: {k: v for k, v in described(answer).items() if k != "predicted"}
    )
    assert attnvis("run", "0.png").code == 0
    lines = []
    spoken = PhotoDrawer.lines
    monkeypatch.setattr(PhotoDrawer, "lines", lambda self, *of: lines.extend(spoken(self, *of)) or [])
    assert redraw("out", "again").code == 0
    (predicted,) = [text for name, text in lines if name == "predicted"]
    assert predicted.startswith(records("out")[0]["predicted"])


def test_a_redraw_takes_the_settings_of_the_logger(attnvis, photos, redraw):
    assert attnvis("run", "0.png").code == 0
    assert redraw("out", "again", "logger.mode=disabled").code == 0
    assert "choose offline, online or disabled" in redraw("out", "other", "logger.mode=loud").complaint


def test_what_failed_in_the_run_fails_in_its_redraw(attnvis, photos, redraw):
    Path("1.png").write_text("no photo")
    assert attnvis("run", *NAMES).code == 1
    ended = redraw("out", "again")
    assert ended.code == 1 and "1.png is no photo" in ended.err
    assert [row["status"] for row in records("again")] == ["done", "failed", "done"]


def test_rows_whose_cells_were_changed_are_not_drawn(attnvis, photos, redraw):
    assert attnvis("run", *NAMES).code == 0
    table = Path("out/records.csv")
    predicted = records("out")[1]["predicted"]
    lines = table.read_text().splitlines(keepends=True)
    assert lines[2].count(predicted) == 1
    table.write_text("".join([*lines[:2], lines[2].replace(predicted, "unicorn"), lines[3]]))
    ended = redraw("out", "again")
    assert ended.code == 1
    assert "1.png: its rows in out/records.csv are not what was written; run again to make them" in ended.err
    assert [row["status"] for row in records("again")] == ["done", "failed", "done"]
    assert sorted(path.name for path in Path("again/maps").iterdir()) == ["0.safetensors", "2.safetensors"]


def test_photos_that_the_table_lost_are_named(attnvis, photos, redraw):
    assert attnvis("run", *NAMES).code == 0
    table = Path("out/records.csv")
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:2]))
    ended = redraw("out", "again")
    assert ended.err == (
        "attnvis: 2 photos have no row in out/records.csv (1.png, 2.png); "
        "attnvis run --resume out does the rest\n"
    )
    assert [row["photo"] for row in records("again")] == ["0.png"]


@pytest.mark.parametrize(
    "render", [{"_target_": "os.system", "colours": "viridis"}, {"colours": 3}, 7, {"high": -1}]
)
def test_no_record_of_a_run_chooses_what_draws_it(attnvis, photos, redraw, render):
    assert attnvis("run", "0.png", "render.panel=false").code == 0
    config = record("out")["config"] | {"render": render}
    Path("out/run.json").write_text(json.dumps(sealed(record("out") | {"config": config})))
    ended = redraw("out", "again")
    if "_target_" in str(render):
        assert ended.code == 0 and record("again")["config"]["render"]["_target_"] == "attnvis.render.Style"
    else:
        assert ended.complaint and not Path("again/records.csv").exists()


# -------------------------------------------------------------------------------------------- going on


@pytest.fixture
def stopped(attnvis, photos, redraw, monkeypatch):
    """./out, a run; ./whole, redrawn; ./again, stopped while its third photo is drawn."""
    assert attnvis("run", *NAMES, *ASKED).code == 0
    assert redraw("out", "whole", "render.colours=magma").code == 0
    draw, drawn = PhotoDrawer.draw, []

    def stop(self, stem, photo, answers, **more):
        drawn.append(stem)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(self, stem, photo, answers, **more)

    with monkeypatch.context() as patch:
        patch.setattr(PhotoDrawer, "draw", stop)
        ended = redraw("out", "again", "render.colours=magma")
    assert ended.code == 130 and len(records("again")) == 4


def times(folder="again"):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder, "overlays").iterdir()}


def test_a_redraw_that_was_stopped_leaves_in_the_end_what_an_undisturbed_one_leaves(attnvis, stopped):
    before = times()
    ended = attnvis("redraw", "--resume", "again")
    assert ended.code == 0 and ended.err == "" and ended.out == "3 photos done: again/index.html\n"
    assert files("again") == files("whole") and records("again") == records("whole")
    assert {name: times()[name] for name in before} == before  # nothing was drawn twice
    assert record("again")["command"] == "attnvis redraw out render.colours=magma hydra.run.dir=again"
    plan, whole = (json.loads(Path(folder, "plan.json").read_text()) for folder in ("again", "whole"))
    assert plan == whole and plan["verb"] == "redraw" and len(plan["sources"]) == 3 and plan["rows"] == 2


def test_photos_and_maps_that_changed_are_named_and_drawn_again_or_kept(attnvis, stopped, redraw):
    make_photo(Path("0.png"), seed=70)
    Path("1.png").unlink()
    ended = attnvis("redraw", "--resume", "again")
    assert ended.code == 1
    assert "1 photo (0.png) changed since and is done again" in ended.err
    assert "1 photo (1.png) is gone; what was done of it is kept" in ended.err
    assert "0.png is not the photo that out/maps/0.safetensors was made from" in ended.err
    assert [row["status"] for row in records("again")] == ["failed", *["done"] * 4]
    kept = [row for row in records("whole") if row["photo"] != "0.png"]
    assert [row for row in records("again") if row["status"] == "done"] == kept


def test_maps_that_changed_are_named_and_drawn_again(attnvis, stopped, redraw):
    assert attnvis("run", *NAMES, *ASKED, "preprocess.size=64", "hydra.run.dir=small").code == 0
    shutil.copy("small/maps/0.safetensors", "out/maps/0.safetensors")
    Path("out/maps/1.safetensors").unlink()
    ended = attnvis("redraw", "--resume", "again")
    assert ended.code == 0
    changed, gone = ended.err.splitlines()
    assert "1 map (out/maps/0.safetensors) changed since and is done again" in changed
    assert "1 map (out/maps/1.safetensors) is gone; what was done of it is kept" in gone
    fresh = redraw("out", "fresh", "render.colours=magma")
    assert fresh.code == 1 and "out/maps/1.safetensors is gone" in fresh.err
    mine, theirs = files("again"), files("fresh")
    assert {name: mine[name] for name in theirs} == theirs
    assert attnvis("redraw", "--resume", "again").err.count("\n") == 1  # what changed is planned now


def test_a_redraw_of_a_run_that_has_other_photos_by_now_is_refused(attnvis, stopped):
    assert attnvis("run", "0.png", "2.png", *ASKED).code == 0
    assert "out has other photos than when " in attnvis("redraw", "--resume", "again").complaint
