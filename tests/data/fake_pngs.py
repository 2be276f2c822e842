"""PNGs written by hand, chunk by chunk: every depth, colour type and colour space; and ICC profiles."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from fake_tiffs import quadrants

DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
SPACES = ("none", "sRGB", "gAMA 1/2.2", "gAMA 1", "iCCP P3", "cICP sRGB", "cICP P3", "cICP PQ")
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))

# What the channels of the corners are in [0, 1]; inside the gamut of sRGB too, when they are meant in P3
GREY = np.array([[1, 0], [0.5, 0.25]])
COLOURS = np.array([[[0.8, 0.4, 0.3], [0.3, 0.7, 0.35]], [[0.25, 0.3, 0.75], [0.25, 0.25, 0.25]]])
OPACITY = np.array([[1, 0.6], [0.2, 0]])


@dataclass(frozen=True)
class Case:
    colour: int = 2
    depth: int = 8
    key: bool = False  # the second corner is transparent by tRNS
    interlaced: bool = False
    space: str = "none"
    orientation: int = 1
    late_exif: bool = False
    filter: int = 0


def every_case() -> Iterator[Case]:
    number = 0
    for colour, depths in DEPTHS.items():
        for depth, key, interlaced, space in product(depths, (False, True), (False, True), SPACES):
            if key and colour in (4, 6):
                continue
            number += 1
            orientation = 1 + number % 8
            yield Case(
                colour, depth, key, interlaced, space, orientation, late_exif=number % 3 == 0,
                filter=number % 5,
            )  # fmt: skip


def stored_corners(case: Case) -> np.ndarray:
    """The four corners in the file's own numbers, [2, 2, channels]."""
    most = 2**case.depth - 1
    if case.colour == 3:
        return np.array([[0, 1], [min(2, most), most]])[..., None]
    unit = GREY[..., None] if case.colour in (0, 4) else COLOURS
    if case.colour in (4, 6):
        unit = np.concatenate([unit, OPACITY[..., None]], -1)
    return np.rint(unit * most).astype(np.int64)


def palette(case: Case) -> list[tuple[int, int, int]]:
    return [
        ((place * 97 + 30) % 256, (place * 53 + 100) % 256, (place * 31 + 90) % 256)
        for place in range(2**case.depth)
    ]


def shown_corners(case: Case) -> np.ndarray:
    """What a viewer shows of the corners, [2, 2, RGB] in 0 ... 255."""
    stored, most = stored_corners(case), 2**case.depth - 1
    opacity = np.ones((2, 2, 1))
    if case.colour == 3:
        colours = np.array([[palette(case)[place] for place in row] for row in stored[..., 0]]) / 255
    else:
        colours = (
            np.broadcast_to(stored[..., :1] if case.colour in (0, 4) else stored[..., :3], (2, 2, 3)) / most
        )
    if case.colour in (4, 6):
        opacity = stored[..., -1:] / most
    if case.key:
        opacity = 1.0 - (stored == stored[0, 1]).all(-1, keepdims=True)
    return 255 * (in_srgb(colours, case.space) * opacity + 1 - opacity)


# Linear Display P3 -> linear sRGB, as CSS Color 4 prints it (section 10.6's sample code)
P3_TO_SRGB = np.array(
    [[1.2249401, -0.2249402, 0], [-0.0420569, 1.0420571, 0], [-0.0196376, -0.0786361, 1.0982735]]
)


def in_srgb(colours: np.ndarray, space: str) -> np.ndarray:
    """Colours [..., RGB] in [0, 1], meant in a space, as sRGB: the definitions."""
    if space == "gAMA 1":
        return encode(colours)
    if space in ("iCCP P3", "cICP P3"):
        return encode((decode(colours) @ P3_TO_SRGB.T).clip(0, 1))
    return colours


