"""A torchvision teacher and photos in, the weights of the embedded network out: dense distillation, yielded as news.

First every stage alone learns to turn the teacher's maps of one stride into those of the next: three shallow problems, which are solved
some twenty times sooner than one deep one.  Then the stages are joined, and learn together at growing sizes.
"""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from attnvis import backbone as backbones
from attnvis.embedded import EmbeddedNet, load_weights
from attnvis.photo import fit, load, resample
from attnvis.render import write_bytes
from attnvis.values import Preprocessing

__all__ = ["Lesson", "News", "Teacher", "distil", "export", "load_teacher"]

STRIDES = (8, 16)  # of the maps that a teacher gives beside its last ones
WEIGHTS = {"hint8": 0.3, "hint16": 0.3, "features": 1, "cells": 1, "logits": 1, "kl of cells": 0.4, "kl": 1}
HOW = Preprocessing(256, multiple=1)  # a photo is kept with a short side of 256 pixels
WARM, NEWS, SAVE = 200, 50, 250  # steps
QUIZ = 256  # views that judge, and views that a wide teacher's principal channels are taken of


@dataclass(frozen=True)
class Lesson:
    """What is taught, and for how long.  A run goes on where a checkpoint of the same lesson ended; `steps` may have grown."""

    apart: int  # steps in which every stage learns alone, on views of the first size
    together: Sequence[int]  # then steps of the whole network, at each of the sizes; the learning rate rises and falls each time
    sizes: Sequence[int]  # sides of the views, 32 k + 1 pixels
    rates: Sequence[float] = (0.02, 0.01)  # Muon's learning rate apart and together
    batch: int = 64
    answers: int = 8192  # views that the teacher answers at a time
    replay: int = 4  # how often an answered view is learned from
    offset: int = 4  # pixels by which the teacher's cells look up and left of their place
    seed: int = 0
    workers: int = 1  # processes that cut the views

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.together) or not self.sizes:
            raise ValueError(
                f"together={list(self.together)} and sizes={list(self.sizes)} do not pair up; give as many of one as of the other"
            )
        if wrong := [size for size in self.sizes if size % 32 != 1 or size < 65]:
            raise ValueError(f"sizes: {wrong[0]} is not of the form 32 k + 1 from 65 on; take 97, 129 or 161")
        if len(self.rates) != 2:
            raise ValueError(f"rates={list(self.rates)}; give two, apart and together, as in rates=[0.02,0.01]")
        if min(self.batch, self.replay) < 1 or min(self.offset, self.workers, self.seed) < 0:
            raise ValueError(
                f"batch={self.batch}, replay={self.replay}, offset={self.offset}, workers={self.workers}, seed={self.seed}: "
                "the first two are at least 1, the others at least 0"
            )
        if min(self.apart, *self.together) < 0 or not self.apart + sum(self.together):
            raise ValueError(f"apart={self.apart} and together={list(self.together)} are no steps to learn in; give some of either")
        if self.answers % self.batch or self.answers < self.batch:
            raise ValueError(f"answers={self.answers} is not a multiple of batch={self.batch}")

    def phases(self) -> list["Phase"]:
        found = [Phase("apart", 0, self.apart, self.sizes[0], self.rates[0], 0)]
        for steps, size in zip(self.together, self.sizes, strict=True):
            found.append(Phase("together", found[-1].end, steps, size, self.rates[1], self.offset))
        return [phase for phase in found if phase.steps]


@dataclass(frozen=True)
class Phase:
    kind: str  # apart | together
    begin: int
    steps: int
    size: int
    rate: float
    offset: int

    @property
    def end(self) -> int:
        return self.begin + self.steps

    def rate_at(self, step: int) -> float:
        """Up within the first 200 steps, and down to nothing within the second half."""
        done = step - self.begin
        return self.rate * min(1, done / WARM, 2 * (self.steps - done + 1) / self.steps)


@dataclass(frozen=True)
class News:
    step: int
    steps: int  # in all
    phase: str
    numbers: dict[str, float]
    saved: bool = False


# ------------------------------------------------------------------------------------------------------------------- views


def crop(photo: np.ndarray, height: int, width: int, rng: np.random.Generator, least: float) -> np.ndarray:
    """A random part of that share of the area at least (less of a very long photo), aspect .7 to 1.43, half of the time mirrored."""
    area, aspect = photo.shape[0] * photo.shape[1] * rng.uniform(least, 1), np.exp(rng.uniform(np.log(0.7), np.log(1.43)))
    rows, columns = min(photo.shape[0], round((area / aspect) ** 0.5)), min(photo.shape[1], round((area * aspect) ** 0.5))
    top, left = rng.integers(photo.shape[0] - rows + 1), rng.integers(photo.shape[1] - columns + 1)
    part = resample(photo[top : top + rows, left : left + columns], (height, width))
    return part[:, ::-1] if rng.random() < 0.5 else part


