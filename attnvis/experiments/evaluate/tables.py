"""The table as a terminal, a Markdown file, a spreadsheet and a paper take it."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.experiments.evaluate.statistics import Cell, Leader, Table, per_photo
from attnvis.files import write_bytes
from attnvis.metrics.intervals import Interval
from attnvis.metrics.metric import Facts
from attnvis.pipeline.records import SafeWriter

__all__ = [
    "as_csv",
    "as_latex",
    "as_markdown",
    "as_terminal",
    "leader_table",
    "mark_of",
    "number_text",
    "photo_rows",
    "plain_table",
    "write_photo_rows",
]

ACROSS = 4  # metrics side by side in a terminal


def number_text(value: float) -> str:
    """Three digits that tell: 0.841, -12.3, 0.0031; a dash for what is not defined."""
    if math.isnan(value):
        return "–"
    text = f"{value:.3f}" if 0.01 <= abs(value) < 10 or value == 0 else f"{value:.3g}"
    return text.replace("-", "−")


def interval_text(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"[{number_text(interval.low)}, {number_text(interval.high)}]"


def mark_of(cell: Cell, metric: Facts) -> str:
    """▲ better than the row that all are held against, ▼ worse: after Holm; else nothing."""
    if not cell.differs or math.isnan(cell.difference.value):
        return ""
    is_better = (cell.difference.value > 0) == (metric.better == "higher")
    return "▲" if is_better else "▼"


def cell_text(cell: Cell, metric: Facts) -> str:
    parts = [number_text(cell.interval.value), interval_text(cell.interval), mark_of(cell, metric)]
    if cell.undefined:
        parts.append(f"({cell.undefined} undefined)")
    return " ".join(filter(None, parts))


def heading(metric: Facts) -> str:
    return f"{metric.name} {'↑' if metric.better == 'higher' else '↓'}"


def as_lines(table: Table, metrics: Sequence[Facts]) -> Iterator[str]:
    """A Markdown table whose columns are as wide as their widest cell, the best row of the first metric
    first.
    """
    lines = [["row", *map(heading, metrics)]]
    for row in table.ranked(metrics[0]):
        texts = [cell_text(table.cells[row.name, metric.name], metric) for metric in metrics]
        lines.append([row.name, *texts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        yield f"| {' | '.join(cells)} |"
        if not number:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def as_terminal(table: Table) -> str:
    """A few metrics side by side, and the others below."""
    blocks = [table.metrics[start : start + ACROSS] for start in range(0, len(table.metrics), ACROSS)]
    return "\n\n".join("\n".join(as_lines(table, block)) for block in blocks)


def legend(table: Table) -> str:
    return (
        f"{table.photos} photos; [95 % paired bootstrap over photos]; ▲ better, ▼ worse than {table.against} "
        "(Holm over the rows of a metric); ↑ higher is better, ↓ lower; (chosen): each half of the photos "
        "under the setting that is best on the other half"
    )


def as_markdown(table: Table) -> str:
    """The whole table, and what its marks mean."""
    return "\n".join([*as_lines(table, table.metrics), "", legend(table), ""])


def as_latex(table: Table) -> str:
    """A tabular of booktabs; nothing else is needed."""
    lines = [
        f"% {legend(table)}",
        f"\\begin{{tabular}}{{l{'c' * len(table.metrics)}}}",
        "\\toprule",
        " & ".join(["", *(latex_text(f"{metric.name}") for metric in table.metrics)]) + r" \\",
        "\\midrule",
    ]
    for row in table.ranked(table.metrics[0]):
        texts = [latex_cell(table.cells[row.name, metric.name], metric) for metric in table.metrics]
        lines.append(" & ".join([latex_text(row.name), *texts]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def leader_table(leaders: Sequence[Leader]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(headings, rows): of every metric and question the best setting, and what is not told apart from it."""
    families = tuple(dict.fromkeys(leader.family for leader in leaders))
    by_place = {(leader.metric, leader.family): leader for leader in leaders}
    metrics = dict.fromkeys(leader.metric for leader in leaders)
    rows = [(metric, *(leader_text(by_place[metric, family]) for family in families)) for metric in metrics]
    return ("best setting of", *families), rows


