"""Photos of known class in; what scaling does to recognition out, when each class's own attention takes the place of the plain mean.

Every class c is a query: s_ic = v_i . w_c, a_c = softmax over the patches of the scaled s_c, logit_c = sum_i a_ic s_ic + b_c.
Uniform attention is the network as it is (GAP, global average pooling).

<folder>/index.html            the finding, a figure, a table
         recognition.parquet   a row per photo and setting
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnvis import normalise, report, scaling
from attnvis.attention import Scaling, at_least_float32, weigh
from attnvis.backbone import Backbone
from attnvis.cache import Cached
from attnvis.figures import Figure, draw
from attnvis.head import Linear
from attnvis.query import find_class
from attnvis.render import write_bytes
from attnvis.stream import Outcome, stream
from attnvis.values import Features, Head, PhotoError, Preprocessing, Scores

__all__ = [
    "Estimate",
    "Findings",
    "Judged",
    "Recogniser",
    "Row",
    "Setting",
    "as_text",
    "attended_logits",
    "bootstrap",
    "judge",
    "measure_recognition",
    "read_truth",
    "settings",
    "summarise",
    "write_recognition",
]  # fmt: skip

TEMPERATURES = tuple(2.0**power for power in range(9, -3, -1))  # 512 ... 1/4; 1 is `none`
DIVISORS = tuple(2.0 ** (power / 8) for power in range(-24, 33))  # what logits are divided by: 1/8 ... 16
RESAMPLES = 10_000
MOST = 2**22  # numbers in one tensor of scores: classes go through in blocks


# ---------------------------------------------------------------------------------------------------------------- attention


def uniform(scores: Scores) -> Float[Tensor, "B Q N"]:
    """tau = infinity."""
    return torch.zeros_like(scores.values)


def hottest(scores: Scores) -> Float[Tensor, "B Q N"]:
    """tau = 0: all weight on the best patch; equal ones share it."""
    return torch.where(scores.values == scores.values.amax(-1, keepdim=True), 0.0, -torch.inf)


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
    return ends[0], *by_tau, ends[1], Setting("zscore", scaling.zscore, None), Setting("minmax", scaling.minmax, None)


def attended_logits(tokens: Float[Tensor, "B N D"], head: Linear, scaling: Scaling) -> Float[Tensor, "B C"]:
    """logit_c = w_c . context_c + b_c, where context_c is what class c attends to: each class reads a mean of its own."""
    return attended(tokens, head, [scaling])[0]


def attended(tokens: Float[Tensor, "B N D"], head: Linear, scalings: Sequence[Scaling]) -> Float[Tensor, "S B C"]:
    """`attended_logits` of several scalings, which share one product."""
    tokens = at_least_float32(tokens)
    photos, patches, channels = tokens.shape
    block = max(1, MOST // (photos * max(patches, channels)))
    logits = []
    for rows, biases in zip(head.weight.split(block), head.bias.split(block), strict=True):
        scores = Scores(rows.to(tokens).expand(photos, -1, -1), tokens)
        weights = (weigh(scores, tokens, scaling, normalise.softmax).weights for scaling in scalings)
        pooled = [(mine * scores.values).sum(-1) for mine in weights]  # w_c . sum_i a_ic v_i = sum_i a_ic s_ic
        logits.append(torch.stack(pooled) + biases.to(tokens))
    return torch.cat(logits, -1)


@dataclass(frozen=True)
class Recogniser:
    """Call it with Features: for each photo a list of one, its logits under every setting [S, C]."""

    settings: tuple[Setting, ...]

    def __call__(self, features: Features) -> list[list[Tensor]]:
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


# -------------------------------------------------------------------------------------------------------------------- truth


def read_truth(path: Path, head: Linear) -> int:
    """The class that a photo's name tells: tabby/1.jpg, 281/1.jpg, 281_tabby/1.jpg or 281_1.jpg; PhotoError where it tells none, or two."""
    folder = path.absolute().parent.name
    name = re.sub(r"^n\d{8}[_ ]", "", folder)  # n02123045_tabby
    if not name.isdigit():
        try:
            return find_class(name, head.categories, len(head.weight))
        except ValueError:
            pass  # a folder may be called anything
    found = {re.match(r"(\d+)_", path.name), re.match(r"(\d+)(_|$)", folder)} - {None}
    told = {int(match[1]) for match in found if match}
    if len(told) == 1:
        try:
            return find_class(str(*told), head.categories, len(head.weight))
        except ValueError as error:
            raise PhotoError(f"{path}: {error}") from None
    wanted = "call the file 281_anything, or its folder by index or name: 281, tabby"
    if told:
        raise PhotoError(f"{path} names two classes, {' and '.join(map(str, sorted(told)))}, by its file and by its folder; {wanted}")
    raise PhotoError(f"{path} does not say its class; {wanted}")


