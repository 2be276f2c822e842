"""What becomes of a command whose stdout or stderr is closed, full, or read by nobody."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_photo, records

from attnvis import cli
from attnvis.cli.streams import Stream

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="/dev/full and closed streams are Unix'")

DOOR = [sys.executable, "-c", "import sys; sys.argv[0] = 'attnvis'; from attnvis.cli import main; main()"]


def unread():
    """A stream whose reader has gone away."""
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


def full():
    return open("/dev/full", "w")


SMALL = "preprocess.size=96 logger.mode=disabled hydra.run.dir=out"
VERBS = ["--help", "--version", "run --help", "cache", f"run cat.png {SMALL}", f"sweep cat.png {SMALL}"]


def call(monkeypatch, words, stream):
    """The exit code of a command in this process that prints to this stream."""
    monkeypatch.setattr(sys, "argv", ["attnvis", *words.split()])
    code = 0
    with monkeypatch.context() as patch, stream:
        patch.setattr(sys, "stdout", stream)
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        assert sys.stdout is stream
    return code


@pytest.mark.parametrize("words", VERBS)
def test_a_reader_who_goes_away_is_no_failure_and_stops_nothing(
    cat, one_composition, monkeypatch, capsys, words
):
    monkeypatch.setenv("ATTNVIS_CACHE", str(cat.parent / "kept"))
    assert call(monkeypatch, words, unread()) == 0
    assert capsys.readouterr().err == ""
    if "out" in words:
        assert Path("out/index.html").is_file()


@pytest.mark.parametrize("words", VERBS)
def test_what_a_full_disk_keeps_from_being_printed_is_told_on_stderr(
    cat, one_composition, monkeypatch, capsys, words
):
    monkeypatch.setenv("ATTNVIS_CACHE", str(cat.parent / "kept"))
    assert call(monkeypatch, words, full()) == 1
    assert capsys.readouterr().err.startswith("attnvis: could not print (No space left on device); ")
    if "out" in words:
        assert Path("out/index.html").is_file()


def test_a_failure_keeps_its_own_exit_code_and_line(here, monkeypatch, capsys):
    for stream in (unread(), full()):
        assert call(monkeypatch, "runn cat.png", stream) == 2
        assert capsys.readouterr().err.startswith("attnvis: unknown verb 'runn'")


def test_the_table_of_networks_ends_with_its_reader(here, monkeypatch):
    from attnvis.backbone import overview

    monkeypatch.setattr(overview, "summarise", lambda *_: iter(()))
    monkeypatch.setattr(overview, "table", lambda _: iter(lambda: "one more line", None))  # never ends
    assert call(monkeypatch, "backbones resnet18", unread()) == 0


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_end_nothing_and_say_nothing_wrong(here, closed):
    ended = subprocess.run(
        [*DOOR, "--version"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: [os.close(number) for number in closed],
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert bool(ended.stdout) == (1 not in closed)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_no_file_of_a_run_takes_the_number_of_a_closed_stream(here, closed):
    make_photo(here / "cat.png")
    ended = subprocess.run(
        [*DOOR, "run", "cat.png", *SMALL.split()],
        capture_output=True,
        check=False,
        preexec_fn=lambda: [os.close(number) for number in closed],
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert [row["status"] for row in records()] == ["done"]
    assert Path("out/index.html").read_text().rstrip().endswith("</html>")


def test_signs_that_an_encoding_lacks_are_written_with_backslashes():
    inner = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = Stream(inner)
    print("кот 🐈.png", file=stream, flush=True)
    assert inner.buffer.getvalue().decode() == "\\u043a\\u043e\\u0442 \\U0001f408.png\n"
    assert stream.error is None


def test_after_its_first_error_a_stream_leads_nowhere():
    with contextlib.closing(full()) as inner:
        stream = Stream(inner)
        print("x" * 100_000, file=stream, flush=True)
        assert stream.error is not None
        assert stream.error.strerror == "No space left on device"
        print("more", file=stream, flush=True)
