"""Files, bytes and arrays in, upright 8-bit sRGB photos out, with a note of what was done to them.

docs/photos.md says what is read, and how.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError, features

from attnvis import opencv
from attnvis.data import tiff
from attnvis.data.colour import Encoding, by_profile, cmyk_to_rgb, encoded_to_srgb, lab_to_rgb
from attnvis.data.jpeg import read_jpeg
from attnvis.data.paths import MOST_PIXELS, read_bytes
from attnvis.data.png import read_png
from attnvis.data.signatures import ENOUGH, photo_kind, say_other_kind
from attnvis.types import Photo, PhotoError

__all__ = ["full_pixels", "load"]

Pixels = UInt8[np.ndarray, "h w 3"]
Colours = Callable[[Pixels], tuple[Pixels, str]]  # to sRGB, and what is to be said of it

# PIL's name of each kind.  No others: it would start Ghostscript for a .jpg that holds PostScript.
PIL_FORMATS = {
    "JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "TIFF": "TIFF", "GIF": "GIF", "BMP": "BMP", "AVIF": "AVIF",
    "PNM": "PPM",
}  # fmt: skip
OPENCV_KINDS = ("JPEG", "PNG", "WebP", "BMP")
PARTLY = ("JPEG", "PNG", "TIFF")  # of which a part can be taken where the rest is missing
GREY = 128  # of pixels that a file lacks
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations whose rows are the columns of the upright photo
FLIP = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # EXIF orientation -> cv2.flip, after the transposition
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
MOST_DEEP_PIXELS = 1 << 26  # of a colour PNG of 16 bits that is rounded: OpenCV takes 16 bytes for each
STRIP = 1 << 22  # pixels that are converted at a time: what lies between is several times the photo

# What goes wrong comes back as a PhotoError, once.  And PIL warns of bombs from half of MOST_PIXELS on.
opencv.silence()
warnings.filterwarnings("ignore", module=r"PIL\.")
if "ATTNVIS_COMMAND" not in os.environ and (clash := opencv.clash()):  # the command line says so itself
    warnings.warn(clash, stacklevel=2)


@dataclass(frozen=True)
class Request:
    """How a file is to be read."""

    short: int | None = None  # pixels on the short side that are enough; None: all that there are
    depth: int | str = "file"  # see types.Preprocessing
    truncated: str = "refuse"  # the same


@dataclass(frozen=True, eq=False)
class Decoded:
    """The upright pixels of a file, its upright size (height, width), and what was done to it.

    The pixels are fewer than the size says where a JPEG was reduced: see `load`.
    """

    pixels: Pixels
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


def load(
    source: Path | str | bytes | np.ndarray,
    short: int | None = None,
    name: str | None = None,
    depth: int | str = "file",
    truncated: str = "refuse",
) -> Photo:
    """The upright 8-bit sRGB photo in a file, in a file's bytes, or in an array.

    Arrays are [height, width, RGB] or [height, width] in grey, uint8 or float in [0, 1].  Of a file the photo
    is what a good viewer shows: colours as its profile means them, transparency on white, of several frames
    the first; `Photo.notes` says what was done.  Where the network needs no more than `short` pixels on the
    short side, a JPEG file may be decoded to 1/2, 1/4 or 1/8, never below twice that.  `name` is for messages
    and records; `depth` and `truncated` as in types.Preprocessing.  Raises PhotoError, nothing else.
    """
    if isinstance(source, np.ndarray):
        pixels = from_array(source)
        digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        return Photo(name or f"array-{digest[:12]}", pixels, size=pixels.shape[:2], digest=digest)
    request = Request(short, depth=depth, truncated=truncated)
    path = None
    if isinstance(source, bytes):
        data = source
        digest = hashlib.sha256(data).hexdigest()
        name = title = name or f"photo-{digest[:12]}"
        request = replace(request, short=None)  # never reduced: there is no file to go back to
    else:
        path = Path(source)
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        name, title = name or path.name, str(path)
    decoded = decode(data, title, request)
    return Photo(name, decoded.pixels, size=decoded.size, digest=digest, path=path, notes=decoded.notes)


def full_pixels(photo: Photo) -> Pixels:
    """The pixels at the photo's own size; a photo that was decoded reduced is read again.

    Raises PhotoError where the file cannot be read any more, or has changed since.
    """
    if photo.pixels.shape[:2] == photo.size or photo.path is None:
        return photo.pixels
    full = load(photo.path)
    if full.digest != photo.digest:
        raise PhotoError(f"{photo.path} changed since it was read; run again")
    return full.pixels


def from_array(array: np.ndarray) -> Pixels:
    """A copy as 8-bit RGB, so that neither side can change the other's pixels.

    Raises PhotoError where the array's shape, its type or its range is not that of a photo.
    """
    description = f"an array {list(array.shape)} of {array.dtype}"
    is_grey = array.ndim == 2
    is_rgb = array.ndim == 3 and array.shape[2] == 3
    if not array.size or not (is_grey or is_rgb):
        raise PhotoError(
            f"{description} is no photo; give [height, width, 3] in RGB or [height, width] in grey"
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails too
            raise PhotoError(
                f"{description} reaches from {array.min():g} to {array.max():g}; "
                "floats must lie in [0, 1]: divide by the largest value"
            )
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise PhotoError(f"{description} is no photo; give uint8, or floats in [0, 1]")
    return np.repeat(array[..., None], 3, axis=2) if is_grey else array.copy(order="C")


# ------------------------------------------------------------------------------------------------------ files


def decode(data: bytes, name: str, request: Request) -> Decoded:
    """What is in a file.  Raises PhotoError, nothing else."""
    if not data:
        raise PhotoError(f"{name} is empty (0 bytes); copy or download it again")
    kind = photo_kind(data[:ENOUGH])
    if kind is None:
        raise PhotoError(f"{name} {say_other_kind(data[:ENOUGH])}")
    reader = {
        "JPEG": decode_jpeg, "PNG": decode_png, "TIFF": decode_tiff, "HEIC": decode_heic, "PFM": decode_pfm,
        "PNM": decode_pnm, "AVIF": decode_avif,
    }.get(kind)  # fmt: skip
    try:
        return reader(data, request) if reader else decode_usual(data, kind, request)
    except Image.DecompressionBombError:
        raise PhotoError(
            f"{name} claims more than {MOST_PIXELS:,} pixels; if it is genuine, shrink it first"
        ) from None
    except PhotoError as error:
        joint = " " if str(error).startswith(("is ", "has ", "holds ", "begins ")) else ": "
        raise PhotoError(f"{name}{joint}{error}") from None
    except MemoryError:
        raise PhotoError(f"{name} does not fit into memory; shrink it, or close other programs") from None
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        raise PhotoError(f"{name} {say_damaged(kind, error, request)}") from None


def say_damaged(kind: str, error: Exception, request: Request) -> str:
    # PIL's own message for a file that it does not know gives the address of a BytesIO.
    reason = "" if isinstance(error, UnidentifiedImageError) else f" ({' '.join(str(error).split())[:200]})"
    takes_part = kind in PARTLY and isinstance(error, EOFError) and request.truncated != "take"
    also = ", or take what there is of it with preprocess.truncated=take" if takes_part else ""
    return f"is a damaged or truncated {kind}{reason}; copy or download it again{also}"


def open_header(data: bytes, kind: str) -> Image.Image:
    """What PIL knows of a file before it decodes a pixel.

    Raises DecompressionBombError for more than MOST_PIXELS, and what PIL raises for a damaged file.
    """
    header = Image.open(BytesIO(data), formats=[PIL_FORMATS[kind]])
    check_pixels(header.width * header.height)
    return header


def check_pixels(count: int) -> None:
    if count > MOST_PIXELS:
        raise Image.DecompressionBombError  # PIL raises it too, unless told otherwise


def decode_usual(
    data: bytes, kind: str, request: Request, colours: Colours | None = None, by_pil: bool = False
) -> Decoded:
    """By OpenCV where it is quicker than PIL and right, else by PIL."""
    header = open_header(data, kind)
    icc = header.info.get("icc_profile") or b""
    if colours is None and icc:
        colours = lambda pixels: by_profile(pixels, icc)  # noqa: E731
    quick = None if by_pil else decode_opencv(header, data, kind=kind, short=request.short)
    if quick is None:
        decoded = decode_pil(data, kind, colours=colours)
    else:
        pixels, note = colours(quick.pixels) if colours else (quick.pixels, "")
        decoded = with_notes(replace(quick, pixels=pixels), note)
    is_animated = kind != "JPEG" and kind != "TIFF" and getattr(header, "is_animated", False)
    return with_notes(decoded, "first frame of an animation" if is_animated else "", aspect_note(header))


def with_notes(decoded: Decoded, *notes: str) -> Decoded:
    return replace(decoded, notes=tuple(dict.fromkeys((*decoded.notes, *(note for note in notes if note)))))


def aspect_note(header: Image.Image) -> str:
    """That the file's pixels are not square, which viewers do not mind either."""
    across, down = header.info.get("dpi") or header.info.get("aspect") or (1, 1)
    if header.info.get("jfif_unit") == 0:
        across, down = header.info.get("jfif_density", (1, 1))
    across, down = float(across), float(down)
    if not (across > 0 and down > 0) or 0.99 < across / down < 1.01:
        return ""
    return f"pixels not square: taken as square, though the file says {down / across:.3g} : 1"