def turned(photo: np.ndarray, height: int, width: int, rng: np.random.Generator, least: float) -> np.ndarray:
    """The same, turned by up to 45 degrees."""
    part = crop(photo, round(1.4 * height), round(1.4 * width), rng, least)
    turn = cv2.getRotationMatrix2D((part.shape[1] / 2, part.shape[0] / 2), rng.uniform(-45, 45), 1)
    turn[:, 2] -= (part.shape[1] - width) / 2, (part.shape[0] - height) / 2
    return cv2.warpAffine(np.ascontiguousarray(part), turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def view(photos: Sequence[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """A quarter mosaics of four (what lies where must be told apart), a quarter mixtures of two (Zhang et al. 2018), half plain crops.

    Few photos must stand for many: one piece in six is turned, seven views in ten have other colours (Asano and Saeed 2023).
    """

    def piece(height: int, width: int, least: float) -> np.ndarray:
        cut = turned if rng.random() < 1 / 6 else crop
        return cut(photos[int(rng.integers(len(photos)))], height, width, rng, least)

    kind = rng.random()
    if kind < 0.25:
        row, column = (int(cut) for cut in rng.integers(side // 3, 2 * side // 3 + 1, 2))
        upper, lower = ([piece(height, width, 0.2) for width in (column, side - column)] for height in (row, side - row))
        picture = np.vstack([np.hstack(upper), np.hstack(lower)])
    else:
        picture = piece(side, side, 0.08)
        if kind < 0.5:
            share = rng.beta(1, 1)
            picture = cv2.addWeighted(picture, share, piece(side, side, 0.08), 1 - share, 0)
    return jitter(picture.astype(np.float32), rng) if rng.random() < 0.7 else picture


def jitter(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and each channel's gain; one in ten is grey, one in ten has its channels exchanged."""
    picture = picture * rng.uniform(0.7, 1.3)
    picture = (picture - picture.mean()) * rng.uniform(0.7, 1.3) + picture.mean()
    grey, kind = picture.mean(2, keepdims=True), rng.random()
    if kind < 0.1:
        picture = np.repeat(grey, 3, 2)
    else:
        picture = ((picture - grey) * rng.uniform(0.5, 1.4) + grey) * rng.uniform(0.85, 1.15, 3).astype(np.float32)
        picture = picture[:, :, rng.permutation(3)] if kind < 0.2 else picture
    return np.clip(picture, 0, 255).astype(np.uint8)


@dataclass
class Views(Dataset):
    """View i is the same whenever it is asked for."""

    photos: Sequence[np.ndarray]
    side: int
    seed: int

    def __getitem__(self, index: int) -> Tensor:
        cv2.setNumThreads(0)  # in a worker process the cores belong to the network
        picture = view(self.photos, self.side, np.random.default_rng([self.seed, index]))
        return torch.from_numpy(np.ascontiguousarray(picture))


def normalised(views: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in channels_last."""
    mean, std = (torch.tensor(numbers, device=views.device) for numbers in (HOW.mean, HOW.std))
    return ((views.float() / 255 - mean) / std).permute(0, 3, 1, 2)


# ----------------------------------------------------------------------------------------------------------------- teacher


@dataclass
class Teacher:
    """A network that ends in a mean and one linear layer, so that every cell has logits of its own."""

    name: str
    digest: str
    net: nn.Module  # images -> {"8", "16", "last": maps}
    head: nn.Linear
    bases: dict[str, Tensor] = field(default_factory=dict)  # "8", "16": [channels, the student's channels]

    @torch.no_grad()
    def __call__(self, views: Tensor) -> dict[str, Tensor]:
        """uint8 [B, S, S, 3] -> maps [B, h, w, D] in float16; those of strides 8 and 16 have the student's number of channels."""
        weight = self.head.weight
        dtype = next(self.net.parameters()).dtype
        maps = self.net(normalised(views.to(weight.device)).to(dtype))
        said = {name: found.permute(0, 2, 3, 1) for name, found in maps.items()}
        return {name: (found @ self.bases[name].to(dtype) if name in self.bases else found).half() for name, found in said.items()}

    def cells(self, maps: Tensor) -> Tensor:
        """Logits [B, h, w, C] of every cell of the last maps; their mean is what the network answers."""
        return self.head(maps.float())


def load_teacher(name: str, weights: str, config: Mapping[str, object], device: torch.device, dtype: torch.dtype) -> Teacher:
    """A torchvision network; `config` is that of its family: `stages` names its nodes, `head` its linear layer."""
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    net = models.get_model(name, weights=None, **backbones.arguments(name)).eval().requires_grad_(False)
    known = models.get_model_weights(name)
    if weights in known.__members__:
        net.load_state_dict(backbones.downloaded(known[weights], name))
    elif weights != "random":
        backbones.fill(net, weights, name)
    stages = config["stages"]
    assert isinstance(stages, dict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that training would have other nodes: nothing is trained here
        cut = create_feature_extractor(net, {stages["stage2"]: "8", stages["stage3"]: "16", stages["last"]: "last"})
    kind, _, layer = str(config["head"]).partition(":")
    head = net.get_submodule(layer) if kind == "linear" else None
    probe = torch.randn(2, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    found, logits = cut(probe), net(probe)
    pooled = found["last"].mean((2, 3))
    if (
        not isinstance(head, nn.Linear)
        or head.in_features != pooled.shape[1]
        or not torch.allclose(head(pooled), logits, atol=1e-4 * float(logits.abs().max()))
    ):
        raise ValueError(f"{name} does not end in a mean and one linear layer, so its cells have no logits; take another teacher")
    for key, cells in {"8": 13, "16": 7, "last": 4}.items():
        if found[key].shape[-1] != cells:
            raise ValueError(
                f"{name} has {found[key].shape[-1]} cells on 97 pixels where strides 8, 16 and 32 have 13, 7 and 4; take another"
            )
    digest = backbones.digest(net, weights)
    return Teacher(name, digest, cut.to(device, dtype, memory_format=torch.channels_last), head.to(device))


def fit_bases(teacher: Teacher, views: Tensor) -> None:
    """A teacher with more channels than the student is heard in its principal ones (of these views); one with as many, as it is."""
    teacher.bases.clear()
    said = teacher(views)
    for name, width in zip(("8", "16"), EmbeddedNet.widths, strict=False):
        maps = said[name].float().flatten(0, 2)
        if maps.shape[1] < width:
            raise ValueError(f"{teacher.name} has {maps.shape[1]} channels at stride {name}, fewer than the {width} that are to be taught")
        if maps.shape[1] > width:
            values, vectors = torch.linalg.eigh(torch.cov(maps.T))
            scale = values[-width:].mean().rsqrt()  # of order 1, as the student's batch norm starts
            teacher.bases[name] = vectors[:, -width:].flip(1) * scale


# ----------------------------------------------------------------------------------------------------------------- student


class Student(nn.Module):
    """The network, and the layer that translates its last channels into the teacher's: needed by a loss, thrown away afterwards."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = EmbeddedNet()
        self.translate = nn.Linear(self.net.head.in_features, channels)

    def losses(self, views: Tensor, said: Mapping[str, Tensor], teacher: Teacher, apart: bool, offset: int) -> dict[str, Tensor]:
        """`apart`: every stage starts from what the teacher says, not from what the stage before made of it."""
        features, (first, second, _) = self.net.features, self.net.stages
        right8, right16 = (said[name].float().permute(0, 3, 1, 2) for name in ("8", "16"))
        maps8 = features[:first](normalised(views))
        maps16 = features[first:second](right8 if apart else maps8)
        maps = features[second:](right16 if apart else maps16)
        shared = maps[:, :, ::2, ::2].permute(0, 2, 3, 1)  # every other cell: where the teacher has one
        last, cells, logits = self.translate(shared), self.net.head(shared), self.net.head(maps.mean((2, 3)))
        every = teacher.cells(said["last"]).float()
        losses = {
            "hint8": unexplained(moved(maps8, offset / 8), right8),
            "hint16": unexplained(moved(maps16, offset / 16), right16),
            "features": unexplained(last, said["last"]),
        }
        losses["cells"], losses["kl of cells"] = compared(cells.flatten(0, 2), every.flatten(0, 2), temperature=4.0)
        losses["logits"], losses["kl"] = compared(logits, every.mean((1, 2)), temperature=2.0)
        return losses


def unexplained(own: Tensor, right: Tensor) -> Tensor:
    """The share of the teacher's variance that the student misses."""
    own, right = own.float(), right.float()
    return F.mse_loss(own, right[tuple(slice(size) for size in own.shape)]) / right.var()


def compared(own: Tensor, right: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Two sets of logits [n, C]: the share of variance that is not explained, and the divergence; a constant added to all means nothing."""
    own, right = (z.float() - z.float().mean(-1, keepdim=True) for z in (own, right))
    guess, truth = (F.log_softmax(z / temperature, -1) for z in (own, right))
    return unexplained(own, right), F.kl_div(guess, truth, reduction="batchmean", log_target=True)


def moved(maps: Tensor, cells: float) -> Tensor:
    """The maps read so many cells further down and right, bilinearly: the teacher's early cell i lies at stride * i + offset."""
    for axis in (2, 3):
        size, whole, part = maps.shape[axis] - math.ceil(cells), int(cells), cells % 1
        maps = torch.lerp(maps.narrow(axis, whole, size).float(), maps.narrow(axis, whole + (part > 0), size).float(), part)
    return maps


class Optimiser:
    """Muon (Jordan et al. 2024) for the kernels of convolutions as matrices, AdamW for all else."""

    def __init__(self, student: Student) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"pretraining needs torch 2.9 or newer for its Muon optimiser, not {torch.__version__}")
        kernels = [p for p in student.parameters() if p.ndim == 4 and p.shape[1] > 1]
        others = [p for p in student.parameters() if p.ndim != 4 or p.shape[1] == 1]
        self.kernels, self.matrices = kernels, [nn.Parameter(kernel.detach().flatten(1)) for kernel in kernels]  # the same storage
        decayed = [{"params": [p for p in others if (p.ndim > 1) == wide], "weight_decay": 0.03 * wide} for wide in (True, False)]
        self.muon = torch.optim.Muon(self.matrices, lr=0.0, weight_decay=0.03, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.AdamW(decayed, lr=0.0, fused=True)

    def step(self, rate: float) -> None:
        for optimiser, share in ((self.muon, 1.0), (self.adam, 0.2)):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            assert kernel.grad is not None
            matrix.grad = kernel.grad.flatten(1)
        for optimiser in (self.muon, self.adam):
            optimiser.step()
        for parameter in (*self.kernels, *(p for group in self.adam.param_groups for p in group["params"])):
            parameter.grad = None

    def state_dict(self) -> dict[str, dict]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, dict]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


# -------------------------------------------------------------------------------------------------------------------- loop


def distil(
    lesson: Lesson, teacher: Teacher, paths: Sequence[Path], folder: Path, compile: bool = False, start: str = "random"
) -> Iterator[News]:
    """Learn, from folder/last.pt on if there is one; yields the losses, and how the held-out photos (every 24th, 40 at most) are judged.

    start    random | shipped: the weights that come with attnvis | a .safetensors file
    """
    held, device = set(paths[::24][:40]), teacher.head.weight.device
    if len(paths) < 2:
        raise ValueError(f"{len(paths)} photo is too few to learn from; give a folder of hundreds")
    photos = [fit(load(path, short=HOW.size), HOW)[0] for path in paths if path not in held]
    quiz = torch.stack([Views([fit(load(path, short=HOW.size), HOW)[0] for path in sorted(held)], 129, 1)[i] for i in range(QUIZ)])
    fit_bases(teacher, torch.stack([Views(photos, 97, 2)[i] for i in range(QUIZ)]))
    torch.manual_seed(lesson.seed)
    student = Student(teacher.head.in_features)
    if start == "shipped":
        student.net.load_state_dict(load_weights())
    elif start != "random":
        backbones.fill(student.net, start, "the embedded network")
    student.to(device)
    average = EmbeddedNet().to(device).requires_grad_(False)
    average.load_state_dict(student.net.state_dict())
    optimiser, phases, step, file = Optimiser(student), lesson.phases(), 0, folder / "last.pt"
    digest = f"random {teacher.name}" if teacher.digest == "random" else teacher.digest
    about = {"teacher": digest, "seed": lesson.seed, "batch": lesson.batch, "photos": len(photos)}
    about["start"] = "random" if start == "random" else backbones.digest(student.net, start)
    if file.exists():
        saved = torch.load(file, map_location=device, weights_only=True)
        if saved["about"] != about:
            raise ValueError(f"{file} is of another run ({saved['about']}, now {about}); choose another name=...")
        student.load_state_dict(saved["student"])
        optimiser.load_state_dict(saved["optimiser"])
        average.load_state_dict(saved["average"])
        teacher.bases = saved.get("bases", teacher.bases)  # eigenvectors come with either sign
        step = saved["step"]
    if compile:
        teacher.net.compile(options={"freezing": True} if device.type == "cpu" else None)
        student.losses = torch.compile(student.losses)  # type: ignore[method-assign]
    total = phases[-1].end
    right = teacher(quiz)
    seen, clock, rows = 0, time.monotonic(), list[dict[str, Tensor]]()
    for phase in phases:
        for views, said in answered(lesson, phase, max(step, phase.begin), teacher, photos):
            step += 1
            with torch.autocast(device.type, torch.bfloat16, enabled=next(teacher.net.parameters()).dtype == torch.bfloat16):
                losses = student.train().losses(views, said, teacher, phase.kind == "apart", phase.offset)
                torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
            optimiser.step(phase.rate_at(step))
            follow(average, student.net, min(0.998, (step - phase.begin) / (step - phase.begin + 20)))
            rows.append({name: loss.detach() for name, loss in losses.items()})
            seen += lesson.batch
            ends = step == phase.end
            if step % SAVE == 0 or ends:
                states = {"student": student.state_dict(), "optimiser": optimiser.state_dict(), "average": average.state_dict()}
                torch.save(states | {"step": step, "about": about, "bases": teacher.bases}, folder / "part.pt")
                (folder / "part.pt").replace(file)  # a run that dies here leaves no half-written checkpoint behind
            if step % NEWS == 0 or ends:
                numbers = {name: float(torch.stack([row[name] for row in rows]).mean()) for name in losses}
                numbers |= {
                    "rate": phase.rate_at(step),
                    "views": step * lesson.batch,
                    "views per second": seen / (time.monotonic() - clock),
                }
                if phase.kind == "together" and (step % SAVE == 0 or ends):
                    numbers |= judged(average, teacher, quiz, right)
                yield News(step, total, f"{phase.kind} at {phase.size} px", numbers, step % SAVE == 0 or ends)
                seen, clock, rows = 0, time.monotonic(), []


def answered(
    lesson: Lesson, phase: Phase, step: int, teacher: Teacher, photos: Sequence[np.ndarray]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Batches from that step to the end of a phase, the same ones however often the run was stopped on the way.

    The teacher answers a block of new views; these are learned from `replay` times, in another order each time.
    """
    per_pass = lesson.answers // lesson.batch
    per_block, done = per_pass * lesson.replay, step - phase.begin
    first = done // per_block
    size, side = phase.size, phase.size + phase.offset
    if done >= phase.steps:
        return
    blocks = math.ceil(phase.steps / per_block)
    dataset = Views(photos, side, lesson.seed + 1000 * (phase.begin + 1))
    indices = range(first * lesson.answers, blocks * lesson.answers)
    source = iter(
        DataLoader(dataset, lesson.batch, sampler=indices, num_workers=lesson.workers, prefetch_factor=8 if lesson.workers else None)
    )
    for block in range(first, blocks):
        views, answers = [], []
        for _ in range(per_pass):
            views.append(next(source))
            answers.append(teacher(views[-1][:, phase.offset :, phase.offset :]))
        pixels = torch.cat(views)[:, :size, :size].to(teacher.head.weight.device)
        said = {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}
        orders = [np.random.default_rng([lesson.seed, phase.begin, block, i]).permutation(lesson.answers) for i in range(lesson.replay)]
        order = torch.from_numpy(np.concatenate(orders)).to(pixels.device)
        for batch in order.view(-1, lesson.batch)[done - block * per_block :][: phase.steps - done]:
            done += 1
            yield pixels[batch], {name: maps[batch] for name, maps in said.items()}


def follow(average: nn.Module, net: nn.Module, keep: float) -> None:
    """The moving average of the weights; counters are copied."""
    with torch.no_grad():
        for slow, fast in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
            slow.lerp_(fast, 1 - keep) if slow.is_floating_point() else slow.copy_(fast)


@torch.no_grad()
def judged(net: EmbeddedNet, teacher: Teacher, quiz: Tensor, right: Mapping[str, Tensor]) -> dict[str, float]:
    """On views of photos that were not learned from: how often the teacher's first choice is the student's, or among its five."""
    net.eval()
    ranked = torch.cat([net(normalised(part.to(teacher.head.weight.device))) for part in quiz.split(64)]).argsort(1, descending=True)
    best = teacher.cells(right["last"]).mean((1, 2)).argmax(1, keepdim=True)
    return {f"held-out top-{k}": float((ranked[:, :k] == best).any(1).float().mean()) for k in (1, 5)}


def export(folder: Path, file: Path, about: Mapping[str, object]) -> str:
    """The averaged weights as float16; gives their sha256, to be pinned in attnvis/embedded/__init__.py."""
    saved = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    tensors = {name: value.half().contiguous() for name, value in saved["average"].items() if value.is_floating_point()}
    told = json.dumps({**about, "steps": saved["step"], **saved["about"]}, sort_keys=True)
    content = save(tensors, {"about": told})  # one entry: safetensors writes several in an order that changes from run to run
    write_bytes(file, content)
    return hashlib.sha256(content).hexdigest()
