"""A run's folder and its rows -> one index.html that needs no network, no server and no second file.

Rows stream through while the run goes on: at any time one picture is in memory, and what was made of the rows
waits in files without a name until the page is written.
"""

import base64
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from attnvis.files import naming, read_bytes
from attnvis.methods.answer import CHANCE, FREE_SIGN, UNLIKELY
from attnvis.metrics.diagnostics import NEARLY_UNIFORM
from attnvis.render import html
from attnvis.render.html import number
from attnvis.render.thumbnail import Thumbnail, thumbnail_of_file
from attnvis.types import percent

__all__ = ["CARDS", "RunPage", "write_page"]

KINDS = ("card", "line", "failure")  # of a row
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
    "overlay",
    "panel",
)


class RunPage:
    """A page that grows by one row after the other, and is a file once `write` has made it whole.

    folder      where the page goes; `overlay` and `panel` of a row are paths inside it
    thumbnails  those that are known, by the overlay's path; others are made from the files
    """

    def __init__(self, folder: Path, thumbnails: Mapping[str, Thumbnail] | None = None) -> None:
        self.folder = folder
        self.thumbnails = {} if thumbnails is None else thumbnails
        self.counts: Counter[str] = Counter()
        self.rows = 0
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
        """A row as `records.read_numbers` gives it.  Raises OSError."""
        kind = kind_of(row, self.counts["card"])
        badges = badges_of(row)
        picture = picture_of(self.folder, row, self.thumbnails) if kind == "card" else None
        piece = getattr(macros(), kind)(row, self.rows, badges, picture, numbers(row))
        with naming(self.folder / "index.html"):
            self.pieces[kind].write(piece)
        self.counts.update([kind, *badges])
        self.rows += 1

    def write(
        self,
        title: str,
        facts: Mapping[str, str],
        warnings: Sequence[str] = (),
        colour_bar: bytes | None = None,
        scale: str = "times_uniform",
        prior: bytes | None = None,
    ) -> Path:
        """Writes folder/index.html and gives its path; `scale` is that of render.Style.

        prior: a picture of the position prior.  Raises OSError.
        """
        with naming(self.folder / "index.html"):
            return html.write_page(
                self.folder / "index.html",
                pages().get_template("report.html"),
                script=html.read_template("attnvis.pipeline", "report.js"),
                title=title,
                facts=facts,
                warnings=warnings,
                colour_bar=colour_bar,
                scale=scale,
                prior=prior,
                counts=self.counts,
                limit=CARDS,
                nearly_uniform=NEARLY_UNIFORM,
                unlikely=UNLIKELY,
                cards=chunks(self.pieces["card"]),
                lines=chunks(self.pieces["line"]),
                failures=chunks(self.pieces["failure"]),
            )


@cache
def pages() -> Environment:
    """Templates are compiled once in a process: that takes longer than a row."""
    return html.environment("attnvis.pipeline", link=link, percent=percent)


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
    small = thumbnails.get(name)
    if small is None:
        try:
            small = thumbnail_of_file(read_bytes(folder / name))
        except (OSError, ValueError):
            return None
    if small is None:
        return None
    data = base64.b64encode(small.jpeg).decode()
    return {"data": data, "width": small.width, "height": small.height}


def numbers(row: Mapping[str, object]) -> list[tuple[str, object]]:
    return [(key, value) for key, value in row.items() if key not in SHOWN and value not in (None, "")]


def link(path: object) -> str:
    """A relative address: a file named javascript:x, //x, a?b or 100%.jpg stays a file of this folder."""
    return "./" + quote(os.fsencode(Path(str(path)).as_posix()), safe="/")
