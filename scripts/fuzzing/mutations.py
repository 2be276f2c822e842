"""Ways to damage a folder's files, and to forge them: what `scripts/fuzz.py` does to a true one.

Every function takes a `random.Random`, and what it gives depends on nothing else.
"""

import copy
import csv
import hashlib
import io
import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["damage", "damage_bytes", "damage_json", "damage_table", "reseal_json"]

EXTREMES = [
    b"\0",
    b"\xff",
    b"\x80",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\1\0",
]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**5, 10**9, 2**63, 10**40, -(10**400), 0.5, -0.0, 1e-300, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "abc", "0", "-1", "nan", "done", "failed", "\0", "\n",
    "../../outside/victim", "/etc/passwd", "..", ".", "a" * 5000,
    "\x1b]0;owned\x07\x1b[31m", "кот \u202e\ud83d",
    "${oc.env:HOME}", "=cmd|' /C calc'!A0", "<script>alert(1)</script>", [], [[]], {}, [0], [None, None],
    ["a", "b"], {"a": 1}, {"_target_": "os.system", "command": "touch outside/owned"}, [10**5, 10**5],
    [3, 1], [-3, -4], [0, 0], [1e308, 1e308], [float("nan"), 0.0], "attnvis run trust=[os]",
    "attnvis run --config-dir=/tmp x.png", "attnvis run ++hydra.callbacks.x={_target_:os.system}",
    "attnvis sweep 'unclosed", "attnvis run hydra.run.dir=outside",
]  # fmt: skip