# ----------------------------------------------------------------------------------------------- kind by kind


def decode_jpeg(data: bytes, request: Request) -> Decoded:
    """Raises EOFError for a file without its end, unless it is to be taken all the same."""
    jpeg = read_jpeg(data)
    note = ""
    if not jpeg.has_end:
        if request.truncated != "take":
            raise EOFError("no end marker")  # cv2 may return such a photo half grey
        data += b"\xff\xd9"
        request = replace(request, short=None)  # the file alone would not give the same pixels again
        note = "cut short: what is missing is grey"
    if jpeg.unread:
        noun = jpeg.unread if jpeg.unread.startswith("JPEG") else f"{jpeg.unread} JPEG"
        raise PhotoError(f"is a {noun}, which is not read here; save it as an ordinary JPEG or as PNG")
    return with_notes(decode_usual(data, "JPEG", request, by_pil=bool(note)), note)  # OpenCV would complain


def decode_png(data: bytes, request: Request) -> Decoded:
    """Raises EOFError for a file that is cut off, unless it is to be taken all the same."""
    png = read_png(data, take_part=request.truncated == "take")
    check_pixels(png.size[0] * png.size[1])
    colours: Colours | None = None
    encoding, icc = png.encoding, png.icc_profile
    if encoding is not None:
        colours = lambda pixels: encoded_to_srgb(pixels, encoding)  # noqa: E731
    elif icc:
        colours = lambda pixels: by_profile(pixels, icc)  # noqa: E731
    header = open_header(png.data, "PNG")
    is_huge = png.colour != 0 and png.size[0] * png.size[1] > MOST_DEEP_PIXELS
    if is_huge and png.depth == 16 and request.depth != "file":
        raise PhotoError(f"has too many pixels for preprocess.depth={request.depth}; shrink it first")
    if png.depth == 16 and not is_huge and not getattr(header, "is_animated", False):
        decoded = decode_deep_png(png.data, header, depth=request.depth, colours=colours)
    else:
        decoded = decode_usual(png.data, "PNG", request, colours=colours)
        decoded = with_notes(decoded, "16 bits cut to 8" if png.depth == 16 else "")
    if png.missing_rows:
        share = png.missing_rows / png.size[0]
        decoded.pixels[missing_part(png.missing_rows, orientation_of(header))] = GREY
        decoded = with_notes(decoded, f"cut short: {share:.0%} of it is missing and grey")
    return decoded


