"""The bytes of a list of photos in, the paths that it names out, one a line.

What is no list is refused without a word of what is in it: whatever ends in .txt may be anybody's secret.
"""

import codecs
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from attnvis.data.stores import check_address
from attnvis.types import PhotoError

__all__ = ["MARKS", "MOST_LIST", "listed_paths"]

MOST_LIST = 1 << 28  # bytes of a list
MOST_LINES = 2_000_000
TRIED = 1_000  # names by which an encoding is told
LINE_ENDS = re.compile(r"\r\n|\n|\r")  # no others: names may hold what else Unicode calls a line's end
MARKS = (  # that files begin with; UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LEGACY = ("cp1252", "cp1251", "cp1250", "koi8-r", "cp866", "cp932", "gb18030", "cp949", "big5")


def listed_paths(data: bytes, path: Path, endings: tuple[str, ...]) -> list[Path | str]:
    """The paths in a list, relative to its folder, and its addresses as they stand.

    Lines that are empty or begin with # do not count.

    path      of the list
    endings   of photos' names: a line without one names a file that is there

    Raises PhotoError for a list that names nothing, is too long, has addresses that are not read, or is no
    list of photos; and where nothing says in which encoding it is.
    """
    lines = LINE_ENDS.split(text_of(data, path))
    paths: list[Path | str] = []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        try:
            is_address = check_address(name)
        except PhotoError:  # which shows the line
            raise PhotoError(
                f"line {number} of the list {path} is an address that is not read here; "
                "give s3://, gs://, hf://, https://, or download the photo and name the file"
            ) from None
        if is_address:
            paths.append(name)
            continue
        paths.append(path_of(line, path, number=number, endings=endings))
    if not paths:
        raise PhotoError(f"the list {path} names no photos; write one path a line, relative to the list")
    return paths


def path_of(line: str, path: Path, number: int, endings: tuple[str, ...]) -> Path:
    """The file that a line of the list `path` names: as it stands, without outer spaces, or without quotes.

    Raises PhotoError for a line that is no photo's name, and does not show it.
    """
    name = line.strip()
    plain = name[1:-1] if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'" else name
    readings = dict.fromkeys([line, name, plain])
    paths = [path.parent / os.path.expanduser(reading) for reading in readings]
    if len(paths) == 1 and name.lower().endswith(endings):
        return paths[0]  # no look at the disk: of lists of a million that takes a while
    for reading in paths:
        if os.path.lexists(reading):
            return reading
    if plain.lower().endswith(endings):
        return paths[-1]
    raise PhotoError(
        f"line {number} of the list {path} is no photo's name: no such file, and it does not end in "
        f"{' '.join(endings)}; write one path a line, relative to the list"
    )


def text_of(data: bytes, path: Path) -> str:
    """What the bytes of a list say.

    By its mark, as UTF-8, or as UTF-16 without a mark; else in that encoding in which it names files that
    are there.  Raises PhotoError where it is too long, or none of these.
    """
    lines = data.count(b"\n") + data.count(b"\r")
    if lines > 2 * MOST_LINES or (
        lines > MOST_LINES and len(LINE_ENDS.findall(data.decode("latin-1"))) > MOST_LINES
    ):
        raise PhotoError(f"the list {path} has more than {MOST_LINES:,} lines; split it, one run each")
    encoding, mark = next(((name, mark) for mark, name in MARKS if data.startswith(mark)), ("utf-8", b""))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if mark:
            raise PhotoError(
                f"the list {path} begins as {encoding} and goes on as something else (byte {error.start}); "
                "save it as UTF-8"
            ) from None
        text = unmarked(data, path)
    else:
        if not mark and "\0" in text:
            text = wide_text(data)
    if not text or "\0" in text:
        raise PhotoError(f"{path} is no list of photos, though it ends in .txt: it is no text")
    return text


def wide_text(data: bytes) -> str:
    """UTF-16 without a mark; "" for bytes that are not.

    Slashes, dots and line ends tell which half of a sign comes first.
    """
    readings = []
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if all(line.isprintable() for line in LINE_ENDS.split(text)):
            readings.append((sum(map(str.isascii, text)), text))
    ascii_signs, text = max(readings, default=(0, ""))
    return text if ascii_signs else ""


def unmarked(data: bytes, path: Path) -> str:
    """Bytes that are not UTF-8, in the encoding in which they name the most files that are there.

    Names on a disk are bytes too: a list may hold them as they are.  Raises PhotoError where none is there.
    """
    if b"\0" in data:
        return wide_text(data)
    best, most = "", 0
    for encoding in ("utf-8", *LEGACY):
        try:
            text = data.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError:
            continue
        names = islice(odd_names(text), TRIED)
        count = sum(os.path.lexists(path.parent / os.path.expanduser(name)) for name in names)
        if count > most:
            best, most = text, count
    if not most:
        line = data[: first_odd_byte(data)].count(b"\n") + 1
        raise PhotoError(
            f"the list {path} is not UTF-8 (line {line}), and in no encoding that is known does it name "
            "files that are there; save it as UTF-8"
        )
    return best


def odd_names(text: str) -> Iterator[str]:
    """The lines by which one encoding is told from another."""
    for line in LINE_ENDS.split(text):
        if not line.isascii() and not line.startswith("#"):
            yield line.strip()


def first_odd_byte(data: bytes) -> int:
    """Where UTF-8 ends."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)
