"""A sweep in, a page out: the sums of the note that attnvis grew from, done again, then its sentence tried on the features of photos.

The note: the larger the difference of two scores, the wilder the probabilities; divided by the root of d_k, the difference shrinks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import Scaling, attend
from attnvis.experiments.sweep.folder import Part, Sweep
from attnvis.files import write_bytes
from attnvis.methods.settings import GAPS
from attnvis.metrics.diagnostics import NEARLY_UNIFORM, diagnose
from attnvis.render import overlays, panels
from attnvis.render.html import data_uri, environment, read_template
from attnvis.render.plots import INK, QUIET, draw

__all__ = [
    "Asked",
    "Claim",
    "Duel",
    "best_gap",
    "claims",
    "duel",
    "gradients",
    "measured",
    "verdict",
    "write_note",
]

NOTED = {
    (51.0, 49.0): (0.51, 0.49),
    (80.0, 20.0): (0.99999999, 0.00000001),
}  # two scores and the probabilities that the note gives them
DIMS = (1, 64, 512, 2048)  # 1: not divided; 2048: the last layer of ResNet-50
COLOURS = ("#0072b2", "#d55e00")
FEW = 2.0  # patches: an attention spread over fewer is on one
WIDE, NARROW = (
    10 ** (2 / 3),
    10 ** (-2 / 3),
)  # gaps of logits, at edges of the histogram's bins: over 99 to 1, under 55 to 45


# -------------------------------------------------------------------------------------------------------------- two patches


@dataclass(frozen=True)
class Duel:
    """What softmax makes of two scores."""

    dim: int
    logits: tuple[float, float]
    weights: tuple[float, float]
    gap: float
    entropy: float
    perplexity: float
    gradient: float  # of the first weight with respect to the first score: p (1 - p) / divisor


def duel(pair: tuple[float, float], dim: int = 1, scaling: Scaling = scaling.inv_sqrt_d) -> Duel:
    """A photo of two patches with `dim` channels, the first of which carries the scores."""
    keys = torch.zeros(1, 2, dim, dtype=torch.float64)
    keys[0, :, 0] = torch.tensor(pair, dtype=torch.float64)
    query = torch.zeros(1, 1, dim, dtype=torch.float64)
    query[..., 0] = 1
    attention = attend(query, keys, scaling=scaling)
    found = {
        name: float(values)
        for name, values in diagnose(
            attention.weights, attention.logits, attention.scores, attention.dim
        ).items()
    }
    (z1, z2), (p1, p2) = attention.logits.flatten().tolist(), attention.weights.flatten().tolist()
    gap, gradient = (
        found["margin"],
        found["gradient_norm"] / 2,
    )  # the Jacobian of two weights has four entries of this size
    entropy = math.log1p(p2 / p1) + gap * p2  # `diagnose` cannot see that p1 is not 1
    return Duel(dim, (z1, z2), (p1, p2), gap, entropy, found["perplexity"], gradient)


@dataclass(frozen=True)
class Claim:
    """What the note says of a pair, beside what is."""

    pair: tuple[float, float]
    said: tuple[float, float]
    plain: Duel
    divided: Duel  # by the largest of DIMS
    shares: tuple[float, float]  # of the sum: s1 / (s1 + s2)
    gap_said: float  # the gap that would give what the note says
    dim_said: float  # and the d whose root would make it of this pair


def claims() -> list[Claim]:
    found = []
    for pair, said in NOTED.items():
        first, second = normalise.relu(torch.tensor(pair, dtype=torch.float64)[None, None]).flatten().tolist()
        gap = math.log(said[0] / said[1])
        found.append(
            Claim(
                pair,
                said,
                duel(pair),
                duel(pair, DIMS[-1]),
                (first, second),
                gap,
                ((pair[0] - pair[1]) / gap) ** 2,
            )
        )
    return found


def best_gap() -> float:
    """x tanh(x / 2) = 1: the scaled gap at which most gradient reaches a score."""
    x = 1.0
    for _ in range(200):
        x = 1 / math.tanh(x / 2)
    return x


def gradients(pair: tuple[float, float], divisors: Sequence[float]) -> list[float]:
    return [duel(pair, scaling=partial(scaling.temperature, tau=divisor)).gradient for divisor in divisors]


# ------------------------------------------------------------------------------------------------------------------- photos


@dataclass(frozen=True, eq=False)
class Asked:
    """One query of the sweep on its photos: medians without dividing, and divided by the root of d."""

    query: str
    before: float  # perplexity
    before_share: float  # perplexity / N
    after: float
    after_share: float
    patches: float
    spread: float  # standard deviation of the raw scores over the patches of a photo
    gaps: tuple[
        Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]
    ]  # shares of the pairs of patches, before and after
    tiles: tuple[tuple[str, bytes, str], ...] = ()  # (setting, picture, spread in words) on the first photo
    label: str = ""  # what the query is on the first photo

    def beyond(self, gap: float) -> tuple[float, float]:
        """Which share of the pairs of patches differs by more, before and after."""
        edges = np.linspace(*GAPS[:2], GAPS[2] + 1)[:-1] >= math.log10(gap) - 1e-9
        return float(self.gaps[0][edges].sum()), float(self.gaps[1][edges].sum())


def measured(part: Part) -> list[Asked]:
    settings = [tuple(setting) for setting in part.told["settings"]]
    rows = pq.read_table(
        part.folder / "rows.parquet",
        columns=["query", "scaling", "normalise", "perplexity", "patches", "score_std"],
    )
    table = {name: np.array(column) for name, column in rows.to_pydict().items()}
    found = []
    for query, curves in part.curves().items():
        mine = {
            name: (table["query"] == query) & (table["scaling"] == name) & (table["normalise"] == "softmax")
            for name in BOTH
        }
        whole, shares = {}, {}
        for name, rows_of in mine.items():
            whole[name] = float(np.median(table["perplexity"][rows_of]))
            shares[name] = float(np.median(table["perplexity"][rows_of] / table["patches"][rows_of]))
        counts = [
            curves["gaps"][1 + settings.index((name, "softmax"))] for name in BOTH
        ]  # row 0: the raw scores
        tiles = [told for told in part.told["tiles"] if told["query"] == query and told["setting"] in BOTH]
        pictures = tuple(
            (told["setting"], content, told["said"])
            for told in tiles
            if (content := content_of(part.folder / told["file"]))
        )
        patches, spread = (float(np.median(table[name][mine["none"]])) for name in ("patches", "score_std"))
        before, after = (
            (whole[name], shares[name], gaps / gaps.sum()) for name, gaps in zip(BOTH, counts, strict=True)
        )
        label = tiles[0]["label"] if tiles else query
        found.append(
            Asked(query, *before[:2], *after[:2], patches, spread, (before[2], after[2]), pictures, label)
        )
    return found


BOTH = ("none", "inv_sqrt_d")


def content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def usable(sweep: Sweep) -> Part:
    """The first job that measured both settings."""
    for part in sweep.parts:
        if (
            part.status == "done"
            and part.told["done"]
            and all([name, "softmax"] in part.told["settings"] for name in BOTH)
        ):
            return part
    raise ValueError(
        f"no job of {sweep.folder} has photos under the scalings none and inv_sqrt_d with softmax; try: attnvis sweep experiment=note"
    )


def verdict(asked: Asked) -> tuple[bool, str]:
    """Whether the note's sentence is true of this query: wild before, and after it a choice among several patches."""
    wild, chooses = asked.before < FEW, asked.after >= FEW and asked.after_share <= NEARLY_UNIFORM
    before = f"{of(asked.before)} of {of(asked.patches)} patches"
    after = f"{of(asked.after)} ({100 * asked.after_share:.0f} %)"
    if wild and chooses:
        return True, f"undivided its attention sits on {before}, divided it is spread over {after}"
    if wild and asked.after < FEW:
        return (
            False,
            f"undivided its attention sits on {before}, and divided still on {after}: √d is too little",
        )
    if wild:
        return (
            False,
            f"undivided its attention sits on {before}, divided it covers {after}: √d is too much, no preference is left",
        )
    if chooses:
        return (
            False,
            f"undivided its attention is spread over {before}, so nothing was wild, and divided over {after}",
        )
    rest = f"divided it covers {after}: hardly any preference is left"
    return False, f"undivided its attention is spread over {before}, so nothing was wild, and {rest}"


