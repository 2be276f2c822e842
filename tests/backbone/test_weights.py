"""A file of weights that is damaged, is a trap or is something else is one line, and runs no code."""

import argparse
import json
import os
import pickle
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attnvis.backbone import build_backbone
from attnvis.backbone.checkpoint_file import read_checkpoint
from attnvis.types import UnavailableError

STATE = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.zeros(3)}


def refusal(path: Path | str) -> str:
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        read_checkpoint(Path(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


# -------------------------------------------------------------------------- what the first bytes tell


def write_torch(path: Path) -> None:
    torch.save(STATE, path)


def write_old(path: Path) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    save_file(STATE, path)


@pytest.mark.parametrize("write", [write_torch, write_old, write_safetensors])
@pytest.mark.parametrize(
    "name", ["w.pth", "w.pt", "w.ckpt", "w.bin", "w.safetensors", "W.PTH.TAR", "weights"]
)
def test_the_first_bytes_tell_what_a_file_is_and_never_its_name(tmp_path, write, name):
    write(tmp_path / name)
    tensors = read_checkpoint(tmp_path / name)
    assert tensors.keys() == STATE.keys()
    assert all(torch.equal(tensors[key], value) for key, value in STATE.items())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_by_their_index(tmp_path, suffix):
    names = {key: f"model-0000{number}-of-00002.{suffix}" for number, key in enumerate(STATE, 1)}
    for key, name in names.items():
        (save_file if suffix == "safetensors" else torch.save)({key: STATE[key]}, tmp_path / name)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": names}))
    tensors = read_checkpoint(index)
    assert sorted(tensors) == sorted(STATE) and torch.equal(tensors["a.weight"], STATE["a.weight"])
    assert f"give a file of it, such as {index.name}" in refusal(tmp_path)
    (tmp_path / names["a.bias"]).unlink()
    with pytest.raises(UnavailableError, match=rf"names {names['a.bias']}, which is not beside it"):
        read_checkpoint(index)


@pytest.mark.parametrize(
    "content",
    [
        '{"a": 1}',
        "{",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../w.pth"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": [1]}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"a":' * 100_000,
    ],
)  # fmt: skip
def test_json_that_is_no_index_of_files_beside_it_is_refused(tmp_path, content):
    torch.save(STATE, tmp_path / "w.pth")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/model.index.json").write_text(content)
    assert "is json and no index of shards" in refusal(tmp_path / "below/model.index.json")


def test_an_index_that_names_itself_is_no_loop(tmp_path):
    (tmp_path / "i.json").write_text('{"weight_map": {"a": "i.json"}}')
    assert "i.json is neither a file of torch.save nor" in refusal(tmp_path / "i.json")


FOREIGN = {  # what it is called -> its first bytes
    "an empty file": b"",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "one array of numpy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}",
    "a GGUF file": b"GGUF\x03\x00\x00\x00" + bytes(64),
    "compressed with gzip": b"\x1f\x8b\x08" + bytes(64),
    "compressed with xz": b"\xfd7zXZ\x00" + bytes(64),
    "compressed with zstd": b"\x28\xb5\x2f\xfd" + bytes(64),
    "an archive of tar": b"a.pth" + bytes(252) + b"ustar\x0000" + bytes(248),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a page of the web": b"\n<!DOCTYPE html><html>not found</html>",
    "a TensorFlow Lite model": b"\x1c\x00\x00\x00TFL3" + bytes(64),
    "a graph in protobuf": b"\x08\x08\x12\x07pytorch\x1a\x052.5.0" + bytes(64),
    "neither a file of torch.save nor a readable safetensors file": b"\xff" * 64,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_checkpoint_of_pytorch_is_named_for_what_it_is(tmp_path, kind):
    (tmp_path / "w.pth").write_bytes(FOREIGN[kind])
    assert f"w.pth is {kind}" in refusal(tmp_path / "w.pth")


def test_other_archives_are_named_for_what_they_are(tmp_path):
    for entry, words in {
        "model.weights.h5": "a model of Keras",
        "notes.txt": "a zip archive that torch.save did not write",
    }.items():
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr(entry, b"x")
        assert f"is {words}" in refusal(tmp_path / "w.pth")


def test_a_folder_says_which_of_its_files_to_give(tmp_path):
    assert refusal(tmp_path).endswith("is a folder; give a file")
    torch.save(STATE, tmp_path / "b.ckpt")
    assert refusal(tmp_path).endswith("give a file of it, such as b.ckpt")


# ------------------------------------------------------------------------------- damage and traps


@pytest.mark.parametrize("as_archive", [True, False])
def test_no_changed_byte_of_a_pth_file_ends_in_a_traceback(tmp_path, as_archive):
    path = tmp_path / "w.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=as_archive)
    whole = path.read_bytes()
    for place in range(0, min(len(whole), 600)):
        for changed in (whole[:place], whole[:place] + b"s" + whole[place + 1 :]):
            path.write_bytes(changed)
            try:
                assert all(isinstance(value, torch.Tensor) for value in read_checkpoint(path).values())
            except ValueError as error:
                lines = str(error).splitlines()
                assert len(lines) == 1


def test_no_length_of_a_safetensors_file_ends_in_a_traceback(tmp_path):
    save_file(STATE, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "w").write_bytes(whole[:length])
        assert length < 9 or "w is not a readable safetensors file" in refusal(tmp_path / "w")
        refusal(tmp_path / "w")


def test_an_archive_that_unfolds_to_more_than_it_is_is_not_unfolded(tmp_path):
    path, packed = tmp_path / "w.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(10_000)}, path)
    assert read_checkpoint(path).keys() == {"a"}
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for entry in archive.infolist():
            other.writestr(entry.filename, archive.read(entry))
    assert "is an archive of 4" in refusal(packed)


def test_a_tensor_that_repeats_one_number_is_not_unfolded(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "w.pth")
    assert "a unfolds to more numbers than the file holds" in refusal(tmp_path / "w.pth")


def test_a_thousand_paths_to_one_list_are_gone_through_once(tmp_path):
    inner: list = [torch.zeros(1)]
    for _ in range(14):
        inner = [inner] * 10  # 10^14 paths
    torch.save({"a": inner}, tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth")) == ["a" + ".0" * 15]
    loop: dict = {"w": torch.zeros(1)}
    loop["again"] = loop
    torch.save(loop, tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth")) == ["w"]


@pytest.mark.parametrize(
    "tensor, words",
    [
        (torch.eye(3).to_sparse(), "is sparse"),
        (torch.eye(3).to_sparse_csr(), "is sparse"),
        (torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8), "is quantised"),
        (torch.empty(3, device="meta"), "has a shape but no values"),
    ],
)
def test_tensors_that_are_not_simply_numbers_are_refused_by_name(tmp_path, tensor, words):
    torch.save({"a.weight": tensor}, tmp_path / "w.pth")
    assert f"the tensor a.weight {words}" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[], {}, {"epoch": 3}, "text", {"model": None}, 7])
def test_a_file_without_tensors_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "does not hold a state dict" in refusal(tmp_path / "w.pth")


# ---------------------------------------------------------- pickles that could run code, converted


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


class Box(dict):
    """A dictionary of a class of one's own, as Lightning's AttributeDict is."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.ReLU())
        self.fc = nn.Linear(5, 7)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))


SETTINGS = {"layer": "body", "head": "linear:fc", "size": 64, "device": "cpu", "precision": "fp32"}


def digest_of(path, **settings) -> str:
    return build_backbone(Net(), weights=str(path), placement="stretch", **SETTINGS, **settings).digest


@pytest.mark.parametrize("as_archive", [True, False])
@pytest.mark.parametrize("wrapped", [lambda bomb: bomb, lambda bomb: {"a": torch.zeros(2), "b": [bomb]}])
def test_code_in_a_pickle_is_not_run_and_named(here, wrapped, as_archive):
    torch.save(wrapped(Bomb()), "w.pth", _use_new_zipfile_serialization=as_archive)
    complaint = refusal("w.pth")
    assert "w.pth holds a pickled posix.mkdir, which could run code, and was not loaded" in complaint
    Path("w.pkl").write_bytes(pickle.dumps(wrapped(Bomb())))
    assert "w.pkl is a pickle that torch.save did not write, which could run code" in refusal("w.pkl")
    assert not Path("exploded").exists()


def write_module(net: nn.Module, path: str) -> None:
    torch.save(net, path)


def write_module_beside(net: nn.Module, path: str) -> None:
    torch.save({"epoch": 3, "model": net, "optimizer": {"lr": np.float64(0.1)}}, path)


def write_old_module(net: nn.Module, path: str) -> None:
    torch.save(net, path, _use_new_zipfile_serialization=False)


def write_objects_beside(net: nn.Module, path: str) -> None:
    torch.save({"state_dict": net.state_dict(), "hyper_parameters": Box(lr=np.float64(0.1)), 3: Box()}, path)


def write_objects_among(net: nn.Module, path: str) -> None:
    torch.save(net.state_dict() | {"path": Path("a"), "best": np.float32(3)}, path)


def write_protocol_4(net: nn.Module, path: str) -> None:
    torch.save(net.state_dict(), path, pickle_protocol=4)


def write_numpy_pickle(net: nn.Module, path: str) -> None:
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    Path(path).write_bytes(pickle.dumps({"model": arrays, "__author__": "detectron"}))


def write_torchscript(net: nn.Module, path: str) -> None:
    torch.jit.save(torch.jit.script(net), path)


def write_exported(net: nn.Module, path: str) -> None:
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 64, 64),)), path)


def write_arrays(net: nn.Module, path: str) -> None:
    with open(path, "wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in net.state_dict().items()})


CONVERTED = {
    write_module: "holds a whole pickled module",
    write_module_beside: "holds a whole pickled module",
    write_old_module: "holds a whole pickled module",
    write_objects_beside: "holds a pickled",
    write_objects_among: "holds a pickled pathlib.",
    write_protocol_4: "holds pickled objects beside tensors",
    write_numpy_pickle: "is a pickle that torch.save did not write",
    write_torchscript: "is a TorchScript archive",
    write_exported: "is a program of torch.export",
    write_arrays: "is an archive of numpy",
}


@pytest.mark.parametrize("write", CONVERTED)
@pytest.mark.parametrize("name", ["net.pth", "a 'b' $HOME.ckpt"])
def test_the_line_that_is_advised_makes_a_file_that_loads(here, monkeypatch, write, name):
    """In this process and, for one of them, as a shell runs it."""
    net = Net()
    plain = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    torch.save(plain, "plain.pth")
    write(net, name)
    complaint = refusal(name)
    assert CONVERTED[write] in complaint
    command = complaint[complaint.index("python -c ") :]
    python, flag, code = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    if write is write_numpy_pickle:
        subprocess.run([sys.executable, "-c", code], check=True)
    else:
        exec(code, {})
    (written,) = Path().glob("*_plain.pth")
    assert digest_of(written) == digest_of("plain.pth")


def test_a_namespace_of_arguments_beside_the_weights_is_harmless(here):
    net = Net()
    torch.save(net.state_dict(), "plain.pth")
    torch.save({"model": net.state_dict(), "args": argparse.Namespace(lr=0.1, layers=[1, 2])}, "args.pth")
    assert digest_of("args.pth") == digest_of("plain.pth")
    torch.save({"model": net.state_dict(), "args": argparse.Namespace(lr=Bomb())}, "args.pth")
    assert "holds a pickled posix.mkdir" in refusal("args.pth") and not Path("exploded").exists()
    torch.save(argparse.Namespace(lr=0.1), "n.pth")
    with pytest.raises(pickle.UnpicklingError):  # what others load is as strict as before
        torch.load("n.pth", weights_only=True)
