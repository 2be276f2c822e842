"""A run over shards and tables leaves what one over the same files leaves, under ids that lead back."""

import shutil
from pathlib import Path

import pytest
from conftest import Page, make_photo, records

from attnvis import api
from attnvis.data.sources import Member

PHOTOS = tuple(f"{number}.png" for number in range(4))
ONE_BY_ONE = "batch_size=1"  # kernels differ by a bit with the batch
NAMED = ("photo", "path", "map", "overlay", "panel", "seal")  # columns that hold names, or digests of them


@pytest.fixture
def album(here, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "data"))
    import fake_shards

    contents = {
        name: make_photo(here / "album" / name, seed=number).read_bytes()
        for number, name in enumerate(PHOTOS)
    }
    fake_shards.shard(here / "s-0.tar", {name: contents[name] for name in PHOTOS[:2]})
    fake_shards.shard(here / "s-1.tar", {name: contents[name] for name in PHOTOS[2:]})
    fake_shards.picture_table(here / "t.parquet", list(contents.values()))
    lines = [f"cat {number},album/{name}\n" for number, name in enumerate(PHOTOS)]
    (here / "l.csv").write_text("id,path\n" + "".join(lines))
    return contents


def numbers(rows):
    return [{name: text for name, text in row.items() if name not in NAMED} for row in rows]


def test_shards_tables_and_files_of_the_same_photos_leave_the_same_numbers(attnvis, album):
    assert attnvis("run", "album", ONE_BY_ONE).code == 0
    of_files = records()
    ids = {
        "s-{0..1}.tar": [f"s-{number // 2}.tar::{number}.png" for number in range(4)],
        "t.parquet": [f"t.parquet::{number}" for number in range(4)],
        "l.csv": [f"album/{number}.png" for number in range(4)],
    }
    for word, expected in ids.items():
        ended = attnvis("run", word, ONE_BY_ONE, "hydra.run.dir=other")
        assert ended.code == 0 and ended.out == "4 photos done: other/index.html\n"
        rows = records("other")
        assert [row["path"] for row in rows] == expected
        assert numbers(rows) == numbers(of_files)
        for row, of_file in zip(rows, of_files, strict=True):
            assert Path("other", row["overlay"]).read_bytes() == Path("out", of_file["overlay"]).read_bytes()
        shutil.rmtree("other")


def test_the_page_and_the_file_names_show_where_a_photo_comes_from(attnvis, album):
    assert attnvis("run", "s-1.tar", "t.parquet", "l.csv").code == 0
    words = Page(Path("out/index.html")).words
    assert "s-1.tar::2.png" in words and "t.parquet::3" in words and "cat 0" in words
    assert {path.name for path in Path("out/overlays").iterdir()} == {
        *("2.mean.jpg", "3.mean.jpg"),
        *(f"t-{number}.mean.jpg" for number in range(4)),
        *(f"cat-{number}.mean.jpg" for number in range(4)),
    }


def test_a_run_over_shards_goes_on_with_the_photos_that_are_missing(attnvis, album):
    assert attnvis("run", "s-{0..1}.tar", "l.csv", ONE_BY_ONE).code == 0
    whole = records()
    for row in whole[1::2]:
        Path("out", row["overlay"]).unlink()
    kept = {path: path.stat().st_mtime_ns for path in Path("out/overlays").iterdir()}
    ended = attnvis("run", "--resume", "out")
    assert ended.code == 0 and ended.out == "8 photos done: out/index.html\n"
    assert records() == whole
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_a_shard_that_changed_is_done_again_and_one_that_went_keeps_what_was_done(attnvis, album):
    import fake_shards

    assert attnvis("run", "s-{0..1}.tar", ONE_BY_ONE).code == 0
    fake_shards.shard(Path("s-0.tar"), {"0.png": album["3.png"], "1.png": album["1.png"]})
    Path("s-1.tar").unlink()
    ended = attnvis("run", "--resume", "out")
    assert "1 photo (s-0.tar::0.png) changed since and is done again" in ended.err
    assert "2 photos (s-1.tar::2.png, s-1.tar::3.png) are gone; what was done of them is kept" in ended.err
    assert ended.code == 0 and records()[0]["digest"] == records()[3]["digest"]


def test_a_run_over_a_shard_is_redrawn_from_it(attnvis, album):
    assert attnvis("run", "s-0.tar", "t.parquet").code == 0
    ended = attnvis("redraw", "out", "hydra.run.dir=again")
    assert ended.code == 0 and "6 photos done" in ended.out
    assert [row["path"] for row in records("again")] == [row["path"] for row in records()]


def test_bad_members_are_recorded_and_the_shard_goes_on(attnvis, album):
    import fake_shards

    whole = fake_shards.tar_of(
        fake_shards.tar_entry("good.png", album["0.png"]),
        fake_shards.tar_entry("bad.png", b"no picture"),
        fake_shards.tar_entry("last.png", album["1.png"]),
        fake_shards.tar_entry("cut.png", album["2.png"]),
    )
    Path("s-1.tar").write_bytes(whole[:-3000])
    ended = attnvis("run", "s-{0..2}.tar")
    rows = records()
    assert ended.code == 1
    assert [(row["path"], row["status"]) for row in rows] == [
        *(("s-0.tar::0.png", "done"), ("s-0.tar::1.png", "done"), ("s-1.tar::good.png", "done")),
        *(("s-1.tar::bad.png", "failed"), ("s-1.tar::last.png", "done"), ("s-1.tar::cut.png", "failed")),
        ("s-2.tar", "failed"),
    ]
    reasons = [row["reason"] for row in rows if row["status"] == "failed"]
    assert reasons[0].startswith("s-1.tar::bad.png is no photo of a kind that is read")
    assert reasons[1].startswith("s-1.tar::cut.png is cut off with its archive")
    assert reasons[2].startswith("no such photo: s-2.tar")


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("s3:/bucket/a.png", "s3:/bucket/a.png lost a slash; write s3://bucket/a.png"),
        ("ftp://host/date=1/a.png", "ftp://... is an address that is not read here"),
        ("s-0.tar::9.png", "there is no picture 9.png in s-0.tar"),
        ("none.csv", "no such photo: none.csv"),
    ],
)
def test_a_word_that_means_no_photo_is_one_line(attnvis, album, word, complaint):
    assert complaint in attnvis("run", word).complaint


def test_one_photo_of_a_shard_is_explained_by_its_id(here, album):
    explanation = api.explain("s-1.tar::2.png", size=96)
    assert explanation.photo.name == "s-1.tar::2.png" and isinstance(explanation.photo.path, Member)
    of_file = api.explain("album/2.png", size=96)
    assert (explanation.map == of_file.map).all()
