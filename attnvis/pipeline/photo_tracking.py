"""A run over photos at W&B: numbers as they come; maps, a table, means, the page and the files at the end.

What comes at the end is read from the run's folder, so that a run that was gone on with has all photos.
Keys are those of the queries, places those of the photos in their list: no file's name is in them, and W&B
compares two runs map by map.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from attnvis.data.decoding import load
from attnvis.files import slug, unique
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.pipeline.maps import read_maps
from attnvis.pipeline.records import read_numbers
from attnvis.pipeline.tracking import MOST_PICTURES, MOST_ROWS, Tile, Tracker
from attnvis.render import overlays

__all__ = ["PhotoTracker", "keyed"]

Record = Mapping[str, Any]

SIDE = 512  # pixels of a tile: of every photo the same, or W&B shows the list askew
PAPER = 235  # grey around a picture, and where there is none
EDGES = np.linspace(-10, 10, 65)  # of the histogram: log2 of N a
MEASURED = ("class_probability", "class_rank", *DESCRIPTIONS)  # of an answer, where it has them
TABLE = {  # column at W&B -> of records.csv
    "index": "index",
    "photo": "photo",
    "path": "path",
    "picture": "overlay",
    "query": "query",
    "label": "label",
    "class": "predicted",
    "probability": "probability",
    "class_probability": "class_probability",  # of the class that was asked for
    "class_rank": "class_rank",
    "status": "status",
    "reason": "reason",
    "layer": "layer",
    "scaling": "scaling",
    "normalise": "normalise",
    "patches": "patches",
    **{name: name for name in DESCRIPTIONS},
}
NUMBERS = ("probability", "class_probability", "class_rank", "patches", *DESCRIPTIONS)


class PhotoTracker(Tracker):
    """Photos: their numbers as they come; means, maps, a table, the page and the files at the end."""

    counts: dict[str, Int[np.ndarray, " 64"]]  # key -> its histogram
    counted: set[int]  # the photos in it, by their places
    explorers: Mapping[int, Path] | None = None  # of photos by their places, where a run made some

    def begin(self) -> None:
        self.counts, self.counted = {}, set[int]()
        super().begin()

    def start(self, mode: str) -> Any:
        """A run whose summary is what `log_totals` says, and not what the last photo had."""
        run = super().start(mode)
        run.define_metric("index", summary="none")
        run.define_metric("*", step_metric="index", summary="none")
        return run

    def log(self, rows: Sequence[Record], answers: Sequence[Answer]) -> None:
        """The answers about one photo; rows: their records, as they stand in records.csv."""
        if self.silent or not rows:
            return
        with self.harmless():
            index = int(rows[0]["index"])
            numbers: dict[str, Any] = {"index": index}
            if "probability" in rows[0]:
                numbers["probability"] = rows[0]["probability"]
            for (key, row), answer in zip(keyed(rows), answers, strict=True):
                numbers |= {f"{key}/{name}": row[name] for name in MEASURED if name in row}
                self.count(key, answer)
            self.counted.add(index)
            # a run that goes on counts on from where W&B has it
            self.run.log(numbers, step=None if self.continues else index, commit=True)

    def count(self, key: str, answer: Answer) -> None:
        """Into the histogram."""
        logs = np.log2(np.maximum(answer.cells, 2.0**-10)).clip(-10, 10)
        self.counts[key] = self.counts.get(key, 0) + np.histogram(logs, EDGES)[0]

    def log_totals(self) -> None:
        """Means, maps, the table, distributions, the page, the files."""
        records = self.folder / "records.csv"
        if not records.is_file():
            return
        means = Means()
        table: list[Record] = []
        maps: dict[str, dict[int, Record]] = {}  # key -> place -> its row
        places = answers = 0
        for index, rows in by_photo(read_numbers(records)):
            places = max(places, index + 1)
            means.add(rows)
            self.remember(index, rows)
            for key, row in keyed(rows):
                answers += 1
                if index < min(self.settings.pictures, MOST_PICTURES):
                    maps.setdefault(key, {})[index] = row
                if len(table) < MOST_ROWS:
                    table.append(row)
        self.summarise(means.values())
        self.log_maps(maps, places)
        table.sort(key=lambda row: int(row["index"]))  # one that was gone on with has them otherwise
        self.log_table("photos", self.columns(table), total=answers)
        self.log_histograms()
        self.log_page("page", self.folder / "index.html")
        self.log_pages("explorer", self.explorers or {})
        self.log_files("attention-maps", [self.folder / "maps", records, self.folder / "run.json"])

    def remember(self, index: int, rows: Sequence[Record]) -> None:
        """The maps of a photo of an earlier part of the run, for the histograms."""
        if index in self.counted or not all(row.get("map") for row in rows):
            return
        try:
            answers = read_maps(self.folder / rows[0]["map"])
        except (ValueError, OSError) as error:
            self.unsent.append(f"{rows[0]['photo']} is not in the histograms ({error})")
            return
        self.counted.add(index)
        for (key, _), answer in zip(keyed(rows), answers, strict=False):
            self.count(key, answer)

    def log_maps(self, maps: Mapping[str, Mapping[int, Record]], places: int) -> None:
        """A list of each query, a photo at its place: grey where there is no map."""
        count = min(places, self.settings.pictures, MOST_PICTURES)
        failed = maps.get("", {})
        for key, rows in maps.items():
            if key:
                tiles = [self.tile(rows.get(place), failed.get(place)) for place in range(count)]
                self.log_list(f"{key}/maps", tiles)
        if 0 < count < places:
            limit = f"logger.pictures={self.settings.pictures}"
            if count == MOST_PICTURES:
                limit = f"a list at W&B has at most {MOST_PICTURES}"
            self.unsent.append(
                f"the maps of the first {count} of {places} photos were sent ({limit}); "
                f"all are in {self.folder / 'overlays'}"
            )

    def tile(self, row: Record | None, failure: Record | None) -> Tile:
        """A photo's overlay with what it shows; a blank with the reason where there is none."""
        if row is None or not row.get("overlay"):
            caption = f"{failure['photo']}: {failure['reason']}" if failure else "none"
            return Tile(blank(), caption)
        spread = f"perplexity {row['perplexity']:.1f} of {row['patches']:.0f}"
        caption = f"{row['photo']}: {row['label']}, {spread}"
        try:
            return Tile(framed(load(self.folder / row["overlay"]).pixels), caption)
        except (ValueError, OSError) as error:
            self.unsent.append(f"the map of {row['photo']} was not sent ({error})")
            return Tile(blank(), f"{row['photo']}: {error}")

    def columns(self, rows: Sequence[Record]) -> dict[str, list[Any]]:
        """Of the table at W&B, by their names there."""
        columns = {}
        for column, name in TABLE.items():
            values: list[Any] = [row.get(name) for row in rows]
            if name == "index":
                values = [int(value) for value in values]
            elif name in NUMBERS:
                values = [value if isinstance(value, float) else None for value in values]
            elif name == "overlay":
                values = [self.overlay(row) for row in rows]
            columns[column] = values
        return columns

    def overlay(self, row: Record) -> Path | None:
        """The picture of a row, of as many photos as are to be sent."""
        if row.get("overlay") and int(row["index"]) < self.settings.pictures:
            return self.folder / row["overlay"]
        return None

    def log_histograms(self) -> None:
        """How often uniform the cells are, over all photos."""
        for key, counts in self.counts.items():
            self.log_histogram(f"{key}/log2_times_uniform", counts, edges=EDGES)


