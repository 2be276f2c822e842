"""A cache is a backbone: the same call, the same features, from disk where they have been computed before.

<folder>/<network>/<picture>.safetensors: a file per photo, addressed by content.  <network> is a digest of the weights' values, the layer,
the precision and the like; <picture> one of the pixels that went into the network.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from attnvis.backbone.backbone import Backbone
from attnvis.files import default_folder, write_bytes
from attnvis.geometry import as_placement
from attnvis.types import Batch, Features

__all__ = ["Cached", "Entry", "clear", "entries", "remembered"]

FORMAT = 2  # of the files; another number is another address
STORAGE = ("exact", "half")
NETWORK, PICTURE = (
    "[0-9a-f]" * 32,
    "[0-9a-f]" * 40 + ".safetensors",
)  # what else lies in the folder is somebody's


class Cached:
    """A backbone whose features are kept.  What is not about calling it is the backbone's own.

    storage   exact: as the network gave them, so that nothing changes by a bit (bfloat16 stays bfloat16)
              half: float16, half of the room of float32; a token is then off by at most 2^-11 of its size
    limit     gigabytes; when there is more, what was used longest ago goes
    """

    def __init__(self, backbone: Backbone, folder: Path, storage: str = "exact", limit: float = 20.0) -> None:
        if storage not in STORAGE:
            raise ValueError(f"unknown cache.storage {storage!r}: {' or '.join(STORAGE)}")
        if not limit > 0:
            raise ValueError(
                f"cache.limit must be above 0 gigabytes, not {limit}; to keep nothing use cache.use=false"
            )
        self.backbone, self.folder, self.storage, self.limit = backbone, folder, storage, limit
        self.encoded = self.found = 0  # photos that the network saw, photos read from disk
        self.written = math.inf  # bytes since the last look at the limit; the first write looks, or many short runs would outgrow it

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def __call__(self, batch: Batch) -> tuple[Features, ...]:
        """What each layer says, as the backbone would."""
        if self.backbone.digest == "random":  # nothing says which random weights they are
            self.encoded += len(batch.photos)
            return self.backbone(batch)
        places = [self.place(batch, number) for number in range(len(batch.photos))]
        photos = [self.read(place) for place in places]
        if all(photos):
            self.found += len(photos)
            names = tuple(photo.name for photo in batch.photos)
            layers = zip(*[layers for layers in photos if layers], strict=True)
            return tuple(self.joined(list(layer), number, names) for number, layer in enumerate(layers))
        # all of them, in the company they were asked in: kernels differ by a bit with the batch
        features = self.backbone(batch)
        self.encoded += len(batch.photos)
        stored = tuple(self.stored(layer) for layer in features)
        for number, place in enumerate(places):
            self.write(place, stored, number)
        return stored

    def stored(self, features: Features) -> Features:
        """Now as it will be read later."""
        return (
            replace(features, tokens=features.tokens.clamp(-65504, 65504).half().float())
            if self.storage == "half"
            else features
        )

    def joined(self, photos: list[Features], number: int, names: tuple[str, ...]) -> Features:
        """One layer of several photos as a batch."""
        logits = [features.logits for features in photos if features.logits is not None]
        return replace(
            photos[0],
            tokens=torch.cat([features.tokens for features in photos]).to(self.backbone.device),
            placements=tuple(features.placements[0] for features in photos),
            head=self.backbone.heads[number],
            logits=torch.cat(logits).to(self.backbone.device) if logits else None,
            names=names,
        )

    @cached_property
    def network(self) -> Path:
        """The folder for what this network says: named after everything that features depend on beside the picture."""
        own = self.backbone
        about = {
            "format": FORMAT, "backbone": own.name, "weights": own.digest, "layer": own.layer, "placement": own.describe()["placement"],
            "precision": str(own.dtype), "engine": own.engine, "device": own.device.type, "storage": self.storage,
        }  # fmt: skip
        told = json.dumps(about, sort_keys=True).encode()
        folder = self.folder / hashlib.sha256(told).hexdigest()[:32]
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / "about.json", told)
        return folder

    def place(self, batch: Batch, number: int) -> Path:
        """The address of one picture: the very pixels that go into the network, and where they lie on the photo."""
        hasher = hashlib.sha256(np.ascontiguousarray(batch.images[number].permute(1, 2, 0).numpy()).data)
        hasher.update(json.dumps([batch.photos[number].size, asdict(batch.views[number])]).encode())
        return self.network / f"{hasher.hexdigest()[:40]}.safetensors"

    def read(self, path: Path) -> list[Features] | None:
        """A photo's features, layer by layer."""
        try:
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {})["attnvis"])
                found = []
                for number, entry in enumerate(told):
                    tokens = file.get_tensor(f"tokens.{number}").float().unsqueeze(0)
                    has_logits = f"logits.{number}" in file.keys()  # noqa: SIM118 - not a dict
                    logits = file.get_tensor(f"logits.{number}").unsqueeze(0) if has_logits else None
                    placement = as_placement(entry["placement"])
                    found.append(
                        Features(
                            tokens, tuple(entry["grid"]), (placement,), logits=logits, layer=entry["layer"]
                        )
                    )
        except (
            OSError,
            SafetensorError,
            KeyError,
            TypeError,
            ValueError,
        ):  # absent, evicted meanwhile, or damaged: computed again
            return None
        with contextlib.suppress(OSError):  # somebody else's cache is read, though not touched
            os.utime(path)  # used today
        return found

    def write(self, path: Path, layers: tuple[Features, ...], number: int) -> None:
        """Two processes that write one entry write the same; each puts its own whole file in place."""
        dtype, tensors = torch.float16 if self.storage == "half" else self.backbone.dtype, {}
        for layer, features in enumerate(layers):
            tensors[f"tokens.{layer}"] = features.tokens[number].to(dtype).cpu().contiguous()
            if features.logits is not None:
                tensors[f"logits.{layer}"] = features.logits[number].cpu().contiguous()
        told = [
            {"layer": one.layer, "grid": one.grid, "placement": asdict(one.placements[number])}
            for one in layers
        ]
        content = save(tensors, {"attnvis": json.dumps(told)})
        with contextlib.suppress(OSError):  # a full or read-only cache costs time, not results
            write_bytes(path, content)
            self.written += len(content)
        if self.written > self.limit * 1e9 / 20:
            self.written = 0
            shrink(self.folder, self.limit * 1e9)


