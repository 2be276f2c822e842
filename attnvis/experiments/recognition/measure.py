"""Photos of known class in, what scaling does to recognition out, where each class attends by itself.

Every class c is a query: s_ic = v_i . w_c, a_c = softmax over the patches of the scaled s_c,
logit_c = sum_i a_ic s_ic + b_c.
Uniform attention is the network as it is (GAP, global average pooling).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from attnvis.methods.answer import require_finite
from attnvis.methods.attention import Encoder
from attnvis.metrics.intervals import (
    Interval,
    change_interval,
    holm,
    mean_interval,
    share_interval,
    sign_test,
)
from attnvis.pipeline.streaming import Outcome, stream
from attnvis.types import Batch, Head, Photo, PhotoError, Preprocessing, Scores, Source

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


# -------------------------------------------------------------------------------- attention


def uniform(scores: Scores) -> Float[Tensor, "B Q N"]:
    """tau = infinity."""
    return torch.zeros_like(scores.products)


def hottest(scores: Scores) -> Float[Tensor, "B Q N"]:
    """tau = 0: all weight on the best patch; equal ones share it."""
    return torch.where(scores.products == scores.products.amax(-1, keepdim=True), 0.0, -torch.inf)


@dataclass(frozen=True)
class Setting:
    """A scaling of the scores, before softmax."""

    name: str
    scaling: Scaling
    tau: float | None  # what the scores are divided by; None: another number for every photo and class


def settings(dim: int, temperatures: Sequence[float] = TEMPERATURES) -> tuple[Setting, ...]:
    """GAP first, then from the flattest attention to the sharpest, then what looks at each photo."""
    by_tau = [
        Setting("GAP", uniform, math.inf),
        Setting("inv_sqrt_d", scaling.inv_sqrt_d, math.sqrt(dim)),
        Setting("none", scaling.none, 1.0),
        Setting("max", hottest, 0.0),
    ]
    by_tau += [
        Setting(f"temperature:{tau:g}", partial(scaling.temperature, tau=tau), tau)
        for tau in temperatures
        if tau not in (1.0, math.sqrt(dim))
    ]
    by_tau.sort(key=lambda setting: -(setting.tau or 0))
    by_photo = Setting("zscore", scaling.zscore, None), Setting("minmax", scaling.minmax, None)
    return (*by_tau, *by_photo)


def attended_logits(tokens: Float[Tensor, "B N D"], head: Linear, scaling: Scaling) -> Float[Tensor, "B C"]:
    """logit_c = w_c . context_c + b_c, where context_c is what class c attends to: a mean of its own."""
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
        pooled = []
        for function in scalings:
            weights = weigh(scores, tokens, function, normalise.softmax).weights
            pooled.append((weights * scores.products).sum(-1))  # w_c . sum_i a_ic v_i = sum_i a_ic s_ic
        logits.append(torch.stack(pooled) + biases.to(tokens))
    return torch.cat(logits, -1)


@dataclass(frozen=True)
class Recogniser:
    """Batch -> for each photo a list of one, its logits under every setting [S, C]."""

    backbone: Encoder
    settings: tuple[Setting, ...]

    def __call__(self, batch: Batch) -> list[list[Tensor]]:
        (features,) = self.backbone(batch)
        require_finite(features.tokens, features, "features")
        head = required(features.head)
        logits = attended(features.tokens, head, [setting.scaling for setting in self.settings])
        logits = logits.transpose(0, 1)  # [B, S, C]
        require_finite(logits, features, "attended class logits")
        return [[of_photo] for of_photo in logits.cpu()]


def required(head: Head | None) -> Linear:
    if not isinstance(head, Linear):
        raise ValueError(
            "recognition needs the layer that the classifier reads, and a classifier that is one linear "
            "layer on the mean patch: use backbone.layer=last, or another backbone"
        )
    return head


# -------------------------------------------------------------------------------- numbers


@dataclass(frozen=True, eq=False)
class PhotoRecognition:
    """One photo under every setting."""

    predicted: Int[np.ndarray, " S"]
    top1: Bool[np.ndarray, " S"]
    top5: Bool[np.ndarray, " S"]
    nll: Float[np.ndarray, " S"]  # -ln p(truth), in nats
    rescaled: Float[np.ndarray, "S T"]  # the same with the logits divided by each of DIVISORS
    identity: Mapping[str, Any]  # columns that say which photo it is


def recognise_photo(
    logits: Float[Tensor, "S C"], truth: int, identity: Mapping[str, Any] | None = None
) -> PhotoRecognition:
    """Ties count against the truth: who answers the same for every class is not right."""
    logits = logits.double()
    own = logits[:, truth]
    rank = (logits >= own.unsqueeze(-1)).sum(-1)  # 1: the truth alone is at the top
    divisors = torch.tensor(DIVISORS, dtype=torch.float64)
    rescaled = (logits.unsqueeze(1) / divisors.unsqueeze(-1)).logsumexp(-1) - own.unsqueeze(-1) / divisors
    return PhotoRecognition(
        predicted=logits.argmax(-1).numpy(),
        top1=(rank == 1).numpy(),
        top5=(rank <= 5).numpy(),
        nll=(logits.logsumexp(-1) - own).numpy(),
        rescaled=rescaled.float().numpy(),
        identity=identity or {},
    )


def rescale(
    curves: Float[np.ndarray, "P S T"], seed: int = 0
) -> tuple[Float[np.ndarray, "P S"], Float[np.ndarray, "P S"]]:
    """(NLL, divisor) of the control: logits divided by one number per setting.

    That number is the best for the *other* half of the photos, between two of DIVISORS by a parabola.
    """
    half = np.random.default_rng(seed).permutation(len(curves)) % 2 == 0
    nll, divisor = np.empty(curves.shape[:2]), np.empty(curves.shape[:2])
    for judged, fitted in ((half, ~half), (~half, half)):
        mean = curves[fitted].mean(0)  # [S, T]
        best = mean.argmin(-1, keepdims=True).clip(1, curves.shape[-1] - 2)
        _, slope, bend = parabola(mean, best)
        step = np.where(bend > 0, -slope / np.where(bend > 0, bend, 1), 0).clip(-1, 1)  # to the vertex
        start, slope, bend = parabola(curves[judged], np.broadcast_to(best, (judged.sum(), *best.shape)))
        nll[judged] = start + step * slope + step**2 * bend / 2
        divisor[judged] = np.exp2(np.interp(best[:, 0] + step, np.arange(len(DIVISORS)), np.log2(DIVISORS)))
    return nll, divisor


def parabola(
    curve: Float[np.ndarray, "*any T"], at: Int[np.ndarray, "*any 1"]
) -> tuple[Float[np.ndarray, "*any"], ...]:
    """Value, slope and bend of a curve at one of its points, per step."""
    left, middle, right = (np.take_along_axis(curve, at + step, -1)[..., 0] for step in (-1, 0, 1))
    return middle, (right - left) / 2, left - 2 * middle + right


SCORES = ("top1", "top5", "nll", "rescaled")
SHARES = ("top1", "top5")  # of photos


@dataclass(frozen=True)
class SettingResult:
    """One setting over all photos; `delta_...` is the paired difference to GAP."""

    name: str
    tau: float | None
    divisor: float  # what rescaled its logits, the geometric mean of the two halves'
    top1: Interval
    top5: Interval
    nll: Interval
    rescaled: Interval
    delta_top1: Interval
    delta_top5: Interval
    delta_nll: Interval
    delta_rescaled: Interval
    chance: float = 1.0  # that top-1 differs so often from GAP by chance: sign test, Holm over all settings


@dataclass(frozen=True, eq=False)
class Findings:
    """What the classifier made of the attended context, under every setting."""

    rows: list[SettingResult]  # GAP first
    table: pa.Table  # a row per photo and setting
    photos: int
    failures: list[tuple[str, str]]  # file, reason

    def row(self, name: str) -> SettingResult:
        return next(row for row in self.rows if row.name == name)


def summarise(
    every_setting: Sequence[Setting],
    photos: Sequence[PhotoRecognition],
    failures: Sequence[tuple[str, str]] = (),
) -> Findings:
    """Means over photos and their paired differences to GAP, the first setting.

    Raises ValueError for fewer than two photos.
    """
    if len(photos) < 2:
        raise ValueError(
            f"{len(photos)} photo of known class cannot show a difference; "
            "give at least 2, better some hundreds"
        )
    nll, divisors = rescale(np.stack([photo.rescaled for photo in photos]))
    top1 = np.stack([photo.top1 for photo in photos])  # [P, S]
    top5 = np.stack([photo.top5 for photo in photos])
    raw_nll = np.stack([photo.nll for photo in photos])
    values = dict(zip(SCORES, (top1, top5, raw_nll, nll), strict=True))
    itself = Interval(0.0, 0.0, high=0.0, count=len(photos))  # GAP against GAP
    results = []
    # GAP itself is not among what a reader of the table picks from
    changes = (top1.astype(float) - top1[:, :1]).T[1:]
    chances = [1.0, *holm([sign_test(differences) for differences in changes])]
    for column, setting in enumerate(every_setting):
        scores, differences = {}, {}
        for name, by_photo in values.items():
            own, base = (by_photo[:, number].astype(float) for number in (column, 0))
            if name in SHARES:
                scores[name], difference = share_interval(own), change_interval(own - base)
            else:
                scores[name], difference = mean_interval(own), mean_interval(own - base)
            differences[f"delta_{name}"] = difference if column else itself
        divisor = float(np.exp(np.log(divisors[:, column]).mean()))
        results.append(
            SettingResult(setting.name, setting.tau, divisor, **scores, **differences, chance=chances[column])
        )
    return Findings(results, tabulate(every_setting, photos, nll, divisors), len(photos), list(failures))


def tabulate(
    every_setting: Sequence[Setting],
    photos: Sequence[PhotoRecognition],
    rescaled: Float[np.ndarray, "P S"],
    divisors: Float[np.ndarray, "P S"],
) -> pa.Table:
    """A row per photo and setting."""
    columns: dict[str, Any] = {}
    for name in photos[0].identity:
        columns[name] = np.repeat([photo.identity[name] for photo in photos], len(every_setting))
    columns["setting"] = [setting.name for setting in every_setting] * len(photos)
    columns["tau"] = [setting.tau for setting in every_setting] * len(photos)
    for name in ("predicted", "top1", "top5", "nll"):
        columns[name] = np.concatenate([getattr(photo, name) for photo in photos])
    return pa.table(columns | {"nll_rescaled": rescaled.ravel(), "divisor": divisors.ravel()})


# -------------------------------------------------------------------------------- photos -> numbers


Watch = Callable[[Iterable[Outcome[Tensor]], int], Iterable[Outcome[Tensor]]]


def unwatched(outcomes: Iterable[Outcome[Tensor]], total: int) -> Iterable[Outcome[Tensor]]:
    return outcomes


def measure_recognition(
    paths: Sequence[Source],
    backbone: Backbone | Cached,
    preprocessing: Preprocessing,
    batch_size: int = 8,
    watch: Watch = unwatched,
    workers: int = 1,
    say: Callable[[str], None] = lambda text: None,
    decoded: dict[Source, Photo | PhotoError] | None = None,
) -> Findings:
    """Photos whose names tell their class -> findings; the others are told as failures.

    `watch` sees outcomes pass: a progress bar; `workers`, `say` and `decoded` are those of `stream`.  Raises
    ValueError where fewer than two photos say their class, and for a classifier that is not one linear layer
    on the mean patch.
    """
    head = required(backbone.head)
    truths, failures = dict[Source, int](), list[tuple[str, str]]()
    for path in paths:
        try:
            truths[path] = read_truth(path, head.categories, len(head.weight))
        except PhotoError as error:
            failures.append((str(path), str(error)))
    if not truths:
        many = f"none of {len(paths)} photos says its class; the first: " if len(paths) > 1 else ""
        raise ValueError(f"{many}{failures[0][1]}" if failures else "no photos were given")
    every_setting = settings(head.weight.shape[1])
    recognised = dict[int, PhotoRecognition]()
    recogniser = Recogniser(backbone, every_setting)

    def compare(outcome: Outcome[Tensor]) -> PhotoRecognition:
        assert outcome.photo is not None
        truth = truths[outcome.path]
        identity = {
            "index": outcome.index,
            "path": str(outcome.path).encode("utf-8", "backslashreplace").decode(),
            "digest": outcome.photo.digest,
            "truth": truth,
            "label": head.category(truth),
        }
        return recognise_photo(outcome.answers[0], truth, identity)

    outcomes = stream(
        list(truths),
        recogniser,
        preprocessing,
        batch_size=batch_size,
        workers=workers,
        after=compare,
        say=say,
        decoded=decoded,
    )
    for outcome in watch(outcomes, len(truths)):
        if outcome.photo is None or outcome.error:
            failures.append((str(outcome.path), outcome.error))
            continue
        recognised[outcome.index] = outcome.made
    return summarise(every_setting, [recognised[index] for index in sorted(recognised)], failures)
