"""What a job's job.json holds, as a value: what was asked, of which network, what came of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

from attnvis.json_files import sealed, unsealed

__all__ = ["Failure", "JobRecord", "Tile"]


@dataclass(frozen=True)
class Failure:
    """A photo that could not be measured."""

    path: str
    reason: str


@dataclass(frozen=True)
class Tile:
    """A picture of one of the job's first photos: one query under one setting."""

    file: str  # below the job's folder
    photo: str
    query: str
    label: str
    said: str  # over how many patches the attention is spread
    setting: str
    place: int = 0  # of the photo, among those with pictures


@dataclass(frozen=True)
class JobRecord:
    """One job of a sweep: the fields are the keys of job.json, in its order."""

    status: str  # done | failed; missing where there is no job.json
    reason: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)  # the config, but for what changes no number
    axes: Mapping[str, str] = field(default_factory=dict)  # folder.AXES
    done: int = 0  # photos
    passes: int = 0  # photos that went through the network, and did not come from the cache
    queries: tuple[str, ...] = ()  # in the order of the curves
    settings: tuple[tuple[str, str], ...] = ()  # (scaling, normaliser)
    sharpness: tuple[float, ...] = ()  # shares of the patches for which a temperature is wanted
    failures: tuple[Failure, ...] = ()
    mistake: bool = False  # its settings allow no result: it would fail again
    photo_notes: Mapping[str, int] = field(default_factory=dict)  # what was done to photos -> to how many
    tiles: tuple[Tile, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # that the job left, with their digests
    seconds: float = 0.0
    # of the network; in job.json flat, after all others
    provenance: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        values = asdict(self)
        provenance = values.pop("provenance")
        for name in ("mistake", "photo_notes"):  # said only where there is something to say
            if not values[name]:
                del values[name]
        return json.dumps(sealed(values | provenance), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "JobRecord":
        """Keys that are no fields are provenance.  Raises ValueError for what is no record of a job."""
        values = json.loads(text)
        if not isinstance(values, dict) or "status" not in values:
            raise ValueError("no record of a job")
        values = unsealed(values)
        names = [entry.name for entry in fields(cls) if entry.name != "provenance"]
        provenance = {name: value for name, value in values.items() if name not in names}
        try:
            return cls(**typed(values), provenance=provenance)
        except (ArithmeticError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a job: {error}") from None


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they were.  Raises ValueError, TypeError or KeyError for what is none of ours."""
    if values["status"] not in ("done", "failed"):
        raise ValueError("no record of a job")
    entries = {
        "status": values["status"],
        "reason": str(values.get("reason", "")),
        "asked": dict(values.get("asked", {})),
        "axes": {str(name): str(value) for name, value in dict(values.get("axes", {})).items()},
        "done": int(values.get("done", 0)),
        "passes": int(values.get("passes", 0)),
        "queries": tuple(map(str, values.get("queries", ()))),
        "settings": tuple((str(scaling), str(name)) for scaling, name in values.get("settings", ())),
        "sharpness": tuple(map(float, values.get("sharpness", ()))),
        "failures": tuple(Failure(**failure) for failure in values.get("failures", ())),
        "mistake": values.get("mistake") is True,
        "photo_notes": {str(text): int(count) for text, count in dict(values.get("photo_notes", {})).items()},
        "tiles": tuple(Tile(**tile) for tile in values.get("tiles", ())),
        "files": {str(name): str(digest) for name, digest in dict(values.get("files", {})).items()},
        "seconds": float(values.get("seconds", 0)),
    }
    for name in (*entries["files"], *(tile.file for tile in entries["tiles"])):
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError("no record of a job: it names files outside of its folder")
    return entries