def judgement(found: Sequence[Asked], photos: int) -> str:
    """One sentence, computed: of which query the note is right here."""
    parts = {True: list[str](), False: list[str]()}
    for asked in found:
        holds, why = verdict(asked)
        parts[holds].append(f"the query {asked.query} ({why})")
    start = f"On {'this photo' if photos == 1 else f'these {photos} photos'} the note's sentence "
    said = [
        f"{word} for {' and for '.join(those)}"
        for those, word in ((parts[True], "holds"), (parts[False], "does not hold"))
        if those
    ]
    return f"{start}{'; it '.join(said)}."


# --------------------------------------------------------------------------------------------------------------------- page


def write_note(sweep: Sweep, folder: Path) -> Path:
    """Writes folder/note.html; needs a sweep over the scalings none and inv_sqrt_d."""
    from markupsafe import Markup

    part = usable(sweep)
    told, found = part.told, measured(part)
    pages = environment("attnvis.experiments")
    pages.filters |= {"image": data_uri, "probability": probability, "of": of, "power": power}
    facts = {
        name: str(told.get(name, ""))
        for name in ("backbone", "weights", "weights digest", "layer", "precision", "placement")
    }
    page = pages.get_template("note.html").render(
        style=Markup(read_template("attnvis.render", "report.css")),
        claims=claims(),
        duels={pair: [duel(pair, dim) for dim in DIMS] for pair in NOTED},
        best=best_gap(),
        peaks={pair: (pair[0] - pair[1]) / best_gap() for pair in NOTED},
        starved=gradient_figure(),
        found=found,
        dim=sweep.table["dim"][0].as_py(),
        wide=odds(WIDE),
        narrow=odds(NARROW),
        beyond=[asked.beyond(WIDE) for asked in found],
        histograms=[histogram(asked) for asked in found],
        judgement=judgement(found, told["done"]),
        photo=told["tiles"][0]["photo"] if told["tiles"] else "",
        bar=overlays.encode(panels.colour_bar(style_of(told)), "png"),
        warnings=["random weights: nothing was learned, the maps mean nothing"]
        if told.get("weights digest") == "random"
        else [],
        facts=facts | {"photos": str(told["done"]), "job": part.asked, "command": sweep.command},
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "note.html", page.encode("utf-8", "replace"))
    return folder / "note.html"


