"""The position prior: by hand, on flat input, and in a run's folder, its page and its redraw."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import Page, make_photo, records

from attnvis.methods.answer import Answer
from attnvis.pipeline import position_prior
from attnvis.pipeline.position_prior import PositionPrior, prior_for, read_priors
from attnvis.render import Style
from attnvis.types import Box, Placement

GRID = (2, 3)


def answer(weights, query="mean", grid=GRID, layer="last"):
    size = (10 * grid[0], 10 * grid[1])
    placement = Placement((5.0, 5.0), (10.0, 10.0), grid, size, Box(0.0, 0.0, float(size[0]), float(size[1])))
    weights = torch.tensor(weights, dtype=torch.float32)
    return Answer(query, query, weights, placement, {"perplexity": 1.0, "saturated": 0.0}, layer=layer)


ONE = [0.1, 0.2, 0.3, 0.2, 0.1, 0.1]
TWO = [0.4, 0.1, 0.1, 0.2, 0.1, 0.1]


def prior_of(*maps):
    prior = PositionPrior()
    for weights in maps:
        prior.add([answer(weights)])
    return prior


def test_it_is_the_mean_of_the_logarithms_of_times_uniform():
    (prior,) = prior_of(ONE, TWO).priors()
    expected = [(math.log(6 * a) + math.log(6 * b)) / 2 for a, b in zip(ONE, TWO, strict=True)]
    np.testing.assert_allclose(prior.logs.flatten(), expected, atol=1e-6)
    assert prior.photos == 2 and prior.grid == GRID
    np.testing.assert_allclose(
        prior.weights.flatten(), [(a + b) / 2 for a, b in zip(ONE, TWO, strict=True)], atol=1e-7
    )
    beyond = [math.log(6 * a) - m for a, m in zip(ONE, expected, strict=True)]
    np.testing.assert_allclose(prior.beyond(answer(ONE)).flatten(), beyond, atol=1e-6)
    shares = np.exp(beyond) / np.exp(beyond).sum()
    np.testing.assert_allclose(prior.without(answer(ONE)).weights.numpy(), shares, atol=1e-6)


def test_of_flat_input_it_is_0_and_takes_nothing_away():
    flat = [1 / 6] * 6
    (prior,) = prior_of(flat, flat, flat).priors()
    np.testing.assert_allclose(prior.logs, 0, atol=1e-6)
    np.testing.assert_allclose(prior.without(answer(ONE)).weights.numpy(), ONE, atol=1e-6)
    np.testing.assert_allclose(prior.times_uniform, 1, atol=1e-6)


def test_what_all_photos_have_is_taken_away():
    (prior,) = prior_of(ONE, ONE).priors()
    np.testing.assert_allclose(prior.without(answer(ONE)).weights.numpy(), 1 / 6, atol=1e-6)


def test_a_weight_of_0_has_a_logarithm_all_the_same():
    (prior,) = prior_of([0.0, 0.5, 0.5, 0.0, 0.0, 0.0], ONE).priors()
    assert np.isfinite(prior.logs).all()
    assert prior.logs[0, 0] == pytest.approx((math.log(2.0**-10) + math.log(0.6)) / 2, abs=1e-6)


def test_questions_layers_and_grids_have_their_own_and_one_photo_has_none():
    prior = PositionPrior()
    for _ in range(3):
        prior.add([answer(ONE), answer(TWO, layer="stage3")])
    prior.add([answer(TWO, query="class"), answer(ONE, grid=(3, 2))])
    prior.add([answer(TWO, grid=(3, 2))])
    found = {(each.query, each.layer, each.grid): each.photos for each in prior.priors()}
    assert found == {("mean", "last", (2, 3)): 3, ("mean", "stage3", (2, 3)): 3, ("mean", "last", (3, 2)): 2}
    assert prior_for(prior.priors(), answer(ONE, grid=(3, 2))).photos == 2
    with pytest.raises(ValueError, match="has no class on 2 x 3 cells"):
        prior_for(prior.priors(), answer(ONE, query="class"))


def test_the_rim_has_its_share_of_weight_and_area():
    weights = np.full((4, 5), 0.02)
    weights[1:3, 1:4] = 0.12  # 6 of 20 cells
    prior = PositionPrior()
    for _ in range(2):
        prior.add([answer(weights.flatten().tolist(), grid=(4, 5))])
    weight, area = prior.priors()[0].rim
    assert weight == pytest.approx(0.28) and area == pytest.approx(0.7)


def test_memory_is_bounded_and_what_is_left_out_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(position_prior, "MOST", 2)
    prior = PositionPrior()
    for _ in range(2):
        prior.add([answer(ONE, query=f"class:{number}") for number in range(5)])
    assert len(prior.sums) == 2 and prior.left_out == 6
    assert prior.write(tmp_path, Style()) == (tmp_path / position_prior.PICTURE).read_bytes()
    assert [each.query for each in read_priors(tmp_path)] == ["class:0", "class:1"]


def test_a_run_has_it_on_its_page_and_redraw_draws_beyond_it(attnvis, here):
    for number in range(2):
        make_photo(here / f"album/{number}.png", seed=number)
    ended = attnvis("run", "album", "query=norm", "position_prior=true", "scaling=zscore")
    assert ended.code == 0, ended
    (prior,) = read_priors(Path("out"))
    assert prior.photos == 2 and prior.query == "norm"
    page = Page(Path("out/index.html"))
    assert "Before any photo is looked at" in page.words
    ended = attnvis("redraw", "out", "beyond_prior=true", "hydra.run.dir=again")
    assert ended.code == 0, ended
    assert [row["max"] for row in records("again")] == [row["max"] for row in records()], "numbers stay"
    drawn = [cv2.imread(f"{folder}/overlays/0.norm.jpg") for folder in ("out", "again")]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 30
    Path("again/overlays/0.norm.jpg").unlink()
    otherwise = attnvis("redraw", "out", "hydra.run.dir=again", "resume=true").complaint
    assert "again was begun with other settings (beyond_prior)" in otherwise
    ended = attnvis("redraw", "out", "beyond_prior=true", "hydra.run.dir=again", "resume=true")
    assert ended.code == 0 and (cv2.imread("again/overlays/0.norm.jpg") == drawn[1]).all()
    Path("again/overlays/0.norm.jpg").unlink()
    Path("out/position_prior.safetensors").write_bytes(other_prior())
    ended = attnvis("redraw", "out", "beyond_prior=true", "hydra.run.dir=again", "resume=true")
    assert "other content of position_prior.safetensors" in ended.complaint
    Path("again/position_prior.safetensors").unlink()
    assert "run with position_prior=true" in attnvis("redraw", "again", "beyond_prior=true").complaint


def other_prior():
    prior = PositionPrior()
    for weights in (ONE, TWO):
        prior.add([answer(weights, query="norm")])
    folder = Path("other")
    prior.write(folder, Style())
    return (folder / position_prior.FILE).read_bytes()


def test_a_grid_of_one_photo_is_said_to_have_none_and_an_older_prior_goes(attnvis, here):
    make_photo(here / "a.png")
    for name in (position_prior.FILE, position_prior.PICTURE):
        (here / "out").mkdir(exist_ok=True)
        (here / "out" / name).write_text("of an earlier run")
    ended = attnvis("run", "a.png", "query=mean,class", "position_prior=true", "random_classes=50")
    assert ended.code == 0 and ended.err.count("position_prior: none on ") == 1
    assert ended.err.count("random_classes: no p value for mean: only classes, sums of classes") == 1
    assert not list(Path("out").glob("position_prior.*"))
    complaint = attnvis("run", "a.png", "position_prior=true", "maps=false", "hydra.run.dir=new").complaint
    assert "position_prior=true and maps=false" in complaint
    assert not Path("new/records.csv").exists()


def test_beyond_the_prior_nothing_is_outlined():
    (prior,) = prior_of(ONE, TWO).priors()
    assert prior.without(replace(answer(ONE), critical=0.5)).critical is None


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_prior_of_all_its_photos(attnvis, here):
    for number in range(3):
        make_photo(here / f"album/{number}.png", seed=number)
    assert attnvis("run", "album", "query=norm", "position_prior=true").code == 0
    before = Path("out/position_prior.safetensors").read_bytes()
    Path("out/overlays/1.norm.jpg").unlink()
    ended = attnvis("run", "--resume", "out")
    assert ended.code == 0 and Path("out/position_prior.safetensors").read_bytes() == before
