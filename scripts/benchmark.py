"""How fast, beside what: both sides interleaved in one run, medians and their ratio as a markdown table on stdout.

    python scripts/benchmark.py networks --sizes 224 448      photos a second of the encoders, decode and picture left out
    python scripts/benchmark.py sweep --photos DIR            a sweep of 20 scalings beside one plain run, resnet50, no pictures and with
                                                              one contact sheet per photo; room of the cache per 1,000 photos

Speed does not depend on the weights, so random ones serve.  A machine that does other things meanwhile spoils the figures.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from attnvis.api import load_backbone
from attnvis.cache import Cached, entries
from attnvis.grid import Grid, functions
from attnvis.lab import Job
from attnvis.method import Method
from attnvis.photo import collate, find, load
from attnvis.query import parse
from attnvis.stream import stream

NETWORKS = ("embedded", "resnet18", "resnet50", "mobilenet_v2")
SCALINGS = (
    "none", "inv_sqrt_d", "inv_d", "log_n", "ssmax", "zscore", "robust_z", "minmax", "cosine:0.01", "cosine:0.07", "cosine:1",
    "perplexity:0.03", "perplexity:0.1", "perplexity:0.3", *(f"temperature:{2.0**power:g}" for power in range(-2, 10, 2)),
)  # fmt: skip


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side, round by round: A B C, A B C, ...; the first round warms up and is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - started)
    return {name: found[1:] for name, found in seconds.items()}


def networks(args: argparse.Namespace) -> Iterator[str]:
    names = args.networks
    loaded = {
        name: load_backbone(name, **({} if name == "embedded" else {"weights": "random"}), precision=args.precision) for name in names
    }
    precision = {str(net.dtype).removeprefix("torch.") for net in loaded.values()}
    how = f"{torch.get_num_threads()} threads, {', '.join(precision)}, batches of {args.batch}; medians of {args.rounds} rounds"
    yield f"Photos a second, {how}.\n"
    yield "| | " + " | ".join(f"{size} px" for size in args.sizes) + " |"
    yield "|---" * (len(args.sizes) + 1) + "|"
    columns = []
    for size in args.sizes:
        images = torch.randn(args.batch, 3, size, size)
        ready = {name: images.to(net.dtype, memory_format=torch.channels_last) for name, net in loaded.items()}

        def forward(name: str, ready: dict[str, torch.Tensor] = ready) -> Callable[[], object]:
            return torch.inference_mode()(lambda: loaded[name].encode(ready[name]))

        found = interleaved({name: forward(name) for name in names}, args.rounds)
        columns.append({name: args.batch / statistics.median(seconds) for name, seconds in found.items()})
    for name in names:
        yield f"| {name} | " + " | ".join(f"{column[name]:.0f} ({column[name] / column[names[0]]:.2f})" for column in columns) + " |"
    yield f"\nIn brackets: relative to {names[0]}."


def sweep(args: argparse.Namespace) -> Iterator[str]:
    paths = find(args.photos)[: args.count]
    net = load_backbone(args.networks[0], weights="random", precision=args.precision)
    how, grid = (
        net.preprocessing,
        Grid({args.query: parse(args.query)}, functions("scaling", SCALINGS), functions("normalise", ["softmax"])),
    )
    axes = {"backbone": net.name, "weights": "random", "layer": net.layer, "fit": how.fit, "size": str(how.size), "seed": "0"}

    def single() -> None:
        for _ in stream(paths, net, Method(parse(args.query)), how):
            pass

    def whole(sheets: int | None) -> None:
        with tempfile.TemporaryDirectory() as folder, Job(Path(folder), {}) as job:
            job.axes = axes
            job.open(grid.settings, sheets)
            for outcome in stream(paths, net, grid, how):
                job.add(outcome)

    sides = {"one run": single, "20 scalings": lambda: whole(0), "20 scalings and sheets": lambda: whole(None)}
    found = interleaved(sides, args.rounds)
    yield f"{len(paths)} photos, {net.name}, query {args.query}, {torch.get_num_threads()} threads, medians of {args.rounds} rounds.\n"
    yield "| | seconds | times one run |"
    yield "|---|---|---|"
    base = found["one run"]
    for name, seconds in found.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        yield f"| {name} | {statistics.median(seconds):.2f} | {ratio:.3f} |"
    with tempfile.TemporaryDirectory() as folder:
        pretrained = load_backbone("embedded", precision=args.precision)
        for storage in ("exact", "half"):
            for backbone in (pretrained, net):
                object.__setattr__(backbone, "digest", backbone.digest.replace("random", "benchmark"))  # else they are not kept
                cached = Cached(backbone, Path(folder) / f"{backbone.name}-{storage}", storage)
                for path in paths[:16]:
                    cached(collate([load(path, short=how.size)], backbone.preprocessing))
                size = sum(entry.size for entry in entries(cached.folder)) / min(16, len(paths))
                yield f"\nCache, {backbone.name}, {storage}: {size / 1e3:.0f} MB per 1,000 photos."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("networks", "sweep"))
    parser.add_argument("--networks", nargs="+", help=f"default: {' '.join(NETWORKS)}; of the sweep: resnet50")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 448])
    parser.add_argument("--photos", default="samples", help="a folder")
    parser.add_argument("--count", type=int, default=256, help="of the photos")
    parser.add_argument("--query", default="mean")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    args.networks = args.networks or (list(NETWORKS) if args.what == "networks" else ["resnet50"])
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        for line in {"networks": networks, "sweep": sweep}[args.what](args):
            print(line, flush=True)
    except ValueError as error:
        parser.exit(1, f"benchmark: {error}\n")


if __name__ == "__main__":
    main()
