"""A run's folder and its rows -> one index.html that needs no network, no server and no second file.

Files that lie beside it let it show more: overlays in full, bare heatmaps and photos, explorers.

Rows stream through while the run goes on: at any time one picture is in memory, and what was made of the rows
waits in files without a name until the page is written.
"""

import base64
import math
import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from attnvis.files import naming, read_bytes
from attnvis.methods.answer import CHANCE, FREE_SIGN, UNLIKELY
from attnvis.metrics.diagnostics import NEARLY_UNIFORM
from attnvis.pipeline.records import view_names
from attnvis.render import html
from attnvis.render.html import number
from attnvis.render.modules import page_script
from attnvis.render.thumbnail import Thumbnail, read_thumbnail, thumbnail_of_file
from attnvis.types import percent

__all__ = ["CARDS", "EXPLORERS", "RunPage", "is_own_file", "write_page"]

KINDS = ("card", "line", "failure")  # of a row
VIEWS = ("explorer", "photo", "heatmap")  # what else there may be to see of a row
EXPLORERS = "explorers"  # a page a photo, where these were asked for
LINKED = ("records.csv", "records", "run.json")  # what a run leaves beside its page
SETTING = re.compile(r"^(\w+)\(\w+=([\d.e+-]+)\)$")  # perplexity(target=0.1) is perplexity:0.1
CARDS = 200  # rows with a thumbnail; the page of a long run stays one that a browser opens
SHOWN = (  # not repeated under "all numbers"
    "photo",
    "photo_note",
    "query",
    "label",
    "status",
    "reason",
    "scaling",
    "normalise",
    "keys",
    "heads",
    "remark",
    "overlay",
    "panel",
)


@dataclass(frozen=True)
class Card:
    """A row that has a picture, until all rows of its photo are known."""

    row: Mapping[str, Any]
    order: int
    badges: list[str]
    picture: Mapping[str, object] | None
    views: Mapping[str, str]  # heatmap, photo, explorer -> where it lies in the folder


