"""Advice on numbers whose order is known: what is told apart, and what is not."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import Page

from attnvis.experiments.advice.page import as_text, sentences
from attnvis.experiments.advice.ranking import Setting, advise, rank, setting_of, shown_better
from attnvis.experiments.evaluate.maps import Row
from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.experiments.evaluate.statistics import resampled
from attnvis.metrics.metric import facts
from attnvis.metrics.registry import METRICS

NSS, MAE = facts(METRICS["nss"]), facts(METRICS["mae"])


def columns(*means, photos=60, spread=0.3, seed=0):
    """Candidates a, b, ... on the same photos: what makes a photo easy is shared by all."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(photos)
    return {name: mean + shared + spread * rng.standard_normal(photos) for name, mean in zip("abcdef", means)}


def test_the_order_is_that_of_the_means_and_of_the_metric():
    values = columns(0.1, 0.9, 0.5)
    for metric, expected in ((NSS, "bca"), (MAE, "acb")):
        candidates, photos = rank(values, metric)
        assert "".join(each.name for each in candidates) == expected and photos == 60
        for each in candidates:
            assert each.value.value == pytest.approx(values[each.name].mean())
            assert each.value.low < each.value.value < each.value.high


def test_pairs_are_told_apart_by_the_largest_studentised_difference():
    values = columns(0.0, 0.08, 0.5, 0.55, photos=40)
    draws = np.stack([resampled(40, 500) @ column / 40 for column in values.values()], 1)
    means = np.array([column.mean() for column in values.values()])
    largest = np.zeros(500)
    spreads = {}
    for one in range(4):  # pair by pair, as the definition has it
        for other in range(4):
            if one != other:
                apart = draws[:, one] - draws[:, other]
                spreads[one, other] = apart.std()
                distance = np.abs(apart - (means[one] - means[other])) / apart.std()
                largest = np.maximum(largest, distance)
    bound = np.quantile(largest, 0.95)
    expected = [
        [one != other and means[one] - means[other] > bound * spreads[one, other] for other in range(4)]
        for one in range(4)
    ]
    assert shown_better(draws, means, NSS).tolist() == expected
    assert any(map(any, expected)) and not expected[3][2]


def test_equals_are_seldom_told_apart_and_the_better_is():
    told = sum(
        any(each.worse_than for each in rank(columns(0, 0, 0, 0, seed=seed), NSS)[0]) for seed in range(100)
    )
    assert told <= 12  # 5 in a hundred are promised; 13 or more of 100 have a chance of 0.001
    candidates, _ = rank(columns(0, 0, 0, 0.6), NSS)
    assert [each.name for each in candidates if not each.worse_than] == ["d"]


def test_photos_on_which_one_is_not_defined_are_out_for_all():
    values = columns(0.1, 0.9)
    values["a"][:7] = np.nan
    candidates, photos = rank(values | {"never": np.full(60, np.nan)}, NSS)
    assert photos == 53 and candidates[-1].name == "never" and np.isnan(candidates[-1].value.value)
    assert candidates[0].value.value == pytest.approx(values["b"][7:].mean())


def test_too_few_photos_tell_nothing_apart():
    candidates, photos = rank(columns(0, 5, photos=29), NSS)
    assert photos == 29 and not any(each.worse_than for each in candidates)


def test_a_rows_name_says_its_setting():
    layers = ("stage3", "last")
    assert setting_of(Row("mean zscore, stage3", "mean"), layers) == Setting("stage3", "mean", "zscore")
    assert setting_of(Row("class:a, b none, last", "class:a, b"), layers) == Setting(
        "last", "class:a, b", "none"
    )
    assert setting_of(Row("mean zscore", "mean"), ("last",)) == Setting("last", "mean", "zscore")
    assert setting_of(Row("gradcam, last", "gradcam"), layers) is None
    assert setting_of(Row("centre", "centre"), layers) is None


