"""Which engine is done first: by a clock that only moves when an engine works, and by arithmetic."""

import math
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnvis.backbone import pace
from attnvis.backbone.pace import Pace, PaceBook, Workload, choose, lanes, situation
from attnvis.json_files import read_json, write_json

CPU = torch.device("cpu")
IMAGES = torch.zeros(8, 3, 4, 4)
ABOUT = {"machine": "a", "input": "8 x 4 x 4"}
EAGER, OTHER = 0.010, 0.005  # seconds a photo


class Clock:
    """Seconds that pass only where an engine takes them."""

    def __init__(self, monkeypatch=None):
        self.now, self.passes = 0.0, []
        if monkeypatch:
            monkeypatch.setattr(pace.time, "perf_counter", lambda: self.now)

    def engine(self, name, seconds):
        def run(images):
            self.now += seconds * len(images)
            self.passes.append(name)
            return (images,)

        return run

    def starter(self, name, start, seconds):
        def begin():
            self.now += start
            return self.engine(name, seconds)

        return begin


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def asked(clock, photos, book=None, other=OTHER, start=2.0, name="openvino"):
    others = {name: clock.starter(name, start, other)}
    work = Workload(photos, images=IMAGES)
    return choose(clock.engine("eager", EAGER), others, work, book=book or PaceBook(), about=ABOUT)


def test_few_photos_take_eager_and_not_one_pass_is_spent_on_it(clock):
    choice = asked(clock, 319)  # two batches of 8 would be more than 5 % of them
    assert choice.name == "eager" and choice.reason == "timing others does not pay for 319 photos"
    assert clock.passes == [] and clock.now == 0


def test_another_engine_is_tried_from_where_it_costs_a_twentieth(clock):
    """Two passes are spent; 5 s of starting and 7 passes are foreseen, of 80 ms each."""
    enough = round((9 * 8 * EAGER + 5.0) / (0.05 * EAGER))
    assert asked(clock, enough - 1).name == "eager" and set(clock.passes) == {"eager"}
    choice = asked(clock, enough + 1)
    assert choice.name == "openvino" and choice.forward is not None
    assert choice.reason == (
        "eager 10 ms a photo and openvino 5 ms a photo after 2.0 s in 1 thread, timed on the first of them"
    )
    # a warm pass and one for eager, a first pass for the other, then in turns
    assert clock.passes[-9:] == ["eager"] * 2 + ["openvino"] + ["eager", "openvino"] * 3


def test_the_slower_engine_is_not_taken_though_it_was_started(clock):
    assert asked(clock, 100_000, other=0.011).name == "eager"
    assert "openvino" in clock.passes


@given(photos=st.integers(2, 200_000), seconds=st.floats(1e-4, 1.0), start=st.floats(0, 5.0))
def test_timing_costs_at_most_a_twentieth_of_what_eager_needs(photos, seconds, start):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        others = {
            "openvino": clock.starter("openvino", start, seconds / 2),
            "compile": clock.starter("compile", 100.0, seconds),
        }
        work = Workload(photos, images=IMAGES)
        choose(clock.engine("eager", seconds), others, work, book=PaceBook(), about=ABOUT)
    assert clock.now <= 0.05 * photos * seconds + 1e-6


@pytest.mark.parametrize("photos, chosen", [(6007, "eager"), (6009, "openvino")])
def test_what_was_timed_is_remembered_and_starting_is_weighed(clock, tmp_path, photos, chosen):
    """30.04 s of starting, the first pass included, are paid back by 5 ms a photo from 6,008 photos on."""
    book = PaceBook(tmp_path / "engines")
    assert asked(clock, 1_000_000, book, start=30.0).name == "openvino"
    clock.passes.clear()
    choice = asked(clock, photos, book)
    assert choice.name == chosen and choice.reason.endswith("timed here before")
    assert clock.passes == [] and choice.forward is None


def test_a_later_run_that_is_long_enough_times_what_the_first_could_not(clock, tmp_path):
    book = PaceBook(tmp_path)
    assert asked(clock, 400, book).name == "eager"
    assert set(book.read(ABOUT)) == {"eager"}
    clock.passes.clear()
    assert asked(clock, 400, book).name == "eager" and clock.passes == []
    assert asked(clock, 100_000, book).name == "openvino"
    pace_of = book.read(ABOUT)["openvino"]
    assert (pace_of.start, pace_of.photo) == (pytest.approx(2.04), pytest.approx(OTHER))


def test_an_engine_that_cannot_run_a_network_does_not_end_the_run(clock):
    def broken():
        raise RuntimeError("no\n  such operator")

    work = Workload(100_000, images=IMAGES)
    choice = choose(clock.engine("eager", EAGER), {"openvino": broken}, work, book=PaceBook(), about=ABOUT)
    assert choice.name == "eager" and "openvino does not run it (no such operator)" in choice.reason


def test_a_batch_that_memory_does_not_hold_is_left_to_the_run(clock):
    def too_large(images):
        raise RuntimeError("can't allocate\n memory")

    others = {"openvino": clock.starter("openvino", 1.0, OTHER)}
    choice = choose(too_large, others, Workload(100_000, images=IMAGES), book=PaceBook(), about=ABOUT)
    assert (choice.name, choice.reason) == ("eager", "it could not be timed (can't allocate memory)")


