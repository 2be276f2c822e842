"""Masks, polygons, vectors from files, powers and iterations: against counting, NumPy and plain loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from fake_features import close, complaint, one_photo, query_vector, tiled, two_photos

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


@pytest.mark.parametrize(
    "text, said",
    [
        ("mask:1,2,3,4", "at least three corners, and 1,2,3,4 is 4 numbers"),
        ("mask:1,2,3,4,5", "is 5 numbers"),
        ("mask:nothing.png", "sees a file, and nobody read it"),
        ("mask:100,100,120,100,120,130", "touches no part of the 90x60 photo one.jpg"),
        ("exemplar:cat.jpg", "sees another photo, and no network was given"),
        ("vector:nothing.npy", "sees a file, and nobody read it"),
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
