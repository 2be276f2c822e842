"""What it is worth to draw cells where they look: stretch, rf and calibrated side by side, as markdown tables on stdout.

    python scripts/measure_placement.py --material DIR                                   # the tables
    python scripts/measure_placement.py --material DIR --picture docs/placements.jpg     # the picture, by MobileNetV2; no tables

DIR (or ATTNVIS_MATERIAL) holds weights/{mobilenet_v2.safetensors,squeezenet1_0.pth}, photos to calibrate on in imagenet_like/train, VOC
boxes in raccoon/{images,annotations} and fixations in osie/{images,fixations.npz}.  The calibrations are kept in a folder of the script's
own for as long as it runs; nothing of the user's is read or changed.  The metrics are those of measure_embedded.py.
Brackets: 95 % bootstrap interval over photos; differences are paired, photo by photo.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from measure_embedded import Gaze, auc, boxes, gaze, interval, markdown

from attnvis import query, scaling
from attnvis.api import load_backbone
from attnvis.attention import attend
from attnvis.backbone import Backbone
from attnvis.calibration import Calibration
from attnvis.photo import collate, find, load
from attnvis.placement import spread
from attnvis.stimuli import clouds
from attnvis.values import Batch, Box, Features, Photo, Preprocessing
from attnvis.verbs import flip_test, store

WEIGHTS = {"mobilenet_v2": "mobilenet_v2.safetensors", "squeezenet1_0": "squeezenet1_0.pth"}
CALIBRATED = 224  # the size of both networks' own
DISCS = 448
PLACEMENTS = ("stretch", "rf", "calibrated")
SETTINGS = {"device": "cpu", "precision": "fp32"}
Map = Float[np.ndarray, "H W"]
Table = dict[str, Float[np.ndarray, "P M"]]  # placement -> a row per photo, a column per metric


@dataclass(frozen=True)
class Placed:
    """One network with every placement: the maps are computed once and placed three times."""

    name: str
    backbones: dict[str, Backbone]
    found: dict[int, Calibration]  # by the size of the photos that it was calibrated on

    def __call__(self, batch: Batch) -> dict[str, Features]:
        with torch.inference_mode():
            maps = self.backbones["rf"].trunk(batch.images)[0]
            return {placement: backbone.features(0, maps, batch) for placement, backbone in self.backbones.items()}


def placed(name: str, args: argparse.Namespace, sizes: Sequence[int]) -> Placed:
    """Calibrated at the first of the sizes; at the others only to see whether it matters."""
    how = SETTINGS | {"weights": str(args.material / "weights" / WEIGHTS[name])}
    plain = load_backbone(name, placement="rf", **how)
    paths = find(args.material / "imagenet_like" / "train")
    chosen = [paths[index] for index in np.random.default_rng(args.seed).choice(len(paths), args.calibrate, replace=False)]
    found = {size: flip_test(plain, chosen, Preprocessing(size), seed=args.seed)[0][0] for size in sizes}
    store(found[sizes[0]])
    return Placed(name, {placement: load_backbone(name, placement=placement, **how) for placement in PLACEMENTS}, found)


# Scores of maps.


def small(photo: Photo, short: int = 200) -> tuple[int, int]:
    """Where maps are compared: the photo's shape, `short` pixels on the short side."""
    height, width = photo.size
    return round(height * short / min(height, width)), round(width * short / min(height, width))


def centre_map(size: tuple[int, int]) -> Map:
    """A Gaussian in the middle; standard deviation: a quarter of each side."""
    rows, columns = ((np.arange(side) + 0.5) / side - 0.5 for side in size)
    return np.exp(-8 * (rows[:, None] ** 2 + columns**2))


def summit(drawn: Map) -> tuple[float, float]:
    """Where a map is largest, as shares of its height and width; of a level stretch at the border, the middle."""
    rows, columns = np.nonzero(drawn == np.nanmax(drawn))
    return float(rows.mean() + 0.5) / drawn.shape[0], float(columns.mean() + 0.5) / drawn.shape[1]


def box_scores(drawn: Map, photo: Photo, found: Sequence[Box]) -> tuple[float, float]:
    """(whether the summit lies in a box, AUC of the pixels in boxes against the others; NaN where the boxes leave none)."""
    (height, width), (row, column) = photo.size, summit(drawn)
    rows, columns = (np.arange(drawn.shape[0]) + 0.5) * height / drawn.shape[0], (np.arange(drawn.shape[1]) + 0.5) * width / drawn.shape[1]
    inside = np.zeros(drawn.shape, bool)
    for box in found:
        across = (columns >= box.left) & (columns < box.left + box.width)
        inside |= ((rows >= box.top) & (rows < box.top + box.height))[:, None] & across
    area = auc(drawn[inside], drawn[~inside]) if inside.any() and not inside.all() else np.nan
    return float(any(box.holds(row * height, column * width) for box in found)), area


