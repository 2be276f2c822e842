"""Placement against PyTorch's, OpenCV's and SciPy's interpolation, and arithmetic by hand."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from fake_grids import FITS, quick, reaching, rectangle, seen_as
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from attnvis.backbone.receptive_field import probe
from attnvis.geometry import ReceptiveField, crop_grid, place_grid, stretch, to_pixels, visible_cells
from attnvis.types import Box, Placement, View

close = partial(np.testing.assert_allclose, rtol=0, atol=2e-6)


def placed(first, step, grid: tuple[int, int], size: tuple[int, int], *seen: float) -> Placement:
    """Seen: top, left, height, width; without, the whole photo."""
    return Placement(
        tuple(map(float, first)), tuple(map(float, step)), grid, size, rectangle(*(seen or (0, 0, *size)))
    )


def same(size: tuple[int, int]) -> View:
    """A photo that went into the network as it is."""
    return View((1.0, 1.0), (0.0, 0.0), rectangle(0, 0, *size), size)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def interpolate(cells: np.ndarray, size: tuple[int, int], corners: bool) -> np.ndarray:
    return F.interpolate(torch.tensor(cells)[None, None], size, mode="bilinear", align_corners=corners)[
        0, 0
    ].numpy()


# The grid on the photo


def test_cells_on_a_resized_photo_by_hand():
    view = View((2.0, 0.5), (0.0, 0.0), rectangle(0, 0, 30, 200), (60, 100))
    placement = place_grid(view, ReceptiveField((3.0, 7.5), (8.0, 16.0)), (7, 6), (30, 200))
    # (3 + .5) / 2, (7.5 + .5) / .5; 8 / 2, 16 / .5
    assert placement == placed((1.75, 16), (4, 32), (7, 6), (30, 200))
    assert placement.centre(2, 3) == (9.75, 112.0)


def test_cells_on_a_cropped_photo_by_hand():
    view = View((0.5, 0.5), (-10.0, 0.0), rectangle(20, 0, 64, 64), (32, 32))
    placement = place_grid(view, reaching(0, 8), (4, 4), (104, 64))
    assert placement == placed((21, 1), (16, 16), (4, 4), (104, 64), 20, 0, 64, 64)  # (.5 + 10) / .5


def test_cells_on_a_letterboxed_photo_by_hand():
    view = View((0.25, 0.25), (0.0, 12.0), rectangle(0, 0, 128, 32), (32, 32))
    placement = place_grid(view, reaching(3.5, 8), (4, 4), (128, 32))
    # (4 - 12) / .25: the first column lies left of the photo
    assert placement == placed((16, -32), (32, 32), (4, 4), (128, 32))
    # tiles -48 ... -16, -16 ... 16, 16 ... 48, 48 ... 80 on a photo 0 ... 32
    assert visible_cells(placement) == (slice(0, 4), slice(1, 3))


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
    drawn = to_pixels(cells, place_grid(same(size), stretch(same(size), grid), grid, size))
    close(drawn, interpolate(cells, size, corners=False))
    close(drawn, cv2.resize(cells, size[::-1], interpolation=cv2.INTER_LINEAR))
    if min(grid) > 1:
        close(drawn, ndimage.zoom(cells, ratio, order=1, mode="nearest", grid_mode=True))


@pytest.mark.parametrize("size", [(225, 225), (97, 225), (353, 33), (1200, 801), (50, 61)])
def test_stretched_maps_are_what_interpolate_draws_on_a_photo_of_any_size(size):
    cells, view = noise(7, 5), seen_as(size, "stretch")
    close(
        to_pixels(cells, place_grid(view, stretch(view, (7, 5)), (7, 5), size)),
        interpolate(cells, size, corners=False),
    )


@pytest.mark.parametrize("grid", [(8, 8), (2, 5), (3, 12)])
def test_at_a_multiple_of_the_stride_plus_one_rf_is_align_corners(grid):
    cells, size = noise(*grid), (32 * (grid[0] - 1) + 1, 32 * (grid[1] - 1) + 1)
    drawn = to_pixels(cells, place_grid(same(size), reaching(0, 32), grid, size))
    close(drawn, interpolate(cells, size, corners=True))
    close(drawn, ndimage.zoom(cells, (size[0] / grid[0], size[1] / grid[1]), order=1))


@pytest.mark.parametrize("size", [(225, 353), (500, 700), (700, 300), (60, 90)])
@pytest.mark.parametrize("how", ["resize", "stretch"])
def test_at_a_multiple_of_the_stride_plus_one_maps_mirror_exactly(size, how):
    view = seen_as(size, how)
    grid = tuple(1 + (side - 1) // 32 for side in view.size)
    placement, cells = place_grid(view, reaching(0, 32), grid, size), noise(*grid)
    for axis in (0, 1):
        assert placement.centre(0, 0)[axis] + placement.centre(grid[0] - 1, grid[1] - 1)[
            axis
        ] == pytest.approx(size[axis], abs=1e-9)
        np.testing.assert_allclose(
            to_pixels(np.flip(cells, axis), placement), np.flip(to_pixels(cells, placement), axis), atol=1e-5
        )


def test_at_224_pixels_the_same_map_is_mirrored_onto_another_place():
    view, cells = same((224, 224)), noise(7, 7)
    placement = place_grid(view, reaching(0, 32), (7, 7), (224, 224))
    assert np.abs(to_pixels(cells[:, ::-1], placement) - to_pixels(cells, placement)[:, ::-1]).max() > 0.3


def test_stretch_draws_half_a_stride_to_the_lower_right_of_where_it_looks():
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(5)))
    reach, view = probe(net), same((224, 224))
    true, usual = (
        place_grid(view, reach, (7, 7), (224, 224)),
        place_grid(view, stretch(view, (7, 7)), (7, 7), (224, 224)),
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
    beyond=integers,
)
@quick
def test_at_its_centre_a_cell_has_its_own_value(grid, first, step, beyond):
    size = tuple(a + s * (n - 1) + 1 + b for a, s, n, b in zip(first, step, grid, beyond))
    cells = noise(*grid)
    # at the centre of a pixel
    drawn = to_pixels(cells, placed((first[0] + 0.5, first[1] + 0.5), step, grid, size))
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
    whole = place_grid(
        view,
        draw(st.sampled_from([reaching(0, 32), reaching(15.5, 32), reaching(22, 32), stretch(view, grid)])),
        grid,
        size,
    )
    return crop_grid(whole, *visible_cells(whole))


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
    # 1.5 ... 5.5: centre 5.5 is beyond
    assert np.flatnonzero(~np.isnan(drawn).all(1)).tolist() == [1, 2, 3, 4]
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
# most cells fall between the centres of the pixels
@example(placement=placed((16, 16), (32, 32), (7, 7), (224, 224)), size=(3, 2))
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
    # pixels centred at 2.5 and 7.5
    drawn = to_pixels(cells, placed((5, 0.5), (10, 1), (1, 10), (10, 10)), (1, 2), density=True)
    close(drawn, [[0 + 1 + 2 + 3 + 4, 5 + 6 + 7 + 8 + 9]])


def test_a_cell_is_never_dealt_to_a_pixel_that_was_not_seen():
    seen_from_4 = placed((5, 4.5), (10, 1), (1, 6), (10, 10), 0, 4, 10, 6)
    # the first cell is nearer to 2.5 than to 7.5
    drawn = to_pixels(np.arange(1, 7, dtype=np.float32)[None], seen_from_4, (1, 2), density=True)
    close(drawn, [[np.nan, 1 + 2 + 3 + 4 + 5 + 6]])


# visible_cells


@given(shown=views(), far=st.floats(-40, 40), stride=st.sampled_from([8.0, 16.0, 32.0]))
# tiles that end exactly where the bars end
@example(shown=(seen_as((850, 1998), "letterbox", 224), (850, 1998)), far=15.5, stride=32.0)
@example(shown=(seen_as((148, 345), "letterbox", 224), (148, 345)), far=15.5, stride=32.0)
@example(shown=(seen_as((2078, 883), "letterbox", 224), (2078, 883)), far=15.5, stride=32.0)
@quick
def test_only_cells_whose_tile_touches_the_photo_are_kept(shown, far, stride):
    (view, size), grid = (
        shown,
        tuple(int(side // shown_stride) for side, shown_stride in zip(shown[0].size, (stride, stride))),
    )
    visible = visible_cells(place_grid(view, reaching(far, stride), grid, size))
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
        assert list(range(grid[axis]))[visible[axis]] == touching


@pytest.mark.parametrize("how", ["resize", "crop", "stretch"])
@pytest.mark.parametrize("size", [(300, 800), (800, 300), (50, 50)])
def test_nothing_is_dropped_where_there_are_no_bars(how, size):
    view = seen_as(size, how)
    grid = tuple(1 + (side - 1) // 32 for side in view.size)
    assert visible_cells(place_grid(view, reaching(0, 32), grid, size)) == (
        slice(0, grid[0]),
        slice(0, grid[1]),
    )


def test_a_part_of_the_grid_stays_where_it_was():
    placement = placed((10, 20), (4, 8), (5, 7), (40, 90))
    part = crop_grid(placement, slice(1, 4), slice(2, 7))
    assert part.grid == (3, 5) and part.seen == placement.seen and part.size == placement.size
    assert [part.centre(i, j) for i in range(3) for j in range(5)] == [
        placement.centre(i, j) for i in range(1, 4) for j in range(2, 7)
    ]


def test_a_cell_sees_its_field_as_far_as_it_lies_on_what_was_seen():
    placement = Placement(
        (10.0, 20.0), (8.0, 16.0), (4, 4), (40, 100), Box(0.0, 5.0, 40.0, 90.0), field=(12.0, 30.0)
    )
    assert placement.sees(1, 1) == Box(12.0, 21.0, 12.0, 30.0)
    assert placement.sees(0, 0) == Box(4.0, 5.0, 12.0, 30.0)
    assert placement.sees(3, 3) == Box(28.0, 53.0, 12.0, 30.0)
    assert replace(placement, seen=Box(0.0, 30.0, 40.0, 20.0)).sees(3, 1) == Box(28.0, 30.0, 12.0, 20.0)
    assert replace(placement, field=None).sees(0, 0) is None
    nearest = {
        (10.0, 20.0): (0, 0),
        (13.9, 28.1): (0, 1),
        (0.0, 0.0): (0, 0),
        (99.0, 99.0): (3, 3),
        (26.0, 51.0): (2, 2),
    }
    for spot, cell in nearest.items():
        assert placement.nearest(*spot) == cell


def test_a_field_is_told_in_pixels_of_the_photo():
    photo_twice_as_large = View((0.5, 0.5), (0.0, 0.0), Box(0.0, 0.0, 128.0, 128.0), (64, 64))
    assert place_grid(
        photo_twice_as_large, ReceptiveField((0.0, 0.0), (16.0, 16.0), (30.0, 34.0)), (4, 4), (128, 128)
    ).field == (60, 68)
