"""A torchvision teacher and folders of photos in, the weights of the embedded network out: dense distillation on a CPU.

    python scripts/pretrain.py --teacher mobilenet_v2 --weights FILE --photos DIR [DIR ...] --out OUT --steps 150000
    python scripts/pretrain.py (the same) --steps 0 --decay 30000 --export weights.safetensors

The first command may be stopped and given again: it goes on from OUT/last.pt.  The second ends the run: the learning rate falls to nothing.
Expect a plateau of some hundred thousand views, and a good network after ten million.  On glibc, set MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456 for the process: its allocator takes up to half of the time otherwise.
"""

import argparse
import hashlib
import json
import math
import queue
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.multiprocessing as processes
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from attnvis import backbone as backbones
from attnvis import catalogue
from attnvis.embedded import EmbeddedNet
from attnvis.photo import collate, find, fit, load, resample
from attnvis.values import Preprocessing

HINTS = {8: (5, 96), 16: (9, 192)}  # stride -> entries of the student's `features` up to there, without the ReLU; channels
WEIGHTS = {"hint8": 0.3, "hint16": 0.3, "features": 1, "cells": 1, "logits": 1, "kl of cells": 0.4, "kl": 1}
WARM, LOG, SAVE = 500, 250, 500  # steps
HOW = Preprocessing(256, multiple=1)  # a photo is kept with a short side of 256 pixels


def crop(photo: np.ndarray, height: int, width: int, rng: np.random.Generator, least: float) -> np.ndarray:
    """A random part of at least that share of the area, aspect .7 to 1.43, mirrored half of the time (Szegedy et al. 2015)."""
    area, aspect = photo.shape[0] * photo.shape[1] * rng.uniform(least, 1), np.exp(rng.uniform(np.log(0.7), np.log(1.43)))
    rows, columns = min(photo.shape[0], round((area / aspect) ** 0.5)), min(photo.shape[1], round((area * aspect) ** 0.5))
    top, left = rng.integers(photo.shape[0] - rows + 1), rng.integers(photo.shape[1] - columns + 1)
    part = resample(photo[top : top + rows, left : left + columns], (height, width))
    return part[:, ::-1] if rng.random() < 0.5 else part


