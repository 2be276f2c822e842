"""A template and its content -> a page of one file, which needs no network and runs no script but its own."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, Template
from markupsafe import Markup

from attnvis.files import whole_file

__all__ = [
    "data_uri",
    "environment",
    "format_number",
    "link",
    "number",
    "page_pieces",
    "read_template",
    "script_data",
    "write_page",
]


def environment(*packages: str, **filters: Callable[..., object]) -> Environment:
    """The templates of these packages, and of this one: the shell that every page extends.

    `filters` come on top of those that every page has: `figure` writes a number, `image` a picture as data.
    """
    loaders = [PackageLoader(package, "templates") for package in (*packages, "attnvis.render")]
    pages = Environment(loader=ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"figure": format_number, "image": data_uri} | filters
    return pages


def write_page(path: Path, template: Template, style: str = "", script: str = "", **content: Any) -> Path:
    """Writes the page, whole or not at all, piece by piece as the template makes it; gives its path.

    Arguments as those of `page_pieces`.
    """
    with (
        whole_file(path) as part,
        part.open("w", encoding="utf-8", errors="replace", newline="\n") as file,
    ):
        file.writelines(page_pieces(template, style=style, script=script, **content))
    return path


def page_pieces(template: Template, style: str = "", script: str = "", **content: Any) -> Iterator[str]:
    """The page, piece by piece.

    `style` and `script` are texts of the page's own; the style that all pages share goes before.  The shell
    shows `title`, `warnings` and `facts`; the script may run because its digest stands in the page's policy.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() if script else ""
    return template.generate(
        style=Markup(read_template("attnvis.render", "report.css") + style),
        script=Markup(script),
        script_digest=digest,
        **content,
    )


def read_template(package: str, name: str) -> str:
    """A style sheet or a script, as it is."""
    return files(package).joinpath("templates", name).read_text("utf-8")


def number(value: object) -> float:
    """NaN for what is no number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def format_number(value: object, digits: int = 3) -> str:
    """For reading: 0.0123, 34.2, 1204; a dash for nothing; words stay words."""
    if isinstance(value, str | bool):
        return str(value)
    parsed = number(value)
    if math.isnan(parsed):
        return "–"
    return f"{parsed:.0f}" if 10**digits <= abs(parsed) < 1e9 else f"{parsed:.{digits}g}"


def data_uri(data: bytes) -> str:
    """A picture as the address of an image: png, webp or jpeg."""
    if data[:4] == b"\x89PNG":
        kind = "png"
    elif data[8:12] == b"WEBP":
        kind = "webp"
    else:
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def script_data(content: object) -> Markup:
    """JSON that no text inside can end or begin a tag with.  Raises ValueError for numbers that are none."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def link(path: object) -> str:
    """A relative address: a file named javascript:x, //x, a?b or 100%.jpg stays a file of this folder."""
    return "./" + quote(os.fsencode(Path(str(path)).as_posix()), safe="/")
