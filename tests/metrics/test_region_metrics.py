"""Region, box and segmentation metrics against plain loops, golden and published values."""

import json

import numpy as np
import pytest
import torch
from fake_truth import REFERENCE, published, read_grey

from attnvis.metrics import boxes, regions, segmentation
from attnvis.metrics.boxes import max_box_acc, max_box_acc_v2, outline_boxes, overlap
from attnvis.metrics.metric import facts
from attnvis.metrics.regions import (
    average_precision,
    energy,
    iou,
    lift,
    mask_auc,
    pointing_game,
    pxap,
    relevance_rank,
)
from attnvis.types import Box, Truth

H, W = 13, 17
EVERY = [getattr(module, name) for module in (regions, boxes, segmentation) for name in module.__all__]
named = pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.__name__)


def number(metric, maps, truth):
    """Of one photo, as a list."""
    values, finish = metric(maps, truth), facts(metric).finish
    return (finish(values) if finish else values).tolist()


def box(*numbers):
    return Box(*map(float, numbers))


def random_case(seed=0, levels=5):
    chance = np.random.default_rng(seed)
    maps = torch.from_numpy(chance.integers(levels, size=(3, H, W)) / levels)
    mask = chance.random((H, W)) < 0.3
    return maps, Truth((H, W), mask=mask)


def spot(row, column, size=(60, 80)):
    maps = torch.zeros(1, *size)
    maps[0, row, column] = 1
    return maps


# ---------------------------------------------------------------------------------------------- pointing game


def test_the_pointing_game_takes_a_disc_with_an_open_rim():
    truth = Truth((60, 80), boxes=(box(20, 30, 10, 10),))
    for row, column, expected in [
        (25, 35, 1),
        (20, 16, 1),
        (20, 15, 0),
        (6, 30, 1),
        (5, 30, 0),
        (10, 19, 1),
        (9, 18, 0),
    ]:
        squares = [(row - i) ** 2 + (column - j) ** 2 for i in range(20, 30) for j in range(30, 40)]
        assert (min(squares) < 15**2) == expected  # by the definition
        assert pointing_game(spot(row, column), truth).item() == expected


def test_without_tolerance_the_hottest_pixel_itself_must_lie_inside():
    truth = Truth((60, 80), boxes=(box(20, 30, 10, 10),))
    hits = [pointing_game(spot(20, column), truth, tolerance=0.0).item() for column in (29, 30, 39, 40)]
    assert hits == [0, 1, 1, 0]


def test_of_several_hottest_pixels_the_share_that_hits_counts():
    truth = Truth((60, 80), boxes=(box(20, 30, 10, 10),))
    assert pointing_game(spot(25, 35) + spot(0, 0), truth).item() == 0.5
    assert pointing_game(torch.ones(1, 60, 80), truth, tolerance=0.0).item() == pytest.approx(100 / 4800)


def test_the_tolerance_follows_a_smaller_grid():
    truth = Truth((60, 80), boxes=(box(20, 30, 10, 10),), zoom=0.5)
    hits = [pointing_game(spot(20, column), truth).item() for column in (22, 23)]
    assert hits == [0, 1]  # 7.5 pixels


# ---------------------------------------------------------------------------------------------- by loops


def test_energy_lift_and_rank_are_the_shares_they_say():
    maps, truth = random_case(levels=10**6)
    for index, values in enumerate(maps.numpy()):
        mass = values[truth.mask].sum() / values.sum()
        count = truth.mask.sum()
        hottest = np.argsort(values.ravel())[-count:]
        assert energy(maps, truth)[index] == pytest.approx(mass, abs=1e-12)
        assert lift(maps, truth)[index] == pytest.approx(mass / truth.mask.mean(), abs=1e-12)
        assert relevance_rank(maps, truth)[index] == pytest.approx(
            truth.mask.ravel()[hottest].mean(), abs=1e-12
        )


