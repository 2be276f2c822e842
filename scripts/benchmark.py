"""How fast, beside what: both sides interleaved in one run, medians and their ratio as a markdown table.

    python scripts/benchmark.py networks --sizes 224 448
        photos a second of the encoders, decode and picture left out
    python scripts/benchmark.py sweep --photos DIR
        a sweep of 20 scalings beside one plain run, resnet50, no pictures and with one contact sheet per
        photo; room of the cache per 1,000 photos
    python scripts/benchmark.py pipeline
        1,000 JPEGs of 640 x 480 to overlays: every piece alone, their sum, the pipeline on one core and on
        all, and the loop that one would write first
    python scripts/benchmark.py peers
        the same job by pytorch-grad-cam, torch-cam and captum, each in an environment of its own that is made
        here (needs the package index)
    python scripts/benchmark.py memory
        peak memory at 1,000 and at 10,000 photos
    python scripts/benchmark.py latency
        one photo, from the shell and warm
    python scripts/benchmark.py queries
        what 1, 8 and 64 queries cost beside the network
    python scripts/benchmark.py agreement --photos DIR
        how far every engine and precision is from eager float32

Speed does not depend on the weights, so random ones serve.
A machine that does other things meanwhile spoils the figures.
"""

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from attnvis.attention.dot_product import attend
from attnvis.attention.query import language as query_module
from attnvis.attention.query.language import parse
from attnvis.attention.spec import as_function as parse_function
from attnvis.attention.spec import functions
from attnvis.backbone import Backbone
from attnvis.backbone.cache import Cached, entries
from attnvis.backbone.sources import load_backbone
from attnvis.data.decoding import full_pixels, load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.experiments.sweep.job import GridWriter, JobWriter
from attnvis.files import write_bytes
from attnvis.methods.answer import Answer
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import SettingGrid
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.run_folder import RunWriter
from attnvis.pipeline.streaming import stream
from attnvis.render import Style, encode, overlay
from attnvis.types import Batch, Photo

NETWORKS = ("efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v2")
SCALINGS = (
    "none", "inv_sqrt_d", "inv_d", "log_n", "ssmax", "zscore", "robust_z", "minmax",
    "cosine:0.01", "cosine:0.07", "cosine:1", "perplexity:0.03", "perplexity:0.1", "perplexity:0.3",
    *(f"temperature:{2.0**power:g}" for power in range(-2, 10, 2)),
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
        name: load_backbone(
            name, **({} if name == "efficientnet_lite0" else {"weights": "random"}), precision=args.precision
        )
        for name in names
    }
    precision = {str(net.dtype).removeprefix("torch.") for net in loaded.values()}
    how = f"{torch.get_num_threads()} threads, {', '.join(precision)}, batches of {args.batch}"
    yield f"Photos a second, {how}; medians of {args.rounds} rounds.\n"
    yield "| | " + " | ".join(f"{size} px" for size in args.sizes) + " |"
    yield "|---" * (len(args.sizes) + 1) + "|"
    columns = []
    for size in args.sizes:
        images = torch.randn(args.batch, 3, size, size)
        ready = {
            name: images.to(net.dtype, memory_format=torch.channels_last) for name, net in loaded.items()
        }

        def forward(name: str, ready: dict[str, torch.Tensor] = ready) -> Callable[[], object]:
            return torch.inference_mode()(lambda: loaded[name].encode(ready[name]))

        found = interleaved({name: forward(name) for name in names}, args.rounds)
        columns.append({name: args.batch / statistics.median(seconds) for name, seconds in found.items()})
    for name in names:
        yield (
            f"| {name} | "
            + " | ".join(f"{column[name]:.0f} ({column[name] / column[names[0]]:.2f})" for column in columns)
            + " |"
        )
    yield f"\nIn brackets: relative to {names[0]}."