def test_where_nothing_else_runs_nothing_is_timed(clock):
    work = Workload(100_000, images=IMAGES)
    choice = choose(clock.engine("eager", EAGER), {}, work, book=PaceBook(), about=ABOUT)
    assert choice.name == "eager" and "pip install 'attnvis[openvino]'" in choice.reason and not clock.passes


def test_engines_are_timed_by_as_many_threads_as_the_run_has_with_one_core_each():
    seen, together = [], threading.Barrier(3)

    def run(images):
        seen.append((threading.get_ident(), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        together.wait(timeout=120)  # all of them at a time
        return (images,)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with lanes(3) as submit:
            pace.pass_seconds(run, IMAGES, submit, workers=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len({thread for thread, _, _ in seen}) == 3
    assert {(cores, inference) for _, cores, inference in seen} == {(1, True)}


@pytest.mark.parametrize(
    "batch, photos, at_hand, count",
    [(8, 99, 8, 8), (64, 99, 8, 8), (8, 99, 3, 8), (8, 5, 5, 5), (1, 9, 8, 1)],
)
def test_what_is_timed_is_a_batch_as_the_run_will_have_it(batch, photos, at_hand, count):
    timed = Workload(
        photos, batch=batch, images=torch.arange(at_hand).float().view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    ).timed
    assert timed[:, 0].flatten().tolist() == [number % at_hand for number in range(count)]


def test_a_pace_is_that_of_one_situation_only():
    work = Workload(100, workers=2, images=IMAGES, network="net abc last")
    about = situation(work, CPU, torch.float32)
    others = [
        situation(replace(work, workers=1), CPU, torch.float32),
        situation(replace(work, batch=4), CPU, torch.float32),
        situation(replace(work, images=torch.zeros(8, 3, 4, 6)), CPU, torch.float32),
        situation(replace(work, network="net abd last"), CPU, torch.float32),
        situation(work, CPU, torch.bfloat16),
        about | {"machine": "another"},
        about | {"torch": "another"},
    ]
    assert all(other != about for other in others)
    assert about == situation(replace(work, photos=200, images=IMAGES + 1), CPU, torch.float32)
    assert len({PaceBook().file(each) for each in [about, *others]}) == len(others) + 1


PACES = {"eager": Pace(0.0, 0.0125), "openvino": Pace(3.5, 0.0071)}


def test_what_is_written_is_read_back_and_each_situation_has_its_file(tmp_path):
    book = PaceBook(tmp_path / "new" / "engines")
    assert book.read(ABOUT) == {}
    book.write(ABOUT, PACES)
    book.write(ABOUT | {"input": "1 x 4 x 4"}, {"eager": PACES["eager"]})
    assert book.read(ABOUT) == PACES and len(list(book.folder.iterdir())) == 2
    record = read_json(book.folder / book.file(ABOUT))
    assert record["situation"] == ABOUT and record["paces"]["openvino"] == {"start": 3.5, "photo": 0.0071}


@pytest.mark.parametrize(
    "change",
    [
        lambda path, record: path.write_bytes(path.read_bytes()[:-40]),
        lambda path, record: path.write_bytes(path.read_bytes().replace(b"0.0071", b"0.0001")),
        lambda path, record: path.write_text("[]"),
        lambda path, record: path.write_bytes(b"\xff" * 100),
        lambda path, record: write_json(path.parent, path.name, record | {"situation": {"machine": "b"}}),
        lambda path, record: write_json(path.parent, path.name, record | {"format": 2}),
        lambda path, record: write_json(path.parent, path.name, record | {"paces": {"eager": 3}}),
        lambda path, record: write_json(
            path.parent, path.name, record | {"paces": {"eager": {"start": 0, "photo": -1}}}
        ),
        lambda path, record: write_json(
            path.parent, path.name, record | {"paces": {"eager": {"start": math.nan, "photo": 1}}}
        ),
        lambda path, record: (path.unlink(), path.mkdir()),
    ],
)
def test_a_file_that_is_damaged_or_foreign_is_said_and_timed_anew(tmp_path, clock, change):
    said = []
    book = PaceBook(tmp_path, said.append)
    book.write(ABOUT, PACES)
    path = tmp_path / book.file(ABOUT)
    change(path, read_json(path))
    assert book.read(ABOUT) == {}
    assert said == [f"{path} is damaged or another's; engines are timed anew"]
    assert asked(clock, 100_000, PaceBook(tmp_path)).name == "openvino"
    assert path.is_dir() or set(book.read(ABOUT)) == {"eager", "openvino"}


def test_where_nothing_can_be_written_the_run_goes_on_and_says_so(tmp_path, clock):
    said = []
    (tmp_path / "file").touch()
    book = PaceBook(tmp_path / "file" / "engines", said.append)
    assert asked(clock, 100_000, book).name == "openvino"
    assert len(said) == 1 and said[0].startswith("how fast engines are here cannot be kept in ")


def test_without_a_folder_nothing_is_remembered(clock):
    book = PaceBook(None)
    assert asked(clock, 100_000, book).name == "openvino"
    assert book.read(ABOUT) == {}
