"""A sweep in, a page out: the sums of the note that attnvis grew from, and its sentence tried on photos.

The note: the larger the difference of two scores, the wilder the probabilities; divided by the root of d_k,
the difference shrinks.
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
from jaxtyping import Bool, Float

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import Scaling, attend
from attnvis.attention.sensitivity import sensitivity
from attnvis.experiments.note_lab import read_lab
from attnvis.experiments.sweep.folder import Part, Sweep
from attnvis.experiments.sweep.record import Tile
from attnvis.experiments.sweep.sheets import style_of
from attnvis.experiments.wording import percent, superscript
from attnvis.explorer.modules import script
from attnvis.methods.settings import GAPS
from attnvis.metrics.diagnostics import NEARLY_UNIFORM, diagnose
from attnvis.render import overlays, panels
from attnvis.render.html import environment, read_template, write_page
from attnvis.render.plots import INK, QUIET, draw
from attnvis.types import Scores

__all__ = [
    "Claim",
    "Duel",
    "QueryMedians",
    "best_gap",
    "claims",
    "duel",
    "gradients",
    "query_medians",
    "verdict",
    "write_note",
]

NOTED = {  # two scores and the probabilities that the note gives them
    (51.0, 49.0): (0.51, 0.49),
    (80.0, 20.0): (0.99999999, 0.00000001),
}
DIMS = (1, 64, 512, 2048)  # 1: not divided; 2048: the last layer of ResNet-50
COLOURS = ("#0072b2", "#d55e00")
BOTH = ("none", "inv_sqrt_d")  # the scalings of which the note speaks
FEW = 0.05  # of the patches: an attention spread over less sits on a few
FEWEST_PATCHES = 2.0  # where that share is less than two patches: spread over fewer, it is on one
TAME = 0.01  # of the pairs: where more lie over WIDE, nobody says that nothing was wild
# gaps of logits, at edges of the histogram's bins: over 99 to 1, under 55 to 45
WIDE, NARROW = 10 ** (2 / 3), 10 ** (-2 / 3)


# -------------------------------------------------------------------------------- two patches


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
    gradient = sensitivity(
        Scores(query, keys), attention.logits, attention.weights, scaling=scaling, normalise=normalise.softmax
    )
    numbers = diagnose(
        attention.weights, attention.logits, attention.scores, dim=attention.dim, gradient=gradient
    )
    diagnostics = {name: float(values) for name, values in numbers.items()}
    z1, z2 = attention.logits.flatten().tolist()
    p1, p2 = attention.weights.flatten().tolist()
    gap = diagnostics["margin"]
    return Duel(
        dim,
        (z1, z2),
        weights=(p1, p2),
        gap=gap,
        entropy=math.log1p(p2 / p1) + gap * p2,  # `diagnose` cannot see that p1 is not 1
        perplexity=diagnostics["perplexity"],
        # the Jacobian of two weights has four entries of this size
        gradient=diagnostics["gradient_norm"] / 2,
    )


@dataclass(frozen=True)
class Claim:
    """What the note says of a pair, beside what is."""

    pair: tuple[float, float]
    noted: tuple[float, float]  # the probabilities that the note gives
    plain: Duel
    divided: Duel  # by the largest of DIMS
    shares: tuple[float, float]  # of the sum: s1 / (s1 + s2)
    noted_gap: float  # the gap that would give what the note says
    noted_dim: float  # and the d whose root would make it of this pair


def claims() -> list[Claim]:
    """The note's pairs of scores, each with what the note says of it and what is so."""
    return [claim(pair, noted) for pair, noted in NOTED.items()]


def claim(pair: tuple[float, float], noted: tuple[float, float]) -> Claim:
    scores = torch.tensor(pair, dtype=torch.float64)[None, None]
    first, second = normalise.relu(scores).flatten().tolist()
    noted_gap = math.log(noted[0] / noted[1])
    return Claim(
        pair,
        noted,
        plain=duel(pair),
        divided=duel(pair, DIMS[-1]),
        shares=(first, second),
        noted_gap=noted_gap,
        noted_dim=((pair[0] - pair[1]) / noted_gap) ** 2,
    )


def best_gap() -> float:
    """x tanh(x / 2) = 1: the scaled gap at which most gradient reaches a score."""
    x = 1.0
    for _ in range(200):
        x = 1 / math.tanh(x / 2)
    return x


def gradients(pair: tuple[float, float], divisors: Sequence[float]) -> list[float]:
    """The gradient of the first weight with respect to its score, divided by each number."""
    return [duel(pair, scaling=partial(scaling.temperature, tau=divisor)).gradient for divisor in divisors]


# -------------------------------------------------------------------------------- photos


