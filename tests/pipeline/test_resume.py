"""A run that stopped goes on: what is whole stays as it is, what is missing is done, and the end is the
same as without a stop."""

import csv
import json
from pathlib import Path

import pytest
from conftest import make_photo

PHOTOS = tuple(f"{number}.png" for number in range(5))
WORDS = (
    "preprocess.size=96",
    "query=class",
    "hydra.run.dir=out",
    "batch_size=1",
)  # one at a time: kernels differ by a bit with the batch


@pytest.fixture
def photos(here):
    for number, name in enumerate(PHOTOS):
        make_photo(here / name, seed=number)


def rows(folder="out"):
    with Path(folder, "records.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stopped_after(count, folder="out"):
    """As if it had been killed: no page, and the rows of so many photos."""
    path = Path(folder, "records.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: 1 + count]))
    Path(folder, "index.html").unlink()


def times():
    return {
        path.name: path.stat().st_mtime_ns
        for path in Path("out").rglob("*.*")
        if path.parent.name in ("maps", "overlays", "panels")
    }


def test_resume_does_what_is_missing_and_nothing_else(attnvis, photos, monkeypatch):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    whole, before = rows(), times()
    stopped_after(3)
    Path("out/overlays", Path(whole[1]["overlay"]).name).unlink()
    ended = attnvis("run", "--resume", "out")
    assert ended.code == 0 and ended.out == "5 photos done: out/index.html\n"
    assert sorted(rows(), key=lambda row: row["index"]) == whole
    after = times()
    assert {name for name in before if before[name] != after[name]} == {
        Path(row[kind]).name for row in (whole[1], whole[3], whole[4]) for kind in ("map", "overlay", "panel")
    }
    assert json.loads(Path("out/run.json").read_text())["command"].startswith(
        f"attnvis run {' '.join(PHOTOS)} {WORDS[0]}"
    )
    page = Path("out/index.html").read_text()
    assert all(name in page for name in PHOTOS)


def test_resume_of_a_run_that_is_whole_does_nothing(attnvis, photos):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    before = times()
    assert attnvis("run", "--resume", "out/").code == 0
    assert times() == before and len(rows()) == 5


def test_a_photo_that_failed_is_tried_again(attnvis, photos):
    good = Path("2.png").read_bytes()
    Path("2.png").write_bytes(good[:100])
    assert attnvis("run", *PHOTOS, *WORDS).code == 1
    Path("2.png").write_bytes(good)
    assert attnvis("run", "--resume", "out").code == 0
    assert sorted(row["index"] for row in rows()) == list("01234") and {row["status"] for row in rows()} == {
        "done"
    }


def test_a_line_that_a_full_disk_cut_off_is_done_again(attnvis, photos):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    whole = rows()
    path = Path("out/records.csv")
    path.write_bytes(path.read_bytes()[:-40])
    assert attnvis("run", "--resume", "out").code == 0
    assert rows() == whole


def test_a_photo_of_which_some_queries_are_missing_is_done_again(attnvis, photos):
    words = (WORDS[0], *WORDS[2:], "query=several", "query.of=[mean,pca,class]", "render.panel=false")
    assert attnvis("run", *PHOTOS, *words).code == 0
    whole = rows()
    assert len(whole) == 15
    stopped_after(8)  # two photos, and two rows of the third
    assert attnvis("run", "--resume", "out").code == 0
    assert rows() == whole


def test_a_run_is_not_gone_on_with_by_another_network(attnvis, photos):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    told = json.loads(Path("out/run.json").read_text())
    Path("out/run.json").write_text(json.dumps(told | {"weights digest": "0" * 64}))
    ended = attnvis("run", "--resume", "out")
    assert (
        ended.code == 1
        and "out was begun with weights digest 000" in ended.err
        and "run again in another folder" in ended.err
    )
    assert len(rows()) == 5


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_what_is_no_run_is_one_line(attnvis, here, folder):
    ended = attnvis("run", "--resume", folder)
    assert ended.code == 1 and f"{folder} is not the folder of a run: it has no run.json" in ended.err


def test_two_runs_do_not_write_into_one_folder_at_the_same_time(attnvis, photos):
    from attnvis.files import locked

    lock = locked(Path("out"))
    ended = attnvis("run", *PHOTOS, *WORDS)
    assert (
        ended.code == 1 and "another run is writing into" in ended.err and "hydra.run.dir=FOLDER" in ended.err
    )
    assert not Path("out/records.csv").exists()
    lock.close()
    assert attnvis("run", *PHOTOS, *WORDS).code == 0 and not Path("out/.lock").exists()


def test_several_workers_leave_the_same_records_and_the_same_pictures(attnvis, photos):
    Path("dir").mkdir()
    make_photo(Path("dir/1.png"), seed=7)  # a name that was there before
    words = [*PHOTOS, "dir/1.png", WORDS[0], "batch_size=2"]
    assert attnvis("run", *words, "workers=1", "hydra.run.dir=one").code == 0
    assert attnvis("run", *words, "workers=3", "hydra.run.dir=three").code == 0
    assert rows("one") == rows("three") and [row["index"] for row in rows("one")] == list("012345")
    for path in Path("one").rglob("*.jpg"):
        assert path.read_bytes() == (Path("three") / path.relative_to("one")).read_bytes()
