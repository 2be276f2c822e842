"""Generated data sets: what their truth claims is measured on their pixels."""

from colorsys import rgb_to_hsv

import cv2
import numpy as np
import pytest
import torch
from conftest import make_photo
from fake_pictures import items

from attnvis.data.datasets import open_dataset
from attnvis.data.generated import ladder, step_of
from attnvis.data.stimuli import SEARCHES, pop_out, search, simulated_fixations
from attnvis.metrics.fixations import ig
from attnvis.types import Truth


def core(mask):
    return cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0


@pytest.mark.parametrize("task", SEARCHES)
@pytest.mark.parametrize("count", [3, 20, 49])
def test_a_search_has_one_target_among_the_others(task, count):
    picture, target, distractors = search(task, count, seed=5)
    assert len(items(target)) == 1 and len(items(distractors)) == count - 1
    background = picture[~(target | distractors)]
    assert (background == background[0]).all() and not (target & distractors).any()


def test_the_target_keeps_its_place_whatever_the_number_and_the_task():
    centres = {
        tuple(np.argwhere(search(task, count, seed=2)[1]).mean(0).round().tolist())
        for task in SEARCHES
        for count in (5, 30)
    }
    rows, columns = zip(*centres)
    assert max(rows) - min(rows) <= 1 and max(columns) - min(columns) <= 1


def test_a_conjunction_shares_its_colour_with_some_and_its_direction_with_the_others():
    picture, target, distractors = search("conjunction", 21, seed=1)

    def traits(mask):
        rows, columns = np.nonzero(mask)
        hue = 360 * rgb_to_hsv(*picture[core(mask)].mean(0) / 255)[0]
        return (
            "red" if min(hue, 360 - hue) < 20 else "green",
            "upright" if np.ptp(rows) > np.ptp(columns) else "level",
        )

    others = [traits(mask) for mask in items(distractors)]
    assert traits(target) == ("red", "upright")
    assert sorted(set(others)) == [("green", "upright"), ("red", "level")]
    assert others.count(("red", "level")) == 10


def test_a_wrong_search_is_told_with_what_there_is():
    with pytest.raises(ValueError, match="no search 'visual'"):
        search("visual", 9, seed=0)
    with pytest.raises(ValueError, match="from 3 to 49"):
        search("feature", 50, seed=0)


@pytest.mark.parametrize("text", ["colour:90:3", "size", "conjunction:12", "scenes:0.5:2"])
def test_generated_pictures_come_with_their_truth_and_are_the_same_again(text):
    dataset, again = (open_dataset(f"generated:{text}") for _ in range(2))
    assert len(dataset) == {"colour:90:3": 3, "scenes:0.5:2": 2}.get(text, 100)
    sample = dataset[1]
    assert sample.picture.shape == (*sample.truth.size, 3) and sample.path is None
    assert np.array_equal(sample.picture, again[1].picture) and sample.truth.mask.any()
    assert dataset.known == sample.truth.known
    assert not np.array_equal(sample.picture, dataset[0].picture)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("shape", "there is no generated:shape"),
        ("colour:red", "LEVEL and COUNT are numbers"),
        ("size:9", "does not fit its place"),
        ("scenes:2", "from 0 to 1"),
        ("feature:60", "from 3 to 49"),
    ],
)
def test_a_wrong_name_of_a_generated_set_is_told(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        open_dataset(f"generated:{text}")


def test_simulated_fixations_have_the_gain_of_their_density():
    density = np.random.default_rng(0).dirichlet(np.full(300, 0.5)).reshape(15, 20)
    places = simulated_fixations(density, 30_000, seed=1)
    bits = np.log2(density * 300)
    true = (density * bits).sum()
    gain = ig(
        torch.from_numpy(density)[None], Truth((15, 20), fixations=places), baseline="uniform", floor=0.0
    )
    error = np.sqrt((density * (bits - true) ** 2).sum() / 30_000)
    assert gain.item() == pytest.approx(true, abs=4 * error)


def test_a_mosaic_has_its_target_where_the_mask_says(tmp_path):
    colours = {}
    for number, name in enumerate(("a", "b", "c", "d", "e")):
        path = make_photo(tmp_path / name / "1.png", (40, 50))
        colours[name] = (40 * number + 30, 200 - 30 * number, 90)
        cv2.imwrite(str(path), np.full((40, 50, 3), colours[name][::-1], np.uint8))
    dataset = open_dataset(tmp_path, layout="mosaics")
    tiles = set()
    for sample in dataset:
        inside = sample.picture[sample.truth.mask]
        assert (inside == colours[sample.truth.category]).all() and sample.truth.mask.mean() == 0.25
        outside = {tuple(colour) for colour in sample.picture[~sample.truth.mask].tolist()}
        assert len(outside) == 3 and colours[sample.truth.category] not in outside
        tiles.add(tuple(np.argwhere(sample.truth.mask)[0].tolist()))
    assert len(tiles) > 1


def test_a_ladder_has_every_kind_at_every_level():
    dataset = ladder({"orientation": [10, 40], "size": [1.5, 2]}, repeats=3)
    assert len(dataset) == 12 and len(set(dataset.names)) == 12
    steps = [step_of(name) for name in dataset.names]
    assert steps[0] == ("orientation", 10.0, 0) and steps[-1] == ("size", 2.0, 5)
    seeds = {(kind, level): [] for kind, level, _ in steps}
    for kind, level, seed in steps:
        seeds[kind, level].append(seed)
    assert seeds["orientation", 10.0] == seeds["size", 1.5] == [0, 1, 2]
    assert seeds["orientation", 40.0] == [3, 4, 5]
    picture, target, _ = pop_out("size", 2.0, seed=5)
    sample = dataset[11]
    assert (sample.picture == picture).all() and (sample.truth.mask == target).all()


def test_a_ladder_of_what_cannot_be_drawn_is_told():
    with pytest.raises(ValueError, match="there are no arrays 'colou'"):
        ladder({"colou": [1]}, repeats=1)
    with pytest.raises(ValueError, match="a target 9 times as large"):
        ladder({"size": [2, 9]}, repeats=1)
    with pytest.raises(ValueError, match="repeats=0 draws no array"):
        ladder({"size": [2]}, repeats=0)
