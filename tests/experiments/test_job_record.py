"""What a job left in job.json is read, and written again, letter by letter."""

import hashlib
import json

import pytest

from attnvis.experiments.sweep.record import Failure, JobRecord, Tile

TEXT = """{
 "status": "done",
 "reason": "",
 "asked": {
  "queries": [
   "mean"
  ],
  "size": null,
  "render": {
   "colormap": "turbo"
  }
 },
 "axes": {
  "backbone": "resnet50",
  "seed": "0"
 },
 "done": 6,
 "passes": 2,
 "queries": [
  "mean"
 ],
 "settings": [
  [
   "none",
   "softmax"
  ]
 ],
 "sharpness": [
  0.1
 ],
 "failures": [
  {
   "path": "caf\\udce9.jpg",
   "reason": "it is no photo"
  }
 ],
 "tiles": [
  {
   "file": "tiles/0.jpg",
   "photo": "cat.jpg",
   "query": "mean",
   "label": "mean",
   "said": "3.1 of 49 patches",
   "setting": "none",
   "place": 0
  }
 ],
 "files": {
  "tiles/0.jpg": "00ff"
 },
 "seconds": 1.25,
 "backbone": "resnet50",
 "weights digest": "random",
 "warnings": []
}"""


def test_a_record_is_written_as_it_was_read():
    text = JobRecord.from_json(TEXT).to_json()
    rest, _, seal = text.partition(',\n "seal": ')
    assert rest + "\n}" == TEXT and JobRecord.from_json(text) == JobRecord.from_json(TEXT)
    values = json.dumps(json.loads(TEXT)).encode()
    assert json.loads(seal[:-2]) == hashlib.sha256(values).hexdigest()


def test_no_changed_letter_of_a_record_is_passed_over():
    text = JobRecord.from_json(TEXT).to_json()
    with pytest.raises(ValueError, match="not what was written"):
        JobRecord.from_json(text.replace('"done": 6', '"done": 7'))


@pytest.mark.parametrize("name", ["../../private.jpg", "/home/me/private.jpg"])
def test_a_record_that_names_files_outside_of_its_folder_is_none(name):
    with pytest.raises(ValueError, match="outside of its folder"):
        JobRecord.from_json(TEXT.replace('"file": "tiles/0.jpg"', f'"file": "{name}"'))


def test_what_no_field_is_called_is_provenance():
    record = JobRecord.from_json(TEXT)
    assert record.provenance == {"backbone": "resnet50", "weights digest": "random", "warnings": []}
    assert (record.done, record.passes, record.seconds) == (6, 2, 1.25)
    assert record.settings == (("none", "softmax"),) and record.asked["size"] is None
    assert record.failures == (Failure("caf\udce9.jpg", "it is no photo"),)
    assert record.tiles == (Tile("tiles/0.jpg", "cat.jpg", "mean", "mean", "3.1 of 49 patches", "none"),)


def test_a_job_that_failed_early_has_every_key():
    record = json.loads(JobRecord("failed", "no layer stage9", {"seed": 0}).to_json())
    assert list(record) == [*list(json.loads(TEXT))[:13], "seal"]
    assert record["reason"] == "no layer stage9" and record["settings"] == record["failures"] == []


@pytest.mark.parametrize("text", ["", TEXT[:100], "3", "[]", "{}"])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of JSON's own, with words of its own
        JobRecord.from_json(text)
