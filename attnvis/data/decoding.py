"""Files and pictures in memory in, upright 8-bit sRGB photos out, with a note of what was done to them.

docs/photos.md says what is read, and how.
"""

import hashlib
import os
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError, features
from torch import Tensor

from attnvis import opencv
from attnvis.data import netpbm, tiff
from attnvis.data.colour import Encoding, colours_of, encoded_colours
from attnvis.data.jpeg import read_jpeg
from attnvis.data.levels import Levels
from attnvis.data.memory import decode_array, decode_picture, read_open_file
from attnvis.data.pixels import (
    GREY,
    Colours,
    Decoded,
    Pixels,
    aspect_note,
    key_alpha,
    missing_part,
    on_white,
    strips,
)
from attnvis.data.png import read_png
from attnvis.data.reading import MOST_PIXELS
from attnvis.data.signatures import ENOUGH, photo_kind, say_other_kind
from attnvis.data.sources import SOURCES, read_source
from attnvis.data.tiff_pixels import samples_to_pixels
from attnvis.data.usual import check_pixels, decode_usual, flatten, open_header, orientation_of
from attnvis.errors import in_one_line
from attnvis.types import Photo, PhotoError

__all__ = ["full_pixels", "load"]

PARTLY = ("JPEG", "PNG", "TIFF")  # of which a part can be taken where the rest is missing
MOST_DEEP_PIXELS = 1 << 26  # of a colour PNG of 16 bits that is rounded: OpenCV takes 16 bytes for each

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


def load(
    source: Any,
    short: int | None = None,
    name: str | None = None,
    depth: int | str = "file",
    truncated: str = "refuse",
) -> Photo:
    """The upright 8-bit sRGB photo in a file or another of `attnvis.data.sources`, in bytes, an open file, a
    PIL picture, an array or a tensor.

    Arrays and tensors: see `attnvis.data.memory.decode_array`.  Of a file the photo is what a good viewer
    shows: colours as its profile means them, transparency on white, of several frames the first;
    `Photo.notes` says what was done.  Where the network needs no more than `short` pixels on the short side,
    a JPEG file may be decoded to 1/2, 1/4 or 1/8, never below twice that.  `name` is for messages and
    records; `depth` and `truncated`, which are for files, as in types.Preprocessing.  Raises PhotoError,
    nothing else.
    """
    request = Request(short, depth=depth, truncated=truncated)
    if isinstance(source, str | os.PathLike | SOURCES):
        path = source if isinstance(source, SOURCES) else Path(source)
        data = read_source(path)
        digest = hashlib.sha256(data).hexdigest()
        decoded = decode(data, str(path), request)
        name = name or path.name
        return Photo(name, decoded.pixels, size=decoded.size, digest=digest, path=path, notes=decoded.notes)
    if isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read"):
        data, own_name = read_open_file(source) if hasattr(source, "read") else (bytes(source), "")
        digest = hashlib.sha256(data).hexdigest()
        name = name or own_name or f"photo-{digest[:12]}"
        # never reduced: there is no file to go back to
        decoded = decode(data, name, replace(request, short=None))
        return Photo(name, decoded.pixels, size=decoded.size, digest=digest, notes=decoded.notes)
    if isinstance(source, Image.Image):
        decoded, kind = decode_picture(source), "picture"
        name = name or Path(getattr(source, "filename", "") or "").name
    elif isinstance(source, Tensor | np.ndarray) or hasattr(source, "__array__"):
        decoded, kind = decode_array(source), "tensor" if isinstance(source, Tensor) else "array"
    else:
        raise PhotoError(
            f"{type(source).__name__} is no photo; give a file's name, bytes, an open file, a PIL picture, "
            "an array or a tensor"
        )
    digest = hashlib.sha256(str(decoded.pixels.shape).encode() + decoded.pixels.tobytes()).hexdigest()
    name = name or f"{kind}-{digest[:12]}"
    return Photo(name, decoded.pixels, size=decoded.size, digest=digest, notes=decoded.notes)


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
        return reader(data, request) if reader else decode_usual(data, kind, request.short)
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
    reason = "" if isinstance(error, UnidentifiedImageError) else f" ({in_one_line(error, most=200)})"
    takes_part = kind in PARTLY and isinstance(error, EOFError) and request.truncated != "take"
    also = ", or take what there is of it with preprocess.truncated=take" if takes_part else ""
    return f"is a damaged or truncated {kind}{reason}; copy or download it again{also}"


# ----------------------------------------------------------------------------------------------- kind by kind


def decode_jpeg(data: bytes, request: Request) -> Decoded:
    """Raises EOFError for a file without its end, unless it is to be taken all the same."""
    jpeg = read_jpeg(data)
    short, note = request.short, ""
    if not jpeg.has_end:
        if request.truncated != "take":
            raise EOFError("no end marker")  # cv2 may return such a photo half grey
        data += b"\xff\xd9"
        short = None  # the file alone would not give the same pixels again
        note = "cut short: what is missing is grey"
    if jpeg.unread:
        noun = jpeg.unread if jpeg.unread.startswith("JPEG") else f"{jpeg.unread} JPEG"
        raise PhotoError(f"is a {noun}, which is not read here; save it as an ordinary JPEG or as PNG")
    decoded = decode_usual(data, "JPEG", short, by_pil=not jpeg.has_end)  # OpenCV would complain
    return decoded.with_notes(note)


