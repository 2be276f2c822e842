"""attnvis as it is typed, each command a process of its own: start-up, memory, a sweep beside one run."""

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import OWN, Rounds, checkout, interleaved, make_photos, median_ratio, tell, timed
from benchmarks.serving import Spent

__all__ = ["SCALINGS", "latency", "memory", "sweep"]

SCALINGS = (
    "none", "inv_sqrt_d", "inv_d", "log_n", "ssmax", "zscore", "robust_z", "minmax",
    "cosine:0.01", "cosine:0.07", "cosine:1", "perplexity:0.03", "perplexity:0.1", "perplexity:0.3",
    *(f"temperature:{2.0**power:g}" for power in range(-2, 10, 2)),
)  # fmt: skip
STATUS = Path("/proc/self/status")  # of a process, where Linux tells
# The peak that a parent is told of its child is never below the parent's own at the start: the child says it.
WATCH = "import atexit; atexit.register(lambda: open({file!r}, 'w').write(open('/proc/self/status').read()))"
ENTRY = "from attnvis import cli; getattr(cli, 'console', cli.main)()"  # older versions have main alone
EXPLAIN = "import sys, attnvis; attnvis.explain(sys.argv[1]).overlay()"
FEW = 8  # photos by which a command's start-up is told from its work


@dataclass(frozen=True)
class Used(Spent):
    """What a process took; `peak` in bytes of memory."""

    peak: int


@dataclass(frozen=True)
class Shell:
    """Where commands run: a folder of their own with a cache of its own, and what they leave goes at once.

    Modules are compiled there once, as pip compiles what it installs, whatever the environment says of that.
    """

    folder: Path

    def run(self, root: Path, *words: str) -> Used:
        """`attnvis WORDS` of the version in `root`.  Raises ValueError where it fails."""
        return self.python(root, ENTRY, *words)

    def python(self, root: Path, code: str, *words: str) -> Used:
        place = Path(tempfile.mkdtemp(dir=self.folder))
        environment = os.environ | {
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"),
            "ATTNVIS_CACHE": str(self.folder / f"cache-of-{root.name}"),
            "WANDB_MODE": "disabled",
        }
        status_file = self.folder / "status"
        if STATUS.is_file():
            code = f"{WATCH.format(file=str(status_file))}\n{code}"
        with (self.folder / "errors").open("w+") as errors:
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-c", code, *words],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=place,
                env=environment,
            )
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            lines = errors.read().strip().splitlines()
        shutil.rmtree(place)
        if process.returncode:
            reason = lines[-1] if lines else f"exit code {process.returncode}"
            raise ValueError(f"attnvis {' '.join(words[:2])} ... failed: {reason}")
        peak = peak_in(status_file) if STATUS.is_file() else usage.ru_maxrss * 1024
        return Used(wall, usage.ru_utime + usage.ru_stime, peak=peak)


