"""A file of weights in, its tensors by their full names out; no code in a file is ever run.

What a file is, its first bytes tell, and never its name.  A full name is the path through nested dictionaries
and the tensor's own name: `state_dict.model.conv1.weight`.
"""

import argparse
import contextlib
import json
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnvis.files import read_bytes
from attnvis.types import UnavailableError

__all__ = ["read_checkpoint"]

HEAD = 512  # bytes that tell what a file is
DEEPEST = 16  # dictionaries inside one another
MOST_INDEX = 1 << 26  # bytes of an index of shards, and of a pickle without its tensors
TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # of torch.save before PyTorch 1.6
HARMLESS: list[Any] = [argparse.Namespace]  # a bag of values: making one runs nothing

# First bytes -> what a file is that holds no weights of PyTorch, and what to do.
FOREIGN = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes; give a checkpoint of PyTorch",
    b"\x93NUMPY": "one array of numpy, without names; give a file that holds the whole state dict",
    b"GGUF": "a GGUF file; give a checkpoint of PyTorch",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS and not the file itself; fetch that with git lfs pull",
}
WEB_PAGE = re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE)
PROTOBUF = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]")  # a version, then a text or a part

# What takes the tensors out of anything that was pickled, whole modules too; run by a person, never here.
TENSORS_ALONE = (
    "f = lambda x: f(x.state_dict()) if isinstance(x, torch.nn.Module) else "
    "{k: f(v) for k, v in x.items() if isinstance(k, str)} if isinstance(x, dict) else {leaf}; "
)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file by its full name, on the CPU, in the file's order.

    torch.save's zip archives and older pickles, safetensors, and the `*.index.json` of either's shards.
    Raises UnavailableError where there is no file, ValueError for one that is damaged, could run code, is
    something else, or holds tensors that are sparse, quantised or without values.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in leaves(load(path)):
        tensors.setdefault(name, tensor.detach())
    if not tensors:
        raise ValueError(f"{path} does not hold a state dict (names -> tensors); save model.state_dict()")
    for name, tensor in tensors.items():
        require_plain(tensor, name, path)
    return tensors