def missing_part(rows: int, orientation: int) -> tuple[slice, ...]:
    """Where the last stored rows lie on the upright photo."""
    at_start = orientation in (3, 4, 6, 7)
    part = slice(0, rows) if at_start else slice(-rows, None)
    return (slice(None), part) if orientation in TRANSPOSED else (part,)


def decode_deep_png(data: bytes, header: Image.Image, depth: int | str, colours: Colours | None) -> Decoded:
    """A PNG of 16 bits."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("its pixels cannot be decoded")
    samples = samples.reshape(*samples.shape[:2], -1)
    has_alpha = samples.shape[2] in (2, 4)
    alpha = samples[..., -1] if has_alpha else key_alpha(samples, header.info.get("transparency"))
    levels = Levels.of(samples[..., :3] if samples.shape[2] >= 3 else samples[..., :1], bits=16, depth=depth)
    is_bgr = samples.shape[2] >= 3
    order = [2, 1, 0] if is_bgr else [0, 0, 0]
    pixels = np.empty((*samples.shape[:2], 3), np.uint8)
    notes = [levels.note]
    for part in strips(samples.shape[:2]):
        rgb = levels.to_eight(samples[part][..., order])
        opacity = None if alpha is None else alpha[part] / np.float32(65535)
        pixels[part], said = on_white(rgb, opacity, colours)
        notes += said
    orientation = orientation_of(header)
    pixels = upright(pixels, orientation)
    return with_notes(Decoded(pixels, pixels.shape[:2]), *notes)


def key_alpha(samples: np.ndarray, key: object) -> np.ndarray | None:
    """Alpha where one colour is transparent: PIL's `transparency`, a level of grey or (red, green, blue)."""
    if isinstance(key, int):
        return np.where(samples[..., 0] == key, 0, 65535)
    if isinstance(key, tuple):
        return np.where((samples[..., 2::-1] == key).all(-1), 0, 65535)
    return None