def sweep(args: argparse.Namespace) -> Iterator[str]:
    paths = find(args.photos)[: args.count]
    net = load_backbone(args.networks[0], weights="random", precision=args.precision)
    how, grid = (
        net.preprocessing,
        SettingGrid(
            net,
            {args.query: parse(args.query)},
            functions("scaling", SCALINGS),
            functions("normalise", ["softmax"]),
        ),
    )
    axes = {
        "backbone": net.name,
        "weights": "random",
        "layer": net.layer,
        "fit": how.fit,
        "size": str(how.size),
        "seed": "0",
    }

    def single() -> None:
        for _ in stream(paths, AttentionMethod(net, parse(args.query)), how):
            pass

    def whole(sheets: int | None) -> None:
        with tempfile.TemporaryDirectory() as folder, JobWriter(Path(folder), {}) as job:
            job.update(axes=axes)
            with GridWriter(job, grid.settings, sheets=sheets) as writer:
                for outcome in stream(paths, grid, how):
                    writer.add(outcome)

    sides = {
        "one run": single,
        "20 scalings": lambda: whole(0),
        "20 scalings and sheets": lambda: whole(None),
    }
    found = interleaved(sides, args.rounds)
    yield (
        f"{len(paths)} photos, {net.name}, query {args.query}, {torch.get_num_threads()} threads, "
        f"medians of {args.rounds} rounds.\n"
    )
    yield "| | seconds | times one run |"
    yield "|---|---|---|"
    base = found["one run"]
    for name, seconds in found.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        yield f"| {name} | {statistics.median(seconds):.2f} | {ratio:.3f} |"
    with tempfile.TemporaryDirectory() as folder:
        pretrained = load_backbone("efficientnet_lite0", precision=args.precision)
        for storage in ("exact", "half"):
            for backbone in (pretrained, net):
                # Random weights are not kept unless they have a digest.
                named = replace(backbone, digest=backbone.digest.replace("random", "benchmark"))
                cached = Cached(named, Path(folder) / f"{backbone.name}-{storage}", storage)
                for path in paths[:16]:
                    cached(collate([load(path, short=how.size)], backbone.preprocessing))
                size = sum(entry.size for entry in entries(cached.folder)) / min(16, len(paths))
                yield f"\nCache, {backbone.name}, {storage}: {size / 1e3:.0f} MB per 1,000 photos."


# ---------------------------------------------------------------------------------------------- the whole job


def make_photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of 640 x 480: parts of the sample photos, each another one, at quality 90."""
    rng, sources = np.random.default_rng(0), [full_pixels(load(path)) for path in find("samples")]
    paths = []
    for number in range(count):
        source = sources[number % len(sources)]
        height = int(rng.integers(200, source.shape[0] + 1))
        width = min(source.shape[1], height * 4 // 3)
        top, left = rng.integers(source.shape[0] - height + 1), rng.integers(source.shape[1] - width + 1)
        part = cv2.resize(
            source[top : top + height, left : left + width], (640, 480), interpolation=cv2.INTER_LINEAR
        )
        paths.append(folder / f"{number:05}.jpg")
        cv2.imwrite(str(paths[-1]), part[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def naive(name: str, paths: Sequence[Path], out: Path) -> None:
    """As tutorials show it: one photo at a time, PIL, torchvision's transforms, the whole network in float32,
    floats to the end.
    """
    from PIL import Image
    from torchvision.transforms import v2

    net, (node, weight) = plain_network(name)
    prepare = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize((224, 288)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    kept: list[torch.Tensor] = []
    handle = net.get_submodule(node).register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        for path in paths:
            photo = Image.open(path).convert("RGB")
            logits = net(prepare(photo)[None])
            scores = torch.einsum("d,dhw->hw", weight[logits.argmax()], kept.pop()[0])
            weights = torch.softmax(scores.flatten(), 0).view(scores.shape)
            heat = torch.nn.functional.interpolate(weights[None, None], photo.size[::-1], mode="bilinear")[
                0, 0
            ].numpy()
            heat = (heat - heat.min()) / (heat.max() - heat.min())
            colours = cv2.cvtColor(
                cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB
            )
            blended = 0.5 * np.asarray(photo, np.float32) + 0.5 * colours
            Image.fromarray(np.uint8(blended)).save(out / path.name, quality=92)
    handle.remove()


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.cache
def plain_network(name: str) -> tuple[torch.nn.Module, tuple[str, torch.Tensor]]:
    """The network as it is, the layer that is explained, and rows of weights that stand for its classes."""
    from torchvision import models

    from attnvis.backbone.lite import EfficientNetLite

    torch.manual_seed(0)
    net: Any = EfficientNetLite() if name == "efficientnet_lite0" else models.get_model(name)
    node = "layer4" if name.startswith("resnet") else "features"
    with torch.no_grad():
        channels = dict(net.named_children())  # every part up to the layer, in order
        maps = torch.zeros(1, 3, 224, 224)
        for part, module in channels.items():
            maps = module(maps)
            if part == node:
                break
    return net.eval().requires_grad_(False), (node, torch.randn(1000, maps.shape[1]))


def write_all(pictures: Sequence[np.ndarray], out: Path) -> None:
    for number, picture in enumerate(pictures):
        write_bytes(out / f"{number}.jpg", encode(picture, "jpg", 92))


def core_seconds(work: Callable[[], object]) -> float:
    """CPU time of all threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