class Means:
    """Over photos, of every query, of what each has; NaN where none has it."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}
        self.done = self.failed = 0

    def add(self, rows: Sequence[Record]) -> None:
        """The rows of one photo."""
        if rows[0]["status"] != "done":
            self.failed += 1
            return
        self.done += 1
        self.add_number("probability", rows[0].get("probability"))
        for key, row in keyed(rows):
            for name in MEASURED:
                self.add_number(f"{key}/{name}", row.get(name))

    def add_number(self, name: str, value: Any) -> None:
        if isinstance(value, float):
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total, count) if np.isnan(value) else (total + value, count + 1)

    def values(self) -> dict[str, float | int]:
        """By name: the means, and how many photos they are of."""
        means = {name: total / count if count else np.nan for name, (total, count) in self.sums.items()}
        return {"photos": self.done, "failed": self.failed, **means}


def by_photo(rows: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
    """The rows of each photo, with its place."""
    for index, of_photo in groupby(rows, key=lambda row: int(row["index"])):
        yield index, list(of_photo)


def keyed(rows: Sequence[Record]) -> Iterator[tuple[str, Record]]:
    """The rows of one photo, each with the key of its query: of no photo's name, and the same in every run.

    "" for a photo that failed.
    """
    names: dict[str, int] = {}
    layers = {row.get("layer") for row in rows}
    for row in rows:
        if not row.get("query"):
            yield "", row
            continue
        layer = f".{slug(str(row['layer']))}" if len(layers) > 1 else ""
        yield unique(slug(row["query"]) + layer, names), row


def framed(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """A picture in the middle of a square."""
    small = overlays.resize_longest_side(pixels, SIDE)
    height, width = small.shape[:2]
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    square = blank()
    square[top : top + height, left : left + width] = small
    return square


def blank() -> UInt8[np.ndarray, "S S 3"]:
    return np.full((SIDE, SIDE, 3), PAPER, np.uint8)
