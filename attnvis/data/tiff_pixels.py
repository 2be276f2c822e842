"""A TIFF's samples in, 8 bits of sRGB on white out.  `tiff.read_samples` gives the samples."""

import numpy as np
from PIL import Image

from attnvis.data import tiff
from attnvis.data.colour import cmyk_to_rgb, colours_of, lab_to_rgb
from attnvis.data.levels import Levels
from attnvis.data.pixels import Pixels, on_white, strips
from attnvis.types import PhotoError

__all__ = ["samples_to_pixels"]


def samples_to_pixels(
    directory: tiff.Directory, samples: tiff.Samples, depth: int | str
) -> tuple[Pixels, list[str]]:
    """The file's own numbers as 8-bit sRGB on white, and what is to be said of it.

    depth   as in types.Preprocessing

    Raises PhotoError for numbers beyond their range and what is not read, ValueError for a damaged file.
    """
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
    is_converted = photometric in (tiff.CMYK, tiff.CIELAB, tiff.ICCLAB)  # to sRGB, by `to_rgb`
    colours = None if is_converted else colours_of(icc)
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
        pixels[part], remarks = on_white(rgb, opacity, colours)
        notes += [note, *remarks]
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
