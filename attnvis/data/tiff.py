"""TIFF in: what a file's first picture says of itself (`read_directory`), its samples of any depth and layout
(`read_samples`).

PIL reads the usual TIFFs; this reader is for those it reads wrongly or not at all (`is_unusual`).  TIFF 6.0
and its supplements; the names of fields are theirs.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image

from attnvis.types import PhotoError

__all__ = ["Directory", "Samples", "is_unusual", "read_directory", "read_samples"]

Samples = np.ndarray  # [height, width, channels], in the file's own numbers

TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
TYPES |= {13: "I", 16: "Q", 17: "q", 18: "Q"}
MOST_SAMPLE_BYTES = 1 << 31

NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD = 1, 5, 8, 32946, 32773, 34925, 50000
BYTE_CODECS = (NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD)  # those that know of bytes only
PICTURE_CODECS = (2, 3, 4, 6, 7)  # CCITT and JPEG, which PIL reads
PREDICTED = (LZW, DEFLATE, OLD_DEFLATE, LZMA, ZSTD)
UINT, INT, FLOAT = 1, 2, 3
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}
NAMES = {4: "a transparency mask", 10: "ITU L*a*b*", 32803: "a camera's raw mosaic", 32844: "LogL",
         32845: "LogLuv", 34892: "a camera's linear raw"}  # fmt: skip
REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


@dataclass(frozen=True)
class Directory:
    """The fields of the first picture in a file (IFD 0)."""

    order: str  # < or >
    fields: dict[int, tuple]
    following: int  # where the next picture's fields begin; 0: there is none

    def get(self, tag: int, default: int) -> int:
        values = self.fields.get(tag)
        return int(values[0]) if values and isinstance(values[0], int | float) else default

    def all(self, tag: int) -> tuple[int, ...]:
        return tuple(int(value) for value in self.fields.get(tag, ()) if isinstance(value, int))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), as stored."""
        return self.get(257, 0), self.get(256, 0)

    @property
    def orientation(self) -> int:
        """1 ... 8, as EXIF has it, or what else is written there."""
        return self.get(274, 1)

    @property
    def resolution(self) -> tuple[float, float]:
        """Pixels a length, across and down."""
        across, down = (self.fields.get(tag, (1,))[0] for tag in (282, 283))
        return float(across), float(down)

    @property
    def channels(self) -> int:
        return self.get(277, 1)

    @property
    def bits(self) -> int:
        """Of each sample.  Raises PhotoError where they differ."""
        depths = set(self.all(258)) or {1}
        if len(depths) > 1:
            least, *between, most = sorted(depths)
            raise PhotoError(
                f"is a TIFF whose channels have {least} {'to' if between else 'and'} {most} bits, which is "
                "not read here; save it with one depth"
            )
        return depths.pop()

    @property
    def sample_format(self) -> int:
        kind = self.get(339, UINT)
        return UINT if kind == 4 else kind  # 4: undefined

    @property
    def photometric(self) -> int:
        return self.get(262, BLACK_IS_ZERO)

    @property
    def colours(self) -> int:
        """Channels that are colour; those behind them are alpha or something else."""
        return COLOURS.get(self.photometric, 1)

    @property
    def alpha(self) -> tuple[int, bool] | None:
        """Which channel is alpha, and whether the colours are multiplied by it (associated) already."""
        for offset, kind in enumerate(self.all(338)):
            if kind in (1, 2) and self.colours + offset < self.channels:
                return self.colours + offset, kind == 1
        return None

    @property
    def is_planar(self) -> bool:
        return self.get(284, 1) == 2 and self.channels > 1

    @property
    def compression(self) -> int:
        return self.get(259, NONE)

    @property
    def is_thumbnail(self) -> bool:
        """Whether the file calls its first picture a reduced one of another, as camera raws do."""
        return bool(self.get(254, 0) & 1) or 50706 in self.fields

    @property
    def icc_profile(self) -> bytes:
        value = self.fields.get(34675, (b"",))[0]
        return value if isinstance(value, bytes) else b""

    @property
    def range(self) -> tuple[float, float] | None:
        """SMinSampleValue and SMaxSampleValue: what the file itself calls black and white."""
        low, high = self.fields.get(340), self.fields.get(341)
        if not high:
            return None
        smallest = min(low) if low else 0
        return (float(smallest), float(max(high))) if max(high) > smallest else None


