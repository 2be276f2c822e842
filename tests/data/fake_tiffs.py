"""TIFFs written by hand: every depth and layout: what they show is known by construction."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np

HEIGHT, WIDTH = 29, 37
COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [64, 64, 64]]])
OPACITY = np.array([[255, 153], [51, 0]])  # 1, .6, .2, 0

DEPTHS = ("u1", "u2", "u4", "u8", "u12", "u16", "u32", "u64", "f16", "f32", "f64")
KINDS = (
    "white-is-zero", "grey", "grey+alpha", "grey+associated", "RGB", "RGBA", "RGBA-associated", "RGBX",
    "palette", "CMYK", "CIELAB", "ICCLAB",
)  # fmt: skip
LAYOUTS = ("one strip", "strips", "tiles")
COMPRESSIONS = ("none", "lzw", "deflate", "packbits")
PREDICTORS = (1, 2, 3)


@dataclass(frozen=True)
class Case:
    """One way of writing the four quadrants."""

    depth: str = "u8"
    kind: str = "RGB"
    planar: bool = False
    order: str = "<"
    layout: str = "one strip"
    compression: str = "none"
    predictor: int = 1
    orientation: int = 1
    big: bool = False
    reversed_bits: bool = False  # FillOrder 2
    more: dict[int, tuple] = field(default_factory=dict, hash=False)  # tag -> (type, values)

    @property
    def bits(self) -> int:
        return int(self.depth[1:])

    @property
    def is_float(self) -> bool:
        return self.depth[0] == "f"

    @property
    def is_sound(self) -> bool:
        """Whether TIFF has it: predictors go with codecs and whole bytes, palettes with few bits."""
        if self.predictor == 2 and (self.bits not in (8, 16, 32, 64) or self.is_float):
            return False
        if self.predictor == 3 and not self.is_float:
            return False
        if self.predictor > 1 and self.compression not in ("lzw", "deflate"):
            return False
        if self.kind == "palette":
            return not self.is_float and self.bits <= 16 and not self.planar
        if self.kind in ("CIELAB", "ICCLAB"):
            return self.depth in ("u8", "u16")
        if self.kind == "CMYK":
            return not self.is_float and self.bits in (8, 16)
        return not (self.planar and self.kind in ("grey", "white-is-zero"))


def every_case() -> Iterator[Case]:
    for values in product(DEPTHS, KINDS, (False, True), "<>", LAYOUTS, COMPRESSIONS, PREDICTORS):
        case = Case(*values)
        if case.is_sound:
            yield case


def quadrants(corners: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Four values [2, 2, ...] as a picture [height, width, ...] of four fields."""
    return corners[np.arange(height) * 2 // height][:, np.arange(width) * 2 // width]


def grey_corners() -> np.ndarray:
    return np.array([[255, 0], [128, 64]])


def unit_corners(case: Case) -> np.ndarray:
    """The channels of the four corners in [0, 1], before they are given a depth."""
    grey, colour = grey_corners()[..., None] / 255, COLOURS / 255
    opacity = OPACITY[..., None] / 255
    match case.kind:
        case "white-is-zero":
            return 1 - grey
        case "grey" | "palette":
            return grey
        case "grey+alpha":
            return np.concatenate([grey, opacity], -1)
        case "grey+associated":
            return np.concatenate([grey * opacity, opacity], -1)
        case "RGB":
            return colour
        case "RGBA":
            return np.concatenate([colour, opacity], -1)
        case "RGBA-associated":
            return np.concatenate([colour * opacity, opacity], -1)
        case "RGBX":
            return np.concatenate([colour, opacity], -1)
        case "CMYK":
            return np.concatenate([1 - colour, np.zeros((2, 2, 1))], -1)
    raise ValueError(case.kind)


# CIE L*a*b* (D50) of sRGB's red, lime and blue, and of grey 64: brucelindbloom.com's calculator
LAB = np.array([[[54.29, 80.80, 69.89], [87.82, -79.27, 80.99]], [[29.57, 68.30, -112.03], [27.09, 0, 0]]])


def stored_corners(case: Case) -> np.ndarray:
    """The four corners in the file's own numbers."""
    most = 1 if case.is_float else 2**case.bits - 1
    if case.kind in ("CIELAB", "ICCLAB"):
        unit, offset = 2 ** (case.bits - 8), 0 if case.kind == "CIELAB" else 128
        light = np.rint(LAB[..., :1] / 100 * most)
        chroma = np.rint((LAB[..., 1:] + offset) * unit)
        return (np.concatenate([light, chroma], -1).astype(np.int64) % (most + 1)).astype(
            f"u{case.bits // 8}"
        )
    if case.kind == "palette":  # four colours at the first and last places
        places = [0, 1 % (most + 1), max(0, most - 1), most]
        return np.array(places).reshape(2, 2, 1).astype(np.uint64)
    values = unit_corners(case)
    if case.is_float:
        return values.astype(f"f{case.bits // 8}")
    numbers = [min(round(value * most), most) for value in values.ravel()]
    return np.array(numbers, np.uint64).reshape(values.shape)


def shown_corners(case: Case) -> np.ndarray:
    """What a viewer shows of the corners, [2, 2, RGB] in 0 ... 255: the definition, in plain arithmetic."""
    stored, most = stored_corners(case), 1 if case.is_float else 2**case.bits - 1
    if case.kind in ("CIELAB", "ICCLAB"):
        return COLOURS.astype(float)
    if case.kind == "palette":
        return np.array([[palette_colour(int(place), case.bits) for place in row] for row in stored[..., 0]])
    unit = stored.astype(float) / most
    match case.kind:
        case "white-is-zero":
            return 255 * (1 - unit).repeat(3, -1)
        case "grey":
            return 255 * unit.repeat(3, -1)
        case "grey+alpha":
            return 255 * (unit[..., :1] * unit[..., 1:] + 1 - unit[..., 1:]).repeat(3, -1)
        case "grey+associated":
            return 255 * (unit[..., :1] + 1 - unit[..., 1:]).repeat(3, -1)
        case "RGBA":
            return 255 * (unit[..., :3] * unit[..., 3:] + 1 - unit[..., 3:])
        case "RGBA-associated":
            return 255 * (unit[..., :3] + 1 - unit[..., 3:])
        case "CMYK":
            return 255 * (1 - unit[..., :3]) * (1 - unit[..., 3:])
    return 255 * unit[..., :3]


def palette_colour(place: int, bits: int) -> list[float]:
    """An arbitrary colour for every place of a palette."""
    return [float((place * 97 + 30) % 256), float((place * 53 + 200) % 256), float((place * 31 + 90) % 256)]


# ------------------------------------------------------------------------------------------------------ bytes


def write_tiff(case: Case, picture: np.ndarray | None = None) -> bytes:
    """The file; `picture` [height, width, channels] in the file's own numbers instead of the quadrants."""
    picture = quadrants(stored_corners(case)) if picture is None else picture
    height, width, channels = picture.shape
    blocks = [encode_block(case, block) for block in blocks_of(case, picture)]
    photometric = {
        "white-is-zero": 0, "grey": 1, "grey+alpha": 1, "grey+associated": 1, "RGB": 2, "RGBA": 2,
        "RGBA-associated": 2, "RGBX": 2, "palette": 3, "CMYK": 5, "CIELAB": 8, "ICCLAB": 9,
    }[case.kind]  # fmt: skip
    extra = {"grey+alpha": 2, "grey+associated": 1, "RGBA": 2, "RGBA-associated": 1, "RGBX": 0}.get(case.kind)
    fields: dict[int, tuple] = {
        256: ("I", (width,)), 257: ("I", (height,)), 258: ("H", (case.bits,) * channels),
        259: ("H", ({"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773}[case.compression],)),
        262: ("H", (photometric,)), 274: ("H", (case.orientation,)), 277: ("H", (channels,)),
        284: ("H", (2 if case.planar else 1,)), 339: ("H", (3 if case.is_float else 1,) * channels),
    }  # fmt: skip
    if extra is not None:
        fields[338] = ("H", (extra,))
    if case.predictor > 1:
        fields[317] = ("H", (case.predictor,))
    if case.reversed_bits:
        fields[266] = ("H", (2,))
    if case.kind == "palette":
        table = [palette_colour(place, case.bits) for place in range(2**case.bits)]
        fields[320] = ("H", tuple(int(colour[channel]) * 257 for channel in range(3) for colour in table))
    if case.layout == "tiles":
        fields |= {322: ("I", (16,)), 323: ("I", (16,))}
    else:
        fields[278] = ("I", (height if case.layout == "one strip" else 5,))
    fields |= case.more
    return assemble(case, blocks, fields)


def assemble(case: Case, blocks: list[bytes], fields: dict[int, tuple]) -> bytes:
    """Header, fields and what they point to, then the blocks."""
    tags = (324, 325) if case.layout == "tiles" else (273, 279)
    word = "Q" if case.big else "I"
    fields |= {tags[0]: (word, (0,) * len(blocks)), tags[1]: (word, tuple(map(len, blocks)))}
    order, size = case.order, struct.calcsize(word)
    mark = b"II" if order == "<" else b"MM"
    header = struct.pack(order + "HHHQ", 43, 8, 0, 16) if case.big else struct.pack(order + "HI", 42, 8)
    start = len(mark + header)
    head, entry = (8, 20) if case.big else (2, 12)
    numbers = {"B": 1, "s": 2, "H": 3, "I": 4, "f": 11, "d": 12, "Q": 16}

    def body(code: str, values: tuple) -> bytes:
        return values[0] if code == "s" else struct.pack(f"{order}{len(values)}{code}", *values)

    after = start + head + entry * len(fields) + size
    places, end = {}, after
    for tag, (code, values) in sorted(fields.items()):
        length = len(body(code, values))
        if length > size:
            places[tag] = end
            end += length + length % 2
    offsets = []
    for block in blocks:
        offsets.append(end)
        end += len(block)
    fields[tags[0]] = (word, tuple(offsets))
    entries, pool = b"", b""
    for tag, (code, values) in sorted(fields.items()):
        content = body(code, values)
        count = len(content) if code == "s" else len(values)
        entries += struct.pack(f"{order}HH{word}", tag, numbers[code], count)
        if len(content) > size:
            entries += struct.pack(order + word, places[tag])
            pool += content + b"\0" * (len(content) % 2)
        else:
            entries += content.ljust(size, b"\0")
    count = struct.pack(order + ("Q" if case.big else "H"), len(fields))
    return mark + header + count + entries + struct.pack(order + word, 0) + pool + b"".join(blocks)


def blocks_of(case: Case, picture: np.ndarray) -> Iterator[np.ndarray]:
    """Strips or tiles, plane by plane where planes lie apart."""
    height, width, channels = picture.shape
    planes = [picture[..., [c]] for c in range(channels)] if case.planar else [picture]
    for plane in planes:
        if case.layout == "tiles":
            padded = np.pad(plane, ((0, -height % 16), (0, -width % 16), (0, 0)))
            for top, left in product(range(0, height, 16), range(0, width, 16)):
                yield padded[top : top + 16, left : left + 16]
        else:
            rows = height if case.layout == "one strip" else 5
            yield from (plane[top : top + rows] for top in range(0, height, rows))


def encode_block(case: Case, block: np.ndarray) -> bytes:
    raw = b"".join(encode_row(case, row) for row in block)
    match case.compression:
        case "deflate":
            raw = zlib.compress(raw)
        case "packbits":
            row = len(raw) // len(block)
            raw = b"".join(packbits(raw[at : at + row]) for at in range(0, len(raw), row))
        case "lzw":
            raw = lzw(raw)
    if case.reversed_bits:
        raw = bytes(int(f"{byte:08b}"[::-1], 2) for byte in raw)
    return raw


def encode_row(case: Case, row: np.ndarray) -> bytes:
    """[width, channels] -> bytes."""
    size = case.bits // 8
    if case.predictor == 3:
        planes = np.frombuffer(row.astype(f">f{size}").tobytes(), np.uint8).reshape(-1, size).T.ravel()
        pixels = planes.reshape(-1, row.shape[1]).astype(np.int64)
        return (
            np.diff(pixels, axis=0, prepend=np.zeros((1, row.shape[1]), np.int64)).astype(np.uint8).tobytes()
        )
    if case.is_float:
        return row.astype(f"{case.order}f{size}").tobytes()
    if case.bits in (8, 16, 32, 64):
        numbers = row.astype(f"u{size}")
        if case.predictor == 2:
            numbers = np.concatenate([numbers[:1], numbers[1:] - numbers[:-1]])
        return numbers.astype(f"{case.order}u{size}").tobytes()
    text = "".join(f"{int(value):0{case.bits}b}" for value in row.ravel())
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def packbits(row: bytes) -> bytes:
    """Literal runs only."""
    pieces = [row[at : at + 128] for at in range(0, len(row), 128)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def lzw(raw: bytes) -> bytes:
    """Literals of nine bits, and the table cleared before its codes grow."""
    codes = []
    for at, byte in enumerate(raw):
        codes += [256, byte] if at % 200 == 0 else [byte]
    text = "".join(f"{code:09b}" for code in [*codes, 257])
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")
