"""Which question to ask when nobody asks one: what each candidate finds, as tables, and sheets to look at.

    python scripts/choose_question.py docs/question.csv --material DIR
        the forty photos of docs/question.md, whose things lie in boxes
    python scripts/choose_question.py DIR/osie/images
        many photos: which maps turn over, and what pca's margin knows
    python scripts/choose_question.py DIR/imagenet_like/test --size 448
        how hot the hottest patch gets
    python scripts/choose_question.py samples --sheet docs/question.jpg
        photos down and candidates across; no tables

Two maps are compared as they lie on the photo: with that of the mirrored photo (mirrored back),
and with that at another size.
  turned over      log N a (the scale of the colours) correlates below 0: the map is its own negative
  moved away       N a correlates below 0: the order may be kept, but the few hottest patches are others
  readable         the map spreads over 3 to 50 % of the patches
Tables are markdown on stdout.  Everything in fp32: the same on every machine.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from attnvis import render
from attnvis.attention.query import language
from attnvis.attention.spec import functions
from attnvis.backbone import Backbone
from attnvis.backbone.sources import load_backbone
from attnvis.data.decoding import full_pixels, load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.geometry import to_pixels
from attnvis.methods.answer import Answer
from attnvis.methods.attention import AttentionMethod
from attnvis.types import Photo, Source

CANDIDATES = (
    *(("class", scaling) for scaling in ("inv_sqrt_d", "perplexity:0.1")),
    ("mean", "inv_sqrt_d"),
    # d_k = 1: 1/sqrt(d) is none
    *(("distance", scaling) for scaling in ("none", "zscore", "perplexity:0.1")),
    *(("norm", scaling) for scaling in ("none", "zscore", "perplexity:0.1")),
    ("rarity", "perplexity:0.1"),
    ("pca", "perplexity:0.1"),
    ("random", "perplexity:0.1"),
)
SHOWN = (
    *(
        ("class", "perplexity:0.1"),
        ("mean", "inv_sqrt_d"),
        ("distance", "none"),
        ("distance", "perplexity:0.1"),
    ),
    *((asked, "perplexity:0.1") for asked in ("norm", "pca", "random")),
)
READABLE = (0.03, 0.5)  # of the patches
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
QUANTILES = (0.1, 0.5, 0.9, 0.99)

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the photo


@dataclass(frozen=True)
class Likeness:
    """How two maps of one photo correlate."""

    logs: float  # log N a: logits, up to a constant
    maps: float  # N a


@dataclass(frozen=True)
class Finding:
    """What one candidate found on one photo."""

    mirror: Likeness  # to the map of the mirrored photo
    size: Likeness  # to the map at the other size
    spread: float  # perplexity, as a share of the patches
    hottest: float  # times uniform
    inside: bool | None  # the hottest cell's centre lies in a box; None: the photo has no box
    touching: bool | None  # the hottest cell's tile touches a box
    margin: float | None  # how clearly a free sign was chosen


# ------------------------------------------------------------------------------------------------ asking


def methods(backbone: Backbone) -> list[AttentionMethod]:
    return [
        AttentionMethod(backbone, language.parse(asked), functions("scaling", [scaling])[scaling])
        for asked, scaling in CANDIDATES
    ]


@torch.inference_mode()
def answers(backbone: Backbone, photo: Photo, size: int) -> list[Answer]:
    """One answer per candidate, from one pass of the network."""
    features = backbone(collate([photo], backbone.preprocessing.changed("resize", size)))
    return [answer for method in methods(backbone) for answer in method.answer(features)[0]]


def study(
    backbone: Backbone, photo: Photo, boxes: Sequence[Rectangle], sizes: tuple[int, int]
) -> list[Finding]:
    mirrored = replace(photo, pixels=np.ascontiguousarray(photo.pixels[:, ::-1]))
    straight = answers(backbone, photo, sizes[0])
    turned = answers(backbone, mirrored, sizes[0])
    resized = answers(backbone, photo, sizes[1])
    height, width = photo.size
    short = min(photo.size)
    grid = (round(height * 100 / short), round(width * 100 / short))  # where maps are compared
    results = []
    for answer, flipped, other in zip(straight, turned, resized, strict=True):
        results.append(
            Finding(
                mirror=likeness(answer, flipped, grid, mirrored=True),
                size=likeness(answer, other, grid, mirrored=False),
                spread=answer.diagnostics["perplexity"] / answer.patches,
                hottest=answer.diagnostics["max_times_uniform"],
                inside=hits(answer, boxes, reach=0.0),
                touching=hits(answer, boxes, reach=0.5),
                margin=answer.sign_margin,
            )
        )
    return results


def likeness(first: Answer, second: Answer, grid: tuple[int, int], mirrored: bool) -> Likeness:
    logs, maps = log_map(second, grid), second.map(grid)
    if mirrored:
        logs, maps = logs[:, ::-1], maps[:, ::-1]
    return Likeness(correlation(log_map(first, grid), logs), correlation(first.map(grid), maps))


def log_map(answer: Answer, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """log N a up to a constant, which no correlation sees; from the logits,
    because a itself may be rounded to 0.
    """
    assert answer.attention is not None
    return to_pixels(answer.attention.logits.reshape(answer.placement.grid).numpy(), answer.placement, size)


def correlation(first: Float[np.ndarray, "h w"], second: Float[np.ndarray, "h w"]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def hits(answer: Answer, boxes: Sequence[Rectangle], reach: float) -> bool | None:
    """Whether the hottest cell's centre lies in a box grown by `reach` cells on all sides."""
    if not boxes:
        return None
    place = answer.placement
    row, column = place.centre(*answer.hottest)
    y, x = row / place.size[0], column / place.size[1]
    down, across = reach * place.step[0] / place.size[0], reach * place.step[1] / place.size[1]
    return covered(
        x,
        y,
        [(left - across, top - down, right + across, bottom + down) for left, top, right, bottom in boxes],
    )