def leaves(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dictionaries and lists; each of these is gone through once, loops too."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), loaded)]
    seen: set[int] = set()
    while pending:
        place, value = pending.pop()
        if isinstance(value, Tensor):
            yield ".".join(place), value
            continue
        if id(value) in seen or len(place) >= DEEPEST:
            continue
        if isinstance(value, Mapping):
            entries = [(str(key), inner) for key, inner in value.items() if isinstance(key, str | int)]
        elif isinstance(value, list | tuple):
            entries = [(str(number), inner) for number, inner in enumerate(value)]
        else:
            continue
        seen.add(id(value))
        pending += [((*place, key), inner) for key, inner in reversed(entries)]


def require_plain(tensor: Tensor, name: str, path: Path) -> None:
    """Raises ValueError for a tensor that is not simply its numbers, each stored once."""
    kind = ""
    if tensor.is_meta:
        kind = "has a shape but no values (it was saved from the device meta)"
    elif tensor.layout != torch.strided:
        kind = "is sparse; save it as tensor.to_dense()"
    elif tensor.is_quantized:
        kind = "is quantised; save it as tensor.dequantize()"
    elif tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        kind = "unfolds to more numbers than the file holds; save it as tensor.clone()"
    if kind:
        raise ValueError(f"{path}: the tensor {name} {kind}, and was not loaded")


def load(path: Path, is_shard: bool = False) -> Any:
    """What a file holds, as nested as it was saved; told by its first bytes.  Raises as `read_checkpoint`."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; {advice_on_folder(path)}")
    if not path.is_file():
        raise UnavailableError(
            f"no weights file {path}; give an existing file such as .safetensors, .pth or .ckpt, "
            "an enum name, or random"
        )
    with path.open("rb") as file:
        head = file.read(HEAD)
    size = path.stat().st_size
    if is_safetensors(head):
        return load_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        return load_zip(path)
    if head.startswith(b"\x80"):
        return load_pickle(path, head)
    if head.lstrip().startswith(b"{") and not is_shard:
        return load_shards(path)
    raise ValueError(f"{path} is {foreign(head, size)}")


def foreign(head: bytes, size: int) -> str:
    """What a file is that is none of ours, by its first bytes, and what to do."""
    if not size:
        return "an empty file; save or download it again"
    for first, text in FOREIGN.items():
        if head.startswith(first):
            return text
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model; give a checkpoint of PyTorch"
    if head[257:262] == b"ustar":
        return "an archive of tar and no checkpoint by that name; unpack it first"
    if WEB_PAGE.match(head):
        return "a page of the web and no checkpoint, as a failed download leaves; download it again"
    if PROTOBUF.match(head):
        return (
            "a graph in protobuf, as ONNX and TensorFlow write; give the checkpoint that it was exported from"
        )
    return (
        "neither a file of torch.save nor a readable safetensors file: it is damaged, or something else; "
        "save model.state_dict()"
    )


def advice_on_folder(path: Path) -> str:
    """Which file of a folder to give."""
    if (path / ".metadata").is_file():
        whole = json.dumps(f"{path}.pth")
        code = (
            "from torch.distributed.checkpoint.format_utils import dcp_to_torch_save; "
            f"dcp_to_torch_save({json.dumps(str(path))}, {whole})"
        )
        return f"a checkpoint in pieces, which this makes one file: python -c {shlex.quote(code)}"
    files = sorted(path.iterdir(), key=lambda file: (not file.name.endswith(".index.json"), file.name))
    suffixes = (".index.json", ".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
    names = [file.name for file in files if file.name.endswith(suffixes)]
    return f"give a file of it, such as {names[0]}" if names else "give a file"


# ------------------------------------------------------------------------------------------------ safetensors


def is_safetensors(head: bytes) -> bool:
    """Eight bytes of length, then a header in json."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 32


def load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        raise ValueError(
            f"{path} is not a readable safetensors file ({in_one_line(error)}); save or download it again"
        ) from None


def load_shards(path: Path) -> dict[str, Any]:
    """All shards that an index names, which lie beside it."""
    try:
        shards = set(json.loads(read_bytes(path, most=MOST_INDEX))["weight_map"].values())
        plain = all(isinstance(name, str) and Path(name).name == name for name in shards)
    except (OSError, LookupError, AttributeError, TypeError, ValueError, RecursionError):
        plain, shards = False, set()
    if not plain or not shards:
        raise ValueError(f"{path} is json and no index of shards; give a file of weights, or its .index.json")
    tensors: dict[str, Any] = {}
    for name in sorted(shards):
        shard = path.with_name(name)
        if not shard.is_file():
            raise UnavailableError(f"{path} names {name}, which is not beside it; put all of its files there")
        tensors.update(load(shard, is_shard=True))
    return tensors


# --------------------------------------------------------------------------------------------------- pickles


def load_zip(path: Path) -> Any:
    """An archive of torch.save; others are named for what they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # of a damaged one `torch.load` has its say
        return load_torch(path)
    names = [entry.filename.partition("/")[2] or entry.filename for entry in entries]
    out, file = json.dumps(f"{path.with_suffix('')}_plain.pth"), json.dumps(str(path))
    if "constants.pkl" in names:
        code = f'import torch; torch.save(torch.jit.load({file}, "cpu").state_dict(), {out})'
        raise ValueError(f"{path} is a TorchScript archive, which holds code; {converted(code)}")
    if any(name.startswith(("models/", "archive_format", "serialized_exported_program")) for name in names):
        code = f"import torch; torch.save(dict(torch.export.load({file}).state_dict), {out})"
        raise ValueError(f"{path} is a program of torch.export; {converted(code)}")
    if names and all(name.endswith(".npy") for name in names):
        code = (
            f"import numpy, torch; x = numpy.load({file}); "
            f"torch.save({{k: torch.from_numpy(x[k]) for k in x.files}}, {out})"
        )
        raise ValueError(f"{path} is an archive of numpy; {converted(code)}")
    if any(name.endswith(".weights.h5") for name in names):
        raise ValueError(f"{path} is a model of Keras; give a checkpoint of PyTorch")
    if "data.pkl" not in names:
        raise ValueError(f"{path} is a zip archive that torch.save did not write; unpack it first")
    require_uncompressed(path, sum(entry.file_size for entry in entries))
    return load_torch(path)


def require_uncompressed(path: Path, unfolded: int) -> None:
    """Raises ValueError for an archive that unfolds to more bytes than it has: PyTorch packs no tensor."""
    if unfolded > path.stat().st_size:
        raise ValueError(
            f"{path} is an archive of {unfolded:,} bytes in {path.stat().st_size:,}, and was not loaded; "
            "save a plain state_dict, best as .safetensors"
        )


def load_pickle(path: Path, head: bytes) -> Any:
    """A pickle of torch.save as it was before PyTorch 1.6; those of others are not read."""
    if TORCH_MAGIC not in head[:32]:  # tensors that others pickled have it further on
        leaf = 'torch.as_tensor(x) if hasattr(x, "shape") else None'
        opened = f'__import__("pickle").load(open({json.dumps(str(path))}, "rb"))'
        raise ValueError(
            f"{path} is a pickle that torch.save did not write, which could run code, and was not loaded; "
            + converted(tensors_alone(path, opened, leaf), trusted=True)
        )
    return load_torch(path)


def load_torch(path: Path) -> Any:
    """By torch's reader of weights alone."""
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # of odd pickles, which are refused below
            torch.serialization.safe_globals(HARMLESS),
            path.open("rb") as file,  # of a path torch would ask the suffix
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} {refused_pickle(path, str(error))}") from None
    except Exception:  # a damaged file raises whatever its reader stumbles over
        raise ValueError(
            f"{path} is damaged or cut short, and was not loaded; save or download it again"
        ) from None


