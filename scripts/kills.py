"""Kills commands at random moments and goes on with them: python scripts/kills.py --kills 200 --seed 0

SIGKILL, at a moment drawn anew each time, to `run`, `redraw`, `video`, and `sweep` in one process and with
workers of joblib.  In half of the trials photos (maps, clips) are then renamed, deleted, added or exchanged.
What is left after `--resume` must be, byte for byte, what an undisturbed command leaves of the files as they
are then; or the refusal must say why.  Of a photo that is gone what was done is kept, and what was not is a
failure with its line.

What may differ is listed in `DIFFERS`, `COUNTED`, `MOMENT` and `HYDRAS`.  Each trial is a number:
`--only 17` does that one again, `--kind run` only runs.  The exit code is 0 where nothing was lost, changed
or said wrongly.
"""

import argparse
import csv
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

import cv2
import numpy as np

cv2.setNumThreads(0)

SMALL = ["preprocess.size=96", "batch_size=1", "backbone.engine=eager", "backbone.precision=fp32"]
RUN = ["run", "album", *SMALL, "workers=1", "query=several", "query.of=[mean,pca,class]"]
SWEEP = [
    "sweep",
    "album",
    *SMALL,
    "seed=0,1",
    "query=mean",
    "scaling=none,inv_d",
    "sheets=3",
    "cache.use=false",
]
COMMANDS = {
    "run": [*RUN, "hydra.run.dir=out"],
    "sweep": [*SWEEP, "hydra.sweep.dir=out"],
    "redraw": ["redraw", "source", "render.colours=magma", "render.format=png", "hydra.run.dir=out"],
    "video": ["video", "clip.avi", *SMALL, "query=pca", "codec=mp4v", "hydra.run.dir=out"],
    "sweep joblib": [*SWEEP, "launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=out"],
}
TURNS = [*("run", "redraw", "sweep", "video", "run", "redraw", "sweep", "video", "run", "sweep joblib")]
RECORDS = {"sweep": "plan.json"}  # by which a folder can be gone on with; of other verbs run.json
# of a job.json and a run.json: how long it took, how many photos this process computed, when it began, and
# the digest of these
DIFFERS = ("seconds", "passes", "seal", "date")
COUNTED = re.compile(rb"<b>[^<]*</b> (seconds|passes[^<]*)")  # the same on a sweep's page
MOMENT = re.compile(rb"\d{1,2} [A-Z][a-z]+ 20\d\d, \d\d:\d\d")  # when a run began, on its page
HYDRAS = (".hydra", "multirun.yaml")  # when it was typed, and that it was resumed
LOADED = (  # before the first command
    *("attnvis.experiments.sweep.page", "attnvis.experiments.sweep.job", "attnvis.pipeline.redrawing"),
    *("attnvis.pipeline.video_run", "attnvis.pipeline.tracking", "attnvis.cli.entry", "hydra.main"),
    *("matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg", "hydra._internal.hydra"),
)
PHOTOS = 8  # 02, 05 and 07 are those that change


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


# ------------------------------------------------------------------------------------------ the world


def make_world(folder: Path) -> None:
    """An album, a clip, and a run that can be drawn again."""
    (folder / "album").mkdir(parents=True)
    for number in range(PHOTOS):
        cv2.imwrite(str(folder / f"album/{number:02}.png"), noise(number, (90, 120)))
    for name, seed in (("clip.avi", 0), ("other.avi", 100)):
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
        for frame in range(16):
            writer.write(noise(seed + frame, (48, 64)))
        writer.release()
    ended = finished(folder, [*RUN, "hydra.run.dir=source"])
    assert ended.code == 0, ended.err


def noise(seed: int, size: tuple[int, int]) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(pixels, (9, 9), 3)


def change(place: Path, kind: str, what: str) -> None:
    """One of CHANGES to the files that a command reads."""
    album, maps = place / "album", place / "source/maps"
    match what:
        case "rename" if kind == "video":
            (place / "clip.avi").rename(place / "renamed.avi")
        case "delete" if kind == "video":
            (place / "clip.avi").unlink()
        case "swap" if kind == "video":
            exchange(place / "clip.avi", place / "other.avi")
        case "rename":
            (album / "05.png").rename(album / "zz.png")
        case "delete":
            (album / "05.png").unlink()
        case "add":
            cv2.imwrite(str(album / "zz.png"), noise(77, (90, 120)))
        case "swap":
            exchange(album / "02.png", album / "07.png")
        case "delete map":
            (maps / "05.safetensors").unlink()
        case "swap maps":
            exchange(maps / "02.safetensors", maps / "07.safetensors")


