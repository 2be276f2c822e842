"""A cache is a backbone: the same call, the same features, from disk where they have been computed before.

<folder>/<network>/<picture>.safetensors: a file per photo, addressed by content.  <network> is a digest of
the weights' values, the layer, the precision and the like; <picture> one of the pixels that went into the
network.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from attnvis.backbone.backbone import Backbone
from attnvis.backbone.pace import PaceBook
from attnvis.backbone.tensor_file import UNREADABLE, read_tensors, tensors_digest
from attnvis.files import LONG_AGO, default_folder, remove_parts, write_bytes
from attnvis.geometry import as_placement
from attnvis.json_files import read_json
from attnvis.types import Batch, Features, Head, Placement, Preprocessing, Provenance

__all__ = ["Cached", "Entry", "cache_folder", "clear", "entries", "pace_book", "remembered"]

FORMAT = 4  # of the files; another number is another address
STORAGE = ("exact", "half")
# Patterns of our own names: what else lies in the folder is somebody's.
NETWORK = "[0-9a-f]" * 32
PICTURE = "[0-9a-f]" * 40 + ".safetensors"
ROUNDING = 1e-3  # pixels of a photo
ENGINES = "engines"  # the folder of what they were timed at
SHOWN = ("backbone", "layer", "precision", "storage")  # of about.json, by `attnvis cache`


class Cached:
    """A backbone whose features are kept on disk; what callers ask it beside features is the backbone's own.

    storage   exact: as the network gave them, so that nothing changes by a bit (bfloat16 stays bfloat16)
              half: float16, half of the room of float32; a token is then off by at most 2^-11 of its size
    limit     gigabytes; when there is more, what was used longest ago goes

    say       is told, once each, that a file was damaged and that none can be written

    Raises ValueError for another storage, and for a limit of nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        folder: Path,
        storage: str = "exact",
        limit: float = 20.0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if storage not in STORAGE:
            raise ValueError(f"unknown cache.storage {storage!r}: {' or '.join(STORAGE)}")
        if not limit > 0:
            raise ValueError(
                f"cache.limit must be above 0 gigabytes, not {limit}; to keep nothing use cache.use=false"
            )
        self.backbone, self.folder, self.storage, self.limit = backbone, folder, storage, limit
        self.say, self.complaints = say, set[str]()
        self.encoded = self.reused = 0  # photos that the network saw, photos read from disk
        # Bytes since the last look at the limit; the first write looks, or many short runs would outgrow it.
        self.written = math.inf

    def __call__(self, batch: Batch) -> tuple[Features, ...]:
        """The features of each layer, as the backbone would give them."""
        count = len(batch.photos)
        if self.backbone.digest == "random":  # nothing says which random weights they are
            self.encoded += count
            return self.backbone(batch)
        paths = [self.photo_file(batch, index) for index in range(count)]
        photos = [self.read(path, batch, index) for index, path in enumerate(paths)]
        kept = [layers for layers in photos if layers]
        if len(kept) == count and self.are_alike(kept, paths[0]):
            self.reused += count
            names = tuple(photo.name for photo in batch.photos)
            layers = zip(*kept, strict=True)
            return tuple(self.joined(list(layer), number, names) for number, layer in enumerate(layers))
        # All photos, in the company they came in: kernels differ by a bit with the batch.
        features = tuple(self.as_stored(layer) for layer in self.backbone(batch))
        self.encoded += count
        for index, path in enumerate(paths):
            self.write(path, features, index)
        return features

    def read(self, path: Path, batch: Batch, index: int) -> list[Features] | None:
        """One photo's features, layer by layer; None where they have to be computed."""
        try:
            layers = read_features(path)
            self.require_own(layers, batch, index)
        except FileNotFoundError:  # not there yet, or evicted meanwhile
            return None
        except UNREADABLE:
            self.complain_of_damage(path)
            return None
        with contextlib.suppress(OSError):  # somebody else's cache is read, though not touched
            os.utime(path)  # used today
        return layers

    def require_own(self, layers: Sequence[Features], batch: Batch, index: int) -> None:
        """Raises ValueError where features are not those of this network's layers, where its cells lie."""
        backbone, photo, view = self.backbone, batch.photos[index], batch.views[index]
        if tuple(features.layer for features in layers) != backbone.layers:
            raise ValueError("its layers are another network's")
        for number, features in enumerate(layers):
            place = backbone.cells.on_photo(view, features.grid, photo.size, number)
            if not lie_alike(features.placements[0], place):
                raise ValueError("its cells lie elsewhere")

    def are_alike(self, photos: Sequence[Sequence[Features]], path: Path) -> bool:
        """Whether photos of one shape have features of one shape; `path`: that of one of them."""
        shapes = {
            tuple((layer.tokens.shape, as_shape(layer.logits)) for layer in layers) for layers in photos
        }
        if len(shapes) > 1:
            self.complain_of_damage(path)
        return len(shapes) == 1

    def complain_of_damage(self, path: Path) -> None:
        self.complain("damaged", f"{path} in the cache is damaged; what is damaged there is computed anew")

    def complain(self, kind: str, text: str) -> None:
        """Once of each kind."""
        if kind not in self.complaints:
            self.complaints.add(kind)
            self.say(text)

    def as_stored(self, features: Features) -> Features:
        """What will be read from the file later."""
        if self.storage == "exact":
            return features
        return replace(features, tokens=features.tokens.clamp(-65504, 65504).half().float())

    def joined(self, photos: list[Features], number: int, names: tuple[str, ...]) -> Features:
        """One layer of several photos as a batch."""
        logits = [features.logits for features in photos if features.logits is not None]
        prefixes = [features.prefix for features in photos if features.prefix is not None]
        prefix = torch.cat(prefixes).to(self.backbone.device) if prefixes else None
        return replace(
            photos[0],
            tokens=torch.cat([features.tokens for features in photos]).to(self.backbone.device),
            placements=tuple(features.placements[0] for features in photos),
            head=self.backbone.head_beside(number, prefix),
            prefix=prefix,
            logits=torch.cat(logits).to(self.backbone.device) if logits else None,
            names=names,
        )

    @cached_property
    def network(self) -> Path:
        """This network's folder, named after everything that features depend on beside the picture."""
        backbone = self.backbone
        about = {
            "format": FORMAT,
            "backbone": backbone.name,
            "weights": backbone.digest,
            "layer": backbone.layer,
            "placement": backbone.describe().placement,
            "precision": str(backbone.dtype),
            "engine": backbone.engine.name,
            "device": backbone.device.type,
            "storage": self.storage,
        }
        content = json.dumps(about, sort_keys=True).encode()
        folder = self.folder / hashlib.sha256(content).hexdigest()[:32]
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / "about.json", content)
        remove_parts(folder, age=LONG_AGO)  # of processes that were killed
        return folder

    def photo_file(self, batch: Batch, index: int) -> Path:
        """Addressed by the very pixels that go into the network, and by where they lie on the photo."""
        pixels = np.ascontiguousarray(batch.images[index].permute(1, 2, 0).numpy())
        hasher = hashlib.sha256(pixels.data)
        hasher.update(json.dumps([batch.photos[index].size, asdict(batch.views[index])]).encode())
        return self.network / f"{hasher.hexdigest()[:40]}.safetensors"

    def write(self, path: Path, layers: tuple[Features, ...], index: int) -> None:
        """One photo of a batch.

        Processes that write one entry write the same; each puts its own whole file in place.
        """
        dtype = torch.float16 if self.storage == "half" else self.backbone.dtype
        tensors, entries = {}, []
        for number, features in enumerate(layers):
            tensors[f"tokens.{number}"] = features.tokens[index].to(dtype).cpu().contiguous()
            if features.logits is not None:
                tensors[f"logits.{number}"] = features.logits[index].cpu().contiguous()
            if features.prefix is not None:
                tensors[f"prefix.{number}"] = features.prefix[index].cpu().contiguous()
            placement = asdict(features.placements[index])
            entries.append({"layer": features.layer, "grid": features.grid, "placement": placement})
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            return  # the photo fails, with a reason, and may do so again
        digest = content_digest(path, entries, tensors)
        # one entry: of several the order is random
        content = save(tensors, {"attnvis": json.dumps({"digest": digest, "layers": entries})})
        try:  # a full or read-only cache costs time, not results
            write_bytes(path, content)
            self.written += len(content)
        except OSError as error:
            self.complain("unwritten", f"nothing can be kept in the cache {self.folder}: {error.strerror}")
        if self.written > self.limit * 1e9 / 20:
            self.written = 0
            shrink(self.folder, self.limit * 1e9)

    # The backbone's own, for whoever is given a cache in its place.

    def prepare(
        self,
        photos: int,
        workers: int = 1,
        sample: Batch | None = None,
        batch_size: int = 8,
        book: PaceBook | None = None,
    ) -> None:
        self.backbone.prepare(photos, workers, sample, batch_size=batch_size, book=book)

    def go_on(self, begun: Provenance, workers: int = 1) -> str:
        return self.backbone.go_on(begun, workers)

    def describe(self, how: Preprocessing | None = None) -> Provenance:
        return self.backbone.describe(how)

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.backbone.remarks

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.backbone.warnings

    def warnings_at(self, how: Preprocessing) -> tuple[str, ...]:
        return self.backbone.warnings_at(how)

    def class_caution(self, how: Preprocessing) -> str:
        return self.backbone.class_caution(how)

    @property
    def name(self) -> str:
        return self.backbone.name

    @property
    def weights(self) -> str:
        return self.backbone.weights

    @property
    def layer(self) -> str:
        return self.backbone.layer

    @property
    def layers(self) -> tuple[str, ...]:
        return self.backbone.layers

    @property
    def head(self) -> Head | None:
        return self.backbone.head

    @property
    def preprocessing(self) -> Preprocessing:
        return self.backbone.preprocessing


