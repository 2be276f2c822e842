"""What a job measured of each photo, query and setting -> rows.parquet, in groups."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attnvis.experiments.sweep.folder import AXES, CHECKS, SCHEMA
from attnvis.experiments.sweep.shapes import colour_spread, shapes_of
from attnvis.files import naming, open_new
from attnvis.methods.settings import PhotoResult
from attnvis.pipeline.streaming import Outcome

__all__ = ["RowTable", "columns_of"]

GROUP = 20_000  # rows that wait in memory

Columns = dict[str, list[Any]]  # a value per row


class RowTable:
    """A table that grows photo by photo; `close` makes its file whole."""

    def __init__(self, path: Path) -> None:
        self.waiting: Columns = {name: [] for name in SCHEMA.names}
        self.path, self.file = path, open_new(path)
        self.writer = pq.ParquetWriter(self.file, SCHEMA, compression="zstd")

    def add(self, columns: Columns) -> None:
        """All rows of a photo, as `columns_of` gives them."""
        for name, values in columns.items():
            self.waiting[name] += values
        if len(self.waiting["index"]) >= GROUP:
            self.flush()

    def flush(self) -> None:
        with naming(self.path):
            self.writer.write_table(pa.table(self.waiting, schema=SCHEMA))
        self.waiting = {name: [] for name in SCHEMA.names}

    def close(self) -> None:
        """Without what waits: `flush` that first."""
        with naming(self.path):
            try:
                self.writer.close()
            finally:
                self.file.close()


def columns_of(
    outcome: Outcome[PhotoResult],
    results: Mapping[str, PhotoResult],
    axes: Mapping[str, str],
    settings: Sequence[tuple[str, str]],
) -> Columns:
    """All rows of a photo that was measured, column by column: by query, and of each query by setting."""
    photo = outcome.photo
    assert photo is not None
    columns: Columns = {name: [] for name in SCHEMA.names}
    spread = colour_spread(photo.pixels)
    for query, result in results.items():
        height, width = result.placement.grid
        same: dict[str, str | int | float] = {
            **dict.fromkeys(AXES, ""),
            **axes,
            "photo": photo.name,
            "path": str(outcome.path),
            "digest": photo.digest,
            "index": outcome.index,
            "query": query,
            "label": result.label,
            "dim": result.batch.dim,
            "patches": height * width,
            "rows": height,
            "columns": width,
            "pixel_std": spread,
        }
        for name, value in same.items():
            columns[name] += [as_stored(value)] * len(settings)
        columns["scaling"] += [scaling for scaling, _ in settings]
        columns["normalise"] += [normalise for _, normalise in settings]
        checks = {name: [None] * len(settings) for name in CHECKS} | dict(result.checks)
        for name, values in (result.numbers | shapes_of(result) | checks).items():
            columns[name] += values
    return columns


def as_stored(value: str | int | float) -> str | int | float:
    """A name that is no unicode is told in escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
