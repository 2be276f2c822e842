"""A run's folder and its rows -> one index.html that needs no network, no server and no second file.

Rows stream through: at any time one picture is in memory, and the page grows under a temporary name until it
is whole.
"""

import base64
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO
from urllib.parse import quote

from markupsafe import Markup

from attnvis.files import naming, read_bytes
from attnvis.methods.answer import FREE_SIGN, UNLIKELY
from attnvis.metrics.diagnostics import NEARLY_UNIFORM
from attnvis.render import html
from attnvis.render.html import number
from attnvis.render.thumbnail import Thumbnail, thumbnail
from attnvis.types import percent

__all__ = ["CARDS", "write_page"]

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


def write_page(
    folder: Path,
    title: str,
    rows: Iterable[Mapping[str, object]],
    facts: Mapping[str, str],
    warnings: Sequence[str] = (),
    colour_bar: bytes | None = None,
    scale: str = "times_uniform",
    thumbnails: Mapping[str, Thumbnail] | None = None,
) -> Path:
    """Writes folder/index.html and gives its path.

    `overlay` and `panel` of a row are paths inside `folder`; `scale` is that of render.Style.  `thumbnails`
    are those that are known, by the overlay's path; others are made from the files.
    """
    pages = html.environment("attnvis.pipeline", link=link, percent=percent)
    pieces = pages.get_template("pieces.html").module
    counts: Counter[str] = Counter()
    with naming(folder / "index.html"), ExitStack() as stack:
        spools = {kind: stack.enter_context(spool(folder)) for kind in ("card", "line", "failure")}
        for order, row in enumerate(rows):
            kind = kind_of(row, counts["card"])
            badges = badges_of(row)
            counts.update([kind, *badges])
            picture = picture_of(folder, row, thumbnails or {}) if kind == "card" else None
            spools[kind].write(getattr(pieces, kind)(row, order, badges, picture, numbers(row)))
        return html.write_page(
            folder / "index.html",
            pages.get_template("report.html"),
            script=html.read_template("attnvis.pipeline", "report.js"),
            title=title,
            facts=facts,
            warnings=warnings,
            colour_bar=colour_bar,
            scale=scale,
            counts=counts,
            limit=CARDS,
            nearly_uniform=NEARLY_UNIFORM,
            unlikely=UNLIKELY,
            cards=chunks(spools["card"]),
            lines=chunks(spools["line"]),
            failures=chunks(spools["failure"]),
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
            small = thumbnail(read_bytes(folder / name))
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
