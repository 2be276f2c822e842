"""Files, bytes and arrays go in; upright RGB photos, and batches that a network can read, come out.

`find` names the files, `load` reads one, `fit` gives it the size that the network wants, `collate` stacks what fits together.
"""

import difflib
import glob
import hashlib
import os
import re
import stat
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from attnvis.values import Batch, Box, Photo, PhotoError, Preprocessing, View

__all__ = ["PhotoError", "collate", "find", "fit", "full_pixels", "load", "shape_key"]

Pixels = UInt8[np.ndarray, "h w 3"]

SAMPLES = {  # photos that scikit-image ships in its wheel
    "cat": "chelsea.png",
    "astronaut": "astronaut.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
    "camera": "camera.png",
}
NAMES = {Path(file).stem: file for file in SAMPLES.values()} | SAMPLES
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")  # no others: PIL would start Ghostscript for a .jpg that holds PostScript
MOST_PIXELS = 178_956_970  # where PIL sees a decompression bomb: 512 MiB of RGB
MOST_BYTES = 8 * MOST_PIXELS  # of a file: so many pixels of four 16-bit channels each, uncompressed
LONGEST = {"resize": 8, "crop": 64}  # long side : short side; a photo more elongated than this is squeezed, so that memory stays bounded

SWIFT = ("JPEG", "MPO", "PNG", "WEBP", "BMP")  # MPO: a telephone's JPEG that carries a second picture, such as a gain map
SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8)|(?P<PNG>\x89PNG)|(?P<WebP>RIFF....WEBP)|(?P<TIFF>II[*+]\0|MM\0[*+])|(?P<GIF>GIF8)|(?P<BMP>BM)", re.DOTALL
)
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
FLIP = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # EXIF orientation -> cv2.flip, after the transposition that 5 to 8 ask for
REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what goes wrong comes back as a PhotoError, once
warnings.filterwarnings("ignore", module=r"PIL\.")  # so does this; and PIL warns of bombs from half of MOST_PIXELS on


