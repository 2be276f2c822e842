"""Records in json files with a seal: whole or not at all, and no changed bit of one is passed over."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attnvis.files import own_path, read_bytes, whole_file

__all__ = ["json_digest", "read_json", "sealed", "unsealed", "write_json"]

MOST = 1 << 28  # bytes of a json file of ours


def read_json(path: Path, most: int = MOST) -> dict[str, Any]:
    """What a json file of ours holds, of at most so many bytes.

    Raises FileNotFoundError, and ValueError for what is no file, too large, damaged, or holds something else.
    """
    try:
        values = json.loads(read_bytes(path, most=most))
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds no record of attnvis'")
        return unsealed(values)
    except RecursionError:
        raise ValueError(f"{path} is nested deeper than anything of attnvis'") from None


def write_json(
    folder: Path, name: str, values: Mapping[str, Any], default: Callable[[Any], Any] | None = None
) -> None:
    """A json file of ours with its seal: whole or not at all; of a long list one entry at a time is made.

    default: a value that json cannot write -> one that it can.  Raises OSError.
    """
    rest = {key: value for key, value in values.items() if key != "seal"}
    hasher = hashlib.sha256()
    for piece in pieces(rest, json.JSONEncoder(default=default), indented=False):
        hasher.update(piece.encode())
    encoder = json.JSONEncoder(indent=1, default=default)
    with whole_file(own_path(folder, name)) as part, part.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(pieces(rest | {"seal": hasher.hexdigest()}, encoder, indented=True))


def pieces(values: Mapping[str, Any], encoder: json.JSONEncoder, indented: bool) -> Iterator[str]:
    """What the encoder makes of values, bit by bit."""

    def line(depth: int) -> str:
        return "\n" + " " * depth if indented else ""

    def encoded(value: Any, depth: int) -> str:
        return encoder.encode(value).replace("\n", line(depth))  # no text has a line end of its own

    between = encoder.item_separator
    yield "{"
    for number, (key, value) in enumerate(values.items()):
        yield f"{between if number else ''}{line(1)}{encoder.encode(str(key))}{encoder.key_separator}"
        if isinstance(value, list | tuple) and value:
            yield "["
            for index, entry in enumerate(value):
                yield f"{between if index else ''}{line(2)}{encoded(entry, 2)}"
            yield f"{line(1)}]"
        else:
            yield encoded(value, 1)
    yield f"{line(0) if values else ''}}}"


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """With a digest of them all, which `unsealed` holds against them."""
    rest = json.loads(json.dumps({name: value for name, value in values.items() if name != "seal"}))
    return {**rest, "seal": json_digest(rest)}


def unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the seal, which files of earlier versions lack.  Raises ValueError where it is another's."""
    rest = {name: value for name, value in values.items() if name != "seal"}
    if "seal" in values and values["seal"] != json_digest(rest):
        raise ValueError("its content is not what was written")
    return rest


def json_digest(values: Any) -> str:
    """sha256, in hex, of what json writes of values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
