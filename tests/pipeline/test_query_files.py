"""Masks and vectors from files: against boxes, and what was written."""

import math

import cv2
import numpy as np
import pytest
import torch
from conftest import no_network
from safetensors.torch import save_file

from attnvis.attention.query.language import build_queries, parse
from attnvis.pipeline.preparing import prepared
from attnvis.types import Box, Features, PhotoError, Placement, Preprocessing

D = 7
PLACEMENT = Placement((6.0, 90 / 22), (12.0, 90 / 11), (5, 11), (60, 90), Box(0.0, 0.0, 60.0, 90.0))
TOKENS = torch.randn(2, 55, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FEATURES = Features(TOKENS, (5, 11), (PLACEMENT, PLACEMENT), names=("one.jpg", "two.jpg"))
close = torch.testing.assert_close


def asked(text):
    (result,) = build_queries(prepared(parse(text), no_network, Preprocessing(64)), FEATURES)
    assert result.text == text
    return result


def refused(kind, text):
    with pytest.raises(kind) as caught:
        asked(text)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mask_file_is_the_mean_over_its_light_pixels(tmp_path):
    mask = np.zeros((60, 90), np.uint8)
    mask[3:23, 12:62] = 255
    for name, pixels in (("m.png", mask), ("other.png", mask[:50]), ("dark.png", 0 * mask)):
        cv2.imwrite(str(tmp_path / name), pixels)
    close(asked(f"mask:{tmp_path}/m.png").vectors, asked("box:12,3,50,20").vectors)
    assert "has 90x50 pixels and the photo one.jpg 90x60" in refused(PhotoError, f"mask:{tmp_path}/other.png")
    assert "touches no part" in refused(PhotoError, f"mask:{tmp_path}/dark.png")
    assert "no polygon, x,y,x,y,x,y, and no picture" in refused(ValueError, f"mask:{tmp_path}/none.png")


def test_a_mask_stands_in_a_formula_too(tmp_path):
    cv2.imwrite(str(tmp_path / "m.png"), np.full((60, 90), 255, np.uint8))
    result = asked(f"2*mask:{tmp_path}/m.png - mean")
    close(result.vectors, 2 * asked("box:0,0,90,60").vectors - TOKENS.mean(1, keepdim=True))


def test_a_file_of_numbers_is_one_query_or_several(tmp_path):
    rows = torch.randn(3, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    np.save(tmp_path / "rows.npy", rows.numpy())
    np.save(tmp_path / "one.npy", rows[1].numpy().astype(np.float32))
    save_file({"q": rows}, tmp_path / "rows.safetensors")
    for name in ("rows.npy", "rows.safetensors"):
        result = asked(f"vector:{tmp_path}/{name}")
        close(result.vectors, rows.expand(2, -1, -1))
        assert result.labels[1] == tuple(f"{name} #{number}" for number in (1, 2, 3))
    result = asked(f"vector:{tmp_path}/one.npy")
    assert result.vectors.shape == (2, 1, D) and result.labels[0] == ("one.npy",)
    np.save(tmp_path / "short.npy", np.ones(3))
    assert "has 3 numbers, and the patches of layer last have 7" in refused(
        ValueError, f"vector:{tmp_path}/short.npy"
    )


@pytest.mark.parametrize(
    "name, content",
    [
        ("pickle.npy", np.array([{"a": 1}], dtype=object)),
        ("nan.npy", np.array([1.0, math.nan])),
        ("cube.npy", np.ones((2, 2, 2))),
        ("none.npy", np.ones(0)),
    ],
)
def test_a_file_that_holds_no_vector_is_refused(tmp_path, name, content):
    np.save(tmp_path / name, content, allow_pickle=True)
    assert name in refused(ValueError, f"vector:{tmp_path}/{name}")


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "empty.npy").touch()
    assert "no vector can be read" in refused(ValueError, f"vector:{tmp_path}/empty.npy")
    for name in ("a.npy", "a.safetensors", "a.bin"):
        (tmp_path / name).write_bytes(b"no numbers")
        assert "no vector can be read" in refused(ValueError, f"vector:{tmp_path}/{name}")
    save_file({"a": torch.ones(7), "b": torch.ones(7)}, tmp_path / "two.safetensors")
    assert "it holds 2 tensors" in refused(ValueError, f"vector:{tmp_path}/two.safetensors")
    assert "there is no file nothing.npy, from which the vector was to be read" in refused(
        ValueError, "vector:nothing.npy"
    )
