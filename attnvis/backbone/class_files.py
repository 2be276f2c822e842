"""What names a network's classes in, the names out: a list, a word, a file or a folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnvis.errors import first_line
from attnvis.files import read_bytes

__all__ = ["CLASS_NAMES", "class_names"]

CLASS_NAMES = {"imagenet": Path(__file__).with_name("imagenet_classes.txt")}


def class_names(categories: Sequence[str] | str) -> tuple[str, ...]:
    """A list of names, or those that a word, a file or a folder stands for.

    "": none; imagenet; a text file, a name on each line; a json file of a list, of {index: name}, of
    {name: index} or of {index: [id, name]}; a folder of a folder for each class, in the order of `sorted`, as
    torchvision's ImageFolder counts them.  Raises ValueError for anything else.
    """
    if not isinstance(categories, str) or not categories:
        return tuple(str(name) for name in categories)
    path = Path(categories)
    if categories in CLASS_NAMES:
        names = CLASS_NAMES[categories].read_text(encoding="utf-8").splitlines()
    elif path.is_dir():
        names = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    elif path.is_file():
        names = names_in_file(path)
    else:
        raise ValueError(
            f"categories: {categories!r} is no list of names; give one, or {', '.join(CLASS_NAMES)}, "
            "or a text file, a json file, or a folder of a folder for each class"
        )
    if not names:
        raise ValueError(f"categories: {categories} names no class")
    return tuple(names)


def names_in_file(path: Path) -> list[str]:
    """Raises ValueError for a file that is neither text nor json of class names."""
    try:
        text = read_bytes(path, most=1 << 26).decode("utf-8-sig")
        if text.lstrip()[:1] not in ("{", "["):
            return [line.strip() for line in text.splitlines() if line.strip()]
        return names_in_json(json.loads(text))
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"categories: {path} holds no class names ({first_line(error)}); give a text file with a name on "
            "each line, or json: a list, {index: name} or {name: index}"
        ) from None


def names_in_json(table: Any) -> list[str]:
    """A list, or a dictionary one side of which counts the classes from 0.  Raises ValueError for others."""
    if isinstance(table, dict) and isinstance(table.get("id2label"), dict):  # Hugging Face's config.json
        table = table["id2label"]
    if isinstance(table, dict):
        counted = all(isinstance(value, int) for value in table.values())
        rows = ((value, key) if counted else (int(key), value) for key, value in table.items())
        pairs = sorted(rows, key=lambda row: row[0])
        if [index for index, _ in pairs] != list(range(len(pairs))):
            raise ValueError("its indices are not 0, 1, 2, ...")
        table = [name for _, name in pairs]
    names = [name[-1] if isinstance(name, list) else name for name in table]  # imagenet: [wnid, name]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name is no text")
    return names
