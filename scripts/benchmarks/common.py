"""What all questions share: photos, rounds, ratios, the machine."""

import io
import os
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np
import torch

from attnvis.data.decoding import full_pixels, load
from attnvis.data.paths import find
from benchmarks.serving import Spent, clock

__all__ = [
    "LANDSCAPE",
    "MIXED",
    "OWN",
    "Rounds",
    "checkout",
    "core_seconds",
    "interleaved",
    "make_photos",
    "median_ratio",
    "other_load",
    "own_machine",
    "tell",
    "timed",
]

OWN = Path(__file__).resolve().parents[2]  # this checkout
LANDSCAPE = ((480, 640),)  # heights and widths of photos
MIXED = ((480, 640), (640, 480), (600, 800), (427, 640), (375, 500), (768, 1024), (720, 540), (512, 512))
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")  # of a processor, as Linux calls them


# ---------------------------------------------------------------------------------------------------- rounds


@dataclass
class Rounds:
    """How many rounds there is time for: `most`, or until `minutes` are over, shared by so many parts.

    What one part leaves of its time the next may use.  Every part has one round at least.
    """

    most: int
    minutes: float | None = None
    parts: int = 1
    started: float = field(default_factory=time.monotonic)
    part: int = 0

    def of_next_part(self) -> Iterator[int]:
        self.part += 1
        share = 60 * (self.minutes or 0) * self.part / self.parts
        lasted = 0.0
        for number in range(self.most):
            begun = time.monotonic()
            if number and self.minutes and begun + lasted > self.started + share:
                return
            yield number
            lasted = time.monotonic() - begun


def timed(work: Callable[[], object]) -> Spent:
    begun = clock()
    work()
    ended = clock()
    return Spent(ended.wall - begun.wall, ended.cpu - begun.cpu)


def core_seconds(work: Callable[[], object]) -> float:
    """CPU time of all threads."""
    return timed(work).cpu


def interleaved(
    sides: Mapping[str, Callable[[], Spent]], rounds: Iterator[int], what: str = ""
) -> dict[str, list[Spent]]:
    """What every side takes, round by round: A B C, A B C, ..."""
    spent: dict[str, list[Spent]] = {name: [] for name in sides}
    for number in rounds:
        for name, side in sides.items():
            spent[name].append(side())
        tell(f"{what} round {number + 1}".strip())
    return spent


def median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Of each round's ratio the median."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


STARTED = time.monotonic()


def tell(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------- photos


def make_photos(folder: Path, count: int, sizes: Sequence[tuple[int, int]] = LANDSCAPE) -> list[Path]:
    """JPEGs of these (heights, widths) in turn: parts of the sample photos, each another one, quality 90."""
    rng = np.random.default_rng(0)
    sources = [full_pixels(load(path)) for path in find("samples")]
    paths = []
    for number in range(count):
        source = sources[number % len(sources)]
        height, width = sizes[number % len(sizes)]
        highest = min(source.shape[0], source.shape[1] * height // width)
        rows = int(rng.integers(min(200, highest), highest + 1))
        columns = min(source.shape[1], rows * width // height)
        top = rng.integers(source.shape[0] - rows + 1)
        left = rng.integers(source.shape[1] - columns + 1)
        part = source[top : top + rows, left : left + columns]
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
        paths.append(folder / f"{number:05}.jpg")
        cv2.imwrite(str(paths[-1]), part[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


# ------------------------------------------------------------------------------------------------ the machine


def own_machine() -> str:
    """The processor, its cores, and the versions that count."""
    packages = [f"{name} {installed(name)}" for name in ("torch", "torchvision", "openvino", "numpy")]
    packages.append(f"OpenCV {cv2.__version__}")
    return (
        f"{processor()}; {os.cpu_count()} cores, {torch.get_num_threads()} threads; "
        f"Python {platform.python_version()}, {', '.join(packages)}; {platform.system()}."
    )


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Its name and what it can, where Linux tells."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    entries = {name.strip(): value.strip() for name, value in lines.items()}
    flags = entries.get("flags", "").split()
    has = [name for name in FEATURES if name in flags]
    lacks = [name for name in FEATURES if name not in flags]
    name = entries.get("model name", platform.machine())
    return f"{name} (has {', '.join(has) or 'none'} of these; not {', '.join(lacks) or 'one missing'})"


def other_load() -> Callable[[], str]:
    """Call it before, and what it gives afterwards: how busy others kept the machine meanwhile."""
    before, average, mine, begun = busy_seconds(), load_average(), own_seconds(), time.monotonic()

    def afterwards() -> str:
        words = f"Load average {average} before, {load_average()} after"
        now = busy_seconds()
        if before is None or now is None:
            return words + "."
        seconds = max(0.0, (now - before) - (own_seconds() - mine))
        share = seconds / (time.monotonic() - begun) / (os.cpu_count() or 1)
        return f"{words}; other processes took {share:.1%} of all cores meanwhile."

    return afterwards


def load_average() -> str:
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def busy_seconds() -> float | None:
    """CPU time of all processes since the machine started, and what a host took away; None: not Linux."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU time of this process and of those that it started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def checkout(version: str, folder: Path) -> Path:
    """Another version's files: a folder that holds them, or a commit, unpacked into `folder`.

    Raises ValueError for what is neither.
    """
    if (Path(version) / "attnvis" / "__init__.py").is_file():
        return Path(version).resolve()
    words = ["git", "-C", str(OWN), "archive", version, "attnvis", "configs"]
    archive = subprocess.run(words, capture_output=True, check=False)
    if archive.returncode:
        raise ValueError(f"--against {version}: neither a checkout of attnvis nor a commit of this one")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder
