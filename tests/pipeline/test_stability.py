"""How far maps hold still, where it is known: one network moves with its input, one sees where left is."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import fake_backbone, make_photo, records
from torch import nn

from attnvis.attention import scaling
from attnvis.attention.normalise import softmax
from attnvis.attention.query.language import parse
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import SettingGrid
from attnvis.pipeline.stability import StableGrid, StableMethod, mirror_placement, shifted, turned_back
from attnvis.types import Box, Placement, Preprocessing

HOW = Preprocessing(size=64, fit="stretch", mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


class Colours(nn.Module):
    """Patches of 8 x 8 pixels, their mean colour: what the input does, the maps do."""

    def forward(self, images):
        return nn.functional.avg_pool2d(images, 8)


class Ramp(nn.Module):
    """Brightness from left to right, whatever the photo shows."""

    def forward(self, images):
        maps = nn.functional.avg_pool2d(images, 8)
        return 0 * maps + torch.linspace(0, 1, maps.shape[-1])


def smooth_photo(path, size=(64, 64)):
    """One bright spot on grey, off the middle: level at the edges, so that a shift brings in nothing new."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    spot = 150 * np.exp(-((rows - 20) ** 2 + (columns - 40) ** 2) / 60)
    cv2.imwrite(str(path), (60 + spot).astype(np.uint8)[..., None].repeat(3, 2))
    return load(path, short=64)


def answers(net, photo, text, changes, scale=scaling.perplexity):
    method = AttentionMethod(net, parse(text), scale)
    ((answer,),) = StableMethod(method, HOW, changes)(collate([photo], HOW))
    return answer


@pytest.mark.parametrize("text", ["norm", "point:40,20", "box:30,10,20,20", "distance"])
def test_what_moves_with_its_input_is_the_same_in_the_mirror(here, text):
    photo = smooth_photo(here / "a.png")
    stability = answers(fake_backbone(Colours(), HOW), photo, text, ("mirror",)).stability
    assert stability.worst == pytest.approx(1, abs=1e-6)
    assert stability.spread == pytest.approx(0, abs=1e-6) and np.allclose(stability.spread_map, 0, atol=1e-6)


def test_a_shift_by_cells_and_another_size_change_little_where_the_network_moves_along(here):
    photo = smooth_photo(here / "a.png")
    answer = answers(fake_backbone(Colours(), HOW), photo, "point:40,20", ("mirror", "shift", "size"))
    assert answer.stability.worst > 0.9 and not answer.turns_over
    peak = np.unravel_index(np.nanargmax(answer.stability.mean_map), answer.stability.mean_map.shape)
    assert abs(peak[0] - 20 / 4) <= 1.5 and abs(peak[1] - 40 / 4) <= 1.5  # the bright spot, at 4 px a cell
    assert np.nanmean(answer.stability.mean_map) == pytest.approx(1)


def test_what_sees_where_left_is_turns_over_and_says_so(here):
    photo = load(make_photo(here / "a.png", (64, 64)), short=64)
    answer = answers(fake_backbone(Ramp(), HOW), photo, "norm", ("shift", "mirror"), scaling.zscore)
    assert answer.stability.worst == pytest.approx(-1, abs=0.02) and answer.stability.change == "mirror"
    assert answer.turns_over and any(text.startswith("turns over: ") for text in answer.warnings)
    assert answer.stability.spread > 0.5


def test_without_contrast_nothing_is_known(here):
    cv2.imwrite(str(here / "flat.png"), np.full((64, 64, 3), 128, np.uint8))
    answer = answers(fake_backbone(Colours(), HOW), load(here / "flat.png", short=64), "norm", ("mirror",))
    assert math.isnan(answer.stability.worst) and not answer.turns_over and answer.stability.spread == 0


def test_a_mirrored_grid_lies_as_far_from_the_right_as_it_lay_from_the_left():
    placement = Placement((3.0, 2.0), (10.0, 10.0), (2, 4), (20, 50), Box(0.0, 1.0, 20.0, 45.0))
    mirrored = mirror_placement(placement)
    columns = [placement.centre(0, column)[1] for column in range(4)]  # 2, 12, 22, 32
    assert [mirrored.centre(0, column)[1] for column in range(4)] == [50 - x for x in reversed(columns)]
    assert (mirrored.seen.left, mirrored.seen.width) == (4, 45)
    assert mirror_placement(mirrored) == placement


def test_a_shifted_input_puts_its_cells_back_on_the_photo(here):
    photo = smooth_photo(here / "a.png")
    net = fake_backbone(Colours(), HOW)
    batch = collate([photo], HOW)
    (own,), (moved,) = net(batch), shifted(AttentionMethod(net), batch, HOW)
    pixels = 2  # 1/32 of 64
    assert own.placements[0].first[0] - moved.placements[0].first[0] == pytest.approx(pixels)
    block = batch.images[0, :, 8 - pixels : 16 - pixels, 16 - pixels : 24 - pixels].mean((1, 2))
    torch.testing.assert_close(moved.maps[0, :, 1, 2], block)
    (twice,) = (turned_back(turned_back(own)),)
    assert torch.equal(twice.tokens, own.tokens) and twice.placements == own.placements


def test_at_the_command_line_the_record_and_the_maps_have_it_and_without_it_nothing_changes(attnvis, cat):
    assert attnvis("run", "cat.png", "query=class,pca", "hydra.run.dir=without").code == 0
    ended = attnvis("run", "cat.png", "query=class,pca", "stability=true")
    assert ended.code == 0, ended
    with_, without = records(), records("without")
    assert all(-1 <= float(row["worst_correlation"]) <= 1 and float(row["spread"]) > 0 for row in with_)
    assert all(row["worst_correlation"] == row["spread"] == row["p_value"] == "" for row in without)
    same = {"worst_correlation", "spread", "seal", "panel"}
    for one, other in zip(with_, without):
        assert {key: one[key] for key in one.keys() - same} == {key: other[key] for key in one.keys() - same}
    assert attnvis("redraw", "out", "hydra.run.dir=again").code == 0
    assert [row["spread"] for row in records("again")] == [row["spread"] for row in with_]


def test_a_network_of_one_size_is_not_asked_at_another(here):
    photo = smooth_photo(here / "a.png")
    how = replace(HOW, sides="fixed")
    method = AttentionMethod(fake_backbone(Colours(), how), parse("norm"), scaling.perplexity)
    ((answer,),) = StableMethod(method, how, ("mirror", "size"))(collate([photo], how))
    assert answer.stability.change == "mirror"


def test_a_sweep_finds_of_each_setting_what_a_run_finds(here):
    photo = load(make_photo(here / "a.png", (64, 64)), short=64)
    net = fake_backbone(Ramp(), HOW)
    scalings = {"zscore": scaling.zscore, "perplexity": scaling.perplexity}
    grid = SettingGrid(net, {"norm": parse("norm"), "mean": parse("mean")}, scalings, {"softmax": softmax})
    (results,) = StableGrid(grid, HOW)(collate([photo], HOW))
    for result, text in zip(results, ("norm", "mean"), strict=True):
        assert set(result.checks) == {"worst_correlation", "spread"}
        for number, function in enumerate(scalings.values()):
            expected = answers(net, photo, text, ("mirror", "shift", "size"), function).stability
            assert result.checks["worst_correlation"][number] == pytest.approx(expected.worst, abs=1e-6)
            assert result.checks["spread"][number] == pytest.approx(expected.spread, abs=1e-6)
    assert results[0].checks["worst_correlation"][0] < 0, "the ramp turns over"


@pytest.mark.slow
def test_a_sweep_has_the_checks_in_its_rows(attnvis, cat):
    words = (
        "query=class,mean",
        "scaling=none,perplexity",
        "cache.use=false",
        "preprocess.size=96",
        "sheets=0",
    )
    ended = attnvis("sweep", "cat.png", *words, "stability=true", "random_classes=200", "hydra.run.dir=out")
    assert ended.code == 0 and "4 passes through the network" in ended.out, ended
    rows = pyarrow.parquet.read_table("out/rows.parquet").to_pylist()
    assert len({row["p_value"] for row in rows if row["query"] == "class"}) == 1, "no setting changes it"
    assert all(0 < row["p_value"] <= 1 for row in rows if row["query"] == "class")
    assert all(math.isnan(row["p_value"]) for row in rows if row["query"] == "mean")
    assert len({row["worst_correlation"] for row in rows}) == 4
    ended = attnvis("sweep", "cat.png", *words, "hydra.run.dir=bare")
    assert ended.code == 0, ended
    bare = pyarrow.parquet.read_table("bare/rows.parquet").to_pylist()
    assert all(row["p_value"] is None and row["spread"] is None for row in bare)
    refused = attnvis("sweep", "cat.png", "study=note", "stability=true", "hydra.run.dir=no")
    assert refused.code and "study=scalings" in refused.err
