"""How stages are typed, taken apart: class,point:120,80 -> [class, point:120,80]; pca:2 -> pca and 2.

Pure texts: what functions there are is known to `spec` and `query.language`.
"""

import re
from collections.abc import Container, Sequence

__all__ = [
    "NO",
    "QUOTED",
    "YES",
    "assign",
    "divide",
    "is_own_function",
    "split_pieces",
    "split_texts",
    "unquoted",
]

YES, NO = ("true", "yes", "1"), ("false", "no", "0")
WORDS = {word for word in (*YES, *NO) if word.isalpha()}  # settings, though they begin like a name

QUOTED = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
NESTED = r"\([^()]*\)"
for _ in range(4):
    NESTED = rf"\((?:[^()]|{NESTED})*\)"  # parentheses in parentheses
PIECE = re.compile(rf"\s*(?:{QUOTED})\s*(?=,|\Z)|(?:{NESTED}|\[[^][]*\]|:\s*(?:{QUOTED})|[^,])*", re.DOTALL)


def split_texts(value: str, names: Container[str]) -> list[str]:
    """class,point:120,80 -> [class, point:120,80]; ["class:teddy, teddy bear",mean] -> its entries.

    A comma separates where a name may begin: before a letter, but not before yes or no or setting=value; and
    before a blank only where one of `names` follows.  Quotes keep a text whole.
    """
    inner = value.strip()
    if inner.startswith("[") and inner.endswith("]"):
        value = inner[1:-1]
    texts: list[str] = []
    for piece in split_pieces(value):
        if not texts or begins_a_text(piece, names):
            texts.append(piece)
        else:
            texts[-1] += f",{piece}"
    return [unquoted(text.strip()) for text in texts]


def split_pieces(value: str) -> list[str]:
    """What stands between the commas, those in quotes, parentheses and brackets not counted."""
    pieces: list[str] = []
    position = 0
    while position <= len(value):
        match = PIECE.match(value, position)
        assert match is not None  # PIECE matches nothing too
        pieces.append(match[0])
        position = match.end() + 1
    return pieces


def begins_a_text(piece: str, names: Container[str]) -> bool:
    """Whether what follows a comma is a text of its own, and no setting of the one before."""
    if piece != piece.lstrip():
        name, _ = divide(piece)
        return name in names or bool(re.fullmatch(QUOTED, piece.strip()))
    if re.match(r"\w+\s*=", piece) or piece.strip().lower() in WORDS:
        return False
    return bool(re.match(r"-?(\d[\d.]*\s*\*\s*)?[^\W\d]|-?(\d[\d.]*\s*\*\s*)?\(|[\"']", piece))


def divide(text: str) -> tuple[str, str | None]:
    """temperature:2 or temperature(tau=2) -> its name and its settings, None where none are given."""
    match = re.fullmatch(r"\s*([\w.]+)\s*(?:\((.*)\)|:(.*))\s*", text, re.DOTALL)
    if match is None:
        return text.strip(), None
    name, in_brackets, behind_colon = match.groups()
    return name, in_brackets if behind_colon is None else behind_colon


def is_own_function(text: str) -> bool:
    """Whether a text names a function by its module: my_module.mine:3."""
    name, _ = divide(text)
    return bool(re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name))


def assign(settings: str, names: Sequence[str]) -> dict[str, str]:
    """120,80 or x=120,y=80 or 120,y=80 -> {x: 120, y: 80}; the last piece takes all that is left, commas too.

    What is left out is not in it.  Raises ValueError for a setting that is given twice.
    """
    values: dict[str, str] = {}
    if not settings.strip():
        return values
    for number, piece in enumerate(settings.split(",", len(names) - 1)):
        key, equals, value = piece.partition("=")
        name = key.strip() if equals and key.strip() in names else names[number]
        if name in values:
            raise ValueError(f"{name} is given twice")
        values[name] = (value if name == key.strip() and equals else piece).strip()
    return values


def unquoted(text: str) -> str:
    """'it\\'s' -> it's; a text that is not in quotes from end to end is itself."""
    if not re.fullmatch(QUOTED, text, re.DOTALL):
        return text
    quote = text[0]
    return re.sub(rf"(\\+)({quote}|\Z)", lambda match: match[1][: len(match[1]) // 2] + match[2], text[1:-1])
