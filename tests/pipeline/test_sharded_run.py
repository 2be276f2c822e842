"""The same run in shards: the rows of the plain run, whole parts, and what is missing when it goes on."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest
import torch
from conftest import Page, records
from fake_wandb import history, inspect, logs, summary, table
from shard_runs import SMALL, album, parts, rows

from attnvis.cli.shards import command, launch, process
from attnvis.data.decoding import load
from attnvis.data.sources import TableRow
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.pipeline.maps import read_maps
from attnvis.pipeline.shards.columns import MAPS, map_rows
from attnvis.pipeline.shards.launching import Ended
from attnvis.pipeline.shards.merge import named_failures
from attnvis.pipeline.shards.part import kind_of_failure
from attnvis.types import Box, Photo, Placement

COUNT = 10  # in three shards


@pytest.fixture
def photos(here):
    return album(here / "album", COUNT)


@pytest.fixture
def sharded(attnvis, photos, monkeypatch):
    """`attnvis run album launcher=local WORDS`, its shards done in this process, one after the other."""

    def here_and_now(launcher, job, numbers, cfg, plan):
        assert launcher == "local"
        for number in numbers:
            yield Ended(number, launch.do_shard(job, number))
            yield None

    monkeypatch.setattr(command, "launched", here_and_now)
    threads = torch.get_num_threads()

    def call(*words, folder="out", images="album"):
        if words[:1] == ("--resume",):
            return attnvis("run", *words)
        typed = {word.partition("=")[0] for word in words}
        small = [word for word in SMALL if word.partition("=")[0] not in typed]
        return attnvis("run", images, "launcher=local", *small, f"hydra.run.dir={folder}", *words)

    yield call
    torch.set_num_threads(threads)
    process.bench_of.cache_clear()


def test_the_rows_are_those_of_the_plain_run(sharded, attnvis):
    ended = sharded("batch_size=2", "query=mean,random")
    assert ended.code == 1 and "9 photos done: out/index.html" in ended.out
    assert "attnvis: album/003.png is no photo of a kind that is read" in ended.err
    words = ("batch_size=2", "query=mean,random", "hydra.run.dir=plain", "workers=2", *SMALL[:2])
    assert attnvis("run", "album", *words).code == 1
    plain = records("plain")
    assert len(rows()) == len(plain) == 2 * 9 + 1
    for row, other in zip(rows(), plain):
        for name in ("index", "photo", "path", "digest", "status", "reason", "query", "label", "predicted"):
            assert str("" if row[name] is None else row[name]) == other[name], name
        for name in DESCRIPTIONS if row["status"] == "done" else ():
            assert row[name] == pytest.approx(float(other[name]), rel=1e-5, abs=1e-6, nan_ok=True), name


def test_maps_are_those_of_the_plain_run_in_half_precision(sharded, attnvis):
    sharded("batch_size=2")
    attnvis("run", "album", "batch_size=2", "hydra.run.dir=plain", "workers=2", *SMALL[:2])
    maps = pyarrow.dataset.dataset("out/maps").to_table().to_pylist()
    files = sorted(Path("plain/maps").iterdir())
    assert len(maps) == len(files) == 9
    for row, path in zip(sorted(maps, key=lambda row: row["index"]), files):
        (answer,) = read_maps(path)
        assert (row["rows"], row["columns"]) == answer.placement.grid
        assert json.loads(row["placement"])["first"] == list(answer.placement.first)
        for name in ("scores", "logits", "weights"):
            exact = getattr(answer.attention, name).flatten().numpy()
            assert np.allclose(row[name], exact, rtol=2**-10, atol=2**-23), name


def test_photos_in_tars_and_in_parquet_have_the_rows_of_the_files(sharded, photos):
    files = sorted(photos.iterdir())
    Path("tars").mkdir()
    for number in range(3):
        with tarfile.open(f"tars/{number}.tar", "w") as tar:
            for path in files[4 * number : 4 * number + 4]:
                tar.add(path, path.name)
    pictures = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    pyarrow.parquet.write_table(pyarrow.table({"image": pictures}), "photos.parquet")
    sharded()
    for images, folder in (("tars/*.tar", "out-tars"), ("photos.parquet", "out-table")):
        assert "9 photos done" in sharded(folder=folder, images=images).out
        for row, other in zip(rows(folder), rows(), strict=True):
            for name in row.keys() - {"photo", "path", "reason", "map", "overlay", "panel"}:
                assert row[name] == other[name] or row[name] != row[name], name
    assert rows("out-tars")[1]["path"] == "tars/0.tar::001.png"
    assert rows("out-table")[1]["path"] == "photos.parquet::1"


def test_the_same_command_does_only_what_is_missing(sharded, monkeypatch):
    assert sharded().code == 1
    whole = parts()
    receipts = {path: path.stat().st_mtime_ns for path in Path("out/parts").rglob("*.json")}
    Path("out/parts/000/00000001.json").unlink()
    assert sharded("--resume", "out").code == 1 and parts() == whole
    for path, when in receipts.items():
        assert (path.stat().st_mtime_ns == when) == (path.stem != "00000001")
    looked_at = []
    monkeypatch.setattr(launch, "do_shard", lambda job, number: looked_at.append(number) or "")
    assert sharded().code == 1 and looked_at == []


@pytest.mark.parametrize("kind", ["records", "maps"])
@pytest.mark.parametrize("damage", ["half", "bit", "gone"])
def test_a_part_that_is_not_whole_is_done_again(sharded, kind, damage):
    sharded()
    whole, path = parts(), Path(f"out/{kind}/000/00000000.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content if damage == "bit" else content[: len(content) // 2])
    sharded("--resume", "out")
    assert parts() == whole
    assert [row["index"] for row in rows()] == list(range(COUNT))


def test_a_full_disk_fails_one_shard_in_one_line_and_no_other(sharded, monkeypatch):
    with full_for(monkeypatch, r"records/000/00000001\.parquet"):
        ended = sharded()
    assert ended.code == 1
    (line,) = [line for line in ended.err.splitlines() if "shard 1 failed" in line]
    assert "no room for out/records/000/00000001.parquet (No space left on device); make room" in line
    assert "go on with attnvis run --resume out" in line
    assert "1 of 3 shards have no part" in ended.err and "5 photos done" in ended.out
    assert [row["index"] for row in rows()] == [0, 1, 2, 3, 8, 9]
    assert not list(Path("out").rglob("*.part")) and not list(Path("out").rglob("*.running"))
    assert "9 photos done" in sharded("--resume", "out").out
    assert [row["index"] for row in rows()] == list(range(COUNT))
    assert not list(Path("out").rglob("*.failed"))


@contextlib.contextmanager
def full_for(monkeypatch, name):
    """No room for files of this name."""
    replace = Path.replace

    def replace_or_refuse(part, target):
        if re.search(name, str(target)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(part, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_refuse)
        yield


def test_other_settings_are_refused_by_name(sharded):
    sharded()
    for word, name in [
        ("scaling=zscore", "scaling"),
        ("shards.size=5", "shards.size"),
        ("maps=false", "maps"),
    ]:
        assert f"begun with other settings ({name}" in sharded(word).complaint
    assert "give sample, tar, files" in sharded("shards.overlays=all").complaint
    assert "shards.size=0" in sharded("shards.size=0", folder="none").complaint


def test_shards_go_on_only_with_the_files_that_the_question_was_read_from(sharded, monkeypatch):
    np.save("q.npy", np.linspace(-1, 1, 1280))
    do_shard = launch.do_shard

    def changed_meanwhile(job, number):
        if number == 2:
            np.save("q.npy", np.linspace(1, -1, 1280))
            process.bench_of.cache_clear()  # as in a process that starts now
        return do_shard(job, number)

    refusal = "out was begun with other content of q.npy: its rows would answer two questions"
    with monkeypatch.context() as patch:
        patch.setattr(launch, "do_shard", changed_meanwhile)
        assert f"shard 2 failed: {Path.cwd()}/{refusal}" in sharded("query=vector:q.npy").err
    assert [row["index"] for row in rows()] == list(range(8))
    assert refusal in sharded("query=vector:q.npy").complaint
    np.save("q.npy", np.linspace(-1, 1, 1280))
    assert "9 photos done" in sharded("query=vector:q.npy").out


def test_photos_that_failed_are_named_and_of_many_one_of_a_kind():
    def row(name, reason, status="failed"):
        return {
            "status": status,
            "reason": reason and f"a/{name} {reason}",
            "path": f"a/{name}",
            "photo": name,
        }

    rows = [row("0.png", "", status="done"), row("1.png", "is cut: 2 bytes"), row("2.png", "is cut: 7 bytes")]
    kinds = {"PHOTO is cut": 2}
    assert named_failures(kinds, rows) == {
        "a/1.png is cut: 2 bytes": 1,
        "a/2.png is cut: 7 bytes": 1,
    }
    kinds = {"PHOTO is gone": 1, "PHOTO is cut": 2000}
    assert list(named_failures(kinds, rows)) == [
        "a/1.png is cut: 2 bytes; 1,999 more like it",
        "... is gone",
    ]


def test_a_run_in_shards_is_not_redrawn_and_is_told_why(sharded, attnvis):
    sharded()
    complaint = attnvis("redraw", "out").complaint
    assert "out is a run in shards, which keeps its maps in tables" in complaint


def test_a_plain_runs_folder_is_not_taken_for_one_in_shards(sharded, attnvis):
    attnvis("run", "album", *SMALL[:2])
    assert "holds a run without shards" in sharded().complaint


def test_pictures_of_all_lie_in_a_tar_that_every_machine_writes_alike(sharded):
    sharded("shards.overlays=tar", "maps=false")
    sharded("shards.overlays=tar", "maps=false", folder="again")
    assert not Path("out/maps").exists()
    for tar in sorted(Path("out/overlays/000").glob("*.tar")):
        assert tar.read_bytes() == (Path("again") / tar.relative_to("out")).read_bytes()
    with tarfile.open("out/overlays/000/00000000.tar") as tar:
        names = tar.getnames()
    assert [name.partition("/")[0] for name in names] == ["overlays", "panels"] * 3
    (row,) = [row for row in rows() if row["index"] == 1]
    assert row["overlay"] in names and load(Path("out") / row["overlay"]).size == (70, 90)


def test_beyond_the_sample_no_picture_is_drawn_unless_asked(sharded, monkeypatch):
    monkeypatch.setattr("attnvis.pipeline.shards.plan.SAMPLE", 2)
    sharded()
    assert [row["index"] for row in rows() if row["overlay"]] == [0, 5]
    assert len(list(Path("out/overlays").rglob("*.jpg"))) == 2
    page = Page(Path("out/index.html"))
    assert "attnvis run: 2 of 9 photos" in page.words
    assert "2 maps" in page.words and "9 done, 1 failed" in page.words and "1 failed" in page.words
    sharded("shards.overlays=files", folder="all")
    assert len(list(Path("all/overlays").rglob("*.jpg"))) == 9
    sharded("shards.overlays=tar", folder="packed")
    names = [row["overlay"] for row in rows("packed") if row["status"] == "done"]
    assert sum(".tar/" in name for name in names) == 7
    tar, _, member = next(name for name in names if ".tar/" in name).partition(".tar/")
    with tarfile.open(f"packed/{tar}.tar") as file:
        assert member in file.getnames()


def test_totals_are_sums_over_the_rows(sharded):
    sharded()
    totals = json.loads(Path("out/totals.json").read_text())
    assert (totals["photos"], totals["done"], totals["failed"], totals["rows"]) == (10, 9, 1, 10)
    perplexities = [row["perplexity"] for row in rows() if row["status"] == "done"]
    assert totals["means"]["mean/perplexity"] == pytest.approx(math.fsum(perplexities) / 9, rel=1e-12)
    assert totals["failures"] == {"PHOTO is no photo of a kind that is read": 1}


def test_status_tells_from_the_files_alone(sharded, attnvis, monkeypatch):
    assert "has no shards.parquet" in attnvis("status", "album").complaint
    with full_for(monkeypatch, r"records/000/00000001\.parquet"):
        sharded()
    note = {"shard": 2, "photos": 2, "done": 1, "failed": 0, "host": "far", "process": 7, "begun": 0}
    Path("out/parts/000/00000002.json").unlink()
    Path("out/parts/000/00000002.running").write_text(json.dumps(note))
    ended = attnvis("status", "out")
    assert ended.code == 1
    words = " ".join(ended.out.split())
    for expected in (
        "out: 10 photos in 3 shards, launcher local",
        "done 1 shards 3 photos done, 1 failed",
        "running 1 shards 2: 1 of 2 photos, far process 7",
        "failed 1 shards 1: no room for",
        "left 0 shards",
        "1 PHOTO is no photo",
    ):
        assert expected in words, words


def test_a_stop_keeps_what_was_done_and_says_how_to_go_on(sharded, monkeypatch):
    do_shard = launch.do_shard

    def stopped(job, number):
        if number == 1:
            signal.raise_signal(signal.SIGINT)
        return do_shard(job, number)

    with monkeypatch.context() as patch:
        patch.setattr(launch, "do_shard", stopped)
        ended = sharded()
    assert ended.code == 130 and "go on with attnvis run --resume out" in ended.err
    assert Path("out/index.html").exists() and [row["index"] for row in rows()] == [0, 1, 2, 3]
    assert "9 photos done" in sharded("--resume", "out").out
    assert [row["index"] for row in rows()] == list(range(COUNT))


def test_several_settings_are_done_one_after_the_other_each_in_shards(sharded):
    assert sharded("-m", "scaling=none,zscore", "maps=false").code == 1
    for number, scaling in enumerate(("none()", "zscore")):
        scalings = {row["scaling"] for row in rows(f"out/{number}") if row["status"] == "done"}
        assert len(scalings) == 1 and scalings.pop().startswith(scaling.rstrip("()"))


@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_other_verbs_have_no_shards(attnvis, photos, launcher):
    assert (
        f"launcher={launcher} is for attnvis run"
        in attnvis("sweep", "album", f"launcher={launcher}").complaint
    )


def test_wandb_has_one_run_with_the_means_and_a_table_of_the_sample(sharded, wandb):
    ended = sharded("logger.mode=offline")
    assert "W&B" not in ended.err
    (log,) = logs()
    kinds = inspect(log)
    perplexities = [row["perplexity"] for row in rows() if row["status"] == "done"]
    assert float(summary(kinds)["mean/perplexity"]) == pytest.approx(math.fsum(perplexities) / 9)
    assert summary(kinds)["photos"] == 9 and summary(kinds)["failed"] == 1
    items = history(kinds)
    assert [item["progress/photos"] for item in items if "progress/photos" in item][-1] == 10
    assert len(table(log, items, "photos")["data"]) == 10


@pytest.mark.parametrize("kind", ["parts", "records", "maps", "overlays"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_a_planted_group_that_is_a_link_is_refused_in_one_line(sharded, kind, is_begun):
    victim = Path("victim")
    victim.mkdir()
    for name in ("mine", "00000000.json", "00000000.failed", ".1-0123456789abcdef.part"):
        (victim / name).write_text("mine")
    before = {path.name: path.read_bytes() for path in victim.iterdir()}
    if is_begun:
        sharded()
        shutil.rmtree(f"out/{kind}")
    Path("out", kind).mkdir(parents=True)
    Path("out", kind, "000").symlink_to(victim.absolute())
    for path in victim.iterdir():
        os.utime(path, (0, 0))
    ended = sharded()
    assert ended.code == 1 and f"out/{kind}/000 is a link; remove it" in ended.complaint
    assert {path.name: path.read_bytes() for path in victim.iterdir()} == before


def test_a_link_planted_while_shards_are_done_fails_the_shard(sharded, monkeypatch):
    Path("victim").mkdir()
    do_shard = launch.do_shard

    def planted(job, number):
        if number == 0:
            Path("out/records").mkdir()
            Path("out/records/000").symlink_to(Path("victim").absolute())
        return do_shard(job, number)

    monkeypatch.setattr(launch, "do_shard", planted)
    ended = sharded()
    assert ended.code == 1 and "shard 0 failed" in ended.err and "out/records/000 is a link" in ended.err
    assert not list(Path("victim").iterdir())


def test_what_lies_beside_the_photos_is_said_and_kept(sharded, photos):
    for name in ("a.mov", "b.mov", "notes.docx"):
        (photos / name).write_text("no photo")
    said = "3 files passed over: 2 .mov, 1 .docx"
    assert said in sharded().err
    assert json.loads(Path("out/run.json").read_text())["passed over"] == said
    (photos / "c.mov").write_text("it came since")
    Path("out/parts/000/00000001.json").unlink()
    assert "passed over" not in sharded("--resume", "out").err
    assert json.loads(Path("out/run.json").read_text())["passed over"] == said


@pytest.mark.parametrize(
    "reason, source, kind",
    [
        (
            "t.parquet::3 was not read in 3 attempts: no",
            TableRow("t.parquet", 3),
            "PHOTO was not read in 3 attempts",
        ),
        ("3 is no photo of 3 channels", Path("3"), "PHOTO is no photo of 3 channels"),
        ("album/a.jpg is no photo", Path("album/a.jpg"), "PHOTO is no photo"),
        ("b is no photo that can be read", Path("x/b"), "PHOTO is no photo that can be read"),
    ],
)
def test_a_kind_of_failure_loses_the_photos_name_and_no_more(reason, source, kind):
    assert kind_of_failure(reason, source) == kind


def test_maps_of_a_question_whose_name_is_no_text_can_be_written():
    photo = Photo("a.png", np.zeros((60, 80, 3), np.uint8), (60, 80), "d" * 64)
    box = Box(0.0, 0.0, 60.0, 80.0)
    placement = Placement((10.0, 10.0), (20.0, 20.0), (3, 4), (60, 80), box, (30.0, 30.0))
    name = os.fsdecode(b"exemplar:caf\xe9.png")
    answer = Answer(query=name, label=name, weights=torch.ones(12), placement=placement, diagnostics={})
    (row,) = map_rows(0, photo, [answer])
    (back,) = pyarrow.Table.from_pylist([row], MAPS).to_pylist()
    assert back["query"] == back["label"] == "exemplar:caf\\udce9.png"


def test_what_no_process_could_ask_is_told_before_the_first_shard(sharded):
    ended = sharded("query=exemplar:run,mean")
    assert ended.code == 1 and "in shards no process does" in ended.complaint
    assert not list(Path("out").glob("parts/*/*"))
