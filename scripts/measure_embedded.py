"""How good the embedded network is, beside the same network with random weights and beside its teacher: markdown tables on stdout.

    python scripts/measure_embedded.py --material DIR          # the shipped weights
    python scripts/measure_embedded.py --weights FILE          # those of a file
    python scripts/measure_embedded.py --only saliency         # one table; also labels, pop-out, probes
    python scripts/measure_embedded.py --pictures FILE.jpg     # the sample photos by both networks, to look at; measures nothing
    python scripts/measure_embedded.py --freeze tests/embedded_frozen.json   # what the tests hold the shipped weights to; needs no material

DIR (or ATTNVIS_MATERIAL) holds imagenet_like/test/<class index>_<anything>.jpg, weights/mobilenet_v2.safetensors and, left out where
absent, raccoon/{images,annotations} with VOC boxes and osie/{images,fixations.npz}.  One seed fixes every draw.
Brackets: 95 % bootstrap interval over photos, mosaics or scenes.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import shift  # type: ignore[import-untyped]
from torch import Tensor, nn

from attnvis import embedded as shipped
from attnvis import query, render, scaling
from attnvis.api import Explanation, explain, load_backbone
from attnvis.attention import attend
from attnvis.backbone import Backbone, folded
from attnvis.photo import PhotoError, collate, find, fit, load
from attnvis.placement import spread
from attnvis.stimuli import COLOURS, FILLS, SHAPES, pop_out, scene
from attnvis.values import Batch, Box, Features, Photo, Placement, Preprocessing

CROP = Preprocessing(225, "crop", resize=256)
TILE = Preprocessing(224, "crop")
MOSAIC = Preprocessing(449, "stretch")  # 32 k + 1; of 448 pixels in tiles of 224
WHOLE = Preprocessing(225)
PROBED = Preprocessing(129)  # scenes for the layer probes, small because there are many
SETTINGS = {"device": "cpu", "precision": "fp32"}
LEVELS = {"colour": (20.0, 60.0, 150.0), "orientation": (15.0, 30.0, 75.0), "size": (1.25, 1.6, 2.2)}
SPOTS = {"astronaut": (224, 110), "coffee": (310, 180), "rocket": (320, 190), "camera": (185, 105)}  # x, y; else the photo's centre


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
    norms = [module for module in backbone.net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over the batches
        norm.train()
    for batch in batches(photos, CROP):
        backbone.net(batch.images)
    backbone.net.eval()
    backbone.trunk = folded(backbone.probed)
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
    seen: list[Features] = [backbone(collate([photo], WHOLE)) for photo, _ in pairs]
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
    reach = backbone.reach_on((CROP.size, CROP.size))
    stride = CROP.size / cells if reach is None else reach.stride[1]
    d, (low, high) = shifts[table.mean(0).argmax()], np.quantile(draws, [0.025, 0.975])
    c0, least, most = ((CROP.size - 1 - stride * (cells - 1) - stride * value) / 2 for value in (d, high, low))
    said = "" if reach is None else f"; geometry says {reach.offset[1]:.3g} px"
    return f"d = {d:.2f} [{low:.2f}, {high:.2f}] cells of {stride:.3g} px, so c0 = {c0:.1f} [{least:.1f}, {most:.1f}] px{said}"


def rarities(features: Features) -> Float[Tensor, "B N"]:
    asked = query.rarity(features)
    assert asked.keys is not None
    return attend(asked.vectors, asked.keys).scores[:, 0]


def auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """P(a positive is larger than a negative), a tie counting half, over all pairs."""
    negatives = np.sort(negatives)
    below, not_above = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(negatives)))


@dataclass(frozen=True)
class Gaze:
    """Photos, and where people looked on each: (row, column) as shares of the photo's height and width."""

    photos: list[Photo]
    fixations: list[Float[np.ndarray, "_ 2"]]

    def shuffled_auc(self, number: int, drawn: Float[np.ndarray, "H W"]) -> float:
        """sAUC of a map of photo `number` (Tatler et al. 2005, as pysaliency and the MIT/Tuebingen benchmark count it).

        Positives: the map at every fixation of the photo, repeats too.  Negatives: the map at every fixation of all other photos, scaled
        to this photo's size.  A map that only knows that people look at the middle is worth about .5.
        """
        others = [places for other, places in enumerate(self.fixations) if other != number]
        own, others = (
            np.minimum(places * drawn.shape, np.array(drawn.shape) - 1).astype(int).T
            for places in (self.fixations[number], np.concatenate(others))
        )
        return auc(drawn[*own], drawn[*others])


