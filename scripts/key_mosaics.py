"""Do other keys, heads and layers find what a query names?  On the mosaics of query_mosaics.py: a map is
right where its hottest cell lies in the tile that is named.

python scripts/key_mosaics.py MATERIAL --weights FILE
    MATERIAL: a folder with imagenet_like/test (index_wnid_label.jpg) and raccoon (images, annotations)
python scripts/key_mosaics.py --sheet docs/keys.jpg
    two samples under all keys, heads and fusions
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import query_mosaics

import attnvis
from attnvis.attention.query.language import parse
from attnvis.attention.spec import as_function
from attnvis.backbone import Backbone, sources
from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.methods.attention import AttentionMethod
from attnvis.pipeline.preparing import prepared
from attnvis.render.overlays import encode
from attnvis.render.panels import contact_sheet

KEYS = ("same", "centred", "l2", "pca:8", "whitened:8", "whitened:32", "layer:stage3", "shuffled:1")
HEADS = ("contiguous:4", "random:4,1", "pca:4")
FUSIONS = ("mixture", "product", "max")
LAYERS = ["stage3", "last"]
TENTH = as_function("scaling", "perplexity")
COSINE = as_function("scaling", "cosine")


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name -> stages of the method."""
    for text in KEYS:
        yield f"keys={text}", {"keys": as_function("keys", text)}
    for text in HEADS:
        yield f"heads={text}", {"heads": as_function("heads", text)}
    for text in FUSIONS:
        yield f"fuse={text}", {"fuse": text}


def measure(
    net: Backbone, material: Path, photos: dict[int, Path], count: int
) -> dict[str, dict[str, list[bool]]]:
    """Setting -> question -> of every mosaic, whether the hottest cell lies in the tile that is asked for."""
    hits: dict[str, dict[str, list[bool]]] = {}
    contrasts = query_mosaics.pairs(photos, count, np.random.default_rng(0))
    raccoons = query_mosaics.animals(material / "raccoon", photos, count, np.random.default_rng(1))
    for mosaic in contrasts:
        a, b = mosaic.classes[:2]
        texts = {"class:A": f"class:{a}", "class:A - class:B": f"class:{a} - class:{b}"}
        ask(net, mosaic, {name: (text, TENTH) for name, text in texts.items()}, hits)
    for mosaic, box in raccoons:
        text = f"exemplar:{box}"
        ask(net, mosaic, {"exemplar": (text, TENTH), "exemplar, cosine": (text, COSINE)}, hits)
    return hits


def ask(
    net: Backbone,
    mosaic: query_mosaics.Mosaic,
    questions: dict[str, tuple[str, Any]],
    hits: dict[str, dict[str, list[bool]]],
) -> None:
    """The mosaic goes through the network once."""
    how = net.preprocessing.changed("resize", 2 * query_mosaics.TILE)
    layers = net(collate([load(mosaic.pixels, short=how.size)], how))
    for name, (text, scaling) in questions.items():
        query = prepared(parse(text), net, how)
        for setting, stages in settings():
            several = setting.startswith("fuse") or "layer" in setting
            method = AttentionMethod(net, query, scaling, **stages)
            *_, answer = method.answer(layers if several else layers[-1:])[0]
            down, across = answer.placement.centre(*answer.hottest)
            place = 2 * (down >= query_mosaics.TILE) + (across >= query_mosaics.TILE)
            hits.setdefault(setting, {}).setdefault(name, []).append(mosaic.places.index(place) == 0)


def sheet(file: Path) -> None:
    """Rows: two samples; columns: settings."""
    net = sources.load_backbone("efficientnet_lite0", layer=LAYERS)
    tiles = []
    for name, query in (("samples/cat", "class"), ("samples/coffee", "point:300,200")):
        how = net.preprocessing
        photo = load(find(name)[0], short=how.size)
        layers = net(collate([photo], how))
        for setting, stages in settings():
            several = setting.startswith("fuse") or "layer" in setting
            method = AttentionMethod(net, parse(query), TENTH, **stages)
            *_, answer = method.answer(layers if several else layers[-1:])[0]
            shown = attnvis.Explanation(photo, answer, "perplexity", "efficientnet_lite0")
            tiles.append((shown.overlay(), f"{setting}: {answer.diagnostics['perplexity']:.1f} patches"))
    picture = contact_sheet(tiles, columns=7, side=220, widest=1400, style=attnvis.Style())
    file.write_bytes(encode(picture, file.suffix[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("material", type=Path, nargs="?")
    parser.add_argument("--weights", default="", help="of MobileNetV2")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--sheet", type=Path, help="a picture of the settings instead of the table")
    given = parser.parse_args()
    if given.sheet:
        sheet(given.sheet)
        return
    photos = {
        int(path.name.split("_")[0]): path
        for path in sorted((given.material / "imagenet_like/test").iterdir())
    }
    networks = [("efficientnet_lite0", "DEFAULT"), ("efficientnet_lite0", "random")]
    networks += [("mobilenet_v2", given.weights)] * bool(given.weights)
    for name, weights in networks:
        net = sources.load_backbone(name, weights=weights, layer=LAYERS)
        hits = measure(net, given.material, photos, given.count)
        heading = f"{name}, random weights" if weights == "random" else name
        questions = list(hits["keys=same"])
        print(f"\n{heading}\n| setting | {' | '.join(questions)} |\n|{' --- |' * (1 + len(questions))}")
        for setting, of_setting in hits.items():
            cells = [query_mosaics.cell(of_setting[question]) for question in questions]
            print(f"| `{setting}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