@dataclass(frozen=True, eq=False)
class QueryMedians:
    """One query of the sweep on its photos: medians without dividing, and divided by the root of d."""

    query: str
    before: float  # perplexity
    before_share: float  # perplexity / N
    after: float
    after_share: float
    patches: float
    spread: float  # standard deviation of the raw scores over the patches of a photo
    # shares of the pairs, before and after
    gaps: tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]
    tiles: tuple[tuple[str, bytes, str], ...] = ()  # (setting, picture, spread in words) on the first photo
    label: str = ""  # what the query is on the first photo

    @property
    def few(self) -> float:
        """Spread over fewer patches than this, an attention sits on a few of them; at most half of all."""
        return min(max(FEWEST_PATCHES, FEW * self.patches), self.patches / 2)

    def beyond(self, gap: float) -> tuple[float, float]:
        """Which share of the pairs of patches differs by more, before and after."""
        edges = np.linspace(*GAPS[:2], GAPS[2] + 1)[:-1] >= math.log10(gap) - 1e-9
        return float(self.gaps[0][edges].sum()), float(self.gaps[1][edges].sum())


def query_medians(part: Part) -> list[QueryMedians]:
    """Of every query of a job that measured both scalings."""
    rows = pq.read_table(
        part.folder / "rows.parquet",
        columns=["query", "scaling", "normalise", "perplexity", "patches", "score_std"],
    )
    table = {name: np.array(column) for name, column in rows.to_pydict().items()}
    settings = part.record.settings
    queries = []
    for query, curves in part.curves().items():
        of_query = (table["query"] == query) & (table["normalise"] == "softmax")
        undivided, divided = (of_query & (table["scaling"] == scaling_name) for scaling_name in BOTH)
        before, before_share = median_perplexity(table, undivided)
        after, after_share = median_perplexity(table, divided)
        counts = [curves["gaps"][1 + settings.index((name, "softmax"))] for name in BOTH]  # 0: raw scores
        tiles = [
            tile
            for tile in part.record.tiles
            if tile.place == 0 and tile.query == query and tile.setting in BOTH
        ]
        queries.append(
            QueryMedians(
                query,
                before=before,
                before_share=before_share,
                after=after,
                after_share=after_share,
                patches=float(np.median(table["patches"][undivided])),
                spread=float(np.median(table["score_std"][undivided])),
                gaps=(counts[0] / counts[0].sum(), counts[1] / counts[1].sum()),
                tiles=pictures_of(part.folder, tiles),
                label=tiles[0].label if tiles else query,
            )
        )
    return queries


def median_perplexity(
    table: Mapping[str, np.ndarray], rows: Bool[np.ndarray, " rows"]
) -> tuple[float, float]:
    """Over these rows: the median perplexity, and that of its share of the patches."""
    perplexity = table["perplexity"][rows]
    return float(np.median(perplexity)), float(np.median(perplexity / table["patches"][rows]))


def pictures_of(folder: Path, tiles: Sequence[Tile]) -> tuple[tuple[str, bytes, str], ...]:
    """(setting, picture, spread in words); a picture that is gone is left out."""
    pictures = [(tile.setting, content_of(folder / tile.file), tile.said) for tile in tiles]
    return tuple(picture for picture in pictures if picture[1])


def content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def usable(sweep: Sweep) -> Part:
    """The first job that measured both scalings.  Raises ValueError where none did."""
    for part in sweep.done:
        if part.record.done and all((name, "softmax") in part.record.settings for name in BOTH):
            return part
    raise ValueError(
        f"no job of {sweep.folder} has photos under the scalings none and inv_sqrt_d with softmax; "
        "try: attnvis sweep experiment=note"
    )


def verdict(medians: QueryMedians) -> tuple[bool, str]:
    """Whether the note's sentence is true of a query: wild before, then a choice among several patches."""
    wild = medians.before < medians.few
    chooses = medians.after >= medians.few and medians.after_share <= NEARLY_UNIFORM
    before = f"{rounded(medians.before)} of {rounded(medians.patches)} patches"
    after = f"{rounded(medians.after)} ({percent(medians.after_share)})"
    sits = f"undivided its attention sits on {before}"
    wide, _ = medians.beyond(WIDE)
    tame = (
        "so nothing was wild"
        if wide <= TAME
        else f"though {percent(wide)} of its pairs are over {odds(WIDE)}"
    )
    spread = f"undivided its attention is spread over {before} ({percent(medians.before_share)}), {tame}"
    if wild and chooses:
        return True, f"{sits}, divided it is spread over {after}"
    if wild and medians.after < medians.few:
        return False, f"{sits}, and divided still on {after}: √d is too little"
    if wild:
        return False, f"{sits}, divided it covers {after}: √d is too much, no preference is left"
    if chooses:
        return False, f"{spread}, and divided over {after}"
    if medians.before_share > NEARLY_UNIFORM:
        return False, f"{spread}, and divided over {after}: there was hardly any preference to begin with"
    return False, f"{spread}, and divided it covers {after}: hardly any preference is left"