def strips(size: tuple[int, int]) -> list[slice]:
    """The rows of a picture, so many at a time that what lies between stays small."""
    step = max(1, STRIP // size[1])
    return [slice(top, min(top + step, size[0])) for top in range(0, size[0], step)]


def on_white(rgb: Pixels, opacity: np.ndarray | None, colours: Colours | None) -> tuple[Pixels, list[str]]:
    """Colours in sRGB, on white where they are transparent; and what is to be said of both."""
    notes = []
    if colours is not None:
        rgb, note = colours(np.ascontiguousarray(rgb))
        notes.append(note)
    if opacity is not None and (opacity < 1).any():
        share = opacity[..., None]
        rgb = np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)
        notes.append("transparency on white")
    return rgb, notes


@dataclass(frozen=True)
class Levels:
    """Which of a file's numbers become black and white in 8 bits, and what is to be said of that."""

    black: float
    white: float
    note: str

    @classmethod
    def of(
        cls, colours: np.ndarray, bits: int, depth: int | str, declared: tuple[float, float] | None = None
    ) -> "Levels":
        """Of samples [height, width, channels] of so many bits, by the setting `depth`.

        declared: the range that the file itself gives.  Raises PhotoError for numbers beyond the range.
        """
        low, high = colours.min().item(), colours.max().item()
        is_float = np.issubdtype(colours.dtype, np.floating)
        if not np.isfinite([low, high]).all():
            raise PhotoError("holds pixels that are no numbers (NaN or infinite); replace them")
        if bits <= 8:
            return cls(0.0, 2.0**bits - 1, "")
        if depth == "used" and high > low:
            return cls(float(low), float(high), f"levels stretched: {low:g} is black, {high:g} white")
        if declared:
            black, white = declared
            note = f"levels as the file says: {black:g} is black, {white:g} white"
        elif is_float:
            black, white, note = 0.0, 1.0, "floating point: 0 is black, 1 white"
        elif isinstance(depth, int) and depth < bits:
            black, white, note = 0.0, 2.0**depth - 1, f"{depth} of {bits} bits: {2**depth - 1} is white"
        else:
            used = int(high).bit_length()
            note = f"{bits} bits rounded to 8"
            if 0 < used <= bits - 2:
                note = f"only {used} of {bits} bits used, so it is dark: preprocess.depth={used} brightens it"
            return cls(0.0, 2.0**bits - 1, note)
        if low < black or high > white:
            raise PhotoError(
                f"holds numbers from {low:g} to {high:g}, beyond [{black:g}, {white:g}]; "
                "preprocess.depth=used makes the smallest black and the largest white"
            )
        return cls(black, white, note)

    def to_unit(self, samples: np.ndarray) -> np.ndarray:
        """In [0, 1]."""
        exact = np.float32 if samples.dtype.itemsize <= 2 else np.float64
        numbers: np.ndarray = samples.astype(exact)
        return np.clip((numbers - exact(self.black)) / exact(self.white - self.black), 0, 1)

    def to_eight(self, samples: np.ndarray) -> UInt8[np.ndarray, "..."]:
        if samples.dtype == np.uint16:
            table = np.rint(255 * self.to_unit(np.arange(65536, dtype=np.uint16))).astype(np.uint8)
            return table[samples]
        return np.rint(255 * self.to_unit(samples)).astype(np.uint8)


