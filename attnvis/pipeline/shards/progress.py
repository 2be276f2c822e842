"""How far a run in shards is, read from the files of its folder: from any machine, while it runs or after.

The machines' clocks are taken to agree within a minute.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from attnvis.json_files import read_json, write_json
from attnvis.pipeline.shards.plan import ShardPlan

__all__ = ["SESSION", "Board", "Progress", "begin_session", "read_session"]

SESSION = "session.json"  # who does the shards, since when, and how many had been done before
GROUP = 1000  # shards of a folder below parts/
LOST = 120.0  # seconds without a note, after which nobody is taken to be at a shard


@dataclass(frozen=True)
class Running:
    """A shard that somebody is at."""

    shard: int
    photos: int
    done: int  # photos, those that failed among them
    host: str
    process: int


@dataclass(frozen=True)
class Progress:
    """A run's shards and photos at one moment; `rate`: photos a second since this session began."""

    shards: int
    photos: int
    uncounted: int = 0  # shards of which nobody knows how many photos they have
    shards_done: int = 0
    photos_done: int = 0
    photos_failed: int = 0
    running: tuple[Running, ...] = ()
    lost: tuple[int, ...] = ()  # shards that were begun by who is no more
    failed: Mapping[int, str] = field(default_factory=dict)  # shard -> reason
    failures: Mapping[str, int] = field(default_factory=dict)  # of photos: kind -> how many
    rate: float = 0.0
    silent: float = 0.0  # seconds since anything was written

    @property
    def photos_seen(self) -> int:
        """Those of running shards too."""
        return self.photos_done + self.photos_failed + sum(shard.done for shard in self.running)

    @property
    def shards_left(self) -> int:
        """That nobody has begun."""
        return self.shards - self.shards_done - len(self.running) - len(self.failed) - len(self.lost)

    @property
    def seconds_left(self) -> float | None:
        """None where no rate is known, or not how many photos there are."""
        if self.rate <= 0 or self.uncounted:
            return None
        return (self.photos - self.photos_seen) / self.rate

    @property
    def numbers(self) -> dict[str, int | float]:
        """What W&B is told of how far it is."""
        numbers: dict[str, int | float] = {
            "progress/shards": self.shards_done,
            "progress/photos": self.photos_seen,
            "progress/failed photos": self.photos_failed,
            "progress/failed shards": len(self.failed),
            "progress/photos a second": self.rate,
        }
        return numbers | {f"failures/{kind}": count for kind, count in self.failures.items()}

    def __str__(self) -> str:
        """12 of 40 shards, 24,000 of 80,000 photos, 3 failed, 112 photos a second, 0:08:20 left"""
        parts = [f"{self.shards_done:,} of {self.shards:,} shards"]
        of_all = "" if self.uncounted else f" of {self.photos:,}"
        parts.append(f"{self.photos_seen:,}{of_all} photos")
        if self.photos_failed:
            parts.append(f"{self.photos_failed:,} failed")
        if self.failed:
            parts.append(f"{len(self.failed):,} shard{'s' * (len(self.failed) != 1)} failed")
        if self.rate > 0:
            parts.append(f"{self.rate:,.3g} photos a second")
        if self.seconds_left:
            parts.append(f"{timedelta(seconds=round(self.seconds_left))} left")
        return ", ".join(parts)


