"""Files, bytes and arrays in, upright 8-bit RGB photos out."""

import hashlib
import os
import re
import warnings
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from attnvis import opencv
from attnvis.data.paths import MOST_PIXELS, read_bytes
from attnvis.types import Photo, PhotoError

__all__ = ["full_pixels", "load"]

Pixels = UInt8[np.ndarray, "h w 3"]

# No others: PIL would start Ghostscript for a .jpg that holds PostScript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")
# MPO: a telephone's JPEG that carries a second picture, such as a gain map.
OPENCV_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP")
SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8)"
    rb"|(?P<PNG>\x89PNG)"
    rb"|(?P<WebP>RIFF....WEBP)"
    rb"|(?P<TIFF>II[*+]\0|MM\0[*+])"
    rb"|(?P<GIF>GIF8)"
    rb"|(?P<BMP>BM)",
    re.DOTALL,
)
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations whose rows are the columns of the upright photo
FLIP = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # EXIF orientation -> cv2.flip, after the transposition
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

# What goes wrong comes back as a PhotoError, once.  And PIL warns of bombs from half of MOST_PIXELS on.
opencv.silence()
warnings.filterwarnings("ignore", module=r"PIL\.")
if "ATTNVIS_COMMAND" not in os.environ and (clash := opencv.clash()):  # the command line says so itself
    warnings.warn(clash, stacklevel=2)


def load(source: Path | str | bytes | np.ndarray, short: int | None = None, name: str | None = None) -> Photo:
    """The upright 8-bit RGB photo in a file, in a file's bytes, or in an array.

    Arrays are [height, width, RGB] or [height, width] in grey, uint8 or float in [0, 1].  Transparency is put
    on white, 16 bits become 8, of several frames the first counts.  Where the network needs no more than
    `short` pixels on the short side, a JPEG file may be decoded to 1/2, 1/4 or 1/8, never below twice that.
    `name` is for messages and records.  Raises PhotoError, nothing else.
    """
    if isinstance(source, np.ndarray):
        pixels = from_array(source)
        digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        return Photo(name or f"array-{digest[:12]}", pixels, size=pixels.shape[:2], digest=digest)
    if isinstance(source, bytes):
        digest = hashlib.sha256(source).hexdigest()
        name = name or f"photo-{digest[:12]}"
        pixels, size = decode(source, name, short=None)  # never reduced: there is no file to go back to
        return Photo(name, pixels, size=size, digest=digest)
    path = Path(source)
    data = read_bytes(path)
    pixels, size = decode(data, str(path), short=short)
    return Photo(name or path.name, pixels, size=size, digest=hashlib.sha256(data).hexdigest(), path=path)


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


def decode(data: bytes, name: str, short: int | None) -> tuple[Pixels, tuple[int, int]]:
    """The upright pixels of a file, and its upright size (height, width).

    The pixels are fewer than the size says where a JPEG was reduced: see `load`.  Raises PhotoError, nothing
    else.
    """
    if not data:
        raise PhotoError(f"{name} is empty (0 bytes); copy or download it again")
    signature = SIGNATURE.match(data)
    try:
        header = Image.open(BytesIO(data), formats=FORMATS)  # reads no pixels
        if header.width * header.height > MOST_PIXELS:
            raise Image.DecompressionBombError  # PIL raises it too, unless told otherwise
        if header.format == "PNG":
            header.verify()  # the checksums, .2 ms: libpng would complain on stderr
        if signature and signature.lastgroup == "JPEG" and not has_end_marker(data):
            raise EOFError("no end marker")  # cv2 may return such a photo half grey
        return decode_opencv(header, data, short=short) or decode_pil(data)
    except Image.DecompressionBombError:
        raise PhotoError(
            f"{name} claims more than {MOST_PIXELS:,} pixels; if it is genuine, shrink it first"
        ) from None
    except PhotoError as error:
        raise PhotoError(f"{name}: {error}") from None
    except MemoryError:
        raise PhotoError(f"{name} does not fit into memory; shrink it, or close other programs") from None
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        if signature is None:
            raise PhotoError(
                f"{name} is no photo of a kind that is read; save it as JPEG, PNG, WebP, TIFF, GIF or BMP"
            ) from None
        # PIL's own message for a file that it does not know gives the address of a BytesIO.
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise PhotoError(
            f"{name} is a damaged or truncated {signature.lastgroup}{reason}; copy or download it again"
        ) from None


def has_end_marker(jpeg: bytes) -> bool:
    """Whether an end marker follows the scan.

    The thumbnail in the EXIF segment has one of its own, so segments are stepped over.
    """
    position = 2
    while marker := MARKER.search(jpeg, position):
        code = marker[1][0]
        position = marker.end()
        if code == 0xDA:  # the scan
            return jpeg.rfind(b"\xff\xd9", position) >= 0
        has_body = not (code == 0x01 or 0xD0 <= code <= 0xD9)
        if has_body:
            position += int.from_bytes(jpeg[position : position + 2], "big")
    return False


def decode_opencv(
    header: Image.Image, data: bytes, short: int | None
) -> tuple[Pixels, tuple[int, int]] | None:
    """Pixels and size by OpenCV, half again as fast as PIL; None for what it gets wrong or cannot read."""
    is_jpeg = header.format in ("JPEG", "MPO")
    is_plain = header.mode in ("1", "L", "P", "RGB") and not header.has_transparency_data
    is_animated = not is_jpeg and getattr(header, "is_animated", False)
    has_late_exif = header.format == "PNG" and b"eXIf" in data and "exif" not in header.info
    if header.format not in OPENCV_FORMATS or not is_plain or is_animated or has_late_exif:
        return None
    reduction = reduction_for(min(header.size), short) if is_jpeg and short is not None else 1
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
    return upright(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), orientation), size


def reduction_for(side: int, short: int) -> int:
    """By how much, 8, 4, 2 or 1, a JPEG with this short side may be reduced and keep twice `short` there."""
    for reduction in (8, 4, 2):
        if side // reduction >= 2 * short:
            return reduction
    return 1


def decode_pil(data: bytes) -> tuple[Pixels, tuple[int, int]]:
    """Pixels and size by PIL: TIFF (which it turns upright itself), GIF, CMYK, transparency, 16 bits of grey.

    Raises PhotoError where floats lie outside [0, 1], and what PIL raises for a damaged file.
    """
    picture = Image.open(BytesIO(data), formats=FORMATS)
    picture.load()
    orientation = orientation_of(picture)
    width, height = picture.size
    if picture.mode in ("I", "F"):
        pixels = from_array(np.asarray(picture))
    else:
        pixels = np.empty((height, width, 3), np.uint8)
        step = max(1, 2**22 // width)  # rows at a time: what lies between is several times the photo
        for top in range(0, height, step):
            bottom = min(top + step, height)
            pixels[top:bottom] = flat(picture.crop((0, top, width, bottom)))
    pixels = upright(pixels, orientation)
    return pixels, pixels.shape[:2]


def flat(picture: Image.Image) -> Pixels:
    """8 bits of RGB, on white."""
    if picture.mode.startswith("I;16"):
        # PIL's own conversion clips; in 16-bit RGB it keeps the high byte, as OpenCV does.
        return from_array(np.asarray(picture).astype(np.float32) / 65535)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"))


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
