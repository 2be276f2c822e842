"""ES modules as one script: in the order of their imports, without the imports and exports.

So they stay what browsers, Node and tsc read, and a page holds one script whose digest stands in its policy.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.resources import files

__all__ = ["join_modules", "page_script"]

IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?function |const |let |class )", re.MULTILINE)
DECLARED = re.compile(r"^(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)
LEFT = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


@lru_cache
def page_script(entry: str) -> str:
    """The script of a page that shows results, from attnvis/render/js."""
    return join_modules(entry, lambda name: files("attnvis.render").joinpath("js", name).read_text("utf-8"))


def join_modules(entry: str, read: Callable[[str], str]) -> str:
    """The module `entry` after all that it imports, each once, in a scope of its own.

    Raises ValueError for another kind of import or export than these modules have, for a circle, and for a
    name that two modules declare.
    """
    pieces, owners = [], dict[str, str]()
    for name in in_order(entry, read):
        text = EXPORT.sub("", IMPORT.sub("", read(name)))
        if foreign := LEFT.search(text):
            raise ValueError(f"{name}: {foreign[0]!r} is no import or export that can be joined")
        for declared in DECLARED.findall(text):
            if owners.setdefault(declared, name) != name:
                raise ValueError(f"{name} and {owners[declared]} both declare {declared}")
        pieces.append(text)
    return '(() => {\n"use strict";\n' + "\n".join(pieces) + "})();\n"


def in_order(entry: str, read: Callable[[str], str]) -> Iterator[str]:
    """Every module after those that it imports.  Raises ValueError for a circle."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> Iterator[str]:
        if name in path:
            raise ValueError(f"modules import one another in a circle: {' -> '.join([*path, name])}")
        if name in done:
            return
        path.append(name)
        for imported in IMPORT.findall(read(name)):
            yield from visit(imported)
        path.pop()
        done.add(name)
        yield name

    yield from visit(entry)
