"""JPEGs to overlays: every piece alone, their sum, the whole, and what of it is not the network."""

import argparse
import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from attnvis.backbone import Backbone
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate, shape_key
from attnvis.files import write_bytes
from attnvis.methods.answer import Answer
from attnvis.render import Style, encode, overlay
from attnvis.types import Batch, Features, Photo
from benchmarks.common import LANDSCAPE, MIXED, Rounds, core_seconds, make_photos, median_ratio, tell
from benchmarks.own_loop import choose_engine, class_question, load_network, own_loop

__all__ = ["around", "pipeline"]

SHAPES = {"640x480": LANDSCAPE, "mixed": MIXED}
SUMMED = ("network", "decode", "fit", "attention", "draw", "write")
AROUND = ("decode", "fit", "features", "attention", "draw", "write")
FEW = 8  # photos of a run whose start and page are those of a longer one
NAIVE = 10  # photos a round of the loop that one would write first

Pieces = dict[str, float]  # core-seconds


@dataclass(frozen=True)
class Job:
    """One network and engine over blocks of photos, on one thread or on all cores."""

    net: Backbone
    batch: int
    out: Path

    def pieces(self, paths: Sequence[Path]) -> Pieces:
        """Core-seconds of every piece alone, on what the piece before it left in memory."""
        net, how, method = self.net, self.net.preprocessing, class_question(self.net)
        seconds: Pieces = {}
        photos: list[Photo] = []
        batches: list[Batch] = []
        maps: list[tuple[torch.Tensor, ...]] = []
        layers: list[tuple[Features, ...]] = []
        answers: list[Answer] = []
        pictures: list[np.ndarray] = []

        def decode() -> None:
            photos.extend(load(path, short=how.size) for path in paths)

        def fit() -> None:
            batches.extend(collate(group, how) for group in groups)

        def forward() -> None:
            maps.extend(net.engine.forward(one) for one in images)

        def describe() -> None:
            for layer_maps, batch in zip(maps, batches, strict=True):
                layers.append(tuple(net.features(one.float(), 0, batch) for one in layer_maps))

        def answer() -> None:
            answers.extend(one for of_batch in layers for (one,) in method.answer(of_batch))

        def draw() -> None:
            for photo, one in zip(in_batches, answers, strict=True):
                pictures.append(overlay(photo.pixels, one.cells, style, placement=one.placement))

        def write() -> None:
            for number, picture in enumerate(pictures):
                write_bytes(self.out / f"{number}.jpg", encode(picture, "jpg", style.quality))

        style = Style(panel=False)
        seconds["decode"] = core_seconds(decode)
        groups = self.groups(photos)
        in_batches = [photo for group in groups for photo in group]
        seconds["fit"] = core_seconds(fit)
        images = [batch.images.to(net.dtype, memory_format=torch.channels_last) for batch in batches]
        with torch.inference_mode():
            seconds["network"] = core_seconds(forward)
            seconds["features"] = core_seconds(describe)
        seconds["attention"] = core_seconds(answer)
        seconds["draw"] = core_seconds(draw)
        seconds["write"] = core_seconds(write)
        return seconds

    def groups(self, photos: Sequence[Photo]) -> list[list[Photo]]:
        """Batches of photos of one shape."""
        by_shape: dict[Any, list[Photo]] = {}
        for photo in photos:
            by_shape.setdefault(shape_key(photo, self.net.preprocessing), []).append(photo)
        return [
            alike[start : start + self.batch]
            for alike in by_shape.values()
            for start in range(0, len(alike), self.batch)
        ]

    def whole(self, paths: Sequence[Path], workers: int) -> float:
        """Core-seconds of the run: overlays, records, page.

        What it leaves stays until the benchmark ends: soon after many files were removed ext4 took .5 ms to
        make a new one, else .1.
        """
        return core_seconds(lambda: own_loop(self.net, paths, self.out, batch=self.batch, workers=workers))

    def speed(self, paths: Sequence[Path], workers: int) -> float:
        """Photos a second."""
        begun = time.perf_counter()
        own_loop(self.net, paths, self.out, batch=self.batch, workers=workers)
        return len(paths) / (time.perf_counter() - begun)