def peak_in(status_file: Path) -> int:
    """Bytes of memory that a process had at its peak, by what Linux said of it at its end."""
    lines = dict(line.split(":", 1) for line in status_file.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def own_and(against: str | None, stack: ExitStack) -> dict[str, Path]:
    """Versions by what they are called: this one, and the one it is compared with."""
    versions = {"": OWN}
    if against is not None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        versions[f" of {against}"] = checkout(against, folder)
    return versions


def network_words(name: str) -> list[str]:
    random = [] if name == "efficientnet_lite0" else ["backbone.weights=random"]
    return [f"backbone={name}", *random]


# ------------------------------------------------------------------------------------------------------ sweep


def sweep(args: argparse.Namespace) -> Iterator[str]:
    """20 settings of the same photos beside one run, from the shell."""
    name, count = args.networks[0], args.count or 256
    rounds = Rounds(args.rounds, args.minutes)
    yield (
        f"{count} photos of 640 x 480, {name}, {torch.get_num_threads()} threads, query class; each a "
        f"process of its own, the network's features not kept from before.  Beyond {FEW} photos: what it "
        f"takes less what the same takes of {FEW} photos, a photo.\n"
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = {number: folder / f"photos-{number}" for number in (FEW, count)}
        for number, place in places.items():
            place.mkdir()
            make_photos(place, number)
        shell = Shell(folder)
        works = sweep_commands(name, own_and(args.against, stack))
        sides = {
            (label, number): functools.partial(shell.run, root, words[0], str(place), *words[1:])
            for label, (root, words) in works.items()
            for number, place in places.items()
        }
        for number, side in ((number, side) for (_, number), side in sides.items()):
            if number == FEW:
                side()  # files read and compiled once
        tell("warm")
        named = {f"{label}|{number}": side for (label, number), side in sides.items()}
        spent = interleaved(named, rounds.of_next_part(), "sweep:")
    yield (
        "| | s | core-s | times one run | times one run, no panels, no maps "
        f"| beyond {FEW} photos, ms a photo |"
    )
    yield "|---|---|---|---|---|---|"
    first, lean = list(works)[:2]
    for label in works:
        whole, few = spent[f"{label}|{count}"], spent[f"{label}|{FEW}"]
        seconds = [taken.wall for taken in whole]
        beyond = [1000 * (a.wall - b.wall) / (count - FEW) for a, b in zip(whole, few, strict=True)]
        bases = [[taken.wall for taken in spent[f"{base}|{count}"]] for base in (first, lean)]
        ratios = " | ".join(f"{median_ratio(seconds, base):.2f}" for base in bases)
        core = statistics.median(taken.cpu for taken in whole)
        yield (
            f"| {label} | {statistics.median(seconds):.2f} | {core:.2f} | {ratios} | "
            f"{statistics.median(beyond):.1f} |"
        )
    yield f"\nMedians of {len(spent[f'{lean}|{count}'])} rounds."


def sweep_commands(name: str, versions: Mapping[str, Path]) -> dict[str, tuple[Path, list[str]]]:
    """What is compared, label -> (whose, words): one run first, then the leanest run."""
    common = [*network_words(name), "query=class", "logger.mode=disabled"]
    settings = f"scaling={','.join(SCALINGS)}"
    works: dict[str, tuple[Path, list[str]]] = {}
    for version, root in versions.items():
        works[f"one run{version}"] = root, ["run", *common]
        lean = ["render.panel=false", "maps=false"]
        works[f"one run{version}, no panels, no maps"] = root, ["run", *common, *lean]
        works[f"20 settings{version}, no sheets"] = root, ["sweep", *common, settings, "sheets=0"]
        works[f"20 settings{version}, a contact sheet a photo"] = root, ["sweep", *common, settings]
    return works


# ----------------------------------------------------------------------------------------------------- memory


def memory(args: argparse.Namespace) -> Iterator[str]:
    """Peak memory of runs over more and more photos; the same 1,000 files under many names."""
    name = args.networks[0]
    sizes, words = ((480, 640),), ["render.panel=false", "logger.mode=disabled"]
    if args.small:
        sizes, words = ((72, 96),), [*words, "preprocess.size=64"]
    what = "96 x 72, network input of 64 px" if args.small else "640 x 480"
    yield f"attnvis run, {name}, photos of {what}, no panels, maps kept.\n"
    yield (
        "| photos | peak MB | times the fewest | bytes a photo beyond the fewest "
        "| seconds | photos a second |"
    )
    yield "|---|---|---|---|---|---|"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "first").mkdir()
        first = make_photos(folder / "first", min(1000, *args.counts), sizes)
        shell = Shell(folder)
        versions = own_and(args.against, stack)
        fewest: dict[str, tuple[int, int]] = {}  # version -> photos, bytes
        for count in args.counts:
            place = folder / f"photos-{count}"
            place.mkdir()
            for number in range(count):
                os.link(first[number % len(first)], place / f"{number:06}.jpg")
            for version, root in versions.items():
                used = shell.run(
                    root, "run", str(place), *words, *network_words(name), "logger.mode=disabled"
                )
                least, base = fewest.setdefault(version, (count, used.peak))
                more = (used.peak - base) / (count - least) if count > least else 0.0
                yield (
                    f"| {count}{version} | {used.peak / 1e6:.0f} | {used.peak / base:.3f} | {more:.0f} | "
                    f"{used.wall:.0f} | {count / used.wall:.0f} |"
                )
            shutil.rmtree(place)


# ---------------------------------------------------------------------------------------------------- latency


def latency(args: argparse.Namespace) -> Iterator[str]:
    """One photo, from the shell, beside PyTorch's import."""
    rounds = Rounds(args.rounds, args.minutes)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (path,) = make_photos(folder, 1)
        shell = Shell(folder)
        imports = 'python -c "import torch"'
        sides: dict[str, Callable[[], Spent]] = {
            imports: functools.partial(shell.python, OWN, "import torch")
        }
        for version, root in own_and(args.against, stack).items():
            for mode in ("disabled", "offline"):
                label = f"attnvis run PHOTO logger.mode={mode}{version}, page and panel included"
                words = ("run", str(path), f"logger.mode={mode}")
                sides[label] = functools.partial(shell.run, root, *words)
            sides[f"import attnvis, explain(PHOTO).overlay(){version}"] = functools.partial(
                shell.python, root, EXPLAIN, str(path)
            )
            sides[f"attnvis --help{version}"] = functools.partial(shell.run, root, "--help")
        for side in sides.values():
            side()
        spent = interleaved(sides, rounds.of_next_part(), "latency:")
        warm = explain_again(path, 10 * args.rounds)
    yield f"Each a process of its own, interleaved, medians of {len(spent[imports])} rounds.\n"
    yield '| | s | core-s | times `python -c "import torch"` |\n|---|---|---|---|'
    base = [taken.wall for taken in spent[imports]]
    for label, times in spent.items():
        seconds = [taken.wall for taken in times]
        core = statistics.median(taken.cpu for taken in times)
        ratio = median_ratio(seconds, base)
        yield f"| {label} | {statistics.median(seconds):.2f} | {core:.2f} | {ratio:.2f} |"
    wall, core = (statistics.median(times) for times in warm)
    yield f"| explain(photo).overlay() in Python, warm | {wall:.4f} | {core:.4f} | - |"


def explain_again(path: Path, count: int) -> tuple[Sequence[float], Sequence[float]]:
    """Seconds by the wall and of all cores of one photo explained and drawn, after the first time."""
    from attnvis import explain

    def work() -> None:
        explain(path, "class").overlay()

    work()
    spent = [timed(work) for _ in range(count)]
    return [taken.wall for taken in spent], [taken.cpu for taken in spent]