# ------------------------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True, eq=False)
class Judged:
    """One photo under every setting."""

    predicted: Int[np.ndarray, " S"]
    top1: Bool[np.ndarray, " S"]
    top5: Bool[np.ndarray, " S"]
    nll: Float[np.ndarray, " S"]  # -ln p(truth), in nats
    rescaled: Float[np.ndarray, "S T"]  # the same with the logits divided by each of DIVISORS
    told: Mapping[str, Any]  # who it is


def judge(logits: Float[Tensor, "S C"], truth: int, told: Mapping[str, Any] | None = None) -> Judged:
    """Ties count against the truth: who answers the same for every class is not right."""
    logits = logits.double()
    own = logits[:, truth]
    rank = (logits >= own.unsqueeze(-1)).sum(-1)  # 1: the truth alone is at the top
    divisors = torch.tensor(DIVISORS, dtype=torch.float64)
    rescaled = (logits.unsqueeze(1) / divisors.unsqueeze(-1)).logsumexp(-1) - own.unsqueeze(-1) / divisors
    return Judged(
        logits.argmax(-1).numpy(), (rank == 1).numpy(), (rank <= 5).numpy(), (logits.logsumexp(-1) - own).numpy(),
        rescaled.float().numpy(), told or {},
    )  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A mean over photos and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Of a difference: that it is not zero."""
        return self.low > 0 or self.high < 0


def bootstrap(values: Float[np.ndarray, "P K"], resamples: int = RESAMPLES, seed: int = 0) -> Float[np.ndarray, "R K"]:
    """Means of K columns over photos drawn with replacement; a draw is the same for all columns, so that differences are paired."""
    random, photos = np.random.default_rng(seed), len(values)
    counts = (np.bincount(random.integers(photos, size=photos), minlength=photos) for _ in range(resamples))
    return np.stack([count @ values for count in counts]) / photos


def estimate(value: float, means: Float[np.ndarray, " R"]) -> Estimate:
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def rescale(curves: Float[np.ndarray, "P S T"], seed: int = 0) -> tuple[Float[np.ndarray, "P S"], Float[np.ndarray, "P S"]]:
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


def parabola(curve: Float[np.ndarray, "*any T"], at: Int[np.ndarray, "*any 1"]) -> tuple[Float[np.ndarray, "*any"], ...]:
    """Value, slope and bend of a curve at one of its points, per step."""
    left, middle, right = (np.take_along_axis(curve, at + step, -1)[..., 0] for step in (-1, 0, 1))
    return middle, (right - left) / 2, left - 2 * middle + right


@dataclass(frozen=True)
class Row:
    """One setting over all photos; `more_...` is the paired difference to GAP."""

    name: str
    tau: float | None
    divisor: float  # what rescaled its logits, the geometric mean of the two halves'
    top1: Estimate
    top5: Estimate
    nll: Estimate
    rescaled: Estimate
    more_top1: Estimate
    more_top5: Estimate
    more_nll: Estimate
    more_rescaled: Estimate


@dataclass(frozen=True, eq=False)
class Findings:
    rows: list[Row]  # GAP first
    table: pa.Table  # a row per photo and setting
    photos: int
    failures: list[tuple[str, str]]  # file, reason

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


def summarise(asked: Sequence[Setting], photos: Sequence[Judged], failures: Sequence[tuple[str, str]] = ()) -> Findings:
    if len(photos) < 2:
        raise ValueError(f"{len(photos)} photo of known class cannot show a difference; give at least 2, better some hundreds")
    nll, divisors = rescale(np.stack([photo.rescaled for photo in photos]))
    values = np.stack([*(np.stack([getattr(photo, name) for photo in photos]) for name in ("top1", "top5", "nll")), nll], 1)  # [P, 4, S]
    means = bootstrap(values.reshape(len(photos), -1).astype(float)).reshape(-1, *values.shape[1:])
    whole = values.mean(0)  # [4, S]
    rows = []
    for column, setting in enumerate(asked):
        own = [estimate(whole[row, column], means[:, row, column]) for row in range(4)]
        more = [estimate(whole[row, column] - whole[row, 0], means[:, row, column] - means[:, row, 0]) for row in range(4)]
        rows.append(Row(setting.name, setting.tau, float(np.exp(np.log(divisors[:, column]).mean())), *own, *more))
    return Findings(rows, tabulate(asked, photos, nll, divisors), len(photos), list(failures))


def tabulate(
    asked: Sequence[Setting], photos: Sequence[Judged], rescaled: Float[np.ndarray, "P S"], divisors: Float[np.ndarray, "P S"]
) -> pa.Table:
    columns: dict[str, Any] = {name: np.repeat([photo.told[name] for photo in photos], len(asked)) for name in photos[0].told}
    columns |= {"setting": [setting.name for setting in asked] * len(photos), "tau": [setting.tau for setting in asked] * len(photos)}
    columns |= {name: np.concatenate([getattr(photo, name) for photo in photos]) for name in ("predicted", "top1", "top5", "nll")}
    return pa.table(columns | {"nll_rescaled": rescaled.ravel(), "divisor": divisors.ravel()})


# ---------------------------------------------------------------------------------------------------------- photos -> numbers


Watch = Callable[[Iterable[Outcome[Tensor]], int], Iterable[Outcome[Tensor]]]


def unwatched(outcomes: Iterable[Outcome[Tensor]], total: int) -> Iterable[Outcome[Tensor]]:
    return outcomes


def measure_recognition(
    paths: Sequence[Path], backbone: Backbone | Cached, preprocessing: Preprocessing, batch_size: int = 8, watch: Watch = unwatched
) -> Findings:
    """Photos whose names tell their class -> findings; the others are told as failures.  `watch` sees outcomes pass: a progress bar."""
    head = required(backbone.head)
    truths, failures = dict[Path, int](), list[tuple[str, str]]()
    for path in paths:
        try:
            truths[path] = read_truth(path, head)
        except PhotoError as error:
            failures.append((str(path), str(error)))
    if not truths:
        many = f"none of {len(paths)} photos says its class; the first: " if len(paths) > 1 else ""
        raise ValueError(f"{many}{failures[0][1]}" if failures else "no photos were given")
    asked = settings(head.weight.shape[1])
    judged = dict[int, Judged]()
    for outcome in watch(stream(list(truths), backbone, Recogniser(asked), preprocessing, batch_size), len(truths)):
        if outcome.photo is None or outcome.error:
            failures.append((str(outcome.path), outcome.error))
            continue
        truth, place = truths[outcome.path], str(outcome.path).encode("utf-8", "backslashreplace").decode()
        told = {"index": outcome.index, "path": place, "digest": outcome.photo.digest, "truth": truth, "label": head.category(truth)}
        judged[outcome.index] = judge(outcome.answers[0], truth, told)
    return summarise(asked, [judged[index] for index in sorted(judged)], failures)


# -------------------------------------------------------------------------------------------------------------------- words


RIGHT = ("scaling", "tau", "top-1 %", "more than GAP", "top-5 %", "more than GAP")
SURE = ("scaling", "NLL", "more than GAP", "NLL, rescaled", "more than GAP", "rescaled by")


def percent(found: Estimate) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def points(found: Estimate) -> str:
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]".replace("-", "−")


def nats(found: Estimate) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def more_nats(found: Estimate) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]".replace("-", "−")


def cells(row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the two tables say of a setting: how often it is right, and how sure of the truth."""
    tau = "–" if row.tau is None else "∞" if math.isinf(row.tau) else f"{row.tau:.3g}"
    more = (points(row.more_top1), points(row.more_top5), more_nats(row.more_nll), more_nats(row.more_rescaled))
    top1, top5, nll, rescaled = ("",) * 4 if row.name == "GAP" else more
    right = (row.name, tau, percent(row.top1), top1, percent(row.top5), top5)
    return right, (row.name, nats(row.nll), nll, nats(row.rescaled), rescaled, f"{row.divisor:.2f}")