def pipeline(args: argparse.Namespace) -> Iterator[str]:
    """A row for each network, engine and kind of photos."""
    cores = torch.get_num_threads()
    block = args.block or 200
    rounds = Rounds(args.rounds, args.minutes, len(args.networks) * len(args.engines) * len(args.shapes))
    in_turn = ", ".join(f"{width}x{height}" for height, width in MIXED)
    yield (
        "JPEGs to overlays written as JPEG of quality 92, with records and page; core-milliseconds a photo, "
        f"one thread; medians of interleaved rounds over {block} photos.  Batches of {args.batch}, query "
        f"class, scaling perplexity.  Mixed: {in_turn} in turn.\n"
    )
    yield (
        "| network, engine | photos | "
        + " | ".join(SUMMED)
        + " | sum | pipeline | ratio | naive loop | "
        + f"photos a second on {cores} cores | of the ideal | rounds |"
    )
    yield "|---" * (len(SUMMED) + 9) + "|"
    with tempfile.TemporaryDirectory() as folder:
        for shape in args.shapes:
            (Path(folder) / shape).mkdir()
        photos = {shape: make_photos(Path(folder) / shape, block, SHAPES[shape]) for shape in args.shapes}
        for name in args.networks:
            for engine in args.engines:
                for shape, paths in photos.items():
                    with one_thread():
                        job = prepared(args, name, engine, paths, cores=cores, out=Path(folder))
                        yield pipeline_row(job, engine, shape, paths, cores=cores, rounds=rounds)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """As in a worker of a run: PyTorch and OpenCV with one thread."""
    torches, cv2s = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torches)
        cv2.setNumThreads(cv2s)


def prepared(
    args: argparse.Namespace, name: str, engine: str, paths: Sequence[Path], cores: int, out: Path
) -> Job:
    """The network with its engine started, warm."""
    net = load_network(name, precision=args.precision, engine=engine)
    choose_engine(net, paths, workers=cores, batch=args.batch)
    job = Job(net, batch=args.batch, out=Path(tempfile.mkdtemp(dir=out)))
    few = paths[: max(2, 2 * args.batch)]
    job.pieces(few)
    job.whole(few, workers=1)
    tell(f"{name}, {engine} is warm")
    return job


def pipeline_row(job: Job, engine: str, shape: str, paths: list[Path], cores: int, rounds: Rounds) -> str:
    name = job.net.name
    naive(name, paths[:2], job.out)
    pieces: list[Pieces] = []
    wholes, loops, speeds = [], [], []
    some = paths[:NAIVE]
    for number in rounds.of_next_part():
        pieces.append(job.pieces(paths))
        wholes.append(job.whole(paths, workers=1))
        loops.append(core_seconds(functools.partial(naive, name, some, job.out)))
        speeds.append(job.speed(paths, workers=cores))
        tell(f"{name}, {engine}, {shape}: round {number + 1}")
    scale = 1000 / len(paths)
    sums = [sum(seconds[piece] for piece in SUMMED) for seconds in pieces]
    total = scale * statistics.median(sums)
    cells = [f"{scale * statistics.median(seconds[piece] for seconds in pieces):.2f}" for piece in SUMMED]
    cells.append(f"{total:.2f}")
    cells.append(f"{scale * statistics.median(wholes):.2f}")
    cells.append(f"{median_ratio(wholes, sums):.2f}")
    cells.append(f"{1000 / len(some) * statistics.median(loops):.1f}")
    ideal = cores * 1000 / total
    cells.append(f"{statistics.median(speeds):.0f}")
    cells.append(f"{statistics.median(speeds) / ideal:.2f}")
    cells.append(str(len(pieces)))
    return f"| {title(job.net)} | {shape} | {' | '.join(cells)} |"


def title(net: Backbone) -> str:
    return f"{net.name}, {net.engine.name} {str(net.dtype).removeprefix('torch.')}"


