"""What a job's job.json holds, as a value: what was asked, of which network, what came of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

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
    tiles: tuple[Tile, ...] = ()
    seconds: float = 0.0
    # of the network; in job.json flat, after all others
    provenance: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        values = asdict(self)
        provenance = values.pop("provenance")
        return json.dumps(values | provenance, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "JobRecord":
        """Keys that are no fields are provenance.  Raises ValueError for what is no record of a job."""
        values = json.loads(text)
        if not isinstance(values, dict) or "status" not in values:
            raise ValueError("no record of a job")
        names = [entry.name for entry in fields(cls) if entry.name != "provenance"]
        known = {name: values.pop(name) for name in names if name in values}
        known["queries"] = tuple(known.get("queries", ()))
        known["settings"] = tuple((scaling, normalise) for scaling, normalise in known.get("settings", ()))
        known["sharpness"] = tuple(known.get("sharpness", ()))
        known["failures"] = tuple(Failure(**failure) for failure in known.get("failures", ()))
        known["tiles"] = tuple(Tile(**tile) for tile in known.get("tiles", ()))
        return cls(**known, provenance=values)