def as_text(findings: Findings) -> str:
    """Two markdown tables that a terminal shows in columns, then the finding."""
    said = []
    for heads, lines in zip((RIGHT, SURE), zip(*map(cells, findings.rows), strict=True), strict=True):
        widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
        table = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in (heads, *lines)]
        said += [table[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *table[1:], ""]
    return "\n".join([*said, " ".join(conclusions(findings))])


def conclusions(findings: Findings) -> Iterator[str]:
    """The finding, sentence by sentence."""
    gap, divided, plain = (findings.row(name) for name in ("GAP", "inv_sqrt_d", "none"))
    yield f"On {findings.photos} photos the network as it is, with the plain mean of its patches (GAP), is right on {percent(gap.top1)} %."
    yield f"Attention divided by √d = {divided.tau:.3g} {effect(divided.more_top1)}; attention not divided {effect(plain.more_top1)}."
    change = divided.more_nll
    moves = f"{'falls' if change.value < 0 else 'rises'} from" if change.certain else "does not change beyond its interval,"
    yield f"The NLL of the truth {moves} {gap.nll.value:.3f} to {divided.nll.value:.3f} with √d ({more_nats(change)})."
    control = (
        f"GAP's own logits divided by {gap.divisor:.2f}, one number fitted on the other half of the photos, reach {gap.rescaled.value:.3f}"
    )
    if change.certain and change.value < 0:
        enough = gap.rescaled.value <= divided.nll.value
        yield f"{'That much needs no attention' if enough else 'Part of that is mere rescaling'}: {control}."
    else:
        yield f"For comparison: {control}."
    rest = divided.more_rescaled
    said = f"{'lower' if rest.value < 0 else 'higher'} by {abs(rest.value):.3f} than" if rest.certain else "not shown to differ from"
    yield f"With both rescaled so, the NLL of attention is {said} that of GAP ({more_nats(rest)})."


def effect(difference: Estimate) -> str:
    value, low, high = (f"{100 * number:+.1f}".replace("-", "−") for number in (difference.value, difference.low, difference.high))
    if not difference.certain:
        return f"makes no difference that these photos could show ({value} points, 95 % interval {low} to {high})"
    return f"{'gains' if difference.value > 0 else 'costs'} {100 * abs(difference.value):.1f} points (95 % interval {low} to {high})"


# --------------------------------------------------------------------------------------------------------------------- page


def write_recognition(findings: Findings, folder: Path, facts: Mapping[str, str], warnings: Sequence[str] = ()) -> Path:
    """Writes folder/index.html and folder/recognition.parquet."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    folder.mkdir(parents=True, exist_ok=True)
    table = io.BytesIO()
    pq.write_table(findings.table, table, compression="zstd")
    write_bytes(folder / "recognition.parquet", table.getvalue())
    pages = Environment(loader=PackageLoader("attnvis", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["image"] = report.image
    right, sure = zip(*map(cells, findings.rows), strict=True)
    page = pages.get_template("recognition.html").render(
        style=Markup(files("attnvis").joinpath("templates", "report.css").read_text("utf-8")),
        findings=findings,
        conclusions=list(conclusions(findings)),
        tables=[("How often it is right", RIGHT, right), ("How sure it is of the truth", SURE, sure)],
        figures=figures(findings),
        warnings=warnings,
        resamples=RESAMPLES,
        facts=dict(facts) | {"photos": f"{findings.photos} of known class"},
    )
    write_bytes(folder / "index.html", page.encode("utf-8", "replace"))
    return folder / "index.html"


def figures(findings: Findings) -> list[Figure]:
    """Top-1, then NLL, against tau."""

    def right(axes: Any) -> None:
        curve(axes, findings, "top1", "#0072b2", "attention by class", factor=100.0)
        axes.set_ylabel("top-1, % of photos")
        axes.legend()

    def sure(axes: Any) -> None:
        curve(axes, findings, "nll", "#0072b2", "attention by class")
        curve(axes, findings, "rescaled", "#d55e00", "the same, logits rescaled")
        axes.set_ylabel("NLL of the truth, nats")
        axes.legend()

    titles = ("Top-1 against tau", "NLL of the truth against tau, before and after rescaling")
    return [draw(name, title, 3.8, paint) for name, title, paint in zip(("top1", "nll"), titles, (right, sure), strict=True)]


def curve(axes: Any, findings: Findings, which: str, colour: str, label: str, factor: float = 1.0) -> None:
    """One line over the temperatures; GAP and max at its ends, what has no tau of its own to the right."""
    places = {row.name: math.log2(row.tau) for row in findings.rows if row.tau and math.isfinite(row.tau)}
    low, high = min(places.values()), max(places.values())
    others = [row.name for row in findings.rows if row.tau is None]
    apart = {name: high + 4.5 + 3 * number for number, name in enumerate(others)}
    places |= {"max": low - 2, "GAP": high + 2}
    line = sorted((row for row in findings.rows if row.name in places), key=lambda row: places[row.name])
    x = [places[row.name] for row in line]
    found = [getattr(row, which) for row in line]
    axes.fill_between(x, [factor * f.low for f in found], [factor * f.high for f in found], color=colour, alpha=0.16, lw=0)
    axes.plot(x, [factor * f.value for f in found], "o-", color=colour, ms=4, lw=1.5, label=label)
    axes.axhline(factor * getattr(findings.row("GAP"), which).value, color=colour, lw=0.8, ls=":")
    for name, place in apart.items():
        f = getattr(findings.row(name), which)
        axes.errorbar(place, factor * f.value, [[factor * (f.value - f.low)], [factor * (f.high - f.value)]], fmt="s", color=colour, ms=4)
    ticks: dict[float, str] = {place: f"{2**place:g}" for place in range(math.ceil(low), math.floor(high) + 1) if place % 3 == 0}
    ticks |= {places["max"]: "max", places["GAP"]: "GAP"} | {place: name for name, place in apart.items()}
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.axvline(places["inv_sqrt_d"], color="#9aa0a8", lw=0.8, ls="--", zorder=0)
    axes.annotate(
        "√d", (places["inv_sqrt_d"], 1), (3, -12), xycoords=("data", "axes fraction"), textcoords="offset points", color="#6c717a"
    )
    axes.axvline(high + 3.25, color="#d8dad6", lw=0.8, zorder=0)
    axes.set_xlabel("what the scores are divided by, τ (1: not at all)")
    axes.grid(visible=False, axis="x")