def read_directory(data: bytes, offset: int | None = None) -> Directory:
    """The fields of the first picture, or of that at `offset`.

    A field that cannot be read is left out: an odd remark of a camera does not make a photo unreadable.
    Raises EOFError where the file ends before the fields, ValueError where they are none.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    word, head, entry = ("Q", 8, 20) if is_big else ("I", 2, 12)
    size = struct.calcsize(word)
    if offset is None:
        (offset,) = unpack(order + word, data, 8 if is_big else 4)
    (count,) = unpack(order + ("Q" if is_big else "H"), data, offset)
    if count > 4096:
        raise ValueError(f"{count} fields")
    fields = {}
    for number in range(count):
        at = offset + head + entry * number
        tag, kind, length = unpack(f"{order}HH{word}", data, at)
        if kind not in TYPES or length > len(data):
            continue
        with suppress(EOFError):
            fields[tag] = read_field(data, order, word, kind, length, place=at + 4 + size)
    with suppress(EOFError):
        (following,) = unpack(order + word, data, offset + head + entry * count)
        return Directory(order, fields, following)
    return Directory(order, fields, 0)


def read_field(data: bytes, order: str, word: str, kind: int, length: int, place: int) -> tuple:
    """The values of one field, which stand at `place` or where that points to.  Raises EOFError."""
    code = TYPES[kind]
    size = length * struct.calcsize("=" + code)
    if size > struct.calcsize(word):
        (place,) = unpack(order + word, data, place)
    if place + size > len(data):
        raise EOFError("it ends before its fields do")
    if code == "s":
        return (data[place : place + length],)
    values = unpack(f"{order}{length * len(code)}{code[0]}", data, place)
    if len(code) == 1:
        return values
    pairs = zip(values[::2], values[1::2], strict=True)
    return tuple(top / bottom if bottom else 0.0 for top, bottom in pairs)


def unpack(layout: str, data: bytes, offset: int) -> tuple:
    """Raises EOFError beyond the end."""
    try:
        return struct.unpack_from(layout, data, offset)
    except (struct.error, OverflowError):
        raise EOFError("it ends before its fields do") from None


def has_more_pages(data: bytes, first: Directory) -> bool:
    """Whether the file holds another picture that is no smaller copy or mask of the first."""
    if not first.following:
        return False
    try:
        return not read_directory(data, first.following).get(254, 0) & 5
    except (EOFError, ValueError):
        return False


def is_unusual(directory: Directory) -> bool:
    """Whether this reader is needed: PIL has most TIFFs of 8 bits, chunky, right, and this one is not sure.

    Raises PhotoError for what neither reads.
    """
    photometric, name = directory.photometric, NAMES.get(directory.photometric)
    if directory.is_thumbnail and photometric in (*COLOURS, 32803, 34892):
        raise PhotoError(
            "begins with a thumbnail, as a camera's raw file does, which is not developed here; "
            "save it as JPEG or as a plain TIFF"
        )
    if photometric not in COLOURS:
        raise PhotoError(
            f"is a TIFF of {name or f'photometric interpretation {photometric}'}, which is not read here; "
            "save it as RGB"
        )
    usual = directory.bits == 8 and directory.sample_format == UINT and not directory.is_planar
    is_picture = directory.compression in PICTURE_CODECS and not directory.is_planar
    if is_picture and (usual or directory.bits == 1):
        return False
    if directory.compression not in BYTE_CODECS:
        raise PhotoError(
            f"is a TIFF of {directory.bits} bits in compression {directory.compression}"
            f"{', planes apart' * directory.is_planar}, which is not read here; "
            "save it without compression, or with LZW or deflate"
        )
    if photometric == YCBCR:
        return False
    extras = directory.channels - directory.colours
    is_plain = photometric in (BLACK_IS_ZERO, RGB, PALETTE) and extras == 0
    return not (usual and is_plain and directory.get(266, 1) == 1 and directory.range is None)


def read_samples(data: bytes, directory: Directory, take_part: bool) -> tuple[Samples, np.ndarray]:
    """Every sample, [height, width, channels], and which rows of the picture there are, [height].

    `take_part`: samples beyond the end of the file are 0 and their rows are False.  Raises EOFError where the
    file ends too soon and this was not asked for, PhotoError for a layout that is not read.
    """
    height, width = directory.size
    bits, channels = directory.bits, directory.channels
    dtype = sample_type(bits, directory.sample_format)
    if height * width * channels * np.dtype(dtype).itemsize > MOST_SAMPLE_BYTES:
        raise PhotoError(f"holds {height} x {width} x {channels} samples of {bits} bits; shrink it first")
    if min(height, width, channels) < 1:
        raise ValueError("it has no pixels")
    samples = np.zeros((height, width, channels), dtype)
    there = np.ones(height, bool)
    for block in blocks(data, directory):
        bottom, right = min(block.top + block.height, height), min(block.left + block.width, width)
        try:
            raw = expand(data, directory, block)
        except (EOFError, OSError, ValueError, zlib.error):
            if not take_part:
                raise
            there[block.top : bottom] = False
            continue
        values = block_samples(raw, directory, block)
        part = samples[block.top : bottom, block.left : right, block.channels]
        part[...] = values[: bottom - block.top, : right - block.left]
    return samples, there


def sample_type(bits: int, kind: int) -> str:
    """The numpy type that holds a sample.  Raises PhotoError for one that is not read."""
    if kind == UINT and 1 <= bits <= 64:
        return next(f"u{size}" for size in (1, 2, 4, 8) if bits <= 8 * size)
    if kind == FLOAT and bits in (16, 32, 64):
        return f"f{bits // 8}"
    noun = {INT: "signed numbers", FLOAT: "floating-point numbers"}.get(kind, "complex numbers")
    raise PhotoError(f"is a TIFF of {noun} of {bits} bits, which is not read here; save it as 8 or 16 bits")


@dataclass(frozen=True)
class Block:
    """A strip or a tile: where it lies in the picture, and in the file."""

    top: int
    left: int
    height: int
    width: int
    channels: slice
    offset: int
    length: int

    def row_bytes(self, bits: int) -> int:
        return (self.width * (self.channels.stop - self.channels.start) * bits + 7) // 8


def blocks(data: bytes, directory: Directory) -> Iterator[Block]:
    """The strips or tiles of all planes, in the file's order.

    Raises ValueError where there are not as many as the picture needs.
    """
    height, width = directory.size
    is_tiled = 322 in directory.fields
    if is_tiled:
        block_width, block_height = directory.get(322, 0), directory.get(323, 0)
        offsets, lengths = directory.all(324), directory.all(325)
    else:
        block_width, block_height = width, min(directory.get(278, height), height)
        offsets, lengths = directory.all(273), directory.all(279)
    if not 0 < block_width <= 1 << 20 or not 0 < block_height <= 1 << 20:
        raise ValueError("its strips or tiles have no size")
    planes = directory.channels if directory.is_planar else 1
    across, down = -(-width // block_width), -(-height // block_height)
    if len(offsets) < planes * across * down:
        raise ValueError(f"{len(offsets)} strips or tiles of {planes * across * down}")
    for number in range(planes * across * down):
        plane, place = divmod(number, across * down)
        row, column = divmod(place, across)
        channels = slice(plane, plane + 1) if directory.is_planar else slice(0, directory.channels)
        tall = block_height if is_tiled else min(block_height, height - row * block_height)
        length = lengths[number] if number < len(lengths) else len(data) - offsets[number]
        yield Block(
            row * block_height, column * block_width, tall, block_width,
            channels=channels, offset=offsets[number], length=length,
        )  # fmt: skip


def expand(data: bytes, directory: Directory, block: Block) -> bytes:
    """A block's bytes, uncompressed.  Raises EOFError where there are too few."""
    expected = block.row_bytes(directory.bits) * block.height
    stored = data[block.offset : block.offset + block.length]
    if not stored or (len(stored) < block.length and directory.compression != NONE):
        raise EOFError("it ends before its pixels do")
    if directory.get(266, 1) == 2:
        stored = stored.translate(REVERSED)
    match directory.compression:
        case 1:
            raw = stored
        case 8 | 32946:
            raw = zlib.decompressobj().decompress(stored, expected)
        case _:
            raw = expand_by_libtiff(
                stored, directory.compression, block.row_bytes(directory.bits), block.height
            )
    if len(raw) < expected:
        raise EOFError("it ends before its pixels do")
    return raw[:expected]


