"""Why a patch lit up: where it is known, on a network of colours; its table, its picture, its command."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import fake_backbone, make_photo
from torch import nn

import attnvis
from attnvis.pipeline.why import SIDE, CropFile, add_favourites, crop, loaded, stored
from attnvis.types import Box, Placement, Preprocessing

HOW = Preprocessing(size=64, fit="stretch", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Colours(nn.Module):
    """Patches of 16 x 16 pixels, their mean red, green and blue."""

    def forward(self, images):
        return nn.functional.avg_pool2d(images, 16)


def spots(path, places: dict[tuple[int, int], tuple[int, int, int]]) -> Path:
    """A black photo of 4 x 4 cells, some in a colour (RGB)."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    for (row, column), colour in places.items():
        pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = colour
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path


@pytest.fixture
def net():
    return fake_backbone(Colours(), HOW)


@pytest.fixture
def one(here):
    return spots(here / "one.png", {(1, 2): (255, 51, 0), (3, 0): (204, 0, 0), (0, 3): (0, 102, 0)})


def explain(net, photo, query=(1.0, -2.0, 0.5)):
    return attnvis.explain(photo, list(query), "none", backbone=net, fit="stretch")


def test_red_and_green_are_told_apart(net, one):
    reason = explain(net, one).why(1, 2)
    assert reason.score == pytest.approx(1.0 - 2 * 0.2, abs=1e-6)  # red 1, green .2
    red, green, blue = reason.channels
    assert (red.index, red.product, red.key) == (0, pytest.approx(1.0), pytest.approx(1.0))
    assert (green.index, green.product) == (1, pytest.approx(-0.4, abs=1e-5)) and blue.product == 0
    assert red.share + green.share + blue.share == pytest.approx(1) and red.share == pytest.approx(
        1 / 0.6, abs=1e-5
    )
    assert sum(channel.product for channel in reason.channels) == pytest.approx(reason.score, abs=1e-6)
    # mean red is (1 + .8) / 16
    assert red.above_mean == pytest.approx(1 - 1.8 / 16, abs=1e-5)
    assert [(patch.row, patch.column) for patch in red.here] == [(3, 0)], "black is no red"
    assert [(patch.row, patch.column) for patch in green.here] == [(0, 3)]
    assert green.here[0].product == pytest.approx(-0.8, abs=1e-5) and blue.here == ()
    assert (reason.positive, reason.negative) == (pytest.approx(1.0), pytest.approx(-0.4, abs=1e-5))
    length = np.sqrt(1 + 4 + 0.25) * np.sqrt(1 + 0.04)
    assert reason.cosine == pytest.approx(0.6 / length, abs=1e-5)


def test_without_a_place_the_hottest_patch_is_meant(net, one):
    answer = explain(net, one)
    reason = answer.why()
    assert (reason.cell.row, reason.cell.column) == (3, 0)  # .8 beside 1 - .4
    assert reason.weight == pytest.approx(float(answer.weights[3, 0]))
    assert reason.times_uniform == pytest.approx(16 * reason.weight)


def test_the_best_patch_of_each_other_photo_is_found(net, one, here):
    others = [
        spots(here / "two.png", {(2, 2): (102, 0, 0), (0, 0): (51, 0, 0)}),
        spots(here / "three.png", {(1, 1): (0, 255, 0)}),
        spots(here / "four.png", {(0, 1): (153, 0, 0)}),
    ]
    among = [explain(net, path) for path in (one, *others)]
    red, green, blue = among[0].why(1, 2, among=among).channels
    assert [(patch.photo, patch.row, patch.column) for patch in red.elsewhere] == [
        ("four.png", 0, 1),
        ("two.png", 2, 2),
    ]
    assert [(patch.photo, patch.row, patch.column) for patch in green.elsewhere] == [("three.png", 1, 1)]
    assert blue.elsewhere == () and among[0].why(1, 2, among=among).others == 3
    (first,) = among[0].why(1, 2, among=among, channels=1, favourites=1).channels
    assert [patch.photo for patch in first.elsewhere] == ["four.png"] and len(first.here) == 1


def test_photos_of_one_name_in_two_folders_are_two(net, one, here):
    (here / "a").mkdir(), (here / "b").mkdir()
    a = spots(here / "a/one.png", {(2, 2): (102, 0, 0)})
    b = spots(here / "b/one.png", {(0, 1): (153, 0, 0)})
    among = [explain(net, path) for path in (one, a, b, one)]
    reason = among[0].why(1, 2, among=among)
    assert reason.others == 2, "the photo itself is none of them"
    assert [(patch.row, patch.column) for patch in reason.channels[0].elsewhere] == [(0, 1), (2, 2)]