def evaluation(photos=80, noise=0.2, seed=1):
    """Queries x scalings x layers whose effects add up; the centre reaches 0.3."""
    effects = {"stage3": 0.5, "last": 0.0, "mean": 0.0, "norm": 0.4, "none": 0.0, "zscore": 0.01}
    rng = np.random.default_rng(seed)
    rows, values = [], []
    for query in ("mean", "norm"):
        for scaling in ("none", "zscore"):
            for layer in ("stage3", "last"):
                rows.append(Row(f"{query} {scaling}, {layer}", query))
                effect = effects[query] + effects[scaling] + effects[layer]
                values.append(effect + noise * rng.standard_normal(photos))
        rows.append(Row(f"{query} at 1, last", f"{query}, last", 1.0))  # of a curve: no candidate
        values.append(np.full(photos, 9.0))
    rows.append(Row("centre", "centre"))
    values.append(0.3 + noise * rng.standard_normal(photos))
    return Evaluation(tuple(rows), tuple(map(str, range(photos))), {"nss": np.stack(values, 1)})


def test_every_axis_competes_with_the_rest_at_its_best():
    measured = evaluation()
    advice = advise(measured, [NSS], ("stage3", "last"))
    layers, queries, scalings = (advice.of(axis, "nss") for axis in ("layer", "query", "scaling"))
    assert [each.name for each in layers.candidates] == ["stage3", "last"]
    assert layers.candidates[1].worse_than == ("stage3",)
    assert [each.name for each in queries.leaders] == ["norm"]
    assert {each.name for each in scalings.leaders} == {"none", "zscore"}  # 0.01 is not told
    best, control = advice.of("setting", "nss").candidates
    assert best.name == "chosen" and control.name == "centre" and control.worse_than == ("chosen",)
    # each half under what is best on the other half, by hand
    values = {row.name: measured.values["nss"][:, number] for number, row in enumerate(measured.rows)}
    names = [row.name for row in measured.rows if row.temperature is None and row.name != "centre"]
    half = np.random.default_rng(0).permutation(80) % 2 == 0
    composed = np.empty(80)
    for judged, choosing in ((half, ~half), (~half, half)):
        name = max(names, key=lambda each: values[each][choosing].mean())
        composed[judged] = values[name][judged]
        assert name in best.chosen
    assert best.value.value == pytest.approx(composed.mean())
    (text,) = sentences(advice)
    assert "the best layer is stage3; the best query is norm; the scalings cannot be told apart" in text
    assert text.endswith("better than centre.") and "“norm zscore, stage3”" in text
    assert "stage3 0.9" in as_text(advice)


def test_one_setting_is_no_choice():
    rows = (Row("mean zscore", "mean"), Row("centre", "centre"))
    measured = Evaluation(rows, ("0",), {"nss": np.zeros((1, 2))})
    with pytest.raises(ValueError, match="there is one at most; give several of query="):
        advise(measured, [NSS], ("last",))


def test_few_photos_are_told_so():
    advice = advise(evaluation(photos=12), [NSS], ("stage3", "last"))
    (text,) = sentences(advice)
    assert text.startswith("These are 12 photos: from 30 on")


@pytest.mark.slow
def test_the_command_leaves_a_page_and_a_table(attnvis, here):
    words = ("generated:scenes::30", "experiment=advice", "query=mean,norm", "scaling=none,zscore")
    more = ("metric=mask_auc,f_max", "preprocess.size=64", "hydra.run.dir=out", "backbone.layer=last")
    ended = attnvis("evaluate", *words, *more)
    assert ended.code == 0 and "30 photos measured: out/index.html" in ended.out, ended.err
    with Path("out/advice.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["axis"], row["metric"]) for row in rows} == {
        (axis, metric) for axis in ("query", "scaling", "setting") for metric in ("mask_auc", "f_max")
    }
    page = Page(here / "out" / "index.html")
    assert "Which layer, query and scaling: 30 photos" in page.words
