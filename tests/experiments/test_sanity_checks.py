"""Checks on networks whose answer is known, and verdicts on numbers whose verdict is known."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Page, make_photo
from torch import nn

from attnvis import build_backbone
from attnvis.attention import normalise, query, scaling
from attnvis.backbone.randomising import cascade, in_precision
from attnvis.data.preprocessing import collate
from attnvis.experiments.evaluate.maps import MapMaker
from attnvis.experiments.sanity.checks import Sanity, left_of
from attnvis.experiments.sanity.likeness import spearman
from attnvis.experiments.sanity.measure import Measured, measure
from attnvis.experiments.sanity.page import as_text, findings_of, sentences
from attnvis.experiments.sanity.verdicts import FAILS, PASSES, UNTOLD, cascades, verdicts
from attnvis.methods import baselines
from attnvis.pipeline.streaming import read_photo
from attnvis.types import Preprocessing

HOW = Preprocessing(64, "stretch")
PHOTOS = 3


class Patches(nn.Module):
    """Eight patches a side, each seen by itself: it cannot know places, neighbours or the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 5, 1), nn.ReLU())
        self.classifier = nn.Linear(5, 4)

    def forward(self, images):
        return self.classifier(self.body(images).mean((2, 3)))


def knows_places(scores):
    """A scaling that must not be: the first patches count more."""
    return scores.products - torch.arange(scores.products.shape[-1]) / 10


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(5)  # with others Grad-CAM is 0 everywhere
    settings = {"stages": {"last": "body"}, "head": "linear:classifier", "size": 64, "placement": "stretch"}
    return build_backbone(Patches(), layer="last", **settings)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{number}.png", (64, 64), seed=number) for number in range(PHOTOS)]


@pytest.fixture(scope="module")
def measured(backbone, paths):
    maker = MapMaker(
        backbone,
        backbone,
        queries={"mean": query.mean, "class": query.class_, "random": partial(query.random, seed=3)},
        scalings={"zscore": scaling.zscore, "knows_places": knows_places},
        normalisers={"softmax": normalise.softmax},
        methods={"feature_norm": baselines.feature_norm, "gradcam": baselines.gradcam},
    )
    plain, half = (in_precision(backbone, dtype) for dtype in (torch.float32, torch.bfloat16))
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return measure(paths, Sanity(plain, half, cascade(plain, 0, noise, parts=1), maker, seed=0), HOW)


def verdict(measured, row, check):
    return next(each for each in verdicts(measured) if (each.map, each.check) == (row, check))


def test_a_network_of_patches_keeps_its_map_in_the_mirror_and_in_any_batch(measured):
    assert measured.photos == ("0.png", "1.png", "2.png")
    for row in ("mean zscore", "class zscore", "random:3 zscore", "feature_norm", "gradcam"):
        assert measured.of(row, "mirror") == pytest.approx(np.ones(PHOTOS), abs=1e-6)
        assert measured.of(row, "batch") == pytest.approx(np.zeros(PHOTOS), abs=1e-5)
        assert verdict(measured, row, "mirror").verdict == PASSES
        assert verdict(measured, row, "batch").verdict == PASSES


def test_a_map_that_knows_places_does_not_follow_its_patches(measured):
    assert verdict(measured, "mean zscore", "patches").verdict == PASSES
    assert verdict(measured, "feature_norm", "patches").verdict == PASSES
    assert verdict(measured, "mean knows_places", "patches").verdict == FAILS
    assert "no attention" in verdict(measured, "gradcam", "query").why
    assert verdict(measured, "gradcam", "patches").verdict == ""  # it may look at neighbours


def test_only_what_asks_the_classifier_changes_with_it(measured):
    for row in ("mean zscore", "random:3 zscore", "feature_norm"):
        assert verdict(measured, row, "classifier").why == "it does not ask the classifier"
        assert measured.of(row, "spearman 0") == pytest.approx(np.ones(PHOTOS))
    for row in ("class zscore", "gradcam"):
        assert verdict(measured, row, "classifier").verdict == UNTOLD  # of three photos
        assert measured.of(row, "moved 0").max() > 0.01


def test_another_photos_query_is_its_vector_on_these_keys(measured, backbone, paths):
    (own,), (other,) = (backbone(collate([read_photo(path, HOW)], HOW)) for path in paths[:2])

    def map_of(vector):
        scores = own.tokens[0].double() @ vector.double()
        weights = ((scores - scores.mean()) / scores.std(correction=0)).softmax(0)
        return weights.reshape(8, 8).numpy()

    mine, swapped = (map_of(features.tokens[0].mean(0)) for features in (own, other))
    lines = np.kron(np.eye(8), np.ones((4, 1)))  # 32 pixels to 8 cells; between their centres linear:
    places = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    lines = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)))
    one, two = (lines @ cells @ lines.T for cells in (mine, swapped))
    expected = np.abs(one / one.sum() - two / two.sum()).sum() / 2
    assert measured.of("mean zscore", "query")[0] == pytest.approx(expected, rel=1e-3)


def test_a_question_that_is_the_same_for_all_photos_is_not_swapped(measured):
    assert np.isnan(measured.of("random:3 zscore", "query")).all()
    assert (
        verdict(measured, "random:3 zscore", "query").why == "it asks all photos the same, or is no attention"
    )


