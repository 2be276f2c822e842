"""The README's pictures: photos down and queries across, or queries down and scalings across.

All on one colour scale.

python scripts/contact_sheet.py queries docs/queries.jpg
    every query over the samples, the mean with the default scaling
python scripts/contact_sheet.py scalings docs/scalings.jpg
    seven scalings of three queries on the cat
python scripts/contact_sheet.py colours FILE
    three colour maps over the samples: heatmap, overlay, and printed in grey
"""

import argparse
from pathlib import Path

import numpy as np

from attnvis import api, render
from attnvis.backbone import Backbone, sources
from attnvis.data.decoding import load
from attnvis.data.paths import SAMPLES, find

QUERIES = ("class", "mean", "distance", "norm", "rarity", "pca", "random")
TITLE = "the patches that each map spreads over, and how often uniform its hottest is; one colour scale"
SCALINGS = ("none", "ssmax", "inv_sqrt_d", "inv_d", "cosine", "zscore", "perplexity")


def queries(backbone: Backbone, samples: list[str]) -> list[tuple]:
    """A row per photo: the photo, then each query."""
    tiles = []
    for name in samples:
        photo = load(find(f"samples/{name}")[0])
        height, width = photo.size
        spot = f"point:{width // 2},{height // 2}"
        tiles.append((photo.pixels, name))
        for asked in (*QUERIES, spot):
            # under 1/sqrt(d) the others are nearly uniform or nearly one-hot
            scaling = "inv_sqrt_d" if asked == "mean" else "perplexity"
            tiles.append(tile(api.explain(f"samples/{name}", asked, scaling, backbone=backbone)))
    return tiles


def scalings(backbone: Backbone, sample: str) -> list[tuple]:
    """A row per query, a scaling per column."""
    return [
        tile(api.explain(f"samples/{sample}", asked, name, backbone=backbone), name)
        for asked in ("point:165,120", "mean", "class")
        for name in SCALINGS
    ]


def colours(
    backbone: Backbone, samples: list[str], query: str = "mean", scaling: str = "inv_sqrt_d"
) -> list[tuple]:
    """A row per photo: heatmap, overlay and grey overlay in each of three colour maps."""
    tiles = []
    for name in samples:
        found = api.explain(f"samples/{name}", query, scaling, backbone=backbone)
        for named in ("scorch", "turbo", "magma"):
            heatmap = render.heatmap(found.answer.cells, render.Style(colours=named), found.answer.placement)
            drawn = found.overlay(colours=named)
            grey = np.repeat(np.rint(drawn @ (0.299, 0.587, 0.114)).astype(np.uint8)[..., None], 3, axis=2)
            tiles += [(heatmap, named), (drawn, ""), (grey, "")]
    return tiles


def tile(found: api.Explanation, said: str = "") -> tuple:
    numbers = found.diagnostics
    return (
        found.overlay(),
        f"{said or found.label}: {numbers['perplexity']:.0f} of {found.answer.patches}, "
        f"{numbers['max_times_uniform']:.3g}x",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("queries", "scalings", "colours"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights")
    parser.add_argument(
        "--samples",
        nargs="+",
        default=["cat", "astronaut", "coffee", "rocket"],
        help=f"of {', '.join(SAMPLES)}",
    )
    asked = parser.parse_args()
    backbone = sources.load_backbone(asked.backbone, **({"weights": asked.weights} if asked.weights else {}))
    if asked.which == "queries":
        made, columns = queries(backbone, asked.samples), len(QUERIES) + 2
    elif asked.which == "scalings":
        made, columns = scalings(backbone, asked.samples[0]), len(SCALINGS)
    else:
        made, columns = colours(backbone, asked.samples), 9
    title = f"{backbone.name}: {TITLE}"
    sheet = render.contact_sheet(
        made, columns=columns, side=300, title=title, style=render.Style(), widest=1640
    )
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    render.write(asked.file, sheet)


if __name__ == "__main__":
    main()
