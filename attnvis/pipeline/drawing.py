"""A photo and its answers in, overlays and panels in the run's folder out; what a panel says beside them."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from attnvis.attention.query.language import asks_a_class
from attnvis.data.decoding import full_pixels
from attnvis.files import save, slug, unique
from attnvis.methods.answer import Answer, Attended
from attnvis.pipeline.records import HEATMAPS, OVERLAYS, PHOTOS
from attnvis.render import overlays, panels
from attnvis.render.curves import COLOURS, Curve, Plot
from attnvis.render.thumbnail import Thumbnail, thumbnail
from attnvis.types import Box, Photo, Provenance, percent

__all__ = [
    "PhotoDrawer",
    "Pictures",
    "attended_lines",
    "attended_plots",
    "class_lines",
    "head_maps",
    "heads_text",
    "noun_of",
    "number_lines",
    "scaling_text",
]

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
    keys: str = ""  # "": as `scaling`
    heads: str = ""
    beyond: bool = False  # maps are drawn as they differ from the position prior

    @property
    def noun(self) -> str:
        """What the maps are, for the colour bar."""
        return noun_of(self.scaling) + (" beyond the position prior" if self.beyond else "")

    def draw(
        self,
        stem: str,
        photo: Photo,
        answers: Sequence[Answer],
        views: bool = False,
    ) -> list[Pictures]:
        """The overlay (and panel) of every answer.

        views: also what a page shows, all small: the bare photo, every bare heatmap, a thumbnail of every
        overlay.
        """
        pixels = full_pixels(photo)
        canvas = overlays.at_most(pixels, self.style.longest)
        small_photo = overlays.at_most(pixels, SIDE) if views else None
        of_photo: dict[str, str] = {}
        if small_photo is not None:
            name = f"{PHOTOS}/{stem}.jpg"
            of_photo[name] = self.save(name, overlays.encode(small_photo, "jpg", 82))
        pictures, names = [], dict[str, int]()
        for answer in answers:
            name = unique(f"{stem}.{slug(answer.label)}", names)
            paths = {"overlay": f"overlays/{name}.{self.style.format}"}
            levels = overlays.pixel_levels(
                answer.cells, self.style, size=canvas.shape[:2], placement=answer.placement
            )
            overlay = overlays.overlay(
                canvas,
                answer.cells,
                self.style,
                mark=answer.mark,
                size=pixels.shape[:2],
                field=answer.field,
                placement=answer.placement,
                excess=answer.beyond_chance,
                levels=levels,
            )
            digests = of_photo | {paths["overlay"]: self.save(paths["overlay"], self.encode(overlay))}
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
                    noun=self.noun,
                    plots=attended_plots(answer),
                    parts=head_maps(answer) or layer_maps(answer, answers),
                    excess=answer.beyond_chance,
                )
                digests[paths["panel"]] = self.save(paths["panel"], self.encode(panel))
            small = None
            if small_photo is not None:
                heatmap = overlays.heatmap(
                    answer.cells,
                    self.style,
                    placement=answer.placement,
                    size=small_photo.shape[:2],
                    levels=levels,
                )
                view = f"{HEATMAPS}/{name}.jpg"
                digests[view] = self.save(view, overlays.encode(heatmap, "jpg", 82))
                small = thumbnail(overlay)  # kept as a file: the page of a run that goes on is the same
                view = f"{OVERLAYS}/{name}.jpg"
                digests[view] = self.save(view, small.jpeg)
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
        yield from doubt_lines(answer)
        yield from class_lines(answer.predicted, off_size=bool(self.provenance.class_size))
        yield from attended_lines(answer.attended)
        if self.scaling:
            layers = layers_of(answer)
            of_each = "layer" if layers else "head" if answer.heads is not None else ""
            yield "scaling", scaling_text(self.scaling, of_each)
            if layers:
                yield "layers", f"{', '.join(layers)}: {answer.label.rpartition(', ')[2]}"
        if answer.heads is not None:
            yield "heads", heads_text(self.heads, answer)
        if self.keys not in ("", "same"):
            yield "keys", self.keys
        of_a_class = answer.class_score is not None or (bool(self.scaling) and asks_a_class(answer.query))
        yield from network_lines(self.provenance, of_a_class)
        if self.beyond:
            yield "drawn", "as it differs from the position prior of the run; the numbers are the map's own"
        yield from number_lines(answer)
        if self.style.field and answer.field:
            yield "outline", outline_text(answer.field, answer.placement.seen)
        for photo_note in photo.notes:
            yield "photo", photo_note
        for warning in (*self.warnings, *answer.warnings):
            yield "warning", warning


def head_maps(answer: Answer) -> list[panels.Part]:
    """Of several heads each one's times uniform, with its heading."""
    if answer.heads is None:
        return []
    weights = answer.heads.float().cpu().numpy()
    cells = weights.shape[1] * weights.reshape(len(weights), *answer.placement.grid)
    return [
        (f"head {number} of {len(cells)}", of_head, answer.placement)
        for number, of_head in enumerate(cells, start=1)
    ]


def layers_of(answer: Answer) -> list[str]:
    """The layers whose maps were joined; [] of a map of one layer."""
    names = answer.layer.split("+")
    return names if answer.attention is None and len(names) > 1 else []


