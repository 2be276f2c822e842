"""What every page needs: its templates, numbers as they are read, pictures as data."""

import base64
import math
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader

__all__ = ["data_uri", "environment", "format_number", "number", "read_template"]


def number(value: object) -> float:
    """NaN for what is no number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def environment(*packages: str) -> Environment:
    """The templates of these packages, and of this one: the shell that every page extends."""
    loaders = [PackageLoader(package, "templates") for package in (*packages, "attnvis.render")]
    return Environment(loader=ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def read_template(package: str, name: str) -> str:
    """A style sheet or a script, as it is."""
    return files(package).joinpath("templates", name).read_text("utf-8")


def format_number(value: object, digits: int = 3) -> str:
    """For reading: 0.0123, 34.2, 1204; a dash for nothing; words stay words."""
    if isinstance(value, str | bool):
        return str(value)
    found = number(value)
    if math.isnan(found):
        return "–"
    return f"{found:.0f}" if 10**digits <= abs(found) < 1e9 else f"{found:.{digits}g}"


def data_uri(data: bytes) -> str:
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
