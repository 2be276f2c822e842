"""A video file in, whether its container is whole out: nothing is decoded, and nothing of the frames is read.

A container says how long each of its parts is.  A file that was cut off ends before its last part does, and
in one that was written over the parts no longer follow one another.
"""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["is_intact", "shown_seconds"]

SEGMENT, CLUSTER = 0x18538067, 0x1F43B675  # elements of Matroska
INSIDE_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
INSIDE_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}
VOID = {0xEC, 0xBF}  # padding and checksums may lie anywhere
FLV_TAGS = {8, 9, 18}  # sound, pictures, words


def is_intact(path: Path) -> bool | None:
    """Whether every part of the file is there and follows the one before it.

    None: a kind of container that is not known here, or one that does not say how long it is.
    Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(12)
        try:
            walk = walker(start)
            return None if walk is None else walk(file, size)
        except (struct.error, IndexError):  # it ends in the midst of a part's first bytes
            return False


def walker(start: bytes) -> Callable[[BinaryIO, int], bool | None] | None:
    """The function that knows the container whose first 12 bytes these are."""
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return boxes_are_whole
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return matroska_is_whole
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return avi_is_whole
    if start[:3] == b"FLV":
        return flv_is_whole
    return None


# ------------------------------------------------------------------------------------------- mp4 and mov


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte of the content, end) of every box; the end of a box may lie behind `end`.

    Raises struct.error where the file ends in the midst of a box's header.
    """
    while start < end:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            content += 8
        box_end = end if length == 0 else start + length
        if box_end < content:
            raise struct.error
        yield kind, content, box_end
        start = box_end


def boxes_are_whole(file: BinaryIO, size: int) -> bool:
    ends = {kind: end for kind, _, end in boxes(file, 0, size)}
    return max(ends.values()) <= size and (b"moov" in ends or b"moof" in ends)


def shown_seconds(path: Path) -> float | None:
    """For how long an mp4 or mov shows its pictures: of what was cut away in an editor it may hold more.

    None for another container, and where it does not say.  Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if walker(file.read(12)) is not boxes_are_whole:
            return None
        try:
            return longest_pictures(file, size)
        except (struct.error, IndexError):
            return None


def longest_pictures(file: BinaryIO, size: int) -> float | None:
    """Of the tracks of pictures the longest, in seconds."""
    timescale, lengths = 0, []
    for kind, start, end in boxes(file, 0, size):
        if kind != b"moov":
            continue
        for inner, inner_start, inner_end in boxes(file, start, end):
            if inner == b"mvhd":
                timescale = numbers_of(file, inner_start, short=(12, ">I"), long=(20, ">I"))
            elif inner == b"trak" and holds_pictures(file, inner_start, inner_end):
                lengths.append(track_length(file, inner_start, inner_end))
    return max(lengths) / timescale if timescale and any(lengths) else None


def holds_pictures(file: BinaryIO, start: int, end: int) -> bool:
    for kind, inner_start, inner_end in boxes(file, start, end):
        if kind == b"mdia":
            for inner, at, _ in boxes(file, inner_start, inner_end):
                file.seek(at + 8)
                if inner == b"hdlr" and file.read(4) == b"vide":
                    return True
    return False


def track_length(file: BinaryIO, start: int, end: int) -> int:
    """In units of the movie's timescale."""
    for kind, at, _ in boxes(file, start, end):
        if kind == b"tkhd":
            return numbers_of(file, at, short=(20, ">I"), long=(28, ">Q"))
    return 0


def numbers_of(file: BinaryIO, start: int, short: tuple[int, str], long: tuple[int, str]) -> int:
    """The number at (offset, format) of a box: `long` where its version has dates of 64 bits."""
    file.seek(start)
    offset, layout = long if file.read(1) == b"\x01" else short
    file.seek(start + offset)
    (number,) = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return int(number)


# ------------------------------------------------------------------------------------- Matroska and WebM


def vint(file: BinaryIO, keep_marker: bool) -> int | None:
    """A number of EBML; None: it says that it is not known.  Raises IndexError at the end of the file."""
    first = file.read(1)[0]
    length = 9 - first.bit_length()
    rest = file.read(length - 1)
    if length > 8 or len(rest) < length - 1:
        raise IndexError
    number = int.from_bytes(bytes([first if keep_marker else first & ((1 << (8 - length)) - 1)]) + rest)
    return None if not keep_marker and number == (1 << (7 * length)) - 1 else number


def elements(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """(kind, first byte of the content, end) of every element; an end of None is not known, and the last.

    Raises IndexError where the file ends in the midst of an element's header.
    """
    while start < end:
        file.seek(start)
        kind, length = vint(file, keep_marker=True), vint(file, keep_marker=False)
        assert kind is not None
        content = file.tell()
        yield kind, content, None if length is None else content + length
        if length is None:
            return
        start = content + length


def matroska_is_whole(file: BinaryIO, size: int) -> bool | None:
    for kind, start, end in elements(file, 0, size):
        if end is None:
            return None  # written as it was filmed
        if end > size:
            return False
        if kind == SEGMENT:
            return segment_is_whole(file, start, end)
    return False


def segment_is_whole(file: BinaryIO, start: int, end: int) -> bool | None:
    for kind, inner_start, inner_end in elements(file, start, end):
        if inner_end is None:
            return None
        if inner_end > end or kind not in INSIDE_SEGMENT | VOID:
            return False
        if kind == CLUSTER:
            blocks = elements(file, inner_start, inner_end)
            for block, _, block_end in blocks:
                if block_end is None or block_end > inner_end or block not in INSIDE_CLUSTER | VOID:
                    return False
    return True


# --------------------------------------------------------------------------------------------- avi and flv


def chunks(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte of the content, end) of every chunk of a RIFF file; lengths are made even.

    Raises struct.error where the file ends in the midst of a chunk's header.
    """
    while start + 8 <= end:
        file.seek(start)
        kind, length = struct.unpack("<4sI", file.read(8))
        yield kind, start + 8, start + 8 + length
        start += 8 + length + length % 2


def avi_is_whole(file: BinaryIO, size: int) -> bool | None:
    """An index at the end may lack, or chunks of others stand there: players do without."""
    seen = 0
    for kind, start, end in chunks(file, 0, size):
        if kind != b"RIFF":
            break
        if end == start:
            return None  # whoever wrote it did not come to its end
        for inner, inner_start, inner_end in chunks(file, start + 4, min(end, size)):
            file.seek(inner_start)
            if inner == b"LIST" and file.read(4) == b"movi":
                if inner_end > size or not pictures_follow(file, inner_start + 4, inner_end):
                    return False
                seen += 1
    return seen > 0


def pictures_follow(file: BinaryIO, start: int, end: int) -> bool:
    """Whether chunks such as 00dc, 01wb, ix00 and JUNK fill what lies between."""
    for kind, inner_start, inner_end in chunks(file, start, end):
        if kind in (b"LIST",):  # rec: a group of chunks
            if not pictures_follow(file, inner_start + 4, inner_end):
                return False
        elif inner_end > end or not (kind[:2].isdigit() or kind[:2] == b"ix" or kind == b"JUNK"):
            return False
    return True


def flv_is_whole(file: BinaryIO, size: int) -> bool:
    file.seek(5)
    (start,) = struct.unpack(">I", file.read(4))
    start += 4
    while start < size:
        file.seek(start)
        kind, high, low = struct.unpack(">BBH", file.read(4))
        start += 11 + (high << 16 | low) + 4
        if kind & 31 not in FLV_TAGS or start > size:
            return False
    return True