def gaze_scores(drawn: Map, people: Gaze, number: int) -> tuple[float, float]:
    """(NSS, shuffled AUC).  Normalised scanpath saliency (Peters et al. 2005): mean z-score at the fixated pixels."""
    rows, columns = np.minimum(people.fixations[number] * drawn.shape, np.array(drawn.shape) - 1).astype(int).T
    return float(((drawn - drawn.mean()) / drawn.std())[rows, columns].mean()), people.shuffled_auc(number, drawn)


def draw(cells: Float[torch.Tensor, " N"], features: Features, photo: Photo) -> Map:
    return spread(cells.reshape(features.grid).numpy(), features.placements[0], small(photo))


# Tables.


def on_boxes(net: Placed, pairs: Sequence[tuple[Photo, list[Box]]], size: int) -> Table:
    """Maps of the cosine with the mean patch of the boxes of all other photos, the boxes laid on the cells as the placement says."""
    seen = [net(collate([photo], Preprocessing(size))) for photo, _ in pairs]
    scores: Table = {"centre": np.array([box_scores(centre_map(small(photo)), photo, found) for photo, found in pairs])}
    for placement in PLACEMENTS:
        means = torch.cat(
            [query.box(one[placement], b.left, b.top, b.width, b.height).vectors for one, (_, (b, *_)) in zip(seen, pairs, strict=True)]
        )
        rows = []
        for one, mean, (photo, found) in zip(seen, means, pairs, strict=True):
            features = one[placement]
            cells = attend((means.sum(0) - mean).unsqueeze(0), features.tokens, scaling=scaling.cosine).logits[0, 0]
            rows.append(box_scores(draw(cells, features, photo), photo, found))
        scores[placement] = np.array(rows)
    return scores


def on_fixations(net: Placed, people: Gaze, count: int, size: int) -> Table:
    """Maps of the norm of the patch features."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ("centre", *PLACEMENTS)}
    for number, photo in enumerate(people.photos[:count]):
        rows["centre"].append(gaze_scores(centre_map(small(photo)), people, number))
        for placement, features in net(collate([photo], Preprocessing(size))).items():
            rows[placement].append(gaze_scores(draw(features.tokens[0].norm(dim=-1), features, photo), people, number))
    return {name: np.array(found) for name, found in rows.items()}


def rows(table: Table, seed: int) -> Iterator[str]:
    """The placements' means, then their differences."""

    def said(values: Float[np.ndarray, "P M"]) -> str:
        return " | ".join(interval(column[np.isfinite(column)], np.random.default_rng(seed)) for column in values.T)

    for name, values in table.items():
        yield f"| {name} | {said(values)} |"
    for one, other in (("rf", "stretch"), ("calibrated", "stretch"), ("calibrated", "rf")):
        yield f"| {one} - {other} | {said(table[one] - table[other])} |"


def tables(args: argparse.Namespace) -> Iterator[str]:
    pairs = boxes(args.material / "raccoon", args.photos)
    people = gaze(args.material / "osie")
    count = min(args.photos or len(people.photos), len(people.photos))
    for name in WEIGHTS:
        net = placed(name, args, (CALIBRATED, 225, 288, 384))
        yield f"### {name}\n"
        yield from markdown(("calibrated at", "shift", "by halves", "held-out correlation before", "after"))
        for size, one in net.found.items():
            (low, high), (first, second) = one.interval, one.halves
            used = ", used below" if size == CALIBRATED else ""
            yield (
                f"| {size} px{used} | {one.shift:.2f} [{low:.2f}, {high:.2f}] px | {first:.2f}, {second:.2f} px | "
                f"{one.before:.3f} | {one.after:.3f} |"
            )
        rf = net.backbones["rf"]
        yield f"\n{args.calibrate} photos to calibrate on.  Geometry: {rf.placed(rf.reach_on((CALIBRATED, CALIBRATED)))}.\n"
        for size in (384, 225):
            yield from markdown((f"{len(pairs)} photos with boxes, {size} px", "pointing", "pixel AUC"))
            yield from rows(on_boxes(net, pairs, size), args.seed)
            yield ""
        for size in (288, 225):
            yield from markdown((f"{count} photos with fixations, {size} px", "NSS", "shuffled AUC"))
            yield from rows(on_fixations(net, people, count, size), args.seed)
            yield ""
        for size in (DISCS, DISCS + 1):
            yield from markdown((f"{args.discs} generated discs, {size} px: pixels by which the map misses", "down", "right", "distance"))
            yield from rows(misses(net, args, size), args.seed)
            yield ""


# Discs: pictures of which it is known to the pixel where the thing is.


@dataclass(frozen=True)
class Disc:
    """A small bright disc on a cloudy ground, and the ground alone."""

    picture: np.ndarray
    ground: np.ndarray
    place: tuple[float, float]  # (row, column) of its middle, in pixels


