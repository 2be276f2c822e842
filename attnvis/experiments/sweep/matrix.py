"""The pictures of a sweep's first photos -> blocks: two swept settings as rows and columns, others apart."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnvis.experiments.sweep.folder import Part, Sweep, setting_name
from attnvis.experiments.sweep.record import Tile
from attnvis.experiments.sweep.sheets import TILE
from attnvis.render.html import data_uri
from attnvis.render.thumbnail import thumbnail_of_file

__all__ = ["Block", "PhotoBlocks", "Picture", "photo_blocks"]

INLINE = 240  # pictures that the page holds itself
COLUMNS = ("scaling", "normalise", "query", "job")  # whichever of these was swept stands across
ROWS = ("normalise", "job", "query")  # and the first other one down; of more, each value has a block


@dataclass(frozen=True)
class Picture:
    """A tile where it lies, and what was asked for it."""

    tile: Tile
    address: str  # relative to the page
    source: str  # of the image: the page's own bytes for the first photo, else the address
    place: dict[str, str]  # job, query, scaling, normalise

    @property
    def caption(self) -> str:
        job = f" ({self.place['job']})" if self.place["job"] else ""
        return f"{self.place['query']} under {self.tile.setting}{job}: {self.tile.said}"


@dataclass(frozen=True)
class Block:
    """What has one heading; without rows its pictures stand in a line, each under its column."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    pictures: dict[tuple[str, str], Picture]  # (row, column)


@dataclass(frozen=True)
class PhotoBlocks:
    """All blocks of one photo."""

    photo: str
    blocks: tuple[Block, ...]


def photo_blocks(sweep: Sweep) -> list[PhotoBlocks]:
    """Photo by photo; a picture that is gone is left out, and a photo of which all are."""
    photos: dict[tuple[int, str], list[Picture]] = {}
    several, inline = len(sweep.done) > 1, INLINE
    for part in sweep.done:
        job = as_typed(part.overrides) if several else ""
        for tile in part.record.tiles:
            if (part.folder / tile.file).is_file():
                place = place_of(part, tile, job)
                known = photos.setdefault((tile.place, tile.photo), [])
                is_inline = known is next(iter(photos.values())) and inline > 0
                inline -= is_inline
                known.append(picture_of(sweep.folder, part.folder / tile.file, tile, place, is_inline))
    return [PhotoBlocks(photo, blocks_of(pictures)) for (_, photo), pictures in sorted(photos.items())]


def as_typed(overrides: str) -> str:
    """keys='pca:8' -> keys=pca:8: Hydra's quotes are not the reader's."""
    return re.sub(r"='([^'\\]*)'", r"=\1", overrides)


def place_of(part: Part, tile: Tile, job: str) -> dict[str, str]:
    settings = {setting_name(*setting): setting for setting in part.record.settings}
    scaling, normalise = settings.get(tile.setting, (tile.setting, ""))
    query = tile.label if tile.label.startswith(tile.query) else f"{tile.query} {tile.label}"
    return {"job": job, "query": query, "scaling": scaling, "normalise": normalise}


def picture_of(page: Path, path: Path, tile: Tile, place: dict[str, str], is_inline: bool) -> Picture:
    """One whose page holds it small is seen wherever the page goes; others lie beside it."""
    address = os.path.relpath(path, page)
    small = thumbnail_of_file(path.read_bytes(), side=TILE) if is_inline else None
    return Picture(tile, address, data_uri(small.jpeg) if small else "", place)


def blocks_of(pictures: Sequence[Picture]) -> tuple[Block, ...]:
    """A block for every value of what is neither row nor column."""
    values = {
        name: tuple(dict.fromkeys(picture.place[name] for picture in pictures))
        for name in ("job", "query", "scaling", "normalise")
    }
    swept = [name for name in COLUMNS if len(values[name]) > 1]
    across = swept[0] if swept else "scaling"
    down = next((name for name in ROWS if name in swept and name != across), "")
    apart = [name for name in ("query", "job", "normalise") if name not in (across, down)]
    blocks: dict[tuple[str, ...], dict[tuple[str, str], Picture]] = {}
    for picture in pictures:
        key = tuple(picture.place[name] for name in apart)
        cell = (picture.place[down] if down else "", picture.place[across])
        blocks.setdefault(key, {}).setdefault(cell, picture)
    return tuple(
        Block(
            heading=" · ".join(
                value for name, value in zip(apart, key, strict=True) if value and shows(name, values[name])
            ),
            columns=tuple(dict.fromkeys(column for _, column in of_block)),
            rows=tuple(dict.fromkeys(row for row, _ in of_block)) if down else (),
            pictures=of_block,
        )
        for key, of_block in blocks.items()
    )


def shows(name: str, values: Sequence[str]) -> bool:
    """Whether a heading names it: the query always, what is the same everywhere not."""
    return name == "query" or len(values) > 1