def numbers(figure, of_map, other, photos=40, noise=0.02, **more):
    """Of one map what `Measured` holds of many photos."""
    rng = np.random.default_rng(2)
    columns = {f"spearman {stage}": of_map + noise * rng.standard_normal(photos) for stage in (0, 1)}
    columns |= {"moved 0": np.full(photos, 0.5), "moved 1": np.full(photos, 0.5)}
    columns |= {f"{name} {stage}": np.full(photos, 0.5) for name in ("pearson", "ssim") for stage in (0, 1)}
    columns |= {"other": other + noise * rng.standard_normal(photos)}
    columns |= {"half": np.full(photos, 0.01), "nudge": 0.03 + noise / 10 * rng.standard_normal(photos)}
    columns |= {"mirror": np.linspace(0.2, 1, photos), "shift": np.linspace(-0.1, 1, photos)}
    columns |= {"batch": np.full(photos, 1e-6), "order": np.full(photos, 0.01)} | more
    return {(figure, name): values for name, values in columns.items()}


def of_numbers(photos=40, **maps):
    values = {}
    for name, settings in maps.items():
        values |= numbers(name, photos=photos, **settings)
    return Measured(
        tuple(map(str, range(photos))),
        tuple(maps),
        ("the classifier", "all layers"),
        values,
        frozenset(),
        (),
        None,
    )


def test_verdicts_are_those_of_the_numbers():
    measured = of_numbers(
        lost={"of_map": 0.1, "other": 0.3},
        kept={"of_map": 0.8, "other": 0.3},
        turned={"of_map": -0.8, "other": 0.3},  # the opposite is not lost
        near={"of_map": 0.4, "other": 0.3, "noise": 0.05},
        crowded={"of_map": 0.99, "other": 0.97},
    )
    of_weights = {row: verdict(measured, row, "weights").verdict for row in measured.maps}
    assert of_weights == {"lost": PASSES, "kept": FAILS, "turned": FAILS, "near": UNTOLD, "crowded": UNTOLD}
    lost = verdict(measured, "lost", "weights")
    assert lost.bound == pytest.approx(np.abs(measured.of("lost", "other")).mean() + 0.1)
    assert lost.figure.value == pytest.approx(np.abs(measured.of("lost", "spearman 1")).mean())
    assert lost.figure.low < lost.figure.value < lost.figure.high
    assert verdict(measured, "lost", "bf16").verdict == PASSES  # 0.01 beside 0.03
    assert verdict(measured, "lost", "patches").verdict == FAILS  # 0.01 is more than 1/510
    assert verdict(measured, "lost", "mirror").verdict == PASSES
    shift = verdict(measured, "lost", "shift")
    negative = int((np.linspace(-0.1, 1, 40) < 0).sum())
    assert shift.verdict == FAILS and shift.figure.value == negative / 40
    text = as_text(findings_of(measured))
    assert f"{negative} of 40 photos" in text and "cannot be told" in text
    assert any("weights: all weights are drawn anew; 1 of 5 maps pass; fails: kept and turned" in line
               for line in sentences(findings_of(measured)))  # fmt: skip
    stages = {(each.map, each.stage): each for each in cascades(measured)}
    assert (
        stages["turned", "all layers"].spearman.value
        < -0.7
        < 0.7
        < stages["turned", "all layers"].absolute.value
    )


def test_a_map_that_becomes_the_same_everywhere_is_lost():
    one, level = np.random.default_rng(0).random((32, 32)), np.full((32, 32), 1 / 1024)
    assert left_of(one, level, spearman) == 0 and np.isnan(left_of(level, one, spearman))
    assert left_of(one, one, spearman) == pytest.approx(1)


def test_too_few_photos_are_not_told():
    measured = of_numbers(photos=29, lost={"of_map": 0.1, "other": 0.3})
    assert verdict(measured, "lost", "weights").verdict == UNTOLD
    assert verdict(measured, "lost", "weights").why == "29 photos; from 30 on it can be"
    assert verdict(measured, "lost", "patches").verdict == FAILS  # what no chance makes is


@pytest.mark.slow
def test_the_command_leaves_a_page_and_two_tables(attnvis, here):
    for number in range(2):
        make_photo(here / "photos" / f"{number}.png", seed=number)
    (here / "photos" / "2.png").write_text("no photo")
    words = (
        "photos",
        "experiment=sanity",
        "method=attention,cam,centre",
        "query=class",
        "preprocess.size=64",
    )
    ended = attnvis("evaluate", *words, "hydra.run.dir=out")
    assert ended.code == 1 and "2.png" in ended.err  # it could not be read
    assert "centre is left out: it looks at no weight that was learned" in ended.err
    assert "2 photos checked: out/index.html" in ended.out
    with Path("out/sanity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["map"], row["check"]) for row in rows} == {
        (row, check)
        for row in ("class zscore", "cam")
        for check in ("classifier", "weights", "patches", "query", "mirror", "shift", "bf16", "batch")
    }
    page = Page(here / "out" / "index.html")
    assert "2 maps under 8 checks on 2 photos" in page.words and "1 photo failed" in page.words
    assert len(page.all("img", "src")) == 1 + 2 + 2 * 5  # the colours, two figures, a strip a map