def gaze(folder: Path) -> Gaze:
    """OSIE (Xu et al. 2014): fixations.npz with `names`, and per fixation `image` (an index into names), `x` and `y` in pixels."""
    with np.load(folder / "fixations.npz") as found:
        photos = [load(folder / "images" / name) for name in found["names"].tolist()]
        places = np.stack([found["y"], found["x"]], 1)
        return Gaze(photos, [places[found["image"] == number] / photo.size for number, photo in enumerate(photos)])


def gaze_scores(backbone: Backbone, people: Gaze, count: int) -> tuple[list[float], list[float]]:
    """Shuffled AUC of the rarity scores and of the norms of the features, each spread over the photo as its placement says."""
    by_rarity: list[float] = []
    by_norm: list[float] = []
    for number, photo in enumerate(people.photos[:count]):
        features = backbone(collate([photo], WHOLE))
        for into, cells in ((by_rarity, rarities(features)), (by_norm, features.tokens.norm(dim=-1))):
            into.append(people.shuffled_auc(number, spread(cells.reshape(features.grid).numpy(), features.placements[0])))
    return by_rarity, by_norm


def popped_out(backbone: Backbone, kind: str, level: float, count: int, seed: int) -> list[bool]:
    """Whether the rarity map is higher somewhere on the item that differs than anywhere on the others."""
    hits = []
    for number in range(count):
        picture, target, rest = pop_out(kind, level, 1000 * seed + number)
        features = backbone(collate([load(picture)], WHOLE))
        drawn = spread(rarities(features).reshape(features.grid).numpy(), features.placements[0])
        hits.append(bool(drawn[target].max() > drawn[rest].max()))
    return hits


def linear_probe(train: Float[Tensor, "n D"], truth: list[str], test: Float[Tensor, "m D"]) -> list[str]:
    """What a ridge regression to one-hot labels says of `test`; its penalty has the least leave-one-out error on `train`."""
    names = sorted(set(truth))
    mean, deviation = train.mean(0), train.std(0).clamp_min(1e-6)
    known, asked = (((features - mean) / deviation).double() for features in (train, test))
    right = torch.tensor([[float(label == name) for name in names] for label in truth], dtype=torch.float64)
    left, sizes, across = torch.linalg.svd(known, full_matrices=False)
    fits = []
    for penalty in len(train) * 10.0 ** torch.arange(-4, 3, dtype=torch.float64):
        kept = sizes**2 / (sizes**2 + penalty)
        leverage = left**2 @ kept + 1 / len(train)
        missed = right - right.mean(0) - left * kept @ (left.mT @ right)
        weights = across.mT @ ((kept / sizes.clamp_min(1e-9))[:, None] * (left.mT @ right))
        fits.append((float((missed / (1 - leverage)[:, None]).square().mean()), weights))
    answers = asked @ min(fits, key=lambda found: found[0])[1] + right.mean(0)
    return [names[index] for index in answers.argmax(1).tolist()]


# The tables.  Every function yields lines of markdown.


def networks(args: argparse.Namespace, photos: Sequence[Photo], layer: str = "last") -> dict[str, Backbone]:
    torch.manual_seed(args.seed)
    return {
        "random weights": recalibrated(load_backbone("embedded", weights="random", layer=layer, **SETTINGS), photos[:60]),
        "embedded": load_backbone("embedded", weights=args.weights, layer=layer, **SETTINGS),
        f"teacher ({args.teacher})": load_teacher(args, layer),
    }


def load_teacher(args: argparse.Namespace, layer: str = "last") -> Backbone:
    weights = args.teacher_weights or str(args.material / "weights" / f"{args.teacher}.safetensors")
    return load_backbone(args.teacher, weights=weights, layer=layer, **SETTINGS)


