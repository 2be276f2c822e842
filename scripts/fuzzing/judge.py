"""An input of a kind in, a verdict out; in a process of its own, since some end it."""

import contextlib
import io
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzzing import folders, photos, tensors
from fuzzing.common import Damage, Kind, Said, one_line

MEMORY = 6 << 30  # bytes of address space that the reading process may have

VERDICTS = ("same", "said", "forged", "wrong", "crash", "hang")

KINDS: dict[str, Kind] = photos.KINDS | tensors.KINDS | folders.KINDS


@dataclass
class Bench:
    """A working directory in which inputs of one kind are made and read."""

    name: str
    seed: int
    kind: Kind = field(init=False)
    made: Any = field(init=False)
    expected: Any = field(init=False)
    before: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.kind = KINDS[self.name]
        for folder in ("out", "outside"):
            Path(folder).mkdir()
        Path("outside/victim").write_bytes(b"mine")
        self.expected = None
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.made = self.kind.make()
            shutil.copytree("out", "true")
            if self.kind.exact:
                self.expected = comparable(self.kind.read(self.made))
        self.tidy()
        self.before = self.outside()

    def outside(self) -> dict[str, Any]:
        """What must stay as it is, whatever is read."""
        own = ("out", "true", *self.kind.others)
        return {
            str(path): path.read_bytes() if path.is_file() else ""
            for top in sorted(Path().iterdir())
            if top.name not in own
            for path in [top, *sorted(top.rglob("*"))]
        }

    def tidy(self) -> None:
        for folder in ("out", *self.kind.others):
            if Path(folder).is_symlink():
                Path(folder).unlink()
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree("true", "out")

    def judge(self, number: int) -> tuple[str, str]:
        """A verdict on one input, and what was done and came of it."""
        dice = random.Random(f"{self.name} {self.seed} {number}")
        self.tidy()
        damaged: Damage = self.kind.spoil(self.made, dice)
        stdout, stderr = io.StringIO(), io.StringIO()
        before = self.outside()
        try:
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                answer = comparable(self.kind.read(self.made))
        except (Said, ValueError, OSError) as error:
            verdict, text = "said", one_line(error)
            if "\n" in str(error) and isinstance(error, ValueError):
                verdict = "crash"  # not a line
        except Exception:
            verdict, text = "crash", traceback.format_exc()
        else:
            text = stderr.getvalue()
            verdict = "same" if answer == self.expected or not self.kind.exact else ""
            if not verdict:
                verdict = "said" if text or complains(answer) else "forged" if damaged.forged else "wrong"
                text = text or difference(answer, self.expected)
        if self.outside() != before:
            verdict, text = "wrong", f"something outside was touched; {text}"
            self.restore()
        return verdict, f"{damaged.what}: {text}"

    def restore(self) -> None:
        for name, content in self.before.items():
            if isinstance(content, bytes):
                Path(name).write_bytes(content)


def comparable(value: Any) -> Any:
    """NaN is NaN here."""
    return repr(value)


def complains(answer: str) -> bool:
    """Whether a photo's own row says what is wrong, or a command among several ended with a line."""
    return "'status': 'failed'" in answer or "'missing'" in answer


def difference(answer: str, expected: str) -> str:
    at = next((at for at, (a, b) in enumerate(zip(answer, expected, strict=False)) if a != b), 0)
    return f"{expected[max(0, at - 80) : at + 80]!r} became {answer[max(0, at - 80) : at + 80]!r}"


def work(name: str, seed: int, numbers: list[int], pipe: Connection) -> None:
    """Judges one input after another, and sends what it found."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        bench = Bench(name, seed)
        if sys.platform == "linux":
            import resource

            used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        pipe.send(("ready", 0, ""))
        for number in numbers:
            pipe.send(("begins", number, ""))
            verdict, text = bench.judge(number)
            pipe.send((verdict, number, text))
        pipe.send(("ends", 0, ""))
        os.chdir("/")


def fuzz(name: str, seed: int, numbers: list[int], patience: float, minutes: float) -> dict[str, Any]:
    """Verdict -> the numbers of the inputs; "texts": number -> what came of those that failed."""
    found: dict[str, Any] = {verdict: [] for verdict in VERDICTS} | {"texts": {}}
    end, left = time.monotonic() + 60 * minutes, list(numbers)
    while left and time.monotonic() < end:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.Process(target=work, args=(name, seed, left, theirs), daemon=True)
        worker.start()
        theirs.close()
        current, begun = None, False
        while True:
            limit = patience if begun else 10 * patience
            try:
                message = ours.recv() if ours.poll(limit) else ("hang", current, f"more than {patience:g} s")
            except EOFError:
                message = ("crash", current, "the process died")
            verdict, number, text = message
            if verdict == "ready":
                begun = True
            elif verdict == "begins":
                current = number
            elif verdict == "ends":
                left = []
            elif current is None or number is None:
                raise RuntimeError(f"{name}: the true one could not be made or read: {text}")
            else:
                found[verdict].append(number)
                found["texts"][number] = f"{verdict}: {text}"
                left = [later for later in left if later > number]
            lost = verdict in ("hang", "crash") and text in (f"more than {patience:g} s", "the process died")
            if lost or verdict == "ends" or time.monotonic() > end:
                break
        worker.kill()
        worker.join()
    return found
