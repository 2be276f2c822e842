"""What a job measured of a photo -> a contact sheet: queries down, settings across, one colour scale."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from attnvis.experiments.sweep.folder import setting_name
from attnvis.experiments.sweep.record import JobRecord, Tile
from attnvis.files import save, slug, unique
from attnvis.methods.settings import PhotoResult
from attnvis.render import overlays, panels
from attnvis.types import Photo

__all__ = ["TILE", "SheetWriter", "style_of"]

TILE = 220  # pixels


class SheetWriter:
    """sheets/ of a job, for the first `most` photos (None: all); for the first photo tiles/ too."""

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

    def add(self, photo: Photo, results: Sequence[PhotoResult]) -> None:
        if self.most is not None and self.drawn >= self.most:
            return
        pixels = overlays.resize_longest_side(photo.pixels, TILE)
        pictures, headings = [], []
        for result in results:
            same = result.query == result.label
            headings.append(result.query if same else f"{result.query} ({result.label})")
            for setting, picture, spread in self.pictures_of(photo, pixels, result):
                pictures.append((picture, f"{setting}: {spread}"))
                if not self.drawn:
                    file = f"tiles/{len(self.tiles)}.jpg"
                    save(self.folder, file, overlays.encode(picture, "jpg", 85))
                    tile = Tile(file, photo.name, result.query, result.label, said=spread, setting=setting)
                    self.tiles.append(tile)
        sheet = panels.contact_sheet(
            pictures, len(self.settings), TILE, photo.name, self.style, headings=headings
        )
        stem = unique(slug(Path(photo.name).stem), self.names)
        self.files.append(f"sheets/{stem}.jpg")
        save(self.folder, self.files[-1], overlays.encode(sheet, "jpg", 88))
        self.drawn += 1

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


def style_of(record: JobRecord) -> overlays.Style:
    """The style in which a job's tiles were drawn."""
    settings = record.asked.get("render", {})
    names = [entry.name for entry in fields(overlays.Style)]
    return overlays.Style(**{name: settings[name] for name in names if name in settings})
