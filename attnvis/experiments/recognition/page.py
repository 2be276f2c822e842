"""What scaling does to recognition, told: findings in, tables, sentences, figures and a page out."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from attnvis.experiments.recognition.measure import Findings, SettingResult
from attnvis.files import write_bytes
from attnvis.metrics.intervals import PAIRED_RESAMPLES, Estimate
from attnvis.render.html import environment, write_page
from attnvis.render.plots import Figure, draw

__all__ = ["as_text", "write_recognition"]

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


def cells(row: SettingResult) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the two tables say of a setting: how often it is right, and how sure of the truth."""
    tau = "–" if row.tau is None else "∞" if math.isinf(row.tau) else f"{row.tau:.3g}"
    more = (
        points(row.delta_top1),
        points(row.delta_top5),
        more_nats(row.delta_nll),
        more_nats(row.delta_rescaled),
    )
    top1, top5, nll, rescaled = ("",) * 4 if row.name == "GAP" else more
    right = (row.name, tau, percent(row.top1), top1, percent(row.top5), top5)
    return right, (row.name, nats(row.nll), nll, nats(row.rescaled), rescaled, f"{row.divisor:.2f}")


def as_text(findings: Findings) -> str:
    """Two markdown tables that a terminal shows in columns, then the finding."""
    said = []
    for heads, lines in zip((RIGHT, SURE), zip(*map(cells, findings.rows), strict=True), strict=True):
        widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
        table = [
            "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
            for line in (heads, *lines)
        ]
        said += [table[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *table[1:], ""]
    return "\n".join([*said, " ".join(conclusions(findings))])


def conclusions(findings: Findings) -> Iterator[str]:
    """The finding, sentence by sentence."""
    gap, divided, plain = (findings.row(name) for name in ("GAP", "inv_sqrt_d", "none"))
    yield f"On {findings.photos} photos the network as it is, with the plain mean of its patches (GAP), is right on {percent(gap.top1)} %."
    yield f"Attention divided by √d = {divided.tau:.3g} {effect(divided.delta_top1)}; attention not divided {effect(plain.delta_top1)}."
    change = divided.delta_nll
    moves = (
        f"{'falls' if change.value < 0 else 'rises'} from"
        if change.certain
        else "does not change beyond its interval,"
    )
    yield f"The NLL of the truth {moves} {gap.nll.value:.3f} to {divided.nll.value:.3f} with √d ({more_nats(change)})."
    control = f"GAP's own logits divided by {gap.divisor:.2f}, one number fitted on the other half of the photos, reach {gap.rescaled.value:.3f}"
    if change.certain and change.value < 0:
        enough = gap.rescaled.value <= divided.nll.value
        yield f"{'That much needs no attention' if enough else 'Part of that is mere rescaling'}: {control}."
    else:
        yield f"For comparison: {control}."
    rest = divided.delta_rescaled
    said = (
        f"{'lower' if rest.value < 0 else 'higher'} by {abs(rest.value):.3f} than"
        if rest.certain
        else "not shown to differ from"
    )
    yield f"With both rescaled so, the NLL of attention is {said} that of GAP ({more_nats(rest)})."


def effect(difference: Estimate) -> str:
    value, low, high = (
        f"{100 * number:+.1f}".replace("-", "−")
        for number in (difference.value, difference.low, difference.high)
    )
    if not difference.certain:
        return f"makes no difference that these photos could show ({value} points, 95 % interval {low} to {high})"
    return f"{'gains' if difference.value > 0 else 'costs'} {100 * abs(difference.value):.1f} points (95 % interval {low} to {high})"


def write_recognition(
    findings: Findings, folder: Path, facts: Mapping[str, str], warnings: Sequence[str] = ()
) -> Path:
    """Writes folder/index.html and folder/recognition.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    table = io.BytesIO()
    pq.write_table(findings.table, table, compression="zstd")
    write_bytes(folder / "recognition.parquet", table.getvalue())
    pages = environment("attnvis.experiments.recognition", "attnvis.experiments")
    right, sure = zip(*map(cells, findings.rows), strict=True)
    return write_page(
        folder / "index.html",
        pages.get_template("recognition.html"),
        findings=findings,
        conclusions=list(conclusions(findings)),
        tables=[("How often it is right", RIGHT, right), ("How sure it is of the truth", SURE, sure)],
        figures=figures(findings),
        warnings=warnings,
        resamples=PAIRED_RESAMPLES,
        facts=dict(facts) | {"photos": f"{findings.photos} of known class"},
    )


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
    return [
        draw(name, title, 3.8, paint)
        for name, title, paint in zip(("top1", "nll"), titles, (right, sure), strict=True)
    ]


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
    axes.fill_between(
        x, [factor * f.low for f in found], [factor * f.high for f in found], color=colour, alpha=0.16, lw=0
    )
    axes.plot(x, [factor * f.value for f in found], "o-", color=colour, ms=4, lw=1.5, label=label)
    axes.axhline(factor * getattr(findings.row("GAP"), which).value, color=colour, lw=0.8, ls=":")
    for name, place in apart.items():
        f = getattr(findings.row(name), which)
        axes.errorbar(
            place,
            factor * f.value,
            [[factor * (f.value - f.low)], [factor * (f.high - f.value)]],
            fmt="s",
            color=colour,
            ms=4,
        )
    ticks: dict[float, str] = {
        place: f"{2**place:g}" for place in range(math.ceil(low), math.floor(high) + 1) if place % 3 == 0
    }
    ticks |= {places["max"]: "max", places["GAP"]: "GAP"} | {place: name for name, place in apart.items()}
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.axvline(places["inv_sqrt_d"], color="#9aa0a8", lw=0.8, ls="--", zorder=0)
    axes.annotate(
        "√d",
        (places["inv_sqrt_d"], 1),
        (3, -12),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color="#6c717a",
    )
    axes.axvline(high + 3.25, color="#d8dad6", lw=0.8, zorder=0)
    axes.set_xlabel("what the scores are divided by, τ (1: not at all)")
    axes.grid(visible=False, axis="x")
