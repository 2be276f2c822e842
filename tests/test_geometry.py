"""Placement against PyTorch's, OpenCV's and SciPy's interpolation, arithmetic by hand, and spots painted at known places."""

import math
from dataclasses import replace
from functools import cache, partial

import cv2
import numpy as np
import pytest
import torch
from conftest import fake_backbone
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from attnvis.backbone import Backbone
from attnvis.backbone.lite import EfficientNetLite, load_weights
from attnvis.backbone.receptive_field import probe
from attnvis.data.preprocessing import collate, fit
from attnvis.geometry import ReceptiveField, cut, place, stretch, to_pixels, visible
from attnvis.types import Box, Photo, Placement, Preprocessing, View

FITS = ["resize", "crop", "letterbox", "stretch"]
quick = settings(deadline=None, derandomize=True, max_examples=40)
close = partial(np.testing.assert_allclose, rtol=0, atol=2e-6)


def rectangle(*numbers: float) -> Box:
    return Box(*map(float, numbers))


def placed(first, step, grid: tuple[int, int], size: tuple[int, int], *seen: float) -> Placement:
    """Seen: top, left, height, width; without, the whole photo."""
    return Placement(
        tuple(map(float, first)), tuple(map(float, step)), grid, size, rectangle(*(seen or (0, 0, *size)))
    )


def same(size: tuple[int, int]) -> View:
    """A photo that went into the network as it is."""
    return View((1.0, 1.0), (0.0, 0.0), rectangle(0, 0, *size), size)


def seen_as(size: tuple[int, int], how: str, side: int = 225, resize: int | None = None) -> View:
    """How a photo of that size would be shown to a network."""
    return fit(
        Photo("sized", np.zeros((1, 1, 3), np.uint8), size, ""),
        Preprocessing(side, how, resize=resize, multiple=32),
    )[1]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def reaching(first: float, step: float) -> ReceptiveField:
    return ReceptiveField((float(first), float(first)), (float(step), float(step)))


def interpolate(cells: np.ndarray, size: tuple[int, int], corners: bool) -> np.ndarray:
    return F.interpolate(torch.tensor(cells)[None, None], size, mode="bilinear", align_corners=corners)[
        0, 0
    ].numpy()


# place


def test_cells_on_a_resized_photo_by_hand():
    view = View((2.0, 0.5), (0.0, 0.0), rectangle(0, 0, 30, 200), (60, 100))
    got = place(view, ReceptiveField((3.0, 7.5), (8.0, 16.0)), (7, 6), (30, 200))
    assert got == placed(
        (1.75, 16), (4, 32), (7, 6), (30, 200)
    )  # (3 + .5) / 2, (7.5 + .5) / .5; 8 / 2, 16 / .5
    assert got.centre(2, 3) == (9.75, 112.0)


def test_cells_on_a_cropped_photo_by_hand():
    view = View((0.5, 0.5), (-10.0, 0.0), rectangle(20, 0, 64, 64), (32, 32))
    got = place(view, reaching(0, 8), (4, 4), (104, 64))
    assert got == placed((21, 1), (16, 16), (4, 4), (104, 64), 20, 0, 64, 64)  # (.5 + 10) / .5


def test_cells_on_a_letterboxed_photo_by_hand():
    view = View((0.25, 0.25), (0.0, 12.0), rectangle(0, 0, 128, 32), (32, 32))
    got = place(view, reaching(3.5, 8), (4, 4), (128, 32))
    assert got == placed(
        (16, -32), (32, 32), (4, 4), (128, 32)
    )  # (4 - 12) / .25: the first column lies left of the photo
    assert visible(got) == (
        slice(0, 4),
        slice(1, 3),
    )  # tiles -48 ... -16, -16 ... 16, 16 ... 48, 48 ... 80 on a photo 0 ... 32


def test_stretch_pulls_the_tiles_over_the_whole_input():
    assert stretch(same((224, 320)), (7, 5)) == ReceptiveField((15.5, 31.5), (32.0, 64.0))
    assert stretch(same((225, 225)), (1, 8)) == ReceptiveField((112.0, (225 / 8 - 1) / 2), (225.0, 225 / 8))


# spread, against other libraries


