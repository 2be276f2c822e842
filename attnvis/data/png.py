"""PNG chunks in: whether the file is whole, what it says of its colours, the file without what hinders."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnvis.data.colour import PRIMARIES, Encoding

__all__ = ["Png", "read_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"zTXt", b"iTXt", b"tEXt")
MOST_TEXT = 1 << 20  # bytes of one text, as PIL has it
MOST_PROFILE = 1 << 24  # bytes
Piece = tuple[bytes, int, int]  # a chunk's name, where it begins in the file, and where it ends
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True)
class Png:
    """What a PNG's chunks say; `data` is the file as decoders shall see it."""

    data: bytes
    size: tuple[int, int]  # (height, width)
    depth: int
    colour: int  # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    chunks: dict[bytes, bytes]  # the first small one of each kind
    icc_profile: bytes = b""
    missing_rows: int = 0  # at the bottom: the file ended before them

    @property
    def encoding(self) -> Encoding | None:
        """By cICP, else by gAMA and cHRM where there is no ICC profile and no sRGB (PNG, 3rd edition)."""
        if len(cicp := self.chunks.get(b"cICP", b"")) == 4:
            return Encoding.from_codes(cicp[0], cicp[1])
        if b"iCCP" in self.chunks or b"sRGB" in self.chunks or len(self.chunks.get(b"gAMA", b"")) != 4:
            return None
        (gamma,) = struct.unpack(">I", self.chunks[b"gAMA"])
        if not 5_000 <= gamma <= 500_000:
            return None
        power: float | str = "linear" if gamma == 100_000 else 100_000 / gamma
        primaries = PRIMARIES[1]
        if len(corners := self.chunks.get(b"cHRM", b"")) == 32:
            values = [value / 100_000 for value in struct.unpack(">8I", corners)]
            if min(values[1::2]) > 0.001:
                primaries = (*values[2:], *values[:2])
        return Encoding(primaries, power, f"gamma {gamma / 100_000:.3g}")


def read_png(data: bytes, take_part: bool) -> Png:
    """Raises EOFError for a file that is cut off, ValueError for one that is damaged.

    `take_part`: what is missing at the bottom of a file that is cut off is made of zeros.
    """
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise EOFError("it ends before its first chunk does")
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    firsts: dict[bytes, bytes] = {}
    pieces: list[Piece] = []  # that decoders shall see
    is_whole, hinders, icc = False, False, b""
    end = len(SIGNATURE)
    for name, start, length, is_intact in walk(data):
        if not is_intact:
            if take_part:
                break
            if start + length + 4 > len(data):
                raise EOFError("it ends within a chunk")
            raise ValueError(f"the checksum of its {name.decode('latin-1')!r} chunk is wrong")
        if length <= 1 << 16:
            firsts.setdefault(name, data[start : start + length])
        if name == b"iCCP":
            firsts[name], icc = b"", unpacked(data[start : start + length])
            hinders = True  # libpng complains on stderr of profiles that viewers take
        elif name in TEXTS and is_large(name, data[start : start + length]):
            hinders = True
        else:
            pieces.append((name, start - 8, start + length + 4))
        end = start + length + 4
        if name == b"IEND":
            is_whole = True
            break
    if not is_whole and not take_part:
        raise EOFError("it has no IEND chunk")
    if b"sRGB" in firsts and (b"gAMA" in firsts or b"cHRM" in firsts):
        hinders = True  # sRGB is what counts, and libpng complains on stderr where they do not say the same
        pieces = [piece for piece in pieces if piece[0] not in (b"gAMA", b"cHRM")]
    names = [name for name, _, _ in pieces]
    if is_whole and b"IDAT" not in names:
        raise EOFError("it has no pixels")
    png = Png(data, (height, width), depth, colour=colour, chunks=firsts, icc_profile=icc)
    if is_whole:
        has_late_exif = b"eXIf" in names and names.index(b"eXIf") > names.index(b"IDAT")
        if has_late_exif:  # before the pixels, where PIL looks
            pieces.insert(1, pieces.pop(names.index(b"eXIf")))
        if hinders or has_late_exif:
            return replace(png, data=SIGNATURE + b"".join(data[first:last] for _, first, last in pieces))
        return png
    if interlace:
        raise EOFError("it is interlaced, of which no part can be taken")
    bits = depth * CHANNELS.get(colour, 1)
    completed, missing_rows = complete(data, pieces, end=end, size=png.size, bits=bits)
    return replace(png, data=completed, missing_rows=missing_rows)


def walk(data: bytes) -> Iterator[tuple[bytes, int, int, bool]]:
    """Name, start and length of every chunk's body, and whether its checksum holds."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start, end = at + 8, at + 8 + length
        if end + 4 > len(data):
            yield name, start, length, False
            return
        checksum = zlib.crc32(memoryview(data)[at + 4 : end])
        yield name, start, length, data[end : end + 4] == checksum.to_bytes(4, "big")
        at = end + 4


def unpacked(body: bytes) -> bytes:
    """The ICC profile in an iCCP chunk; some bytes that are none where it is damaged."""
    try:
        return zlib.decompressobj().decompress(body.split(b"\0", 1)[1][1:], MOST_PROFILE)
    except (IndexError, zlib.error):
        return b"damaged"


def is_large(name: bytes, body: bytes) -> bool:
    """Whether a text is longer than decoders take, once it is unpacked."""
    if len(body) > MOST_TEXT:
        return True
    if name == b"tEXt":
        return False
    packed = body.split(b"\0", 1)[-1][1:]
    if name == b"iTXt":
        if body.split(b"\0", 1)[-1][:1] != b"\1":
            return False
        packed = body.split(b"\0", 1)[-1][2:].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(packed, MOST_TEXT + 1)) > MOST_TEXT
    except zlib.error:
        return True


def complete(
    data: bytes, pieces: list[Piece], end: int, size: tuple[int, int], bits: int
) -> tuple[bytes, int]:
    """The file with its pixels filled up with zeros, and how many rows of them are.

    end    of the last chunk that is whole
    bits   of a pixel

    Raises EOFError where there are no pixels at all.
    """
    row = 1 + (size[1] * bits + 7) // 8
    packed = b"".join(data[first + 8 : last - 4] for name, first, last in pieces if name == b"IDAT")
    if data[end + 4 : end + 8] == b"IDAT":
        packed += data[end + 8 :]  # of the chunk in which the file ends
    try:
        raw = zlib.decompressobj().decompress(packed, row * size[0])
    except zlib.error:
        raise EOFError("none of its pixels can be taken") from None
    rows = len(raw) // row
    if not rows:
        raise EOFError("it ends before its first row does")
    raw = raw[: rows * row] + bytes(row * (size[0] - rows))
    heads = b"".join(data[first:last] for name, first, last in pieces if name not in (b"IDAT", b"IEND"))
    return SIGNATURE + heads + chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b""), size[0] - rows


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + zlib.crc32(name + body).to_bytes(4, "big")