def find(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files meant by a photo, a folder (searched to the bottom), a glob, a .txt with one path a line, or a list of these.

    "samples" means scikit-image's photos and "samples/cat" one of them; a folder of that name is "./samples".  Sorted within each item;
    a file named twice comes once.  A missing file among others is left to `load`, which fails for it alone; alone it raises PhotoError.
    """
    items = [images] if isinstance(images, str | Path) else list(images)
    files: dict[str, Path] = {}
    for item in items:
        for path in expand(item):
            files.setdefault(os.path.abspath(path), path)
    if not files:
        raise PhotoError(f"no photos in the list {items}; give a file, a folder, a glob, a .txt list, or samples")
    if len(files) == 1 and not any(map(os.path.exists, files)):
        raise missing(*files.values())
    return list(files.values())


def expand(item: str | Path) -> list[Path]:
    """The files that one item stands for; an item that is nothing else is the name of a file, which need not exist."""
    if item == "samples":
        return [bundled(name) for name in SAMPLES]
    if isinstance(item, str) and item.startswith("samples/"):
        name = item.removeprefix("samples/")
        if name in NAMES or not (os.path.exists(item) or glob.has_magic(item)):
            return [bundled(name)]
    text = os.path.expanduser(item)
    if not text:
        raise PhotoError("an empty name was given for a photo; give a file, a folder, a glob, a .txt list, or samples")
    path = Path(text)
    if os.path.isdir(path):
        return ordered(below(text), f"no photos in the folder {path}")
    if os.path.isfile(path):
        return listed(path) if path.suffix.lower() == ".txt" else [path]
    if glob.has_magic(text):
        return ordered(matching(text), f"no photos match {text}")
    return [path]


def tree(root: str) -> Iterator[tuple[str, list[os.DirEntry[str]] | OSError]]:
    """A folder and the visible ones below it, each with its visible entries or why it cannot be opened.

    Links to folders are not followed, so a loop of links ends; and nothing recurses, so folders may lie deeper than Python calls.
    """
    waiting = [root]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            yield here, error
            continue
        yield here, entries
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def below(folder: str) -> Iterator[str]:
    """The photos of a folder, to the bottom.  A folder in it that cannot be opened is given too: it fails alone, with a reason."""
    for here, entries in tree(folder):
        if not isinstance(entries, OSError):
            yield from (entry.path for entry in entries if looks_like_a_photo(entry.path) and not os.path.isdir(entry.path))
        elif here == folder:
            raise PhotoError(f"the folder {folder} cannot be opened ({entries.strerror}); name photos or another folder")
        else:
            yield here


def matching(pattern: str) -> Iterator[str]:
    """The photos that a glob means; like a folder, ** does not follow links, of which glob.iglob would go round a loop for ever."""
    start, *rest = re.split(r"(?:^|(?<=/))(?:\*\*(?:/+|$))+", pattern, maxsplit=1)
    if not rest:
        yield from (path for path in glob.iglob(pattern) if looks_like_a_photo(path) and not os.path.isdir(path))
        return
    for root in glob.iglob(start) if start else ["."]:
        for here, _ in tree(root):
            yield from matching(os.path.join(glob.escape(here), rest[0] or "*"))


def looks_like_a_photo(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def ordered(photos: Iterable[str], otherwise: str) -> list[Path]:
    found = [Path(path) for path in sorted(set(photos), key=lambda path: path.split(os.sep))]
    if not found:
        raise PhotoError(f"{otherwise}; looked for {' '.join(SUFFIXES)}")
    return found


def listed(path: Path) -> list[Path]:
    lines = (line.strip() for line in read(path).decode("utf-8-sig", "surrogateescape").splitlines())
    found = [path.parent / os.path.expanduser(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise PhotoError(f"the list {path} names no photos; write one path a line, relative to the list")
    return found


def bundled(name: str) -> Path:
    """One of the samples, by its own name or by what it shows."""
    if name not in NAMES:
        raise PhotoError(f"there is no sample {name!r}{suggest(name, NAMES)}; the samples are {', '.join(SAMPLES)}")
    spec = find_spec("skimage")  # finds the package without importing it
    if spec is None or spec.origin is None:
        raise PhotoError("the samples come with scikit-image, which is not installed; pip install scikit-image, or name photos of yours")
    return Path(spec.origin).parent / "data" / NAMES[name]


def missing(path: Path) -> PhotoError:
    if not os.path.isdir(path.parent):
        return PhotoError(f"no such photo: {path}; there is no folder {path.parent}")
    try:
        with os.scandir(path.parent) as entries:  # not all: a list may name thousands that are missing, in a folder of a million
            names = [entry.name for entry in islice(entries, 1000) if entry.name != path.name]  # a dangling link is there itself
    except OSError:
        names = []
    return PhotoError(f"no such photo: {path}{suggest(path.name, names) or f'; see what lies in {path.parent.absolute()}'}")


def suggest(name: str, names: Iterable[str]) -> str:
    known = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), known)
    return f"; did you mean {' or '.join(known[name] for name in near)}?" if near else ""


def load(source: Path | str | bytes | np.ndarray, short: int | None = None, name: str | None = None) -> Photo:
    """The upright 8-bit RGB photo in a file, in a file's bytes, or in an array (uint8, or float in [0, 1]; RGB or grey).

    Transparency is laid on white, 16 bits become 8, of several frames the first counts.  Where the network needs no more than `short`
    pixels on the short side, a JPEG file may be decoded to 1/2, 1/4 or 1/8, never below twice that.  Raises PhotoError, nothing else.
    """
    if isinstance(source, np.ndarray):
        pixels = from_array(source)
        digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        return Photo(name or f"array-{digest[:12]}", pixels, pixels.shape[:2], digest)
    if isinstance(source, bytes):
        digest = hashlib.sha256(source).hexdigest()
        name = name or f"photo-{digest[:12]}"
        return Photo(name, *decode(source, name, None), digest)  # never reduced: there is no file to go back to
    path = Path(source)
    data = read(path)
    return Photo(name or path.name, *decode(data, str(path), short), hashlib.sha256(data).hexdigest(), path)


def full_pixels(photo: Photo) -> Pixels:
    """The pixels at the photo's own size; a photo that was decoded reduced is read again."""
    if photo.pixels.shape[:2] == photo.size or photo.path is None:
        return photo.pixels
    again = load(photo.path)
    if again.digest != photo.digest:
        raise PhotoError(f"{photo.path} changed since it was read; run again")
    return again.pixels


def from_array(array: np.ndarray) -> Pixels:
    """A copy, so that neither side can change the other's pixels."""
    given = f"an array {list(array.shape)} of {array.dtype}"
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise PhotoError(f"{given} is no photo; give [height, width, 3] in RGB or [height, width] in grey")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails too
            raise PhotoError(
                f"{given} reaches from {array.min():g} to {array.max():g}; floats must lie in [0, 1]: divide by the largest value"
            )
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise PhotoError(f"{given} is no photo; give uint8, or floats in [0, 1]")
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array.copy(order="C")


def read(path: Path) -> bytes:
    """A file's bytes.  Never waits for a pipe, never opens a device, never takes in more than MOST_BYTES."""
    try:
        check(path, os.stat(path))  # first: to open a device may set something off
        with open(path, "rb", opener=without_waiting) as file:
            status = os.fstat(file.fileno())
            check(path, status)  # again: it may have become another meanwhile
            return file.read(status.st_size)
    except FileNotFoundError:
        raise missing(path) from None
    except PermissionError:
        raise PhotoError(f"{path} may not be read (permission denied); allow it with chmod +r") from None
    except MemoryError:
        raise PhotoError(f"{path} does not fit into memory; shrink it, or close other programs") from None
    except PhotoError:
        raise
    except (OSError, ValueError) as error:
        raise PhotoError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); check the name and the disk") from None