def markdown(head: Sequence[str]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"


def labels(args: argparse.Namespace, photos: Sequence[Photo], classes: Sequence[int]) -> Iterator[str]:
    """What it knows of classes, and whether it finds them."""
    try:
        pairs = boxes(args.material / "raccoon", args.photos)
    except PhotoError:
        pairs = []
    rows = networks(args, photos)
    truth, right = torch.tensor(classes), predictions(list(rows.values())[-1], photos).argmax(1)
    yield f"{len(photos)} labelled photos and {len(pairs)} with boxes at 225 px, {args.mosaics} mosaics at 449 px, seed {args.seed}."
    yield "Random weights: the same architecture, batch norm's statistics taken from 60 of the photos.\n"
    yield from markdown(
        ("", "teacher's top-1", "teacher's top-1 in top-5", "accuracy", "class pointing", "exemplar pointing", "box pointing")
    )
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


def saliency(args: argparse.Namespace, photos: Sequence[Photo], _: Sequence[int]) -> Iterator[str]:
    """Whether people look where it finds something rare, or much of anything."""
    if not (args.material / "osie" / "fixations.npz").exists():
        yield f"No fixations: {args.material / 'osie' / 'fixations.npz'} is absent."
        return
    people = gaze(args.material / "osie")
    count = min(args.photos or 100, 100, len(people.photos))
    yield f"Shuffled AUC on {count} OSIE photos at 225 px, negatives from all {len(people.photos)}; last layer.\n"
    yield from markdown(("", "rarity", "feature norm"))
    for name, backbone in networks(args, photos).items():
        rng = np.random.default_rng(args.seed)
        yield "| " + " | ".join([name, *(interval(values, rng) for values in gaze_scores(backbone, people, count))]) + " |"
    shares = (np.arange(100) + 0.5) / 100 - 0.5
    centre = np.exp(-8 * (shares[:, None] ** 2 + shares**2))  # standard deviation: a quarter of each side
    said = interval([people.shuffled_auc(number, centre) for number in range(count)], np.random.default_rng(args.seed))
    yield f"| centre Gaussian, for both | {said} | {said} |"


def pop_outs(args: argparse.Namespace, photos: Sequence[Photo], _: Sequence[int]) -> Iterator[str]:
    """Whether the odd one out of 49 is the rarest.  Late cells see so far that the edge of the array is rarer to them than any item."""
    columns = [(kind, level) for kind, levels in LEVELS.items() for level in levels]
    yield f"Pop-out by rarity at 225 px: share of {args.stimuli} arrays whose odd item holds a higher value than any other item.\n"
    yield from markdown(("", *(f"{kind} {level:g}" for kind, level in columns)))
    for layer in ("stage2", "last"):
        for name, backbone in networks(args, photos, layer).items():
            rates = [np.mean(popped_out(backbone, kind, level, args.stimuli, args.seed)) for kind, level in columns]
            yield "| " + " | ".join([f"{layer}, {name}", *(f"{rate:.2f}" for rate in rates)]) + " |"
    yield "| chance" + " | 0.02" * len(columns) + " |"


def probes(args: argparse.Namespace, photos: Sequence[Photo], _: Sequence[int]) -> Iterator[str]:
    """What a linear layer can read from each stage's mean features."""
    train, test = 600, 300
    made = [scene(10_000 * args.seed + number, PROBED.size) for number in range(train + test)]
    pictures = [load(picture) for picture, _, _ in made]
    yield f"Accuracy on {test} scenes of {PROBED.size} px of a linear probe of the mean features, fitted to {train} others.\n"
    yield from markdown(("", "shape", "colour", "fill"))
    for layer in ("stage2", "stage3", "last"):
        for name, backbone in networks(args, photos, layer).items():
            means = torch.cat([backbone(batch).mean for batch in batches(pictures, PROBED)])
            cells = []
            for asked in ("shape", "colour", "fill"):
                truth = [found[asked] for _, _, found in made]
                answers = linear_probe(means[:train], truth[:train], means[train:])
                right = [answer == label for answer, label in zip(answers, truth[train:], strict=True)]
                cells.append(interval(right, np.random.default_rng(args.seed)))
            yield "| " + " | ".join([f"{layer}, {name}", *cells]) + " |"
    yield "| chance | " + " | ".join(f"{1 / len(names):.3f}" for names in (SHAPES, COLOURS, FILLS)) + " |"


TABLES = {"labels": labels, "saliency": saliency, "pop-out": pop_outs, "probes": probes}


def tables(args: argparse.Namespace) -> Iterator[str]:
    paths = find(args.material / "imagenet_like" / "test")[: args.photos]
    photos, classes = [load(path) for path in paths], [int(path.name.split("_")[0]) for path in paths]
    for number, name in enumerate(args.only):
        if number:
            yield ""
        yield from TABLES[name](args, photos, classes)


# Pictures, and what the tests hold the weights to.


def sheet(args: argparse.Namespace) -> np.ndarray:
    """A row per sample photo: four questions, each answered by the embedded network and, beside it, by its teacher."""
    own, teacher = load_backbone("embedded", weights=args.weights, **SETTINGS), load_teacher(args)
    tiles, side = [], 174
    for path in find("samples"):
        photo = load(path)
        logits = teacher(collate([photo], WHOLE)).logits
        assert logits is not None
        x, y = SPOTS.get(path.stem, (photo.size[1] // 2, photo.size[0] // 2))
        for asked in (f"class:{int(logits[0].argmax())}", "pca", "rarity", f"point:{x},{y}"):
            for net in (own, teacher):
                found: Explanation = explain(path, asked, backbone=net, size=WHOLE.size)
                tiles.append((found.overlay(longest=side), f"{'embedded' if net is own else 'teacher'}: {found.label}"))
    title = f"The embedded network and, to the right of each, its teacher {args.teacher}; one colour scale"
    return render.contact_sheet(tiles, columns=8, side=side, title=title, style=render.Style())


def on_generated(backbone: Backbone, early: Backbone, scenes: int = 50, stimuli: int = 15) -> dict[str, float]:
    """Shares of scenes whose hottest patch is centred on the object, means over the scenes, and how often stage 2 finds the odd colour."""
    numbers: dict[str, list[float]] = {name: [] for name in ("rarity on the object", "pca on the object", "perplexity", "logit")}
    for number in range(scenes):
        picture, mask, _ = scene(number)
        features = backbone(collate([load(picture)], WHOLE))
        seen = attend(query.pca(features).vectors, features.tokens, scaling=scaling.none)
        for name, values in (("rarity", rarities(features)[0]), ("pca", seen.scores[0, 0])):
            row, column = hottest(values, features.placements[0])
            numbers[f"{name} on the object"].append(bool(mask[int(row), int(column)]))
        weights = seen.weights[0, 0].double()
        numbers["perplexity"].append(float(torch.special.entr(weights).sum().exp()))
        assert features.logits is not None
        numbers["logit"].append(float(features.logits.max()))
    numbers["colour pop-out"] = [float(hit) for hit in popped_out(early, "colour", LEVELS["colour"][1], stimuli, 0)]
    return {name: round(float(np.mean(values)), 4) for name, values in numbers.items()}


def frozen() -> dict[str, object]:
    """What the shipped weights say of the sample photos and of generated pictures."""
    backbone = load_backbone("embedded", **SETTINGS)
    early, samples = load_backbone("embedded", layer="stage2", **SETTINGS), {}
    for path in find("samples"):
        found = explain(path, query="class", scaling="inv_sqrt_d", backbone=backbone)
        logits = backbone(collate([found.photo], backbone.preprocessing)).logits
        assert logits is not None
        numbers = {"top1": int(logits[0].argmax()), "logit": float(logits[0].max()), "perplexity": found.diagnostics["perplexity"]}
        samples[path.stem] = {name: round(value, 4) for name, value in numbers.items()}
    return {"sha256": shipped.SHA256, "samples": samples, "generated": on_generated(backbone, early)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=Path, default=os.environ.get("ATTNVIS_MATERIAL"), help="default: ATTNVIS_MATERIAL")
    parser.add_argument("--weights", default="shipped", help="of the embedded network: shipped, or a .safetensors file")
    parser.add_argument("--teacher", default="mobilenet_v2")
    parser.add_argument("--teacher-weights", help="an enum name or a file; default: weights/TEACHER.safetensors of the material")
    parser.add_argument("--photos", type=int, help="no more than so many of each set")
    parser.add_argument("--mosaics", type=int, default=200)
    parser.add_argument("--stimuli", type=int, default=15, help="pop-out arrays per kind and level")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="draw the sample photos by both networks, and measure nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--freeze", type=Path, help="write what the shipped weights say of the sample photos and of generated pictures, and measure nothing"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        if args.freeze:
            args.freeze.write_text(json.dumps(frozen(), indent=2) + "\n", encoding="utf-8")
        elif args.material is None:
            parser.error("no material: name its folder with --material, or in ATTNVIS_MATERIAL")
        elif args.pictures:
            render.write(args.pictures, sheet(args), quality=75)
        else:
            for line in tables(args):
                print(line, flush=True)
    except ValueError as error:
        parser.exit(1, f"measure_embedded: {error}\n")


if __name__ == "__main__":
    main()
