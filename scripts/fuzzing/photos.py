"""A person's own files: photos, lists of them, files of weights."""

import io
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.common import Damage, Kind
from fuzzing.mutations import damage, damage_bytes

FLAVOURS: list[tuple[str, str, dict[str, object]]] = [
    ("JPEG", "RGB", {"quality": 80}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("PNG", "I;16", {}),
    ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}), ("BMP", "RGB", {}),
    ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGBA", {"compression": "tiff_deflate"}),
]  # fmt: skip


@cache
def whole_photo(sample: str, kind: int) -> bytes:
    from attnvis.data.paths import find

    name, mode, options = FLAVOURS[kind]
    with Image.open(str(find(f"samples/{sample}")[0])) as picture:
        small = picture.convert("RGB").resize((61, 43))
    wide = (
        Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else small.convert(mode)
    )
    file = io.BytesIO()
    wide.save(file, name, **options)
    return file.getvalue()


def spoil_photo(_: Any, dice: random.Random) -> Damage:
    photo = whole_photo(dice.choice(["cat", "rocket"]), dice.randrange(len(FLAVOURS)))
    others = tuple(whole_photo("cat", kind) for kind in range(len(FLAVOURS)))
    Path("out/photo").write_bytes(damage_bytes(photo, dice, others))
    return Damage("bytes")


def read_photo(_: Any) -> Any:
    from attnvis.data.decoding import load

    return load(Path("out/photo")).size


def make_list() -> list[str]:
    names = ["a.jpg", "b c.png", "кот.jpg", "été.jpg", "sub/d.tif", "gone.jpg"]
    for name in names[:-1]:
        Path("out", name).parent.mkdir(exist_ok=True)
        Path("out", name).write_bytes(b"x")
    Path("out/list.txt").write_text("\n".join(names), "utf-8")
    return names


def spoil_list(names: list[str], dice: random.Random) -> Damage:
    lines = [*names, "# comment", "", '"b c.png"', "list.txt", "sub", " a.jpg "]
    dice.shuffle(lines)
    lines += dice.choices(
        ["http://x/a.jpg", "s3cret-word", "../../etc/passwd", "\x1b[31m.jpg", "a.jpg\0", "é" * 300],
        k=dice.randrange(3),
    )
    encoding = dice.choice(
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1251", "latin-1", "utf-32", "cp932"]
    )
    data = dice.choice(["\n", "\r\n", "\r"]).join(lines).encode(encoding, "replace")
    if dice.random() < 0.7:
        data = damage_bytes(data, dice)
    Path("out/list.txt").write_bytes(data)
    if dice.random() < 0.1:
        return Damage(damage(Path("out"), ["list.txt"], Path("outside/victim").absolute(), dice))
    return Damage(encoding)


def read_list(_: Any) -> Any:
    from attnvis.data.paths import find
    from attnvis.data.reading import SUFFIXES
    from attnvis.data.sources import Stored

    try:
        paths = find("out/list.txt")
    except ValueError as error:
        shown = [word for word in ("s3cret", "mine") if word in str(error)]
        if shown:
            raise AssertionError("it shows what is in the file") from error
        raise
    for path in paths:
        is_file = os.path.lexists(str(path)) or str(path).lower().endswith(SUFFIXES)
        assert is_file or isinstance(path, Stored), path  # what lies at an address is read in its turn
    return len(paths)


def make_weights() -> Any:
    import torch
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.zeros(3), "n": torch.tensor(3)}
    torch.save(state, "out/new.pth")
    torch.save({"state_dict": state}, "out/old.pth", _use_new_zipfile_serialization=False)
    save_file(state, "out/w.safetensors")
    return None


def spoil_weights(_: Any, dice: random.Random) -> Damage:
    names = ["new.pth", "old.pth", "w.safetensors"]
    name = dice.choice(names)
    path = Path("out", name)
    content = path.read_bytes()
    others = tuple(Path("out", other).read_bytes() for other in names)
    path.write_bytes(damage_bytes(content, dice, others))
    what = "bytes"
    if dice.random() < 0.1:
        what = damage(Path("out"), [name], Path("outside/victim").absolute(), dice)
    if path.name != name:
        return Damage(what)
    for other in names:
        if other != name:
            Path("out", other).unlink(missing_ok=True)
    return Damage(f"{what} {name}")


def read_weights_file(_: Any) -> Any:
    from attnvis.backbone.checkpoint_file import read_checkpoint

    path = next(
        (path for path in sorted(Path("out").iterdir()) if path.suffix in (".pth", ".safetensors")), None
    )
    return sorted(read_checkpoint(path or Path("out/gone.pth")))


KINDS = {
    "photos": Kind(lambda: None, spoil_photo, read_photo, exact=False),
    "lists": Kind(make_list, spoil_list, read_list, exact=False),
    "weights": Kind(make_weights, spoil_weights, read_weights_file, exact=False),
}
