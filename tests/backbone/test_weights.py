"""A file of weights that is damaged, or is a trap, is one line."""

import zipfile

import pytest
import torch

from attnvis.backbone.weights import read_weights

STATE = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.zeros(3)}


def refusal(path) -> str:
    with pytest.raises(ValueError, match=r"not loaded|not a readable|does not hold") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("as_archive", [True, False])
def test_no_changed_byte_of_a_pth_file_ends_in_a_traceback(tmp_path, as_archive):
    path = tmp_path / "w.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=as_archive)
    whole = path.read_bytes()
    for place in range(0, min(len(whole), 600)):
        for changed in (whole[:place], whole[:place] + b"s" + whole[place + 1 :]):
            path.write_bytes(changed)
            try:
                assert all(isinstance(value, torch.Tensor) for value in read_weights(path).values())
            except ValueError as error:
                lines = str(error).splitlines()
                assert len(lines) == 1


def test_an_archive_that_unfolds_to_more_than_it_is_is_not_unfolded(tmp_path):
    path, packed = tmp_path / "w.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(10_000)}, path)
    assert read_weights(path).keys() == {"a"}
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for entry in archive.infolist():
            other.writestr(entry.filename, archive.read(entry))
    assert "is an archive of 4" in refusal(packed)


def test_a_list_in_the_place_of_tensors_is_one_line(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "w.pth")
    assert "does not hold a state dict" in refusal(tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 64)
    assert "is not a readable safetensors file" in refusal(tmp_path / "w.safetensors")