def decode(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encode(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


# ------------------------------------------------------------------------------------------------------ bytes


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)


def write_png(case: Case, picture: np.ndarray | None = None, more: bytes = b"") -> bytes:
    """The file; `more`: chunks to stand before the pixels."""
    picture = quadrants(stored_corners(case)) if picture is None else picture
    height, width = picture.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, case.depth, case.colour, 0, 0, case.interlaced)
    parts = [chunk(b"IHDR", head)]
    match case.space:
        case "sRGB":
            parts += [chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"sRGB", b"\0")]  # sRGB wins
        case "gAMA 1/2.2":
            parts.append(chunk(b"gAMA", struct.pack(">I", 45_455)))
        case "gAMA 1":
            parts.append(chunk(b"gAMA", struct.pack(">I", 100_000)))
        case "iCCP P3":
            is_grey = case.colour in (0, 4)
            body = b"p3\0\0" + zlib.compress(grey_profile() if is_grey else p3_profile())
            parts += [chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"iCCP", body)]
        case "cICP sRGB":
            parts += [chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"cICP", bytes([1, 13, 0, 1]))]
        case "cICP P3":
            parts.append(chunk(b"cICP", bytes([12, 13, 0, 1])))
        case "cICP PQ":
            parts.append(chunk(b"cICP", bytes([9, 16, 0, 1])))
    if case.colour == 3:
        parts.append(chunk(b"PLTE", b"".join(map(bytes, palette(case)))))
    if case.key:
        key = stored_corners(case)[0, 1]
        parts.append(chunk(b"tRNS", b"\xff\0" if case.colour == 3 else key.astype(">u2").tobytes()))
    turned = chunk(b"eXIf", exif(case.orientation))
    pixels = chunk(b"IDAT", zlib.compress(scanlines(case, picture)))
    parts += [more, pixels, turned] if case.late_exif else [turned, more, pixels]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def scanlines(case: Case, picture: np.ndarray) -> bytes:
    if not case.interlaced:
        return filtered(case, picture)
    passes = [picture[top::down, left::across] for top, left, down, across in PASSES]
    return b"".join(filtered(case, part) for part in passes if part.size)


def filtered(case: Case, picture: np.ndarray) -> bytes:
    """Rows, each behind the number of its filter (PNG, 9.2)."""
    rows, before = b"", None
    back = max(1, CHANNELS[case.colour] * case.depth // 8)
    for row in picture:
        line = np.frombuffer(packed(case, row), np.uint8).astype(int)
        above = np.zeros_like(line) if before is None else before
        left = np.concatenate([np.zeros(back, int), line])[: len(line)]
        corner = np.concatenate([np.zeros(back, int), above])[: len(line)]
        guess = [0, left, above, (left + above) // 2, paeth(left, above, corner)][case.filter]
        rows += bytes([case.filter]) + ((line - guess) % 256).astype(np.uint8).tobytes()
        before = line
    return rows


def paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    guess = left + above - corner
    a, b, c = abs(guess - left), abs(guess - above), abs(guess - corner)
    return np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))


def packed(case: Case, row: np.ndarray) -> bytes:
    if case.depth >= 8:
        return row.astype(f">u{case.depth // 8}").tobytes()
    text = "".join(f"{int(value):0{case.depth}b}" for value in row.ravel())
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


# ----------------------------------------------------------------------------------------------- ICC profiles


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


SRGB_CURVE = (
    b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
)
D50 = (0.9642, 1.0, 0.8249)


def profile(space: bytes, entries: dict[bytes, bytes], name: str) -> bytes:
    """An ICC profile of version 4 for a display."""
    text = name.encode("utf-16-be")
    entries = {
        b"desc": b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text,
        b"wtpt": b"XYZ " + bytes(4) + fixed(*D50),
        **entries,
    }
    table, pool, at = b"", b"", 128 + 4 + 12 * len(entries)
    for tag, body in entries.items():
        table += struct.pack(">4sII", tag, at + len(pool), len(body))
        pool += body + bytes(-len(body) % 4)
    header = struct.pack(">I4sI4s4s4s", at + len(pool), b"test", 0x04000000, b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(entries)) + table + pool


def p3_profile() -> bytes:
    """Display P3 by its published colorants under D50."""
    columns = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189),
               b"bXYZ": (0.1571, 0.06657, 0.78407)}  # fmt: skip
    entries = {tag: b"XYZ " + bytes(4) + fixed(*xyz) for tag, xyz in columns.items()}
    return profile(b"RGB ", entries | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), SRGB_CURVE), "Display P3")


def grey_profile() -> bytes:
    """Grey with sRGB's curve: a viewer changes nothing."""
    return profile(b"GRAY", {b"kTRC": SRGB_CURVE}, "Grey")
