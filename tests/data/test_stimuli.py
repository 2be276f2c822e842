"""Pictures with known truth: what they claim is measured on their pixels - areas, moments, hues."""

from colorsys import rgb_to_hsv
from math import pi, radians, sin, sqrt

import cv2
import numpy as np
import pytest
from fake_pictures import items

from attnvis.data.stimuli import COLOURS, FILLS, KINDS, SHAPES, background, pop_out, scene

SCENES = [scene(seed) for seed in range(60)]


def inside(mask, margin=1):
    """Without the rim, whose pixels are partly background."""
    return cv2.erode(mask.astype(np.uint8), np.ones((3, 3)), iterations=margin, borderValue=0) > 0


def hue(colour):
    return 360 * rgb_to_hsv(*(colour / 255))[0]


def apart(first, second, turn):
    """The angle between two directions, of which `turn` degrees make a whole."""
    return abs((first - second + turn / 2) % turn - turn / 2)


def tilt(mask):
    """Of a bar, in degrees from the x axis: the direction of its longest axis, by second moments."""
    rows, columns = np.nonzero(mask)
    spread = np.cov(columns, rows)
    return np.degrees(0.5 * np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1]))


def area(picture, mask):
    """In pixels, those of the rim counted by how much the item covers them."""
    values = picture[..., 0].astype(float)
    grey, ink = values[~cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)], values[inside(mask)]
    return ((values - np.median(grey)) / (np.median(ink) - np.median(grey)))[mask].sum()


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_49_items_differs_and_the_rest_is_grey(kind):
    for seed in range(12):
        picture, target, distractors = pop_out(kind, 2.0, seed)
        assert (picture.dtype, picture.shape, target.shape, distractors.shape) == (
            np.uint8,
            (225, 225, 3),
            (225, 225),
            (225, 225),
        )
        assert not (target & distractors).any()
        assert (len(items(target)), len(items(distractors))) == (1, 48)
        assert len(np.unique(picture[~target & ~distractors])) == 1


@pytest.mark.parametrize("level", [20.0, 60.0, 150.0])
def test_an_odd_colour_differs_in_hue_alone(level):
    for seed in range(12):
        picture, target, distractors = pop_out("colour", level, seed)
        (odd,), (usual,) = (np.unique(picture[inside(mask, 2)], axis=0) for mask in (target, distractors))
        assert apart(hue(odd), hue(usual), 360) == pytest.approx(level, abs=1)
        assert rgb_to_hsv(*odd)[1:] == pytest.approx(rgb_to_hsv(*usual)[1:], rel=0.01)
        assert target.sum() == pytest.approx(distractors.sum() / 48, rel=0.05)


@pytest.mark.parametrize("level", [15.0, 30.0, 75.0, 120.0])
def test_an_odd_bar_is_turned_and_no_other(level):
    for seed in range(12):
        picture, target, distractors = pop_out("orientation", level, seed)
        tilts = [tilt(bar) for bar in items(distractors)]
        assert max(apart(found, tilts[0], 180) for found in tilts) < 3
        assert apart(tilt(target), np.median(tilts), 180) == pytest.approx(min(level, 180 - level), abs=3)
        assert target.sum() == pytest.approx(distractors.sum() / 48, rel=0.1)
        assert set(np.unique(picture[inside(target | distractors)])) in ({0}, {255})


@pytest.mark.parametrize("level", [0.5, 1.25, 1.6, 2.2])
def test_an_odd_size_is_so_many_times_as_wide(level):
    for seed in range(12):  # at the picture's edge too, where a disc too large would be cut
        picture, target, distractors = pop_out("size", level, seed)
        usual = np.mean([area(picture, disc) for disc in items(distractors)])
        assert sqrt(area(picture, target) / usual) == pytest.approx(level, rel=0.04)


def test_the_level_changes_nothing_but_the_target():
    for kind in ("colour", "orientation"):
        (first, before, _), (second, after, _) = pop_out(kind, 30.0, 5), pop_out(kind, 75.0, 5)
        changed = (first != second).any(2)
        assert changed.any() and not (changed & ~(before | after)).any()


def test_a_seed_says_all():
    for make in (lambda seed: pop_out("size", 1.6, seed), scene):
        np.testing.assert_equal(make(3), make(3))
        assert (make(3)[0] != make(4)[0]).any()


def test_another_size_is_another_resolution():
    small, large = pop_out("colour", 90.0, 7, 119)[1], pop_out("colour", 90.0, 7, 357)[1]
    centres = [np.mean(np.nonzero(mask), axis=1) / len(mask) for mask in (small, large)]
    np.testing.assert_allclose(*centres, atol=0.005)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no pop-out by 'shape'; choose colour, orientation, size"):
        pop_out("shape", 1.0, 0)
    with pytest.raises(ValueError, match=r"3 times .* from 0.2 to 2.5"):
        pop_out("size", 3.0, 0)


