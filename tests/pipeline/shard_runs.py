"""Runs in shards for tests: in this process, or as a command that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset
from conftest import make_photo

COMMAND = "import sys; sys.argv[0] = 'attnvis'; from attnvis.cli import main; main()"
SMALL = ("preprocess.size=96", "logger.mode=disabled", "shards.size=4")
MOST = 600  # seconds that a test waits for what should come


def album(folder: Path, count: int, size=(70, 90), bad=(3,)) -> Path:
    """Photos, of which some are none."""
    for number in range(count):
        make_photo(folder / f"{number:03d}.png", size, seed=number)
    for number in bad:
        (folder / f"{number:03d}.png").write_text("hello, this is no photo")
    return folder


def rows(folder: str | Path = "out") -> list[dict]:
    """Every row of the dataset, by photo."""
    table = pyarrow.dataset.dataset(f"{folder}/records").to_table()
    return sorted(table.to_pylist(), key=lambda row: row["index"])


def parts(folder: str | Path = "out") -> dict[str, bytes]:
    """What lies in records/ and maps/, name by name."""
    files = [path for kind in ("records", "maps") for path in Path(folder, kind).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def begun(*words: str, **variables: str) -> subprocess.Popen:
    """`attnvis WORDS` in a process of its own, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        start_new_session=True,
    )


def ended(*words: str, **variables: str) -> subprocess.CompletedProcess:
    process = begun(*words, **variables)
    out, err = process.communicate(timeout=MOST)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


TRUSTED = ("-cd=mine", "trust=my_gate")  # what --resume is told again
HELD = ("query=held", *TRUSTED)
GATE = """
import time
from pathlib import Path

def is_open():
    try:
        most = Path("opened").read_text()
    except FileNotFoundError:
        return False
    return not most or len(list(Path("out/parts").glob("*/*.json"))) < int(most)

def held(features):
    '''The mean patch, once the gate is open.'''
    while not is_open():
        time.sleep(0.02)
    return features.tokens.mean(1, keepdim=True)
"""


def gate(folder: Path) -> Path:
    """A run with HELD waits for this file: whoever is killed meanwhile is at work.

    A number in it shuts the gate again once so many shards are done.
    """
    (folder / "my_gate.py").write_text(GATE)
    (folder / "mine/query").mkdir(parents=True)
    (folder / "mine/query/held.yaml").write_text("_target_: my_gate.held\n_partial_: true\n")
    return folder / "opened"


def running(folder: str | Path = "out") -> list[dict]:
    """The notes of the shards that somebody is at."""
    notes = []
    for path in Path(folder, "parts").glob("*/*.running"):
        try:
            notes.append(json.loads(path.read_text()))
        except (OSError, ValueError):  # it is being replaced, or done
            continue
    return notes


def until(what, process: subprocess.Popen | None = None):
    """What a function gives, once that is something; the process it waits for must live meanwhile."""
    deadline = time.monotonic() + MOST
    while time.monotonic() < deadline:
        if result := what():
            return result
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it did not come")


def kill(process: subprocess.Popen) -> None:
    """The command itself, and nobody with it."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()
