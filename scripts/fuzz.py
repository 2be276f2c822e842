"""Damages what attnvis reads, and reads it: python scripts/fuzz.py --kind maps --kind run --inputs 1000

Photos, lists and files of weights of a person's; folders of attnvis' own: runs (gone on with, and drawn
again), sweeps, plans, maps, a cache, calibrations.  Each input is a number: `--kind run --only 1234` does
that one again and says what was done and what came of it.  A process of its own reads, so that a crash is
counted too, and its memory is bounded.

same      the answer of the undamaged one
said      one line, or a photo's own, says what is wrong
forged    another answer, without a word, to what was changed with its digest: whoever can write a folder can
          write it as another one
wrong     another answer without a word, or something outside of the folder was touched
crashes   any other exception, or the process died; hangs: longer than --patience seconds

The exit code is 0 where nothing crashed, hung or was wrong.
"""

import argparse
import sys
from typing import Any

from fuzzing.judge import KINDS, fuzz

MINUTES = 10.0  # that a single kind may take, where nothing else is said


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A line a kind, and their sum."""
    heads = ("inputs", "same", "said", "forged", "crashes", "hangs", "wrong")
    lines = [f"{'kind':12}" + "".join(f"{head:>9}" for head in heads)]
    sums = [0] * len(heads)
    for name, found in rows.items():
        counts = [len(found[verdict]) for verdict in ("same", "said", "forged", "crash", "hang", "wrong")]
        counts = [sum(counts), *counts]
        sums = [total + count for total, count in zip(sums, counts, strict=True)]
        lines.append(f"{name:12}" + "".join(f"{count:9,}" for count in counts))
    lines.append(f"{'all':12}" + "".join(f"{count:9,}" for count in sums))
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append", choices=KINDS, help="may be given several times; else all")
    parser.add_argument("--inputs", type=int, default=500, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that a kind may take")
    parser.add_argument("--only", type=int, help="do this input and say what came of it")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds that one input may take")
    asked = parser.parse_args(words)
    rows, broken = {}, 0
    for name in asked.kind or KINDS:
        numbers = [asked.only] if asked.only is not None else range(asked.first, asked.first + asked.inputs)
        found = rows[name] = fuzz(name, asked.seed, list(numbers), asked.patience, asked.minutes)
        for verdict in ("crash", "hang", "wrong"):
            for number in found[verdict]:
                broken += 1
                print(f"--kind {name} --seed {asked.seed} --only {number}: {found['texts'][number][:3000]}")
        if asked.only is not None:
            print(*found["texts"].values())
    print(table(rows))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
