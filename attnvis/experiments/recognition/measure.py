"""Photos of known class in; what scaling does to recognition out, when each class's own attention takes the place of the plain mean.

Every class c is a query: s_ic = v_i . w_c, a_c = softmax over the patches of the scaled s_c, logit_c = sum_i a_ic s_ic + b_c.
Uniform attention is the network as it is (GAP, global average pooling).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import Scaling, at_least_float32, weigh
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.cache import Cached
from attnvis.backbone.heads import Linear
from attnvis.data.truth import read_truth
from attnvis.methods.attention import Encoder
from attnvis.metrics.intervals import Estimate, bootstrap, estimate
from attnvis.pipeline.streaming import Outcome, stream
from attnvis.types import Batch, Head, PhotoError, Preprocessing, Scores

__all__ = [
    "Findings",
    "PhotoRecognition",
    "Recogniser",
    "Setting",
    "SettingResult",
    "attended_logits",
    "measure_recognition",
    "recognise_photo",
    "settings",
    "summarise",
]

TEMPERATURES = tuple(2.0**power for power in range(9, -3, -1))  # 512 ... 1/4; 1 is `none`
DIVISORS = tuple(2.0 ** (power / 8) for power in range(-24, 33))  # what logits are divided by: 1/8 ... 16

MOST = 2**22  # numbers in one tensor of scores: classes go through in blocks


# ---------------------------------------------------------------------------------------------------------------- attention


def uniform(scores: Scores) -> Float[Tensor, "B Q N"]:
    """tau = infinity."""
    return torch.zeros_like(scores.products)


def hottest(scores: Scores) -> Float[Tensor, "B Q N"]:
    """tau = 0: all weight on the best patch; equal ones share it."""
    return torch.where(scores.products == scores.products.amax(-1, keepdim=True), 0.0, -torch.inf)


@dataclass(frozen=True)
class Setting:
    name: str
    scaling: Scaling
    tau: float | None  # what the scores are divided by; None: another number for every photo and class


def settings(dim: int, temperatures: Sequence[float] = TEMPERATURES) -> tuple[Setting, ...]:
    """GAP first, then from the flattest attention to the sharpest, then the scalings that look at each photo."""
    by_tau = [Setting("inv_sqrt_d", scaling.inv_sqrt_d, math.sqrt(dim)), Setting("none", scaling.none, 1.0)]
    by_tau += [
        Setting(f"temperature:{tau:g}", partial(scaling.temperature, tau=tau), tau)
        for tau in temperatures
        if tau not in (1.0, math.sqrt(dim))
    ]
    by_tau.sort(key=lambda setting: -(setting.tau or 0))
    ends = Setting("GAP", uniform, math.inf), Setting("max", hottest, 0.0)
    return (
        ends[0],
        *by_tau,
        ends[1],
        Setting("zscore", scaling.zscore, None),
        Setting("minmax", scaling.minmax, None),
    )


def attended_logits(tokens: Float[Tensor, "B N D"], head: Linear, scaling: Scaling) -> Float[Tensor, "B C"]:
    """logit_c = w_c . context_c + b_c, where context_c is what class c attends to: each class reads a mean of its own."""
    return attended(tokens, head, [scaling])[0]


def attended(
    tokens: Float[Tensor, "B N D"], head: Linear, scalings: Sequence[Scaling]
) -> Float[Tensor, "S B C"]:
    """`attended_logits` of several scalings, which share one product."""
    tokens = at_least_float32(tokens)
    photos, patches, channels = tokens.shape
    block = max(1, MOST // (photos * max(patches, channels)))
    logits = []
    for rows, biases in zip(head.weight.split(block), head.bias.split(block), strict=True):
        scores = Scores(rows.to(tokens).expand(photos, -1, -1), tokens)
        weights = (weigh(scores, tokens, scaling, normalise.softmax).weights for scaling in scalings)
        pooled = [
            (mine * scores.products).sum(-1) for mine in weights
        ]  # w_c . sum_i a_ic v_i = sum_i a_ic s_ic
        logits.append(torch.stack(pooled) + biases.to(tokens))
    return torch.cat(logits, -1)


@dataclass(frozen=True)
class Recogniser:
    """Batch -> for each photo a list of one, its logits under every setting [S, C]."""

    backbone: Encoder
    settings: tuple[Setting, ...]

    def __call__(self, batch: Batch) -> list[list[Tensor]]:
        (features,) = self.backbone(batch)
        head = required(features.head)
        logits = attended(features.tokens, head, [setting.scaling for setting in self.settings])
        return [[mine] for mine in logits.transpose(0, 1).cpu()]


def required(head: Head | None) -> Linear:
    if not isinstance(head, Linear):
        raise ValueError(
            "recognition needs the layer that the classifier reads, and a classifier that is one linear layer on the mean patch: "
            "use backbone.layer=last, or another backbone"
        )
    return head


# ------------------------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True, eq=False)
class PhotoRecognition:
    """One photo under every setting."""

    predicted: Int[np.ndarray, " S"]
    top1: Bool[np.ndarray, " S"]
    top5: Bool[np.ndarray, " S"]
    nll: Float[np.ndarray, " S"]  # -ln p(truth), in nats
    rescaled: Float[np.ndarray, "S T"]  # the same with the logits divided by each of DIVISORS
    told: Mapping[str, Any]  # who it is


def recognise_photo(
    logits: Float[Tensor, "S C"], truth: int, told: Mapping[str, Any] | None = None
) -> PhotoRecognition:
    """Ties count against the truth: who answers the same for every class is not right."""
    logits = logits.double()
    own = logits[:, truth]
    rank = (logits >= own.unsqueeze(-1)).sum(-1)  # 1: the truth alone is at the top
    divisors = torch.tensor(DIVISORS, dtype=torch.float64)
    rescaled = (logits.unsqueeze(1) / divisors.unsqueeze(-1)).logsumexp(-1) - own.unsqueeze(-1) / divisors
    return PhotoRecognition(
        logits.argmax(-1).numpy(), (rank == 1).numpy(), (rank <= 5).numpy(), (logits.logsumexp(-1) - own).numpy(),
        rescaled.float().numpy(), told or {},
    )  # fmt: skip


def rescale(
    curves: Float[np.ndarray, "P S T"], seed: int = 0
) -> tuple[Float[np.ndarray, "P S"], Float[np.ndarray, "P S"]]:
    """The control: logits divided by one number per setting, the one that suits the *other* half of the photos best; (NLL, divisor)."""
    half = np.random.default_rng(seed).permutation(len(curves)) % 2 == 0
    nll, divisor = np.empty(curves.shape[:2]), np.empty(curves.shape[:2])
    for mine, others in ((half, ~half), (~half, half)):
        whole = curves[others].mean(0)  # [S, T]
        best = whole.argmin(-1, keepdims=True).clip(1, curves.shape[-1] - 2)
        _, slope, bend = parabola(whole, best)
        step = np.where(bend > 0, -slope / np.where(bend > 0, bend, 1), 0).clip(-1, 1)  # to the vertex
        start, slope, bend = parabola(curves[mine], np.broadcast_to(best, (mine.sum(), *best.shape)))
        nll[mine] = start + step * slope + step**2 * bend / 2
        divisor[mine] = np.exp2(np.interp(best[:, 0] + step, np.arange(len(DIVISORS)), np.log2(DIVISORS)))
    return nll, divisor


def parabola(
    curve: Float[np.ndarray, "*any T"], at: Int[np.ndarray, "*any 1"]
) -> tuple[Float[np.ndarray, "*any"], ...]:
    """Value, slope and bend of a curve at one of its points, per step."""
    left, middle, right = (np.take_along_axis(curve, at + step, -1)[..., 0] for step in (-1, 0, 1))
    return middle, (right - left) / 2, left - 2 * middle + right


@dataclass(frozen=True)
class SettingResult:
    """One setting over all photos; `delta_...` is the paired difference to GAP."""

    name: str
    tau: float | None
    divisor: float  # what rescaled its logits, the geometric mean of the two halves'
    top1: Estimate
    top5: Estimate
    nll: Estimate
    rescaled: Estimate
    delta_top1: Estimate
    delta_top5: Estimate
    delta_nll: Estimate
    delta_rescaled: Estimate


@dataclass(frozen=True, eq=False)
class Findings:
    rows: list[SettingResult]  # GAP first
    table: pa.Table  # a row per photo and setting
    photos: int
    failures: list[tuple[str, str]]  # file, reason

    def row(self, name: str) -> SettingResult:
        return next(row for row in self.rows if row.name == name)


def summarise(
    asked: Sequence[Setting], photos: Sequence[PhotoRecognition], failures: Sequence[tuple[str, str]] = ()
) -> Findings:
    if len(photos) < 2:
        raise ValueError(
            f"{len(photos)} photo of known class cannot show a difference; give at least 2, better some hundreds"
        )
    nll, divisors = rescale(np.stack([photo.rescaled for photo in photos]))
    values = np.stack(
        [*(np.stack([getattr(photo, name) for photo in photos]) for name in ("top1", "top5", "nll")), nll], 1
    )  # [P, 4, S]
    means = bootstrap(values.reshape(len(photos), -1).astype(float)).reshape(-1, *values.shape[1:])
    whole = values.mean(0)  # [4, S]
    rows = []
    for column, setting in enumerate(asked):
        own = [estimate(whole[row, column], means[:, row, column]) for row in range(4)]
        more = [
            estimate(whole[row, column] - whole[row, 0], means[:, row, column] - means[:, row, 0])
            for row in range(4)
        ]
        rows.append(
            SettingResult(
                setting.name, setting.tau, float(np.exp(np.log(divisors[:, column]).mean())), *own, *more
            )
        )
    return Findings(rows, tabulate(asked, photos, nll, divisors), len(photos), list(failures))


def tabulate(
    asked: Sequence[Setting],
    photos: Sequence[PhotoRecognition],
    rescaled: Float[np.ndarray, "P S"],
    divisors: Float[np.ndarray, "P S"],
) -> pa.Table:
    columns: dict[str, Any] = {
        name: np.repeat([photo.told[name] for photo in photos], len(asked)) for name in photos[0].told
    }
    columns |= {
        "setting": [setting.name for setting in asked] * len(photos),
        "tau": [setting.tau for setting in asked] * len(photos),
    }
    columns |= {
        name: np.concatenate([getattr(photo, name) for photo in photos])
        for name in ("predicted", "top1", "top5", "nll")
    }
    return pa.table(columns | {"nll_rescaled": rescaled.ravel(), "divisor": divisors.ravel()})


# ---------------------------------------------------------------------------------------------------------- photos -> numbers


Watch = Callable[[Iterable[Outcome[Tensor]], int], Iterable[Outcome[Tensor]]]


def unwatched(outcomes: Iterable[Outcome[Tensor]], total: int) -> Iterable[Outcome[Tensor]]:
    return outcomes


def measure_recognition(
    paths: Sequence[Path],
    backbone: Backbone | Cached,
    preprocessing: Preprocessing,
    batch_size: int = 8,
    watch: Watch = unwatched,
) -> Findings:
    """Photos whose names tell their class -> findings; the others are told as failures.  `watch` sees outcomes pass: a progress bar."""
    head = required(backbone.head)
    truths, failures = dict[Path, int](), list[tuple[str, str]]()
    for path in paths:
        try:
            truths[path] = read_truth(path, head.categories, len(head.weight))
        except PhotoError as error:
            failures.append((str(path), str(error)))
    if not truths:
        many = f"none of {len(paths)} photos says its class; the first: " if len(paths) > 1 else ""
        raise ValueError(f"{many}{failures[0][1]}" if failures else "no photos were given")
    asked = settings(head.weight.shape[1])
    judged = dict[int, PhotoRecognition]()
    for outcome in watch(
        stream(list(truths), Recogniser(backbone, asked), preprocessing, batch_size), len(truths)
    ):
        if outcome.photo is None or outcome.error:
            failures.append((str(outcome.path), outcome.error))
            continue
        truth, place = truths[outcome.path], str(outcome.path).encode("utf-8", "backslashreplace").decode()
        told = {
            "index": outcome.index,
            "path": place,
            "digest": outcome.photo.digest,
            "truth": truth,
            "label": head.category(truth),
        }
        judged[outcome.index] = recognise_photo(outcome.answers[0], truth, told)
    return summarise(asked, [judged[index] for index in sorted(judged)], failures)
