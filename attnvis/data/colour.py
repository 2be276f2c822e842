"""Colours in, sRGB out: by a file's ICC profile, by what a PNG says of its colours, from CMYK and L*a*b*."""

import io
from dataclasses import dataclass
from functools import lru_cache, partial

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms

from attnvis.data.pixels import Colours, Pixels, strips

__all__ = ["Encoding", "by_profile", "cmyk_to_rgb", "colours_of", "encoded_colours", "lab_to_rgb"]

# Of a profile: how far a colour may move, in levels of 255, and the profile still be called sRGB's own.
SAME_LEVELS = 2
MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}

# CIE xy of red, green, blue and white by the code points of ITU-T H.273
PRIMARIES = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, 0.3127, 0.3290),
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060, 0.3127, 0.3290),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.3290),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290),
}
PRIMARY_NAMES = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}


# ----------------------------------------------------------------------------------------------- ICC profiles


@dataclass(frozen=True)
class Profile:
    """What an ICC profile says of itself."""

    name: str
    mode: str  # PIL's, of the pixels that it is for
    to_srgb: ImageCms.ImageCmsTransform | None  # None: it is sRGB


@lru_cache(maxsize=32)
def read_profile(icc: bytes) -> Profile | None:
    """None where the profile cannot be read, or is for something else than RGB, grey and CMYK."""
    mode = MODES.get(icc[16:20])
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = " ".join(ImageCms.getProfileDescription(profile).split())
        if mode is None:
            return None
        to_srgb = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode != "CMYK":
        levels = np.arange(0, 256, 51, dtype=np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
        swatch = Image.fromarray(np.ascontiguousarray(colours if mode == "RGB" else colours[..., 0]))
        converted = np.asarray(ImageCms.applyTransform(swatch, to_srgb)).astype(int)
        plain = np.asarray(swatch.convert("RGB")).astype(int)
        if np.abs(converted - plain).max() <= SAME_LEVELS:
            return Profile(name, mode, None)
    return Profile(name or "an unnamed profile", mode, to_srgb)


def colours_of(icc: bytes | None) -> Colours | None:
    """By an ICC profile; None where there is none."""
    return partial(by_profile, icc=icc) if icc else None


def by_profile(pixels: Pixels, icc: bytes) -> tuple[Pixels, str]:
    """Pixels in sRGB, and what is to be said of that: "" where nothing changed.

    A grey profile is for grey pixels only, one of CMYK for none of these.
    """
    profile = read_profile(icc)
    if profile is None:
        return pixels, "its ICC profile cannot be read: taken for sRGB"
    if profile.to_srgb is None or profile.mode == "CMYK":
        return pixels, ""
    if profile.mode == "L":
        grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        table = np.asarray(ImageCms.applyTransform(grey, profile.to_srgb))
        return cv2.LUT(pixels, np.ascontiguousarray(table.reshape(1, 256, 3))), f"{profile.name} to sRGB"
    converted = ImageCms.applyTransform(Image.fromarray(pixels), profile.to_srgb)
    return np.asarray(converted), f"{profile.name} to sRGB"


def cmyk_to_rgb(picture: Image.Image, icc: bytes) -> tuple[Pixels, str]:
    """A CMYK picture in sRGB: by its profile, else by the arithmetic of viewers, (1 - c) (1 - k)."""
    profile = read_profile(icc) if icc else None
    if profile and profile.mode == "CMYK" and profile.to_srgb is not None:
        return np.asarray(ImageCms.applyTransform(picture, profile.to_srgb)), "CMYK to sRGB by its profile"
    return np.asarray(picture.convert("RGB")), "CMYK without a profile: colours are approximate"


# ----------------------------------------------------------------------------------------------- PNG's chunks


@dataclass(frozen=True)
class Encoding:
    """What a PNG (or an AVIF) says of its colours."""

    primaries: tuple[float, ...]  # and white, as CIE xy
    transfer: str | float  # srgb, linear, a power (light = value ** power), pq, hlg or bt709
    name: str

    @classmethod
    def from_codes(cls, primaries: int, transfer: int) -> "Encoding | None":
        """By the code points of H.273, as cICP and nclx hold them; None for those that mean nothing here."""
        transfers: dict[int, str | float] = {1: "bt709", 4: 2.2, 5: 2.8, 6: "bt709", 8: "linear", 13: "srgb",
                                             14: "bt709", 15: "bt709", 16: "pq", 18: "hlg"}  # fmt: skip
        if primaries not in PRIMARIES or transfer not in transfers:
            return None
        curve = transfers[transfer]
        name = PRIMARY_NAMES.get(primaries, "")
        if curve in ("pq", "hlg"):
            name = f"{name} HDR ({str(curve).upper()})".strip()
        return cls(PRIMARIES[primaries], curve, name or "colours as the file says")

    @property
    def is_hdr(self) -> bool:
        return self.transfer in ("pq", "hlg")

    @property
    def is_srgb(self) -> bool:
        # BT.709's camera curve is shown by viewers as sRGB is
        same_transfer = self.transfer in ("srgb", "bt709") or (
            isinstance(self.transfer, float) and abs(self.transfer - 2.2) < 0.05
        )
        return same_transfer and np.allclose(self.primaries, PRIMARIES[1], atol=0.005)

    def to_light(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        if self.transfer in ("srgb", "bt709"):
            return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return values if self.transfer == "linear" else values ** float(self.transfer)


def encoded_colours(encoding: Encoding | None) -> Colours | None:
    """By what a file says of its colours; None where it says nothing."""
    return None if encoding is None else partial(encoded_to_srgb, encoding=encoding)


def encoded_to_srgb(pixels: Pixels, encoding: Encoding) -> tuple[Pixels, str]:
    """Pixels in sRGB, and what is to be said of that.  HDR stays as it is, which is said."""
    if encoding.is_srgb:
        return pixels, ""
    if encoding.is_hdr:
        return pixels, f"{encoding.name}: shown without tone mapping, colours are approximate"
    light = encoding.to_light(np.arange(256) / 255).astype(np.float32)
    matrix = (np.linalg.inv(to_xyz(PRIMARIES[1])) @ adapted(encoding.primaries)).astype(np.float32)
    table = to_srgb_levels(np.arange(4097) / 4096)
    if np.allclose(encoding.primaries, PRIMARIES[1], atol=0.005):
        return cv2.LUT(pixels, to_srgb_levels(light)), f"{encoding.name} to sRGB"
    converted = np.empty_like(pixels)
    for part in strips(pixels.shape[:2], most=1 << 20):  # floats take five times a photo's room
        linear = light[pixels[part]] @ matrix.T
        converted[part] = table[np.rint(linear.clip(0, 1) * 4096).astype(np.uint16)]
    return converted, f"{encoding.name} to sRGB"


def to_srgb_levels(light: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Linear light in [0, 1] as sRGB's 8 bits (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * values).astype(np.uint8)


def to_xyz(primaries: tuple[float, ...]) -> Float[np.ndarray, "3 3"]:
    """RGB -> XYZ for primaries and white, in CIE xy."""
    xy = np.array(primaries).reshape(4, 2)
    xyz = np.column_stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(1)) / xy[:, 1]])
    return xyz[:3].T * np.linalg.solve(xyz[:3].T, xyz[3])


BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.96422, 1.0, 0.82521])
D65 = to_xyz(PRIMARIES[1]).sum(1)


def white_to_d65(white: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """XYZ under another white as XYZ under D65 (Bradford)."""
    return np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D65) / (BRADFORD @ white)) @ BRADFORD


def adapted(primaries: tuple[float, ...]) -> Float[np.ndarray, "3 3"]:
    """RGB -> XYZ under D65."""
    matrix = to_xyz(primaries)
    return white_to_d65(matrix.sum(1)) @ matrix


# ----------------------------------------------------------------------------------------------------- L*a*b*


def lab_to_rgb(lab: Float[np.ndarray, "h w 3"]) -> Pixels:
    """CIE L*a*b* under D50, L in 0 ... 100, as sRGB."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    return to_srgb_levels(xyz @ (np.linalg.inv(to_xyz(PRIMARIES[1])) @ white_to_d65(D50)).T)