@pytest.mark.parametrize(
    "grid, ratio",
    [((7, 7), (32, 32)), ((3, 5), (4, 7)), ((5, 3), (1, 8)), ((1, 11), (9, 2)), ((1, 1), (5, 5))],
)
def test_stretched_maps_are_what_interpolate_and_resize_draw(grid, ratio):
    cells, size = noise(*grid), (grid[0] * ratio[0], grid[1] * ratio[1])
    drawn = to_pixels(cells, place(same(size), stretch(same(size), grid), grid, size))
    close(drawn, interpolate(cells, size, corners=False))
    close(drawn, cv2.resize(cells, size[::-1], interpolation=cv2.INTER_LINEAR))
    if min(grid) > 1:
        close(drawn, ndimage.zoom(cells, ratio, order=1, mode="nearest", grid_mode=True))


@pytest.mark.parametrize("size", [(225, 225), (97, 225), (353, 33), (1200, 801), (50, 61)])
def test_stretched_maps_are_what_interpolate_draws_on_a_photo_of_any_size(size):
    cells, view = noise(7, 5), seen_as(size, "stretch")
    close(
        to_pixels(cells, place(view, stretch(view, (7, 5)), (7, 5), size)),
        interpolate(cells, size, corners=False),
    )


@pytest.mark.parametrize("grid", [(8, 8), (2, 5), (3, 12)])
def test_where_the_size_is_a_multiple_of_the_stride_plus_one_rf_maps_are_what_align_corners_draws(grid):
    cells, size = noise(*grid), (32 * (grid[0] - 1) + 1, 32 * (grid[1] - 1) + 1)
    drawn = to_pixels(cells, place(same(size), reaching(0, 32), grid, size))
    close(drawn, interpolate(cells, size, corners=True))
    close(drawn, ndimage.zoom(cells, (size[0] / grid[0], size[1] / grid[1]), order=1))


@pytest.mark.parametrize("size", [(225, 353), (500, 700), (700, 300), (60, 90)])
@pytest.mark.parametrize("how", ["resize", "stretch"])
def test_where_the_size_is_a_multiple_of_the_stride_plus_one_a_mirrored_map_is_the_mirror_of_the_map(
    size, how
):
    view = seen_as(size, how)
    grid = tuple(1 + (side - 1) // 32 for side in view.size)
    placement, cells = place(view, reaching(0, 32), grid, size), noise(*grid)
    for axis in (0, 1):
        assert placement.centre(0, 0)[axis] + placement.centre(grid[0] - 1, grid[1] - 1)[
            axis
        ] == pytest.approx(size[axis], abs=1e-9)
        np.testing.assert_allclose(
            to_pixels(np.flip(cells, axis), placement), np.flip(to_pixels(cells, placement), axis), atol=1e-5
        )


def test_at_224_pixels_the_same_map_is_mirrored_onto_another_place():
    view, cells = same((224, 224)), noise(7, 7)
    placement = place(view, reaching(0, 32), (7, 7), (224, 224))
    assert np.abs(to_pixels(cells[:, ::-1], placement) - to_pixels(cells, placement)[:, ::-1]).max() > 0.3


def test_stretch_draws_a_net_of_stride_32_half_a_stride_to_the_lower_right_of_where_it_looks():
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(5)))
    reach, view = probe(net), same((224, 224))
    true, usual = (
        place(view, reach, (7, 7), (224, 224)),
        place(view, stretch(view, (7, 7)), (7, 7), (224, 224)),
    )
    for cell in [(0, 0), (3, 5), (6, 6)]:
        assert np.subtract(usual.centre(*cell), true.centre(*cell)).tolist() == [15.5, 15.5]
    hot = np.zeros((7, 7), np.float32)
    hot[3, 3] = 1
    right, wrong = to_pixels(hot, true), to_pixels(hot, usual)
    assert np.unravel_index(right.argmax(), right.shape) == (96, 96)
    assert ndimage.center_of_mass(right) == pytest.approx((96, 96), abs=1e-3)
    assert ndimage.center_of_mass(wrong) == pytest.approx((111.5, 111.5), abs=1e-3)


# spread, by its definition


integers = st.tuples(st.integers(0, 9), st.integers(0, 9))


@given(
    grid=st.tuples(*[st.integers(1, 6)] * 2),
    first=integers,
    step=st.tuples(*[st.integers(1, 12)] * 2),
    rest=integers,
)
@quick
def test_at_its_centre_a_cell_has_its_own_value(grid, first, step, rest):
    size = tuple(a + s * (n - 1) + 1 + b for a, s, n, b in zip(first, step, grid, rest))
    cells = noise(*grid)
    drawn = to_pixels(
        cells, placed((first[0] + 0.5, first[1] + 0.5), step, grid, size)
    )  # at the centre of a pixel
    close(drawn[first[0] :: step[0], first[1] :: step[1]][: grid[0], : grid[1]], cells)
    close(drawn[: first[0], first[1]], np.full(first[0], cells[0, 0]))  # level beyond the outer ones
    close(drawn[-1, -1], cells[-1, -1])


