"""A finished run's folder in, the same photos drawn in another style out, without the network."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from attnvis.data.decoding import load
from attnvis.files import is_whole, locked, save
from attnvis.pipeline.drawing import PhotoDrawer
from attnvis.pipeline.maps import map_photo, read_maps
from attnvis.pipeline.plan import setting_text
from attnvis.pipeline.records import open_records, read_records
from attnvis.pipeline.resume import read_json
from attnvis.pipeline.run_folder import write_page
from attnvis.render import overlays
from attnvis.types import Provenance

__all__ = ["redraw"]

Row = dict[str, str]


def redraw(source: Path, target: Path, style: overlays.Style, command: str) -> Iterator[tuple[Path, str]]:
    """Every photo of a finished run drawn again from its maps; yields the photo and what went wrong, or "".

    Raises ValueError for a folder without maps, and where source and target are the same.
    """
    record = read_run(source)
    rows = list(read_records(source / "records.csv"))
    if not any(row["map"] for row in rows):
        raise ValueError(f"{source} kept no maps to draw from; run again with maps=true")
    if target.resolve() == source.resolve():
        raise ValueError(
            f"{target} is the run itself; redraw into another folder, its own pictures stay as they are"
        )
    lock = locked(target)
    try:
        yield from redraw_rows(source, target, style, command, record, rows)
    finally:
        lock.close()


def redraw_rows(
    source: Path, target: Path, style: overlays.Style, command: str, record: dict[str, Any], rows: list[Row]
) -> Iterator[tuple[Path, str]]:
    """The same, into a folder that is held; record: what run.json says of the run."""
    config, warnings = record["config"], tuple(record["warnings"])
    provenance = replace(Provenance.from_entries(record), command=command, redrawn_from=str(source))
    record |= provenance.entries() | {"style": asdict(style)}
    save(target, "run.json", json.dumps(record, indent=1).encode())
    scaling = setting_text(config.get("scaling", {}))
    preprocess = config.get("preprocess", {})
    reading = {key: preprocess[key] for key in ("depth", "truncated") if key in preprocess}
    drawer = PhotoDrawer(target, style, provenance, scaling, warnings)
    records, table = open_records(target / "records.csv")
    with records:
        table.writerows(row for row in rows if not row["map"])  # what failed then is not forgotten
        for name, photo_rows in by_map(rows).items():
            path = Path(photo_rows[0]["path"])
            try:
                if not is_whole(source, name):
                    raise ValueError(f"{source / name} is gone, empty or no file; run again to make it")
                drawn = redraw_photo(drawer, source / name, photo_rows, reading=reading)
            except (ValueError, FileNotFoundError) as error:
                failed = {"status": "failed", "reason": str(error), "map": "", "overlay": "", "panel": ""}
                table.writerows(row | failed for row in photo_rows)
                yield path, str(error)
                continue
            table.writerows(drawn)
            yield path, ""
    write_page(target, config["name"], style, provenance, warnings)


def read_run(source: Path) -> dict[str, Any]:
    """What run.json says of a run.  Raises ValueError for one that is damaged."""
    try:
        record = read_json(source / "run.json")
        if not isinstance(record["config"]["name"], str) or not isinstance(record["warnings"], list):
            raise ValueError
        setting_text(record["config"].get("scaling", {}))
        record["warnings"] = [str(warning) for warning in record["warnings"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{source / 'run.json'} is damaged or no run's; redraw another run") from None
    return record


def by_map(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each photo under the file of its maps."""
    photos: dict[str, list[Row]] = {}
    for row in rows:
        if row["map"]:
            photos.setdefault(row["map"], []).append(row)
    return photos


def redraw_photo(drawer: PhotoDrawer, maps: Path, rows: list[Row], reading: Mapping[str, Any]) -> list[Row]:
    """The new rows of one photo; reading: how the run read it, as `load` takes it.

    Raises ValueError, or FileNotFoundError, where its maps or its pixels are not what they were.
    """
    answers = read_maps(maps)
    if len(answers) != len(rows):
        raise ValueError(f"{maps} holds {len(answers)} maps for {len(rows)} rows; run again to make it")
    path = Path(rows[0]["path"])
    photo = load(path, name=rows[0]["photo"], **reading)
    owner = map_photo(maps)
    if owner is None or owner[0] != rows[0]["digest"]:
        raise ValueError(f"{maps} holds another photo's maps; run again to make it")
    if photo.digest != rows[0]["digest"]:
        raise ValueError(f"{path} is not the photo that the maps were made from; its bytes have changed")
    if any(answer.placement.size != photo.size for answer in answers):
        raise ValueError(f"{maps} lies on a photo of another size; run again to make it")
    pictures = drawer.draw(maps.stem, photo, answers)
    return [row | {"map": "", "panel": ""} | paths for row, paths in zip(rows, pictures, strict=True)]
