"""A usual photo's bytes in, upright pixels out: by OpenCV where it is quicker and right, else by PIL."""

from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from attnvis.data.colour import cmyk_to_rgb, colours_of
from attnvis.data.pixels import TRANSPOSED, Colours, Decoded, Pixels, aspect_note, on_white, strips, upright
from attnvis.data.reading import MOST_PIXELS

__all__ = ["check_pixels", "decode_usual", "flatten", "open_header", "orientation_of"]

# PIL's name of each kind.  No others: it would start Ghostscript for a .jpg that holds PostScript.
PIL_FORMATS = {
    "JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "TIFF": "TIFF", "GIF": "GIF", "BMP": "BMP", "AVIF": "AVIF",
    "PNM": "PPM",
}  # fmt: skip
ORIENTATION = 274  # the tag in EXIF and TIFF
OPENCV_KINDS = ("JPEG", "PNG", "WebP", "BMP")
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def open_header(data: bytes, kind: str) -> Image.Image:
    """What PIL knows of a file before it decodes a pixel.

    Raises DecompressionBombError for more than MOST_PIXELS, and what PIL raises for a damaged file.
    """
    header = Image.open(BytesIO(data), formats=[PIL_FORMATS[kind]])
    check_pixels(header.width * header.height)
    return header


def check_pixels(count: int) -> None:
    """Raises DecompressionBombError for more than MOST_PIXELS."""
    if count > MOST_PIXELS:
        raise Image.DecompressionBombError  # PIL raises it too, unless told otherwise


def decode_usual(
    data: bytes, kind: str, short: int | None, colours: Colours | None = None, by_pil: bool = False
) -> Decoded:
    """A file of one of PIL_FORMATS.

    short     pixels on the short side that are enough of a JPEG; None: all that there are
    colours   to sRGB; None: by the ICC profile in the file
    by_pil    although OpenCV may be quicker

    Raises DecompressionBombError, and what PIL raises for a damaged file.
    """
    header = open_header(data, kind)
    colours = colours or colours_of(header.info.get("icc_profile"))
    quick = None if by_pil else decode_opencv(header, data, kind=kind, short=short)
    if quick is None:
        decoded = decode_pil(data, kind, colours=colours)
    else:
        pixels, note = colours(quick.pixels) if colours else (quick.pixels, "")
        decoded = replace(quick, pixels=pixels).with_notes(note)
    is_animated = kind not in ("JPEG", "TIFF") and getattr(header, "is_animated", False)
    animation = "first frame of an animation" if is_animated else ""
    return decoded.with_notes(animation, aspect_note(*resolution_of(header)))


def resolution_of(header: Image.Image) -> tuple[float, float]:
    """Pixels a length, across and down, in whatever unit; (1, 1) where the file does not say."""
    across, down = header.info.get("dpi") or header.info.get("aspect") or (1, 1)
    if header.info.get("jfif_unit") == 0:
        across, down = header.info.get("jfif_density", (1, 1))
    return float(across), float(down)


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
        pixels[part], remarks = flat(piece, colours, icc=icc)
        notes += remarks
    return Decoded.from_stored(pixels, orientation, notes)


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
    """EXIF orientation, 1 ... 8, or what else is written there; 1, upright, where nothing is."""
    try:
        # The method of the base class: PNG's would decode the picture first.
        value = Image.Image.getexif(picture).get(ORIENTATION)
    except Exception:
        value = None  # a damaged EXIF block says nothing about a photo that is whole
    return value if isinstance(value, int) else 1