def judgement(queries: Sequence[QueryMedians], photos: int) -> str:
    """One sentence, computed: of which query the note is right here."""
    reasons: dict[bool, list[str]] = {True: [], False: []}
    for medians in queries:
        holds, why = verdict(medians)
        reasons[holds].append(f"the query {medians.query} ({why})")
    clauses = [
        f"{verb} for {' and for '.join(reasons[holds])}"
        for holds, verb in ((True, "holds"), (False, "does not hold"))
        if reasons[holds]
    ]
    start = "On this photo" if photos == 1 else f"On these {photos} photos"
    return f"{start} the note's sentence {'; it '.join(clauses)}."


# -------------------------------------------------------------------------------- page


def write_note(sweep: Sweep, folder: Path) -> Path:
    """Writes folder/note.html; needs a sweep over the scalings none and inv_sqrt_d."""
    part = usable(sweep)
    record, queries = part.record, query_medians(part)
    pages = environment(
        "attnvis.experiments",
        "attnvis.explorer",
        probability=probability,
        rounded=rounded,
        scientific=scientific,
    )
    facts = {
        name: str(record.provenance.get(name, ""))
        for name in ("backbone", "weights", "weights digest", "layer", "precision", "placement")
    }
    warnings = []
    if record.provenance.get("weights digest") == "random":
        warnings.append("random weights: nothing was learned, the maps mean nothing")
    lab, dim = read_lab(part.folder), sweep.table["dim"][0].as_py()
    folder.mkdir(parents=True, exist_ok=True)
    return write_page(
        folder / "note.html",
        pages.get_template("note.html"),
        style=read_template("attnvis.explorer", "pane.css"),
        script=script("note.js"),
        lab=lab,
        claims=claims(),
        duels={pair: [duel(pair, dim) for dim in DIMS] for pair in NOTED},
        best=best_gap(),
        peaks={pair: (pair[0] - pair[1]) / best_gap() for pair in NOTED},
        starved=gradient_figure(),
        queries=queries,
        dim=dim,
        dims=sorted({*DIMS, dim}) if lab else DIMS,
        wide=odds(WIDE),
        narrow=odds(NARROW),
        beyond=[medians.beyond(WIDE) for medians in queries],
        histograms=[histogram(medians) for medians in queries],
        judgement=judgement(queries, record.done),
        photo=record.tiles[0].photo if record.tiles else "",
        bar=overlays.encode(panels.colour_bar(style_of(record)), "png"),
        warnings=warnings,
        facts=facts | {"photos": str(record.done), "job": part.overrides, "command": sweep.command},
    )


def gradient_figure() -> bytes:
    divisors = np.geomspace(0.3, 1000, 90)

    def paint(axes: Any) -> None:
        # points above the peak; the second curve ends in the first
        for pair, colour, above in zip(NOTED, COLOURS, (8, -18), strict=True):
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


def histogram(medians: QueryMedians) -> bytes:
    """How many pairs of patches lie how far apart, undivided and divided."""
    edges = np.logspace(*GAPS[:2], GAPS[2] + 1)

    def paint(axes: Any) -> None:
        for shares, colour, label in zip(
            medians.gaps, reversed(COLOURS), ("undivided", "divided by √d"), strict=True
        ):
            axes.stairs(100 * shares, edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(100 * shares, edges, color=colour, lw=1.5, label=label)
        equal = f"as good as equal\n(under {odds(NARROW)})"
        decided = f"the winner takes all\n(over {odds(WIDE)})"
        for text, align, x, low, high in (
            (equal, "left", 0.02, 1e-9, NARROW),
            (decided, "right", 0.98, WIDE, 1e9),
        ):
            axes.axvspan(low, high, color=INK, alpha=0.06, lw=0)
            axes.annotate(
                text, (x, 0.97), xycoords="axes fraction", ha=align, va="top", fontsize=8.5, color=QUIET
            )
        top = 1.4 * 100 * max(shares.max() for shares in medians.gaps)
        axes.set(
            xscale="log",
            xlim=(1e-3, 1e4),
            ylim=(0, top),
            xlabel="gap between two patches",
            ylabel="% of pairs",
        )
        decades(axes.xaxis, range(-3, 5))
        axes.set_title(f"query: {medians.query}")
        axes.legend(loc="upper center")

    return draw("gaps", f"Gaps between patches, {medians.query}", 3.4, paint).png


# -------------------------------------------------------------------------------- words


def odds(gap: float) -> str:
    """99 : 1 for two patches whose logits differ by this."""
    first, second = (round(100 * weight) for weight in duel((gap, 0.0)).weights)
    return f"{first} : {second}"


def rounded(number: float) -> str:
    """1.02, 16.3, 345."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def scientific(number: float) -> str:
    """Four digits: 0.105, 5.522·10⁻³, 8.757·10⁻²⁷."""
    if number >= 0.01 or number == 0:
        return f"{number:.4g}"
    mantissa, exponent = f"{number:.3e}".split("e")
    return f"{mantissa}·{power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    return f"10{superscript(exponent)}"


def probability(weights: tuple[float, float], which: int = 0) -> str:
    """0.8808; 1 − 8.757·10⁻²⁷ where the other is what can be read."""
    other = weights[1 - which]
    return f"1 − {scientific(other)}" if other < 1e-4 else scientific(weights[which])
