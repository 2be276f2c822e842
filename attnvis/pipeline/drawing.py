"""A photo and its answers in, overlays and panels in the run's folder out; and what a panel says beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attnvis.data.decoding import full_pixels
from attnvis.files import save, slug, unique
from attnvis.methods.answer import Answer
from attnvis.render import overlays, panels
from attnvis.types import Box, Photo, percent

__all__ = ["draw"]


def draw(
    folder: Path,
    stem: str,
    photo: Photo,
    answers: Sequence[Answer],
    style: overlays.Style,
    lines: Sequence[tuple[str, object]] = (),
    warnings: Sequence[str] = (),
) -> list[dict[str, str]]:
    """The overlay (and panel) of every answer; returns their paths relative to the folder."""
    pixels = full_pixels(photo)
    drawn, names = [], dict[str, int]()
    for answer in answers:
        name = unique(f"{stem}.{slug(answer.label)}", names)
        paths = {"overlay": f"overlays/{name}.{style.format}"}
        cells, mark, field, placement = answer.cells, answer.mark, answer.field, answer.placement
        picture = overlays.overlay(pixels, cells, style, mark, field=field, placement=placement)
        save(folder / paths["overlay"], overlays.encode(picture, style.format, style.quality))
        if style.panel:
            paths["panel"] = f"panels/{name}.{style.format}"
            told = [line for line in lines if line[0] not in ABOUT_CLASSES or answer.class_score]
            outline = [("outline", seen_by(field, placement.seen))] if style.field and field else []
            said = [
                ("query", answer.query),
                *([("this class", answer.class_score)] if answer.class_score else []),
                *told,
                *numbers_of(answer),
                *outline,
                *(("warning", text) for text in (*warnings, *answer.warnings)),
            ]
            title = f"{photo.name}: {answer.label}"
            picture = panels.panel(pixels, cells, style, title, said, mark, field=field, placement=placement)
            save(folder / paths["panel"], overlays.encode(picture, style.format, style.quality))
        drawn.append(paths)
    return drawn


def seen_by(field: Box, seen: Box) -> str:
    if overlays.covers(field, seen):
        return "none: one cell can see all that the network saw (its receptive field)"
    return f"the {field.width:.0f} x {field.height:.0f} px that one cell can see (its receptive field)"


def about(scaling: str) -> str:
    return f"{scaling}: this sharpness was asked for" if scaling.startswith("perplexity") else scaling


ABOUT_CLASSES = ("class scores", "warning")  # lines for class queries alone


def network(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a panel says of the network: its layer, where there are not several (then labels name them), and what class scores lack."""
    layer = "" if "+" in facts["layer"] else f", layer {facts['layer']}"
    lines = [("backbone", facts["backbone"] + layer)]
    certificate, off_size = facts.get("class scores", ""), facts.get("class size", "")
    if "approximate" in certificate:
        lines.append(("class scores", certificate))
    if off_size:
        lines.append(("warning", off_size))
    return lines


def taken_for(
    predicted: Sequence[tuple[str, float]], facts: Mapping[str, str] = MappingProxyType({})
) -> list[tuple[str, str]]:
    """What the network takes the photo for."""
    if not predicted:
        return []
    classes = ", ".join(f"{name} {percent(probability)}" for name, probability in predicted[:3])
    return [("predicted", classes + (" (off its size)" if facts.get("class size") else ""))]


def numbers_of(answer: Answer) -> list[tuple[str, str]]:
    """What a panel says of an attention."""
    numbers = answer.diagnostics
    lines = [
        ("spread over", f"{numbers['perplexity']:.1f} of {answer.patches} patches (perplexity)"),
        ("hottest patch", f"{numbers['max_times_uniform']:.1f} x uniform"),
    ]
    if "sigma_eff" in numbers:  # else the map is no attention's
        lines.append(("sigma_eff", f"{numbers['sigma_eff']:.2f}"))
    return lines


def short(config: Mapping[str, Any]) -> str:
    """{_target_: attnvis.attention.scaling.temperature, tau: 2} -> temperature(tau=2)"""
    settings = ", ".join(f"{key}={value}" for key, value in config.items() if not key.startswith("_"))
    name = str(config.get("_target_", "")).rsplit(".", 1)[-1]
    return f"{name}({settings})" if settings else name