def decode_tiff(data: bytes, request: Request) -> Decoded:
    """By PIL where it has it right, else by our own reader.

    Raises EOFError for a file that is cut off, unless it is to be taken all the same.
    """
    first = tiff.read_directory(data)
    check_pixels(first.size[0] * first.size[1])
    is_unusual, is_known = tiff.is_unusual(first), first.compression in tiff.BYTE_CODECS
    takes_part = request.truncated == "take" and is_known
    try:
        if is_unusual:
            decoded = read_tiff(data, first, request.depth, takes_part=takes_part)
        else:
            decoded = decode_usual(data, "TIFF", request)
    except UnidentifiedImageError:
        if not is_known or first.photometric == tiff.YCBCR:
            layout = f"photometric {first.photometric}, {first.channels} x {first.bits} bits"
            raise PhotoError(
                f"is a TIFF of {layout} in compression {first.compression}, which is not read here; "
                "save it as plain RGB"
            ) from None
        decoded = read_tiff(data, first, request.depth, takes_part=takes_part)
    except (EOFError, OSError) as error:
        if is_unusual or not takes_part or first.photometric == tiff.YCBCR:
            raise EOFError(str(error)) from None
        decoded = read_tiff(data, first, request.depth, takes_part=True)
    return with_notes(decoded, "first of several pages" if tiff.has_more_pages(data, first) else "")


def read_tiff(data: bytes, first: tiff.Directory, depth: int | str, takes_part: bool) -> Decoded:
    """By our own reader.  Raises EOFError for a file that is cut off, unless `takes_part`."""
    samples, is_there = tiff.read_samples(data, first, take_part=takes_part)
    pixels, notes = tiff_pixels(first, samples, depth)
    if not is_there.all():
        pixels[~is_there] = GREY
        notes.append(f"cut short: {1 - is_there.mean():.0%} of it is missing and grey")
    pixels = upright(pixels, first.get(274, 1))
    return with_notes(Decoded(pixels, pixels.shape[:2]), *notes, tiff_aspect_note(first))


def tiff_aspect_note(directory: tiff.Directory) -> str:
    across, down = (directory.fields.get(tag, (1,))[0] for tag in (282, 283))
    header = Image.Image()
    header.info = {"dpi": (across, down)}
    return aspect_note(header)