def expand_by_libtiff(stored: bytes, compression: int, width: int, height: int) -> bytes:
    """The block as if it were a grey picture, `width` bytes a row, which libtiff reads for PIL."""
    entries = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: 122, 277: 1, 278: height,
               279: len(stored)}  # fmt: skip
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    header = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    whole = header + fields + struct.pack("<I", 0)
    assert len(whole) == entries[273]
    with Image.open(io.BytesIO(whole + stored), formats=["TIFF"]) as picture:
        return picture.tobytes()


def block_samples(raw: bytes, directory: Directory, block: Block) -> Samples:
    """The numbers in a block's bytes, [height, width, channels]."""
    bits, channels = directory.bits, block.channels.stop - block.channels.start
    shape = (block.height, block.width, channels)
    predictor = directory.get(317, 1) if directory.compression in PREDICTED else 1
    rows = np.frombuffer(raw, np.uint8).reshape(block.height, -1)
    if predictor == 3 and directory.sample_format == FLOAT:
        return undo_float_predictor(rows, bits, shape)
    if predictor not in (1, 2) or (predictor == 2 and bits not in (8, 16, 32, 64)):
        raise PhotoError(f"is a TIFF with predictor {predictor} for {bits} bits, which is not read here")
    if bits in (8, 16, 32, 64):
        kind = "f" if directory.sample_format == FLOAT else "u"
        if predictor == 2:  # differences of the numbers' bits, whatever these mean
            stored = np.frombuffer(raw, f"{directory.order}u{bits // 8}").reshape(shape)
            native = stored.astype(f"=u{bits // 8}")
            return np.cumsum(native, axis=1, dtype=native.dtype).view(
                f"=f{bits // 8}" if kind == "f" else native.dtype
            )
        return np.frombuffer(raw, f"{directory.order}{kind}{bits // 8}").reshape(shape)
    values = np.empty((block.height, block.width * channels), sample_type(bits, UINT))
    powers = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint64)
    for row, line in zip(values, rows, strict=True):
        separate = np.unpackbits(line)[: values.shape[1] * bits].reshape(-1, bits)
        row[:] = separate @ powers
    return values.reshape(shape)


def undo_float_predictor(rows: np.ndarray, bits: int, shape: tuple[int, int, int]) -> Samples:
    """Bytes by significance, the greatest first, each less that of one pixel before (Technical Note 3)."""
    height, width, channels = shape
    size = bits // 8
    summed = np.cumsum(rows.reshape(height, -1, channels), axis=1, dtype=np.uint8)
    planes = summed.reshape(height, size, width * channels)
    return np.ascontiguousarray(planes.swapaxes(1, 2)).view(f">f{size}").reshape(shape)