def test_tied_pixels_count_by_their_chance_to_be_among_the_hottest():
    maps = torch.tensor([[[3.0, 2, 2, 2, 0]]])
    truth = Truth((1, 5), mask=np.array([[True, True, False, False, False]]))
    assert relevance_rank(maps, truth).item() == pytest.approx((1 + 1 / 3) / 2)


def test_a_map_that_is_its_own_mirror_image_gives_either_half_a_half():
    """The tie of docs/evaluate.md: the middle's Gaussian has each value twice or four times.

    Of K = 3 hottest pixels two are sure (the middle pair), and two compete for the third place: 1.5 of 3.  A
    sort takes one of the two, so that one half gets 2 of 3 and the other 1: 0.5 / K off.
    """
    columns = (np.arange(6) + 0.5) / 6 - 0.5
    values = np.exp(-(columns**2) / (2 * 0.25**2))[None]
    right = np.array([[False, False, False, True, True, True]])
    by_sort = [mask.ravel()[np.argsort(-values.ravel())[:3]].mean() for mask in (right, ~right)]
    assert sorted(by_sort) == pytest.approx([1 / 3, 2 / 3]), "Quantus 0.6's rule"
    for mask in (right, ~right):
        ours = relevance_rank(torch.from_numpy(values)[None], Truth((1, 6), mask=mask)).item()
        assert ours == pytest.approx(1.5 / 3) and ours == pytest.approx(np.mean(by_sort))
    # beyond the outermost cells' centres a map is level: a run of equal pixels, of which the region has some
    level = torch.tensor([[[5.0, 1, 1, 1, 1, 0]]])  # K = 3: the first pixel, and 2 places for 4
    mask = np.array([[False, True, True, True, False, False]])
    assert relevance_rank(level, Truth((1, 6), mask=mask)).item() == pytest.approx(3 * (2 / 4) / 3)


def test_mask_auc_counts_every_pair():
    maps, truth = random_case()
    for values, found in zip(maps.numpy(), mask_auc(maps, truth).tolist()):
        inside, outside = values[truth.mask][:, None], values[~truth.mask]
        assert found == pytest.approx(((inside > outside) + 0.5 * (inside == outside)).mean(), abs=1e-12)


def test_average_precision_sums_over_the_distinct_values():
    maps, truth = random_case()
    for values, found in zip(maps.numpy(), average_precision(maps, truth).tolist()):
        total, before = 0.0, 0.0
        for threshold in sorted(set(values.ravel()), reverse=True):
            taken = values >= threshold
            recall = (taken & truth.mask).sum() / truth.mask.sum()
            total += (recall - before) * (taken & truth.mask).sum() / taken.sum()
            before = recall
        assert found == pytest.approx(total, abs=1e-12)


def test_iou_takes_the_best_hundredth_of_the_range():
    maps, truth = random_case()
    for values, found in zip(maps.numpy(), number(iou, maps, truth)):
        shares = (values - values.min()) / (values.max() - values.min())
        best = max(
            ((shares >= cut / 100) & truth.mask).sum() / ((shares >= cut / 100) | truth.mask).sum()
            for cut in range(101)
        )
        assert found == pytest.approx(best, abs=1e-12)


def test_pxap_pools_the_pixels_of_all_photos():
    maps, first = random_case(0, levels=10**6)
    other_maps, second = random_case(1, levels=10**6)
    curves = torch.stack([pxap(maps[:1], first, side=0), pxap(other_maps[:1], second, side=0)])
    pooled = facts(pxap).finish(curves.mean(0)).item()
    shares, inside = [], []
    for values, truth in ((maps[0].numpy(), first), (other_maps[0].numpy(), second)):
        share = (values - values.min()) / (values.max() - values.min())
        shares += np.floor(1000 * share).ravel().tolist()
        inside += truth.mask.ravel().tolist()
    shares, inside = np.array(shares), np.array(inside)
    area, before = 0.0, 0.0
    for threshold in range(1000, -1, -1):
        taken = shares >= threshold
        if taken.any():
            recall = (taken & inside).sum() / inside.sum()
            area += (recall - before) * (taken & inside).sum() / taken.sum()
            before = recall
    assert pooled == pytest.approx(area, abs=2e-3)  # a value on a threshold may round to the other side


