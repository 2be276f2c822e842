"""Do the queries find what they name?  Mosaics of four photos, two of them of the same group of classes (two
dogs, two birds); a query is right where its hottest cell lies in the tile that it names.

python scripts/query_mosaics.py MATERIAL --weights FILE --sheet docs/query_mosaics.jpg
    MATERIAL: a folder with imagenet_like/test (index_wnid_label.jpg) and raccoon (images, annotations)
"""

import argparse
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from attnvis import api
from attnvis.attention.query.classes import class_groups
from attnvis.backbone import Backbone, sources
from attnvis.data.decoding import load
from attnvis.metrics.intervals import share_interval

TILE = 224  # pixels of the mosaic


@dataclass(frozen=True)
class Mosaic:
    """Four photos in a square; tile 0 is asked for, tile 1 is its rival where there is one."""

    pixels: np.ndarray
    places: tuple[int, ...]  # of each photo: 0 top left, 1 top right, 2 bottom left, 3 bottom right
    classes: tuple[int, ...]

    def tile_of(self, explanation: api.Explanation) -> int:
        """Which photo the hottest cell's centre lies in."""
        answer = explanation.answer
        down, across = answer.placement.centre(*answer.hottest)
        return self.places.index(2 * (down >= TILE) + (across >= TILE))


def square(path: Path) -> np.ndarray:
    """The middle of a photo, TILE x TILE."""
    pixels = load(path).pixels
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return cv2.resize(
        pixels[top : top + side, left : left + side], (TILE, TILE), interpolation=cv2.INTER_AREA
    )