# ----------------------------------------------------------------------------------------------------- scenes


def test_a_scene_is_its_background_wherever_the_mask_is_not():
    for seed, (picture, mask, _) in enumerate(SCENES):
        before = np.rint(255 * background(np.random.default_rng(seed), 225)).astype(np.uint8)
        assert (picture.dtype, picture.shape, mask.shape) == (np.uint8, (225, 225, 3), (225, 225))
        np.testing.assert_array_equal(picture[~mask], before[~mask])
        assert (picture != before).any(2)[inside(mask)].mean() > 0.97


def test_an_object_is_whole_and_in_one_piece():
    for _, mask, _ in SCENES:
        assert len(items(mask)) == 1
        assert not np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()


def test_an_object_has_the_hue_of_its_name():
    degrees = {
        "red": 0,
        "orange": 30,
        "yellow": 60,
        "green": 120,
        "cyan": 180,
        "blue": 225,
        "purple": 275,
        "pink": 325,
    }
    for picture, mask, labels in SCENES:
        pixels = picture[inside(mask, 2)]
        assert apart(hue(pixels[pixels.max(1).argmax()]), degrees[labels["colour"]], 360) < 7


def test_no_background_comes_near_the_colour_of_its_object():
    """Channels spanning .72 cannot all lie within .24 of channels spanning .24.

    The two ends together are .48 away.
    """
    for seed, (picture, mask, _) in enumerate(SCENES):
        before, pixels = background(np.random.default_rng(seed), 225), picture[inside(mask, 2)] / 255
        assert before.min() >= 0 and before.max() <= 1
        assert np.ptp(before, axis=2).max() <= 0.24 + 1e-6
        assert np.ptp(pixels, axis=1).max() >= 0.72 - 2 / 255


# Areas by hand, as shares of the smallest circle around the shape and of its convex hull.
AREAS = {
    "disc": (1, 1),
    "ring": (1 - 0.55**2, 1 - 0.55**2),
    "square": (2 / pi, 1),
    "bar": (4 * 0.95 * 0.3 / (0.95**2 + 0.3**2) / pi, 1),
    "triangle": (3 * sqrt(3) / 4 / pi, 1),
    "star": (
        10 * 0.5 * 0.4 * sin(radians(36)) / pi,
        10 * 0.5 * 0.4 * sin(radians(36)) / (2.5 * sin(radians(72))),
    ),
    "cross": (
        (4 * 0.95 * 0.6 - 0.36) / (0.95**2 + 0.3**2) / pi,
        (4 * 0.95 * 0.6 - 0.36) / (1.9**2 - 2 * 0.65**2),
    ),
    "moon": ((1 - 0.35) / 2, 1 - 0.35),
}


def test_an_object_has_the_shape_of_its_name():
    for _, mask, labels in SCENES:
        points = np.stack(np.nonzero(mask), 1).astype(np.float32)
        circle, hull = pi * (cv2.minEnclosingCircle(points)[1] + 0.5) ** 2, cv2.convexHull(points)
        # the hull joins pixel centres: half a pixel is missing all round
        within = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2
        assert (mask.sum() / circle, mask.sum() / within) == pytest.approx(
            AREAS[labels["shape"]], rel=0.12
        ), labels


def test_a_fill_is_bright_in_its_share():
    expected = {"plain": 1, "stripes": 0.5, "checks": 0.5, "dots": 1 - 0.1 * pi}
    for name, share in expected.items():
        bright = [
            (pixels.max(1) > 0.7 * pixels.max()).mean()
            for picture, mask, labels in SCENES
            if labels["fill"] == name
            for pixels in [picture[inside(mask, 2)]]
        ]
        assert np.mean(bright) == pytest.approx(share, abs=0.04), name


def test_stripes_run_one_way_and_checks_turn_at_every_step():
    u, v = np.meshgrid((np.arange(12) + 0.5) / 6, (np.arange(12) + 0.5) / 6)
    stripes, checks = FILLS["stripes"](u, v), FILLS["checks"](u, v)
    assert (stripes == stripes[:1]).all() and (stripes[:, 3:] != stripes[:, :-3]).all()
    assert (checks[3:] != checks[:-3]).all() and (checks[:, 3:] != checks[:, :-3]).all()


def test_all_names_occur_about_equally_often():
    labels = [scene(seed, 33)[2] for seed in range(400)]
    for kind, names in (("shape", SHAPES), ("colour", COLOURS), ("fill", FILLS)):
        counts = [sum(found[kind] == name for found in labels) for name in names]
        assert sum(counts) == 400
        assert counts == pytest.approx([400 / len(names)] * len(names), abs=4 * sqrt(400 / len(names)))
