"""What parquet holds of a run: the columns of its records and of its maps, and a photo's answers as rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from attnvis.methods.answer import Answer
from attnvis.pipeline.records import COLUMNS, NUMBERS, as_written
from attnvis.types import Box, Photo

__all__ = ["MAPS", "RECORDS", "map_rows", "record_row"]

WHOLE = (
    "index",
    "height",
    "width",
    "patches",
    "rows",
    "columns",
    "class_index",
    "class_rank",
    "beyond_chance",
)
LARGEST = 65504.0  # of float16
STAGES = ("scores", "logits", "weights")


def kind(name: str) -> pa.DataType:
    if name in WHOLE:
        return pa.int64()
    return pa.float64() if name in NUMBERS else pa.string()


# A row per photo and answer, or per photo that failed: the columns of records.csv, but for its seal.
RECORDS = pa.schema([pa.field(name, kind(name)) for name in COLUMNS if name != "seal"])

# A row per answer; its numbers row by row of the grid, in float16.
MAPS = pa.schema(
    [
        pa.field("index", pa.int64()),  # of the photo
        pa.field("answer", pa.int32()),  # of the photo's, from 0 on
        *(pa.field(name, pa.string()) for name in ("photo", "digest", "query", "label", "layer")),
        pa.field("rows", pa.int32()),
        pa.field("columns", pa.int32()),
        *(pa.field(name, pa.list_(pa.float16())) for name in STAGES),
        pa.field("placement", pa.string()),  # json: where the cells lie on the photo
        pa.field("mark", pa.string()),  # json: the point or box that was asked about
    ]
)


def record_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of records with a value, or None, for every column; a name that is no text has backslashes."""
    values = {name: row.get(name) for name in RECORDS.names}
    return {name: as_written(value) if isinstance(value, str) else value for name, value in values.items()}


def map_rows(index: int, photo: Photo, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """A photo's answers as rows of MAPS."""
    rows = []
    for number, answer in enumerate(answers):
        grid_rows, columns = answer.placement.grid
        stages = {"weights": answer.weights}
        if answer.attention is not None:
            stages = {stage: getattr(answer.attention, stage) for stage in STAGES}
        mark = asdict(answer.mark) if isinstance(answer.mark, Box) else answer.mark
        row = {
            "index": index,
            "answer": number,
            "photo": as_written(photo.name),
            "digest": photo.digest,
            "query": as_written(answer.query),
            "label": as_written(answer.label),
            "layer": answer.layer,
            "rows": grid_rows,
            "columns": columns,
            "placement": json.dumps(asdict(answer.placement)),
            "mark": None if mark is None else json.dumps(mark),
        }
        rows.append(row | {name: as_half(tensor) for name, tensor in stages.items()})
    return rows


def as_half(tensor: Any) -> np.ndarray:
    """Numbers [..., N] in float16, [N]; what is beyond its ends has the end's value."""
    return tensor.reshape(-1).float().clamp(-LARGEST, LARGEST).cpu().numpy().astype(np.float16)
