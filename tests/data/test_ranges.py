"""Ranges are the photos that the words mean, in their order, and no picture is opened to make them."""

import dataclasses
import pickle
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from fake_shards import picture, picture_table, shard

from attnvis.data import stores
from attnvis.data.paths import expand
from attnvis.data.ranges import Range, ranges
from attnvis.data.sources import Broken

PICTURES = [picture(seed) for seed in range(5)]


@pytest.fixture
def album(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shard(Path("s.tar"), {f"{number}.png": content for number, content in enumerate(PICTURES)})
    picture_table(Path("t.parquet"), PICTURES)
    Path("album").mkdir()
    for number, content in enumerate(PICTURES):
        Path(f"album/{number}.png").write_bytes(content)
    Path("l.csv").write_text("id,path\na,album/0.png\nb,\nc,s.tar::3.png\nd,t.parquet::2\n")
    Path("cut.tar").write_bytes(Path("s.tar").read_bytes()[:9000])


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    "words",
    [["s.tar"], ["t.parquet"], ["album"], ["l.csv"], ["cut.tar", "gone.png"], ["s.tar", "s.tar"],
     ["t.parquet", "t.parquet"], ["t.parquet::3", "t.parquet::4", "t.parquet", "album", "l.csv", "s.tar"]],
)  # fmt: skip
def test_ranges_hold_the_photos_of_the_words_in_their_order(album, words, size):
    parts = [pickle.loads(pickle.dumps(part)) for part in ranges(words, size)]
    photos = [list(part.photos()) for part in parts]
    assert [photo for part in photos for photo in part] == list(expand(words))
    assert [part.count for part in parts] == list(map(len, photos)) and max(map(len, photos)) <= size


def test_a_range_is_made_of_texts_and_numbers_alone(album):
    for part in ranges(["s.tar", "t.parquet", "l.csv"], 2):
        for value in dataclasses.astuple(part):
            assert isinstance(value, str | int) or all(isinstance(text, str) for text in value)


def test_what_is_known_to_be_broken_keeps_its_reason(album):
    (part,) = ranges(["l.csv"], 10)
    broken = [photo for photo in part.photos() if isinstance(photo, Broken)]
    assert [photo.reason for photo in broken] == ["l.csv::1 names no photo: the cell is empty"]
    assert part.labels == ("a", "", "c", "d")


def test_a_tar_in_a_store_is_one_range_and_stays_closed(monkeypatch):
    def refuse(*words):
        raise AssertionError("nothing was to be opened")

    monkeypatch.setattr(stores, "open_store", refuse)
    assert list(ranges(["s3://bucket/s-{0..1}.tar"], 10)) == [
        Range("s3://bucket/s-0.tar", stop=None), Range("s3://bucket/s-1.tar", stop=None),
    ]  # fmt: skip


def test_a_range_of_none_is_refused():
    with pytest.raises(ValueError, match="a range of 0 holds no photo"):
        next(ranges(["album"], 0))


def test_what_lies_beside_the_photos_of_folders_and_tars_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some").mkdir()
    Path("some/a.png").write_bytes(PICTURES[0])
    for name in ("b.mov", "c.mov", "d.docx"):
        Path("some", name).write_text("no photo")
    with tarfile.open("e.tar", "w") as tar:
        for name in ("a.png", "b.mov"):
            tar.add(f"some/{name}", name)
    kinds = Counter()
    assert len(list(ranges(["some", "e.tar"], 10, passed_over=kinds))) == 2
    assert kinds == {".mov": 3, ".docx": 1}
