"""A finished run's folder in, the same photos drawn in another style out, without the network."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from attnvis.data.decoding import load
from attnvis.files import save
from attnvis.pipeline.drawing import PhotoDrawer
from attnvis.pipeline.maps import read_maps
from attnvis.pipeline.plan import setting_text
from attnvis.pipeline.records import open_records
from attnvis.pipeline.run_folder import write_page
from attnvis.render import overlays
from attnvis.types import Provenance

__all__ = ["redraw"]

Row = dict[str, str]


def redraw(source: Path, target: Path, style: overlays.Style, command: str) -> Iterator[tuple[Path, str]]:
    """Every photo of a finished run drawn again from its maps; yields the photo and what went wrong, or "".

    Raises ValueError for a folder without maps, and where source and target are the same.
    """
    record = json.loads((source / "run.json").read_text(encoding="utf-8"))
    config, warnings = record["config"], tuple(record["warnings"])
    with (source / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not any(row["map"] for row in rows):
        raise ValueError(f"{source} kept no maps to draw from; run again with maps=true")
    if target.resolve() == source.resolve():
        raise ValueError(
            f"{target} is the run itself; redraw into another folder, its own pictures stay as they are"
        )
    provenance = replace(Provenance.from_entries(record), command=command, redrawn_from=str(source))
    record |= provenance.entries() | {"style": asdict(style)}
    save(target, "run.json", json.dumps(record, indent=1).encode())
    scaling = setting_text(config.get("scaling", {}))
    drawer = PhotoDrawer(target, style, provenance, scaling, warnings)
    records, table = open_records(target / "records.csv")
    with records:
        table.writerows(row for row in rows if not row["map"])  # what failed then is not forgotten
        for name, photo_rows in by_map(rows).items():
            path = Path(photo_rows[0]["path"])
            try:
                drawn = redraw_photo(drawer, source / name, photo_rows)
            except (ValueError, FileNotFoundError) as error:
                failed = {"status": "failed", "reason": str(error), "map": "", "overlay": "", "panel": ""}
                table.writerows(row | failed for row in photo_rows)
                yield path, str(error)
                continue
            table.writerows(drawn)
            yield path, ""
    write_page(target, config["name"], style, provenance, warnings)


def by_map(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each photo under the file of its maps."""
    photos: dict[str, list[Row]] = {}
    for row in rows:
        if row["map"]:
            photos.setdefault(row["map"], []).append(row)
    return photos


def redraw_photo(drawer: PhotoDrawer, maps: Path, rows: list[Row]) -> list[Row]:
    """The new rows of one photo.

    Raises ValueError, or FileNotFoundError, where its maps or its pixels are not what they were.
    """
    answers = read_maps(maps)
    path = Path(rows[0]["path"])
    photo = load(path, name=rows[0]["photo"])
    if photo.digest != rows[0]["digest"]:
        raise ValueError(f"{path} is not the photo that the maps were made from; its bytes have changed")
    pictures = drawer.draw(maps.stem, photo, answers)
    return [row | {"map": "", "panel": ""} | paths for row, paths in zip(rows, pictures, strict=True)]
