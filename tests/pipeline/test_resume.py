"""A run that stopped goes on: what is whole stays as it is, what is missing is done, and the end is the
same as without a stop."""

import csv
import hashlib
import json
import os
from pathlib import Path

import pytest
from conftest import make_photo

from attnvis.json_files import sealed

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
    Path("out/run.json").write_text(json.dumps(sealed(told | {"weights digest": "0" * 64})))
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
    lock = locked(Path("again"))
    assert "another run is writing into" in attnvis("redraw", "out", "hydra.run.dir=again").complaint
    assert [path.name for path in Path("again").iterdir() if path.name != ".hydra"] == [".lock"]
    lock.close()
    assert attnvis("redraw", "out", "hydra.run.dir=again").code == 0 and not Path("again/.lock").exists()


def test_several_workers_leave_the_same_records_and_the_same_pictures(attnvis, photos):
    Path("dir").mkdir()
    make_photo(Path("dir/1.png"), seed=7)  # a name that was there before
    words = [*PHOTOS, "dir/1.png", WORDS[0], "batch_size=2"]
    assert attnvis("run", *words, "workers=1", "hydra.run.dir=one").code == 0
    assert attnvis("run", *words, "workers=3", "hydra.run.dir=three").code == 0
    assert rows("one") == rows("three") and [row["index"] for row in rows("one")] == list("012345")
    for path in Path("one").rglob("*.jpg"):
        assert path.read_bytes() == (Path("three") / path.relative_to("one")).read_bytes()


# ------------------------------------------------------------------------------------- held against the plan

ASKED = "query.of=[mean,pca,class,rarity,norm,distance,'point:10,10','point:30,30']"
SEVERAL = (WORDS[0], *WORDS[2:], "query=several", ASKED, "render.panel=false")


def contents(folder="out"):
    """Every picture and map, byte for byte."""
    kinds = ("maps", "overlays", "panels")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*.*")
        if path.parent.name in kinds
    }


def plan():
    return json.loads(Path("out/plan.json").read_text())


def test_the_plan_is_written_before_the_first_photo_and_names_what_each_leaves(attnvis, photos, monkeypatch):
    from attnvis.pipeline import run_folder

    def full_disk(*_):
        raise OSError(28, "No space left on device", "out/records.csv")

    monkeypatch.setattr(run_folder.RunWriter, "write_rows", full_disk)
    assert attnvis("run", *PHOTOS, *SEVERAL).code == 1
    assert plan()["verb"] == "run" and plan()["rows"] == 8 and plan()["files"] == ["overlay", "map"]
    assert [photo["path"] for photo in plan()["photos"]] == list(PHOTOS)
    digests = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in PHOTOS]
    assert [photo["digest"] for photo in plan()["photos"]] == digests


def test_a_disk_that_is_full_during_the_first_photo_loses_no_row(attnvis, photos):
    assert attnvis("run", *PHOTOS[:2], *SEVERAL).code == 0
    whole, files = rows(), contents()
    assert len(whole) == 16
    table = Path("out/records.csv")
    lines = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(lines[:6]) + lines[6][:30])  # five rows of eight, and half a row
    ended = attnvis("run", "--resume", "out")
    assert ended.code == 0 and ended.err == "", ended
    assert rows() == whole and contents() == files


def test_photos_that_changed_vanished_and_came_are_named_and_no_row_is_another_photos(attnvis, photos):
    assert attnvis("run", ".", *WORDS, "workers=1").code == 0
    before = {row["photo"]: row for row in rows()}
    make_photo(Path("1.png"), seed=71)  # changed
    Path("3.png").unlink()
    make_photo(Path("new.png"), seed=72)
    Path("0.png").rename("tmp")
    Path("4.png").rename("0.png")
    Path("tmp").rename("4.png")  # exchanged
    ended = attnvis("run", "--resume", "out")
    assert ended.code == 0 and ended.out.startswith("5 photos done")
    changed, gone, came = ended.err.splitlines()
    assert "3 photos (0.png, 1.png, 4.png) changed since and are done again" in changed
    assert "1 photo (3.png) is gone; what was done of it is kept" in gone
    assert "1 photo (new.png) came since and is not part of this" in came
    after = {row["photo"]: row for row in rows()}
    assert sorted(after) == list(PHOTOS)
    assert after["2.png"] == before["2.png"] and after["3.png"] == before["3.png"]
    for name in ("0.png", "1.png", "4.png"):
        assert after[name]["digest"] == hashlib.sha256(Path(name).read_bytes()).hexdigest()
    # what an undisturbed run of the photos as they are says of them
    assert attnvis("run", "0.png", "1.png", "2.png", "4.png", "workers=1", *again("fresh")).code == 0
    fresh = {row["photo"]: row for row in rows("fresh")}
    for name, row in fresh.items():
        assert {key: after[name][key] for key in row if key not in ("index", "seal")} == {
            key: value for key, value in row.items() if key not in ("index", "seal")
        }
        assert (Path("out") / after[name]["overlay"]).read_bytes() == (
            Path("fresh") / row["overlay"]
        ).read_bytes()
    assert attnvis("run", "--resume", "out").err.count("\n") == 2, "the new digests are planned now"
    drawn = {str(path.relative_to("out")) for path in Path("out/overlays").iterdir()}
    assert drawn == {
        row["overlay"] for row in rows()
    }  # names hold labels: none of an earlier photo's is left