def style_of(told: Mapping[str, Any]) -> overlays.Style:
    """The colours of the sweep's tiles."""
    return overlays.Style(
        **{name: value for name, value in told["asked"].get("render", {}).items() if not name.startswith("_")}
    )


def gradient_figure() -> bytes:
    divisors = np.geomspace(0.3, 1000, 90)

    def paint(axes: Any) -> None:
        for pair, colour, above in zip(
            NOTED, COLOURS, (8, -18), strict=True
        ):  # the second curve ends in the first
            gap = pair[0] - pair[1]
            peak = gap / best_gap()
            (height,) = gradients(pair, [peak])
            axes.loglog(
                divisors,
                gradients(pair, divisors.tolist()),
                color=colour,
                label=f"{pair[0]:g} against {pair[1]:g}: gap {gap:g}",
            )
            axes.plot(peak, height, "o", color=colour, ms=7)
            axes.annotate(
                f"best: {peak:.3g}",
                (peak, height),
                (0, above),
                textcoords="offset points",
                ha="center",
                color=colour,
            )
        for dim in DIMS[1:]:
            root = math.sqrt(dim)
            axes.axvline(root, color=QUIET, lw=0.8, ls="--", zorder=0)
            side = ((-3, 5), "right") if dim < DIMS[-1] else ((3, 5), "left")
            axes.annotate(
                f"√{dim}",
                (root, 0),
                side[0],
                ("data", "axes fraction"),
                "offset points",
                ha=side[1],
                color=QUIET,
            )
        decades(axes.xaxis, range(4))
        decades(axes.yaxis, range(-5, 1))
        axes.set(
            ylim=(1e-5, 1), xlabel="what the scores are divided by", ylabel="gradient that reaches a score"
        )
        axes.legend()

    return draw("gradient", "Gradient against divisor", 3.8, paint).png


def decades(axis: Any, powers: range) -> None:
    """Plain labels: `draw` shows no formulas."""
    axis.set_ticks(
        [10.0**power for power in powers],
        [f"{10**power:g}" if power > -4 else power_of_ten(power) for power in powers],
    )
    axis.set_ticks([], minor=True)


def histogram(asked: Asked) -> bytes:
    edges = np.logspace(*GAPS[:2], GAPS[2] + 1)

    def paint(axes: Any) -> None:
        for shares, colour, label in zip(
            asked.gaps, reversed(COLOURS), ("undivided", "divided by √d"), strict=True
        ):
            axes.stairs(100 * shares, edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(100 * shares, edges, color=colour, lw=1.5, label=label)
        for side, low, high in ((0.02, 1e-9, NARROW), (0.98, WIDE, 1e9)):
            said = (
                f"as good as equal\n(under {odds(NARROW)})"
                if side < 0.5
                else f"the winner takes all\n(over {odds(WIDE)})"
            )
            align = "left" if side < 0.5 else "right"
            axes.axvspan(low, high, color=INK, alpha=0.06, lw=0)
            axes.annotate(
                said, (side, 0.97), xycoords="axes fraction", ha=align, va="top", fontsize=8.5, color=QUIET
            )
        top = 1.4 * 100 * max(shares.max() for shares in asked.gaps)
        axes.set(
            xscale="log",
            xlim=(1e-3, 1e4),
            ylim=(0, top),
            xlabel="gap between two patches",
            ylabel="% of pairs",
        )
        decades(axes.xaxis, range(-3, 5))
        axes.set_title(f"query: {asked.query}")
        axes.legend(loc="upper center")

    return draw("gaps", f"Gaps between patches, {asked.query}", 3.4, paint).png


# ------------------------------------------------------------------------------------------------------------------- words


def odds(gap: float) -> str:
    """99 : 1 for two patches whose logits differ by this."""
    first, second = (round(100 * weight) for weight in duel((gap, 0.0)).weights)
    return f"{first} : {second}"


def of(number: float) -> str:
    """1.02, 16.3, 345."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def power(number: float, digits: int = 4) -> str:
    """0.1050, 5.522·10⁻³, 8.757·10⁻²⁷."""
    if number >= 0.01 or number == 0:
        return f"{number:.{digits}g}"
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    return f"{mantissa}·{power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    return f"10{str(exponent).translate(SUPERSCRIPT)}"


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def probability(weights: tuple[float, float], which: int = 0) -> str:
    """0.8808; 1 − 8.757·10⁻²⁷ where the other is what can be read."""
    other = weights[1 - which]
    return f"1 − {power(other)}" if other < 1e-4 else power(weights[which])