def damage_bytes(data: bytes, dice: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """With one to eight changes, most near the start, where headers are; now and then another's end."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(max(1, min(len(changed), dice.choice([32, 128, 1024, 1 << 20]))))
        match dice.randrange(7):
            case 0:
                changed[at : at + 1] = dice.randbytes(1)
            case 1:
                extreme = dice.choice(EXTREMES)
                changed[at : at + len(extreme)] = extreme
            case 2:
                del changed[at : at + dice.randint(1, 64)]
            case 3:
                changed[at:at] = changed[at : at + dice.randint(1, 64)]
            case 4:
                changed[at : at + 8] = dice.randbytes(dice.randrange(16))
            case 5 if at < len(changed):
                changed[at] ^= 1 << dice.randrange(8)
            case 6 if others and dice.random() < 0.2:
                other = dice.choice(others)
                changed[at:] = other[dice.randrange(max(1, len(other))) :]
    return bytes(changed)


def damage_json(value: Any, dice: random.Random) -> Any:
    """With one to three of its values, keys or items replaced, taken away, or added."""
    changed = json.loads(json.dumps(value))
    for _ in range(dice.randint(1, 3)):
        places = list(containers(changed))
        if not places:
            return copy.deepcopy(dice.choice(VALUES))
        place = dice.choice(places)
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        new = copy.deepcopy(dice.choice(VALUES))
        if not keys:
            continue
        key = dice.choice(keys)
        match dice.randrange(6):
            case 0:
                del place[key]
            case 1 if isinstance(place, dict):
                place[dice.choice(["_target_", "x", "", "trust", "digest", str(key) + " "])] = new
            case 1:
                place.insert(key, new)
            case 2:
                other = dice.choice(keys)
                place[key], place[other] = place[other], place[key]
            case 3 if type(place[key]) in (int, float):
                place[key] = dice.choice([-place[key], place[key] + 1, place[key] * 10**5, str(place[key])])
            case _:
                place[key] = new
    return changed


def containers(value: Any) -> list[Any]:
    """Every dictionary and list in a value, itself too."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    here = [value] if isinstance(value, dict | list) else []
    return here + [place for item in inner for place in containers(item)]


def damage_json_text(text: str, dice: random.Random) -> str:
    """What no JSON of a value is: keys twice, depth, other encodings' signs, numbers without end."""
    match dice.randrange(6):
        case 0:
            return "[" * 100_000 + text
        case 1:
            return text.replace(":", ': {"a":' * 3000, 1)
        case 2:
            middle = text.find("{") + 1
            return text[:middle] + text[middle : text.find(",") + 1] + text[middle:]
        case 3:
            digits = [at for at, sign in enumerate(text) if sign.isdigit()]
            at = dice.choice(digits or [0])
            return text[:at] + "9" * dice.choice([30, 400, 5000]) + text[at:]
        case 4:
            return "\ufeff" + text
        case _:
            return text + dice.choice(["{}", "]", "\0", "#", " " * 1000, text])


def reseal_json(values: Any) -> Any:
    """With a seal that fits, where it had one."""
    if not isinstance(values, dict) or "seal" not in values:
        return values
    rest = {name: value for name, value in values.items() if name != "seal"}
    return {**rest, "seal": hashlib.sha256(json.dumps(rest).encode()).hexdigest()}


def damage_table(text: str, dice: random.Random, reseal: Callable[[dict[str, str]], str] | None) -> str:
    """A csv with cells changed, rows exchanged, twice or gone, columns more or less.

    reseal  the seal of a row, for forged ones
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = list(rows[0])
    for _ in range(dice.randint(1, 3)):
        if not rows:
            break
        row = dice.choice(rows)
        match dice.randrange(6):
            case 0:
                rows.remove(row)
            case 1:
                rows.append(dict(row))
            case 2:
                other, column = dice.choice(rows), dice.choice(columns)
                row[column], other[column] = other[column], row[column]
            case 3 if len(columns) > 5:
                columns.remove(dice.choice(columns))
            case _:
                column = dice.choice(columns)
                cell = row.get(column) or ""
                digit = cell.replace(cell[-1:], dice.choice("0123456789"), 1) if cell[-1:].isdigit() else cell
                row[column] = dice.choice([digit, digit, str(dice.choice(VALUES)), ""])
    if reseal:
        for row in rows:
            row["seal"] = reseal(row)
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, columns, extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    return file.getvalue()


def damage(folder: Path, names: list[str], outside: Path, dice: random.Random) -> str:
    """Something else in the place of a file of the folder, or beside it; says what.

    outside  a file that nothing may touch
    """
    path = folder / dice.choice(names)
    what = dice.choice(["gone", "empty", "folder", "pipe", "link", "loop", "socket", "huge", "swap", "half",
                        "folder link", "extra", "closed", "dangling"])  # fmt: skip
    if what == "extra":
        name = dice.choice(
            ["x", ".lock", "records.part", ".1-0123456789abcdef.part", "a\nb", "maps/x", "\x1b[31m"]
        )
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            dice.choice([lambda: target.write_bytes(b"x"), lambda: os.mkfifo(target), target.mkdir])()
        return f"extra {name!r}"
    others = [folder / name for name in names if (folder / name) != path and Path(name).suffix == path.suffix]
    content = path.read_bytes()
    if what == "folder link" and path.parent != folder:
        moved = outside.parent / "moved"
        shutil.copytree(path.parent, moved, dirs_exist_ok=True)
        shutil.rmtree(path.parent)
        path.parent.symlink_to(moved)
        return f"folder link {path.parent.name}"
    if what == "swap" and others:
        other = dice.choice(others)
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return f"swap {path.name} {other.name}"
    path.unlink()
    match what:
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(outside)
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to(outside.parent / "new")
        case "socket":
            name = os.path.relpath(path)
            with socket.socket(socket.AF_UNIX) as server:
                if len(name) < 100:  # the most that a socket's name may have
                    server.bind(name)
        case "huge":
            with path.open("wb") as file:
                file.truncate(dice.choice([1 << 33, 1 << 40]))
        case "half":
            path.write_bytes(content[: dice.randrange(len(content) + 1)])
        case "closed":
            path.write_bytes(content)
            path.chmod(0)
    return f"{what} {path.relative_to(folder)}"
