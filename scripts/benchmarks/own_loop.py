"""attnvis' own loop, from the library: photos in, overlays, records and page out.

    python -m benchmarks.own_loop NETWORK FOLDER CORES

answers `benchmarks.serving`.  A mode says the engine, the precision, the batch and the workers; where it has
`typed`, the engine is as `attnvis run` takes it when nothing is typed, and choosing it is part of the time.
"""

import functools
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attnvis.attention.query.language import parse
from attnvis.attention.spec import as_function
from attnvis.backbone import Backbone, cache
from attnvis.backbone.sources import config_of, from_config
from attnvis.cli.allocator import keep_freed_memory
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate, shape_key
from attnvis.methods.attention import AttentionMethod
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.run_folder import RunWriter
from attnvis.pipeline.streaming import stream
from attnvis.render import Style
from attnvis.types import Batch
from benchmarks.serving import serve

__all__ = ["choose_engine", "class_question", "load_network", "own_loop"]


def load_network(name: str, **settings: Any) -> Backbone:
    """Anew with every call; with its own weights where they are installed, else with random ones."""
    torch.manual_seed(0)
    weights = {} if name == "efficientnet_lite0" else {"weights": "random"}
    config = config_of(name)
    if config is None:
        raise ValueError(f"attnvis has no network called {name!r}")
    return from_config(config | weights | settings)


def choose_engine(net: Backbone, paths: Sequence[Path], workers: int, batch: int) -> None:
    """As `attnvis run` starts the engine; what engines were timed at is kept in the cache folder."""
    first = first_batch(paths, net)
    prepare: Any = net.prepare
    pace_book: Any = getattr(cache, "pace_book", None)
    if pace_book is None:  # a version that does not time engines
        prepare(len(paths), workers, first)
    else:
        book = pace_book({"engines": True, "folder": "default"})
        prepare(len(paths), workers, first, batch_size=batch, book=book)


def first_batch(paths: Sequence[Path], net: Backbone) -> Batch:
    """Of the first eight photos those that have the first one's shape."""
    how = net.preprocessing
    photos = [load(path, short=how.size) for path in paths[:8]]
    return collate([photo for photo in photos if shape_key(photo, how) == shape_key(photos[0], how)], how)


def class_question(net: Backbone) -> AttentionMethod:
    """The predicted class: its map is Grad-CAM's up to a factor."""
    scaling, normalise = as_function("scaling", "perplexity"), as_function("normalise", "softmax")
    return AttentionMethod(net, parse("class"), scaling, normalise)


def own_loop(net: Backbone, paths: Sequence[Path], folder: Path, batch: int, workers: int) -> Path:
    """Overlays, records and page of these photos in a new folder inside `folder`."""
    method, how = class_question(net), net.preprocessing
    plan = RunPlan(tuple(paths), Style(panel=False), net.describe(how), keep_maps=False)
    place = Path(tempfile.mkdtemp(dir=folder))
    with RunWriter(place, plan) as results:
        outcomes = stream(paths, method, how, batch_size=batch, workers=workers, after=results.render)
        for outcome in outcomes:
            results.record(outcome)
    if results.failed:
        raise ValueError(f"{results.failed} photos failed: {next(iter(results.reasons))}")
    return place


def main(name: str, folder: str, cores: str) -> None:
    keep_freed_memory()  # as every command does
    torch.set_num_threads(int(cores))
    place = Path(folder)
    left: list[Path] = []  # removed at the end: ext4 is slow to make files after many were removed

    @functools.cache
    def ready(engine: str, precision: str, workers: int) -> Backbone:
        net = load_network(name, engine=engine, precision=precision)
        net.prepare(1, workers)
        return net

    def work(mode: Mapping[str, Any], texts: Sequence[str]) -> str:
        paths = [Path(text) for text in texts]
        workers = mode["workers"]
        if mode.get("typed"):
            net = fresh.pop()
            choose_engine(net, paths, workers=workers, batch=mode["batch"])
        else:
            net = ready(mode["engine"], mode["precision"], workers)
        left.append(own_loop(net, paths, place, batch=mode["batch"], workers=workers))
        return f"{net.engine.name} {str(net.dtype).removeprefix('torch.')}"

    fresh: list[Backbone] = []

    def between() -> None:
        if not fresh:
            fresh.append(load_network(name))

    serve(work, between)
    for folder_of_block in left:
        shutil.rmtree(folder_of_block)


if __name__ == "__main__":
    main(*sys.argv[1:])
