"""Records in json files: the bytes are those of Python's own json module, whatever is in them."""

import hashlib
import json
from pathlib import Path

import pytest

from attnvis.data.sources import Stored, digest_of, read_source
from attnvis.json_files import read_json, write_json
from attnvis.pipeline.resume import FolderPlan, PlannedPhoto, PlannedSources
from attnvis.types import PhotoError

NESTED = {"none": None, "deep": {"list": [1, [2.5e-7, {"a": []}], {}], "empty": {}}, "text": 'a\n"é" \u2028'}
VALUES = [{}, {"a": []}, {"a": [[]], "b": [{}]}, NESTED, {"list": [NESTED, NESTED, 3], "pair": (1, 2)}]


@pytest.mark.parametrize("values", VALUES)
def test_a_file_is_what_json_writes_with_the_digest_of_what_it_says(tmp_path, values):
    write_json(tmp_path, "a.json", values)
    seal = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    assert (tmp_path / "a.json").read_text() == json.dumps(values | {"seal": seal}, indent=1)
    assert read_json(tmp_path / "a.json") == json.loads(json.dumps(values))


def test_a_plan_of_many_photos_is_read_as_it_was_written(tmp_path):
    photos = tuple(PlannedPhoto(f"/a/{number}\n.jpg", f"{number:064x}") for number in range(37))
    plan = FolderPlan("run", photos, settings={"size": 7}, files=("overlay",), rows=2, other_rows={3: 5})
    plan.write(tmp_path)
    assert FolderPlan.read(tmp_path, "run") == plan
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["photos"][36] == {"path": "/a/36\n.jpg", "digest": f"{36:064x}"}


def test_planned_paths_are_a_sequence_of_paths():
    paths = PlannedSources([PlannedPhoto(f"{number}.jpg", "") for number in range(5)])
    assert list(paths) == [Path(f"{number}.jpg") for number in range(5)]
    assert list(paths[1:3]) == [Path("1.jpg"), Path("2.jpg")]
    assert (len(paths), paths[-1]) == (5, Path("4.jpg"))


def test_a_plan_alone_chooses_no_address(monkeypatch):
    monkeypatch.setattr("attnvis.data.stores.read_address", lambda address, most: address.encode())
    addresses = ("https://ours/a.jpg", "https://theirs/b.jpg", "s3://theirs/c.tar::d.jpg")
    photos = [PlannedPhoto(address, "") for address in addresses]
    ours, *theirs = PlannedSources(photos, [Stored("https://ours/a.jpg")])
    assert digest_of(ours) == hashlib.sha256(b"https://ours/a.jpg").hexdigest()
    for source in theirs:
        assert digest_of(source) == ""
        with pytest.raises(PhotoError, match=r"theirs/.* is no longer among the photos that were named"):
            read_source(source)
