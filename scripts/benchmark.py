"""How fast, beside what: all sides interleaved in one run, medians and their ratios as a markdown table.

    python scripts/benchmark.py networks --sizes 224 448
        photos a second of the encoders, decode and picture left out
    python scripts/benchmark.py pipeline
        JPEGs of 640 x 480, and of mixed sizes, to overlays: every piece alone, their sum, the pipeline on one
        core and on all, and the loop that one would write first
    python scripts/benchmark.py around
        one photo at a time: what is not the network, by pieces
    python scripts/benchmark.py peers
        the same job by pytorch-grad-cam, torch-cam and captum, each in an environment of its own that is made
        here (needs the package index once), as their documents show it and at their best
    python scripts/benchmark.py sweep
        a sweep of 20 settings on 256 photos beside one run, from the shell, with and without contact sheets
    python scripts/benchmark.py memory
        peak memory at 1,000 and more photos; --small: small ones, so that 100,000 take minutes
    python scripts/benchmark.py latency
        one photo's page from the shell, beside PyTorch's import; attnvis --help; warm
    python scripts/benchmark.py queries
        what 1, 8 and 64 queries cost beside the network, in fp32 and bf16
    python scripts/benchmark.py cache
        room of the cache per 1,000 photos
    python scripts/benchmark.py agreement --photos DIR
        how far every engine and precision is from eager float32

--minutes ends the rounds when that much time is over; --against COMMIT (or a checkout's folder) puts another
version of attnvis beside this one (peers, sweep, memory, latency).
Speed does not depend on the weights, so random ones serve.  The first lines say what machine it is, the last
how much of it others took meanwhile: then the figures are spoilt.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir

import torch
from benchmarks.common import other_load, own_machine
from benchmarks.networks import agreement, cache_room, networks, queries
from benchmarks.peers import peers
from benchmarks.shell import latency, memory, sweep
from benchmarks.whole_job import SHAPES, around, pipeline

from attnvis.cli.allocator import keep_freed_memory

VERBS = {
    "networks": networks, "pipeline": pipeline, "around": around, "peers": peers, "sweep": sweep,
    "memory": memory, "latency": latency, "queries": queries, "cache": cache_room, "agreement": agreement,
}  # fmt: skip
FOUR = ["efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v2"]
THREE = ["efficientnet_lite0", "mobilenet_v3_large", "resnet50"]  # the slowest last: it has what time is left
NETWORKS = {
    "networks": FOUR, "pipeline": THREE, "around": THREE, "peers": THREE, "sweep": ["efficientnet_lite0"],
    "memory": ["efficientnet_lite0"], "latency": ["efficientnet_lite0"], "queries": ["resnet50"],
    "cache": ["efficientnet_lite0", "resnet50"], "agreement": FOUR,
}  # fmt: skip
ENGINES = {"around": ["eager"]}
PRECISIONS = {"pipeline": "bf16", "around": "fp32"}
BATCHES = {"around": 1}


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("what", choices=tuple(VERBS))
    add("--networks", nargs="+", help="by name; of sweep and memory the first counts")
    add("--engines", nargs="+", help="of pipeline, around and agreement: eager, openvino, compile, auto")
    add("--precision", help="auto, fp32 or bf16; pipeline takes bf16 and around fp32 where none is given")
    add("--batch", type=int, help="photos that go through the network together: 8, of around 1")
    add("--rounds", type=int, default=5)
    add("--minutes", type=float, help="no further round once they are over; one there is in any case")
    add("--block", type=int, help="photos a round: 200 of peers and pipeline, 60 of around")
    add("--peer-block", type=int, help="the same of the peers, whose loops have no fixed costs")
    add("--count", type=int, help="photos of a sweep: 256")
    add("--counts", nargs="+", type=int, default=[1000, 10_000], help="photos of the runs of memory")
    add("--small", action="store_true", help="memory: photos of 96 x 72")
    add("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES), help="photos of pipeline")
    add("--sizes", nargs="+", type=int, default=[224, 448], help="sides of the input of networks")
    add("--photos", default="samples", help="a folder, of cache and agreement")
    add("--weights", default="random", help="of agreement: random or a file")
    add("--against", metavar="COMMIT", help="another version: a commit, or the folder of a checkout")
    add("--threads", type=int)
    environments = Path(gettempdir()) / "attnvis-peers"
    add("--environments", default=environments, help=f"where peers are installed: {environments}")
    return options


def settings(words: list[str] | None = None) -> argparse.Namespace:
    """What was typed, and what it stands for where nothing was."""
    args = parser().parse_args(words)
    args.networks = args.networks or NETWORKS[args.what]
    args.engines = args.engines or ENGINES.get(args.what, ["eager", "openvino"])
    args.precision = args.precision or PRECISIONS.get(args.what, "auto")
    args.batch = args.batch or BATCHES.get(args.what, 8)
    return args


def report(args: argparse.Namespace) -> Iterator[str]:
    afterwards = other_load()
    yield own_machine() + "  "
    yield from VERBS[args.what](args)
    yield f"\n{afterwards()}"


def main() -> None:
    args = settings()
    keep_freed_memory()  # as every command does
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        for line in report(args):
            print(line, flush=True)
    except ValueError as error:
        parser().exit(1, f"benchmark: {error}\n")


if __name__ == "__main__":
    main()