def tiff_pixels(
    directory: tiff.Directory, samples: tiff.Samples, depth: int | str
) -> tuple[Pixels, list[str]]:
    """Samples as 8-bit sRGB on white, and what is to be said of it."""
    photometric, bits = directory.photometric, directory.bits
    is_plain = photometric in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO, tiff.RGB)
    colour_samples = samples[..., : directory.colours]
    if colour_samples.shape[2] < directory.colours:
        raise ValueError(f"{colour_samples.shape[2]} channels of {directory.colours}")
    if is_plain:
        levels = Levels.of(colour_samples, bits=bits, depth=depth, declared=directory.range)
    else:
        levels = Levels(0.0, 2.0**bits - 1, f"{bits} bits rounded to 8" if bits > 8 else "")
    full = Levels(0.0, 1.0 if samples.dtype.kind == "f" else 2.0**bits - 1, "")
    icc = directory.icc_profile
    colours: Colours | None = (lambda pixels: by_profile(pixels, icc)) if icc else None
    pixels = np.empty((*samples.shape[:2], 3), np.uint8)
    notes = [levels.note]
    ignored = directory.channels - directory.colours - (directory.alpha is not None)
    if ignored > 0:
        notes.append(f"more channels: {ignored} beside the colours not shown")
    for part in strips(samples.shape[:2]):
        opacity = None
        values = levels.to_unit(samples[part][..., : directory.colours]) if is_plain else samples[part]
        if directory.alpha is not None:
            channel, is_associated = directory.alpha
            opacity = full.to_unit(samples[part][..., channel])
            if is_associated and is_plain:
                share = np.maximum(opacity, 1e-9)[..., None]
                values = np.where(opacity[..., None] > 0, (values / share).clip(0, 1), 0)
        rgb, note = to_rgb(directory, values, icc)
        is_done = photometric in (tiff.CMYK, tiff.CIELAB, tiff.ICCLAB)
        pixels[part], said = on_white(rgb, opacity, None if is_done else colours)
        notes += [note, *said]
    return pixels, notes


def to_rgb(directory: tiff.Directory, values: np.ndarray, icc: bytes) -> tuple[Pixels, str]:
    """What the channels mean: [height, width, 3] of 8 bits, and what is to be said of it.

    values: in [0, 1] for grey and RGB, else the file's own numbers.
    """
    bits = directory.bits
    match directory.photometric:
        case tiff.WHITE_IS_ZERO:
            return np.rint(255 * (1 - values)).astype(np.uint8).repeat(3, 2), ""
        case tiff.BLACK_IS_ZERO:
            return np.rint(255 * values).astype(np.uint8).repeat(3, 2), ""
        case tiff.RGB:
            return np.rint(255 * values).astype(np.uint8), ""
        case tiff.PALETTE:
            table = np.array(directory.all(320)[: 3 << bits], np.float64).reshape(3, -1).T
            if len(table) != 1 << bits:
                raise ValueError("its palette is too short")
            table /= 1 if table.max() < 256 else 257  # some writers give 8 bits
            return np.rint(table).astype(np.uint8)[values[..., 0]], ""
        case tiff.CMYK:
            if directory.get(332, 1) != 1 or values.shape[2] < 4:
                raise PhotoError("is a TIFF of inks other than CMYK, which is not read here; save it as RGB")
            inks = np.rint(values[..., :4] * (255 / (2**bits - 1))).astype(np.uint8)
            return cmyk_to_rgb(Image.fromarray(np.ascontiguousarray(inks), "CMYK"), icc)
        case _:
            return lab_to_rgb(to_lab(values[..., :3], bits, directory.photometric)), "L*a*b* to sRGB"


def to_lab(values: np.ndarray, bits: int, photometric: int) -> np.ndarray:
    """CIE L*a*b* of TIFF's numbers: a and b are signed in CIELAB, and have an offset in ICCLAB."""
    if bits not in (8, 16):
        raise PhotoError(f"is a TIFF of L*a*b* with {bits} bits, which is not read here; save it as RGB")
    unit = 2.0 ** (bits - 8)
    lightness = values[..., :1] * (100 / (2**bits - 1))
    chroma = values[..., 1:]
    is_signed = photometric == tiff.CIELAB
    chroma = chroma.astype(f"i{bits // 8}") / unit if is_signed else chroma / unit - 128
    return np.concatenate([lightness, chroma], -1)


def decode_avif(data: bytes, request: Request) -> Decoded:
    """Raises PhotoError where PIL has no AVIF."""
    if not features.check("avif"):
        raise PhotoError("is an AVIF, for which Pillow must be 11.3 or later: pip install -U pillow")
    return decode_usual(data, "AVIF", request, colours=nclx_colours(data))