def again(folder):
    return [word.replace("=out", f"={folder}") for word in WORDS]


def spoil_empty(path):
    path.write_bytes(b"")


def spoil_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_gone(path):
    path.unlink()


def spoil_pipe(path):
    path.unlink()
    os.mkfifo(path)


def spoil_other(path):
    """Another photo's file under this name."""
    other = next(sibling for sibling in sorted(path.parent.iterdir()) if sibling != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "kind, spoil",
    [
        ("overlay", spoil_empty),
        ("panel", spoil_pipe),
        ("map", spoil_empty),
        ("map", spoil_half),
        ("map", spoil_gone),
        ("map", spoil_pipe),
        ("map", spoil_other),
    ],
)
def test_a_file_that_is_not_whole_or_not_its_photos_is_made_anew(attnvis, photos, kind, spoil):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    whole, files = rows(), contents()
    spoil(Path("out") / whole[1][kind])
    ended = attnvis("run", "--resume", "out")
    assert ended.code == 0 and ended.err == ""
    assert sorted(rows(), key=lambda row: row["index"]) == whole and contents() == files


def test_rows_that_hold_no_numbers_or_bytes_that_are_no_text_are_done_again(attnvis, photos):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    whole = rows()
    table = Path("out/records.csv")
    lines = table.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(whole[1]["perplexity"].encode(), b"not a number")
    lines[4] = b"\xff\0" + lines[4]
    table.write_bytes(b"".join(lines))
    assert attnvis("run", "--resume", "out").code == 0
    assert sorted(rows(), key=lambda row: row["index"]) == whole


def test_a_row_that_has_a_class_and_no_probability_is_done_again(attnvis, photos):
    """Its seal is gone too, as in folders of earlier versions: the row alone has to tell."""
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    whole, before = rows(), times()
    assert whole[1]["predicted"] and whole[1]["probability"]
    damaged = [row | {"seal": ""} for row in whole]
    damaged[1]["probability"] = ""
    with Path("out/records.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, whole[0])
        table.writeheader()
        table.writerows(damaged)
    assert attnvis("run", "--resume", "out").code == 0
    assert rows() == [whole[1] if row is damaged[1] else row for row in damaged]
    assert {name.partition(".")[0] for name in before if times()[name] != before[name]} == {"1"}


@pytest.mark.parametrize("name", ["records.csv", "plan.json"])
def test_a_folder_without_its_table_or_its_plan_ends_as_an_undisturbed_one(attnvis, photos, name):
    assert attnvis("run", *PHOTOS[:2], *WORDS).code == 0
    whole, files, planned = rows(), contents(), plan()
    Path("out", name).unlink()
    assert attnvis("run", "--resume", "out").code == 0
    assert rows() == whole and contents() == files and plan() == planned


def test_a_changed_digit_of_a_row_and_a_changed_bit_of_a_picture_are_made_anew(attnvis, photos):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    whole, files = rows(), contents()
    number = whole[1]["perplexity"]
    other = number[:-1] + str((int(number[-1]) + 1) % 10)
    table = Path("out/records.csv")
    table.write_text(table.read_text().replace(number, other))
    assert [row["perplexity"] for row in rows()][1] == other
    picture = Path("out", whole[3]["overlay"])
    content = bytearray(picture.read_bytes())
    content[len(content) // 2] ^= 4
    picture.write_bytes(content)
    assert attnvis("run", "--resume", "out").code == 0
    assert (
        rows() == whole and contents() == files
    )  # in the order of the photos, as if it had not been stopped


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"format": 1, "verb": "run", "photos": 3}', b"[" * 99999]
)
def test_a_damaged_plan_is_one_line(attnvis, photos, damage):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    Path("out/plan.json").write_bytes(damage)
    assert "out/plan.json is damaged" in attnvis("run", "--resume", "out").complaint
    assert len(rows()) == 5


def test_a_folder_of_before_there_were_plans_is_gone_on_with_and_that_is_said(attnvis, photos):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    whole = rows()
    Path("out/plan.json").unlink()
    stopped_after(3)
    ended = attnvis("run", "--resume", "out")
    assert ended.code == 0 and "out has no plan.json" in ended.err and rows() == whole
    assert plan()["rows"] == 1


def test_a_run_is_not_gone_on_with_under_other_settings(attnvis, photos):
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    ended = attnvis("run", *PHOTOS, *WORDS, "resume=true", "scaling=inv_d", "render.high=8")
    assert "out was begun with other settings (" in ended.complaint
    assert "scaling._target_" in ended.complaint and "render.high" in ended.complaint
    assert len(rows()) == 5


def test_links_that_somebody_planted_in_the_folder_are_not_followed(attnvis, photos):
    """Into a fresh folder, by every verb: test_planted.py."""
    assert attnvis("run", *PHOTOS, *WORDS).code == 0
    Path("out/.hydra").rename("elsewhere")
    Path("out/.hydra").symlink_to(Path("elsewhere").absolute())
    assert "out/.hydra is a link; remove it" in attnvis("run", "--resume", "out").complaint