def layer_maps(answer: Answer, others: Sequence[Answer]) -> list[panels.Part]:
    """Of several layers that one map was made of, those among the photo's others, with their names."""
    if not layers_of(answer):
        return []
    base, _, _ = answer.label.rpartition(", ")
    layers = [other for other in others if other.label == f"{base}, {other.layer}"]
    return [(other.layer, other.cells, other.placement) for other in layers]


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


def heads_text(heads: str, answer: Answer) -> str:
    """random(count=4): the mean of 4 (correlation of two 0.81)"""
    count = 0 if answer.heads is None else len(answer.heads)
    return f"{heads}: the mean of {count} (correlation of two {answer.head_agreement:.2f})"


def scaling_text(scaling: str, of_each: str = "") -> str:
    """of_each: head or layer, where the map is made of several; "": of the map itself."""
    asked = ": this sharpness was asked for" + (f" of each {of_each}" if of_each else "")
    return scaling + asked if scaling.startswith("perplexity") else scaling


def network_lines(provenance: Provenance, of_a_class: bool) -> Iterator[Line]:
    """The network and its layer, where there are not several (then labels name them);
    and what class scores lack.
    """
    layer = "" if "+" in provenance.layer else f", layer {provenance.layer}"
    yield "backbone", provenance.backbone + layer
    if of_a_class and any(word in provenance.class_scores for word in ("approximate", "no logit")):
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


def doubt_lines(answer: Answer) -> Iterator[Line]:
    """Whether the map holds still, and whether it is about the query."""
    if answer.stability is not None:
        stability = answer.stability
        yield "holds still", f"correlation {stability.worst:.2f} at worst ({stability.change})"
    if answer.p_value is not None:
        yield "as hot by chance", f"p = {answer.p_value:.2g}, beside random classes"
    if answer.patches_beyond_chance is not None:
        count, outlined = answer.patches_beyond_chance, "outlined in blue"
        yield (
            "beyond chance",
            f"{count or 'none'} of {answer.patches} patches{f' ({outlined})' if count else ''}",
        )


def attended_lines(attended: Attended | None) -> Iterator[Line]:
    """What the classifier says of the context, of its complement and of all patches."""
    if attended is None:
        return
    if attended.reason:
        yield "attended", attended.reason
        return
    for name, pooled in (("attended", attended.inside), ("the rest", attended.outside)):
        chance = "" if math.isnan(pooled.probability) else f" {percent(pooled.probability)}"
        yield name, f"{pooled.name or 'none'}{chance}"
    means = {"attended": attended.inside, "the rest": attended.outside, "all": attended.whole}
    margins = ", ".join(f"{name} {pooled.margin:+.2f}" for name, pooled in means.items())
    yield "margin", f"of {attended.name}: {margins}"
    areas = f"insertion {attended.insertion.area:.2f}, deletion {attended.deletion.area:.2f}"
    yield "cells", f"{areas} (probability of {attended.name})"


def attended_plots(answer: Answer) -> tuple[Plot, ...]:
    """Probability and margin along the temperature, the probability over the cells; () where not known."""
    attended = answer.attended
    if attended is None or attended.reason:
        return ()
    first, second, third = COLOURS
    steps = np.log2(np.asarray(attended.temperatures))
    place = None
    if is_on_the_way(answer):  # the spread of its logits is 1 / tau
        place = float((-math.log2(answer.diagnostics["sigma_eff"]) - steps[0]) / (steps[-1] - steps[0]))
    ends = ("sharp", "flat")
    dotted = "" if place is None or not 0 <= place <= 1 else "; dotted: this map"
    whole = attended.whole
    is_watched = whole.name == attended.name
    levels = (Curve("all patches", np.array([whole.probability]), third),) if is_watched else ()
    margins = np.concatenate([attended.margins, [whole.margin, 0.0]])
    low, high = float(np.nanmin(margins)), float(np.nanmax(margins))
    room = 0.05 * (high - low) or 1.0
    return (
        Plot(
            f"probability of {attended.name}{dotted}",
            (Curve("attended", attended.probabilities, first), *levels),
            ends,
            place=place,
        ),
        Plot(
            "margin to the next class",
            (
                Curve("attended", attended.margins, first),
                Curve("all patches", np.array([whole.margin]), third),
            ),
            ends,
            limits=(low - room, high + room),
            place=place,
        ),
        Plot(
            "probability over the patches",
            (
                Curve("hottest put in", attended.insertion.curve, first),
                Curve("hottest taken out", attended.deletion.curve, second),
            ),
            ("none", "all"),
        ),
    )


def is_on_the_way(answer: Answer) -> bool:
    """Whether the map is softmax of its scores at a temperature: not a cosine, sparsemax, several heads."""
    spread = answer.diagnostics.get("sigma_eff", 0.0)
    if answer.attention is None or answer.heads is not None or not (spread > 0 and math.isfinite(spread)):
        return False
    scores = answer.attention.scores[0, 0].double().cpu()
    standard = (scores - scores.mean()) / scores.std(correction=0)
    weights = answer.weights.double().cpu()
    return bool(((standard * spread).softmax(0) - weights).abs().max() < 1e-2 * weights.max())


def number_lines(answer: Answer) -> Iterator[Line]:
    """How sharp the map is."""
    numbers = answer.diagnostics
    yield "spread over", f"{numbers['perplexity']:.1f} of {answer.patches} patches (perplexity)"
    yield "hottest patch", f"{numbers['max_times_uniform']:.1f} x uniform"
    if "sigma_eff" in numbers:  # else the map is no attention's
        yield "sigma_eff", f"{numbers['sigma_eff']:.2f}"