def nclx_colours(data: bytes) -> Colours | None:
    """By the code points of H.273 in an AVIF or HEIC (ISO/IEC 23008-12, colr), where these are not sRGB's."""
    place = data.find(b"colrnclx")
    if place < 0 or b"colrprof" in data or b"colrrICC" in data:
        return None
    encoding = Encoding.from_codes(
        *(int.from_bytes(data[at : at + 2], "big") for at in (place + 8, place + 10))
    )
    return None if encoding is None else lambda pixels: encoded_to_srgb(pixels, encoding)


def decode_heic(data: bytes, request: Request) -> Decoded:
    """By pi-heif (or pillow-heif).  Raises PhotoError where neither is installed."""
    try:
        from pi_heif import open_heif
    except ImportError:
        try:
            from pillow_heif import open_heif
        except ImportError:
            raise PhotoError(
                'is a HEIC, for which a decoder must be installed: pip install "attnvis[heic]"'
            ) from None
    pictures = open_heif(BytesIO(data), convert_hdr_to_8bit=True)
    check_pixels(pictures.size[0] * pictures.size[1])
    picture = pictures.to_pillow()
    icc = pictures.info.get("icc_profile") or b""
    colours: Colours | None = (lambda pixels: by_profile(pixels, icc)) if icc else nclx_colours(data)
    # Not turned by its EXIF: the file's own turns (irot, imir) are done already, and count alone.
    return flatten(picture, colours, orientation=1)


def decode_pnm(data: bytes, request: Request) -> Decoded:
    """PBM, PGM and PPM; their largest value is white, whatever it is."""
    header = open_header(data, "PNM")
    decoded_by_pil = header.mode in ("1", "L", "RGB")
    fields = pnm_header(data, count=4 if data[1:2] not in b"14" else 3)
    most = int(fields.words[3]) if len(fields.words) > 3 else 1
    if decoded_by_pil and most < 256:
        return decode_usual(data, "PNM", request)
    width, height, channels = int(fields.words[1]), int(fields.words[2]), 3 if data[1:2] in b"36" else 1
    if data[1:2] in b"23":
        samples = np.array(data[fields.end :].split(), np.uint16)
    else:
        samples = np.frombuffer(data[fields.end :], ">u2").astype(np.uint16)
    if len(samples) < width * height * channels:
        raise EOFError("it ends before its pixels do")
    samples = samples[: width * height * channels].reshape(height, width, channels)
    levels = Levels(0.0, float(most), f"{most.bit_length()} bits rounded to 8")
    if request.depth == "used":
        levels = Levels.of(samples, bits=16, depth="used")
    pixels = np.ascontiguousarray(np.broadcast_to(levels.to_eight(samples), (height, width, 3)))
    return Decoded(pixels, (height, width), (levels.note,))


@dataclass(frozen=True)
class PnmHeader:
    words: list[bytes]
    end: int  # where the pixels begin


def pnm_header(data: bytes, count: int) -> PnmHeader:
    """The first words of a Netpbm file, without comments.  Raises EOFError where there are fewer."""
    words: list[bytes] = []
    at = 0
    while len(words) < count:
        while data[at : at + 1].isspace() or data[at : at + 1] == b"#":
            at = data.find(b"\n", at) + 1 if data[at : at + 1] == b"#" else at + 1
            if at <= 0:
                raise EOFError("it ends within a comment")
        start = at
        while at < len(data) and not data[at : at + 1].isspace():
            at += 1
        if start == at:
            raise EOFError("it ends within its header")
        words.append(data[start:at])
    return PnmHeader(words, at + 1)


def decode_pfm(data: bytes, request: Request) -> Decoded:
    """Portable float map: from the bottom row to the top."""
    header = pnm_header(data, count=4)
    width, height, scale = int(header.words[1]), int(header.words[2]), float(header.words[3])
    check_pixels(width * height)
    if min(width, height) < 1:
        raise ValueError("it has no pixels")
    channels = 3 if data[:2] == b"PF" else 1
    order = "<" if scale < 0 else ">"
    count = width * height * channels
    if len(data) - header.end < 4 * count:
        raise EOFError("it ends before its pixels do")
    samples = np.frombuffer(data, f"{order}f4", count=count, offset=header.end).astype(np.float32)
    samples = samples.reshape(height, width, channels)[::-1]
    levels = Levels.of(samples, bits=32, depth=request.depth)
    pixels = np.ascontiguousarray(np.broadcast_to(levels.to_eight(samples), (height, width, 3)))
    return Decoded(pixels, (height, width), (levels.note,))


