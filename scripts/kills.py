"""Kills runs at random moments and resumes them: python scripts/kills.py --kills 200

What is left in the end must be what an undisturbed run leaves: the same rows, the same pictures and maps,
byte for byte.  The verbs take turns: `run`, and `sweep` of two jobs.  Each kill is a number:
`--only 17` does that one again.  The exit code is 0 where nothing was lost, changed or said wrongly.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
WORDS = ["preprocess.size=96", "batch_size=1", "backbone.engine=eager", "backbone.precision=fp32"]
COMMANDS = {
    "run": ["run", "album", *WORDS, "workers=1", "query=several", "query.of=[mean,pca,class]"],
    "sweep": [
        "sweep",
        "album",
        *WORDS,
        "seed=0,1",
        "query=mean,class",
        "scaling=none,inv_d",
        "cache.use=false",
    ],
}
FOLDER = {"run": "hydra.run.dir", "sweep": "hydra.sweep.dir"}


def make_album(folder: Path, photos: int) -> None:
    folder.mkdir()
    for number in range(photos):
        noise = np.random.default_rng(number).integers(0, 255, (90, 120, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.GaussianBlur(noise, (9, 9), 3))


def attnvis(place: Path, words: list[str]) -> subprocess.Popen:
    code = "from attnvis.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=place,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_behind(folder: Path) -> dict[str, object]:
    """Everything of which the second time may not differ from the first."""
    pictures = ("maps", "overlays", "panels", "sheets", "tiles")
    left: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*.*")
        if path.parent.name in pictures
    }
    for path in folder.rglob("records.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            left[str(path.relative_to(folder))] = sorted(map(repr, csv.DictReader(file)))
    for path in folder.rglob("rows.parquet"):
        left[str(path.relative_to(folder))] = list(map(repr, pq.read_table(path).to_pylist()))
    left["parts"] = sorted(str(path.relative_to(folder)) for path in folder.rglob(".*part*"))
    return left


def killed(place: Path, verb: str, folder: str, seconds: float, resume: bool, number: int) -> bool:
    """Begins, or goes on, and is killed after so many seconds; whether it was still at it."""
    begin = [*COMMANDS[verb], f"{FOLDER[verb]}={folder}"]
    process = attnvis(place, [verb, "--resume", folder] if resume else begin)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        process.communicate(timeout=60)
        return True
    return False


def trial(place: Path, verb: str, number: int, length: float, expected: dict[str, object]) -> str:
    """What is wrong after a kill and a resume; "" where nothing is."""
    dice = random.Random(number)
    folder = f"{verb}-{number}"
    record = place / folder / ("run.json" if verb == "run" else "plan.json")
    for _ in range(dice.randint(1, 3)):
        killed(place, verb, folder, dice.uniform(0.3, 1.05) * length, record.exists(), number=number)
    again = [verb, "--resume", folder] if record.exists() else [*COMMANDS[verb], f"{FOLDER[verb]}={folder}"]
    process = attnvis(place, again)
    out, err = process.communicate(timeout=600)
    if process.returncode or err:
        return f"exit code {process.returncode}: {err or out}"
    left = left_behind(place / folder)
    different = [name for name in {**expected, **left} if expected.get(name) != left.get(name)]
    return f"differ: {', '.join(different[:5])}" if different else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="runs that are killed, up to three times each")
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--only", type=int, help="the number of one trial")
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        make_album(place / "album", arguments.photos)
        lengths, expected = {}, {}
        for verb, words in COMMANDS.items():
            begun = time.monotonic()
            process = attnvis(place, [*words, f"{FOLDER[verb]}={verb}"])
            _, err = process.communicate()
            if process.returncode:
                print(err, file=sys.stderr)
                return 1
            lengths[verb] = time.monotonic() - begun
            expected[verb] = left_behind(place / verb)
        numbers = range(arguments.kills) if arguments.only is None else [arguments.only]
        for number in numbers:
            verb = list(COMMANDS)[number % len(COMMANDS)]
            complaint = trial(place, verb, number, lengths[verb], expected[verb])
            if complaint:
                wrong += 1
                print(f"{number} ({verb}): {complaint}", file=sys.stderr)
    print(f"{len(numbers)} runs killed and resumed, {wrong} of them not as uninterrupted")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