def leader_text(leader: Leader) -> str:
    """zscore (or zscore:2); all alike where none of the others is shown to be worse."""
    if len(leader.alike) == leader.settings - 1:
        return "none told apart"
    best, *alike = (without(leader.family, name) for name in (leader.best, *leader.alike))
    if len(alike) > 4:
        return f"{best} (or {len(alike)} of {leader.settings - 1} others)"
    return f"{best} (or {', '.join(alike)})" if alike else best


def without(family: str, row: str) -> str:
    """A row's setting: its name without its question."""
    return row.removeprefix(f"{family} ")


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [
        f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True))} |"
        for row in (headings, *rows)
    ]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def latex_cell(cell: Cell, metric: Facts) -> str:
    value = number_text(cell.interval.value).replace("−", "-")
    if value == "–":
        return "--"
    sign = {"▲": r"^{+}", "▼": r"^{-}", "": ""}[mark_of(cell, metric)]
    limits = interval_text(cell.interval).replace("−", "-")
    return f"${value}{sign}$" + (f" {{\\scriptsize ${limits}$}}" if limits else "")


def latex_text(text: str) -> str:
    """With LaTeX's own signs as letters."""
    escaped = text.replace("\\", r"\textbackslash ")
    for sign in "&%$#_{}":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped.replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")


COLUMNS = (
    *("row", "family", "temperature", "metric", "better", "value", "low", "high", "photos", "undefined"),
    *("against", "difference", "difference_low", "difference_high", "chance", "chosen"),
)


def as_csv(table: Table) -> str:
    """A line for every row and metric, points of curves too."""
    text = io.StringIO(newline="")
    writer = SafeWriter(text, COLUMNS, restval="", quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    for row in table.rows:
        for metric in table.metrics:
            cell = table.cells.get((row.name, metric.name))
            if cell is not None:
                writer.writerow(columns_of(table, row.name, metric, cell) | {
                    "row": row.name,
                    "family": row.family,
                    "temperature": "" if row.temperature is None else row.temperature,
                })  # fmt: skip
    return text.getvalue()


def columns_of(table: Table, row: str, metric: Facts, cell: Cell) -> dict[str, object]:
    interval, difference = cell.interval, cell.difference
    return {
        "metric": metric.name,
        "better": metric.better,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "photos": interval.count,
        "undefined": cell.undefined,
        "against": table.against,
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "chance": cell.chance,
        "chosen": " / ".join(table.chosen.get((row, metric.name), ())),
    }


def photo_rows(evaluation: Evaluation, metrics: Sequence[Facts]) -> pa.Table:
    """A line for every photo, row and metric."""
    columns: dict[str, list] = {"photo": [], "row": [], "temperature": [], "metric": [], "value": []}
    for metric in metrics:
        numbers = per_photo(evaluation.values[metric.name], metric)
        for photo, of_photo in zip(evaluation.photos, numbers.tolist(), strict=True):
            for row, value in zip(evaluation.rows, of_photo, strict=True):
                line = (photo, row.name, row.temperature, metric.name, value)
                for name, entry in zip(columns, line, strict=True):
                    columns[name].append(entry)
    columns["photo"] = [name.encode("utf-8", "backslashreplace").decode() for name in columns["photo"]]
    temperatures = pa.array(columns.pop("temperature"), pa.float64())
    return pa.table(columns).append_column("temperature", temperatures)


def write_photo_rows(folder: Path, evaluation: Evaluation, metrics: Sequence[Facts]) -> None:
    """photos.parquet of `photo_rows`, in a folder.  Raises OSError."""
    content = io.BytesIO()
    pq.write_table(photo_rows(evaluation, metrics), content, compression="zstd")
    write_bytes(folder / "photos.parquet", content.getvalue())