# --------------------------------------------------------------------------------------------------- decoders


def decode_opencv(header: Image.Image, data: bytes, kind: str, short: int | None) -> Decoded | None:
    """By OpenCV, half again as fast as PIL; None for what it gets wrong or cannot read."""
    is_plain = header.mode in ("1", "L", "P", "RGB") and not header.has_transparency_data
    is_animated = kind != "JPEG" and getattr(header, "is_animated", False)
    has_16_bits = kind == "BMP" and data[28:29] == b"\x10"  # OpenCV makes 248 of white
    if kind not in OPENCV_KINDS or not is_plain or is_animated or has_16_bits:
        return None
    reduction = reduction_for(min(header.size), short) if kind == "JPEG" and short is not None else 1
    try:
        pixels = cv2.imdecode(
            np.frombuffer(data, np.uint8), REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:
        return None
    if pixels is None:
        return None
    orientation = orientation_of(header)
    width, height = header.size
    size = (width, height) if orientation in TRANSPOSED else (height, width)
    return Decoded(upright(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), orientation), size)


def reduction_for(side: int, short: int) -> int:
    """By how much, 8, 4, 2 or 1, a JPEG with this short side may be reduced and keep twice `short` there."""
    for reduction in (8, 4, 2):
        if side // reduction >= 2 * short:
            return reduction
    return 1


def decode_pil(data: bytes, kind: str, colours: Colours | None) -> Decoded:
    """By PIL: the usual TIFF (which it turns upright itself), GIF, CMYK, transparency.

    Raises what PIL raises for a damaged file.
    """
    picture = open_header(data, kind)
    picture.load()
    return flatten(picture, colours, orientation=orientation_of(picture))


def flatten(picture: Image.Image, colours: Colours | None, orientation: int) -> Decoded:
    """A picture of PIL's as upright 8-bit sRGB on white."""
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    notes: list[str] = []
    icc = picture.info.get("icc_profile") or b""
    for part in strips((height, width)):
        piece = picture.crop((0, part.start, width, part.stop))
        pixels[part], said = flat(piece, colours, icc=icc)
        notes += said
    pixels = upright(pixels, orientation)
    return with_notes(Decoded(pixels, pixels.shape[:2]), *notes)


def flat(picture: Image.Image, colours: Colours | None, icc: bytes) -> tuple[Pixels, list[str]]:
    """8 bits of sRGB, on white, and what is to be said of it."""
    if picture.mode == "CMYK":
        pixels, note = cmyk_to_rgb(picture, icc)
        return pixels, [note]
    if not picture.has_transparency_data:
        return on_white(np.asarray(picture.convert("RGB")), None, colours)
    rgba = picture.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return on_white(np.asarray(rgba.convert("RGB")), None, colours)
    rgb, notes = on_white(np.asarray(rgba.convert("RGB")), None, colours)
    layer = Image.fromarray(np.ascontiguousarray(rgb))
    layer.putalpha(alpha)
    white = Image.new("RGBA", picture.size, "white")
    pixels = np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
    return pixels, [*notes, "transparency on white"]


def orientation_of(picture: Image.Image) -> int:
    """EXIF orientation (tag 274), 1 ... 8, or what else is written there; 1, upright, where nothing is."""
    try:
        # The method of the base class: PNG's would decode the picture first.
        value = Image.Image.getexif(picture).get(0x0112)
    except Exception:
        value = None  # a damaged EXIF block says nothing about a photo that is whole
    return value if isinstance(value, int) else 1


def upright(pixels: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    """Stored pixels as a viewer shows them; an orientation that is none leaves them as they are."""
    if orientation in TRANSPOSED:
        pixels = cv2.transpose(pixels)
    return cv2.flip(pixels, FLIP[orientation]) if orientation in FLIP else pixels
