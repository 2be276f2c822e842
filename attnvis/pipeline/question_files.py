"""The files that a question is read from in, their digests out: by these a folder knows its question again.

Photos are in a folder's plan, weights are in its provenance; here are exemplars, masks, vectors, names of
classes, and whatever else a stage reads.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attnvis.attention.query.given import as_corners, part_of_photo
from attnvis.attention.query.kinds import KINDS, QueryFunction, exemplar, mask, vector
from attnvis.attention.query.language import leaves
from attnvis.data.sources import digest_of
from attnvis.files import file_digest
from attnvis.json_files import json_digest, read_json
from attnvis.pipeline.preparing import photos_named
from attnvis.types import Source

__all__ = ["query_files", "require_same_files", "require_same_inputs", "setting_files"]


def query_files(query: QueryFunction, photos: Iterable[Source] | None = ()) -> dict[str, str]:
    """file -> sha256 of what it holds, of every exemplar, mask and vector of a query.

    photos: the run's own, which are one entry, exemplar:run, where that is asked.

    Raises ValueError for an exemplar that is no photo.
    """
    digests: dict[str, str] = {}
    for leaf in leaves(query):
        settings = leaf.keywords if isinstance(leaf, partial) else {}
        kind = leaf.func if isinstance(leaf, partial) else None
        if kind is exemplar:
            name, _ = part_of_photo(settings["photo"])
            if name == "run":
                own = [[str(source), digest_of(source)] for source in photos or ()]
                digests["exemplar:run"] = json_digest(own)
            else:
                digests |= {str(source): digest_of(source) for source in photos_named(name)}
        elif kind is mask and not as_corners(settings["shape"]):
            digests[settings["shape"]] = file_digest(Path(settings["shape"]))
        elif kind is vector:
            digests[settings["file"]] = file_digest(Path(settings["file"]))
        elif kind not in KINDS.values():  # one of the user's own
            digests |= setting_files(settings)
    return digests


def setting_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """The same of the files that settings of another stage name."""
    texts = [value for value in settings.values() if isinstance(value, str) and value]
    return {text: file_digest(Path(text)) for text in texts if is_file(text)}


def is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def require_same_files(folder: Path, before: Mapping[str, str] | None, now: Mapping[str, str]) -> None:
    """Raises ValueError that names the first file whose content is another than when the folder was begun.

    before: None in a folder of an earlier version, which does not say.
    """
    if before is None:
        return
    for name in dict.fromkeys([*now, *before]):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{folder} was begun with other content of {name}: its rows would answer two questions; "
                "run again in another folder"
            )


def require_same_inputs(folder: Path, now: Mapping[str, str]) -> None:
    """The same, held against what run.json says.  Raises ValueError as `require_same_files` does."""
    require_same_files(folder, read_json(folder / "run.json").get("inputs"), now)