def view(photos: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """A quarter mosaics of four (what lies where must be told apart), a quarter mixtures of two (Zhang et al. 2018), half plain crops."""

    def piece(height: int, width: int, least: float) -> np.ndarray:
        return crop(photos[rng.integers(len(photos))], height, width, rng, least)

    kind = rng.random()
    if kind < 0.25:
        row, column = (int(cut) for cut in rng.integers(side // 3, 2 * side // 3 + 1, 2))
        upper, lower = ([piece(height, width, 0.3) for width in (column, side - column)] for height in (row, side - row))
        picture = np.vstack([np.hstack(upper), np.hstack(lower)])
    else:
        picture = piece(side, side, 0.12)
        if kind < 0.5:
            share = rng.beta(1, 1)
            picture = cv2.addWeighted(picture, share, piece(side, side, 0.12), 1 - share, 0)
    return jitter(picture.astype(np.float32), rng) if rng.random() < 0.7 else picture


def jitter(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation; one in ten is grey."""
    picture = picture * rng.uniform(0.7, 1.3)
    picture = (picture - picture.mean()) * rng.uniform(0.7, 1.3) + picture.mean()
    grey = picture.mean(2, keepdims=True)
    picture = np.repeat(grey, 3, 2) if rng.random() < 0.1 else (picture - grey) * rng.uniform(0.5, 1.4) + grey
    return np.clip(picture, 0, 255).astype(np.uint8)


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (HOW.mean, HOW.std))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@dataclass
class Teacher:
    net: nn.Module  # images -> {"last": maps, and for each hint its stride: maps}
    head: nn.Linear

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return self.net(images.to(torch.bfloat16, memory_format=torch.channels_last))

    def cells(self, maps: Tensor) -> Tensor:
        """Its logits at every cell, [B, h, w, C]; their mean is what it answers."""
        return self.head(maps.float().permute(0, 2, 3, 1))


def load_teacher(args: argparse.Namespace) -> Teacher:
    config = catalogue.settings(f"backbone/{catalogue.family(args.teacher)}")
    net = models.get_model(args.teacher, weights=None, **backbones.arguments(args.teacher)).eval().requires_grad_(False)
    known = models.get_model_weights(args.teacher)
    if args.weights in known.__members__:
        net.load_state_dict(backbones.downloaded(known[args.weights], args.teacher))
    else:
        backbones.fill(net, args.weights, args.teacher)
    head = net.get_submodule(config["head"])
    names = {config["stages"]["last"]: "last"} | {node: str(stride) for stride, node in zip(HINTS, args.hints, strict=bool(args.hints))}
    cut, probe = create_feature_extractor(net, names), torch.randn(2, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    found, logits = cut(probe), net(probe)
    if not torch.allclose(head(found["last"].mean((2, 3))), logits, atol=1e-4 * float(logits.abs().max())):
        raise ValueError(f"{args.teacher} does not end in a mean and one linear layer, so its cells have no logits; take another teacher")
    for name, maps in found.items():
        if maps.shape[-1] != (cells := 4 if name == "last" else 96 // int(name) + 1):
            raise ValueError(f"{args.teacher}, {name}: {maps.shape[-1]} cells on 97 pixels, not {cells}; --hints are of strides 8 and 16")
    return Teacher(cut.to(torch.bfloat16, memory_format=torch.channels_last), head)


def answer(answers: processes.Queue, args: argparse.Namespace, paths: list[Path], seed: list[int]) -> None:
    """For ever: a batch of views, and what the teacher says of them."""
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    rng, shift = np.random.default_rng(seed), args.teacher_offset
    teacher, photos = load_teacher(args), [fit(load(path, short=HOW.size), HOW)[0] for path in paths]
    if args.compile:
        teacher.net.compile(options={"freezing": True})
    # Where a cell looks is learned too: cell i of MobileNetV2, trained in TensorFlow, sees what lies around 32 i - 6.5 ... -9 (flip test),
    # where geometry says 32 i.  So it is shown the view without its first 8 rows and columns: what its cell i sees then lies near 32 i of
    # the whole view, where the student's cell is, and the student's maps lie where they are drawn.  Early cells look straight: `moved`.
    while True:
        views = torch.from_numpy(np.stack([view(photos, args.size + shift, rng) for _ in range(args.batch)])).permute(0, 3, 1, 2)
        said = teacher(normalised(views)[:, :, shift:, shift:])
        answers.put((views[:, :, : args.size, : args.size].contiguous(), {name: maps.half() for name, maps in said.items()}))


def lessons(args: argparse.Namespace, paths: list[Path], step: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    context = processes.get_context("spawn")
    answers = context.Queue(6)
    worker = context.Process(target=answer, args=(answers, args, paths, [args.seed, step]), daemon=True)
    worker.start()
    try:
        while True:
            try:
                yield answers.get(timeout=5)
            except queue.Empty:
                if not worker.is_alive():
                    raise ValueError("the process that asks the teacher died; what it said stands above") from None
    finally:
        worker.terminate()


class Student(nn.Module):
    """The network, and the layers that translate its channels into the teacher's: needed by the losses, thrown away afterwards."""

    def __init__(self, said: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = EmbeddedNet()
        for stride, (_, channels) in HINTS.items():
            if str(stride) in said:
                self.add_module(f"h{stride}", nn.Conv2d(channels, said[str(stride)].shape[1], 1))
        self.hf = nn.Linear(self.net.head.in_features, said["last"].shape[1])

    def losses(self, images: Tensor, said: dict[str, Tensor], teacher: Teacher, offset: int) -> dict[str, Tensor]:
        losses, maps, done = {}, images, 0
        with torch.autocast("cpu", torch.bfloat16):
            for stride, (depth, _) in HINTS.items():
                maps, done = self.net.features[done:depth](maps), depth
                if str(stride) in said:
                    own, right = moved(self.get_submodule(f"h{stride}")(maps).float(), offset / stride), said[str(stride)].float()
                    losses[f"hint{stride}"] = F.mse_loss(own, right[:, :, : own.shape[2], : own.shape[3]]) / right.var()
            maps = self.net.features[done:](maps)
            shared = maps[:, :, ::2, ::2].permute(0, 2, 3, 1)  # every other cell: where the teacher has one
            features, cells, logits = self.hf(shared), self.net.head(shared), self.net.head(maps.mean((2, 3)))
        right = said["last"].float().permute(0, 2, 3, 1)
        losses["features"] = F.mse_loss(features.float(), right) / right.var()
        every = teacher.cells(said["last"])
        losses["cells"], losses["kl of cells"] = compared(cells.flatten(0, 2), every.flatten(0, 2), temperature=4)
        losses["logits"], losses["kl"] = compared(logits, every.mean((1, 2)), temperature=2)
        return losses


def compared(own: Tensor, right: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Two sets of logits [n, C]: the share of variance that is not explained, and the divergence; a constant added to all means nothing."""
    own, right = (z.float() - z.float().mean(-1, keepdim=True) for z in (own, right))
    guess, truth = (F.log_softmax(z / temperature, -1) for z in (own, right))
    return F.mse_loss(own, right) / right.var(), F.kl_div(guess, truth, reduction="batchmean", log_target=True)


def moved(maps: Tensor, cells: float) -> Tensor:
    """The maps read so many cells further down and right, bilinearly: the teacher's early cell i lies at stride * i + offset."""
    for axis in (2, 3):
        size, whole, part = maps.shape[axis] - math.ceil(cells), int(cells), cells % 1
        maps = torch.lerp(maps.narrow(axis, whole, size), maps.narrow(axis, whole + (part > 0), size), part)
    return maps


def train(args: argparse.Namespace, decay: int) -> Iterator[str]:
    """Up to step `args.steps` at a constant learning rate, or `decay` steps more in which it falls to nothing.  Yields lines of news."""
    held = find(args.photos[0])[::12][:40]  # of the first folder, and only to be told how it goes
    # What learned at 97 pixels is at its best somewhat larger, not twice as large (Touvron et al. 2019).
    quiz = collate([load(path) for path in held], Preprocessing(225 if args.size > 110 else 161, "crop")).images
    teacher = load_teacher(args)
    right = teacher.cells(teacher(quiz)["last"]).mean((1, 2)).argmax(1, keepdim=True)

    student, average = Student(teacher(quiz[:1])).to(memory_format=torch.channels_last), EmbeddedNet()
    average.load_state_dict(student.net.state_dict())
    matrices, vectors = ([p for p in student.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.03}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=args.rate, fused=True)
    start, begun, file = 0, None, args.out / "last.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        start, begun = saved["step"], saved.get("begun")
        for part, name in ((student, "st"), (optimiser, "opt"), (average, "ema")):
            part.load_state_dict(saved[name])
    if decay and begun is None and file.exists():
        shutil.copy(file, args.out / "before_decay.pt")  # to decay from again, after more steps
    begun = (start if begun is None else begun) if decay else None
    end = args.steps if begun is None else begun + decay
    if start >= end:
        return
    source, rows, clock = lessons(args, [path for path in find(args.photos) if path not in held], start), [], time.time()
    for step in range(start + 1, end + 1):
        rate = args.rate * min(1, step / WARM) * (1 if begun is None else max(0.005, 1 - (step - 1 - begun) / decay))
        for group in optimiser.param_groups:
            group["lr"] = rate
        pixels, said = next(source)
        losses = student.train().losses(normalised(pixels), said, teacher, args.teacher_offset)
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(average.state_dict().values(), student.net.state_dict().values(), strict=True):
                slow.lerp_(fast, 1 - min(0.9995, step / (step + 49))) if slow.is_floating_point() else slow.copy_(fast)
        rows.append({name: loss.item() for name, loss in losses.items()})
        if step % LOG == 0 or step == end:
            with torch.inference_mode():
                ranked = average.eval()(quiz).argsort(1, descending=True)
            found = {f"top{count}": float((ranked[:, :count] == right).any(1).float().mean()) for count in (1, 5, 50)}
            numbers = {name: np.mean([row[name] for row in rows]) for name in losses} | found
            speed = f"{step * args.batch} views, {len(rows) * args.batch / (time.time() - clock):.0f}/s, rate {rate:.2g}"
            yield f"{step}: {speed}, {', '.join(f'{name} {value:.3f}' for name, value in numbers.items())}"
            rows, clock = [], time.time()
        if step % SAVE == 0 or step == end:
            states = {"st": student.state_dict(), "opt": optimiser.state_dict(), "ema": average.state_dict()}
            torch.save(states | {"step": step, "begun": begun}, args.out / "part.pt")
            (args.out / "part.pt").replace(file)  # a run that dies here leaves no half-written checkpoint behind


def export(checkpoint: Path, file: Path, args: argparse.Namespace) -> str:
    """The averaged weights as float16; gives their sha256, to be pinned in attnvis/embedded/__init__.py."""
    saved = torch.load(checkpoint, weights_only=True)
    tensors = {name: value.half().contiguous() for name, value in saved["ema"].items() if value.is_floating_point()}
    about = {"teacher": args.teacher, "steps": saved["step"], "views": saved["step"] * args.batch}
    content = save(tensors, {"about": json.dumps(about)})  # one entry: safetensors writes several in an order that changes from run to run
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="mobilenet_v2", help="a torchvision network that ends in a mean and one linear layer")
    parser.add_argument("--weights", default="DEFAULT", help="torchvision's name of them (downloaded once), or a .safetensors or .pth file")
    parser.add_argument("--hints", nargs="*", help="its nodes of strides 8 and 16, or none; default: stage2 and stage3 of its config")
    parser.add_argument("--teacher-offset", type=int, default=8, help="pixels by which its cells look up and left of their place")
    parser.add_argument("--photos", nargs="+", required=True, help="folders, searched to the bottom; no labels are read")
    parser.add_argument("--out", type=Path, required=True, help="the folder of last.pt and log.txt")
    parser.add_argument("--steps", type=int, required=True, help="in all, those of earlier calls counted; 0: no more")
    parser.add_argument("--decay", type=int, default=0, help="then so many steps in which the learning rate falls to nothing")
    parser.add_argument("--export", type=Path, help="then write the averaged weights here, as float16 safetensors")
    parser.add_argument("--size", type=int, default=97, help="side of a view: 32 k + 1 pixels; may grow from call to call")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="AdamW's learning rate")
    parser.add_argument("--threads", type=int, default=1, help="of each of the two processes")
    parser.add_argument("--compile", action="store_true", help="compile the teacher: faster after the first minutes; needs a C++ compiler")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.size % 32 != 1 or args.size < 65:
        parser.error(f"--size {args.size} is not of the form 32 k + 1; take 97, 129 or 161")
    families = [name for name in catalogue.options("backbone") if name != "embedded"]
    if catalogue.family(args.teacher) not in families:
        parser.error(f"no teacher {args.teacher!r}; it must be a member of {', '.join(families)}")
    if args.hints is None:
        stages = catalogue.settings(f"backbone/{catalogue.family(args.teacher)}")["stages"]
        args.hints = [stages["stage2"], stages["stage3"]]
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        for decay in [0, args.decay] if args.decay else [0]:
            for line in train(args, decay):
                print(line, flush=True)
                with (args.out / "log.txt").open("a") as log:
                    print(line, file=log)
        if args.export:
            print(f"{args.export}: sha256 {export(args.out / 'last.pt', args.export, args)}")
    except ValueError as error:
        parser.exit(1, f"pretrain: {error}\n")


if __name__ == "__main__":
    main()
