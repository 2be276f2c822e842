"""records.csv: what a spreadsheet may open, and what is read back."""

import csv
import hashlib
from pathlib import Path

import pytest
from conftest import make_photo, records
from hypothesis import given
from hypothesis import strategies as st

from attnvis.pipeline.records import (
    as_cell,
    as_read,
    from_cell,
    open_records,
    read_numbers,
    read_records,
    row_seal,
)

HARMFUL = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "=cmd|' /C calc'!A0",
    "＝1+1",
    "-",
    "+a",
    "--1",
]
HARMLESS = ["a", "", "'a", "''", "1", "-1", "+1.5", "-1e-07", "a=1", " =1", "кот", "(1)"]


@pytest.mark.parametrize("text", HARMFUL)
def test_a_formula_becomes_a_text(text):
    """Excel, LibreOffice and Google's sheets run what begins with one of = + - @, a tab or a line end."""
    for made_safe in (text, f"'{text}", f"''{text}"):
        assert as_cell("photo", made_safe) == f"'{made_safe}"
        assert from_cell("photo", f"'{made_safe}") == made_safe
    assert as_cell("sigma_eff", text) == text, "a column of numbers"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_formula_is_as_it_was(text):
    assert as_cell("label", text) == text == from_cell("label", text)


@given(st.text(alphabet=st.sampled_from("=+-@'\t\r\nab1.")))
def test_every_text_is_read_back_as_it_was(text):
    assert from_cell("photo", as_cell("photo", text)) == text
    assert not as_cell("photo", text).startswith(("=", "@", "\t", "\r", "\n"))


def test_a_table_keeps_numbers_and_gives_back_its_texts(tmp_path):
    row = {"index": 0, "photo": "=1+1.jpg", "path": "-a/=1+1.jpg", "label": "@me", "status": "failed"}
    file, table = open_records(tmp_path / "records.csv")
    with file:
        table.writerow(row | {"sign_margin": -0.5, "probability": 0.25})
        table.writerows([row | {"index": 1, "reason": "+", "class_logit": -3.5}])
    raw = list(csv.DictReader((tmp_path / "records.csv").open(newline="", encoding="utf-8")))
    assert [raw[0][name] for name in ("photo", "path", "label")] == ["'=1+1.jpg", "'-a/=1+1.jpg", "'@me"]
    assert raw[0]["sign_margin"] == "-0.5" and raw[1]["class_logit"] == "-3.5" and raw[1]["reason"] == "'+"
    first, second = read_records(tmp_path / "records.csv")
    assert [first[name] for name in ("photo", "path", "label")] == [row["photo"], row["path"], row["label"]]
    assert second["reason"] == "+"
    # behind old rows new ones come, and the old ones are the same
    file, table = open_records(tmp_path / "records.csv", after={0, 1})
    file.close()
    assert list(csv.DictReader((tmp_path / "records.csv").open(newline="", encoding="utf-8"))) == raw


def test_a_run_of_photos_called_like_formulas_goes_on_where_it_stopped(attnvis, here):
    names = ["=1+1.png", "@b.png", "+c.png", "'=d.png"]
    for number, name in enumerate(names):
        make_photo(here / name, seed=number)
    assert attnvis("run", *names, "render.panel=false").code == 0
    assert [row["photo"] for row in records()] == [f"'{name}" for name in names]
    before = {path: path.stat().st_mtime_ns for path in Path("out/maps").iterdir()}
    assert attnvis("run", "--resume", "out").code == 0
    assert before == {path: path.stat().st_mtime_ns for path in Path("out/maps").iterdir()}, (
        "nothing is done anew"
    )
    assert "'=1+1" not in Path("out/index.html").read_text(encoding="utf-8").replace("&#39;", "'")
    assert attnvis("redraw", "out", "hydra.run.dir=again").code == 0
    assert [row["photo"] for row in records("again")] == [f"'{name}" for name in names]


ODD_TEXTS = ("a\nb", "a\r\nb", '"', "a,b", "\udcff.jpg", "=1", "'=1", "кот", " ")


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_row_is_known_as_the_table_will_give_it_back(tmp_path, text):
    """The page of a run is made of the first, the page of one that goes on of the second."""
    measured = {"perplexity": 1e-17, "max_times_uniform": 7.0, "margin": 0.1 + 0.2, "max": float("inf")}
    row = {
        "index": 3,
        "photo": text,
        "path": text,
        "status": "done",
        "height": 480,
        "width": 640,
        "patches": 9,
    }
    row |= {"rows": 3, "columns": 3, "label": text, "reason": None, "sign_margin": -0.0, **measured}
    file, table = open_records(tmp_path / "records.csv")
    with file:
        table.writerow(row)
    (read,) = read_numbers(tmp_path / "records.csv")
    assert as_read(row) == read and list(as_read(row)) == list(read)
    assert [type(value) for value in as_read(row).values()] == [type(value) for value in read.values()]


def test_the_seal_of_what_was_just_written_is_that_of_the_files(tmp_path):
    for name in ("map", "overlay", "panel"):
        (tmp_path / name).write_bytes(name.encode())
    row = {name: name for name in ("map", "overlay", "panel")} | {"index": 0, "photo": "a.jpg"}
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("map", "panel")}
    assert row_seal(tmp_path, row, digests) == row_seal(tmp_path, row)
    assert row_seal(tmp_path, row, digests | {"map": "0"}) != row_seal(tmp_path, row)


def test_a_number_that_is_zero_has_the_seal_that_it_has_when_read_back(tmp_path):
    row = {"index": 0, "photo": "a.jpg", "spread": 0.0}
    assert row_seal(tmp_path, row) == row_seal(tmp_path, {name: str(value) for name, value in row.items()})
    assert row_seal(tmp_path, row) != row_seal(tmp_path, row | {"spread": ""})