def around(args: argparse.Namespace) -> Iterator[str]:
    """What is not the network: a row for each network and engine, by pieces."""
    block = args.block or 200
    rounds = Rounds(args.rounds, args.minutes, parts=len(args.networks) * len(args.engines))
    yield (
        "JPEGs of 640 x 480 to overlays written as JPEG of quality 92, with records and page, one query "
        f"(class, scaling perplexity), batches of {args.batch}, one thread: core-milliseconds a photo, "
        f"medians of interleaved rounds over {block} photos.  Around: the whole run less the network's "
        f"passes alone.  Beyond {FEW}: the same of what the run takes more than one of {FEW} photos, which "
        "has the same start and page.  The rest: around less the pieces, each measured alone.\n"
    )
    titles = ("whole run", "network", "around", f"around, beyond {FEW} photos", *AROUND, "the rest", "rounds")
    yield f"| network, engine | {' | '.join(titles)} |"
    yield "|---" * (len(titles) + 1) + "|"
    with tempfile.TemporaryDirectory() as folder:
        paths = make_photos(Path(folder), block)
        for name in args.networks:
            for engine in args.engines:
                with one_thread():
                    job = prepared(args, name, engine, paths, cores=1, out=Path(folder))
                    yield around_row(job, paths, rounds)


def around_row(job: Job, paths: list[Path], rounds: Rounds) -> str:
    columns: dict[str, list[float]] = {}  # core-milliseconds a photo, round by round
    few = paths[: min(FEW, len(paths) // 2)]
    for number in rounds.of_next_part():
        pieces = {piece: seconds / len(paths) for piece, seconds in job.pieces(paths).items()}
        whole, start = job.whole(paths, workers=1), job.whole(few, workers=1)
        network = pieces["network"]
        outside = whole / len(paths) - network
        beyond = (whole - start) / (len(paths) - len(few)) - network
        rest = outside - sum(pieces[piece] for piece in AROUND)
        row = {"whole": whole / len(paths), "network": network, "outside": outside, "beyond": beyond}
        row |= {piece: pieces[piece] for piece in AROUND} | {"rest": rest}
        for column, seconds in row.items():
            columns.setdefault(column, []).append(1000 * seconds)
        tell(f"{title(job.net)}: round {number + 1}")
    cells = [f"{statistics.median(column):.2f}" for column in columns.values()]
    return f"| {title(job.net)} | {' | '.join(cells)} | {len(columns['whole'])} |"


# --------------------------------------------------------------------------------------------- the naive loop

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def naive(name: str, paths: Sequence[Path], out: Path) -> None:
    """As tutorials show it: one photo at a time, PIL, torchvision's transforms, the whole network in float32,
    floats to the end.
    """
    from PIL import Image
    from torchvision.transforms import v2

    net, (node, weight) = plain_network(name)
    to_float = v2.ToDtype(torch.float32, scale=True)
    prepare = v2.Compose([v2.PILToTensor(), v2.Resize((224, 288)), to_float, v2.Normalize(MEAN, STD)])
    kept: list[torch.Tensor] = []
    handle = net.get_submodule(node).register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        for path in paths:
            photo = Image.open(path).convert("RGB")
            logits = net(prepare(photo)[None])
            scores = torch.einsum("d,dhw->hw", weight[logits.argmax()], kept.pop()[0])
            weights = torch.softmax(scores.flatten(), 0).view(scores.shape)
            size = photo.size[::-1]
            heat = torch.nn.functional.interpolate(weights[None, None], size, mode="bilinear")[0, 0].numpy()
            heat = (heat - heat.min()) / (heat.max() - heat.min())
            colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET)
            colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
            blended = 0.5 * np.asarray(photo, np.float32) + 0.5 * colours
            Image.fromarray(np.uint8(blended)).save(out / path.name, quality=92)
    handle.remove()


@functools.cache
def plain_network(name: str) -> tuple[torch.nn.Module, tuple[str, torch.Tensor]]:
    """The network as it is, the layer that is explained, and rows of weights that stand for its classes."""
    from torchvision import models

    from attnvis.backbone.lite import EfficientNetLite

    torch.manual_seed(0)
    net: Any = EfficientNetLite() if name == "efficientnet_lite0" else models.get_model(name)
    node = "layer4" if name.startswith("resnet") else "features"
    with torch.no_grad():
        maps = torch.zeros(1, 3, 224, 224)
        for part, module in net.named_children():  # every part up to the layer, in order
            maps = module(maps)
            if part == node:
                break
    return net.eval().requires_grad_(False), (node, torch.randn(1000, maps.shape[1]))
