"""What a sweep's job measured -> its folder; a sweep's folder -> one table of all its jobs.

<job>/job.json             what was asked, of which network; status done or failed, photos that failed and why
      rows.parquet         a row per photo, query and setting: the diagnostics
      curves.safetensors   per query: gradient and perplexity against temperature, ranked weights, gaps
      sheets/              a contact sheet per photo: queries down, settings across, one colour scale
      tiles/               the same pictures of the first photo, one by one, for the report
"""

import contextlib
import json
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from attnvis.experiments.sweep.folder import SCHEMA, setting_name
from attnvis.files import slug, unique, write_bytes
from attnvis.methods.settings import PhotoResult
from attnvis.pipeline.streaming import Outcome
from attnvis.render import overlays, panels
from attnvis.types import Photo

__all__ = ["Job"]

GROUP = 20_000  # rows that wait in memory
KEPT = 2_000  # photos whose curves are kept one by one
TILE = 220  # pixels


class Job:
    """One network, layer and size over all photos; leave the `with` block to have its files whole."""

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.folder, self.asked, self.started = folder, dict(asked), time.time()
        self.axes, self.facts = dict[str, str](), dict[str, Any]()
        self.settings, self.sharpness = list[tuple[str, str]](), list[float]()
        self.done = self.passes = 0  # photos; photos that went through the network
        self.failures, self.tiles = list[dict[str, str]](), list[dict[str, str]]()
        self.reasons: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.shares: dict[
            tuple[str, str], array[float]
        ] = {}  # (query, setting) -> perplexity / N, photo by photo
        self.curves: dict[
            str, dict[str, Any]
        ] = {}  # query -> sums over photos, and what is kept photo by photo
        self.columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self.part = folder / ".rows.part"
        self.table: pq.ParquetWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.part.touch()  # a job that is killed leaves this
        (folder / "job.json").unlink(missing_ok=True)  # and not what an earlier one told

    def open(
        self,
        settings: Sequence[tuple[str, str]],
        sheets: int | None = None,
        style: overlays.Style | None = None,
        sharpness: Sequence[float] = (),
    ) -> None:
        """From here on photos can be added; `axes` and `facts` are known."""
        self.settings, self.sharpness = list(settings), list(sharpness)
        self.sheets, self.style = sheets, style or overlays.Style()
        self.table = pq.ParquetWriter(self.part, SCHEMA, compression="zstd")

    def __enter__(self) -> "Job":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.table is not None:
                if kind is None:
                    self.flush()  # else a row may be half there, and its file goes anyway
                self.table.close()
            if self.table is not None and kind is None:
                self.part.replace(self.folder / "rows.parquet")
                self.write("curves.safetensors", save(self.arrays()))
        except OSError:
            if kind is None:
                raise  # else the first trouble is the one to tell
        reason = (
            "it was stopped"
            if kind is KeyboardInterrupt
            else " ".join(str(error).split()) or kind.__name__
            if kind
            else ""
        )
        self.conclude("done" if kind is None else "failed", "" if kind is None else reason)

    def conclude(self, status: str, reason: str) -> None:
        told = {
            "status": status,
            "reason": reason,
            "asked": self.asked,
            "axes": self.axes,
            "done": self.done,
            "passes": self.passes,
        }
        told |= {
            "queries": list(self.curves),
            "settings": self.settings,
            "sharpness": self.sharpness,
            "failures": self.failures,
        }
        told |= {"tiles": self.tiles, "seconds": round(time.time() - self.started, 3), **self.facts}
        with contextlib.suppress(OSError) if status == "failed" else contextlib.nullcontext():
            self.part.unlink(missing_ok=True)
            self.write("job.json", json.dumps(told, indent=1).encode())

    def add(self, outcome: Outcome[PhotoResult]) -> None:
        if outcome.photo is None or outcome.error:
            return self.fail(str(outcome.path), outcome.error)
        seen = dict[str, int]()
        for found in outcome.answers:
            name = unique(found.query, seen)
            self.record(outcome, outcome.photo, name, found)
            self.curve(name, found)
        if self.sheets is None or self.done < self.sheets:
            self.picture(outcome.photo, outcome.answers)
        self.done += 1
        if len(self.columns["index"]) >= GROUP:
            self.flush()

    def fail(self, path: str, reason: str) -> None:
        self.failures.append({"path": path, "reason": reason})
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def record(self, outcome: Outcome[PhotoResult], photo: Photo, query: str, found: PhotoResult) -> None:
        count = len(self.settings)
        grid = found.placement.grid
        same: dict[str, Any] = {
            **self.axes,
            "photo": photo.name,
            "path": str(outcome.path),
            "digest": photo.digest,
            "index": outcome.index,
        }
        same |= {"query": query, "label": found.label, "dim": found.batch.dim}
        same |= {"patches": grid[0] * grid[1], "rows": grid[0], "columns": grid[1]}
        for name, value in same.items():
            self.columns[name] += [
                value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            ] * count
        scalings, normalisers = zip(*self.settings, strict=True)
        for setting, perplexity in zip(self.settings, found.numbers["perplexity"], strict=True):
            self.shares.setdefault((query, setting_name(*setting)), array("d")).append(
                perplexity / same["patches"]
            )
        for name, values in {"scaling": scalings, "normalise": normalisers, **found.numbers}.items():
            self.columns[name] += values

    def curve(self, query: str, found: PhotoResult) -> None:
        whole, at = found.batch, found.at
        kept = self.curves.setdefault(
            query, {"ranks": 0.0, "gaps": 0.0, "photos": 0, "perplexity": [], "gradient": [], "tau": []}
        )
        kept["ranks"] = kept["ranks"] + whole.ranked[:, *at].numpy()
        kept["gaps"] = kept["gaps"] + whole.gaps[:, *at].numpy()
        kept["photos"] += 1
        if kept["photos"] <= KEPT:
            for name, values in zip(("perplexity", "gradient"), whole.heated, strict=True):
                kept[name].append(values[at].float().numpy())
            kept["tau"].append(np.array([found.temperature_for(share) for share in self.sharpness]))

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {}
        for number, kept in enumerate(self.curves.values()):
            arrays[f"{number}/ranks"] = kept["ranks"] / kept["photos"]
            arrays[f"{number}/gaps"] = kept["gaps"]
            arrays |= {f"{number}/{name}": np.stack(kept[name]) for name in ("perplexity", "gradient", "tau")}
        return arrays

    def picture(self, photo: Photo, answers: Sequence[PhotoResult]) -> None:
        """A contact sheet; of the first photo the tiles one by one, too."""
        pixels = overlays.resize_longest_side(photo.pixels, TILE)
        tiles, stem = [], unique(slug(Path(photo.name).stem), self.names)
        for found in answers:
            times = (found.weights * found.weights.shape[-1]).numpy()
            for (scaling, normalise), weights, perplexity in zip(
                self.settings, times, found.numbers["perplexity"], strict=True
            ):
                cells = weights.reshape(found.placement.grid)
                drawn = overlays.overlay(
                    pixels, cells, self.style, found.mark, photo.size, placement=found.placement
                )
                said = f"{perplexity:.3g} of {times.shape[1]} patches"
                tiles.append((drawn, f"{setting_name(scaling, normalise)}: {said}"))
                if not self.done:
                    name = f"tiles/{len(self.tiles)}.jpg"
                    self.write(name, overlays.encode(drawn, "jpg", 85))
                    told = {
                        "file": name,
                        "photo": photo.name,
                        "query": found.query,
                        "label": found.label,
                        "said": said,
                    }
                    self.tiles.append(told | {"setting": setting_name(scaling, normalise)})
        asked = [
            found.query if found.query == found.label else f"{found.query} ({found.label})"
            for found in answers
        ]
        sheet = panels.contact_sheet(tiles, len(self.settings), TILE, photo.name, self.style, headings=asked)
        self.write(f"sheets/{stem}.jpg", overlays.encode(sheet, "jpg", 88))

    def medians(self) -> dict[str, float]:
        """For W&B: of every query and setting the median share of the patches."""
        return {
            f"{query}/{setting}/perplexity_share": float(np.median(seen))
            for (query, setting), seen in self.shares.items()
        }

    def flush(self) -> None:
        assert self.table is not None
        self.table.write_table(pa.table(self.columns, schema=SCHEMA))
        self.columns = {name: [] for name in SCHEMA.names}

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
