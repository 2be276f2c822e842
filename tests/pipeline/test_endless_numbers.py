"""Numbers that JSON can write and no record can hold are one line."""

import json

import pytest

from attnvis.experiments.sweep.record import JobRecord
from attnvis.pipeline.resume import FolderPlan

PLAN = {"format": 1, "verb": "run", "photos": [], "settings": {}, "files": [], "rows": 1, "other_rows": {}}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "9" * 5000])
@pytest.mark.parametrize("name, value", [("rows", "{}"), ("other_rows", '{{"0": {}}}')])
def test_a_plan_of_endless_rows_is_damaged(tmp_path, name, value, number):
    text = json.dumps({**PLAN, name: "HERE"}).replace('"HERE"', value.format(number))
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged, or not the plan of a run"):
        FolderPlan.read(tmp_path, "run")


@pytest.mark.parametrize("number", ["1e999", "9" * 400, "9" * 5000])
def test_a_job_of_endless_numbers_has_no_record(number):
    with pytest.raises(ValueError, match=r"no record of a job|digits"):
        JobRecord.from_json(
            f'{{"status": "done", "seconds": {number}, "sharpness": [{number}], "done": 1e999}}'
        )
