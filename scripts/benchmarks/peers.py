"""The same job by attnvis and by pytorch-grad-cam, torch-cam and captum, each in its own environment."""

import argparse
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import OWN, Rounds, checkout, make_photos, median_ratio, tell
from benchmarks.serving import Server, Spent

__all__ = ["peers"]

PACKAGES = {"pytorch-grad-cam": ("grad-cam", "ttach"), "torch-cam": ("torchcam",), "captum": ("captum",)}
MODES: dict[str, dict[str, Any]] = {
    "as its README shows it": {"batch": 1, "channels_last": False, "bf16": False},
    "channels_last": {"batch": 1, "channels_last": True, "bf16": False},
    "channels_last, bf16 autocast": {"batch": 1, "channels_last": True, "bf16": True},
    "channels_last, batch 8": {"batch": 8, "channels_last": True, "bf16": False},
    "channels_last, bf16 autocast, batch 8": {"batch": 8, "channels_last": True, "bf16": True},
}
FASTEST = {name: MODES[name] for name in ("channels_last", "channels_last, bf16 autocast, batch 8")}
SIDES = {  # a peer's method -> whose environment it has, and its modes
    "pytorch-grad-cam": ("pytorch-grad-cam", MODES),
    "torch-cam": ("torch-cam", MODES),
    "torch-cam's CAM": ("torch-cam", FASTEST),
    "captum": ("captum", MODES),
}
BASE = "attnvis, eager fp32, batch 1"
WARMING = 16  # photos before the first round
SCRIPTS = OWN / "scripts"


@dataclass(frozen=True)
class Side:
    """One way to do the job.  `label` as the table has it, `who` does it, `one_by_one`: in fp32, batch 1."""

    label: str
    who: str
    one_by_one: bool
    server: Server
    mode: dict[str, Any]
    photos: int  # a round

    def work(self, paths: Sequence[Path]) -> tuple[Spent, str]:
        return self.server.ask(self.mode, paths)


def peers(args: argparse.Namespace) -> Iterator[str]:
    """Photos to Grad-CAM overlays; attnvis draws the class query, whose map is the same up to a factor."""
    block = args.block or 200
    peer_block = min(args.peer_block or block, block)
    rounds = Rounds(args.rounds, args.minutes, parts=len(args.networks))
    yield (
        "Milliseconds a photo of 640 x 480, each side its own whole loop: decode, explain the predicted "
        "class, overlay written as JPEG; attnvis writes records and a page too.  "
        f"{torch.get_num_threads()} threads; medians of interleaved rounds, attnvis of {block} photos each, "
        f"peers of {peer_block}.  Times: of the wall clock.\n"
    )
    yield (
        "| network | side | wall ms | core-ms | times attnvis eager fp32 batch 1 "
        "| times attnvis at its best |"
    )
    yield "|---|---|---|---|---|---|"
    environments = {name: environment(name, Path(args.environments)) for name in PACKAGES}
    summaries: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        paths = make_photos(place, block)
        for name in args.networks:
            with ExitStack() as stack:
                sides = [
                    *peer_sides(name, place, environments, block=peer_block, stack=stack),
                    *own_sides(name, place, args.against, block=block, stack=stack),
                ]
                measured = measure(name, sides, paths, rounds=rounds)
            yield from rows(name, sides, measured)
            summaries.extend(summary(name, sides, measured))
    yield ""
    yield from summaries


