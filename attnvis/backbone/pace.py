"""Engines in, the one that is done first with a run's photos out: timed on the first, then remembered."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.backbone.agreement import Run
from attnvis.errors import in_one_line
from attnvis.files import LONG_AGO, remove_parts
from attnvis.json_files import json_digest, read_json, write_json
from attnvis.types import Head

__all__ = ["Choice", "Pace", "PaceBook", "Workload", "choose", "counted", "lanes", "run_once", "situation"]

SHARE = 0.05  # of the time that eager needs for a run: the most that timing another engine may cost
STARTS = {"openvino": 5.0, "compile": 100.0}  # seconds that starting takes, as long as nobody timed it here
ROUNDS = 3  # of which the quickest counts: what else the machine did is not the engine's
FORMAT = 1  # of the files
LONGEST = 1e6  # seconds; what a file says beyond was never timed

Submit = Callable[..., Future]  # work, arguments -> its result, from one of a run's threads


@dataclass(frozen=True)
class Workload:
    """What a run will ask of its network.

    photos    how many
    workers   threads that call it at a time, each with one core; 1: this thread, which has all cores
    batch     photos that go through it together
    images    the first photos of one shape; None: none are at hand
    head      what the classifier asks of the last layer
    network   which it is: its name, its weights' digest, its layers
    """

    photos: int
    workers: int = 1
    batch: int = 8
    images: Float[Tensor, "B 3 H W"] | None = None
    head: Head | None = None
    network: str = ""

    @property
    def timed(self) -> Float[Tensor, "B 3 H W"]:
        """A batch as the run will have it, of at most 8; where fewer photos are at hand, they come again."""
        assert self.images is not None
        count = max(1, min(self.batch, self.photos, 8))
        return self.images[torch.arange(count) % len(self.images)]


@dataclass(frozen=True)
class Pace:
    """What an engine costs: seconds until it runs, and seconds a photo with every worker at it."""

    start: float
    photo: float

    def total(self, photos: int) -> float:
        return self.start + photos * self.photo


@dataclass(frozen=True, eq=False)
class Choice:
    """The engine that is done first, and the figures that say so."""

    name: str
    reason: str
    forward: Run | None = None  # what runs it, where it was started in order to be timed


def choose(
    eager: Run,
    others: Mapping[str, Callable[[], Run]],
    work: Workload,
    book: "PaceBook",
    about: Mapping[str, str],
) -> Choice:
    """The engine that is done first with these photos, the time that it takes to start included.

    others   engine -> what starts it, of those that can run here
    work     its images as the engines take them
    about    the `situation`, under which `book` has what was timed before

    What is not known yet is timed where that costs at most SHARE of the time that eager needs.
    """
    if not others:
        return Choice("eager", "no other engine runs here; pip install 'attnvis[openvino]' adds one")
    known = {name: pace for name, pace in book.read(about).items() if name in ("eager", *others)}
    paces = dict(known)
    images, started, failures = work.timed, dict[str, Run](), list[str]()
    passed = work.workers * len(images)  # photos that go by while every worker has one batch
    if "eager" not in paces and 2 * passed > SHARE * work.photos:
        return Choice("eager", f"timing others does not pay for {counted(work.photos)}")
    begun = time.perf_counter()
    with lanes(work.workers) as submit:
        if "eager" not in paces:
            try:
                submit(run_once, eager, images).result()  # the first pass is slower
                seconds_a_photo = pass_seconds(eager, images, submit=submit, workers=work.workers)
            except (MemoryError, RuntimeError) as error:  # a run goes on with smaller batches
                return Choice("eager", f"it could not be timed ({in_one_line(error, most=80)})")
            paces["eager"] = Pace(0.0, seconds_a_photo)
        for name in [name for name in others if name not in paces]:
            passes = (2 * ROUNDS + 1) * passed * paces["eager"].photo  # were the other as slow as eager
            costs = time.perf_counter() - begun + STARTS[name] + passes
            if costs > SHARE * paces["eager"].total(work.photos):
                continue
            try:
                start, started[name] = started_within(others[name], images, submit)
                runs = [eager, started[name]]
                seconds = measure(runs, images, submit=submit, workers=work.workers)
            except Exception as error:  # what an engine cannot do it says as it likes
                failures.append(f"{name} does not run it ({in_one_line(error, most=80)})")
                started.pop(name, None)
                continue
            paces |= {"eager": Pace(0.0, seconds[0]), name: Pace(start, seconds[1])}
    if paces != known:
        book.write(about, paces)
    totals = {
        # what is started is paid for
        name: work.photos * pace.photo if name in started else pace.total(work.photos)
        for name, pace in paces.items()
    }
    name = min(totals, key=lambda name: totals[name])
    when = "timed here before" if paces == known else "timed on the first of them"
    return Choice(name, "; ".join([in_words(paces, work, when), *failures]), started.get(name))


def started_within(
    start: Callable[[], Run], images: Float[Tensor, "B 3 H W"], submit: Submit
) -> tuple[float, Run]:
    """(seconds, what runs), the first pass included: some engines do their work in it."""
    begun = time.perf_counter()
    run = start()
    submit(run_once, run, images).result()
    return time.perf_counter() - begun, run


def in_words(paces: Mapping[str, Pace], work: Workload, when: str) -> str:
    """What each engine costs, and how that is known."""
    costs = [
        f"{name} {1e3 * pace.photo:.3g} ms a photo" + (f" after {pace.start:.1f} s" if pace.start else "")
        for name, pace in paces.items()
    ]
    threads = f"{work.workers} thread{'s' * (work.workers > 1)}"
    text = f"{' and '.join(costs)} in {threads}, {when}"
    return text if len(costs) > 1 else f"{text}; starting others does not pay for {counted(work.photos)}"


def counted(photos: int) -> str:
    return f"{photos} photo{'s' * (photos != 1)}"


@contextmanager
def lanes(workers: int) -> Iterator[Submit]:
    """A function that has something done as in a run: by one of so many threads, each with one core.

    One worker is this thread, which has all cores.
    """
    if workers == 1:
        yield done_here
        return
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "attnvis", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.submit
    finally:
        pool.shutdown()
        torch.set_num_threads(before)


def done_here(work: Callable, *arguments: Any) -> Future:
    future: Future = Future()
    future.set_result(work(*arguments))
    return future


@torch.inference_mode()
def run_once(run: Run, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
    """A pass, in the way that a thread of a run makes it."""
    return run(images)


def pass_seconds(run: Run, images: Float[Tensor, "B 3 H W"], submit: Submit, workers: int) -> float:
    """Wall-clock seconds a photo while every worker has a batch in hand."""
    begun = time.perf_counter()
    for passing in [submit(run_once, run, images) for _ in range(workers)]:
        passing.result()
    return (time.perf_counter() - begun) / (workers * len(images))


def measure(
    runs: Sequence[Run], images: Float[Tensor, "B 3 H W"], submit: Submit, workers: int
) -> list[float]:
    """`pass_seconds` of each, in turns: of ROUNDS the quickest."""
    rounds = [
        [pass_seconds(run, images, submit=submit, workers=workers) for run in runs] for _ in range(ROUNDS)
    ]
    return [min(seconds) for seconds in zip(*rounds, strict=True)]


def situation(work: Workload, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """All that a pace depends on: machine, network, input, precision, threads, versions."""
    count, _, height, width = work.timed.shape
    return {
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "device": str(device),
        "network": work.network,
        "input": f"{count} x {height} x {width}",
        "precision": str(dtype),
        "threads": f"{work.workers} of {torch.get_num_threads()}",
        "torch": torch.__version__,
        "openvino": installed("openvino"),
    }


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed(package: str) -> str:
    """Its version; "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class PaceBook:
    """What was timed here before: a file for every situation.

    folder   None: nothing is remembered
    say      is told of a file that is damaged, and where none can be written
    """

    folder: Path | None = None
    say: Callable[[str], None] = lambda text: None

    def file(self, about: Mapping[str, str]) -> str:
        return f"{json_digest(about)[:32]}.json"

    def read(self, about: Mapping[str, str]) -> dict[str, Pace]:
        """Engine -> its pace; {} where nothing is known, or the file is none of ours."""
        if self.folder is None:
            return {}
        path = self.folder / self.file(about)
        try:
            record = read_json(path, most=1 << 16)
            if record["format"] != FORMAT or record["situation"] != about:
                raise ValueError
            return {str(name): as_pace(pace) for name, pace in record["paces"].items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            self.say(f"{path} is damaged or another's; engines are timed anew")
            return {}

    def write(self, about: Mapping[str, str], paces: Mapping[str, Pace]) -> None:
        """For the next run.  Each process writes a whole file; of two the later counts."""
        if self.folder is None:
            return
        pages = {name: asdict(pace) for name, pace in paces.items()}
        record = {"format": FORMAT, "situation": dict(about), "paces": pages}
        try:
            write_json(self.folder, self.file(about), record)
            remove_parts(self.folder, age=LONG_AGO)  # of processes that were killed
        except OSError as error:
            self.say(f"how fast engines are here cannot be kept in {self.folder}: {error.strerror}")


def as_pace(values: Mapping[str, Any]) -> Pace:
    """Of what a file holds.  Raises ValueError, LookupError or TypeError for what was never timed."""
    start, photo = float(values["start"]), float(values["photo"])
    if not (0 <= start < LONGEST and 0 < photo < LONGEST):  # NaN fails too
        raise ValueError(f"{start} and {photo} seconds were never timed")
    return Pace(start, photo)
