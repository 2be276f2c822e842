"""What a job's job.json holds, as a value: what was asked, of which network, what came of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

from attnvis.pipeline.resume import sealed, unsealed

__all__ = ["Failure", "JobRecord", "Tile"]


@dataclass(frozen=True)
class Failure:
    """A photo that could not be measured."""

    path: str
    reason: str


@dataclass(frozen=True)
class Tile:
    """A picture of the job's first photo: one query under one setting."""

    file: str  # below the job's folder
    photo: str
    query: str
    label: str
    said: str  # over how many patches the attention is spread
    setting: str


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
        known = {name: values.pop(name) for name in names if name in values}
        try:
            return cls(**typed(known), provenance=values)
        except (ArithmeticError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a job: {error}") from None


def typed(known: dict[str, Any]) -> dict[str, Any]:
    """The fields as they were.  Raises ValueError, TypeError or KeyError for what is none of ours."""
    if known["status"] not in ("done", "failed"):
        raise ValueError("no record of a job")
    known["reason"] = str(known.get("reason", ""))
    known["mistake"] = known.get("mistake") is True
    known["asked"] = dict(known.get("asked", {}))
    notes = dict(known.get("photo_notes", {}))
    known["photo_notes"] = {str(text): int(count) for text, count in notes.items()}
    known["axes"] = {str(name): str(value) for name, value in dict(known.get("axes", {})).items()}
    known["done"], known["passes"] = int(known.get("done", 0)), int(known.get("passes", 0))
    known["seconds"] = float(known.get("seconds", 0))
    known["queries"] = tuple(map(str, known.get("queries", ())))
    known["settings"] = tuple((str(scaling), str(name)) for scaling, name in known.get("settings", ()))
    known["sharpness"] = tuple(map(float, known.get("sharpness", ())))
    known["failures"] = tuple(Failure(**failure) for failure in known.get("failures", ()))
    known["tiles"] = tuple(Tile(**tile) for tile in known.get("tiles", ()))
    known["files"] = {str(name): str(digest) for name, digest in dict(known.get("files", {})).items()}
    for name in (*known["files"], *(tile.file for tile in known["tiles"])):
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError("no record of a job: it names files outside of its folder")
    return known