def build(paths: list[Path], classes: list[int], generator: np.random.Generator) -> Mosaic:
    places = tuple(int(place) for place in generator.permutation(4))
    pixels = np.zeros((2 * TILE, 2 * TILE, 3), np.uint8)
    for path, place in zip(paths, places, strict=True):
        top, left = TILE * (place // 2), TILE * (place % 2)
        pixels[top : top + TILE, left : left + TILE] = square(path)
    return Mosaic(pixels, places, tuple(classes))


def pairs(photos: dict[int, Path], count: int, generator: np.random.Generator) -> Iterator[Mosaic]:
    """Two classes of one group, and two photos of none of theirs."""
    narrow = [set(members) & photos.keys() for members in class_groups().values() if len(members) < 130]
    groups = [sorted(members) for members in narrow if len(members) > 1]
    for _ in range(count):
        members = groups[generator.integers(len(groups))]
        chosen = [int(index) for index in generator.choice(members, 2, replace=False)]
        related = {index for group in groups if set(chosen) & set(group) for index in group}
        strangers = sorted(photos.keys() - related)
        chosen += [int(index) for index in generator.choice(strangers, 2, replace=False)]
        yield build([photos[index] for index in chosen], chosen, generator)


def animals(
    folder: Path, photos: dict[int, Path], count: int, generator: np.random.Generator
) -> Iterator[tuple[Mosaic, str]]:
    """A raccoon among three other photos, and how another photo's raccoon is asked for: its box."""
    images = sorted((folder / "images").iterdir())
    strangers = sorted(index for index in photos if index not in class_groups()["mammal"])
    for _ in range(count):
        shown, other = (images[index] for index in generator.choice(len(images), 2, replace=False))
        chosen = [int(index) for index in generator.choice(strangers, 3, replace=False)]
        mosaic = build([shown, *(photos[index] for index in chosen)], [-1, *chosen], generator)
        tree = ElementTree.parse(folder / "annotations" / f"{other.stem}.xml")
        corners = [tree.findtext(f".//bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = map(int, corners)
        yield mosaic, f"{other},{left},{top},{right - left},{bottom - top}"


def ask(net: Backbone, mosaic: Mosaic, queries: list[str], scaling: str = "perplexity") -> list[int]:
    answers = api.explain_all([mosaic.pixels], queries, scaling, backbone=net, size=2 * TILE)
    return [mosaic.tile_of(answer) for answer in answers]


CONTRASTS = (
    *("class:{a}", "class:{a} - class:{b}", "orthogonal(class:{a}, class:{b})", "contrast:{a}"),
    *("log_odds:{a}", "finer:{a}", "rest:{a}", "random_class:7"),
)
EXEMPLARS = ("exemplar:{whole}", "exemplar:{box}", "orthogonal(exemplar:{box}, mean)", "random:7")


def measure(net: Backbone, material: Path, photos: dict[int, Path], count: int) -> dict[str, list[bool]]:
    """Query -> of every mosaic, whether the hottest cell lies in the tile that is asked for."""
    hits: dict[str, list[bool]] = {}
    for mosaic in pairs(photos, count, np.random.default_rng(0)):
        texts = [text.format(a=mosaic.classes[0], b=mosaic.classes[1]) for text in CONTRASTS]
        for text, tile in zip(CONTRASTS, ask(net, mosaic, texts), strict=True):
            hits.setdefault(text.format(a="A", b="B"), []).append(tile == 0)
    for mosaic, box in animals(material / "raccoon", photos, count, np.random.default_rng(1)):
        texts = [text.format(whole=box.rsplit(",", 4)[0], box=box) for text in EXEMPLARS]
        for scaling in ("perplexity", "cosine"):
            for text, tile in zip(EXEMPLARS, ask(net, mosaic, texts, scaling), strict=True):
                name = text.format(whole="OTHER.jpg", box="OTHER.jpg,BOX")
                hits.setdefault(f"{name}, {scaling}", []).append(tile == 0)
    return hits


def cell(flags: list[bool]) -> str:
    interval = share_interval(np.array(flags, float))
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def sheet(net: Backbone, material: Path, photos: dict[int, Path], file: Path) -> None:
    """A row per mosaic: contrasts both ways; then another photo's raccoon, and a random vector."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = []
    for mosaic in pairs(photos, 4, np.random.default_rng(3)):
        a, b = mosaic.classes[:2]
        rows.append(
            (mosaic, [f"class:{a} - class:{b}", f"class:{b} - class:{a}", f"contrast:{a}"], "perplexity")
        )
    for mosaic, box in animals(material / "raccoon", photos, 2, np.random.default_rng(1)):
        rows.append((mosaic, [f"exemplar:{box}", "mean", "random:7"], "cosine"))
    figure, axes = plt.subplots(len(rows), 4, figsize=(10, 2.65 * len(rows)), dpi=100)
    for places, (mosaic, texts, scaling) in zip(axes, rows, strict=True):
        answers = api.explain_all([mosaic.pixels], texts, scaling, backbone=net, size=2 * TILE)
        titles = [answer.label.split("/")[-1].replace(",", ", ", 1) for answer in answers]
        titles = ["exemplar: " + title if title.startswith("raccoon") else title for title in titles]
        pictures = [mosaic.pixels, *(answer.overlay() for answer in answers)]
        for place, picture, title in zip(places, pictures, ["", *titles], strict=True):
            place.imshow(picture)
            place.set_axis_off()
            place.set_title(title, fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("material", type=Path)
    parser.add_argument("--weights", required=True, help="of MobileNetV2")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--sheet", type=Path, help="a picture of a few mosaics instead of the table")
    given = parser.parse_args()
    photos = {
        int(path.name.split("_")[0]): path
        for path in sorted((given.material / "imagenet_like/test").iterdir())
    }
    if given.sheet:
        sheet(
            sources.load_backbone("mobilenet_v2", weights=given.weights), given.material, photos, given.sheet
        )
        return
    columns = {}
    for name, weights in (
        ("mobilenet_v2", given.weights),
        ("efficientnet_lite0", "DEFAULT"),
        ("mobilenet_v2", "random"),
    ):
        net = sources.load_backbone(name, weights=weights)
        heading = f"{name}, random weights" if weights == "random" else name
        columns[heading] = measure(net, given.material, photos, given.count)
    print(f"| query | {' | '.join(columns)} |\n|{' --- |' * (1 + len(columns))}")
    for query in next(iter(columns.values())):
        print(f"| `{query}` | {' | '.join(cell(hits[query]) for hits in columns.values())} |")


if __name__ == "__main__":
    main()