# ------------------------------------------------------------------------------------------------------ boxes


def test_overlap_counts_the_far_pixels():
    assert overlap(np.array([[1, 2, 5, 6]]), np.array([[3, 1, 4, 5]])).item() == pytest.approx(8 / 27)


@pytest.mark.parametrize(
    "values, expected",  # wsolevaluation's own tests
    [
        (
            [[0, 0, 0, 0, 0], [0, 0.4, 0.4, 0.4, 0.6], [0, 0.4, 1, 0.8, 0.6], [0, 0.4, 0.4, 0.4, 0.6]],
            [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]],
        ),
        (
            [[0.4, 0, 0.2, 0.2, 0.2], [0.4, 0.4, 0, 0.4, 0], [0, 0, 0, 0.4, 0], [1, 0.6, 0.8, 0.2, 0.2]],
            [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]],
        ),
        (np.zeros((3, 3)), [[0, 0, 0, 0]] * 5),
    ],
)
def test_the_box_about_the_largest_part_is_that_of_wsolevaluation(values, expected):
    levels = (255 * np.array(values)).astype(np.uint8)
    cuts = [int(threshold * levels.max()) for threshold in np.arange(0, 1, 0.2)]
    assert [outline_boxes(levels > cut, every_part=False)[0].tolist() for cut in cuts] == expected


def test_a_map_that_is_the_box_has_full_box_accuracy():
    truth = Truth((60, 80), boxes=(box(20, 30, 21, 17),))
    maps = torch.from_numpy(truth.region.astype(float))[None]
    assert number(max_box_acc, maps, truth) == number(max_box_acc_v2, maps, truth) == [1]


def test_the_second_box_accuracy_takes_parts_that_are_not_the_largest():
    truth = Truth((224, 224), boxes=(box(150, 150, 40, 40),))
    maps = torch.zeros(1, 224, 224)
    maps[0, 150:190, 150:190] = 1
    maps[0, 10:100, 10:100] = 1
    assert number(max_box_acc, maps, truth) == [0]
    assert number(max_box_acc_v2, maps, truth) == [1]


def test_a_data_sets_threshold_is_one_for_all_its_photos():
    truth = Truth((224, 224), boxes=(box(0, 0, 100, 100),))
    weak, strong = torch.zeros(1, 224, 224), torch.zeros(1, 224, 224)
    weak[0, :100, :100], weak[0, 0, 0] = 0.2, 1  # right below a fifth alone
    strong[0], strong[0, :100, :100], strong[0, 200, 200] = 0.5, 1, 0  # right above a half alone
    curves = torch.stack([max_box_acc(maps, truth, side=0) for maps in (weak, strong)])
    assert [facts(max_box_acc).finish(curve).item() for curve in curves] == [1, 1]
    assert facts(max_box_acc).finish(curves.mean(0)).item() == 0.5


def test_of_boxes_the_pixels_are_those_that_are_centred_inside():
    region = Truth((4, 5), boxes=(box(0.5, 1.4, 2, 1.2), box(-3, 3.6, 4.4, 9))).region
    expected = [
        [
            (0.5 <= i + 0.5 < 2.5 and 1.4 <= j + 0.5 < 2.6) or (i + 0.5 < 1.4 and j + 0.5 >= 3.6)
            for j in range(5)
        ]
        for i in range(4)
    ]
    assert region.tolist() == expected


# ----------------------------------------------------------------------------------------------- segmentation