def environment(peer: str, folder: Path) -> Path:
    """The python of a peer's own environment, which borrows PyTorch from this one; made where it is not.

    Raises ValueError where pip cannot install the peer.
    """
    home = folder / peer
    python, made = home / "bin" / "python", home / "made"
    if not made.exists():
        tell(f"making the environment of {peer}")
        venv.create(home, with_pip=True, clear=True)
        site = next(home.glob("lib/python*/site-packages"))
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
        pip = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[peer]]
        installed = subprocess.run(pip, check=False, stderr=subprocess.PIPE, text=True)
        if installed.returncode:
            reason = (installed.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(f"{peer} could not be installed into {home}: {reason}")
        made.touch()
    return python


def peer_sides(
    name: str, place: Path, environments: dict[str, Path], block: int, stack: ExitStack
) -> Iterator[Side]:
    for peer, (owner, modes) in SIDES.items():
        out = place / "peers"
        out.mkdir(exist_ok=True)
        words = [peer, name, str(out), str(torch.get_num_threads())]
        server = stack.enter_context(
            Server(environments[owner], "benchmarks.peer_loop", words, roots=[SCRIPTS, OWN], cache=out)
        )
        for label, mode in modes.items():
            one_by_one = mode["batch"] == 1 and not mode["bf16"]
            yield Side(f"{peer}, {label}", peer, one_by_one, server=server, mode=mode, photos=block)


def own_sides(name: str, place: Path, against: str | None, block: int, stack: ExitStack) -> Iterator[Side]:
    cores = torch.get_num_threads()
    modes: dict[str, dict[str, Any]] = {
        BASE: {"engine": "eager", "precision": "fp32", "batch": 1, "workers": cores},
        BASE + ", one worker": {"engine": "eager", "precision": "fp32", "batch": 1, "workers": 1},
        "attnvis, eager fp32, batch 8": {
            "engine": "eager", "precision": "fp32", "batch": 8, "workers": cores,
        },
        "attnvis, eager bf16, batch 8": {
            "engine": "eager", "precision": "bf16", "batch": 8, "workers": cores,
        },
        "attnvis, openvino bf16, batch 8": {
            "engine": "openvino", "precision": "bf16", "batch": 8, "workers": cores,
        },
        "attnvis, nothing typed, choosing the engine included": {
            "typed": True, "batch": 8, "workers": cores,
        },
    }  # fmt: skip
    versions = {"attnvis": OWN}
    if against is not None:
        other = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        versions[f"attnvis of {against}"] = checkout(against, other)
    for who, root in versions.items():
        out = Path(tempfile.mkdtemp(dir=place))
        words = [name, str(out), str(cores)]
        server = stack.enter_context(
            Server(Path(sys.executable), "benchmarks.own_loop", words, roots=[SCRIPTS, root], cache=out)
        )
        for label, mode in modes.items():
            one_by_one = label.startswith(BASE)
            label = label.replace("attnvis", who, 1)
            yield Side(label, who, one_by_one, server=server, mode=mode, photos=block)


@dataclass(frozen=True)
class Measured:
    """What each side took a photo in milliseconds, round by round; why a side did not work; what it noted."""

    spent: dict[str, list[Spent]]
    reasons: dict[str, str]
    notes: dict[str, str]

    def wall(self, label: str) -> float:
        return statistics.median(taken.wall for taken in self.spent[label])

    def core(self, label: str) -> float:
        return statistics.median(taken.cpu for taken in self.spent[label])

    def ratio(self, label: str, base: str, of: str = "wall") -> str:
        """Of wall clocks (or `cpu`), the median over rounds; "-" where one of the two did not work."""
        if label not in self.spent or base not in self.spent:
            return "-"
        times = [[getattr(taken, of) for taken in self.spent[side]] for side in (label, base)]
        return f"{median_ratio(*times):.2f}"

    def quickest(self, sides: Iterable[Side]) -> str:
        """The label of the side that took the least time; "" where none worked."""
        labels = [side.label for side in sides if side.label in self.spent]
        return min(labels, key=self.wall, default="")


def measure(name: str, sides: Sequence[Side], paths: Sequence[Path], rounds: Rounds) -> Measured:
    """All sides on the network `name`, interleaved."""
    reasons, notes = dict[str, str](), dict[str, str]()
    for side in sides:
        try:
            side.work(paths[:WARMING])
        except ValueError as error:
            reasons[side.label] = str(error)
        tell(f"{name}: {side.label} is warm")
    spent: dict[str, list[Spent]] = {side.label: [] for side in sides if side.label not in reasons}
    for number in rounds.of_next_part():
        for side in sides:
            if side.label not in spent:
                continue
            try:
                taken, notes[side.label] = side.work(paths[: side.photos])
            except ValueError as error:
                reasons[side.label] = str(error)
                del spent[side.label]
                continue
            share = 1000 / side.photos
            spent[side.label].append(Spent(share * taken.wall, share * taken.cpu))
        tell(f"{name}: round {number + 1}")
    return Measured(spent, reasons, notes)


def rows(name: str, sides: Sequence[Side], measured: Measured) -> Iterator[str]:
    best = measured.quickest(side for side in sides if side.who == "attnvis")
    for side in sides:
        label = side.label
        if label in measured.reasons:
            yield f"| {name} | {label} | {measured.reasons[label]} | - | - | - |"
            continue
        shown = f"{label} ({measured.notes[label]})" if side.mode.get("typed") else label
        ratios = [measured.ratio(label, base) for base in (BASE, best)]
        yield (
            f"| {name} | {shown} | {measured.wall(label):.2f} | {measured.core(label):.2f} | "
            f"{' | '.join(ratios)} |"
        )


def summary(name: str, sides: Sequence[Side], measured: Measured) -> Iterator[str]:
    """What is asked of the table, in words, a line for each peer."""
    best = measured.quickest(side for side in sides if side.who == "attnvis")
    for who in dict.fromkeys(side.who for side in sides):
        own = [side for side in sides if side.who == who]
        one_by_one = measured.quickest(side for side in own if side.one_by_one)
        quickest = measured.quickest(own)
        if who == "attnvis" or not quickest:
            continue
        yield (
            f"{name}: {one_by_one or who} takes {measured.ratio(one_by_one, BASE)} times {BASE} "
            f"(core-ms: {measured.ratio(one_by_one, BASE, of='cpu')}); at its best ({quickest}) "
            f"{measured.ratio(quickest, best)} times attnvis at its best ({best}; "
            f"core-ms: {measured.ratio(quickest, best, of='cpu')}).  "
        )
    yield f"{name}: {max(map(len, measured.spent.values()), default=0)} rounds.  "
