"""Pictures that a program holds - PIL's, arrays, tensors, open files - in; upright 8-bit sRGB pixels out.

What could be read in two ways is refused, with what to do.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnvis.data.colour import colours_of
from attnvis.data.levels import Levels
from attnvis.data.pixels import Decoded, Pixels, key_alpha, on_white
from attnvis.data.reading import MOST_BYTES
from attnvis.data.usual import flatten, orientation_of
from attnvis.errors import in_one_line
from attnvis.types import PhotoError

__all__ = ["decode_array", "decode_picture", "is_several", "read_open_file"]

SHAPES = "[height, width, 3] in RGB, [height, width] in grey, or [3, height, width]"
CHANNELS = {1: "grey", 2: "grey and opacity", 3: "RGB", 4: "RGB and opacity"}
HALF_A_LEVEL = 0.5 / 255  # floats that far beyond 0 and 1 become 0 and 255 all the same
DEEP_MODES = ("I", "F")  # of PIL, one channel that is deeper than 8 bits; and all that begin with I;16


def is_several(photo: Any) -> bool:
    """Whether an array or a tensor is a batch of photos."""
    return isinstance(photo, np.ndarray | Tensor) and photo.ndim == 4


# ------------------------------------------------------------------------------------------- PIL's and files


def decode_picture(picture: Image.Image) -> Decoded:
    """A picture of PIL's, of any mode, as a viewer shows it: turned by its EXIF, on white, in sRGB.

    An animation is the frame that it stands at.  Raises PhotoError.
    """
    try:
        picture.load()
        orientation = orientation_of(picture)
        if picture.mode in DEEP_MODES or picture.mode.startswith("I;16"):
            decoded = decode_deep_picture(picture)
            return Decoded.from_stored(decoded.pixels, orientation, decoded.notes)
        return flatten(picture, colours_of(picture.info.get("icc_profile")), orientation=orientation)
    except PhotoError:
        raise
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        reason = in_one_line(error, most=200)
        raise PhotoError(
            f"this PIL picture of mode {picture.mode} gives no pixels ({reason}); "
            "see whether its file is whole and still open, or convert it to RGB"
        ) from None


def decode_deep_picture(picture: Image.Image) -> Decoded:
    """Of one channel of 16 bits or of floats.  Raises PhotoError for whole numbers without a white."""
    samples = np.asarray(picture)
    if picture.mode == "I":
        low, high = int(samples.min()), int(samples.max())
        if low < 0 or not 255 < high < 65536:
            raise PhotoError(
                f"a PIL picture of mode I holds numbers from {low} to {high}, "
                "and nothing says which is white; give an array of uint8, of uint16, or of floats in [0, 1]"
            )
        samples = samples.astype(np.uint16)
    if picture.mode == "F":
        return decode_array(samples)
    samples = np.ascontiguousarray(samples, np.uint16)[..., None]  # in the byte order of this machine
    alpha = key_alpha(samples, picture.info.get("transparency"))
    return deep_to_eight(samples, None if alpha is None else alpha / np.float32(65535))


def read_open_file(file: Any) -> tuple[bytes, str]:
    """All that a file that somebody opened holds, and its name or ""; it is left where it stood.

    Raises PhotoError for one of text, one that is closed, and one larger than any photo.
    """
    try:
        place = None
        if getattr(file, "seekable", lambda: False)():
            place = file.tell()
            file.seek(0)
        data = file.read(MOST_BYTES + 1)
        if place is not None:
            file.seek(place)
    except (OSError, ValueError) as error:  # closed files raise ValueError
        reason = in_one_line(error, most=200)
        raise PhotoError(f"an open file cannot be read ({reason}); open it with 'rb'") from None
    if not isinstance(data, bytes):
        raise PhotoError(f"an open file gives {type(data).__name__}, not bytes; open it with 'rb'")
    if len(data) > MOST_BYTES:
        raise PhotoError(
            f"an open file has more than any photo's {MOST_BYTES:,} bytes; see whether it is one"
        )
    name = getattr(file, "name", "")
    return data, Path(os.fsdecode(name)).name if isinstance(name, str | bytes) else ""


# ----------------------------------------------------------------------------------------- arrays and tensors


def decode_array(array: Any) -> Decoded:
    """An array or a tensor as a photo; a copy, so that neither side can change the other's pixels.

    [H, W], [H, W, C] or [C, H, W] of C channels: 1 grey, 3 RGB, 4 RGB and opacity; [H, W, 2] grey and
    opacity; or one of these in a batch of one.  uint8; uint16, of which 65535 is white; floats in [0, 1].
    Raises PhotoError for another shape, type or range, and for a shape that can be read in two ways.
    """
    samples, device = as_numpy(array)
    device = f" on {device}" if device not in ("", "cpu") else ""
    description = f"{'a tensor' if isinstance(array, Tensor) else 'an array'} {list(samples.shape)}"
    description += f" of {samples.dtype}{device}"
    notes = []
    if samples.ndim == 4 and len(samples) == 1:
        samples, notes = samples[0], ["a batch of one"]
    samples = channels_last(samples, description)
    if np.issubdtype(samples.dtype, np.floating):
        samples = floats_to_eight(samples, description)
    if samples.dtype == np.uint16:
        channels = samples.shape[2]
        has_alpha = channels in (2, 4)
        alpha = samples[..., -1] / np.float32(65535) if has_alpha else None
        return deep_to_eight(samples[..., : channels - has_alpha], alpha).with_notes(*notes)
    if samples.dtype != np.uint8:
        raise PhotoError(f"{description} is no photo; give uint8, or floats in [0, 1]")
    pixels, remarks = eight_to_pixels(samples)
    return Decoded(pixels, pixels.shape[:2]).with_notes(*notes, *remarks)


def as_numpy(array: Any) -> tuple[np.ndarray, str]:
    """The numbers where numpy finds them, and the device that they come from; the tensor stays as it is.

    Raises PhotoError for a tensor without numbers.
    """
    if not isinstance(array, Tensor):
        return np.asarray(array), ""
    if array.is_meta or array.layout != torch.strided or array.is_quantized:
        raise PhotoError(
            f"a tensor {list(array.shape)} of {array.dtype} on {array.device} holds no plain numbers; "
            "give a dense one, on a device that has memory"
        )
    tensor = array.detach()
    if tensor.dtype == torch.bfloat16:  # which numpy does not know
        tensor = tensor.float()
    return tensor.cpu().resolve_conj().resolve_neg().numpy(), str(array.device)


def channels_last(samples: np.ndarray, description: str) -> np.ndarray:
    """[H, W, C].  Raises PhotoError for a shape that is no photo's, or that is two photos'."""
    shape = samples.shape
    if samples.ndim == 4 and samples.size:
        raise PhotoError(
            f"{description} is a batch of {shape[0]} photos; give one of them, or all to attnvis.explain_all"
        )
    if not samples.size or samples.ndim not in (2, 3):
        raise PhotoError(f"{description} is no photo; give {SHAPES}")
    if samples.ndim == 2:
        return samples[..., None]
    is_last = shape[2] in CHANNELS
    is_first = shape[0] in (1, 3, 4)
    if is_first and is_last:
        first, last = CHANNELS[shape[0]], CHANNELS[shape[2]]
        raise PhotoError(
            f"{description} can be read in two ways: {first} first, {shape[1]} x {shape[2]} pixels, or "
            f"{last} last, {shape[0]} x {shape[1]} pixels; give a PIL picture, which says what it is"
        )
    if not (is_first or is_last):
        raise PhotoError(f"{description} is no photo; give {SHAPES}")
    return samples if is_last else np.moveaxis(samples, 0, 2)


def floats_to_eight(samples: np.ndarray, description: str) -> np.ndarray:
    """Floats in [0, 1] as uint8.  Raises PhotoError for any beyond."""
    low, high = float(samples.min()), float(samples.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PhotoError(f"{description} holds pixels that are no numbers (nan or infinite); replace them")
    if low < -HALF_A_LEVEL:
        raise PhotoError(
            f"{description} reaches from {low:g} to {high:g}, as after Normalize; floats must lie in [0, 1]: "
            "give the photo from before it, or undo it: photo * std + mean"
        )
    if high > 1 + HALF_A_LEVEL:
        raise PhotoError(
            f"{description} reaches from {low:g} to {high:g}; floats must lie in [0, 1]: "
            "divide by 255 where that is white, else by the largest value"
        )
    return np.rint(samples.astype(np.float32).clip(0, 1) * np.float32(255)).astype(np.uint8)


def eight_to_pixels(samples: np.ndarray) -> tuple[Pixels, list[str]]:
    """uint8 [H, W, C] in RGB on white, and what is to be said of that."""
    channels = samples.shape[2]
    if channels == 1:
        return np.repeat(samples, 3, axis=2), []
    if channels == 3:
        return samples.copy(order="C"), []
    colours = np.repeat(samples[..., :1], 3, axis=2) if channels == 2 else samples[..., :3]
    rgba = np.concatenate([colours, samples[..., -1:]], axis=2)
    decoded = flatten(Image.fromarray(rgba), None, orientation=1)  # as a file's
    return decoded.pixels, list(decoded.notes)


def deep_to_eight(colours: np.ndarray, opacity: np.ndarray | None) -> Decoded:
    """uint16 [H, W, 1 or 3], of which 65535 is white, as a file of 16 bits is read."""
    levels = Levels.of(colours, bits=16, depth="file")
    note = levels.note
    if note.startswith("only"):  # its advice is for files
        used = int(colours.max()).bit_length()
        note = f"only {used} of 16 bits used, so it is dark: as floats, divided by its white, it is not"
    rgb = np.broadcast_to(levels.to_eight(colours), (*colours.shape[:2], 3))
    pixels, remarks = on_white(np.ascontiguousarray(rgb), opacity, None)
    return Decoded(pixels, pixels.shape[:2]).with_notes(note, *remarks)