def content_digest(
    path: Path, layers: Sequence[Mapping[str, Any]], tensors: Mapping[str, torch.Tensor]
) -> str:
    """Of everything that a file holds, and of whose it is: another photo's under this name is none."""
    return tensors_digest(f"{path.parent.name}/{path.name}\n{json.dumps(layers)}", tensors)


def read_features(path: Path) -> list[Features]:
    """One photo's features, layer by layer.

    Raises FileNotFoundError, and one of UNREADABLE for a file that is not as written.
    """
    metadata, tensors = read_tensors(path)
    if metadata["digest"] != content_digest(path, metadata["layers"], tensors):
        raise ValueError("its content is not what was written")
    layers = []
    for number, entry in enumerate(metadata["layers"]):
        tokens, logits = tensors[f"tokens.{number}"].float(), tensors.get(f"logits.{number}")
        prefix = tensors.get(f"prefix.{number}")
        features = Features(
            tokens=tokens.unsqueeze(0),
            grid=tuple(entry["grid"]),
            placements=(as_placement(entry["placement"]),),
            logits=None if logits is None else logits.unsqueeze(0),
            layer=entry["layer"],
            prefix=None if prefix is None else prefix.unsqueeze(0),
        )
        if tokens.ndim != 2 or len(tokens) != math.prod(features.grid) or not tokens.isfinite().all():
            raise ValueError("its tokens are none of a grid")
        if features.placements[0].grid != features.grid:
            raise ValueError("its placement is another grid's")
        if prefix is not None and not (prefix.ndim == 2 and prefix.shape[1] == tokens.shape[1]):
            raise ValueError("its tokens that are no patches are none of its own")
        if logits is not None and not (logits.ndim == 1 and logits.isfinite().all()):
            raise ValueError("its logits are none")
        layers.append(features)
    return layers


