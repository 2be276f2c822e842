"""How good the embedded network is, beside the same network with random weights and beside its teacher: a markdown table on stdout.

    python scripts/measure_embedded.py --material DIR          # the shipped weights
    python scripts/measure_embedded.py --weights FILE          # those of a file
    python scripts/measure_embedded.py --freeze tests/embedded_frozen.json   # what the tests hold the shipped weights to; needs no material

DIR (or ATTNVIS_MATERIAL) holds imagenet_like/test/<class index>_<anything>.jpg, raccoon/{images,annotations} with VOC boxes (left out
where absent) and weights/mobilenet_v2.safetensors.  One seed fixes every draw.  Brackets: 95 % bootstrap interval over photos or mosaics.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import shift  # type: ignore[import-untyped]
from torch import Tensor, nn

from attnvis import embedded as shipped
from attnvis import query, scaling
from attnvis.api import explain, load_backbone
from attnvis.attention import attend
from attnvis.backbone import Backbone
from attnvis.photo import PhotoError, collate, find, fit, load
from attnvis.values import Batch, Box, Features, Photo, Placement, Preprocessing

CROP = Preprocessing(225, "crop", resize=256)
TILE = Preprocessing(224, "crop")
MOSAIC = Preprocessing(449, "stretch")  # 32 k + 1; of 448 pixels in tiles of 224
SETTINGS = {"device": "cpu", "precision": "fp32"}


def interval(values: Sequence[float] | np.ndarray, rng: np.random.Generator) -> str:
    """Mean and 95 % percentile bootstrap interval."""
    values = np.asarray(values, float)
    means = values[rng.integers(len(values), size=(2000, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def batches(photos: Sequence[Photo], how: Preprocessing, size: int = 20) -> Iterator[Batch]:
    for start in range(0, len(photos), size):
        yield collate(photos[start : start + size], how)


def recalibrated(backbone: Backbone, photos: Sequence[Photo]) -> Backbone:
    """Batch norm's statistics taken anew from photos: without, random maps are blown up or die out, and the control is too easy to beat."""
    norms = [module for module in backbone.encode.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over the batches
        norm.train()
    for batch in batches(photos, CROP):
        backbone(batch)
    backbone.encode.eval()
    return backbone


def hottest(values: Float[Tensor, " N"], placement: Placement) -> tuple[float, float]:
    """Where the largest value's cell is centred on the photo."""
    return placement.centre(*divmod(int(values.argmax()), placement.grid[1]))


# The measurements.  Every function gives one number per photo or mosaic.


def predictions(backbone: Backbone, photos: Sequence[Photo]) -> Float[Tensor, "P C"]:
    answers = [backbone(batch).logits for batch in batches(photos, CROP)]
    return torch.cat([answer for answer in answers if answer is not None])


def mosaics(photos: Sequence[Photo], count: int, rng: np.random.Generator) -> Iterator[tuple[Photo, int, Box]]:
    """Four photos, 2 x 2, the number of the one that is asked for, and where it is."""
    tiles = [fit(photo, TILE)[0] for photo in photos]
    side = TILE.size
    for number in range(count):
        chosen, place = rng.choice(len(photos), 4, replace=False), int(rng.integers(4))
        upper, lower = (np.hstack([tiles[i] for i in pair]) for pair in (chosen[:2], chosen[2:]))
        box = Box(side * (place // 2), side * (place % 2), side, side)
        yield load(np.vstack([upper, lower]), name=f"mosaic {number}"), int(chosen[place]), box


def pointing(
    backbone: Backbone, photos: Sequence[Photo], classes: Sequence[int], count: int, rng: np.random.Generator
) -> tuple[list[bool], list[bool]]:
    """Whether the best patch lies in the right tile: asked for its true class (scores), and for another view of its photo (cosine)."""
    by_class, by_exemplar = [], []
    for mosaic, number, box in mosaics(photos, count, rng):
        features = backbone(collate([mosaic], MOSAIC))
        row = query.class_(features, name=classes[number]).vectors
        by_class.append(box.holds(*hottest(attend(row, features.tokens).scores[0, 0], features.placements[0])))
        other = backbone(collate([another_view(photos[number], rng)], Preprocessing(161, "stretch"))).mean.unsqueeze(1)
        found = attend(other, features.tokens, scaling=scaling.cosine).logits[0, 0]
        by_exemplar.append(box.holds(*hottest(found, features.placements[0])))
    return by_class, by_exemplar


def another_view(photo: Photo, rng: np.random.Generator) -> Photo:
    """Mirrored, and a random square of .7 to .9 of the short side."""
    height, width = photo.pixels.shape[:2]
    side = int(min(height, width) * rng.uniform(0.7, 0.9))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return load(photo.pixels[top : top + side, left : left + side][:, ::-1], name=photo.name)


def boxes(folder: Path, limit: int | None) -> list[tuple[Photo, list[Box]]]:
    pairs = []
    for path in sorted((folder / "annotations").glob("*.xml"))[:limit]:
        tree = ElementTree.parse(path)
        found = [[float(box.findtext(side, "0")) for side in ("ymin", "xmin", "ymax", "xmax")] for box in tree.iter("bndbox")]
        photo = load(folder / "images" / (tree.findtext("filename") or ""))
        pairs.append((photo, [Box(top, left, bottom - top, right - left) for top, left, bottom, right in found]))
    return pairs


def box_pointing(backbone: Backbone, pairs: list[tuple[Photo, list[Box]]]) -> list[bool]:
    """Whether the patch most like the boxes of all other photos (cosine with their mean patch) lies in a box."""
    seen: list[Features] = [backbone(collate([photo], Preprocessing(225))) for photo, _ in pairs]
    means = torch.cat(
        [query.box(features, b.left, b.top, b.width, b.height).vectors for features, (_, (b, *_)) in zip(seen, pairs, strict=True)]
    )
    hits = []
    for features, mean, (_, found) in zip(seen, means, pairs, strict=True):
        others = (means.sum(0) - mean).unsqueeze(0)
        spot = hottest(attend(others, features.tokens, scaling=scaling.cosine).logits[0, 0], features.placements[0])
        hits.append(any(box.holds(*spot) for box in found))
    return hits


def flip_test(backbone: Backbone, photos: Sequence[Photo], rng: np.random.Generator) -> str:
    """Where the cells look: the shift d, in cells, between a map of norms and the mirrored map of the mirrored photo; cell 0 lies at c0.

    d maximises the correlation over the columns that no shift takes off the grid; c0 = (S - 1 - stride (n - 1) - stride d) / 2.
    """
    plain: list[np.ndarray] = []
    mirrored: list[np.ndarray] = []
    for batch in batches(photos, CROP):
        for into, images in ((plain, batch.images), (mirrored, batch.images.flip(-1))):
            features = backbone(replace(batch, images=images))
            into.append(features.tokens.norm(dim=-1).unflatten(1, features.grid).numpy())
    first, second = np.concatenate(plain), np.concatenate(mirrored)[:, :, ::-1]
    cells, shifts = first.shape[2], np.arange(-2, 2.01, 0.05)
    inside = slice(2, cells - 2)

    def correlation(d: float) -> np.ndarray:
        moved = shift(first, (0, 0, -d), order=3, mode="nearest")  # moved[x] = first[x + d]
        pairs = [(maps[:, :, inside] - maps[:, :, inside].mean((1, 2), keepdims=True)) for maps in (moved, second)]
        products = [(a * b).sum((1, 2)) for a, b in ((pairs[0], pairs[1]), (pairs[0], pairs[0]), (pairs[1], pairs[1]))]
        return products[0] / np.sqrt(products[1] * products[2] + 1e-12)

    table = np.stack([correlation(d) for d in shifts], 1)  # [photos, shifts]
    draws = shifts[table[rng.integers(len(table), size=(2000, len(table)))].mean(1).argmax(1)]
    reach = backbone.reach
    stride = CROP.size / cells if reach is None else reach.stride[1]
    d, (low, high) = shifts[table.mean(0).argmax()], np.quantile(draws, [0.025, 0.975])
    c0, least, most = ((CROP.size - 1 - stride * (cells - 1) - stride * value) / 2 for value in (d, high, low))
    said = "" if reach is None else f"; geometry says {reach.offset[1]:.3g} px"
    return f"d = {d:.2f} [{low:.2f}, {high:.2f}] cells of {stride:.3g} px, so c0 = {c0:.1f} [{least:.1f}, {most:.1f}] px{said}"


# The table.


def table(args: argparse.Namespace) -> Iterator[str]:
    """Lines of markdown."""
    paths = find(args.material / "imagenet_like" / "test")[: args.photos]
    photos, classes = [load(path) for path in paths], [int(path.name.split("_")[0]) for path in paths]
    try:
        pairs = boxes(args.material / "raccoon", args.photos)
    except PhotoError:
        pairs = []
    teacher = args.teacher_weights or str(args.material / "weights" / f"{args.teacher}.safetensors")
    torch.manual_seed(args.seed)
    rows = {
        "random weights": recalibrated(load_backbone("embedded", weights="random", **SETTINGS), photos[:60]),
        "embedded": load_backbone("embedded", weights=args.weights, **SETTINGS),
        f"teacher ({args.teacher})": load_backbone(args.teacher, weights=teacher, **SETTINGS),
    }
    truth, right = torch.tensor(classes), predictions(list(rows.values())[-1], photos).argmax(1)
    yield f"{len(photos)} labelled photos and {len(pairs)} with boxes at 225 px, {args.mosaics} mosaics at 449 px, seed {args.seed}."
    yield "Random weights: the same architecture, batch norm's statistics taken from 60 of the photos.\n"
    head = ("", "teacher's top-1", "teacher's top-1 in top-5", "accuracy", "class pointing", "exemplar pointing", "box pointing")
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for name, backbone in rows.items():
        rng = np.random.default_rng(args.seed)  # the same mosaics and draws for every row
        ranked = predictions(backbone, photos).argsort(1, descending=True)
        hits: list[Sequence[float] | np.ndarray] = [
            (ranked[:, 0] == right).numpy(),
            (ranked[:, :5] == right[:, None]).any(1).numpy(),
            (ranked[:, 0] == truth).numpy(),
            *pointing(backbone, photos, classes, args.mosaics, rng),
        ]
        cells = [interval(values, rng) for values in hits] + [interval(box_pointing(backbone, pairs), rng) if pairs else "-"]
        yield "| " + " | ".join([name, *cells]) + " |"
    centre = [any(box.holds(photo.size[0] / 2, photo.size[1] / 2) for box in found) for photo, found in pairs]
    said = interval(centre, np.random.default_rng(args.seed)) if pairs else "-"
    yield f"| chance; the photo's centre | 0.001 | 0.005 | 0.001 | 0.250 | 0.250 | {said} |"
    yield "\nFlip test at 225 px, maps of feature norms:"
    for name, backbone in rows.items():
        yield f"- {name}: {flip_test(backbone, photos, np.random.default_rng(args.seed))}"


def frozen() -> dict[str, object]:
    """What the shipped weights say of the sample photos."""
    backbone = load_backbone("embedded", **SETTINGS)
    samples = {}
    for path in find("samples"):
        found = explain(path, query="class", scaling="inv_sqrt_d", backbone=backbone)
        logits = backbone(collate([found.photo], backbone.preprocessing)).logits
        assert logits is not None
        numbers = {"top1": int(logits[0].argmax()), "logit": float(logits[0].max()), "perplexity": found.diagnostics["perplexity"]}
        samples[path.stem] = {name: round(value, 4) for name, value in numbers.items()}
    return {"sha256": shipped.SHA256, "samples": samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=Path, default=os.environ.get("ATTNVIS_MATERIAL"), help="default: ATTNVIS_MATERIAL")
    parser.add_argument("--weights", default="shipped", help="of the embedded network: shipped, or a .safetensors file")
    parser.add_argument("--teacher", default="mobilenet_v2")
    parser.add_argument("--teacher-weights", help="an enum name or a file; default: weights/TEACHER.safetensors of the material")
    parser.add_argument("--photos", type=int, help="no more than so many of each set")
    parser.add_argument("--mosaics", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--freeze", type=Path, help="write what the shipped weights say of the sample photos, and measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        if args.freeze:
            args.freeze.write_text(json.dumps(frozen(), indent=2) + "\n", encoding="utf-8")
        elif args.material is None:
            parser.error("no material: name its folder with --material, or in ATTNVIS_MATERIAL")
        else:
            for line in table(args):
                print(line, flush=True)
    except ValueError as error:
        parser.exit(1, f"measure_embedded: {error}\n")


if __name__ == "__main__":
    main()