class RunPage:
    """A page that grows by one row after the other, and is a file once `write` has made it whole.

    folder      where the page goes; `overlay` and `panel` of a row are paths inside it
    thumbnails  those that are known, by the overlay's path; others are made from the files
    stems       what a photo's files are called, by its index; none: only its overlay is shown
    """

    def __init__(
        self,
        folder: Path,
        thumbnails: Mapping[str, Thumbnail] | None = None,
        stems: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.thumbnails = {} if thumbnails is None else thumbnails
        self.stems = stems
        self.counts: Counter[str] = Counter()
        self.rows = self.photos = 0
        self.photo: tuple[object, ...] = ()  # whose rows come
        self.waiting: list[Card] = []  # of that photo
        self.spools = ExitStack()
        with naming(folder / "index.html"):
            self.pieces = {kind: self.spools.enter_context(spool(folder)) for kind in KINDS}

    def __enter__(self) -> "RunPage":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """What the page was to be made of is given up.  What no longer fits a full disk is not missed."""
        with suppress(OSError):
            self.spools.close()

    def add(self, row: Mapping[str, object]) -> None:
        """A row as `records.read_numbers` gives it; those of a photo follow one another.  Raises OSError."""
        photo = tuple(row.get(name) for name in ("index", "path", "photo"))
        if photo != self.photo:
            self.write_cards()
            self.photo = photo
            self.photos += 1
        kind = kind_of(row, self.counts["card"])
        badges = badges_of(row)
        if kind == "card":
            picture = picture_of(self.folder, row, self.thumbnails)
            self.waiting.append(Card(row, self.rows, badges, picture, self.views_of(row)))
        elif kind == "line":
            self.spool(kind, f"{line_data(row, self.rows, self.photos, badges)},\n")
        else:
            self.spool(kind, macros().failure(row))
        self.counts.update([kind, *badges])
        self.counts["beyond chance"] += number(row.get("beyond_chance")) > 0
        self.rows += 1

    def write_cards(self) -> None:
        """Those of one photo, side by side where it has several."""
        alone = len(self.waiting) == 1
        pieces = [
            macros().card(
                card.row,
                card.order,
                group=self.photos,
                badges=card.badges,
                thumbnail=card.picture,
                views=card.views,
                numbers=numbers(card.row),
                tau=found_temperature(card.row),
                alone=alone,
            )
            for card in self.waiting
        ]
        if len(pieces) > 1:
            first = self.waiting[0]
            pieces = [macros().together(first.row, first.order, cards=pieces)]
            self.counts["group"] += 1
        for piece in pieces:
            self.spool("card", piece)
        self.counts["views"] += sum("heatmap" in card.views for card in self.waiting)
        self.waiting = []

    def spool(self, kind: str, piece: str) -> None:
        with naming(self.folder / "index.html"):
            self.pieces[kind].write(piece)

    def views_of(self, row: Mapping[str, Any]) -> dict[str, str]:
        """What else there is to see of a row: heatmap, photo, explorer -> the file, where there is one."""
        index = number(row.get("index"))
        if not 0 <= index < len(self.stems):
            return {}
        stem = self.stems[int(index)]
        files = {"explorer": f"{EXPLORERS}/{stem}.html"} | view_names(row, stem)
        views = {
            view: files[view] for view in VIEWS if view in files and is_own_file(self.folder / files[view])
        }
        if "explorer" in views:
            views["question"] = explorer_view(row)
        return views

    def write(
        self,
        title: str,
        facts: Mapping[str, str],
        warnings: Sequence[str] = (),
        colour_bar: bytes | None = None,
        scale: str = "times_uniform",
        date: str = "",
        prior: bytes | None = None,
        beyond: bool = False,
    ) -> Path:
        """Writes folder/index.html and gives its path.  Raises OSError.

        scale     that of render.Style
        date      when the run began
        prior     a picture of the position prior
        beyond    whether the maps are drawn as they differ from it: then nothing has an outline
        """
        self.write_cards()
        with naming(self.folder / "index.html"):
            return html.write_page(
                self.folder / "index.html",
                pages().get_template("report.html"),
                style=html.read_template("attnvis.render", "large.css"),
                script=page_script("run.js"),
                beside=True,
                title=title,
                lead=lead(facts, date),
                links=[(name, name) for name in LINKED if (self.folder / name).exists()],
                views=self.counts["views"],
                grouped=self.counts["group"],
                facts=facts,
                warnings=warnings,
                colour_bar=colour_bar,
                scale=scale,
                prior=prior,
                counts=self.counts,
                limit=CARDS,
                nearly_uniform=NEARLY_UNIFORM,
                unlikely=UNLIKELY,
                chance=CHANCE,
                beyond=beyond,
                outlined=not beyond and self.counts["beyond chance"] > 0,
                cards=chunks(self.pieces["card"]),
                lines=chunks(self.pieces["line"]),
                failures=chunks(self.pieces["failure"]),
            )


def is_own_file(path: Path) -> bool:
    """Whether a file is there; a link to another is none of a run's."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


@cache
def pages() -> Environment:
    """Templates are compiled once in a process: that takes longer than a row."""
    return html.environment("attnvis.pipeline", link=html.link, percent=percent)


@cache
def macros() -> Any:
    """What makes each kind of row a piece of the page."""
    return pages().get_template("pieces.html").module


def write_page(
    folder: Path, title: str, rows: Iterable[Mapping[str, object]], facts: Mapping[str, str], **about: Any
) -> Path:
    """Writes folder/index.html of rows that are known, and gives its path; `about` as in `RunPage.write`."""
    with RunPage(folder) as page:
        for row in rows:
            page.add(row)
        return page.write(title, facts, **about)


def lead(facts: Mapping[str, str], date: str) -> str:
    """Which network looked, and when."""
    network = ", ".join(filter(None, (facts.get("backbone"), layer_text(facts.get("layer", "")))))
    size = f"short side {facts['size']} px" if facts.get("size") else ""
    return " · ".join(filter(None, (network, size, date)))


def layer_text(layer: str) -> str:
    return f"layer {layer}" if layer else ""


def found_temperature(row: Mapping[str, object]) -> float | None:
    """By what scores were divided to make the map as sharp as was asked; None where no sharpness was.

    The ratio of their spreads is that, whatever was taken off them.
    """
    if not str(row.get("scaling", "")).startswith("perplexity"):
        return None
    spread, logits = number(row.get("score_std")), number(row.get("sigma_eff"))
    return spread / logits if logits > 0 else math.nan


def explorer_view(row: Mapping[str, Any]) -> str:
    """The question of a row and its stages as an explorer's link has them behind the #.

    What it does not know it leaves as it opens.
    """
    query = str(row.get("query", ""))
    if number(row.get("class_index")) >= 0:
        query = f"class:{int(row['class_index'])}"
    words = {"q": query, "scaling": row.get("scaling"), "normalise": row.get("normalise")}
    texts = {name: SETTING.sub(r"\1:\2", str(text)) for name, text in words.items() if text}
    if row.get("layer"):
        texts["layer"] = str(row["layer"])
    return "&".join(f"{name}={quote(text, safe=':,;.')}" for name, text in texts.items())


def line_data(row: Mapping[str, Any], order: int, group: int, badges: Sequence[str]) -> str:
    """A row of the table, for the script that shows it: as JSON in an array, in the order of its LineData."""
    picture = row.get("overlay") or row.get("panel")
    numbers = [number(row.get(name)) for name in ("perplexity", "patches", "max_times_uniform")]
    return html.script_data(
        [
            order,
            group,
            *(str(row.get(name) or "") for name in ("photo", "query", "label", "scaling")),
            html.link(picture) if picture else "",
            *(value if math.isfinite(value) else None for value in numbers),
            list(badges),
        ]
    )


def kind_of(row: Mapping[str, object], cards: int) -> str:
    """How a row is shown, where so many cards were shown before it: failure, card or line."""
    if row.get("status", "done") != "done":
        return "failure"
    return "card" if cards < CARDS else "line"


def spool(folder: Path) -> IO[str]:
    """A nameless file beside the page: rows wait here while they are counted."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", newline="\n", dir=folder)


