"""A process that waits for blocks of photos: a line of JSON in, a line of JSON out.

`Server` is the side that asks; `serve` runs in the process that is asked.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Server", "Spent", "clock", "serve"]


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock on the wall, and of all cores together."""

    wall: float
    cpu: float


def clock() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


def serve(
    work: Callable[[Mapping[str, Any], Sequence[str]], str], before: Callable[[], None] = lambda: None
) -> None:
    """Calls work(mode, paths) for every line {"mode": ..., "paths": [...]} until there is none.

    `before` comes before each, outside of the time.

    Answers {"wall": seconds, "cpu": seconds, "note": what `work` gives}, or {"error": reason}.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        question = json.loads(line)
        before()
        begun = clock()
        try:
            note = work(question["mode"], question["paths"])
        except Exception as error:  # a mode that a library does not have: its reason goes into the table
            words = str(error).strip() or "no reason given"
            answers.write(json.dumps({"error": f"{type(error).__name__}: {words.splitlines()[0]}"}) + "\n")
            continue
        ended = clock()
        answer = {"wall": ended.wall - begun.wall, "cpu": ended.cpu - begun.cpu, "note": note}
        answers.write(json.dumps(answer) + "\n")


class Server:
    """A process that serves; leave the `with` block to end it."""

    def __init__(
        self, python: Path, module: str, words: Sequence[str], roots: Sequence[Path], cache: Path
    ) -> None:
        """roots: folders in which it finds packages, before any that are installed; cache: attnvis' own."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, roots)),
            "ATTNVIS_CACHE": str(cache),
        }
        self.process = subprocess.Popen(
            [str(python), "-W", "ignore", "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=roots[0],
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, mode: Mapping[str, Any], paths: Sequence[Path]) -> tuple[Spent, str]:
        """What the block took, and what is to be noted.

        Raises ValueError with the reason where it failed.
        """
        assert self.process.stdin and self.process.stdout
        question = {"mode": mode, "paths": [str(path) for path in paths]}
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ValueError("its process did not start") from None
        line = self.process.stdout.readline()
        if not line:
            raise ValueError("its process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return Spent(answer["wall"], answer["cpu"]), answer["note"]