def test_the_table_the_json_and_the_picture_say_the_same(net, one):
    reason = explain(net, one).why(1, 2)
    table = str(reason)
    assert "score 0.6 = |q| 2.291 x |k| 1.02 x cos 0.257" in table and "166.7%" in table
    entry = json.loads(reason.to_json())
    assert entry["channels"][0]["here"][0]["row"] == 3 and "picture" not in entry["cell"]
    assert entry["score"] == reason.score
    picture = reason.picture()
    assert picture.dtype == np.uint8 and picture.shape[1] >= 760
    pixels = {tuple(pixel) for pixel in picture.reshape(-1, 3)}
    assert {(255, 51, 0), (204, 0, 0), (0, 102, 0)} <= pixels, "the patches are shown in their colours"


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (3, 3)])
def test_a_crop_has_its_cell_in_the_middle(cell):
    pixels = np.zeros((128, 96, 3), np.uint8)
    placement = Placement((16.0, 12.0), (32.0, 24.0), (4, 4), (128, 96), Box(0.0, 0.0, 128.0, 96.0))
    row, column = cell
    pixels[32 * row : 32 * row + 32, 24 * column : 24 * column + 24] = (250, 10, 20)
    shown = crop(pixels, placement, cell)
    assert shown.shape == (SIDE, SIDE, 3) and tuple(shown[SIDE // 2, SIDE // 2]) == (250, 10, 20)
    inside = (shown == (250, 10, 20)).all(-1)
    rows, columns = np.nonzero(inside)
    assert abs(rows.mean() - (SIDE - 1) / 2) < 1.5 and abs(columns.mean() - (SIDE - 1) / 2) < 1.5
    assert 0.6 * (SIDE / 3) ** 2 < inside.sum() < 1.1 * (SIDE / 3) ** 2


def test_what_has_no_channels_and_no_such_patch_is_said(net, one):
    with pytest.raises(ValueError, match="keys of its own"):
        attnvis.explain(one, "distance", "none", backbone=net, fit="stretch").why()
    for settings, said in (
        ({"keys": "centred"}, "keys=centred.*ask why with keys=same"),
        ({"heads": 3}, "has 3 heads.*ask why with heads=1"),
    ):
        with pytest.raises(ValueError, match=said):
            attnvis.explain(one, "mean", "none", backbone=net, fit="stretch", **settings).why()
    answer = explain(net, one)
    with pytest.raises(ValueError, match=r"patch 4,0 is not on the grid of one.png: rows are 0 ... 3"):
        answer.why(4, 0)
    with pytest.raises(ValueError, match="a row and a column"):
        answer.why(4)
    with pytest.raises(ValueError, match="give 1 or more"):
        answer.why(channels=0)


def test_pictures_that_wait_in_a_file_are_those_of_memory(net, one, here):
    others = [spots(here / f"{number}.png", {(2, 2): (40 * number, 99, 7)}) for number in range(1, 6)]
    encoded = [(answer.photo, answer.origin.layers) for answer in (explain(net, path) for path in others)]
    answer = explain(net, one)
    plain = add_favourites(answer.why(1, 2), encoded, favourites=1)
    with CropFile(here) as crops:
        waiting = stored(answer.why(1, 2), crops)
        here_too = [patch for channel in waiting.channels for patch in channel.here]
        assert {patch.picture for patch in here_too} == {None}
        assert len({patch.stored_at for patch in (waiting.cell, *here_too)}) == 1 + len(here_too)
        first = crops.places
        for other in encoded:
            waiting = add_favourites(waiting, [other], favourites=1, crops=crops)
        # of each of three channels one, and the one that it is compared with
        assert crops.places <= first + 4, "what lost its place leaves it to the next"
        whole = loaded(waiting, crops)
        assert [path.name for path in here.iterdir() if path.suffix != ".png"] == [], "it has no name"
    assert str(whole) == str(plain) and (whole.picture() == plain.picture()).all()
    assert plain.channels[0].elsewhere[0].photo == "5.png"


def test_the_command_prints_a_table_and_leaves_pictures(attnvis, here):
    for number in range(2):
        make_photo(here / f"{number}.png", seed=number)
    ended = attnvis(
        "why",
        "0.png",
        "query=class,mean",
        "row=1",
        "column=2",
        "among=[0.png,1.png]",
        "channels=2",
        "hydra.run.dir=out",
    )
    assert ended.code == 0, ended
    assert ended.out.count("channel ") == 2 and "patch 1,2" in ended.out and "why.json" in ended.out
    entries = json.loads(Path("out/why.json").read_text("utf-8"))
    assert [entry["query"] for entry in entries] == ["class", "mean"]
    assert all(len(entry["channels"]) == 2 and entry["others"] == 1 for entry in entries)
    assert len(list(Path("out").glob("*.png"))) == 2
    assert "a row and a column" in attnvis("why", "0.png", "row=1").complaint