def test_between_centres_a_map_is_bilinear_by_hand():
    cells = np.array([[0, 1], [4, 9]], np.float32)
    drawn = to_pixels(cells, placed((1, 2), (4, 2), (2, 2), (6, 6)))
    down = [[0, 1]] * 1 + [[4 * t, 1 + 8 * t] for t in (0.125, 0.375, 0.625, 0.875)] + [[4, 9]]
    across = [0, 0, 0.25, 0.75, 1, 1]
    close(drawn, [[left + (right - left) * t for t in across] for left, right in down])


@st.composite
def views(draw) -> tuple[View, tuple[int, int]]:
    """Photos of all shapes, shown in all ways."""
    how, size = draw(st.sampled_from(FITS)), draw(st.tuples(*[st.integers(1, 700)] * 2))
    side = draw(st.sampled_from([224, 225, 97]))
    return seen_as(size, how, side, resize=round(side * 8 / 7) if how == "crop" else None), size


@st.composite
def placements(draw) -> Placement:
    view, size = draw(views())
    grid = tuple(max(1, side // 32) for side in view.size)
    whole = place(
        view,
        draw(st.sampled_from([reaching(0, 32), reaching(15.5, 32), reaching(22, 32), stretch(view, grid)])),
        grid,
        size,
    )
    return cut(whole, *visible(whole))


drawing = st.one_of(st.none(), st.tuples(*[st.integers(1, 90)] * 2))


@given(placement=placements(), size=drawing)
@quick
def test_a_map_is_nan_exactly_where_a_pixels_centre_was_not_seen(placement, size):
    drawn = to_pixels(noise(*placement.grid), placement, size)
    height, width = size or placement.size
    assert drawn.shape == (height, width)
    rows = [(k + 0.5) * placement.size[0] / height for k in range(height)]
    columns = [(k + 0.5) * placement.size[1] / width for k in range(width)]
    seen = placement.seen
    down = [seen.top <= row < seen.top + seen.height for row in rows]
    across = [seen.left <= column < seen.left + seen.width for column in columns]
    edges = (seen.top, seen.top + seen.height, seen.left, seen.left + seen.width)
    if (
        min(
            abs(at - edge)
            for at, edge in zip(
                [*rows, *rows, *columns, *columns], np.repeat(edges, [height] * 2 + [width] * 2)
            )
        )
        > 1e-6
    ):
        np.testing.assert_array_equal(np.isnan(drawn), ~np.outer(down, across))


def test_half_of_a_pixel_decides_whether_it_was_seen():
    drawn = to_pixels(np.ones((2, 2), np.float32), placed((2, 3), (3, 3), (2, 2), (8, 9), 1.5, 2.6, 4, 5))
    assert np.flatnonzero(~np.isnan(drawn).all(1)).tolist() == [
        1,
        2,
        3,
        4,
    ]  # 1.5 ... 5.5: centre 5.5 is beyond
    assert np.flatnonzero(~np.isnan(drawn).all(0)).tolist() == [3, 4, 5, 6, 7]  # 2.6 ... 7.6


@given(placement=placements(), size=drawing, level=st.floats(-4, 4, width=32))
@quick
def test_the_map_of_equal_cells_is_level(placement, size, level):
    drawn = to_pixels(np.full(placement.grid, level, np.float32), placement, size)
    close(drawn[~np.isnan(drawn)], level)


def hidden(placement: Placement, size: tuple[int, int]) -> bool:
    """Whether no pixel's centre was seen: then there is nowhere to put the attention."""
    drawn = to_pixels(np.ones(placement.grid, np.float32), placement, size)
    return bool(np.isnan(drawn).all())


@given(placement=placements(), size=drawing)
@example(
    placement=placed((16, 16), (32, 32), (7, 7), (224, 224)), size=(3, 2)
)  # most cells fall between the centres of the pixels
@example(placement=placed((0.1, 0.1), (0.3, 0.3), (7, 7), (2, 2)), size=None)
@example(placement=placed((10, 10), (20, 20), (7, 7), (150, 150), 5, 5, 130, 130), size=(4, 9))
@quick
def test_a_density_holds_what_the_cells_held(placement, size):
    cells = noise(*placement.grid)
    drawn = to_pixels(cells, placement, size, density=True)
    if not hidden(placement, size or placement.size):
        assert np.nansum(drawn.astype(np.float64)) == pytest.approx(
            float(cells.astype(np.float64).sum()), rel=1e-5
        )
        assert (drawn[~np.isnan(drawn)] >= 0).all()


def test_each_cells_density_lies_around_its_own_place():
    placement = placed((16.5, 16.5), (32, 32), (3, 4), (97, 129))
    for row, column in [(0, 0), (1, 2), (2, 3)]:
        cells = np.zeros((3, 4), np.float32)
        cells[row, column] = 5
        drawn = to_pixels(cells, placement, density=True)
        assert drawn.sum() == pytest.approx(5, rel=1e-5)
        reached = np.argwhere(drawn > 0) + 0.5
        assert np.abs(reached - placement.centre(row, column)).max() <= 32 + 0.5
        assert np.unravel_index(drawn.argmax(), drawn.shape)[0] // 32 == row


def test_a_cell_smaller_than_the_pixels_goes_to_the_nearest():
    cells = np.arange(10, dtype=np.float32)[None]
    drawn = to_pixels(
        cells, placed((5, 0.5), (10, 1), (1, 10), (10, 10)), (1, 2), density=True
    )  # pixels centred at 2.5 and 7.5
    close(drawn, [[0 + 1 + 2 + 3 + 4, 5 + 6 + 7 + 8 + 9]])


def test_a_cell_is_never_dealt_to_a_pixel_that_was_not_seen():
    seen_from_4 = placed((5, 4.5), (10, 1), (1, 6), (10, 10), 0, 4, 10, 6)
    drawn = to_pixels(
        np.arange(1, 7, dtype=np.float32)[None], seen_from_4, (1, 2), density=True
    )  # the first cell is nearer to 2.5 than to 7.5
    close(drawn, [[np.nan, 1 + 2 + 3 + 4 + 5 + 6]])


# visible


@given(shown=views(), far=st.floats(-40, 40), stride=st.sampled_from([8.0, 16.0, 32.0]))
@example(
    shown=(seen_as((850, 1998), "letterbox", 224), (850, 1998)), far=15.5, stride=32.0
)  # tiles that end exactly where the bars end
@example(shown=(seen_as((148, 345), "letterbox", 224), (148, 345)), far=15.5, stride=32.0)
@example(shown=(seen_as((2078, 883), "letterbox", 224), (2078, 883)), far=15.5, stride=32.0)
@quick
def test_only_cells_whose_tile_touches_the_photo_are_kept(shown, far, stride):
    (view, size), grid = (
        shown,
        tuple(int(side // shown_stride) for side, shown_stride in zip(shown[0].size, (stride, stride))),
    )
    kept = visible(place(view, reaching(far, stride), grid, size))
    for axis in (0, 1):
        start = round(max(0.0, view.shift[axis]))  # in the input the photo begins and ends at whole pixels
        end = min(view.size[axis], round(view.shift[axis] + size[axis] * view.scale[axis]))
        tiles = [
            (far + 0.5 + stride * (cell - 0.5), far + 0.5 + stride * (cell + 0.5))
            for cell in range(grid[axis])
        ]
        touching = [
            cell for cell, (low, high) in enumerate(tiles) if high > start + 1e-4 and low < end - 1e-4
        ]
        assert list(range(grid[axis]))[kept[axis]] == touching


@pytest.mark.parametrize("how", ["resize", "crop", "stretch"])
@pytest.mark.parametrize("size", [(300, 800), (800, 300), (50, 50)])
def test_nothing_is_dropped_where_there_are_no_bars(how, size):
    view = seen_as(size, how)
    grid = tuple(1 + (side - 1) // 32 for side in view.size)
    assert visible(place(view, reaching(0, 32), grid, size)) == (slice(0, grid[0]), slice(0, grid[1]))


def test_a_part_of_the_grid_stays_where_it_was():
    placement = placed((10, 20), (4, 8), (5, 7), (40, 90))
    part = cut(placement, slice(1, 4), slice(2, 7))
    assert part.grid == (3, 5) and part.seen == placement.seen and part.size == placement.size
    assert [part.centre(i, j) for i in range(3) for j in range(5)] == [
        placement.centre(i, j) for i in range(1, 4) for j in range(2, 7)
    ]


# A spot painted on a photo is drawn back where it was painted


def brightness(*layers: tuple[int, int, int]) -> nn.Module:
    """Every cell is a mean over its receptive field; layers: (kernel, stride, padding)."""
    net = nn.Sequential(
        *(
            nn.Conv2d(3 if first else 1, 1, k, s, p, bias=False)
            for first, (k, s, p) in zip([True] + [False] * 9, layers)
        )
    )
    for layer in net:
        nn.init.constant_(layer.weight, 1 / layer.weight.numel())
    return net


NETS = {
    "k3 s2 p1": [(3, 2, 1)] * 5,
    "k2 s2": [(2, 2, 0)] * 5,
    "k11 s4 p2": [(11, 4, 2), (3, 2, 0), (3, 2, 1), (3, 2, 1)],
}


@cache  # a backbone is probed once
def fake(name: str, placement: str = "rf") -> Backbone:
    return fake_backbone(brightness(*NETS[name]), Preprocessing(225), placement=placement)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [(240, 720), (720, 240), (160, 190)])
@pytest.mark.parametrize("how", FITS)
def test_a_bright_spot_is_drawn_where_it_was_painted(name, size, how):
    how = Preprocessing(225, how, resize=257 if how == "crop" else None)
    view = seen_as(size, how.fit, resize=how.resize)
    grey = np.full((*size, 3), [round(255 * mean) for mean in how.mean], np.uint8)
    height, width = (
        max(1, round(8 / scale)) for scale in view.scale
    )  # half the spot: 16 x 16 pixels of the input
    rng = np.random.default_rng(0)
    photos, spots = [], []
    for number, (down, across) in enumerate(
        [(0.25, 0.3), (0.5, 0.5), (0.7, 0.35), *rng.uniform(0.2, 0.8, (2, 2))]
    ):
        row, column = (
            round(view.seen.top + down * view.seen.height),
            round(view.seen.left + across * view.seen.width),
        )
        pixels = grey.copy()
        pixels[row - height : row + height, column - width : column + width] = 255
        photos.append(Photo(str(number), pixels, size, str(number)))
        spots.append((row, column))
    (features,) = fake(name)(collate(photos, how))
    for tokens, placement, spot in zip(features.tokens, features.placements, spots):
        drawn = to_pixels(tokens.reshape(features.grid).numpy(), placement)
        centres = np.array(
            [placement.centre(0, 0), placement.centre(placement.grid[0] - 1, placement.grid[1] - 1)]
        )
        found = np.clip(
            np.add(np.unravel_index(np.nanargmax(drawn), size), 0.5), *centres
        )  # the map is level beyond the outer centres
        slack = 1 + 1.5 / np.array(view.scale)  # whole pixels of the photo and of the input
        assert (np.abs(found - np.clip(spot, *centres)) <= np.array(placement.step) / 2 + slack).all(), (
            spot,
            found,
            placement,
        )


def test_where_the_usual_placement_misses_the_spot_rf_finds_it():
    how = Preprocessing(225, "resize")
    pixels = np.full((225, 225, 3), [round(255 * mean) for mean in how.mean], np.uint8)
    pixels[120:137, 88:105] = 255  # centred on 128.5, 96.5, as cell (4, 3) is
    batch = collate([Photo("spot", pixels, (225, 225), "")], how)
    found = {}
    for placement in ("rf", "stretch"):
        (features,) = fake("k3 s2 p1", placement)(batch)
        drawn = to_pixels(features.tokens[0].reshape(features.grid).numpy(), features.placements[0])
        found[placement] = ndimage.center_of_mass(drawn**3)
    assert found["rf"] == pytest.approx((128, 96), abs=1)
    assert np.hypot(*np.subtract(found["stretch"], found["rf"])) > 2


# probe: the reach of networks known by arithmetic


def arithmetic(layers: list[tuple[int, int, int, int]]) -> tuple[float, int]:
    """(offset, stride) of a chain of (kernel, stride, padding, dilation)."""
    offset, jump = 0.0, 1
    for kernel, stride, padding, dilation in layers:
        offset, jump = offset + jump * ((kernel - 1) * dilation / 2 - padding), jump * stride
    return offset, jump


KNOWN = {
    "k3 s2 p1 five times": ([nn.Conv2d(3, 3, 3, 2, 1)] * 5, 0, 32),  # one layer that serves five times
    "k2 s2": ([nn.Conv2d(3, 4, 2, 2)], 0.5, 2),
    "k7 s4 p3": ([nn.Conv2d(3, 4, 7, 4, 3)], 0, 4),
    "k3 s2": ([nn.Conv2d(3, 4, 3, 2)], 1, 2),
    "a ResNet's stem": (
        [nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
        0,
        4,
    ),
    "max pooling": ([nn.MaxPool2d(2)] * 5, 15.5, 32),
    "max pooling at the ceiling": ([nn.MaxPool2d(3, 2, ceil_mode=True)] * 2, 3, 4),
    "mean pooling": ([nn.Conv2d(3, 4, 3, 1, 1), nn.AvgPool2d(2, 2)], 0.5, 2),
    "AlexNet's first layers": (
        [nn.Conv2d(3, 4, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 5, 5, 1, 2)],
        7,
        8,
    ),
    "dilation": ([nn.Conv2d(3, 4, 3, 2, 1, dilation=2)], 1, 2),
    "groups": ([nn.Conv2d(3, 6, 3, 2, 1, groups=3), nn.Conv2d(6, 6, 2, 2, groups=6)], 1, 4),
    "gates by class": (
        [
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.SiLU(),
            nn.Hardswish(),
            nn.Dropout(0.9),
            nn.Conv2d(4, 4, 3, 2, 0),
            nn.SiLU(),
        ],
        2,
        4,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_probe_finds_the_reach_of_chains(name):
    layers, offset, stride = KNOWN[name]
    assert probe(nn.Sequential(*layers)) == reaching(offset, stride)


@st.composite
def chains(draw) -> list[tuple[str, int, int, int, int]]:
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        kind, kernel = draw(st.sampled_from(["conv", "max", "mean", "ceiling"])), draw(st.integers(1, 5))
        dilation = draw(st.integers(1, 2)) if kind == "conv" else 1
        layers.append((kind, kernel, draw(st.integers(1, 3)), draw(st.integers(0, kernel // 2)), dilation))
    return layers


def layer(kind: str, kernel: int, stride: int, padding: int, dilation: int) -> nn.Module:
    match kind:
        case "conv":
            return nn.Conv2d(3, 3, kernel, stride, padding, dilation)
        case "mean":
            return nn.AvgPool2d(kernel, stride, padding)
    return nn.MaxPool2d(kernel, stride, padding, ceil_mode=kind == "ceiling")


@given(layers=chains())
@settings(quick, max_examples=15)
def test_probe_finds_the_reach_of_any_chain(layers):
    offset, stride = arithmetic([numbers for _, *numbers in layers])
    assert probe(nn.Sequential(*(layer(*one) for one in layers)), length=512, breadth=128) == reaching(
        offset, stride
    )


@pytest.mark.parametrize(
    "net, offset", [(nn.Conv2d(3, 4, 3, 2, 1), 0), (nn.MaxPool2d(2), 0.5), (nn.AvgPool2d(2), 0.5)]
)
def test_probe_takes_a_single_layer(net, offset):
    assert probe(net) == reaching(offset, 2)


def test_probe_takes_out_every_use_of_a_layer_that_serves_twice():
    pool, act = nn.MaxPool2d(2), nn.SiLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), act, pool, nn.Conv2d(4, 4, 3, 1, 1), act, pool, pool)
    assert probe(net) == reaching(3.5, 8)


def test_probe_tells_rows_from_columns():
    net = nn.Sequential(nn.Conv2d(3, 4, (3, 5), (2, 4), (1, 0)), nn.MaxPool2d((2, 1)))
    assert probe(net) == ReceptiveField(
        (1.0, 2.0), (4.0, 4.0)
    )  # rows: 0, then half of 2; columns: (5 - 1) / 2
    assert probe(nn.Conv2d(3, 4, (1, 2), (1, 2))) == ReceptiveField((0.0, 0.5), (1.0, 2.0))


class Residual(nn.Module):
    """Two ways from input to output; ReLU is called as a function, as in ResNet, Inception and DenseNet."""

    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, images):
        return F.relu(F.relu(self.main(images)) + self.shortcut(images))


class Branches(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, images):
        return torch.cat([F.relu(branch(images)) for branch in self.branches], 1)


class SqueezeExcitation(nn.Module):
    """A gate that sees the whole picture: torchvision's class of this name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, maps):
        return maps * torch.sigmoid(self.fc(maps.mean((2, 3), keepdim=True) / 100))


def test_probe_follows_residuals_with_strided_shortcuts():
    block = Residual(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)),
        nn.Conv2d(3, 8, 1, 2),
    )
    deeper = Residual(nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1, 2))
    assert probe(nn.Sequential(block, deeper)) == reaching(0, 4)
    lopsided = Residual(nn.Conv2d(3, 8, 2, 2), nn.Conv2d(3, 8, 1, 2))  # centres .5 and 0, of equal weight
    assert probe(lopsided) == reaching(0.25, 2)


def test_probe_follows_branches():
    level = Branches(nn.Conv2d(3, 5, 1), nn.Conv2d(3, 2, 5, 1, 2), nn.MaxPool2d(3, 1, 1))
    assert probe(nn.Sequential(level, nn.MaxPool2d(3, 2, ceil_mode=True))) == reaching(1, 2)
    uneven = Branches(nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(3, 2, 2, 2))  # six channels at 0, two at .5
    assert probe(uneven, breadth=256).offset == pytest.approx(
        (0.125, 0.125), abs=0.001
    )  # the rim of the strip weighs a little


def test_probe_looks_through_gates_that_see_the_whole_picture():
    assert probe(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), SqueezeExcitation(4), nn.Conv2d(4, 4, 2, 2))
    ) == reaching(1, 4)


def test_probe_does_not_care_what_was_learned():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 4, 2, 1))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=3)
    nn.init.normal_(net[1].running_mean, std=9)
    for precision in (torch.float32, torch.bfloat16):
        assert probe(net.to(precision)) == reaching(1, 4)  # 0, then 1.5 - 1 steps of 2


def same_padded(maps, kernel: int):
    """TensorFlow's padding before a stride of 2, in arithmetic that torch.fx can trace."""
    rows, columns = (kernel - 2 + maps.shape[axis] % 2 for axis in (2, 3))
    return F.pad(maps, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])


class FunctionalConv(nn.Conv2d):
    """A layer of its own making, which torch.fx does not know to be one: its kernel becomes a bare parameter of the graph."""

    def forward(self, maps):
        maps = same_padded(maps, self.kernel_size[0]) if self.stride[0] == 2 else maps
        return F.conv2d(
            maps,
            self.weight,
            self.bias,
            self.stride,
            self.padding if self.stride[0] == 1 else 0,
            1,
            self.groups,
        )


class BareKernel(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(3, 3, kernel, kernel))

    def forward(self, maps):
        return F.conv2d(same_padded(maps, self.kernel.shape[-1]), self.kernel, stride=2)


def lopsided(layers: nn.Sequential) -> nn.Sequential:
    """Weights that look at the upper left corner of every kernel, and a little elsewhere."""
    for kernel in layers.parameters():
        nn.init.constant_(kernel, 0.001)
        if kernel.ndim == 4:
            kernel.data[:, :, 0, 0] = 5.0
    return layers


CALLED_AS_FUNCTIONS = {
    "a subclass of Conv2d": lambda: nn.Sequential(
        *(FunctionalConv(3, 3, kernel, 2) for kernel in (3, 3, 5, 3, 5))
    ),
    "a bare parameter": lambda: nn.Sequential(*(BareKernel(kernel) for kernel in (3, 3, 5, 3, 5))),
}


@pytest.mark.parametrize("kind", CALLED_AS_FUNCTIONS)
def test_no_trained_weight_of_a_convolution_called_as_a_function_moves_the_cells(kind):
    """At 225 = 7 * 32 + 1 pixels every layer pads alike on both sides, so that cell 0 lies on pixel 0."""
    net = lopsided(CALLED_AS_FUNCTIONS[kind]())
    cut = Only(create_feature_extractor(net, {"4": "maps"}))  # traced by torch.fx
    assert not any(isinstance(module, FunctionalConv | BareKernel) for module in cut.modules())
    assert probe(cut, (225, 225)) == reaching(0, 32)
    assert probe(cut, (224, 224)) == reaching(
        31, 32
    )  # the smaller half first: each layer adds its stride's worth to the right


@torch.no_grad()
def test_real_weights_in_convolutions_called_as_functions_are_placed_by_geometry_alone():
    """EfficientNet-Lite0 as another would write it: it says what attnvis' says, and its cells lie where attnvis' do."""
    net = EfficientNetLite()
    net.load_state_dict(load_weights("efficientnet_lite0"))
    trunk = net.features[:6].eval()
    images = torch.rand(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    expected, known = trunk(images), {size: probe(trunk, (size, size)) for size in (224, 225)}
    for block in list(trunk.modules()):
        if isinstance(block, nn.Sequential) and "convolution" in block._modules:
            plain = block.convolution
            own = FunctionalConv(
                plain.in_channels,
                plain.out_channels,
                plain.kernel_size,
                plain.stride,
                plain.kernel_size[0] // 2,
                groups=plain.groups,
            )
            own.weight, own.bias = plain.weight, plain.bias
            block.convolution = own
            block._modules.pop("padding", None)
    cut = Only(create_feature_extractor(trunk, {"5.project.norm": "maps"}, suppress_diff_warning=True))
    torch.testing.assert_close(trunk(images), expected)
    assert probe(cut, (225, 225)) == reaching(0, 8) == known[225]
    assert probe(cut, (224, 224)) == reaching(7, 8) == known[224]


def test_a_learned_scale_weighs_no_branch():
    """LayerScale: two branches centred at 0 and .5 count alike, whatever was learned of how much each is worth."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.shortcut = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(3, 8, 1, 2)
            self.layer_scale = nn.Parameter(torch.full((8, 1, 1), -40.0))

        def forward(self, images):
            return self.layer_scale * self.main(images) + self.shortcut(images)

    assert probe(Scaled()) == reaching(0.25, 2)
    assert probe(Only(create_feature_extractor(Scaled(), {"add": "maps"}))) == reaching(0.25, 2)


@pytest.mark.parametrize("layer", ["maxpool", "layer1", "layer2", "layer3", "layer4"])
def test_what_a_cell_can_see_is_what_the_kernels_before_it_span(layer):
    """resnet18: r grows by (k - 1) j with every convolution, j by its stride."""
    kernels = {"maxpool": [(7, 2), (3, 2)], "layer1": [(3, 1)] * 4} | {
        f"layer{n}": [(3, 2), (3, 1), (3, 1), (3, 1)] for n in (2, 3, 4)
    }
    field, jump = 1, 1
    for name, chain in kernels.items():
        for kernel, stride in chain:
            field, jump = field + (kernel - 1) * jump, jump * stride
        if name == layer:
            break
    cut = create_feature_extractor(models.resnet18(), {layer: "maps"})
    assert probe(Only(cut)).field == (field, field)


class Only(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.cut = cut

    def forward(self, images):
        return self.cut(images)["maps"]


def test_a_cell_sees_its_field_as_far_as_it_lies_on_what_was_seen():
    placement = Placement(
        (10.0, 20.0), (8.0, 16.0), (4, 4), (40, 100), Box(0.0, 5.0, 40.0, 90.0), field=(12.0, 30.0)
    )
    assert placement.sees(1, 1) == Box(12.0, 21.0, 12.0, 30.0)
    assert placement.sees(0, 0) == Box(4.0, 5.0, 12.0, 30.0)
    assert placement.sees(3, 3) == Box(28.0, 53.0, 12.0, 30.0)
    assert replace(placement, seen=Box(0.0, 30.0, 40.0, 20.0)).sees(3, 1) == Box(28.0, 30.0, 12.0, 20.0)
    assert replace(placement, field=None).sees(0, 0) is None
    assert [placement.nearest(*place) for place in ((10.0, 20.0), (13.9, 28.1), (0.0, 0.0), (99.0, 99.0), (26.0, 51.0))] == [
        (0, 0), (0, 1), (0, 0), (3, 3), (2, 2),
    ]  # fmt: skip


def test_a_field_is_told_in_pixels_of_the_photo():
    photo_twice_as_large = View((0.5, 0.5), (0.0, 0.0), Box(0.0, 0.0, 128.0, 128.0), (64, 64))
    assert place(
        photo_twice_as_large, ReceptiveField((0.0, 0.0), (16.0, 16.0), (30.0, 34.0)), (4, 4), (128, 128)
    ).field == (60, 68)


def test_probe_is_not_silenced_by_what_a_relu_called_as_a_function_cuts_off():
    class Dark(nn.Module):
        """As DenseNet and Inception: convolution, normalisation, F.relu; nothing positive would be left of a small input."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = (
                nn.Conv2d(3, 4, 3, 2, 1),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 4, 2, 2),
            )
            nn.init.constant_(self.norm.running_mean, 700)
            nn.init.constant_(self.last.bias, -700)

        def forward(self, images):
            return F.relu(self.last(F.relu(self.norm(self.conv(images)))))

    assert probe(Dark()) == reaching(1, 4)


@pytest.mark.parametrize("training", [True, False])
def test_the_probed_network_is_left_as_it_was(training):
    pool = nn.MaxPool2d(2)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        Residual(nn.Conv2d(4, 4, 3, 1, 1), SqueezeExcitation(4)),
        pool,
    )
    net.train(training)
    net[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    layers, asked = list(net.modules()), [parameter.requires_grad for parameter in net.parameters()]
    probe(net)
    assert all(
        torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype
        for name, tensor in net.state_dict().items()
    )
    assert all(one is other for one, other in zip(net.modules(), layers, strict=True)) and net[-1] is pool
    assert all(module.training == training for module in net.modules())
    assert [parameter.requires_grad for parameter in net.parameters()] == asked
    assert math.isfinite(float(net(torch.rand(2, 3, 32, 32)).detach().sum()))