def check(path: Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise PhotoError(f"{path} is a folder, not a photo; name a photo in it, or let find() list them")
    if kind != stat.S_IFREG:
        what = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}.get(kind, "a device")
        raise PhotoError(f"{path} is {what}, not a photo; save the photo to a file and name that")
    if status.st_size > MOST_BYTES:
        raise PhotoError(f"{path} has {status.st_size:,} bytes, which is more than any photo's {MOST_BYTES:,}; see whether it is one")


def without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def decode(data: bytes, name: str, short: int | None) -> tuple[Pixels, tuple[int, int]]:
    """The upright pixels of a file, and its upright size."""
    if not data:
        raise PhotoError(f"{name} is empty (0 bytes); copy or download it again")
    kind = SIGNATURE.match(data)
    try:
        header = Image.open(BytesIO(data), formats=FORMATS)  # reads no pixels
        if header.width * header.height > MOST_PIXELS:
            raise Image.DecompressionBombError  # PIL raises it too, unless told otherwise
        if header.format == "PNG":
            header.verify()  # the checksums, .2 ms: libpng would complain on stderr
        if kind and kind.lastgroup == "JPEG" and not ends(data):
            raise EOFError("no end marker")  # cv2 may return such a photo half grey
        return swiftly(header, data, short) or patiently(data)
    except Image.DecompressionBombError:
        raise PhotoError(f"{name} claims more than {MOST_PIXELS:,} pixels; if it is genuine, shrink it first") from None
    except PhotoError as error:
        raise PhotoError(f"{name}: {error}") from None
    except MemoryError:
        raise PhotoError(f"{name} does not fit into memory; shrink it, or close other programs") from None
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        if kind is None:
            raise PhotoError(f"{name} is no photo: it begins with {data[:8]!r}; save it as JPEG, PNG, WebP, TIFF, GIF or BMP") from None
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"  # that one tells the address of a BytesIO
        raise PhotoError(f"{name} is a damaged or truncated {kind.lastgroup}{reason}; copy or download it again") from None


def ends(jpeg: bytes) -> bool:
    """Whether an end marker follows the scan; the thumbnail in the EXIF segment has one of its own, so segments are stepped over."""
    at = 2
    while marker := MARKER.search(jpeg, at):
        code, at = marker[1][0], marker.end()
        if code == 0xDA:
            return jpeg.rfind(b"\xff\xd9", at) >= 0
        if not (code == 0x01 or 0xD0 <= code <= 0xD9):  # those have no body
            at += int.from_bytes(jpeg[at : at + 2], "big")
    return False