def disc(seed: int, size: int, radius: float = 11.0) -> Disc:
    """Far enough from the borders that the cells about it respond to nothing else."""
    rng = np.random.default_rng(seed)
    row, column = (float(share * size) for share in rng.uniform(0.35, 0.65, 2))
    ground = 0.28 + 0.24 * clouds(rng, size)[..., None] * np.array([0.9, 1.0, 0.85])
    away = np.hypot(np.arange(size)[:, None] + 0.5 - row, np.arange(size) + 0.5 - column)
    share = np.clip(radius + 0.5 - away, 0, 1)[..., None]
    lit = ground * (1 - share) + share * np.array([1.0, 0.85, 0.2])
    picture, alone = (np.rint(255 * colours).astype(np.uint8) for colours in (lit, ground))
    return Disc(picture, alone, (row, column))


def answers(net: Placed, shown: Disc) -> dict[str, Map]:
    """By how much the disc changes every patch feature (norm of the difference to the ground alone), drawn under every placement."""
    lit, dark = (net(collate([load(picture)], Preprocessing(len(picture)))) for picture in (shown.picture, shown.ground))
    found = {}
    for placement, features in lit.items():
        change = (features.tokens - dark[placement].tokens)[0].norm(dim=-1)
        found[placement] = spread(change.reshape(features.grid).numpy(), features.placements[0])
    return found


def middle(drawn: Map) -> tuple[float, float]:
    """The centre of mass of what rises above half of the largest value, in pixels of the map."""
    above = np.maximum(drawn - drawn.max() / 2, 0)
    row, column = (float(shares @ (np.arange(len(shares)) + 0.5) / shares.sum()) for shares in (above.sum(1), above.sum(0)))
    return row, column


def misses(net: Placed, args: argparse.Namespace, size: int) -> Table:
    """Pixels by which the middle of every disc's map misses it: down, right, and the distance."""
    found: dict[str, list[tuple[float, float, float]]] = {placement: [] for placement in PLACEMENTS}
    for number in range(args.discs):
        shown = disc(number, size)
        for placement, drawn in answers(net, shown).items():
            down, across = (at - true for at, true in zip(middle(drawn), shown.place, strict=True))
            found[placement].append((down, across, float(np.hypot(down, across))))
    return {placement: np.array(values) for placement, values in found.items()}


def picture(args: argparse.Namespace) -> None:
    """Of all discs the one that is missed most nearly by the mean distances.  The cross is where it is, the ring the middle of the map."""
    from matplotlib.figure import Figure

    net = placed("mobilenet_v2", args, (CALIBRATED,))
    distances = np.stack([values[:, 2] for values in misses(net, args, DISCS).values()])
    shown = disc(int(np.abs(distances - distances.mean(1, keepdims=True)).sum(0).argmin()), DISCS)
    drawn = answers(net, shown)
    figure = Figure(figsize=(12.6, 3.95), layout="constrained")
    titles = {
        "stretch": "stretch: the grid pulled over the input",
        "rf": "rf: where geometry centres the cells",
        "calibrated": f"calibrated: rf moved by {net.found[CALIBRATED].shift:.1f} px",
    }
    for axes, (placement, one) in zip(figure.subplots(1, 4), [("", None), *drawn.items()], strict=True):
        axes.imshow(shown.picture, extent=(0, DISCS, DISCS, 0))
        axes.set(xticks=[], yticks=[])
        row, column = shown.place
        if one is None:
            axes.set_title(f"the photo, {DISCS} px", fontsize=11)
            axes.set_xlabel("a generated disc on a cloudy ground", fontsize=11)
            continue
        axes.imshow(one / max(m.max() for m in drawn.values()), extent=(0, DISCS, DISCS, 0), cmap="turbo", vmin=0, vmax=1, alpha=0.55)
        at = middle(one)
        axes.plot(column, row, "+", color="white", markersize=19, markeredgewidth=3.5)
        axes.plot(column, row, "+", color="black", markersize=16, markeredgewidth=1.5)
        axes.plot(at[1], at[0], "o", color="white", markersize=13, markerfacecolor="none", markeredgewidth=2.5)
        axes.set_title(titles[placement], fontsize=11)
        axes.set_xlabel(f"off by {np.hypot(at[0] - row, at[1] - column):.0f} px", fontsize=11)
    figure.suptitle(
        "How much the disc changes MobileNetV2's last patch features.  Cross: the disc.  Ring: the middle of the map.", fontsize=12
    )
    figure.savefig(args.picture, dpi=100, pil_kwargs={"quality": 88})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=Path, default=os.environ.get("ATTNVIS_MATERIAL"), help="default: ATTNVIS_MATERIAL")
    parser.add_argument("--calibrate", type=int, default=200, help="photos to calibrate on")
    parser.add_argument("--photos", type=int, help="no more than so many of each set to score on")
    parser.add_argument("--discs", type=int, default=100)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw one disc under every placement instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.material is None:
        parser.error("no material: name its folder with --material, or in ATTNVIS_MATERIAL")
    try:
        with tempfile.TemporaryDirectory() as own:
            os.environ["ATTNVIS_CACHE"] = own
            if args.picture:
                picture(args)
            else:
                for line in tables(args):
                    print(line, flush=True)
    except ValueError as error:
        parser.exit(1, f"measure_placement: {error}\n")


if __name__ == "__main__":
    main()