def decode_png(data: bytes, request: Request) -> Decoded:
    """Raises EOFError for a file that is cut off, unless it is to be taken all the same."""
    png = read_png(data, take_part=request.truncated == "take")
    check_pixels(png.size[0] * png.size[1])
    colours = encoded_colours(png.encoding) or colours_of(png.icc_profile)
    header = open_header(png.data, "PNG")
    is_huge = png.colour != 0 and png.size[0] * png.size[1] > MOST_DEEP_PIXELS
    if is_huge and png.depth == 16 and request.depth != "file":
        raise PhotoError(f"has too many pixels for preprocess.depth={request.depth}; shrink it first")
    if png.depth == 16 and not is_huge and not getattr(header, "is_animated", False):
        decoded = decode_deep_png(png.data, header, depth=request.depth, colours=colours)
    else:
        decoded = decode_usual(png.data, "PNG", request.short, colours=colours)
        decoded = decoded.with_notes("16 bits cut to 8" if png.depth == 16 else "")
    if png.missing_rows:
        share = png.missing_rows / png.size[0]
        decoded.pixels[missing_part(png.missing_rows, orientation_of(header))] = GREY
        decoded = decoded.with_notes(f"cut short: {share:.0%} of it is missing and grey")
    return decoded


def decode_deep_png(data: bytes, header: Image.Image, depth: int | str, colours: Colours | None) -> Decoded:
    """A PNG of 16 bits."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("its pixels cannot be decoded")
    samples = samples.reshape(*samples.shape[:2], -1)
    has_alpha = samples.shape[2] in (2, 4)
    alpha = samples[..., -1] if has_alpha else key_alpha(samples, header.info.get("transparency"))
    is_bgr = samples.shape[2] >= 3
    levels = Levels.of(samples[..., : 3 if is_bgr else 1], bits=16, depth=depth)
    order = [2, 1, 0] if is_bgr else [0, 0, 0]
    pixels = np.empty((*samples.shape[:2], 3), np.uint8)
    notes = [levels.note]
    for part in strips(samples.shape[:2]):
        rgb = levels.to_eight(samples[part][..., order])
        opacity = None if alpha is None else alpha[part] / np.float32(65535)
        pixels[part], remarks = on_white(rgb, opacity, colours)
        notes += remarks
    return Decoded.from_stored(pixels, orientation_of(header), notes)


def decode_tiff(data: bytes, request: Request) -> Decoded:
    """By PIL where it has it right, else by our own reader.

    Raises EOFError for a file that is cut off, unless it is to be taken all the same.
    """
    first = tiff.read_directory(data)
    check_pixels(first.size[0] * first.size[1])
    is_unusual, is_of_bytes = tiff.is_unusual(first), first.compression in tiff.BYTE_CODECS
    takes_part = request.truncated == "take" and is_of_bytes
    try:
        if is_unusual:
            decoded = read_tiff(data, first, request.depth, takes_part=takes_part)
        else:
            decoded = decode_usual(data, "TIFF", request.short)
    except UnidentifiedImageError:
        if not is_of_bytes or first.photometric == tiff.YCBCR:
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
    return decoded.with_notes("first of several pages" if tiff.has_more_pages(data, first) else "")


def read_tiff(data: bytes, first: tiff.Directory, depth: int | str, takes_part: bool) -> Decoded:
    """By our own reader.  Raises EOFError for a file that is cut off, unless `takes_part`."""
    samples, is_there = tiff.read_samples(data, first, take_part=takes_part)
    pixels, notes = samples_to_pixels(first, samples, depth)
    if not is_there.all():
        pixels[~is_there] = GREY
        notes.append(f"cut short: {1 - is_there.mean():.0%} of it is missing and grey")
    return Decoded.from_stored(pixels, first.orientation, [*notes, aspect_note(*first.resolution)])


def decode_avif(data: bytes, request: Request) -> Decoded:
    """Raises PhotoError where PIL has no AVIF."""
    if not features.check("avif"):
        raise PhotoError("is an AVIF, for which Pillow must be 11.3 or later: pip install -U pillow")
    return decode_usual(data, "AVIF", request.short, colours=nclx_colours(data))


def nclx_colours(data: bytes) -> Colours | None:
    """By the code points of H.273 in an AVIF or HEIC (ISO/IEC 23008-12, colr), where these are not sRGB's."""
    place = data.find(b"colrnclx")
    if place < 0 or b"colrprof" in data or b"colrrICC" in data:
        return None
    primaries, transfer = (int.from_bytes(data[at : at + 2], "big") for at in (place + 8, place + 10))
    return encoded_colours(Encoding.from_codes(primaries, transfer))


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
    colours = colours_of(pictures.info.get("icc_profile")) or nclx_colours(data)
    # Not turned by its EXIF: the file's own turns (irot, imir) are done already, and count alone.
    return flatten(picture, colours, orientation=1)


def decode_pnm(data: bytes, request: Request) -> Decoded:
    """PBM, PGM and PPM; their largest value is white, whatever it is."""
    open_header(data, "PNM")
    header = netpbm.read_header(data)
    if header.most < 256:
        return decode_usual(data, "PNM", request.short)
    samples = netpbm.read_integers(data, header)
    levels = Levels(0.0, float(header.most), f"{header.most.bit_length()} bits rounded to 8")
    if request.depth == "used":
        levels = Levels.of(samples, bits=16, depth="used")
    return decode_samples(samples, levels)


def decode_pfm(data: bytes, request: Request) -> Decoded:
    """The portable float map."""
    header = netpbm.read_header(data)
    height, width, _ = header.shape
    check_pixels(height * width)
    samples = netpbm.read_floats(data, header)
    return decode_samples(samples, Levels.of(samples, bits=32, depth=request.depth))


def decode_samples(samples: np.ndarray, levels: Levels) -> Decoded:
    """Numbers [height, width, channels], of grey or of sRGB."""
    size = samples.shape[:2]
    pixels = np.ascontiguousarray(np.broadcast_to(levels.to_eight(samples), (*size, 3)))
    return Decoded(pixels, size, (levels.note,))
