"""A finished run's folder in, the same photos drawn in another style out, without the network."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from attnvis.data.decoding import load
from attnvis.files import save
from attnvis.pipeline.drawing import about, draw, network, short
from attnvis.pipeline.maps import read_maps
from attnvis.pipeline.run_folder import open_records, page
from attnvis.render import overlays

__all__ = ["redraw"]


def redraw(source: Path, target: Path, style: overlays.Style, command: str) -> Iterator[tuple[Path, str]]:
    """Every photo of a finished run drawn again from its maps, without the network; yields the photo and what went wrong, if anything."""
    told = json.loads((source / "run.json").read_text(encoding="utf-8"))
    config, warnings = told["config"], told["warnings"]
    facts = {key: value for key, value in told.items() if isinstance(value, str)}
    lines = [("scaling", about(short(config.get("scaling", {})))), *network(facts)]
    with (source / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not any(row["map"] for row in rows):
        raise ValueError(f"{source} kept no maps to draw from; run again with maps=true")
    if target.resolve() == source.resolve():
        raise ValueError(
            f"{target} is the run itself; redraw into another folder, its own pictures stay as they are"
        )
    together: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["map"]:
            together.setdefault(row["map"], []).append(row)
    facts |= {"command": command, "redrawn from": str(source)}
    save(target / "run.json", json.dumps({**told, **facts, "style": asdict(style)}, indent=1).encode())
    records, table = open_records(target / "records.csv")
    with records:
        table.writerows(row for row in rows if not row["map"])  # what failed then is not forgotten
        for name, mine in together.items():
            path = Path(mine[0]["path"])
            try:
                answers = read_maps(source / name)
                photo = load(path, name=mine[0]["photo"])
                if photo.digest != mine[0]["digest"]:
                    raise ValueError(
                        f"{path} is not the photo that the maps were made from; its bytes have changed"
                    )
                pictures = draw(target, Path(name).stem, photo, answers, style, lines, warnings)
            except (ValueError, FileNotFoundError) as error:
                table.writerows(
                    row | {"status": "failed", "reason": str(error), "map": "", "overlay": "", "panel": ""}
                    for row in mine
                )
                yield path, str(error)
                continue
            for row, drawn in zip(mine, pictures, strict=True):
                table.writerow(row | {"map": "", "panel": ""} | drawn)
            yield path, ""
    page(target, config["name"], style, facts, warnings)