def refused_pickle(path: Path, complaint: str) -> str:
    """What torch's reader of weights would not read, and how a person who trusts it takes the tensors out."""
    classes = re.search(r"GLOBAL ([\w.]+)", complaint)
    content = pickled_bytes(path)
    if b"_modules" in content and b"_parameters" in content:
        what = "holds a whole pickled module, which could run code"
    elif classes:
        what = f"holds a pickled {classes[1]}, which could run code"
    else:
        what = "holds pickled objects beside tensors, which could run code"
    opened = f'torch.load({json.dumps(str(path))}, "cpu", weights_only=False)'
    leaf = "x if isinstance(x, torch.Tensor) else None"
    code = tensors_alone(path, opened, leaf)
    return f"{what}, and was not loaded; {converted(code, trusted=True)}"


def pickled_bytes(path: Path) -> bytes:
    """The pickle of a file, without its tensors where these are kept apart; at most MOST_INDEX bytes."""
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:  # an old file is no archive
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as file:
            return file.read(MOST_INDEX)
    with path.open("rb") as file:
        return file.read(MOST_INDEX)


def tensors_alone(path: Path, opened: str, leaf: str) -> str:
    """Python that writes what is opened anew, with its tensors alone."""
    out = json.dumps(f"{path.with_suffix('')}_plain.pth")
    return f"import torch; {TENSORS_ALONE.replace('{leaf}', leaf)}torch.save(f({opened}), {out})"


def converted(code: str, trusted: bool = False) -> str:
    """What to type; trusted: it runs what the file holds."""
    where = "if you trust it, run this where its classes can be imported" if trusted else "run this"
    return f"{where}, and give what it writes: python -c {shlex.quote(code)}"


def in_one_line(error: Exception) -> str:
    """What an error says; its name where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
