"""Explanations side by side: photos x queries x settings in, one figure on one colour scale out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from attnvis.data.decoding import full_pixels
from attnvis.explanation import PAPERS, RASTERS, Explanation, as_image_tag, known_suffix, save_picture
from attnvis.files import write_bytes
from attnvis.render import overlays, panels, prints
from attnvis.types import Photo

__all__ = ["Comparison"]

SIDE = 220  # pixels of a picture in the figure, at most
PAPER_SIDE = 600  # the same in a pdf or svg, which are looked at more closely

Tile = tuple[UInt8[np.ndarray, "_ _ 3"], str]  # a picture and its caption


@dataclass(frozen=True, eq=False)
class Comparison:
    """Photos asked one or more questions under one or more settings, side by side."""

    explanations: tuple[Explanation, ...]  # photo by photo, query by query, setting by setting
    settings: tuple[tuple[str, str], ...]  # (scaling, normaliser), S of them
    backbone: str
    warnings: tuple[str, ...] = ()  # of the backbone

    @property
    def photos(self) -> tuple[Photo, ...]:
        return tuple(explanations[0].photo for explanations in self.by_photo())

    def by_photo(self) -> list[list[Explanation]]:
        groups: dict[int, list[Explanation]] = {}
        for explanation in self.explanations:
            groups.setdefault(id(explanation.photo), []).append(explanation)
        return list(groups.values())

    def rows(self) -> list[dict[str, Any]]:
        """The diagnostics of every photo, query and setting, as a data frame takes them."""
        return [
            {"photo": explanation.photo.name, "query": explanation.query, "label": explanation.label}
            | {"scaling": explanation.scaling, "normalise": explanation.normalise}
            | explanation.diagnostics
            for explanation in self.explanations
        ]

    def figure(self, side: int = SIDE, **style: Any) -> UInt8[np.ndarray, "_ _ 3"]:
        """One sheet on one colour scale, RGB uint8: in each row a photo and its maps.

        Settings go across; of one setting, queries do.  side: of each picture, in pixels at most; style as in
        attnvis.Style.  Raises ValueError for scale="min_max", which has one range a map.
        """
        look = shared_style(**style)
        headings, tiles = self.rows_of_tiles(side, look)
        columns = len(tiles) // len(headings)
        return panels.contact_sheet(tiles, columns, side, self.title, look, headings=headings)

    @property
    def title(self) -> str:
        return f"{self.backbone}" + "".join(f"; {warning}" for warning in self.warnings)

    def rows_of_tiles(self, side: int, style: overlays.Style) -> tuple[list[str], list[Tile]]:
        """A heading for each row, and the tiles of all rows."""
        headings: list[str] = []
        tiles: list[Tile] = []
        for explanations in self.by_photo():
            photo = explanations[0].photo
            pixels = overlays.resize_longest_side(full_pixels(photo), side)
            count = len(explanations) if len(self.settings) == 1 else len(self.settings)
            for start in range(0, len(explanations), count):
                row = explanations[start : start + count]
                by_query = len(self.settings) == 1 and len(row) > 1
                headings.append(photo.name if by_query else f"{photo.name}: {heading_of(row[0])}")
                tiles.append((pixels, "photo"))
                tiles += [tile_of(each, pixels, style, by_query) for each in row]
        return headings, tiles

    def save(self, path: str | Path, **style: Any) -> Path:
        """The figure as .jpg, .png or .webp, or with words and bar as vectors as .pdf or .svg.

        Its folder is made.  Raises ValueError for another suffix, OSError where it cannot be written.
        """
        path = Path(path)
        kind = known_suffix(path, (*RASTERS, *PAPERS))
        if kind not in PAPERS:
            settings = {"quality": style["quality"]} if "quality" in style else {}
            return save_picture(path, self.figure(**style), **settings)
        side = style.pop("side", PAPER_SIDE)
        look = shared_style(**style)
        headings, tiles = self.rows_of_tiles(side, look)
        columns = len(tiles) // len(headings)
        sheet = prints.Sheet(tiles, columns, self.title, lines=[], style=look, headings=headings)
        content = prints.draw_sheet(sheet, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        return path

    def _repr_png_(self) -> bytes:
        return overlays.encode(self.figure(), "png")

    def _repr_html_(self) -> str:
        return as_image_tag(self._repr_png_(), repr(self))

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.explanations)

    def __repr__(self) -> str:
        photos, settings = len(self.photos), len(self.settings)
        queries = len(self.explanations) // (photos * settings)
        return f"<{photos} photos, {queries} queries, {settings} settings; {self.backbone}>"


def shared_style(**style: Any) -> overlays.Style:
    """Raises ValueError for a scale that is each map's own."""
    look = overlays.Style(**style)
    if look.scale == "min_max":
        raise ValueError(
            "a comparison has one colour range, and min_max stretches each map by itself; "
            "leave scale out, and choose low and high"
        )
    return look


def tile_of(
    explanation: Explanation, pixels: UInt8[np.ndarray, "_ _ 3"], style: overlays.Style, by_query: bool
) -> Tile:
    """The overlay on pixels of the photo, and what differs in its row."""
    answer = explanation.answer
    picture = overlays.overlay(
        pixels, answer.cells, style, answer.mark, explanation.photo.size, placement=answer.placement
    )
    setting = f"{explanation.scaling} {explanation.normalise}".removesuffix(" softmax")
    name = heading_of(explanation) if by_query else setting
    return picture, f"{name}: {answer.diagnostics['perplexity']:.3g} of {answer.patches} patches"


def heading_of(explanation: Explanation) -> str:
    """The query, and its label where that says more."""
    query, label = explanation.query, explanation.label
    return query if label in (query, query.replace(":", " ")) else f"{query} ({label})"
