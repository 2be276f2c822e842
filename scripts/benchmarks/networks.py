"""The network alone: its speed, what queries cost beside it, how far engines are from eager float32."""

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from attnvis.attention.dot_product import attend
from attnvis.attention.query import several
from attnvis.attention.query.language import build_queries, parse
from attnvis.attention.spec import as_function
from attnvis.backbone.cache import Cached, entries
from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.methods.attention import AttentionMethod
from attnvis.pipeline.records import answer_columns, open_records
from benchmarks.common import Rounds, interleaved, make_photos, median_ratio, timed
from benchmarks.own_loop import load_network
from benchmarks.serving import Spent

__all__ = ["agreement", "cache_room", "networks", "queries"]

COUNTS = (1, 8, 64)  # of queries


def networks(args: argparse.Namespace) -> Iterator[str]:
    """Photos a second of the encoders, decode and picture left out."""
    names = args.networks
    loaded = {name: load_network(name, precision=args.precision) for name in names}
    precision = {str(net.dtype).removeprefix("torch.") for net in loaded.values()}
    how = f"{torch.get_num_threads()} threads, {', '.join(precision)}, batches of {args.batch}"
    yield f"Photos a second, {how}; medians of {args.rounds} rounds.\n"
    yield "| | " + " | ".join(f"{size} px" for size in args.sizes) + " |"
    yield "|---" * (len(args.sizes) + 1) + "|"
    rounds = Rounds(args.rounds, args.minutes, parts=len(args.sizes))
    columns = []
    for size in args.sizes:
        images = torch.randn(args.batch, 3, size, size)
        ready = {
            name: images.to(net.dtype, memory_format=torch.channels_last) for name, net in loaded.items()
        }

        @torch.inference_mode()
        def forward(name: str, ready: dict[str, torch.Tensor] = ready) -> object:
            return loaded[name].encode(ready[name])

        sides = {name: functools.partial(timed, functools.partial(forward, name)) for name in names}
        for side in sides.values():
            side()
        spent = interleaved(sides, rounds.of_next_part(), f"{size} px:")
        columns.append({name: args.batch / statistics.median(walls(spent[name])) for name in names})
    for name in names:
        cells = [f"{column[name]:.0f} ({column[name] / column[names[0]]:.2f})" for column in columns]
        yield f"| {name} | {' | '.join(cells)} |"
    yield f"\nIn brackets: relative to {names[0]}."


def walls(spent: list[Spent]) -> list[float]:
    return [taken.wall for taken in spent]


def queries(args: argparse.Namespace) -> Iterator[str]:
    """What queries cost beside the network, on one thread, as in a worker of a run."""
    torch.set_num_threads(1)
    precisions = ("fp32", "bf16") if args.precision == "auto" else (args.precision,)
    rounds = Rounds(args.rounds, args.minutes, parts=len(precisions) * len(args.networks))
    for name in args.networks:
        for precision in precisions:
            yield from queries_of(name, precision, args.batch, rounds)


def queries_of(name: str, precision: str, batch_size: int, rounds: Rounds) -> Iterator[str]:
    net = load_network(name, precision=precision, engine="eager")
    with tempfile.TemporaryDirectory() as folder:
        batch = collate([load(path) for path in make_photos(Path(folder), batch_size)], net.preprocessing)
        file, table = open_records(Path(folder) / "records.csv")
        images = batch.images.to(net.dtype, memory_format=torch.channels_last)
        (features,) = net(batch)

        @torch.inference_mode()
        def forward() -> None:
            net.engine.forward(images)

        def ask(method: AttentionMethod) -> None:
            for query in build_queries(method.query, features):
                attend(query.vectors, features.tokens, features.tokens, method.scaling, method.normalise)

        def answer(method: AttentionMethod) -> None:
            method.answer((features,))

        def record(method: AttentionMethod) -> None:
            for answers in method.answer((features,)):
                table.writerows([answer_columns(one) for one in answers])

        works: dict[str, Callable[[], object]] = {"network": forward}
        scaling, normalise = as_function("scaling", "inv_sqrt_d"), as_function("normalise", "softmax")
        for count in COUNTS:
            method = AttentionMethod(net, parse(f"random:0,{count}"), scaling, normalise)
            works[f"Q = {count}: scores, scaling, softmax"] = functools.partial(ask, method)
            works[f"Q = {count}, with diagnostics and answers"] = functools.partial(answer, method)
            works[f"Q = {count}, and their rows of records.csv"] = functools.partial(record, method)
            named = functools.partial(several, of=[f"class:{index}" for index in range(count)])
            classes = AttentionMethod(net, named, scaling, normalise)
            works[f"{count} named classes, with diagnostics and answers"] = functools.partial(answer, classes)
        sides = {label: functools.partial(timed, work) for label, work in works.items()}
        for side in sides.values():
            side()
        spent = interleaved(sides, rounds.of_next_part(), f"{name} {precision}:")
        file.close()
    seconds = {label: [taken.cpu for taken in times] for label, times in spent.items()}
    _, patches, channels = features.tokens.shape
    yield (
        f"{name}, {precision}, {patches} patches of {channels} channels, batches of {batch_size}, one "
        f"thread; medians of {len(seconds['network'])} rounds.\n"
    )
    yield "| | core-ms a photo | of the network |\n|---|---|---|"
    for label, times in seconds.items():
        share = median_ratio(times, seconds["network"])
        yield f"| {label} | {1000 * statistics.median(times) / batch_size:.3f} | {share:.2%} |"
    yield ""


def agreement(args: argparse.Namespace) -> Iterator[str]:
    """How far every engine and precision is from eager float32."""
    from attnvis.backbone.engines import compare_with_float32, folded

    yield "| network | engine | what it says of photos |\n|---|---|---|"
    paths = find(args.photos)[:50]
    for name in args.networks:
        weights = {} if args.weights == "random" else {"weights": args.weights}
        for engine in args.engines:
            for precision in ("fp32", "bf16"):
                net = load_network(name, precision=precision, engine=engine, **weights)
                how = replace(net.preprocessing, fit="stretch")
                photos = collate([load(path) for path in paths], how)
                net.prepare(1, 1)
                exact = folded(net.network.trunk)
                comparison = compare_with_float32(
                    net.engine.forward, exact, photos.images, net.dtype, head=net.heads[-1]
                )
                yield f"| {name} | {engine} {precision} | {comparison} |"


def cache_room(args: argparse.Namespace) -> Iterator[str]:
    """Megabytes of kept features per 1,000 photos."""
    paths = find(args.photos)[:16]
    yield "| network | storage | MB per 1,000 photos |\n|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            net = load_network(name, precision="fp32")
            # Random weights are not kept unless they have a digest.
            named = replace(net, digest=net.digest.replace("random", "benchmark"))
            for storage in ("exact", "half"):
                cached = Cached(named, Path(folder) / f"{name}-{storage}", storage)
                for path in paths:
                    cached(collate([load(path, short=net.preprocessing.size)], net.preprocessing))
                size = sum(entry.size for entry in entries(cached.folder)) / len(paths)
                yield f"| {name} | {storage} | {size / 1e3:.0f} |"