class Board:
    """Reads a folder again and again; what has been read of a finished shard is not read again.

    Raises as ShardPlan does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        plan = ShardPlan(folder)
        self.shards = len(plan)
        self.photos = 0  # that are known
        self.uncounted: set[int] = set()  # shards in archives that nobody has opened yet
        for shard in plan:
            self.photos += shard.photos or 0
            if shard.photos is None:
                self.uncounted.add(shard.number)
        self.done: dict[int, tuple[int, int]] = {}  # shard -> photos done, photos failed
        self.kinds: Counter[str] = Counter()
        self.full: set[str] = set()  # the groups of GROUP shards all of which are done
        self.newest = 0.0  # when something was last written

    def read(self) -> Progress:
        """As it is now."""
        running: dict[int, Running] = {}
        lost: list[int] = []
        failed: dict[int, str] = {}
        session = read_session(self.folder)
        self.newest = max(self.newest, session.changed)
        for path, changed in self.entries():
            self.newest = max(self.newest, changed)
            number = int(path.stem)
            if path.suffix == ".json":
                self.count(number, path)
            elif path.suffix == ".failed":
                failed[number] = str(record(path).get("reason", ""))
            elif path.suffix == ".running" and time.time() - changed > LOST:
                lost.append(number)
            elif path.suffix == ".running" and (shard := running_shard(record(path))):
                running[number] = shard
        active = {number: shard for number, shard in running.items() if number not in self.done}
        photos = sum(done + failures for done, failures in self.done.values())
        seen = photos + sum(shard.done for shard in active.values())
        elapsed = self.newest - session.changed
        return Progress(
            self.shards,
            self.photos,
            uncounted=len(self.uncounted),
            shards_done=len(self.done),
            photos_done=sum(done for done, _ in self.done.values()),
            photos_failed=sum(failures for _, failures in self.done.values()),
            running=tuple(shard for _, shard in sorted(active.items())),
            lost=tuple(number for number in sorted(lost) if number not in self.done),
            failed={
                number: reason
                for number, reason in sorted(failed.items())
                if number not in self.done and number not in active
            },
            failures=dict(self.kinds.most_common()),
            rate=max(0.0, seen - session.photos) / elapsed if session.changed and elapsed > 0 else 0.0,
            silent=max(0.0, time.time() - self.newest) if self.newest else 0.0,
        )

    def entries(self) -> Iterator[tuple[Path, float]]:
        """Receipts and notes of all shards that were not done before, and when each was written."""
        with suppress(FileNotFoundError):
            for group in os.scandir(self.folder / "parts"):
                if group.name in self.full or not group.name.isdigit():
                    continue
                with suppress(FileNotFoundError):
                    for entry in os.scandir(group.path):
                        if not entry.name.startswith(".") and entry.name[:8].isdigit():
                            with suppress(FileNotFoundError):  # it was done meanwhile
                                yield Path(entry.path), entry.stat().st_mtime
                begun = int(group.name) * GROUP
                if all(number in self.done for number in range(begun, min(begun + GROUP, self.shards))):
                    self.full.add(group.name)

    def count(self, number: int, path: Path) -> None:
        if number in self.done:
            return
        receipt = record(path)
        if receipt:
            self.done[number] = int(receipt["done"]), int(receipt["failed"])
            if number in self.uncounted:
                self.uncounted.remove(number)
                self.photos += sum(self.done[number])
            self.kinds.update(receipt["failures"])


def running_shard(about: Mapping[str, Any]) -> Running | None:
    """Of what a note says; None for one that is damaged."""
    try:
        seen = int(about["done"]) + int(about["failed"])
        return Running(
            int(about["shard"]), int(about["photos"]), seen, str(about["host"]), int(about["process"])
        )
    except (KeyError, TypeError, ValueError):
        return None


def record(path: Path) -> dict[str, Any]:
    """What a small file of ours says; {} where it is gone meanwhile, or damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


@dataclass(frozen=True)
class Session:
    """One command that does shards, from its start to its end."""

    launcher: str = ""
    photos: int = 0  # that had been seen before it began
    changed: float = 0.0  # when it began
    host: str = ""
    process: int = 0


def begin_session(folder: Path, launcher: str, photos: int) -> None:
    """From now on the rate is counted.  Raises OSError."""
    about = {"launcher": launcher, "photos": photos, "host": socket.gethostname(), "process": os.getpid()}
    write_json(folder, SESSION, about)


def read_session(folder: Path) -> Session:
    """The last one; an empty one where there was none."""
    try:
        changed = (folder / SESSION).stat().st_mtime
        return Session(**read_json(folder / SESSION), changed=changed)
    except (OSError, ValueError, TypeError):
        return Session()
