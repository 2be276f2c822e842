"""What a run is to do, known before its first photo: the photos, how they are drawn,
and where the numbers come from.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attnvis import opencv
from attnvis.json_files import read_json
from attnvis.pipeline.resume import FolderPlan, PlannedPhoto, planned_photos
from attnvis.render import overlays
from attnvis.types import Provenance, Source

__all__ = ["RunPlan", "begun_as", "setting_text"]

PACKAGES = ("attnvis", "torch", "torchvision", "hydra-core", "wandb", "numpy")
SILENT = {"mode": "disabled"}  # no W&B
HARMLESS = (
    "batch_size",
    "cache",
    "explore",
    "logger",
    "name",
    "resume",
    "shards",
    "trust",
    "workers",
)  # change no picture


@dataclass(frozen=True, eq=False)
class RunPlan:
    """Of a run over photos, or over the frames of one video."""

    paths: Sequence[Source]  # files are named after them, in this order
    style: overlays.Style
    provenance: Provenance
    config: Mapping[str, Any] = field(default_factory=dict)  # as Hydra resolved it
    warnings: tuple[str, ...] = ()  # of the network, for every picture
    logger: Mapping[str, Any] = field(default_factory=lambda: SILENT)
    keep_maps: bool = True
    photos: tuple[PlannedPhoto, ...] = ()  # the same files by their content; none: read for it
    verb: str = "run"
    rows: tuple[int, ...] = ()  # of each photo, where they are known before the first is answered
    sources: tuple[PlannedPhoto, ...] = ()  # the maps that a redraw draws, one a photo
    origin: Mapping[str, Any] = field(default_factory=dict)  # run.json of the run that a redraw draws
    inputs: Mapping[str, str] = field(default_factory=dict)  # files that the question is read from -> sha256

    def for_folder(self) -> FolderPlan:
        """What the folder is to hold."""
        settings = {key: value for key, value in self.config.items() if key not in HARMLESS}
        files = ["overlay"]
        files += ["panel"] * self.style.panel + ["map"] * self.keep_maps
        plan = FolderPlan(
            self.verb,
            self.photos or planned_photos(self.paths),
            settings=settings,
            files=tuple(files),
            sources=self.sources,
        )
        for index, rows in enumerate(self.rows):
            plan = plan.expecting(index, rows)
        return plan

    @property
    def name(self) -> str:
        return str(self.config.get("name", "run"))

    @property
    def scaling(self) -> str:
        """As a record names it: temperature(tau=2)."""
        return setting_text(self.config.get("scaling", {}))

    @property
    def normalise(self) -> str:
        return setting_text(self.config.get("normalise", {}))

    @property
    def keys(self) -> str:
        """As a record names them; "": the method is no attention, or the run is older than the choice."""
        return setting_text(self.config.get("keys", {}))

    @property
    def heads(self) -> str:
        """As `keys`."""
        return setting_text(self.config.get("heads", {}))

    def versions(self) -> dict[str, str]:
        packages = {package: version(package) for package in PACKAGES}
        return packages | opencv.installed() | {"python": sys.version.split()[0]}

    def record(self) -> dict[str, Any]:
        """What run.json says of it."""
        about = {
            "versions": self.origin.get("versions", self.versions()),  # those that made the numbers
            "warnings": list(self.warnings),
            "config": {name: value for name, value in self.config.items() if name != "resume"},
            "style": asdict(self.style),
            "inputs": dict(self.inputs),
        }
        return dict(self.origin) | self.provenance.entries() | about


def begun_as(folder: Path) -> Provenance | None:
    """What a run that was begun in a folder said of itself; None where nothing did."""
    try:
        return Provenance.from_entries(read_json(folder / "run.json"))
    except (OSError, ValueError):
        return None


def setting_text(config: Mapping[str, Any]) -> str:
    """{_target_: attnvis.attention.scaling.temperature, tau: 2} -> temperature(tau=2)"""
    settings = ", ".join(f"{key}={value}" for key, value in config.items() if not key.startswith("_"))
    name = str(config.get("_target_", "")).rsplit(".", 1)[-1]
    return f"{name}({settings})" if settings else name