def pipeline(args: argparse.Namespace) -> Iterator[str]:
    cores = torch.get_num_threads()
    yield (
        f"{args.count} JPEGs of 640 x 480, overlays written as JPEG of quality 92; core-milliseconds "
        f"a photo, one thread; medians of {args.rounds} interleaved rounds over {args.block} photos each.  "
        f"Batches of {args.batch}, query class, scaling perplexity.\n"
    )
    pieces = ("network", "decode", "fit", "attention", "draw", "write")
    yield (
        "| network, engine | "
        + " | ".join(pieces)
        + f" | sum | pipeline | ratio | naive loop | photos a second on {cores} cores | of the ideal |"
    )
    yield "|---" * (len(pieces) + 7) + "|"
    with tempfile.TemporaryDirectory() as folder:
        paths, out = make_photos(Path(folder), args.count), Path(folder) / "out"
        (out / "naive").mkdir(parents=True)
        for name in args.networks:
            for engine in args.engines:
                yield row_of(name, engine, paths, out, args, cores)


def row_of(name: str, engine: str, paths: list[Path], out: Path, args: argparse.Namespace, cores: int) -> str:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    net = load_backbone(
        name,
        **({} if name == "efficientnet_lite0" else {"weights": "random"}),
        precision=args.precision,
        engine=engine,
    )
    net.prepare(args.count, cores)
    how, style = net.preprocessing, Style(panel=False)
    method = AttentionMethod(
        net, parse("class"), parse_function("scaling", "perplexity"), parse_function("normalise", "softmax")
    )
    run = net.engine.forward

    # Every piece alone, on what the piece before it left.
    def measure(block: list[Path]) -> dict[str, float]:
        seconds = dict.fromkeys(("network", "decode", "fit", "attention", "draw", "write"), 0.0)
        photos: list[Photo] = []
        batches: list[Batch] = []
        answers: list[Answer] = []
        pictures: list[np.ndarray] = []
        seconds["decode"] = core_seconds(lambda: photos.extend(load(path, short=how.size) for path in block))
        groups = [photos[i : i + args.batch] for i in range(0, len(photos), args.batch)]
        seconds["fit"] = core_seconds(lambda: batches.extend(collate(group, how) for group in groups))
        images = [batch.images.to(net.dtype, memory_format=torch.channels_last) for batch in batches]
        with torch.inference_mode():
            seconds["network"] = core_seconds(lambda: [run(one) for one in images])
        features = [net(batch) for batch in batches]
        seconds["attention"] = core_seconds(
            lambda: answers.extend(answer for layers in features for (answer,) in method.answer(layers))
        )
        drawn = zip(photos, answers, strict=True)
        seconds["draw"] = core_seconds(
            lambda: pictures.extend(
                overlay(photo.pixels, answer.cells, style, placement=answer.placement)
                for photo, answer in drawn
            )
        )
        seconds["write"] = core_seconds(functools.partial(write_all, pictures, out))
        return seconds

    def whole(block: list[Path], workers: int) -> None:
        origin = net.describe(how)
        plan = RunPlan(tuple(block), style, origin, keep_maps=False)
        target = Path(tempfile.mkdtemp(dir=out))
        with RunWriter(target, plan) as results:
            for outcome in stream(block, method, how, args.batch, None, workers, results.render):
                results.record(outcome)
        shutil.rmtree(target)

    measure(paths[: 2 * args.batch])
    whole(paths[: 2 * args.batch], 1)
    naive(name, paths[:2], out / "naive")
    alone: list[dict[str, float]] = []
    together, loops, speeds = [], [], []
    for number in range(args.rounds):
        start = number * args.block % len(paths)
        block = (paths + paths)[start : start + args.block]
        alone.append(measure(block))
        together.append(core_seconds(functools.partial(whole, block, 1)))
        loops.append(
            core_seconds(functools.partial(naive, name, block[: args.block // 4], out / "naive")) * 4
        )
        begun = time.perf_counter()
        whole(block, cores)
        speeds.append(len(block) / (time.perf_counter() - begun))
    torch.set_num_threads(cores)
    scale = 1000 / args.block
    pieces = {piece: scale * statistics.median(one[piece] for one in alone) for piece in alone[0]}
    total = scale * statistics.median(sum(one.values()) for one in alone)
    ratio = statistics.median(b / sum(a.values()) for a, b in zip(alone, together, strict=True))
    speed, ideal = statistics.median(speeds), cores * 1000 / total
    cells = [
        *(f"{pieces[piece]:.2f}" for piece in ("network", "decode", "fit", "attention", "draw", "write")),
        f"{total:.2f}",
    ]
    cells += [
        f"{scale * statistics.median(together):.2f}",
        f"{ratio:.2f}",
        f"{scale * statistics.median(loops):.1f}",
    ]
    return (
        f"| {net.name}, {engine} {str(net.dtype).removeprefix('torch.')} | "
        + " | ".join(cells)
        + f" | {speed:.0f} | {speed / ideal:.2f} |"
    )


# ------------------------------------------------------------------------------------------------------ peers

PEERS = {"pytorch-grad-cam": ("grad-cam", "ttach"), "torch-cam": ("torchcam",), "captum": ("captum",)}
PEER = """
import sys, time
import cv2, numpy as np, torch
from PIL import Image
from torchvision import models
from torchvision.transforms import v2

name, which, out, best = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "best"
torch.manual_seed(0)
net = models.get_model(name).eval()
layer = net.layer4 if name.startswith("resnet") else net.features
dtype = torch.float32
prepare = v2.Compose([v2.PILToTensor(), v2.Resize((224, 288)), v2.ToDtype(torch.float32, scale=True),
                      v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
if best:
    net = net.to(memory_format=torch.channels_last)

def job(path):
    photo = Image.open(path).convert("RGB")
    images = prepare(photo)[None]
    if best:
        images = images.to(memory_format=torch.channels_last)
    place = out + "/" + path.rsplit("/", 1)[-1]
    if which == "pytorch-grad-cam":
        heat = cam(input_tensor=images, targets=None)[0]
        heat = cv2.resize(heat, photo.size)
        drawn = show_cam_on_image(np.asarray(photo, np.float32) / 255, heat, use_rgb=True)
        cv2.imwrite(place, drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    elif which == "torch-cam":
        logits = net(images)
        heat = cam(int(logits.argmax()), logits)[0][0]
        overlay_mask(photo, to_pil_image(heat, mode="F"), alpha=0.5).save(place, quality=92)
    else:
        with torch.no_grad():
            target = net(images).argmax(1)
        heat = cam.attribute(images, target=target)
        heat = LayerAttribution.interpolate(heat, photo.size[::-1], "bilinear")[0, 0].detach().numpy()
        heat = np.maximum(heat, 0) / max(float(heat.max()), 1e-9)
        colours = cv2.applyColorMap(np.uint8(255 * heat), cv2.COLORMAP_JET)[:, :, ::-1]
        drawn = np.uint8(0.5 * np.asarray(photo, np.float32) + 0.5 * colours)
        cv2.imwrite(place, drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])

if which == "pytorch-grad-cam":
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image
    cam = GradCAM(model=net, target_layers=[layer])
elif which == "torch-cam":
    from torchcam.methods import GradCAM
    from torchcam.utils import overlay_mask
    from torchvision.transforms.functional import to_pil_image
    cam = GradCAM(net, layer)
else:
    from captum.attr import LayerAttribution, LayerGradCam
    cam = LayerGradCam(net, layer)

print("ready", flush=True)
for line in sys.stdin:
    paths = line.split()
    wall, cpu = time.perf_counter(), time.process_time()
    for path in paths:
        job(path)
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


class Peer:
    """A peer's own loop in an environment of its own, which borrows PyTorch from this one;
    asked block by block.
    """

    def __init__(self, which: str, network: str, folder: Path, best: bool) -> None:
        home, script = folder / which, folder / "peer.py"
        if not home.exists():
            venv.create(home, with_pip=True)
            site = next(home.glob("lib/python*/site-packages"))
            (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *PEERS[which]]
            subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
        script.write_text(PEER)
        out = folder / f"out-{which}"
        out.mkdir(exist_ok=True)
        words = [
            str(home / "bin" / "python"),
            "-W",
            "ignore",
            str(script),
            network,
            which,
            str(out),
            "best" if best else "plain",
        ]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        if "ready" not in self.stdout.readline():
            raise ValueError(f"{which} did not start")

    def __call__(self, paths: Sequence[Path]) -> tuple[float, float]:
        self.stdin.write(" ".join(map(str, paths)) + "\n")
        self.stdin.flush()
        wall, cpu = map(float, self.stdout.readline().split())
        return wall, cpu

    def close(self) -> None:
        self.stdin.close()
        self.process.wait()


def peers(args: argparse.Namespace) -> Iterator[str]:
    """Photos to Grad-CAM overlays; attnvis draws the class query, whose map is the same up to a factor."""
    cores = torch.get_num_threads()
    yield (
        "Seconds of wall clock and of CPU per 100 photos of 640 x 480, each side its own whole loop: decode, "
        f"explain the predicted class, overlay written as JPEG.  {cores} threads; "
        f"medians of {args.rounds} interleaved rounds of {args.block} photos.\n"
    )
    yield (
        "| network | side | wall | CPU | wall, times attnvis eager fp32 batch 1 "
        "| wall, times attnvis at its best |"
    )
    yield "|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        paths = make_photos(Path(folder), args.block * 2)
        for name in args.networks:
            settings = {"weights": "random", "layer": "last"} if name != "efficientnet_lite0" else {}
            sides: dict[str, Callable[[Sequence[Path]], tuple[float, float]]] = {}
            started = []
            for which in PEERS:
                for best in (False, True):
                    started.append(Peer(which, name, Path(folder), best))
                    sides[f"{which}, {'channels_last' if best else 'as its README shows it'}"] = started[-1]
            for label, engine, precision, batch, workers in (
                ("attnvis, eager fp32, batch 1", "eager", "fp32", 1, 1),
                ("attnvis, eager fp32, batch 8", "eager", "fp32", 8, cores),
                ("attnvis, eager bf16, batch 8", "eager", "bf16", 8, cores),
                ("attnvis, openvino bf16, batch 8", "openvino", "bf16", 8, cores),
            ):
                torch.manual_seed(0)
                net = load_backbone(name, **settings, precision=precision, engine=engine)
                net.prepare(args.block, workers)
                sides[label] = functools.partial(own_loop, net, batch, workers, Path(folder))
            found: dict[str, list[tuple[float, float]]] = {label: [] for label in sides}
            for number in range(args.rounds + 1):
                for label, side in sides.items():
                    found[label].append(side(paths[: args.block] if number else paths[:8]))
            for peer in started:
                peer.close()
            mid = {
                label: [100 / args.block * statistics.median(one[i] for one in rounds[1:]) for i in (0, 1)]
                for label, rounds in found.items()
            }

            def ratio(label: str, base: str, found: dict = found) -> float:
                return statistics.median(
                    a[0] / b[0] for a, b in zip(found[label][1:], found[base][1:], strict=True)
                )

            quickest = min(
                (label for label in mid if label.startswith("attnvis")), key=lambda label: mid[label][0]
            )
            for label, (wall, cpu) in mid.items():
                fair, fast = ratio(label, "attnvis, eager fp32, batch 1"), ratio(label, quickest)
                yield f"| {name} | {label} | {wall:.2f} | {cpu:.2f} | {fair:.2f} | {fast:.2f} |"


def own_loop(
    net: Backbone, batch: int, workers: int, folder: Path, paths: Sequence[Path]
) -> tuple[float, float]:
    method = AttentionMethod(
        net, parse("class"), parse_function("scaling", "perplexity"), parse_function("normalise", "softmax")
    )
    origin = net.describe(net.preprocessing)
    plan = RunPlan(tuple(paths), Style(panel=False), origin, keep_maps=False)
    wall, cpu = time.perf_counter(), time.process_time()
    target = Path(tempfile.mkdtemp(dir=folder))
    with RunWriter(target, plan) as results:
        for outcome in stream(paths, method, net.preprocessing, batch, None, workers, results.render):
            results.record(outcome)
    ended = time.perf_counter() - wall, time.process_time() - cpu
    shutil.rmtree(target)
    return ended


# ----------------------------------------------------------------------------------- memory, latency, queries


def command(*words: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of `attnvis WORDS` in a process of its own."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "from attnvis.cli import main; main()", *words], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"attnvis {' '.join(words)} failed")
    return time.perf_counter() - begun, used.ru_maxrss * 1024


def memory(args: argparse.Namespace) -> Iterator[str]:
    yield "| photos | peak MB | seconds | photos a second |\n|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        first = make_photos(Path(folder), 1000)
        found = []
        for count in (1000, 10_000):
            place = Path(folder) / str(count)
            place.mkdir()
            for number in range(count):
                os.link(first[number % 1000], place / f"{number:06}.jpg")
            words = (
                "run",
                str(place),
                "render.panel=false",
                f"hydra.run.dir={folder}/run-{count}",
                "logger.mode=disabled",
            )
            seconds, peak = command(
                *words,
                f"backbone={args.networks[0]}",
                *(["backbone.weights=random"] if args.networks[0] != "efficientnet_lite0" else []),
            )
            found.append(peak)
            yield f"| {count} | {peak / 1e6:.0f} | {seconds:.0f} | {count / seconds:.0f} |"
    yield f"\nTen times the photos take {found[1] / found[0]:.3f} times the memory ({args.networks[0]})."


def latency(args: argparse.Namespace) -> Iterator[str]:
    from attnvis import explain

    with tempfile.TemporaryDirectory() as folder:
        (path,) = make_photos(Path(folder), 1)
        words = ("run", str(path), "logger.mode=disabled")
        cold = [command(*words, f"hydra.run.dir={folder}/{number}")[0] for number in range(args.rounds)]
        helped = [command("--help")[0] for _ in range(args.rounds)]
        explain(path, "class")
        warm = []
        for _ in range(10 * args.rounds):
            begun = time.perf_counter()
            explain(path, "class").overlay()
            warm.append(time.perf_counter() - begun)
    yield "| | seconds |\n|---|---|"
    yield f"| attnvis --help | {statistics.median(helped):.2f} |"
    yield f"| attnvis run PHOTO, from the shell, page and panel included | {statistics.median(cold):.2f} |"
    yield f"| explain(photo).overlay() in Python, warm | {statistics.median(warm):.4f} |"


def queries(args: argparse.Namespace) -> Iterator[str]:
    name, counts = args.networks[0], (1, 8, 64)
    net = load_backbone(
        name, **({} if name == "efficientnet_lite0" else {"weights": "random"}), precision=args.precision
    )
    with tempfile.TemporaryDirectory() as folder:
        batch = collate([load(path) for path in make_photos(Path(folder), args.batch)], net.preprocessing)
    (features,) = net(batch)
    sides: dict[str, Callable[[], object]] = {"network": lambda: net(batch)}
    for count in counts:
        method = AttentionMethod(
            net,
            parse(f"random:0,{count}"),
            parse_function("scaling", "inv_sqrt_d"),
            parse_function("normalise", "softmax"),
        )

        def ask(count: int = count, method: AttentionMethod = method) -> None:
            for query in query_module.build_queries(method.query, features):
                attend(query.vectors, features.tokens, features.tokens, method.scaling, method.normalise)

        sides[f"Q = {count}: scores, scaling, softmax"] = ask
        sides[f"Q = {count}, with diagnostics and answers"] = functools.partial(method.answer, (features,))
    found = interleaved(sides, args.rounds)
    _, patches, channels = features.tokens.shape
    yield f"{name}, {patches} patches of {channels} channels, batches of {args.batch}.\n"
    yield "| | ms a photo | of the network |\n|---|---|---|"
    for side, seconds in found.items():
        share = statistics.median(a / b for a, b in zip(seconds, found["network"], strict=True))
        yield f"| {side} | {1000 * statistics.median(seconds) / args.batch:.3f} | {share:.2%} |"


def compare_engines(args: argparse.Namespace) -> Iterator[str]:
    from attnvis.backbone.engines import compare_with_float32, folded

    yield "| network | engine | what it says of photos |\n|---|---|---|"
    paths = find(args.photos)[:8]
    for name in args.networks:
        for engine in args.engines:
            for precision in ("fp32", "bf16"):
                torch.manual_seed(0)
                net = load_backbone(
                    name,
                    **({} if name == "efficientnet_lite0" else {"weights": args.weights}),
                    precision=precision,
                    engine=engine,
                )
                photos = collate([load(path) for path in paths], replace(net.preprocessing, fit="stretch"))
                net.prepare(1, 1)
                run = net.engine.forward
                said = compare_with_float32(run, folded(net.network.trunk), photos.images, net.dtype)
                yield f"| {name} | {engine} {precision} | {said} |"


VERBS = {
    "networks": networks, "sweep": sweep, "pipeline": pipeline, "peers": peers, "memory": memory,
    "latency": latency, "queries": queries, "agreement": compare_engines,
}  # fmt: skip
USUAL = {
    "networks": list(NETWORKS),
    "pipeline": ["resnet50", "mobilenet_v3_large", "efficientnet_lite0"],
    "peers": ["resnet50", "mobilenet_v3_large"],
    "agreement": list(NETWORKS),
    "memory": ["efficientnet_lite0"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(VERBS))
    parser.add_argument("--networks", nargs="+", help="networks by name")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 448])
    parser.add_argument("--photos", default="samples", help="a folder")
    parser.add_argument("--count", type=int, help="of the photos")
    parser.add_argument("--query", default="mean")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--block", type=int, default=500, help="photos a round of pipeline and peers")
    parser.add_argument("--engines", nargs="+", default=["eager", "openvino"])
    parser.add_argument("--weights", default="random", help="of agreement: random or a file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    args.networks = args.networks or USUAL.get(args.what, ["resnet50"])
    args.count = args.count or {"pipeline": 1000}.get(args.what, 256)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        for line in VERBS[args.what](args):
            print(line, flush=True)
    except ValueError as error:
        parser.exit(1, f"benchmark: {error}\n")


if __name__ == "__main__":
    main()