def covered(x: float, y: float, boxes: Sequence[Rectangle]) -> bool:
    return any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)


# ------------------------------------------------------------------------------------------------ telling


def name(asked: str, scaling: str) -> str:
    return f"{asked}, {scaling}"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")
    print()


def counts(findings: list[list[Finding]]) -> Iterator[Sequence[str]]:
    """A row per candidate."""
    for pair, column in zip(CANDIDATES, zip(*findings, strict=True), strict=True):
        shares = np.array([finding.spread for finding in column])
        hits_known = [finding for finding in column if finding.inside is not None]
        for_boxes = [
            str(sum(bool(finding.inside) for finding in hits_known)),
            str(sum(bool(finding.touching) for finding in hits_known)),
        ]
        logs = np.array([(finding.mirror.logs, finding.size.logs) for finding in column])
        maps = np.array([(finding.mirror.maps, finding.size.maps) for finding in column])
        logs_over, maps_over = (logs < 0).sum(0), (maps < 0).sum(0)
        yield (
            name(*pair),
            f"{logs_over[0]} / {logs_over[1]}",
            f"{maps_over[0]} / {maps_over[1]}",
            f"{np.median(logs[:, 0]):.2f} / {np.median(maps[:, 0]):.2f}",
            " / ".join(f"{100 * share:.2g}" for share in (shares.min(), np.median(shares), shares.max())),
            str(int(((shares >= READABLE[0]) & (shares <= READABLE[1])).sum())),
            *(for_boxes if hits_known else ("-", "-")),
        )


def signs(findings: list[list[Finding]]) -> Iterator[Sequence[str]]:
    """Per threshold on pca's margin: how many of the maps that turned over it warns of,
    and of how many others.
    """
    column = [row[CANDIDATES.index(("pca", "perplexity:0.1"))] for row in findings]
    for threshold in THRESHOLDS:
        warned = [finding.margin is not None and finding.margin < threshold for finding in column]
        over = [min(finding.mirror.logs, finding.size.logs) < 0 for finding in column]
        caught = sum(map(all, zip(warned, over, strict=True)))
        yield (
            f"{threshold:g}",
            f"{caught} of {sum(over)}",
            f"{sum(warned) - caught} of {len(over) - sum(over)}",
        )