def lie_alike(first: Placement, second: Placement) -> bool:
    """Whether the same cells lie at the same places of the same photo, but for rounding."""
    same = (first.grid, first.size, first.seen, first.source)
    numbers = zip((*first.first, *first.step), (*second.first, *second.step), strict=True)
    return same == (second.grid, second.size, second.seen, second.source) and all(
        abs(number - other) < ROUNDING for number, other in numbers
    )


def as_shape(tensor: torch.Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape)


@dataclass(frozen=True)
class Entry:
    """One network's part of a cache."""

    folder: Path
    about: dict[str, Any]
    photos: int
    size: int  # bytes


def entries(folder: Path) -> Iterator[Entry]:
    """The networks whose features lie in a cache; what else is there, or damaged, is none of them."""
    for about in sorted(folder.glob(f"{NETWORK}/about.json")):
        if about.parent.is_symlink():
            continue
        sizes = [size for _, size, _ in files(about.parent, PICTURE)]
        with contextlib.suppress(OSError, ValueError):
            record = read_json(about, most=1 << 20)
            if is_own_record(record):
                yield Entry(about.parent, record, len(sizes), sum(sizes))


def is_own_record(record: Mapping[str, Any]) -> bool:
    """Whether about.json says what a network's has to say, in words that a terminal can show."""
    return all(isinstance(record.get(name), str) and record[name].isprintable() for name in SHOWN)


def files(folder: Path, pattern: str) -> list[tuple[float, int, Path]]:
    """(last used, bytes, path) of every photo's file."""
    sizes = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another process evicted it meanwhile
            status = path.stat()
            sizes.append((status.st_mtime, status.st_size, path))
    return sizes


def shrink(folder: Path, limit: float) -> None:
    """What was used longest ago goes, until nine tenths of the limit are left."""
    oldest_first = sorted(files(folder, f"{NETWORK}/{PICTURE}"))
    total = sum(size for _, size, _ in oldest_first)
    if total <= limit:
        return
    for _, size, path in oldest_first:
        with contextlib.suppress(OSError):  # another user's stays
            path.unlink(missing_ok=True)
            total -= size
        if total <= 0.9 * limit:
            return


def clear(folder: Path) -> int:
    """Delete all entries, and what engines were timed at, and nothing else that lies there.

    Gives the bytes that were freed.
    """
    freed = 0
    for _, size, path in files(folder / ENGINES, f"{NETWORK}.json"):
        with contextlib.suppress(OSError):  # another user's stays
            path.unlink(missing_ok=True)
            freed += size
    for entry in list(entries(folder)):
        freed += entry.size
        shutil.rmtree(entry.folder, ignore_errors=True)
    return freed


def remembered(
    backbone: Backbone, settings: dict[str, Any], say: Callable[[str], None] = lambda text: None
) -> Backbone | Cached:
    """A backbone with a cache of these settings: use, folder, storage, limit; itself where none is used."""
    if not settings["use"]:
        return backbone
    folder, limit = cache_folder(settings["folder"]), float(settings["limit"])
    return Cached(backbone, folder, storage=settings["storage"], limit=limit, say=say)


def cache_folder(folder: str) -> Path:
    """What a setting stands for; "default": the user's own."""
    return default_folder() if folder == "default" else Path(folder)


def pace_book(settings: Mapping[str, Any], say: Callable[[str], None] = lambda text: None) -> PaceBook:
    """What engines were timed at here, with the cache's settings `engines` and `folder`."""
    folder = cache_folder(str(settings["folder"])) / ENGINES if settings["engines"] else None
    return PaceBook(folder, say)
