"""What scaling does to recognition, told: findings in, tables, sentences, figures and a page out."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from attnvis.experiments.recognition.measure import Findings, SettingResult
from attnvis.experiments.wording import few
from attnvis.files import write_bytes
from attnvis.metrics.intervals import FEWEST, FEWEST_OF_MEANS, Interval
from attnvis.render.html import environment, write_page
from attnvis.render.plots import Figure, draw

__all__ = ["as_text", "write_recognition"]

REAL = 0.05  # a chance below this is called real
RIGHT = ("scaling", "tau", "top-1 %", "more than GAP", "top-5 %", "more than GAP")
SURE = ("scaling", "NLL", "more than GAP", "NLL, rescaled", "more than GAP", "rescaled by")


def with_limits(interval: Interval, form: str, times: int = 1) -> str:
    """75.0 [68.4, 80.8]; without limits where there are too few photos for any."""
    text = format(times * interval.value, form)
    if not math.isnan(interval.low):
        text += f" [{times * interval.low:{form}}, {times * interval.high:{form}}]"
    return text.replace("-", "−")


def percent_interval(share: Interval) -> str:
    return with_limits(share, ".1f", 100)


def points_interval(difference: Interval) -> str:
    """A difference of shares, in percentage points."""
    return with_limits(difference, "+.1f", 100)


def nats_interval(nll: Interval) -> str:
    return with_limits(nll, ".3f")


def delta_nats_interval(difference: Interval) -> str:
    return with_limits(difference, "+.3f")


def cells_right(row: SettingResult) -> tuple[str, ...]:
    """Of a setting how often it is right: the cells below RIGHT."""
    itself = row.name == "GAP"
    more_top1 = "" if itself else points_interval(row.delta_top1) + (" ≠" if row.chance < REAL else "")
    more_top5 = "" if itself else points_interval(row.delta_top5)
    return row.name, tau_of(row), percent_interval(row.top1), more_top1, percent_interval(row.top5), more_top5


def tau_of(row: SettingResult) -> str:
    if row.tau is None:
        return "–"
    return "∞" if math.isinf(row.tau) else f"{row.tau:.3g}"


def cells_sure(row: SettingResult) -> tuple[str, ...]:
    """Of a setting how sure it is of the truth: the cells below SURE."""
    itself = row.name == "GAP"
    more_nll = "" if itself else delta_nats_interval(row.delta_nll)
    more_rescaled = "" if itself else delta_nats_interval(row.delta_rescaled)
    return (
        row.name,
        nats_interval(row.nll),
        more_nll,
        nats_interval(row.rescaled),
        more_rescaled,
        f"{row.divisor:.2f}",
    )


def as_text(findings: Findings) -> str:
    """Two markdown tables that a terminal shows in columns, then the finding."""
    lines = [
        *as_table(RIGHT, [cells_right(row) for row in findings.rows]),
        "",
        *as_table(SURE, [cells_sure(row) for row in findings.rows]),
        "",
        " ".join(conclusions(findings)),
    ]
    return "\n".join(lines)


def as_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a markdown table whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    rule = "|".join("-" * (width + 2) for width in widths)
    return [lines[0], f"|{rule}|", *lines[1:]]


def conclusions(findings: Findings) -> Iterator[str]:
    """The finding, sentence by sentence; the two settings were named before anything was measured."""
    gap, divided, plain = (findings.row(name) for name in ("GAP", "inv_sqrt_d", "none"))
    yield (
        f"On {findings.photos} photos the network as it is, with the plain mean of its patches (GAP), "
        f"is right on {percent_interval(gap.top1)} %."
    )
    yield (
        f"Attention divided by √d = {divided.tau:.3g} {effect(divided.delta_top1)}; attention not divided "
        f"{effect(plain.delta_top1)}."
    )
    change = divided.delta_nll
    before, after = f"{gap.nll.value:.3f}", f"{divided.nll.value:.3f}"
    if math.isnan(change.low):
        moves = f"is {before} as it is and {after}"
    elif change.certain:
        moves = f"{'falls' if change.value < 0 else 'rises'} from {before} to {after}"
    else:
        moves = f"does not change beyond its interval, {before} to {after}"
    yield f"The NLL of the truth {moves} with √d ({delta_nats_interval(change)})."
    yield f"{sentence_on_rescaling(gap, divided)}."
    difference = divided.delta_rescaled
    if findings.photos < FEWEST:
        yield (
            f"These are {findings.photos} photos, {few(findings.photos)}, and what holds for them need not "
            "hold for others."
        )
        return
    if findings.photos < FEWEST_OF_MEANS:
        yield (
            f"These are {findings.photos} photos: an interval of a mean, as the NLL is, needs "
            f"{FEWEST_OF_MEANS}."
        )
        return
    if difference.certain:
        comparison = f"{'lower' if difference.value < 0 else 'higher'} by {abs(difference.value):.3f} than"
    else:
        comparison = "not shown to differ from"
    yield (
        f"With both rescaled so, the NLL of attention is {comparison} that of GAP "
        f"({delta_nats_interval(difference)})."
    )


def sentence_on_rescaling(gap: SettingResult, divided: SettingResult) -> str:
    """What the plain mean reaches where only its logits are made sharper or softer."""
    control = (
        f"GAP's own logits divided by {gap.divisor:.2f}, one number fitted on the other half of the photos, "
        f"reach {gap.rescaled.value:.3f}"
    )
    if not (divided.delta_nll.certain and divided.delta_nll.value < 0):
        return f"For comparison: {control}"
    if gap.rescaled.value <= divided.nll.value:
        return f"That much needs no attention: {control}"
    if gap.rescaled.value < gap.nll.value:
        return f"Part of that is mere rescaling: {control}"
    return f"Mere rescaling gives nothing of that: {control}"


def effect(difference: Interval) -> str:
    if math.isnan(difference.low) and not difference.value:
        return "changes nothing of that here"
    if math.isnan(difference.low):
        value = f"{100 * difference.value:+.1f}".replace("-", "−")
        return f"changes that by {value} points here"
    value, low, high = (
        f"{100 * number:+.1f}".replace("-", "−")
        for number in (difference.value, difference.low, difference.high)
    )
    interval = f"95 % interval {low} to {high}"
    if not difference.certain:
        return f"makes no difference that these photos could show ({value} points, {interval})"
    verb = "gains" if difference.value > 0 else "costs"
    return f"{verb} {100 * abs(difference.value):.1f} points ({interval})"


def write_recognition(
    findings: Findings, folder: Path, facts: Mapping[str, str], warnings: Sequence[str] = ()
) -> Path:
    """Writes folder/index.html and folder/recognition.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    table = io.BytesIO()
    pq.write_table(findings.table, table, compression="zstd")
    write_bytes(folder / "recognition.parquet", table.getvalue())
    pages = environment("attnvis.experiments.recognition", "attnvis.experiments")
    if facts.get("precision") == "bfloat16":
        coarse = "features in bf16: accuracies may be off by a point or two; backbone.precision=fp32 is exact"
        warnings = [*warnings, coarse]
    right = [cells_right(row) for row in findings.rows]
    sure = [cells_sure(row) for row in findings.rows]
    return write_page(
        folder / "index.html",
        pages.get_template("recognition.html"),
        findings=findings,
        conclusions=list(conclusions(findings)),
        tables=[("How often it is right", RIGHT, right), ("How sure it is of the truth", SURE, sure)],
        figures=figures(findings),
        warnings=warnings,
        fewest=FEWEST,
        fewest_of_means=FEWEST_OF_MEANS,
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

    return [
        draw("top1", "Top-1 against tau", 3.8, right),
        draw("nll", "NLL of the truth against tau, before and after rescaling", 3.8, sure),
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
    estimates = [getattr(row, which) for row in line]
    lows, highs = ([factor * getattr(entry, end) for entry in estimates] for end in ("low", "high"))
    axes.fill_between(x, lows, highs, color=colour, alpha=0.16, lw=0)
    axes.plot(x, [factor * entry.value for entry in estimates], "o-", color=colour, ms=4, lw=1.5, label=label)
    axes.axhline(factor * getattr(findings.row("GAP"), which).value, color=colour, lw=0.8, ls=":")
    for name, place in apart.items():
        entry = getattr(findings.row(name), which)
        below, above = factor * (entry.value - entry.low), factor * (entry.high - entry.value)
        axes.errorbar(place, factor * entry.value, [[below], [above]], fmt="s", color=colour, ms=4)
    powers = [power for power in range(math.ceil(low), math.floor(high) + 1) if power % 3 == 0]
    ticks: dict[float, str] = {power: f"{2**power:g}" for power in powers}
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
