"""A sweep -> its page: index.html in one file, sweep.parquet with all rows, figures/ for a paper.

Every sentence of the page is computed here from the numbers; `statistics` counts, `figures` draws.
"""

import base64
import hashlib
import math
import os
import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from attnvis import figures, render
from attnvis.figures import Figure
from attnvis.lab import Part, Sweep
from attnvis.report import figure, image
from attnvis.results import slug, unique
from attnvis.statistics import (
    NOTHING,
    SQRT_D,
    Interval,
    Order,
    Series,
    badness,
    best_common_temperature,
    mean_interval,
    median_interval,
    orders,
    series_of,
    theory_deviation,
)

__all__ = ["write_comparison"]

PANELS = 8  # of one kind of figure
TILES = 240  # pictures in the page
WORDS = 4  # series that a sentence names one by one
NEARLY_UNIFORM, ONE_HOT = 0.95, 0.5  # of the patches; of the photos with more than .99 on one patch
ABOUT = ("backbone", "weights", "weights digest", "layer", "fit", "size", "seed", "precision", "device", "placement")


def write_comparison(sweep: Sweep) -> Path:
    """Writes index.html, sweep.parquet and figures/ into the sweep's folder; gives the page."""
    write_table(sweep)
    series = [one for one in series_of(sweep) if len(one.photos)]
    checked = orders(series)
    drawn = figures_of(series, checked)
    for kind in drawn.values():
        for one in kind:
            for suffix, content in (("png", one.png), ("svg", one.svg)):
                path = sweep.folder / "figures" / f"{one.name}.{suffix}"
                path.parent.mkdir(exist_ok=True)
                render.write_bytes(path, content)
    pages = Environment(loader=PackageLoader("attnvis", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"figure": figure, "image": image, "percent": percent, "points": points, "between": between}
    read = {
        name: files("attnvis").joinpath("templates", name).read_text("utf-8") for name in ("report.css", "comparison.css", "comparison.js")
    }
    page = pages.get_template("comparison.html").render(
        title=title(sweep, series),
        counts=counts(sweep),
        missing=sweep.missing,
        resume=f"attnvis sweep --resume {shlex.quote(str(sweep.folder))}",
        failures=failures(sweep),
        broken=[order for order in checked if order.broken],
        paragraph=paragraph(series, checked, sharpness(sweep)),
        strips=strips(sweep),
        drawn=drawn,
        captions=captions(series, checked),
        deviations=deviations(series),
        rows=rows(series),
        percent_of=percent,
        points_of=points,
        paired=any(SQRT_D in one.settings and len(one.settings) > 1 for one in series),
        jobs=len({one.job for one in series}) > 1,
        advice=advice(series, sharpness(sweep)),
        facts=facts(sweep),
        few=max((len(one.photos) for one in series), default=0),
        style=Markup(read["report.css"] + read["comparison.css"]),
        script=Markup(read["comparison.js"]),
        script_digest=base64.b64encode(hashlib.sha256(read["comparison.js"].encode()).digest()).decode(),
    )
    render.write_bytes(sweep.folder / "index.html", page.encode("utf-8", "replace"))
    return sweep.folder / "index.html"


def write_table(sweep: Sweep) -> None:
    part = sweep.folder / f".sweep-{os.getpid()}.part"
    try:
        pq.write_table(sweep.table, part, compression="zstd")
        part.replace(sweep.folder / "sweep.parquet")
    finally:
        part.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ words for numbers


def percent(share: float) -> str:
    """0.0312 -> 3.1 %; what is not all is never called 100 %, what is not nothing never 0 %."""
    if math.isnan(share):
        return "–"
    said = f"{100 * share:.2g}" if share < 0.0995 else f"{100 * share:.0f}"
    if 0 < share < 5e-5:
        said = "< 0.01"
    elif said == "100" and share < 1:
        said = f"{100 * share:.1f}" if share < 0.9995 else "> 99.9"
    return f"{said}\u00a0%"


def points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def between(interval: Interval, words: Any = figure) -> str:
    """`[3.1, 4.2]`; nothing where one photo leaves nothing to resample."""
    if interval.count < 2 or math.isnan(interval.low):
        return ""
    return f"[{words(interval.low)}, {words(interval.high)}]".replace("\u00a0%,", ",")


def listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", " ")


def quoted(one: Series) -> str:
    """A query in a sentence."""
    return f"“{one.query}”" + (f" ({one.job})" if one.job else "")


# ------------------------------------------------------------------------------------------------ what the page says


def title(sweep: Sweep, series: Sequence[Series]) -> str:
    settings = len({name for one in series for name in one.names})
    queries = len({one.query for one in series})
    jobs = len({one.job for one in series})
    what = f"{many(settings, 'setting')} × {queries} {'query' if queries == 1 else 'queries'}" + (f" × {jobs} jobs" if jobs > 1 else "")
    return f"{what} on {many(photos_in(sweep), 'photo')}"


def photos_in(sweep: Sweep) -> int:
    return pc.count_distinct(sweep.table["path"]).as_py()


def counts(sweep: Sweep) -> list[tuple[str, str]]:
    """(number, of what) for the line below the title."""
    photos, passes = photos_in(sweep), sum(part.told.get("passes", 0) for part in sweep.parts)
    seconds = sum(part.told.get("seconds", 0.0) for part in sweep.parts)
    through = "pass through the network" if passes == 1 else "passes through the network"
    kept = passes < sum(part.told.get("done", 0) for part in sweep.parts)
    return [
        (f"{photos:,}".replace(",", " "), "photo" if photos == 1 else "photos"),
        (f"{sweep.table.num_rows:,}".replace(",", " "), "maps measured"),
        (f"{passes:,}".replace(",", " "), through + (", the rest from the cache" if kept else "")),
        (f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}", "seconds"),
    ]


def failures(sweep: Sweep) -> list[tuple[str, int, str]]:
    """(reason, photos, one of them) of the photos that could not be read."""
    seen: Counter[str] = Counter()
    example: dict[str, str] = {}
    for path, reason in dict.fromkeys((f["path"], f["reason"]) for part in sweep.parts for f in part.told.get("failures", [])):
        seen[reason] += 1
        example.setdefault(reason, path)
    return [(reason, count, example[reason]) for reason, count in seen.most_common()]


def sharpness(sweep: Sweep) -> list[float]:
    """The shares of the patches that were asked for."""
    return next((part.told["sharpness"] for part in sweep.parts if part.status == "done"), [])


def paragraph(series: Sequence[Series], checked: Sequence[Order], shares: Sequence[float]) -> list[str]:
    """What was found, for somebody who reads nothing else."""
    if not series:
        return ["No photo was measured: there is nothing to compare."]
    said = [sentence_on_sqrt_d(series), sentence_on_temperature(series, shares[0] if shares else 0.1), sentence_on_change(series)]
    said.append(sentence_on_theory(series))
    factors = [order for order in checked if order.factor]
    if factors and not any(order.broken for order in factors):
        every = "The one setting that multiplies" if len(factors) == 1 else f"All {len(factors)} settings that multiply"
        leaves = "leaves" if len(factors) == 1 else "leave"
        said.append(f"{every} the scores of a photo by one positive factor {leaves} the order of the patches as it was.")
    return [sentence for sentence in said if sentence]


def sentence_on_sqrt_d(series: Sequence[Series]) -> str:
    """One-hot, nearly uniform or between, for each query; the two ends where there are many."""
    measured = [one for one in series if not np.isnan(one.share_sqrt_d).all()]
    if not measured:
        return ""
    swept = all(SQRT_D in one.settings for one in measured)
    ordered = sorted(measured, key=lambda one: float(np.nanmedian(one.share_sqrt_d)))
    named = ordered if len(ordered) <= WORDS else [ordered[0], ordered[-1]]
    start = "1/√d_k leaves" if swept else "1/√d_k, which was not part of this sweep, would leave"
    among = "" if named is ordered else f", the sharpest and the most even of {len(ordered)} combinations"
    text = listed([f"{'the query ' if not number else ''}{quoted(one)} {verdict_on_sqrt_d(one)}" for number, one in enumerate(named)])
    on = "this one photo" if max(len(one.photos) for one in series) == 1 else "these photos"
    return f"On {on}, {start} {text}{among}."


def verdict_on_sqrt_d(one: Series) -> str:
    share = one.share_sqrt_d
    middle = float(np.nanmedian(share))
    alone = len(one.photos) == 1
    if SQRT_D in one.settings:
        column = one.settings.index(SQRT_D)
        hot = float(np.nanmean(one.numbers["saturated"][:, column]))
        if hot >= ONE_HOT:
            return "one-hot" if alone else f"one-hot on {percent(hot)} of them"
    elif middle * float(np.median(one.patches)) < 1.06:  # perplexity of .99 on one patch
        return "one-hot"
    median = "" if alone else "median "
    if middle > NEARLY_UNIFORM:
        return f"nearly uniform ({median}{percent(middle)} of the patches)"
    return f"spread over {'' if alone else 'a median of '}{percent(middle)} of the patches"


def sentence_on_temperature(series: Sequence[Series], wanted: float) -> str:
    """Whether one temperature can serve all photos and queries."""
    found = best_common_temperature(series, wanted)
    photos = max(len(one.photos) for one in series)
    if found is None or (photos == 1 and len(series) == 1):
        return ""
    about = f"about {percent(wanted)} of the patches (within a factor of two)"
    if len(series) == 1:
        served = f"{about} on {percent(found.worst)} of the photos"
        return f"The best single temperature, {found.tau:.3g}, brings the query {quoted(series[0])} to {served}."
    things = "queries" if len({one.job for one in series}) == 1 else "combinations of network and query"
    what = f"both {things}" if len(series) == 2 else f"all {len(series)} {things}"
    if found.worst >= 0.9:
        return f"One temperature, {found.tau:.3g}, brings {what} to {about} on at least {percent(found.worst)} of the photos."
    least = series[int(np.argmin(found.served))]
    reached = f"only {percent(found.worst)} of the photos" if found.worst else "no photo"
    return (
        f"No single temperature brings {what} to {about} on nine photos out of ten: "
        f"the best common one, {found.tau:.3g}, does so on {reached} for {quoted(least)}."
    )


def sentence_on_change(series: Sequence[Series]) -> str:
    """The largest difference to 1/sqrt(d_k), photo by photo; without it, the two settings furthest apart."""
    changes = []
    for one in series:
        if SQRT_D in one.settings:
            base = one.share[:, [one.settings.index(SQRT_D)]]
            for name, difference in zip(one.names, (one.share - base).T, strict=True):
                changes.append((median_interval(difference), one, name))
    changes = [change for change in changes if not math.isnan(change[0].value)]
    if changes:
        interval, one, name = max(changes, key=lambda change: abs(change[0].value))
        if not interval.value:
            return ""
        more = "more" if interval.value > 0 else "fewer"
        limits = between(interval, points)
        by = f"{points(abs(interval.value)).lstrip('+')} percentage points of the patches {more}"
        paired = f" (median of the paired differences {points(interval.value)} {limits})" if limits else ""
        return f"The largest change against 1/√d_k is that of “{name}” on the query {quoted(one)}: {by}{paired}."
    ends = []
    for one in series:
        middles = np.nanmedian(one.share, 0)
        if len(one.settings) > 1 and not np.isnan(middles).all():
            ends.append((float(np.nanmax(middles) - np.nanmin(middles)), one, int(np.nanargmin(middles)), int(np.nanargmax(middles))))
    if not ends:
        return ""
    _, one, low, high = max(ends, key=lambda end: end[0])
    middles = np.nanmedian(one.share, 0)
    return (
        f"The settings differ most on the query {quoted(one)}: from {percent(float(middles[low]))} of the patches under “{one.names[low]}” "
        f"to {percent(float(middles[high]))} under “{one.names[high]}”."
    )


def sentence_on_theory(series: Sequence[Series]) -> str:
    gentle, _ = theory_deviation(series)
    if not gentle.count:
        return ""
    return (
        f"What a scaling sets is σ_eff, the spread of the logits: up to σ_eff = 1 the share of the patches is exp(−σ_eff²/2) to within "
        f"{gentle.median:.2g} in the median of {many(gentle.count, 'map')} ({gentle.high:.2g} in 95 % of them), whichever scaling set it."
    )


# ------------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True)
class Strip:
    """One query's pictures of one photo, setting by setting."""

    job: str
    photo: str
    query: str
    label: str
    bar: bytes  # the colour scale
    tiles: list[dict[str, Any]]


def strips(sweep: Sweep) -> list[Strip]:
    """At most TILES pictures; a picture that is gone is left out."""
    found: dict[tuple[int, str], Strip] = {}
    done = [part for part in sweep.parts if part.status == "done"]
    left = TILES
    for part in done:
        bar = render.encode(render.colour_bar(style_of(part)), "png")
        for tile in part.told["tiles"]:
            path = part.folder / tile["file"]
            if not left or not path.is_file():
                continue
            left -= 1
            strip = Strip(part.asked if len(done) > 1 else "", tile["photo"], tile["query"], tile["label"], bar, [])
            found.setdefault((part.number, tile["query"]), strip).tiles.append(tile | {"data": path.read_bytes()})
    return list(found.values())


def style_of(part: Part) -> render.Style:
    asked = part.told["asked"].get("render", {})
    return render.Style(**{field.name: asked[field.name] for field in fields(render.Style) if field.name in asked})


def figures_of(series: Sequence[Series], checked: Sequence[Order]) -> dict[str, list[Figure]]:
    if not series:
        return {}
    colours, names = figures.colours_of(series), dict[str, int]()
    jobs: dict[str, list[Series]] = {}
    for one in series:
        jobs.setdefault(one.job, []).append(one)

    def name(kind: str, what: str) -> str:
        return unique(slug(f"{kind}_{what}" if what else kind), names)

    alike = len({one.query for one in series}) == 1
    return {
        "collapse": [figures.collapse(series, by_query) for by_query in ((False,) if alike else (False, True))],
        "gaps": [figures.gaps(one, name("gaps", one.name)) for one in series[:PANELS]],
        "gradient": [figures.gradient(job, name("gradient", key), colours) for key, job in list(jobs.items())[:PANELS]],
        "ranks": [figures.ranks(one, name("ranks", one.name)) for one in series[:PANELS]],
        "ecdf": [figures.ecdf(job, name("ecdf", key), colours) for key, job in list(jobs.items())[:PANELS]],
        "check": [figures.self_check(series, checked)] if checked else [],
    }


def captions(series: Sequence[Series], checked: Sequence[Order]) -> dict[str, list[str]]:
    """Of every figure what it shows and how it was computed, as paragraphs."""
    if not series:
        return {}
    return {
        "collapse": about_collapse(series),
        "gaps": about_gaps(series),
        "gradient": about_gradient(series),
        "ranks": about_ranks(series),
        "ecdf": about_ecdf(series),
        "check": about_check(checked),
    }


def cut(count: int) -> str:
    return f" Drawn are the first {PANELS} of {count}; all are in the table below." if count > PANELS else ""


def about_collapse(series: Sequence[Series]) -> list[str]:
    patches = np.concatenate([one.patches for one in series])
    middle, low, high = float(np.median(patches)), int(patches.min()), int(patches.max())
    vary = "as all photos have" if low == high else f"the median; photos of other shapes have {low} … {high}"
    total = sum(one.share.size for one in series)
    said = [
        "Each point is one photo, query and setting. Were a scaling nothing but the spread σ_eff that it gives the logits, all points "
        "would fall on one curve: exp(−σ²/2) for independent normal scores, until at √(2 ln N) the attention sits on single patches "
        "(Derrida 1981). What lies off the curve are photos whose scores are not normal: skewed, or with a few patches far above all.",
        f"The dashed line is for N = {middle:g} patches ({vary}). Points beyond the ends of the axis are drawn at the ends."
        + (f" About {figures.POINTS} of {total} are drawn, chosen at random." if total > figures.POINTS else ""),
    ]
    return said


def about_gaps(series: Sequence[Series]) -> list[str]:
    said = [
        "Of 512 pairs of patches a photo, how far the two scores are apart, on a log scale; the tick in each hill is the median gap, the "
        "number at the right the factor (≈: its median, since it differs from photo to photo; cosine has one for every patch). Dividing "
        "by a constant shifts the hill by the logarithm of that constant and leaves its shape alone. At a gap of 1.54 (dotted) two patches "
        "receive the most gradient: far to the right of it one patch takes all, far to the left nothing is preferred." + cut(len(series))
    ]
    shifts = []
    for one in series[:PANELS]:
        raw = figures.middle_gap(one.curves["gaps"][0])
        for column, scaling, factor, same in figures.gap_factors(one):
            if same and scaling == SQRT_D[0]:
                shift = figures.middle_gap(one.curves["gaps"][column + 1]) - raw
                shifts.append(f"{one.name} {shift:+.3f} (log₁₀ of {factor:.4f} is {math.log10(factor):+.3f})".replace("-", "−"))
    if shifts:
        said.append(f"Under 1/√d_k the median gap moved by: {', '.join(shifts)}.")
    return said


def about_gradient(series: Sequence[Series]) -> list[str]:
    places = []
    for one in series[:PANELS]:
        place, value, inside = figures.peak(one)
        at = one.sigma_sqrt_d[np.isfinite(one.sigma_sqrt_d) & (one.sigma_sqrt_d > 0)]
        if inside and len(at):
            reached = float(np.nanmedian(one.read_off("gradient", one.sqrt_d[: one.kept, None])))
            kept = percent(min(1.0, reached / value))
            places.append(f"{one.name} at {place:.2g} std, while 1/√d_k stands at {1 / float(np.median(at)):.2g} with {kept} of the peak")
        elif inside:
            places.append(f"{one.name} at {place:.2g} std")
    fewest = min(one.kept for one in series)
    photos = f"the first {many(fewest, 'photo')}" if fewest < max(len(one.photos) for one in series) else "the photos"
    said = [
        "‖∂a/∂s‖ = ‖diag(a) − aaᵀ‖ / τ of softmax(s/τ), times std(s): how much of a gradient reaches the raw scores. "
        f"Median and 5–95 % band over {photos}, at 57 temperatures of 2⁻⁷ … 2⁷ standard deviations. Too cold, one patch holds everything "
        "and nothing it is told changes that; too hot, every gradient is divided away.",
        "Stars: the peak. It belongs to the few hottest patches of a photo, which lie close together, and so stands left of where the map "
        "as a whole is still spread. Circles: 1/√d_k in the median of the photos; squares: no scaling; at the edge where they lie beyond.",
    ]
    if places:
        said.append(f"The peak lies inside the range: {'; '.join(places)}.")
    return said


def about_ranks(series: Sequence[Series]) -> list[str]:
    return [
        "Each map's weights in falling order, as N·a on a log scale, averaged over the photos (the mean of log₂ N·a) at 48 equal steps "
        "from the hottest patch to the coldest. 1× is what a patch gets when there is no preference." + cut(len(series))
    ]


def about_ecdf(series: Sequence[Series]) -> list[str]:
    said = [
        "How many photos have at most this σ_eff = std(s)/√d_k, query by query. Left, in grey, theory calls a map more than 99 % uniform; "
        "right of the dashed line it is frozen to single patches. Another divisor moves all curves by the same step, and cannot bring them "
        "onto one another."
    ]
    middles = {one.name: float(np.nanmedian(one.sigma_sqrt_d)) for one in series if not np.isnan(one.sigma_sqrt_d).all()}
    if len(middles) > 1 and min(middles.values()) > 0:
        low, high = min(middles, key=lambda name: middles[name]), max(middles, key=lambda name: middles[name])
        ratio = middles[high] / middles[low]
        said.append(f"The medians differ by a factor of {ratio:.2g}: {middles[low]:.2g} ({low}) to {middles[high]:.2g} ({high}).")
    widths = []
    for one in series[:PANELS]:
        known = one.sigma_sqrt_d[np.isfinite(one.sigma_sqrt_d) & (one.sigma_sqrt_d > 0)]
        if len(known) > 1:
            few, most = np.percentile(known, (5, 95))
            widths.append(f"{most / few:.2g} ({one.name})")
    if widths:
        said.append(f"Within one query the photos from the 5th to the 95th of a hundred span a factor of {listed(widths)}.")
    return said


def about_check(checked: Sequence[Order]) -> list[str]:
    said = [
        "Blue: the median share of the patches, with 5–95 % over photos and queries. Diamonds: the lowest Spearman correlation of logits "
        "with raw scores over all photos. A scaling that multiplies the scores of a photo by one positive factor cannot change the order; "
        "whoever measures only AUC, pointing game or hit rate sees this flat line and nothing else."
    ]
    factors, free = ([order for order in checked if order.factor is kind] for kind in (True, False))
    if factors:
        count, exact = sum(order.count for order in factors), sum(order.exact for order in factors)
        lowest = min(factors, key=lambda order: badness(order.worst))
        how_low = "never below" if exact == count else f"at worst {lowest.worst:.6g} ({lowest.setting}, {lowest.photo}), else not below"
        good, all_of_them = many(exact, "map"), many(count, "map")
        said.append(
            f"Of these settings {good} of {all_of_them} have correlation 1 to 10⁻⁶ ({how_low} 1 − 10⁻⁶). Scores that rounding makes "
            "equal may lower it: each such pair costs 3/(N(N²−1)), and as many as a quarter of the patches are let pass."
        )
    if free:
        lows = listed([f"{order.worst:.3g} under {order.setting}" for order in free])
        said.append(f"Free to reorder, and so they do; lowest over the photos: {lows}.")
    return said


def deviations(series: Sequence[Series]) -> list[tuple[str, Any, Any]]:
    """(what, for sigma_eff <= 1, below freezing): all, then query by query."""
    softmax = [one for one in series if one.softmax.any()]
    found = [("all", *theory_deviation(softmax))] if softmax else []
    if len(softmax) > 1:
        found += [(one.name, *theory_deviation([one])) for one in softmax]
    return found


# ------------------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Row:
    """What one query did under one setting, over the photos."""

    job: str
    query: str
    setting: str
    cells: list[tuple[Interval, str]]  # share, max_times_uniform, sigma_eff, saturated, dead, js: each with how it is said
    difference: Interval  # perplexity share minus that of 1/sqrt(d_k), photo by photo


def rows(series: Sequence[Series]) -> Iterator[Row]:
    for one in series:
        base = one.settings.index(SQRT_D) if SQRT_D in one.settings else None
        for column, name in enumerate(one.names):
            numbers = {key: values[:, column] for key, values in one.numbers.items()}
            cells = [(median_interval(one.share[:, column]), "percent")]
            cells += [(median_interval(numbers[key]), "figure") for key in ("max_times_uniform", "sigma_eff")]
            cells += [(mean_interval(numbers[key]), "percent") for key in ("saturated", "dead")]
            cells += [(NOTHING if column == base else median_interval(numbers["js_inv_sqrt_d"]), "figure")]
            difference = NOTHING if base in (None, column) else median_interval(one.share[:, column] - one.share[:, base])
            yield Row(one.job, one.query, name, cells, difference)


# ------------------------------------------------------------------------------------------------ temperatures


@dataclass(frozen=True)
class Advice:
    """The temperature that spreads a query over a share of the patches, and what it leaves photo by photo."""

    job: str
    query: str
    share: float
    tau: Interval
    times_sqrt_d: float
    low: float  # 5 % of the photos get a smaller share of the patches under that temperature
    high: float
    flat: int  # photos without contrast: no temperature sharpens them


def advice(series: Sequence[Series], shares: Sequence[float]) -> list[Advice]:
    found = []
    for one in series:
        for column, share in enumerate(shares):
            every = one.curves["tau"][:, column]
            known = every[np.isfinite(every) & (every > 0)]
            if not len(known):
                continue
            tau = median_interval(known)
            left = one.read_off("perplexity", np.full((one.kept, 1), tau.value))[:, 0]
            low, high = np.percentile(left, (5, 95))
            times = tau.value / float(np.nanmedian(one.sqrt_d))
            found.append(Advice(one.job, one.query, share, tau, times, float(low), float(high), len(every) - len(known)))
    return found


# ------------------------------------------------------------------------------------------------ provenance


def facts(sweep: Sweep) -> dict[str, str]:
    """What somebody needs to make this again."""
    done = [part for part in sweep.parts if part.status == "done"]
    about: dict[str, str] = {"command": sweep.command}
    for name in ABOUT:
        values = dict.fromkeys(str(told[name]) for part in done if name in (told := {**part.told, **part.told["axes"]}))
        if values:
            about[name] = "; ".join(values)
    about["queries"] = ", ".join(dict.fromkeys(query for part in done for query in part.told["queries"]))
    about["intervals"] = "95 %, percentile bootstrap over photos, 2 000 resamples, seed 0"
    about["versions"] = (
        ", ".join(versions(("attnvis", "torch", "torchvision", "numpy", "matplotlib"))) + f", Python {platform.python_version()}"
    )
    about["files"] = (
        "sweep.parquet: a row per photo, query and setting; figures/: every figure as png and svg; sheets/: a contact sheet a photo"
    )
    return about


def versions(packages: Iterable[str]) -> Iterator[str]:
    for package in packages:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} (not installed)"