def chunks(file: IO[str]) -> Iterator[Markup]:
    file.seek(0)
    while text := file.read(1 << 16):
        yield Markup(text)


def badges_of(row: Mapping[str, object]) -> list[str]:
    """What a reader must know before believing the picture."""
    perplexity, patches, saturated = (number(row.get(key)) for key in ("perplexity", "patches", "saturated"))
    badges = {
        "nearly uniform": perplexity > NEARLY_UNIFORM * patches,
        "saturated": saturated == 1,
        "unlikely": number(row.get("class_probability")) < UNLIKELY,
        "turns over": number(row.get("worst_correlation")) < 0,
        "chance": number(row.get("p_value")) > CHANCE,
        "free sign": number(row.get("sign_margin")) < FREE_SIGN,
    }
    return [badge for badge, earned in badges.items() if earned]


def picture_of(
    folder: Path, row: Mapping[str, object], thumbnails: Mapping[str, Thumbnail]
) -> dict[str, object] | None:
    """The overlay as {data, width, height}; None where there is none or it cannot be read."""
    name = str(row.get("overlay") or "")
    if not name:
        return None
    small = thumbnails.get(name) or kept_thumbnail(folder / view_names(row)["thumbnail"])
    if small is None:
        try:
            small = thumbnail_of_file(read_bytes(folder / name))
        except (OSError, ValueError):
            return None
    if small is None:
        return None
    data = base64.b64encode(small.jpeg).decode()
    return {"data": data, "width": small.width, "height": small.height}


def kept_thumbnail(path: Path) -> Thumbnail | None:
    """One that lies beside the page; None where none does."""
    try:
        return read_thumbnail(read_bytes(path)) if is_own_file(path) else None
    except (OSError, ValueError):
        return None


def numbers(row: Mapping[str, object]) -> list[tuple[str, str]]:
    """What a row says besides, for reading: names and values."""
    return [
        (name.replace("_", " "), html.format_number(value, 5))
        for name, value in row.items()
        if name not in SHOWN and value not in (None, "")
    ]
