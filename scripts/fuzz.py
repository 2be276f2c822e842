"""Changes the sample photos at random and reads them, for some minutes: python scripts/fuzz.py --minutes 5

Each input is a number: `--only 1234` reads that one again.  A process of its own reads, so that a crash
is counted too, and its memory is bounded; one that takes longer than --patience seconds hangs.
The exit code is 0 where nothing crashed, hung or raised anything but a PhotoError.
"""

import argparse
import io
import multiprocessing
import random
import sys
import time
import warnings
from functools import cache
from multiprocessing.sharedctypes import Synchronized

import numpy as np
from PIL import Image

from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.types import PhotoError

FLAVOURS: list[tuple[str, str, dict[str, object]]] = [
    ("JPEG", "RGB", {"quality": 80}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("PNG", "I;16", {}),
    ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}), ("BMP", "RGB", {}),
    ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGBA", {"compression": "tiff_deflate"}),
]  # fmt: skip
EXTREMES = [
    b"\0",
    b"\xff",
    b"\x80",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\1\0",
]
MEMORY = 6 << 30  # bytes of address space that the reading process may have


@cache
def whole(sample: str, kind: int) -> bytes:
    name, mode, options = FLAVOURS[kind]
    with Image.open(find(f"samples/{sample}")[0]) as picture:
        small = picture.convert("RGB").resize((61, 43))
    wide = (
        Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else small.convert(mode)
    )
    file = io.BytesIO()
    wide.save(file, name, **options)
    return file.getvalue()


def changed(number: int) -> bytes:
    """The input of that number: a photo with one to eight changes, most of them near its start,
    where the headers are.
    """
    dice = random.Random(number)
    data = bytearray(whole(dice.choice(["cat", "rocket"]), dice.randrange(len(FLAVOURS))))
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(max(1, min(len(data), dice.choice([32, 128, 1024, 1 << 20]))))
        match dice.randrange(6):
            case 0:
                data[at : at + 1] = dice.randbytes(1)
            case 1:
                number_there = dice.choice(EXTREMES)
                data[at : at + len(number_there)] = number_there
            case 2:
                del data[at : at + dice.randint(1, 64)]
            case 3:
                data[at:at] = data[at : at + dice.randint(1, 64)]
            case 4:
                data[at : at + 8] = dice.randbytes(dice.randrange(16))
            case 5:
                other = whole("cat", dice.randrange(len(FLAVOURS)))
                data[at:] = other[dice.randrange(len(other)) :] if dice.random() < 0.2 else data[at:]
    return bytes(data)


def read_on(current: "Synchronized[int]", photos: "Synchronized[int]") -> None:
    """Reads one input after another; whatever is no PhotoError ends the process."""
    warnings.simplefilter("ignore")
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            load(changed(current.value))
            photos.value += 1
        except PhotoError:
            pass
        current.value += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--only", type=int, help="read this input and say what came of it")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds that one input may take")
    told = parser.parse_args()
    if told.only is not None:
        try:
            print(load(changed(told.only)).size)
        except PhotoError as error:
            print(error)
        return 0
    current, photos = multiprocessing.Value("q", told.first), multiprocessing.Value("q", 0)
    crashes: list[int] = []
    hangs: list[int] = []
    reader = None
    end, seen, since = time.monotonic() + 60 * told.minutes, -1, time.monotonic()
    while time.monotonic() < end:
        if reader is None:
            reader = multiprocessing.Process(target=read_on, args=(current, photos), daemon=True)
            reader.start()
            seen = -1
        time.sleep(0.2)
        if current.value != seen:
            seen, since = current.value, time.monotonic()
        if (dead := not reader.is_alive()) or time.monotonic() - since > told.patience:
            (crashes if dead else hangs).append(current.value)
            reader.kill()
            reader, current.value = None, current.value + 1
    if reader:
        reader.kill()
    read, broken = current.value - told.first, f"{len(crashes)} crashes {crashes}, {len(hangs)} hangs {hangs}"
    print(f"{read:,} inputs, {photos.value:,} of them photos; {broken}")
    return 1 if crashes or hangs else 0


if __name__ == "__main__":
    sys.exit(main())
