"""What a kind of thing is that can be damaged, and what is done to json files of attnvis."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzing.mutations import damage, damage_bytes, damage_json, damage_json_text, reseal_json


class Said(Exception):
    """What is wrong, in a line, as a command would say it."""


@dataclass
class Damage:
    """What was done to an input."""

    what: str = ""
    forged: bool = False  # its digests were made to fit


@dataclass(frozen=True)
class Kind:
    """A true thing, ways to damage it, and how it is read.

    make    writes it into the working directory, once a process; what it gives goes to the others
    spoil   damages a copy of it in the working directory
    read    the answer that a user gets.  Raises Said, ValueError or OSError with what is told instead
    folder  what is copied anew for each input; another place is outside, and must stay as it is
    exact   whether every change has to be noticed: of a person's own files who can tell?
    """

    make: Callable[[], Any]
    spoil: Callable[[Any, random.Random], Damage]
    read: Callable[[Any], Any]
    folder: str = "out"
    others: tuple[str, ...] = ()  # folders that reading may write
    exact: bool = True


def spoil_json(path: Path, dice: random.Random, kind: float, others: Any, names: list[str]) -> Damage:
    """A json file of ours, by its bytes, its values or what stands in its place."""
    if kind < 0.35:
        path.write_bytes(damage_bytes(path.read_bytes(), dice, others))
        return Damage("bytes")
    if kind < 0.45:
        return Damage(damage(Path("out"), names, Path("outside/victim").absolute(), dice))
    values = damage_json(json.loads(path.read_bytes()), dice)
    forged = dice.random() < 0.6
    if forged:
        values = reseal_json(values)
    text = json.dumps(values)
    if dice.random() < 0.1:
        text = damage_json_text(text, dice)
    path.write_text(text, errors="replace")
    unsealed = not isinstance(values, dict) or "seal" not in values
    return Damage(f"forged {path.name}" if forged else f"values {path.name}", forged or unsealed)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
