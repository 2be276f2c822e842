"""Verdicts as a terminal, a spreadsheet and a page take them."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from attnvis.data.decoding import full_pixels
from attnvis.experiments.evaluate.tables import interval_text, number_text
from attnvis.experiments.figure_files import write_figures
from attnvis.experiments.sanity.measure import Measured
from attnvis.experiments.sanity.verdicts import (
    CHECKS,
    FAILS,
    PASSES,
    UNTOLD,
    Cascade,
    Verdict,
    cascades,
    verdicts,
)
from attnvis.experiments.wording import listed_names, many
from attnvis.files import save
from attnvis.metrics.intervals import FEWEST_OF_MEANS
from attnvis.pipeline.records import SafeWriter
from attnvis.render import overlays, panels
from attnvis.render.html import environment, write_page
from attnvis.render.plots import Figure, draw, legend, short

__all__ = ["Findings", "as_text", "findings_of", "sentences", "write_sanity"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SIGNS = {PASSES: "✓", FAILS: "✗", UNTOLD: "?", "": "·"}
SHARES = ("mirror", "shift")  # checks whose figure counts photos
SIDE = 220  # pixels of an example's long side
MOST_SHOWN = 6  # maps that are drawn along the cascade


@dataclass(frozen=True, eq=False)
class Findings:
    """All that a page says."""

    measured: Measured
    verdicts: list[Verdict]
    cascades: list[Cascade]

    def cell(self, row: str, check: str) -> Verdict:
        return next(each for each in self.verdicts if (each.map, each.check) == (row, check))


def findings_of(measured: Measured, seed: int = 0) -> Findings:
    """What is concluded of what was measured; seed: of the resamples."""
    return Findings(measured, verdicts(measured, seed), list(cascades(measured, seed)))


def figure_text(verdict: Verdict) -> str:
    """The figure with its interval; of checks that count photos how many of how many."""
    figure = verdict.figure
    if math.isnan(figure.value):
        return "–"
    if verdict.check in SHARES:
        return f"{round(figure.value * figure.count)} of {figure.count} photos"
    return " ".join(filter(None, [plain(figure.value), interval_text(figure)]))


def plain(value: float) -> str:
    """As a table has it; what is far below its digits as a power of ten."""
    if value == 0:
        return "0"
    return f"{value:.0e}" if abs(value) < 1e-3 else number_text(value)


def bound_text(verdict: Verdict) -> str:
    if math.isnan(verdict.bound):
        return "–"
    if verdict.check in SHARES:
        return "0 photos"
    sign = "≥" if verdict.check == "query" else "≤"
    return f"{sign} {plain(verdict.bound)}"


def as_text(findings: Findings) -> str:
    """A line for every map and check."""
    lines = [("map", "check", "figure", "bound", "verdict")]
    for each in findings.verdicts:
        if each.verdict:
            why = f" ({each.why})" if each.why and each.verdict != PASSES else ""
            lines.append((each.map, each.check, figure_text(each), bound_text(each), each.verdict + why))
    widths = [max(map(len, column)) for column in list(zip(*lines, strict=True))[:-1]]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    )


def sentences(findings: Findings) -> Iterator[str]:
    """Check by check which maps fail, and which cannot be told."""
    photos = len(findings.measured.photos)
    if photos < FEWEST_OF_MEANS:
        yield (
            f"These are {many(photos, 'photo')}: what is compared photo by photo needs {FEWEST_OF_MEANS}, "
            "and is not decided here."
        )
    for check in CHECKS.values():
        of_check = [each for each in findings.verdicts if each.check == check.name and each.verdict]
        by_verdict = {
            text: [each.map for each in of_check if each.verdict == text] for text in (PASSES, FAILS, UNTOLD)
        }
        if not of_check:
            continue
        parts = [f"{counted(by_verdict[PASSES], len(of_check))} pass"]
        if by_verdict[FAILS]:
            parts.append(f"fails: {listed_names(by_verdict[FAILS])}")
        if by_verdict[UNTOLD]:
            parts.append(f"cannot be told: {listed_names(by_verdict[UNTOLD])}")
        yield f"{check.name}: {check.what}; {'; '.join(parts)}."


def counted(maps: Sequence[str], total: int) -> str:
    if len(maps) == total:
        return "the one map does" if total == 1 else f"all {total} maps"
    return f"{len(maps)} of {total} maps"


# ------------------------------------------------------------------------------------------------ the files


def write_sanity(
    findings: Findings,
    folder: Path,
    facts: Mapping[str, str],
    style: overlays.Style,
    warnings: Sequence[str] = (),
    refused: Mapping[str, str] | None = None,
) -> Path:
    """index.html, sanity.csv (a line for every map and check), cascade.csv, figures/; gives the page."""
    save(folder, "sanity.csv", verdict_rows(findings).encode("utf-8", "backslashreplace"))
    save(folder, "cascade.csv", cascade_rows(findings).encode("utf-8", "backslashreplace"))
    figures = [cascade_figure(findings, which) for which in ("absolute", "ssim")]
    write_figures(folder, figures)
    measured = findings.measured
    counted_maps, counted_photos = many(len(measured.maps), "map"), many(len(measured.photos), "photo")
    pages = environment("attnvis.experiments.sanity", "attnvis.experiments")
    return write_page(
        folder / "index.html",
        pages.get_template("sanity.html"),
        title=f"{counted_maps} under {len(CHECKS)} checks on {counted_photos}",
        sentences=list(sentences(findings)),
        checks=list(CHECKS.values()),
        rows=[
            (row, [(cell, SIGNS[cell.verdict]) for cell in (findings.cell(row, check) for check in CHECKS)])
            for row in measured.maps
        ],
        verdicts=findings.verdicts,
        figure_text=figure_text,
        bound_text=bound_text,
        figures=figures,
        strips=list(strips(measured, style)),
        stages=["as trained", *measured.stages],
        example=measured.example[0].name if measured.example else "",
        colour_bar=overlays.encode(panels.colour_bar(style, noun="saliency"), "png"),
        failures=measured.failures,
        refused=refused or {},
        warnings=warnings,
        facts=facts,
    )


VERDICT_COLUMNS = ("map", "check", "figure", "low", "high", "bound", "verdict", "photos", "why")


def verdict_rows(findings: Findings) -> str:
    rows = [
        {
            "map": each.map,
            "check": each.check,
            "figure": each.figure.value,
            "low": each.figure.low,
            "high": each.figure.high,
            "bound": each.bound,
            "verdict": each.verdict or "not asked",
            "photos": each.figure.count,
            "why": each.why,
        }
        for each in findings.verdicts
    ]
    return as_csv(VERDICT_COLUMNS, rows)


def cascade_rows(findings: Findings) -> str:
    names = ("spearman", "absolute", "pearson", "ssim", "other")
    rows = []
    for each in findings.cascades:
        row: dict[str, Any] = {"map": each.map, "stage": each.stage}
        for name in names:
            of_name = getattr(each, name)
            row |= {name: of_name.value, f"{name}_low": of_name.low, f"{name}_high": of_name.high}
        rows.append(row)
    return as_csv(
        ("map", "stage", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))), rows
    )


def as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = SafeWriter(text, columns, restval="", quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def cascade_figure(findings: Findings, which: str) -> Figure:
    """How like itself each map is, stage by stage; dotted: how like another photo's map."""
    measured = findings.measured
    stages = ["as trained", *measured.stages]
    title = {"absolute": "|Spearman| with the trained map", "ssim": "SSIM with the trained map"}[which]
    rows = math.ceil(len(measured.maps) / 2)
    height, foot = 3.4 + 0.17 * rows, 0.75 + 0.17 * rows

    def paint(axes: Any) -> None:
        for number, row in enumerate(measured.maps):
            points = [each for each in findings.cascades if each.map == row]
            values = [getattr(each, which) for each in points]
            colour = COLOURS[number % len(COLOURS)]
            line = "o-" if number < len(COLOURS) else "s--"
            curve = [1.0, *(each.value for each in values)]
            axes.plot(range(len(stages)), curve, line, color=colour, ms=3.5, label=short(row))
            lows, highs = ([1.0, *(getattr(each, end) for each in values)] for end in ("low", "high"))
            axes.fill_between(range(len(stages)), lows, highs, color=colour, alpha=0.12, lw=0)
            if which == "absolute":
                axes.axhline(points[0].other.value, color=colour, lw=0.9, ls=":")
        axes.set_xticks(range(len(stages)), [stage.replace("and the last ", "+ ") for stage in stages])
        axes.set_ylim(min(0, axes.get_ylim()[0]), 1.03)
        axes.set_xlabel("drawn anew")
        axes.set_ylabel(title)
        legend(axes, foot, height, columns=2)

    return draw(f"cascade_{which}", title, height, paint, foot=foot)


def strips(measured: Measured, style: overlays.Style) -> Iterator[tuple[str, list[bytes]]]:
    """The first photo's maps along the cascade, map by map."""
    if measured.example is None:
        return
    photo, stages = measured.example
    pixels = full_pixels(photo)
    for row, maps in list(stages.items())[:MOST_SHOWN]:
        pictures = [
            overlays.overlay(pixels, each.cells, style, None, placement=each.placement) for each in maps
        ]
        yield row, [overlays.encode(small(picture), "jpg", 85) for picture in pictures]


def small(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture whose long side has at most SIDE pixels."""
    zoom = min(1.0, SIDE / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * zoom)), max(1, round(picture.shape[0] * zoom)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
