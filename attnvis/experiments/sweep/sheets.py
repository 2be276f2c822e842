"""What a job measured of a photo -> a contact sheet: queries down, settings across, one colour scale."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from attnvis.experiments.sweep.folder import setting_name
from attnvis.experiments.sweep.record import JobRecord, Tile
from attnvis.files import save, slug, unique
from attnvis.methods.settings import PhotoResult
from attnvis.render import overlays, panels
from attnvis.types import Photo

__all__ = ["TILE", "Sheet", "SheetWriter", "sheet_names", "style_of"]

TILE = 220  # pixels of a picture in a sheet
LARGE = 480  # of one that the report opens
TILES = 240  # of these, of all photos of a job
PHOTOS = 12  # that have some


@dataclass(frozen=True, eq=False)
class Sheet:
    """What was drawn of one photo, as the files will hold it."""

    picture: bytes  # all of it, a jpg
    tiles: tuple[bytes, ...]  # the same pictures one by one, where they were asked for
    abouts: tuple[Tile, ...]  # what each of these shows


class SheetWriter:
    """sheets/ of a job, for the first `most` photos (None: all); for the first few photos tiles/ too.

    `draw` may be called in several threads, `add` in the order of the photos.
    """

    def __init__(
        self,
        folder: Path,
        settings: Sequence[tuple[str, str]],
        most: int | None = None,
        style: overlays.Style | None = None,
    ) -> None:
        self.folder, self.settings = folder, settings
        self.most, self.style = most, style or overlays.Style()
        self.drawn = 0  # photos
        self.names: dict[str, int] = {}
        self.tiles: list[Tile] = []
        self.files: list[str] = []  # the sheets

    def draw_ahead(self, index: int, photo: Photo, results: Sequence[PhotoResult]) -> Sheet | None:
        """The sheet of the photo with this number, where it is sure to be one of the first `most`.

        Where photos before it fail, others become one of these: `add` draws them.
        """
        if self.most is not None and index >= self.most:
            return None
        return self.draw(photo, results, tiles=index < self.tiled(results))

    def tiled(self, results: Sequence[PhotoResult]) -> int:
        """How many photos have tiles: the first has all of its own, however many these are."""
        return max(1, min(PHOTOS, TILES // max(1, len(results) * len(self.settings))))

    def add(self, photo: Photo, results: Sequence[PhotoResult], sheet: Sheet | None) -> None:
        """Write the sheet of the next photo."""
        if self.most is not None and self.drawn >= self.most:
            return
        is_tiled = self.drawn < self.tiled(results)
        if sheet is None or (is_tiled and not sheet.tiles):
            sheet = self.draw(photo, results, tiles=is_tiled)
        if is_tiled:
            for about, picture in zip(sheet.abouts, sheet.tiles, strict=True):
                tile = replace(about, file=f"tiles/{len(self.tiles)}.jpg", place=self.drawn)
                self.tiles.append(tile)
                save(self.folder, tile.file, picture)
        name = sheet_name(photo.name, self.names)
        self.files.append(f"sheets/{name}")
        save(self.folder, self.files[-1], sheet.picture)
        self.drawn += 1

    def draw(self, photo: Photo, results: Sequence[PhotoResult], tiles: bool) -> Sheet:
        """The contact sheet of a photo; with `tiles` its pictures one by one too."""
        pixels = overlays.resize_longest_side(photo.pixels, TILE)
        large = overlays.resize_longest_side(photo.pixels, LARGE)
        pictures, headings, single, abouts = [], [], list[bytes](), list[Tile]()
        for result in results:
            same = result.query == result.label
            headings.append(result.query if same else f"{result.query} ({result.label})")
            for setting, picture, spread in self.pictures_of(photo, pixels, result):
                pictures.append((picture, f"{setting}: {spread}"))
            for setting, picture, spread in self.pictures_of(photo, large, result) if tiles else ():
                single.append(overlays.encode(picture, "jpg", 85))
                abouts.append(Tile("", photo.name, result.query, result.label, said=spread, setting=setting))
        sheet = panels.contact_sheet(
            pictures, len(self.settings), TILE, photo.name, self.style, headings=headings
        )
        return Sheet(overlays.encode(sheet, "jpg", 88), tuple(single), tuple(abouts))

    def pictures_of(
        self, photo: Photo, pixels: UInt8[np.ndarray, "H W 3"], result: PhotoResult
    ) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"], str]]:
        """(setting, picture, over how many patches the attention is spread), setting by setting."""
        times_uniform = (result.weights * result.weights.shape[-1]).numpy()  # [S, N]
        perplexities = result.numbers["perplexity"]
        for setting, weights, perplexity in zip(self.settings, times_uniform, perplexities, strict=True):
            picture = overlays.overlay(
                pixels,
                weights.reshape(result.placement.grid),
                self.style,
                result.mark,
                photo.size,
                placement=result.placement,
            )
            yield setting_name(*setting), picture, f"{perplexity:.3g} of {len(weights)} patches"


def sheet_names(photos: Iterable[str]) -> Iterator[str]:
    """Of photos by their names, in the order in which they were measured: the files in sheets/."""
    taken: dict[str, int] = {}
    for photo in photos:
        yield sheet_name(photo, taken)


def sheet_name(photo: str, taken: dict[str, int]) -> str:
    return f"{unique(slug(Path(photo).stem), taken)}.jpg"


def style_of(record: JobRecord) -> overlays.Style:
    """The style in which a job's tiles were drawn."""
    settings = record.asked.get("render", {})
    names = [entry.name for entry in fields(overlays.Style)]
    return overlays.Style(**{name: settings[name] for name in names if name in settings})