def swiftly(header: Image.Image, data: bytes, short: int | None) -> tuple[Pixels, tuple[int, int]] | None:
    """By OpenCV, half again as fast as PIL; None for what it gets wrong or cannot read."""
    jpeg = header.format in ("JPEG", "MPO")
    plain = header.mode in ("1", "L", "P", "RGB") and not header.has_transparency_data
    moves = not jpeg and getattr(header, "is_animated", False)
    late_exif = header.format == "PNG" and b"eXIf" in data and "exif" not in header.info
    if header.format not in SWIFT or not plain or moves or late_exif:
        return None
    reduction = 1
    if jpeg and short is not None:
        reduction = next((by for by in (8, 4, 2) if min(header.size) // by >= 2 * short), 1)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if pixels is None:
        return None
    orientation = orientation_of(header)
    size = header.size if orientation in (5, 6, 7, 8) else header.size[::-1]
    return upright(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), orientation), size


def patiently(data: bytes) -> tuple[Pixels, tuple[int, int]]:
    """By PIL: TIFF (which it turns upright itself), GIF, CMYK, transparency, and 16 bits of grey."""
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
            pixels[top : top + step] = flat(picture.crop((0, top, width, min(top + step, height))))
    pixels = upright(pixels, orientation)
    return pixels, pixels.shape[:2]


def flat(picture: Image.Image) -> Pixels:
    """8 bits of RGB, on white."""
    if picture.mode.startswith("I;16"):  # PIL's own conversion clips; in 16-bit RGB it keeps the high byte, as OpenCV does
        return from_array(np.asarray(picture).astype(np.float32) / 65535)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"))


def orientation_of(picture: Image.Image) -> int:
    try:
        value = Image.Image.getexif(picture).get(0x0112)  # the method of the base class: PNG's would decode the picture first
    except Exception:
        value = None  # a damaged EXIF block says nothing about a photo that is whole
    return value if isinstance(value, int) else 1


def upright(pixels: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    if orientation in (5, 6, 7, 8):
        pixels = cv2.transpose(pixels)
    return cv2.flip(pixels, FLIP[orientation]) if orientation in FLIP else pixels


def fit(photo: Photo, how: Preprocessing) -> tuple[Pixels, View]:
    """The network input for a photo, in 8 bits, and where it lies on the photo.

    resize: the whole photo, short side = size, long side = size + a multiple, at most 8 x size; the aspect changes by a hair.
    crop: short side = resize, then the centre: the geometry of torchvision's Resize and CenterCrop; aspects beyond 64 are squeezed.
    letterbox: long side = size, centred on the mean colour.  stretch: both sides = size.
    """
    full, size = layout(photo.size, how)
    shift = [round((side - whole) / 2) for side, whole in zip(size, full, strict=True)]  # negative: cut off; positive: margin
    scale = [whole / side for whole, side in zip(full, photo.size, strict=True)]
    cut, margin = [max(0, -s) for s in shift], [max(0, s) for s in shift]
    inside = [min(side, whole) for side, whole in zip(size, full, strict=True)]

    # Reduced pixels end with a partial block: less than half an input pixel at the far edge.
    enough = photo.pixels.shape[0] >= full[0] and photo.pixels.shape[1] >= full[1]
    pixels = resample(photo.pixels if enough else full_pixels(photo), full)
    pixels = pixels[cut[0] : cut[0] + size[0], cut[1] : cut[1] + size[1]]
    if pixels.shape[:2] != size:
        canvas = np.full((*size, 3), [round(255 * mean) for mean in how.mean], np.uint8)
        canvas[margin[0] : margin[0] + inside[0], margin[1] : margin[1] + inside[1]] = pixels
        pixels = canvas

    height, width = (i * side / whole for i, side, whole in zip(inside, photo.size, full, strict=True))
    seen = Box(cut[0] / scale[0], cut[1] / scale[1], height, width)
    return pixels, View((scale[0], scale[1]), (float(shift[0]), float(shift[1])), seen, size)


def layout(size: tuple[int, int], how: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the whole photo is resampled to, and the size of the input: the two differ for crop (larger) and letterbox (smaller)."""
    short, long = sorted(size)
    side, square = how.size, (how.size, how.size)
    if not 32 <= side <= 8192 or how.multiple < 1:
        raise ValueError(f"size {side} with multiple {how.multiple}; give a size from 32 to 8192 pixels and a multiple of at least 1")
    match how.fit:
        case "resize":
            steps = min(round((side * long / short - side) / how.multiple), (LONGEST["resize"] - 1) * side // how.multiple)
            sides = side, side + steps * how.multiple
        case "crop":
            first = side if how.resize is None else how.resize
            if not side <= first <= 8192:
                raise ValueError(f"resize {first} before a crop of {side}; give at least the size of the crop, at most 8192")
            sides = first, min(int(first * long / short), LONGEST["crop"] * first)
        case "letterbox":
            sides = max(1, round(side * short / long)), side
        case "stretch":
            sides = square
        case _:
            raise ValueError(f"there is no fit {how.fit!r}; choose resize, crop, letterbox or stretch")
    full = sides if size[0] <= size[1] else sides[::-1]
    return full, square if how.fit in ("crop", "letterbox") else full


def resample(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """First what shrinks, averaged over areas, then what grows: OpenCV antialiases only where no axis grows."""
    height, width = (min(sides) for sides in zip(pixels.shape[:2], size, strict=True))
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return pixels if (height, width) == size else cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)


def shape_key(photo: Photo, how: Preprocessing) -> Hashable:
    """Equal for photos that may share a batch: one input size and, letterboxed, one rectangle in it.  Told from sizes alone."""
    full, size = layout(photo.size, how)
    return (size, full) if how.fit == "letterbox" else size


def collate(photos: Sequence[Photo], how: Preprocessing) -> Batch:
    """(rgb / 255 - mean) / std, in channels_last memory, which convolutions prefer.  The photos share a `shape_key`."""
    fitted = [fit(photo, how) for photo in photos]
    sizes = {view.size: photo.name for photo, (_, view) in zip(photos, fitted, strict=True)}
    if len(sizes) != 1:
        raise ValueError(f"a batch has photos of one input size, not {sizes or 'none'}; group them by shape_key, or use a square fit")
    table = ((np.arange(256)[:, None] / 255 - how.mean) / how.std).astype(np.float32)  # [256, 3]
    images = np.stack([cv2.LUT(pixels, table[None]) for pixels, _ in fitted])  # [B, H, W, 3]
    return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), tuple(view for _, view in fitted), tuple(photos))