def exchange(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def changes(kind: str) -> list[str]:
    of_all = ["rename", "delete", "swap"]
    more = {"video": [], "redraw": ["delete map", "swap maps", "add"]}
    return [*of_all, *more.get(kind, ["add"])]


# ------------------------------------------------------------------------------------------ commands


def begun(place: Path, words: list[str]) -> int:
    """`attnvis WORDS` in a process of its own, forked from this one, which has loaded all it needs."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(place)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["attnvis", *words]
    code = 1
    try:
        from attnvis.cli import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        print(f"Traceback: {error!r}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def finished(place: Path, words: list[str]) -> Ended:
    _, status = os.waitpid(begun(place, words), 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, (place / "stdout").read_text(), (place / "stderr").read_text())


def killed(place: Path, words: list[str], seconds: float) -> bool:
    """Whether it was still at it after so many seconds."""
    process = begun(place, words)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if "launcher=joblib" in words:
        time.sleep(1.5)  # workers look twice a second whether their parent lives
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


# ------------------------------------------------------------------------------------------ comparing


def left_behind(folder: Path) -> dict[str, Any]:
    """Every file of a folder, but for what may differ."""
    left: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or any(part in HYDRAS for part in path.relative_to(folder).parts):
            continue
        left[name] = MOMENT.sub(b"", COUNTED.sub(rb"\1", path.read_bytes()))
        if path.name in ("job.json", "run.json"):
            values = json.loads(path.read_bytes())
            left[name] = {key: value for key, value in values.items() if key not in DIFFERS}
    return left


def without_photo(left: dict[str, Any], photo: str) -> dict[str, Any]:
    """The same but for one photo, which is gone: its rows, pictures and maps, and what shows it."""
    rest = {
        name: content
        for name, content in left.items()
        if Path(name).stem.partition(".")[0] != photo and name not in ("index.html", "plan.json")
    }
    rows = csv.DictReader(io.StringIO(str(left.get("records.csv", b""), "utf-8")))
    rest["records.csv"] = [row for row in rows if Path(row["path"]).stem != photo]
    return rest


def different(expected: dict[str, Any], left: dict[str, Any]) -> str:
    """Which files are not the same; "" where all are."""
    names = [name for name in {**expected, **left} if expected.get(name) != left.get(name)]
    return f"differ: {', '.join(names[:5])}" if names else ""


# ------------------------------------------------------------------------------------------ one trial


class Trials:
    """Worlds below a temporary folder, and what undisturbed commands leave in them."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.seed = place, seed
        make_world(place / "world")
        self.undisturbed: dict[tuple[str, str], tuple[Ended, dict[str, Any]]] = {}
        self.lengths: dict[str, float] = {}

    def world(self, name: str) -> Path:
        return shutil.copytree(self.place / "world", self.place / name)

    def expected(self, kind: str, what: str = "") -> tuple[Ended, dict[str, Any]]:
        """What an undisturbed command says and leaves after a change."""
        if (kind, what) not in self.undisturbed:
            place = self.world(f"{kind}-{what or 'as-it-was'}".replace(" ", "-"))
            change(place, kind, what)
            begin = time.monotonic()
            ended = finished(place, COMMANDS[kind])
            self.lengths.setdefault(kind, time.monotonic() - begin)
            self.undisturbed[kind, what] = ended, left_behind(place / "out")
            shutil.rmtree(place)
        return self.undisturbed[kind, what]

    def trial(self, number: int, kind: str) -> tuple[int, str, str]:
        """How many kills met it, what came of it (identical, named, refused, wrong), and what is wrong."""
        dice = random.Random(f"{self.seed} {number}")
        self.expected(kind)
        verb = kind.partition(" ")[0]
        place = self.world(f"trial-{number}")
        record = place / "out" / RECORDS.get(verb, "run.json")
        kills = 0
        for _ in range(dice.randint(1, 6)):
            words = self.again(kind, record)
            kills += killed(place, words, dice.uniform(0.05, 0.7) * self.lengths[kind])
        what = dice.choice(["", *changes(kind)]) if dice.random() < 0.6 else ""
        goes_on = record.exists()
        change(place, kind, what)
        ended = finished(place, self.again(kind, record))
        verdict, complaint = self.judge(kind, what, goes_on, ended, left_behind(place / "out"))
        shutil.rmtree(place)
        return kills, verdict, complaint and f"{what or 'no change'}: {complaint} [{ended.err.strip()[:300]}]"

    def again(self, kind: str, record: Path) -> list[str]:
        """As a person goes on: with --resume where the folder is known, else the command again."""
        return [kind.partition(" ")[0], "--resume", "out"] if record.exists() else COMMANDS[kind]

    def judge(
        self, kind: str, what: str, goes_on: bool, ended: Ended, left: dict[str, Any]
    ) -> tuple[str, str]:
        """(verdict, what is wrong)"""
        if "Traceback" in ended.err or any(
            not line.startswith("attnvis: ") for line in ended.err.splitlines()
        ):
            return "wrong", "more than lines of attnvis'"
        as_now, fresh = self.expected(kind, what)
        parts = [name for name in left if ".part" in name or name.endswith(".lock")]
        if parts:
            return "wrong", f"left {parts[:3]}"
        if kind == "video" and what in ("rename", "delete"):
            refused = ended.code == 1 and "clip.avi" in ended.err and ended.err.count("\n") == 1
            return ("refused", "") if refused else ("wrong", f"exit code {ended.code}")
        keeps = goes_on and kind in ("run", "redraw") and what in ("rename", "delete", "add", "delete map")
        if not keeps or (kind == "redraw" and what == "add"):
            complaint = different(fresh, left)
            if ended.code != as_now.code and not complaint:
                complaint = f"exit code {ended.code} in the place of {as_now.code}"
            return ("wrong", complaint) if complaint else ("identical", "")
        _, whole = self.expected(kind)
        if what == "add":
            complaint = different(whole, left) or ("" if "came since" in ended.err else "nothing said")
            return ("wrong", complaint) if complaint else ("named", "")
        complaint = different(without_photo(whole, "05"), without_photo(left, "05"))
        failed = b"failed" in bytes(left["records.csv"])
        if not complaint and not (("gone" in ended.err) and ended.code == failed):
            complaint = f"exit code {ended.code}, and not said that it is gone"
        return ("wrong", complaint) if complaint else ("named", "")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="kills that met a command at work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one trial")
    parser.add_argument("--kind", choices=COMMANDS, help="only these")
    arguments = parser.parse_args()
    preload()
    figures: dict[str, Counter[str]] = {kind: Counter() for kind in COMMANDS}
    print(f"seed {arguments.seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as temporary, suppress(KeyboardInterrupt):  # the table so far
        trials = Trials(Path(temporary), arguments.seed)
        number = arguments.only or 0
        while sum(counts["kills"] for counts in figures.values()) < arguments.kills:
            kind = arguments.kind or TURNS[number % len(TURNS)]
            kills, verdict, complaint = trials.trial(number, kind)
            figures[kind].update({"kills": kills, "resumed": 1, verdict: 1})
            if complaint:
                print(f"{number} ({kind}): {complaint}", file=sys.stderr, flush=True)
            number += 1
            if arguments.only is not None:
                break
    columns = ("kills", "resumed", "identical", "named", "refused", "wrong")
    print(f"{'':14}" + "".join(f"{column:>11}" for column in columns))
    for kind, counts in [*figures.items(), ("all", sum(figures.values(), Counter()))]:
        print(f"{kind:14}" + "".join(f"{counts[column]:11}" for column in columns))
    return 1 if any(counts["wrong"] for counts in figures.values()) else 0


def preload() -> None:
    """What every command needs is loaded once: kills then meet work, and not imports."""
    import importlib

    import torch

    from attnvis import backbone

    for name in LOADED:
        importlib.import_module(name)

    torch.set_num_threads(1)
    load = backbone.efficientnet_lite
    once = functools.wraps(load)(functools.cache(load))
    setattr(backbone, "efficientnet_lite", once)  # noqa: B010 - what a config names
    once()


if __name__ == "__main__":
    sys.exit(main())
