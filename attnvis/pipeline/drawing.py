"""A photo and its answers in, overlays and panels in the run's folder out; what a panel says beside them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from attnvis.data.decoding import full_pixels
from attnvis.files import save, slug, unique
from attnvis.methods.answer import Answer
from attnvis.render import overlays, panels
from attnvis.render.thumbnail import Thumbnail, thumbnail_of_file
from attnvis.types import Box, Photo, Provenance, percent

__all__ = [
    "HEATMAPS",
    "PHOTOS",
    "PhotoDrawer",
    "Pictures",
    "class_lines",
    "noun_of",
    "number_lines",
    "scaling_text",
]

PHOTOS, HEATMAPS = "thumbnails/photos", "thumbnails/heatmaps"  # what a page shows instead of an overlay
SIDE = 640  # pixels of the longer side of these

Line = tuple[str, object]  # a name and what stands behind it


@dataclass(frozen=True)
class Pictures:
    """Of one answer."""

    paths: Mapping[str, str]  # overlay, panel -> where it lies in the folder
    digests: Mapping[str, str]  # such a path -> sha256 of the file
    thumbnail: Thumbnail | None = None  # of the overlay


@dataclass(frozen=True)
class PhotoDrawer:
    """Draws photos into one run's folder, in one style."""

    folder: Path
    style: overlays.Style
    provenance: Provenance
    scaling: str  # "": the method has none, as it is no attention
    warnings: tuple[str, ...] = ()  # of the network

    def draw(
        self,
        stem: str,
        photo: Photo,
        answers: Sequence[Answer],
        thumbnails: int = 0,
        views: bool = False,
    ) -> list[Pictures]:
        """The overlay (and panel) of every answer; of the first so many also a thumbnail.

        views: also what a page shows beside overlays, the bare photo and every bare heatmap, both small.
        """
        pixels = full_pixels(photo)
        small_photo = (
            overlays.resize_longest_side(pixels, min(SIDE, max(pixels.shape[:2]))) if views else None
        )
        if small_photo is not None:
            self.save(f"{PHOTOS}/{stem}.jpg", overlays.encode(small_photo, "jpg", 82))
        pictures, names = [], dict[str, int]()
        for number, answer in enumerate(answers):
            name = unique(f"{stem}.{slug(answer.label)}", names)
            paths = {"overlay": f"overlays/{name}.{self.style.format}"}
            overlay = overlays.overlay(
                pixels, answer.cells, self.style, answer.mark, field=answer.field, placement=answer.placement
            )
            encoded = self.encode(overlay)
            digests = {paths["overlay"]: self.save(paths["overlay"], encoded)}
            if self.style.panel:
                paths["panel"] = f"panels/{name}.{self.style.format}"
                panel = panels.panel(
                    pixels,
                    answer.cells,
                    self.style,
                    title=title(photo, answer),
                    lines=list(self.lines(answer, photo)),
                    mark=answer.mark,
                    field=answer.field,
                    placement=answer.placement,
                    noun=noun_of(self.scaling),
                )
                digests[paths["panel"]] = self.save(paths["panel"], self.encode(panel))
            if small_photo is not None:
                size = small_photo.shape[:2]
                heatmap = overlays.heatmap(answer.cells, self.style, placement=answer.placement, size=size)
                self.save(f"{HEATMAPS}/{name}.jpg", overlays.encode(heatmap, "jpg", 82))
            # of the file, as a run that goes on makes it: the page is the same
            small = thumbnail_of_file(encoded) if number < thumbnails else None
            pictures.append(Pictures(paths, digests, small))
        return pictures

    def encode(self, picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
        return overlays.encode(picture, self.style.format, self.style.quality)

    def save(self, name: str, encoded: bytes) -> str:
        """Gives the digest of the file."""
        save(self.folder, name, encoded)
        return hashlib.sha256(encoded).hexdigest()

    def lines(self, answer: Answer, photo: Photo) -> Iterator[Line]:
        """What stands beside one map: the question, the network, the numbers, and what to beware of."""
        yield "query" if self.scaling else "method", answer.query
        if answer.class_score:
            yield "this class", answer.class_score
        if answer.stability is not None:
            stability = answer.stability
            yield "holds still", f"correlation {stability.worst:.2f} at worst ({stability.change})"
        if answer.p_value is not None:
            yield "as hot by chance", f"p = {answer.p_value:.2g}, beside random classes"
        yield from class_lines(answer.predicted, off_size=bool(self.provenance.class_size))
        if self.scaling:
            yield "scaling", scaling_text(self.scaling)
        yield from network_lines(self.provenance, of_a_class=answer.class_score is not None)
        yield from number_lines(answer)
        if self.style.field and answer.field:
            yield "outline", outline_text(answer.field, answer.placement.seen)
        for photo_note in photo.notes:
            yield "photo", photo_note
        for warning in (*self.warnings, *answer.warnings):
            yield "warning", warning


def noun_of(scaling: str) -> str:
    """What a run's maps are."""
    return "attention" if scaling else "saliency"


def title(photo: Photo, answer: Answer) -> str:
    """Of a panel: a map that turns over, or that a random class would give as well, says so here."""
    doubt = f" (as hot by chance: p = {answer.p_value:.2g})" if answer.is_chance else ""
    if answer.stability is not None and answer.turns_over:
        doubt = f" (turns over: {answer.stability.change})"
    return f"{photo.name}: {answer.label}{doubt}"


def outline_text(field: Box, seen: Box) -> str:
    if overlays.covers(field, seen):
        return "none: one cell can see all that the network saw (its receptive field)"
    return f"the {field.width:.0f} x {field.height:.0f} px that one cell can see (its receptive field)"


def scaling_text(scaling: str) -> str:
    return f"{scaling}: this sharpness was asked for" if scaling.startswith("perplexity") else scaling


def network_lines(provenance: Provenance, of_a_class: bool) -> Iterator[Line]:
    """The network and its layer, where there are not several (then labels name them);
    and what class scores lack.
    """
    layer = "" if "+" in provenance.layer else f", layer {provenance.layer}"
    yield "backbone", provenance.backbone + layer
    if of_a_class and "approximate" in provenance.class_scores:
        yield "class scores", provenance.class_scores
    if of_a_class and provenance.class_size:
        yield "warning", provenance.class_size


def class_lines(predicted: Sequence[tuple[str, float]], off_size: bool = False) -> Iterator[Line]:
    """What the network takes the photo for; `off_size`: the input has not the size that its classifier was
    tested at.
    """
    if predicted:
        classes = ", ".join(f"{name} {percent(probability)}" for name, probability in predicted[:3])
        yield "predicted", classes + (" (off its size)" if off_size else "")


def number_lines(answer: Answer) -> Iterator[Line]:
    """How sharp the map is."""
    numbers = answer.diagnostics
    yield "spread over", f"{numbers['perplexity']:.1f} of {answer.patches} patches (perplexity)"
    yield "hottest patch", f"{numbers['max_times_uniform']:.1f} x uniform"
    if "sigma_eff" in numbers:  # else the map is no attention's
        yield "sigma_eff", f"{numbers['sigma_eff']:.2f}"
