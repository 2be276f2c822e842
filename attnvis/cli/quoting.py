"""Texts and values in, the same in Hydra's grammar out."""

import os
import re

from attnvis.attention.grammar import split_pieces, unquoted

__all__ = [
    "SEVERAL_TEXTS",
    "TEXTS",
    "as_texts",
    "as_value",
    "is_readable",
    "quoted",
]

# Settings that are texts: names of files and folders, of classes, of a run.  What they hold is taken as it
# stands, whatever it means to Hydra: =, brackets, quotes, blanks, ${...}.
ONE_TEXT = frozenset(
    {"run", "clip", "data", "folder", "map", "cache.folder", "hydra.run.dir", "hydra.sweep.dir", "name"}
    | {f"query.{key}" for key in ("text", "photo", "shape", "file")}
    | {"keys.file", "keys.name"}
    | {f"logger.{key}" for key in ("project", "entity", "group", "name", "job_type", "notes", "id", "dir")}
)
# commas make several jobs, where there can be
SEVERAL_TEXTS = frozenset({"backbone.weights", "backbone.weights_key", "query.name"})
LISTS_OF_TEXTS = frozenset(
    {"images", "among", "backbone.categories"}
)  # [one,two]; commas make several jobs behind -m
TEXTS = ONE_TEXT | SEVERAL_TEXTS | LISTS_OF_TEXTS


def quoted(text: str) -> str:
    """As one string of Hydra's grammar, whatever it holds; ${...} in it is no variable."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\+)\Z", r"\1\1", text)  # backslashes before the closing quote
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"


def as_value(value: object) -> str:
    """A setting as Hydra reads it."""
    if isinstance(value, str):
        return quoted(value)
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else repr(value)
    )


def as_texts(key: str, value: str, several: bool) -> str:
    """The value of a setting that takes texts, as Hydra reads them; `several`: commas make several jobs.

    A file that is there is itself, whatever it is called; else quotes from end to end are Hydra's, and taken
    off.
    """
    is_list = key in LISTS_OF_TEXTS and value.startswith("[") and value.endswith("]")
    if os.path.lexists(value):
        return quoted(value)
    if is_list:
        pieces = split_pieces(value[1:-1]) if value[1:-1].strip() else []
        return f"[{','.join(quoted(unquoted(piece.strip())) for piece in pieces)}]"
    if several and key not in ONE_TEXT:
        return ",".join(quoted(unquoted(piece)) for piece in split_pieces(value))
    return quoted(unquoted(value))


def is_readable(word: str) -> bool:
    """Whether Hydra can read key=value, and finds no variable in it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except (HydraException, AssertionError):
        return False
    return "${" not in word
