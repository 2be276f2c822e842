"""A query that sees other photos or files, prepared: they are read once, before the first photo."""

import io
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from attnvis.attention import keys
from attnvis.attention.keys import KeyFunction
from attnvis.attention.query.given import Outside
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import prepare
from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.errors import in_one_line
from attnvis.files import read_bytes
from attnvis.methods.attention import Encoder
from attnvis.pipeline.streaming import read_photo
from attnvis.types import Features, Photo, PhotoError, Preprocessing, Source

__all__ = ["photos_named", "prepared", "prepared_keys", "read_mask", "read_vectors"]


def prepared(
    query: QueryFunction, backbone: Encoder, how: Preprocessing, photos: Iterable[Source | Photo] | None = ()
) -> QueryFunction:
    """The query with its exemplars looked at and its files read; one without any is itself.

    photos: the run's own, for exemplar:run; files, or what was decoded; None where they are too many.

    Raises ValueError for an exemplar that is no photo, and for files that hold no mask or no vector.
    """

    def own() -> Iterable[Source | Photo]:
        if photos is None:
            raise ValueError(
                "query exemplar:run reads all photos before the first, and in shards no process does; "
                "name a folder of some: exemplar:FOLDER"
            )
        return photos

    def encode(name: str) -> Iterator[Sequence[Features]]:
        for source in own() if name == "run" else photos_named(name):
            try:
                yield backbone(collate([as_photo(source, how)], how))
            except PhotoError as error:
                if name != "run":  # what is wrong with a photo of its own the run says when its turn comes
                    raise ValueError(f"query exemplar:{name}: {error}") from None

    return prepare(query, Outside(encode, read_mask, read_vectors))


def prepared_keys(function: KeyFunction) -> KeyFunction:
    """The keys with their matrix read; others are themselves.  Raises ValueError for what is no matrix."""
    if not isinstance(function, partial) or function.func is not keys.linear:
        return function
    file = function.keywords["file"]
    matrix = read_numbers(file, "matrix")
    if matrix.ndim != 2 or not matrix.numel() or not matrix.isfinite().all():
        raise ValueError(f"keys linear:{file} holds {list(matrix.shape)}; a matrix is [K, D], all finite")
    return keys.Linear(file, matrix)


def as_photo(source: Source | Photo, how: Preprocessing) -> Photo:
    return source if isinstance(source, Photo) else read_photo(source, how)


def photos_named(name: str) -> list[Source]:
    """Raises ValueError: without an exemplar no photo can be asked."""
    try:
        return find(name)
    except PhotoError as error:
        raise ValueError(f"query exemplar:{name}: {error}") from None


def read_mask(file: str) -> Bool[np.ndarray, "H W"]:
    """Where a picture is light.  Raises ValueError for what is none."""
    try:
        return load(Path(file)).pixels.mean(2) > 127
    except PhotoError as error:
        raise ValueError(f"mask:{file} is no polygon, x,y,x,y,x,y, and no picture: {error}") from None


def read_numbers(file: str, what: str) -> Tensor:
    """The one array of a file.  Raises ValueError for what holds none."""
    try:
        content = read_bytes(Path(file))
        return only_array(content) if file.endswith(".npy") else only_tensor(content)
    except FileNotFoundError:
        raise ValueError(f"there is no file {file}, from which the {what} was to be read") from None
    except (OSError, EOFError, TypeError, ValueError, SafetensorError) as error:
        reason = in_one_line(error)
        raise ValueError(
            f"no {what} can be read from {file} ({reason}); give a .npy or .safetensors"
        ) from None


def read_vectors(file: str) -> Float[Tensor, "Q D"]:
    """Raises ValueError for what holds no vector."""
    numbers = read_numbers(file, "vector")
    if numbers.ndim not in (1, 2) or not numbers.numel() or not numbers.isfinite().all():
        raise ValueError(
            f"{file} holds {list(numbers.shape)}; a query's vector is [D], several are [Q, D], all finite"
        )
    return numbers.reshape(-1, numbers.shape[-1])


def only_array(content: bytes) -> Tensor:
    return torch.from_numpy(np.asarray(np.load(io.BytesIO(content), allow_pickle=False), np.float64))


def only_tensor(content: bytes) -> Tensor:
    tensors = load_tensors(content)
    if len(tensors) != 1:
        raise ValueError(f"it holds {len(tensors)} tensors, and one is wanted")
    return next(iter(tensors.values())).double()