def test_the_disc_has_the_values_of_pysodmetrics():
    y, x = np.mgrid[:16, :16]
    mask = (x - 7.5) ** 2 + (y - 6.5) ** 2 <= 20
    maps = np.round(255 * np.exp(-((x - 8.5) ** 2 + (y - 7) ** 2) / 30)) / 255
    truth = Truth((16, 16), mask=mask)
    assert mask.sum() == 60 and round(255 * maps.sum()) == 22022
    expected = {
        "mae": 0.229,
        "f_adaptive": 0.8741379310,
        "f_max": 0.8821428571,
        "f_mean": 0.6092206419,
        "e_adaptive": 0.8670810275,
        "e_max": 0.9292899550,
        "e_mean": 0.6237211023,
        "s_measure": 0.7786061919,
        "weighted_f": 0.5685457752,
    }
    for name, value in expected.items():
        found = number(getattr(segmentation, name), torch.from_numpy(maps)[None], truth)
        assert found == pytest.approx([value], abs=1e-9), name


@pytest.mark.parametrize("case", [pytest.param(0, marks=published)])
def test_the_published_pairs_have_the_published_numbers(case):
    """Of three pairs one has an empty mask, which PySODMetrics counts and attnvis does not."""
    folder = REFERENCE / "examples"
    values = json.loads((folder / "version_performance.json").read_text())["v1_4_3"]
    masks = sorted((folder / "test_data/masks").iterdir())
    found, empty = {name: [] for name in ("mae", "f_adaptive", "s_measure", "weighted_f")}, None
    curves = []
    for path in masks:
        mask = read_grey(path) > 128
        maps = read_grey(folder / "test_data/preds" / path.name) / 255
        if not mask.any():
            assert torch.isnan(
                segmentation.mae(torch.from_numpy(maps)[None], Truth(mask.shape, mask=mask))
            ).all()
            empty = (maps - maps.min()) / (maps.max() - maps.min())
            continue
        truth = Truth(mask.shape, mask=mask)
        for name, numbers in found.items():
            numbers += number(getattr(segmentation, name), torch.from_numpy(maps)[None], truth)
        curves.append(segmentation.f_max(torch.from_numpy(maps)[None], truth))
    means = {name: sum(numbers) / 3 for name, numbers in found.items()}
    assert means["mae"] + empty.mean() / 3 == pytest.approx(values["MAE"], abs=1e-9)
    assert means["s_measure"] + (1 - empty.mean()) / 3 == pytest.approx(values["Smeasure"], abs=1e-9)
    assert means["f_adaptive"] == pytest.approx(values["adpFm"], abs=1e-9)
    assert means["weighted_f"] == pytest.approx(values["wFmeasure"], abs=1e-9)
    assert (sum(curves) / 3).max().item() == pytest.approx(values["maxFm"], abs=1e-9)
    assert (sum(curves) / 3).mean().item() == pytest.approx(values["meanFm"], abs=1e-9)


# ------------------------------------------------------------------------------- what no metric may get wrong


@named
def test_an_empty_region_is_undefined_and_never_a_hit(metric):
    """Quantus counts an empty mask as a hit of its pointing game."""
    maps, _ = random_case()
    for truth in (Truth((H, W), mask=np.zeros((H, W), bool)), Truth((H, W), boxes=()), Truth((H, W))):
        assert all(np.isnan(number(metric, maps, truth)))


@named
def test_a_perfect_map_is_as_good_as_the_range_allows(metric):
    mask = np.zeros((H, W), bool)
    mask[4:9, 6:13] = True
    found = number(metric, torch.from_numpy(mask.astype(float))[None], Truth((H, W), mask=mask))
    best = {"mae": 0, "lift": 1 / mask.mean(), "f_mean": None, "e_mean": None, "e_max": H * W / (H * W - 1)}
    best["pxap"] = None  # it resizes
    best["e_adaptive"] = best["e_max"]
    expected = best.get(metric.__name__, 1)
    if expected is not None:
        assert found == pytest.approx([expected], abs=1e-9)


@named
def test_a_map_of_nothing_gives_a_number_or_nan_and_no_error(metric):
    _, truth = random_case()
    found = number(metric, torch.zeros(1, H, W), truth)
    assert np.isnan(found[0]) == (metric.__name__ in ("energy", "lift"))
