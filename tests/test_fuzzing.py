"""`scripts/fuzz.py` finds what it is there to find, and of what it has found before nothing is left."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
CHEAP = ("lists", "weights", "maps", "cache", "calibration", "plan")
FAILURES = ("crash", "hang", "wrong")


@pytest.fixture
def fuzz(monkeypatch, here):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("ATTNVIS_CACHE", str(here / "out"))
    return importlib.import_module("fuzzing.judge")


@pytest.mark.parametrize("kind", CHEAP)
def test_a_handful_of_damaged_inputs_are_as_they_were_or_one_line(fuzz, kind):
    bench = fuzz.Bench(kind, seed=0)
    verdicts = [bench.judge(number) for number in range(25)]
    assert not [verdict for verdict in verdicts if verdict[0] in FAILURES]
    assert {"said", "same"} & {verdict for verdict, _ in verdicts}


def spoil(fuzz, content):
    def write(made, dice):
        Path("out/number").write_bytes(content)
        return fuzz.Damage("digits", forged=content == b"3")

    return write


def read(made):
    number = Path("out/number").read_text()
    if number == "word":
        raise ValueError("no number")
    if number == "two":
        raise ValueError("no\nnumber")
    if number == "outside":
        Path("outside/victim").write_text("changed")
    if number == "sleep":
        time.sleep(600)
    if number == "die":
        os._exit(3)
    return int(number)


@pytest.mark.parametrize(
    "content, verdict",
    [
        (b"1", "same"), (b"2", "wrong"), (b"3", "forged"), (b"word", "said"), (b"two", "crash"),
        (b"outside", "said"), (b"\xff", "said"),
    ],
)  # fmt: skip
def test_the_judge_knows_an_answer_from_a_wrong_one(fuzz, monkeypatch, content, verdict):
    make = lambda: Path("out/number").write_bytes(b"1")  # noqa: E731
    monkeypatch.setitem(fuzz.KINDS, "numbers", fuzz.Kind(make, spoil(fuzz, content), read))
    bench = fuzz.Bench("numbers", 0)
    if content == b"outside":
        verdict = "wrong"
    assert bench.judge(0)[0] == verdict
    assert Path("outside/victim").read_bytes() == b"mine"


@pytest.mark.parametrize("content, verdict", [(b"sleep", "hang"), (b"die", "crash"), (b"1", "same")])
def test_a_process_that_dies_or_waits_is_counted_and_the_next_input_read(fuzz, monkeypatch, content, verdict):
    make = lambda: Path("out/number").write_bytes(b"1")  # noqa: E731
    monkeypatch.setitem(fuzz.KINDS, "numbers", fuzz.Kind(make, spoil(fuzz, content), read))
    patience = 2 if verdict == "hang" else 120
    found = fuzz.fuzz("numbers", 0, [4, 7], patience=patience, minutes=10)
    assert found[verdict] == [4, 7] and not [
        other for other in fuzz.VERDICTS if other != verdict and found[other]
    ]


def test_an_input_is_the_same_each_time(fuzz):
    bench = fuzz.Bench("maps", seed=3)
    assert [bench.judge(number) for number in range(9)] == [bench.judge(number) for number in range(9)]


@pytest.mark.slow
@pytest.mark.parametrize("kind, inputs", [*((kind, 400) for kind in CHEAP), ("run", 100), ("sweep", 60)])
def test_some_hundred_damaged_inputs_are_as_they_were_or_one_line(tmp_path, kind, inputs):
    words = ["--kind", kind, "--inputs", str(inputs), "--seed", "7", "--patience", "120", "--minutes", "60"]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPTS / "fuzz.py"), *words]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert ended.returncode == 0, ended.stdout
    assert f"{inputs:,}" in ended.stdout
