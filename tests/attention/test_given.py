"""Masks, polygons, vectors from files, powers and iterations: against counting, NumPy and plain loops."""

import math
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fake_features import D, close, complaint, normal, one_photo, query_vector, tiled, two_photos
from safetensors.torch import save_file

from attnvis.attention.query.language import build_queries, parse
from attnvis.types import PhotoError

PHOTO = one_photo(tiled((60, 90)))


@pytest.mark.parametrize(
    "polygon, box",
    [
        ("12,3,62,3,62,23,12,23", "box:12,3,50,20"),
        ("12,23,62,23,62,3,12,3", "box:12,3,50,20"),  # the other way round
        ("-10,-10,500,-10,500,500,-10,500", "box:0,0,90,60"),
        ("12,3,62,3,62,3,62,23,12,23", "box:12,3,50,20"),  # a corner twice
    ],
)
def test_a_polygon_with_right_angles_is_its_box(polygon, box):
    close(query_vector(parse(f"mask:{polygon}"), PHOTO), query_vector(parse(box), PHOTO))


def test_a_triangle_takes_of_every_cell_the_area_that_counting_gives():
    rows, columns = (np.arange(0, high, 1 / 8) + 1 / 16 for high in (60, 90))
    x, y = np.meshgrid(columns, rows)
    corners = [(5, 4), (80, 20), (30, 57)]
    sides = zip(corners, corners[1:] + corners[:1])
    inside = np.all([(x2 - x1) * (y - y1) >= (y2 - y1) * (x - x1) for (x1, y1), (x2, y2) in sides], axis=0)
    cells = np.zeros((5, 11))
    np.add.at(cells, ((y // 12).astype(int), np.minimum(x / (90 / 11), 10).astype(int)), inside)
    shares = torch.from_numpy(cells).flatten()
    expected = (shares / shares.sum()) @ PHOTO.tokens[0]
    torch.testing.assert_close(
        query_vector(parse("mask:5,4,80,20,30,57"), PHOTO), expected, atol=2e-3, rtol=0
    )


def test_a_mask_file_is_the_mean_over_its_light_pixels(tmp_path):
    mask = np.zeros((60, 90), np.uint8)
    mask[3:23, 12:62] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    close(query_vector(parse(f"mask:{tmp_path}/m.png"), PHOTO), query_vector(parse("box:12,3,50,20"), PHOTO))
    (tmp_path / "other.png").write_bytes(cv2.imencode(".png", mask[:50])[1].tobytes())
    message = complaint(PhotoError, build_queries, parse(f"mask:{tmp_path}/other.png"), PHOTO)
    assert "has 90x50 pixels and the photo one.jpg 90x60" in message
    (tmp_path / "dark.png").write_bytes(cv2.imencode(".png", 0 * mask)[1].tobytes())
    assert "touches no part" in complaint(
        PhotoError, build_queries, parse(f"mask:{tmp_path}/dark.png"), PHOTO
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("mask:1,2,3,4", "at least three corners, and 1,2,3,4 is 4 numbers"),
        ("mask:1,2,3,4,5", "is 5 numbers"),
        ("mask:nothing.png", "neither a polygon, x,y,x,y,x,y, nor a picture"),
        ("mask:100,100,120,100,120,130", "touches no part of the 90x60 photo one.jpg"),
        ("exemplar:cat.jpg", "sees another photo, and no network was given"),
        ("vector:nothing.npy", "no vector can be read from nothing.npy"),
        ("gem:0", "gem needs a power above 0, not 0"),
        ("gem:nan", "gem needs a power above 0, not nan"),
        ("iterated:0", "iterated needs at least 1 step, not 0"),
        ("iterated:3,-1", "iterated needs a beta above 0, not -1"),
        ("random_patch:0,0", "a count of at least 1"),
    ],
)
def test_what_is_none_is_refused(text, said):
    assert said in complaint(
        PhotoError if "touches" in said else ValueError, build_queries, parse(text), PHOTO
    )


def test_a_file_of_numbers_is_one_query_or_several(tmp_path):
    rows = normal(3, D, seed=5)
    np.save(tmp_path / "rows.npy", rows.numpy())
    np.save(tmp_path / "one.npy", rows[1].numpy().astype(np.float32))
    save_file({"q": rows}, tmp_path / "rows.safetensors")
    features = two_photos()
    for name in ("rows.npy", "rows.safetensors"):
        (result,) = build_queries(parse(f"vector:{tmp_path}/{name}"), features)
        close(result.vectors, rows.expand(2, -1, -1))
        assert result.labels[1] == tuple(f"{name} #{number}" for number in (1, 2, 3))
    (result,) = build_queries(parse(f"vector:{tmp_path}/one.npy"), features)
    assert result.vectors.shape == (2, 1, D) and result.labels[0] == ("one.npy",)
    np.save(tmp_path / "short.npy", np.ones(3))
    message = complaint(ValueError, build_queries, parse(f"vector:{tmp_path}/short.npy"), features)
    assert "has 3 numbers" in message and "have 7" in message


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
    assert name in complaint(ValueError, build_queries, parse(f"vector:{tmp_path}/{name}"), two_photos())


def test_damaged_files_are_refused(tmp_path):
    for name in ("a.npy", "a.safetensors", "a.bin"):
        Path(tmp_path / name).write_bytes(b"no numbers")
        assert "no vector can be read" in complaint(
            ValueError, build_queries, parse(f"vector:{tmp_path}/{name}"), two_photos()
        )
    save_file({"a": torch.ones(7), "b": torch.ones(7)}, tmp_path / "two.safetensors")
    message = complaint(ValueError, build_queries, parse(f"vector:{tmp_path}/two.safetensors"), two_photos())
    assert "it holds 2 tensors" in message


def test_gem_is_the_power_mean_of_what_is_above_zero():
    features = two_photos()
    positive = features.tokens.clamp_min(0).numpy()
    for power in (1, 3, 2.5):
        expected = (positive**power).mean(1, keepdims=True) ** (1 / power)
        (result,) = build_queries(parse(f"gem:{power}"), features)
        close(result.vectors, torch.from_numpy(expected))
    (result,) = build_queries(parse("gem:500"), features)
    torch.testing.assert_close(result.vectors[:, 0], torch.from_numpy(positive.max(1)), rtol=0.01, atol=0.0)


def test_an_iterated_query_is_written_out_in_loops_and_its_energy_never_rises():
    features, beta = two_photos(), 0.7
    for photo in range(2):
        rows = features.tokens[photo].numpy()
        q, energies = rows.mean(0), []
        for steps in range(5):
            overlaps = [beta * float(q @ row) for row in rows]
            total = sum(map(math.exp, overlaps))
            energies.append(float(q @ q) / 2 - math.log(total) / beta)
            if steps:
                (result,) = build_queries(parse(f"iterated:{steps},{beta}"), features)
                close(result.vectors[photo, 0], torch.from_numpy(q))
                energy = f"(energy {energies[0]:.4g} to {energies[-1]:.4g})"
                assert result.labels[photo][0] == f"mean, iterated {steps} {energy}"
            q = sum(math.exp(overlap) * row for overlap, row in zip(overlaps, rows)) / total
        assert all(later <= before + 1e-12 for before, later in pairwise(energies))
