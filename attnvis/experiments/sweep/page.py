"""A sweep -> its page: index.html in one file, sweep.parquet with all rows, figures/ for a paper.

Every sentence of the page is computed here from the numbers; `statistics` counts, `figures` draws.
"""

import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from attnvis.experiments.figure_files import write_figures
from attnvis.experiments.sweep.figures import sections
from attnvis.experiments.sweep.findings import changes_from_sqrt_d, paragraph
from attnvis.experiments.sweep.folder import Sweep
from attnvis.experiments.sweep.matrix import photo_blocks
from attnvis.experiments.sweep.orderings import orders
from attnvis.experiments.sweep.sheets import style_of
from attnvis.experiments.sweep.statistics import (
    SQRT_D,
    Series,
    band_words,
    series_of,
)
from attnvis.experiments.sweep.temperatures import advice
from attnvis.experiments.wording import between, many, part_of, percent, points
from attnvis.files import whole_file
from attnvis.metrics.intervals import (
    FEWEST,
    LEVEL,
    NOTHING,
    Interval,
    holm,
    median_interval,
    share_interval,
    sign_test,
)
from attnvis.render import overlays, panels
from attnvis.render.html import environment, link, read_template, write_page
from attnvis.render.modules import page_script

__all__ = ["write_comparison"]

ABOUT = (
    "backbone",
    "weights",
    "weights digest",
    "layer",
    "fit",
    "size",
    "seed",
    "precision",
    "device",
    "placement",
)


def write_comparison(sweep: Sweep) -> Path:
    """Writes index.html, sweep.parquet and figures/ into the sweep's folder; gives the page."""
    write_table(sweep)
    all_series = [series for series in series_of(sweep) if len(series.photos)]
    of_one_score = [series for series in all_series if series.has_one_score]
    checked = orders(of_one_score)
    drawn = sections(all_series)
    blocks = photo_blocks(sweep)
    for section in drawn:
        write_figures(sweep.folder, section.figures)
    room = "attnvis.experiments.sweep"
    pages = environment(
        room,
        link=link,
        percent=percent,
        points=points,
        between=between,
        part_of=part_of,
        band_words=band_words,
    )
    return write_page(
        sweep.folder / "index.html",
        pages.get_template("comparison.html"),
        style=read_template("attnvis.render", "large.css") + read_template(room, "comparison.css"),
        script=page_script("sweep.js"),
        beside=True,
        title=title(sweep, all_series),
        counts=counts(sweep),
        missing=sweep.missing,
        resume=f"attnvis sweep --resume {shlex.quote(str(sweep.folder))}",
        failures=failures(sweep),
        broken=[order for order in checked if order.broken],
        paragraph=paragraph(all_series, checked, sharpness(sweep)),
        photos=blocks,
        sheets="sheets" if (sweep.folder / "sheets").is_dir() else "",
        bar=colour_bar(sweep) if blocks else b"",
        sections=drawn,
        rows=list(rows(all_series)),
        percent_of=percent,
        points_of=points,
        paired=any(SQRT_D in series.settings and len(series.settings) > 1 for series in all_series),
        jobs=len({series.job for series in all_series}) > 1,
        advice=advice(of_one_score, sharpness(sweep)),
        facts=facts(sweep),
        most_photos=max((len(series.photos) for series in all_series), default=0),
        fewest=FEWEST,
        compared=len(compared(all_series)),
        warnings=warnings(sweep),
    )


def write_table(sweep: Sweep) -> None:
    with whole_file(sweep.folder / "sweep.parquet") as part:
        pq.write_table(sweep.table, part, compression="zstd")


# -------------------------------------------------------------------------------- what the page says


def title(sweep: Sweep, all_series: Sequence[Series]) -> str:
    """3 settings × 1 query × 2 jobs on 2 photos."""
    settings = len({name for series in all_series for name in series.names})
    queries = len({series.query for series in all_series})
    jobs = len({series.job for series in all_series})
    factors = [many(settings, "setting"), f"{queries} {'query' if queries == 1 else 'queries'}"]
    if jobs > 1:
        factors.append(f"{jobs} jobs")
    return f"{' × '.join(factors)} on {many(photos_in(sweep), 'photo')}"


def photos_in(sweep: Sweep) -> int:
    return pc.count_distinct(sweep.table["path"]).as_py()


def counts(sweep: Sweep) -> list[tuple[str, str]]:
    """(number, of what) for the line below the title."""
    records = [part.record for part in sweep.parts]
    photos, passes = photos_in(sweep), sum(record.passes for record in records)
    seconds = sum(record.seconds for record in records)
    through = "pass through the network" if passes == 1 else "passes through the network"
    if passes < sum(record.done for record in records):
        through += ", the rest from the cache"
    return [
        (f"{photos:,}".replace(",", " "), "photo" if photos == 1 else "photos"),
        (
            f"{sweep.table.num_rows:,}".replace(",", " "),
            "map measured" if sweep.table.num_rows == 1 else "maps measured",
        ),
        (f"{passes:,}".replace(",", " "), through),
        (f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}", "seconds"),
    ]