def heats(findings: list[list[Finding]]) -> Iterator[Sequence[str]]:
    for pair, column in zip(CANDIDATES, zip(*findings, strict=True), strict=True):
        yield (
            name(*pair),
            *(f"{value:.3g}" for value in np.quantile([finding.hottest for finding in column], QUANTILES)),
        )


def sheet(backbone: Backbone, photos: Sequence[Photo], size: int) -> np.ndarray:
    """A row per photo: the photo, then each candidate of SHOWN."""
    style, tiles = render.Style(), []
    for photo in photos:
        pixels = full_pixels(photo)
        tiles.append((pixels, photo.name))
        for pair, answer in zip(CANDIDATES, answers(backbone, photo, size), strict=True):
            if pair in SHOWN:
                hottest = answer.diagnostics["max_times_uniform"]
                caption = f"{answer.label}, {about(answer, pair[1])}: {hottest:.3g}x"
                tiles.append((render.overlay(pixels, answer.map(), style), caption))
    title = (
        f"{backbone.name}, one colour scale; how many of the patches a map spreads over, "
        "and its hottest patch"
    )
    return render.contact_sheet(tiles, columns=1 + len(SHOWN), side=230, title=title, style=style)


def about(answer: Answer, scaling: str) -> str:
    """The share of the patches that a map spreads over: asked for, or found."""
    share = f"{answer.diagnostics['perplexity'] / answer.patches:.0%}"
    return f"set to {share}" if scaling.startswith("perplexity") else f"{scaling}, {share}"


# ------------------------------------------------------------------------------------------------ reading


def boxed(path: Path, material: Path) -> dict[Source, list[Rectangle]]:
    """photo,left,top,right,bottom: a line per box; photos in `material`, or samples/NAME."""
    boxes: dict[Source, list[Rectangle]] = {}
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            photo = row["photo"] if row["photo"].startswith("samples/") else material / row["photo"]
            left, top, right, bottom = (float(row[side]) for side in ("left", "top", "right", "bottom"))
            boxes.setdefault(find(photo)[0], []).append((left, top, right, bottom))
    return boxes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+", help="a .csv of boxes; or photos, folders, samples")
    parser.add_argument("--material", type=Path, default=Path(), help="where the photos of a .csv lie")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights")
    parser.add_argument("--size", type=int, help="short side of the input; else the network's own")
    parser.add_argument("--other", type=int, default=320, help="the size to compare with")
    parser.add_argument("--sheet", type=Path, help="draw this picture, and print no tables")
    args = parser.parse_args()
    backbone = load_backbone(
        args.backbone, precision="fp32", **({"weights": args.weights} if args.weights else {})
    )
    sizes = (args.size or backbone.preprocessing.size, args.other)
    listed = args.photos[0].endswith(".csv")
    boxes = boxed(Path(args.photos[0]), args.material) if listed else {path: [] for path in find(args.photos)}
    if args.sheet:
        render.write(args.sheet, sheet(backbone, [load(path) for path in boxes], sizes[0]))
        return
    findings = [study(backbone, load(path), rectangles, sizes) for path, rectangles in boxes.items()]
    print(f"{backbone.name}, {len(findings)} photos at {sizes[0]} px (the other size: {sizes[1]})\n")
    compared = (
        "turned over: mirror / size",
        "moved away: mirror / size",
        "median r with mirror: log N a / N a",
    )
    alone = (
        "% of patches: min / median / max",
        "readable",
        "hottest cell's centre in a box",
        "hottest cell touches a box",
    )
    table(("", *compared, *alone), counts(findings))
    if listed:
        middle = sum(covered(0.5, 0.5, rectangles) for rectangles in boxes.values())
        print(f"The photo's middle lies in a box on {middle} of {len(boxes)} photos.\n")
    table(
        ("pca: margin below", "turned over, and warned of", "not turned over, and warned of"), signs(findings)
    )
    table(("hottest patch, times uniform", *(f"{share:.0%}" for share in QUANTILES)), heats(findings))


if __name__ == "__main__":
    main()
