"""What a picture's colours and scale are worth.

python scripts/measure_pictures.py colours
    lightness along the bar, and as the colour-blind see it
python scripts/measure_pictures.py saturation FOLDER --query mean --scaling inv_sqrt_d
    photos whose hottest patch is beyond the bar
python scripts/measure_pictures.py speed
    drawing an overlay of 640 x 480, in core-ms
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from skimage.color import rgb2lab

from attnvis import api, backbone, render
from attnvis.backbone import sources
from attnvis.data.paths import find
from attnvis.render import overlays
from attnvis.types import Box, Placement, Source

# Machado, Oliveira and Fernandes 2009, severity 1.0: on linear RGB
DEFICIENCIES = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def lightness(colours: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
    """CIE L* of RGB 0 ... 1."""
    return rgb2lab(colours[None])[0, :, 0]


def seen_with(deficiency: str, colours: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(DEFICIENCIES[deficiency]).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def colours() -> Iterable[str]:
    """L* at nine equal steps of every colour map, and the largest step of it against the direction of the
    whole.
    """
    at = np.linspace(0, 255, 9).round().astype(int)
    yield "| colours | as seen with | L* at nine equal steps | largest step backwards of 64 |"
    yield "|---|---|---|---|"
    for name in overlays.COLOURS:
        rgb = overlays.colour_table(name)[:, 0] / 255
        views = {"all cones": rgb} | {deficiency: seen_with(deficiency, rgb) for deficiency in DEFICIENCIES}
        for view, shown in views.items():
            along = lightness(shown)
            steps = np.diff(along[::4]) * np.sign(along[-1] - along[0])
            values = " ".join(f"{value:.1f}" for value in along[at])
            yield f"| {name} | {view} | {values} | {max(0.0, -steps.min()):.2f} |"


def saturation(
    paths: Sequence[Source], query: str, scaling: str, backbone: backbone.Backbone, size: int | None
) -> Iterable[str]:
    """On how many photos the hottest patch lies beyond a bar that ends at so many times uniform."""
    explanations = (api.explain(path, query, scaling, backbone=backbone, size=size) for path in paths)
    hottest = [explanation.diagnostics["max_times_uniform"] for explanation in explanations]
    yield (
        f"{query} under {scaling}, {backbone.name}, {len(paths)} photos: "
        "hottest patch, percentiles 5, 50, 90, 95, 100:"
    )
    yield "  " + " ".join(f"{value:.1f}" for value in np.percentile(hottest, (5, 50, 90, 95, 100)))
    for high in (16, 32, 48, 64, 128):
        beyond = sum(value > high for value in hottest)
        yield f"  beyond {high}x: {beyond} of {len(hottest)} ({100 * beyond / len(hottest):.1f} %)"


def speed(rounds: int = 9, photos: int = 40) -> Iterable[str]:
    """Median over rounds; the maps are like those of the default: a few cells of 70 hold all."""
    random = np.random.default_rng(0)
    torch.set_num_threads(1)
    for height, width in ((240, 320), (480, 640), (1500, 2000)):
        photo = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        placement = Placement(
            (height / 14, width / 20),
            (height / 7, width / 10),
            (7, 10),
            (height, width),
            Box(0.0, 0.0, float(height), float(width)),
        )
        logits = 3 * random.standard_normal((photos, 70))
        maps = (
            (70 * np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
            .reshape(photos, 7, 10)
            .astype(np.float32)
        )
        taken = []
        for _ in range(rounds):
            start = time.process_time()
            for cells in maps:
                render.overlay(photo, cells, render.Style(), placement=placement)
            taken.append(1000 * (time.process_time() - start) / photos)
        yield f"{width} x {height}: {statistics.median(taken):.2f} core-ms an overlay"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("colours", "saturation", "speed"))
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--query", default="mean")
    parser.add_argument("--scaling", default="inv_sqrt_d")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, help="short side of the network's input, in pixels")
    asked = parser.parse_args()
    if asked.what == "colours":
        lines = colours()
    elif asked.what == "speed":
        lines = speed()
    else:
        paths = [path for place in asked.photos for path in find(place)]
        lines = saturation(
            paths, asked.query, asked.scaling, sources.load_backbone(asked.backbone), asked.size
        )
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