def failures(sweep: Sweep) -> list[tuple[str, int, str]]:
    """(reason, photos, one of them) of the photos that could not be read, each once, whatever the jobs."""
    distinct = dict.fromkeys(failure for part in sweep.parts for failure in part.record.failures)
    photos: Counter[str] = Counter()
    example: dict[str, str] = {}
    for failure in distinct:
        photos[failure.reason] += 1
        example.setdefault(failure.reason, failure.path)
    return [(reason, count, example[reason]) for reason, count in photos.most_common()]


def sharpness(sweep: Sweep) -> list[float]:
    """The shares of the patches for which a temperature is wanted."""
    return list(sweep.done[0].record.sharpness) if sweep.done else []


# -------------------------------------------------------------------------------- pictures


def colour_bar(sweep: Sweep) -> bytes:
    """Of the first job that is done: all tiles of a sweep are in its colours."""
    return overlays.encode(panels.colour_bar(style_of(sweep.done[0].record)), "png")


# -------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Cell:
    interval: Interval
    form: str  # percent | figure
    defined: bool = False  # the setting's own definition, and nothing that was found


@dataclass(frozen=True)
class TableRow:
    """What one query did under one setting, over the photos."""

    job: str
    query: str
    setting: str
    cells: tuple[Cell, ...]  # share, max_times_uniform, sigma_eff, saturated, dead, js
    difference: Interval  # perplexity share minus that of 1/sqrt(d_k), photo by photo
    real: bool  # that difference is not chance, all differences of the table considered
    defined: bool  # the share is the setting's own definition


def rows(all_series: Sequence[Series]) -> Iterator[TableRow]:
    """Series by series, and of each setting by setting."""
    chances = compared(all_series)
    for series in all_series:
        base = series.settings.index(SQRT_D) if SQRT_D in series.settings else None
        for column, name in enumerate(series.names):
            numbers = {key: values[:, column] for key, values in series.numbers.items()}
            share = series.share[:, column]
            js, difference = NOTHING, NOTHING
            if column != base:
                js = median_interval(numbers["js_inv_sqrt_d"])
            if base is not None and column != base:
                difference = median_interval(share - series.share[:, base])
            cells = (
                Cell(median_interval(share), "percent", series.defines_share(column)),
                Cell(median_interval(numbers["max_times_uniform"]), "figure"),
                Cell(median_interval(numbers["sigma_eff"]), "figure", series.defines_sigma(column)),
                Cell(share_interval(numbers["saturated"]), "percent"),
                Cell(share_interval(numbers["dead"]), "percent"),
                Cell(js, "figure"),
            )
            yield TableRow(
                series.job,
                series.query,
                name,
                cells,
                difference,
                real=chances.get((series.job, series.query, name), 1.0) < 1 - LEVEL,
                defined=series.defines_share(column),
            )


def compared(all_series: Sequence[Series]) -> dict[tuple[str, str, str], float]:
    """(job, query, setting) -> how likely chance alone gives its differences to 1/sqrt(d_k), after Holm.

    Of settings that are defined by their share there is nothing to compare.
    """
    chances = {
        (change.series.job, change.series.query, change.setting): sign_test(change.differences)
        for change in changes_from_sqrt_d(all_series)
    }
    return dict(zip(chances, holm(list(chances.values())), strict=True))


# -------------------------------------------------------------------------------- provenance


def warnings(sweep: Sweep) -> list[str]:
    digests = [str(part.record.provenance.get("weights digest", "")) for part in sweep.done]
    random = digests.count("random")
    if not random:
        return []
    which = (
        "random weights" if random == len(digests) else f"random weights in {random} of {len(digests)} jobs"
    )
    return [f"{which}: nothing was learned, the maps mean nothing"]


def facts(sweep: Sweep) -> dict[str, str]:
    """What somebody needs to make this again."""
    records = [part.record for part in sweep.done]
    about: dict[str, str] = {"command": sweep.command}
    entries = [{**record.provenance, **record.axes} for record in records]
    for name in ABOUT:
        values = dict.fromkeys(str(of_job[name]) for of_job in entries if name in of_job)
        if values:
            about[name] = "; ".join(values)
    about["queries"] = ", ".join(dict.fromkeys(query for record in records for query in record.queries))
    about["intervals"] = (
        "95 % over photos, exact: of medians between two photos' values (sign test), of shares Clopper and "
        f"Pearson's; none below {FEWEST} photos"
    )
    about["versions"] = (
        ", ".join(versions(("attnvis", "torch", "torchvision", "numpy", "matplotlib")))
        + f", Python {platform.python_version()}"
    )
    about["files"] = (
        "sweep.parquet: a row per photo, query and setting; figures/: every figure as png and svg; "
        "sheets/: a contact sheet a photo"
    )
    return about


def versions(packages: Iterable[str]) -> Iterator[str]:
    for package in packages:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} (not installed)"
