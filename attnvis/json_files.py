"""Records in json files with a seal: whole or not at all, and no changed bit of one is passed over."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnvis.files import read_bytes, save

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


def write_json(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """A json file of ours with its seal: whole or not at all.  Raises OSError."""
    save(folder, name, json.dumps(sealed(values), indent=1).encode())


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