@dataclass(frozen=True)
class Entry:
    """One network's part of a cache."""

    folder: Path
    about: dict[str, Any]
    photos: int
    size: int  # bytes


def entries(folder: Path) -> Iterator[Entry]:
    for about in sorted(folder.glob(f"{NETWORK}/about.json")):
        sizes = [size for _, size, _ in files(about.parent, PICTURE)]
        with contextlib.suppress(OSError, ValueError):
            yield Entry(about.parent, json.loads(about.read_text(encoding="utf-8")), len(sizes), sum(sizes))


def files(folder: Path, pattern: str) -> list[tuple[float, int, Path]]:
    """(last used, bytes, path) of every photo's file."""
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another process evicted it meanwhile
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    return found


def shrink(folder: Path, limit: float) -> None:
    """What was used longest ago goes, until nine tenths of the limit are left."""
    kept = sorted(files(folder, f"{NETWORK}/{PICTURE}"))
    total = sum(size for _, size, _ in kept)
    if total <= limit:
        return
    for _, size, path in kept:
        with contextlib.suppress(OSError):  # another user's stays
            path.unlink(missing_ok=True)
            total -= size
        if total <= 0.9 * limit:
            return


def clear(folder: Path) -> int:
    """Delete all entries (and nothing else that lies there); gives the bytes that were freed."""
    freed = 0
    for entry in list(entries(folder)):
        freed += entry.size
        shutil.rmtree(entry.folder, ignore_errors=True)
    return freed


def remembered(backbone: "Backbone", settings: dict[str, Any]) -> "Backbone | Cached":
    if not settings["use"]:
        return backbone
    return Cached(backbone, place_of(settings["folder"]), settings["storage"], float(settings["limit"]))


def place_of(folder: str) -> Path:
    return default_folder() if folder == "default" else Path(folder)
