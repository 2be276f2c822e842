"""A class by its name or its index in, its index out; near matches for a name that there is not."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["find_class"]


def find_class(name: str | int, categories: Sequence[str], count: int) -> int:
    """A category by its index, or by its name or one of its synonyms (tabby, tabby cat).

    Case, blanks, hyphens, underscores and apostrophes do not matter.  Raises ValueError
    with near matches where no class is called so, with their indices where several are (torchvision has two
    cranes), and with the range for an index outside of it.
    """
    return find_text(str(name).strip(), tuple(categories), count)


@lru_cache(maxsize=1024)
def find_text(text: str, categories: tuple[str, ...], count: int) -> int:
    """`find_class`, remembered: every batch of photos is asked of the same class."""
    if numbered := re.fullmatch(r"class ([0-9]+)", text):  # as a class without a name is called
        text = numbered[1] if int(numbered[1]) >= len(categories) else text
    if re.fullmatch(r"[+-]?[0-9]+", text):
        if not 0 <= int(text) < count:
            raise ValueError(
                f"class index {text} is not among the {count} classes of this backbone: 0 ... {count - 1}"
            )
        return int(text)
    if not categories:
        raise ValueError(
            f"the classes of this backbone have no names, so that {text!r} is none; "
            f"give an index, 0 ... {count - 1}"
        )
    wanted = plain_name(text)
    names = [plain_name(category) for category in categories]
    matches = [index for index, plain in enumerate(names) if plain == wanted]
    if not matches:
        synonyms = [set(map(plain_name, category.split(","))) for category in categories]
        matches = [index for index, plain in enumerate(synonyms) if wanted in plain]
    if len(matches) > 1:
        indices = " or ".join(map(str, matches[:6]))
        raise ValueError(
            f"{len(matches)} classes of this backbone are called {text!r}; give an index, {indices}"
        )
    if matches:
        return matches[0]
    near = [categories[names.index(plain)] for plain in near_names(wanted, names)]
    hint = f"did you mean {', '.join(near)}?" if near else "nothing is spelled nearly so"
    raise ValueError(f"unknown class {text!r} among the {count} of this backbone; {hint}")


@lru_cache(maxsize=1 << 14)  # a query by name compares with the thousand names of a network
def plain_name(text: str) -> str:
    """A name without what people write differently: case, hyphens, underscores, apostrophes, blanks."""
    letters = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[-_\s]+", " ", re.sub(r"['’`]", "", letters)).split())


def near_names(wanted: str, names: Sequence[str]) -> list[str]:
    """At most six of the names: with the whole text as a word, sharing its words, nearly spelled so."""
    words = {name: set(name.replace(",", "").split()) for name in names}
    # cat: tiger cat before crate
    whole = [name for name in names if wanted in words[name]]
    shared = {name: len(words[name] & set(wanted.split())) for name in names}
    sharing = sorted(filter(shared.get, names), key=lambda name: (-shared[name], len(words[name])))
    spelled = difflib.get_close_matches(wanted, names, n=5)
    inside = [name for name in names if wanted in name]
    return list(dict.fromkeys([*whole, *spelled[:3], *sharing[:3], *spelled, *inside]))[:6]
