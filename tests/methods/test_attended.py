"""The context in place of the mean patch: beside the head on the very patches, in plain loops; its files."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Page, no_network, normal, records
from torch import nn

from attnvis.api import explain_all
from attnvis.attention.heads import contiguous
from attnvis.attention.normalise import sparsemax
from attnvis.attention.query.language import parse
from attnvis.attention.scaling import TEMPERATURES, cosine, perplexity, temperature
from attnvis.backbone.heads import FrozenNorm, Gated, Gradient, Linear
from attnvis.methods.answer import Attended
from attnvis.methods.attended import NO_MEAN, Classifier, attended_by, complement
from attnvis.methods.attention import AttentionMethod
from attnvis.metrics.faithfulness import Evidence, latent_deletion, latent_insertion
from attnvis.pipeline.drawing import attended_plots
from attnvis.types import Box, Features, Placement

C, D = 11, 7
GRID = (3, 5)
N = GRID[0] * GRID[1]
NAMES = tuple(f"class {number}" for number in range(C))


HEADS = {
    "linear": Linear(normal(C, D, seed=1), normal(C, seed=2), NAMES),
    "layer_norm": FrozenNorm(
        normal(C, D, seed=1), normal(C, seed=2), normal(D, seed=3), normal(D, seed=4), 1e-6, NAMES
    ),
    "conv_relu": Gated(normal(C, D, seed=1), normal(C, seed=2), NAMES),
}


def features_of(head) -> Features:

    tokens = normal(2, N, D, seed=5)
    placement = Placement((2.0, 2.0), (4.0, 4.0), GRID, (12, 20), Box(0.0, 0.0, 12.0, 20.0))
    maps = tokens.mT.unflatten(2, GRID)
    return Features(tokens, GRID, (placement,) * 2, head, head.logits(maps), ("a.jpg", "b.jpg"))


def ask(features, text="class:3", scaling=temperature, attended=True):
    answers = AttentionMethod(no_network, parse(text), scaling, attended=attended).answer((features,))
    return [answer for (answer,) in answers]


@pytest.mark.parametrize("kind", HEADS)
def test_flat_attention_leaves_every_logit_of_the_network_as_it_is(kind):
    features = features_of(HEADS[kind])
    for photo in range(2):
        classifier = Classifier.of(features, photo)
        logits = classifier.pooled(torch.full((1, N), 1 / N, dtype=torch.float64))[0]
        torch.testing.assert_close(logits, features.logits[photo], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "layer_norm"])
def test_the_context_is_read_as_the_head_reads_v_times_n_a(kind):
    features = features_of(HEADS[kind])
    for photo, answer in enumerate(ask(features)):
        reinjected = answer.attention.reinjected[0, 0].double()  # N a_i v_i
        logits = HEADS[kind].logits(reinjected.T.unflatten(1, GRID)[None])[0]
        others = [float(logits[c]) for c in range(C) if c != 3]
        inside = answer.attended.inside
        assert inside.logit == pytest.approx(float(logits[3]), abs=1e-6)
        assert inside.margin == pytest.approx(float(logits[3]) - max(others), abs=1e-6)
        assert inside.name == NAMES[int(logits.argmax())]
        assert inside.probability == pytest.approx(float(logits.softmax(0).max()), abs=1e-6)
        assert answer.attended.name == "class 3" and photo < 2


def test_a_gate_is_averaged_by_the_weights_after_it_was_passed():
    head, features = HEADS["conv_relu"], features_of(HEADS["conv_relu"])
    answer = ask(features)[0]
    logit = 0.0
    for weight, patch in zip(answer.weights.double(), features.tokens[0], strict=True):
        logit += float(weight) * max(0.0, float(patch @ head.weight[3] + head.bias[3]))
    assert answer.attended.inside.logit == pytest.approx(logit, abs=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_curves_are_the_head_on_the_mean_of_the_kept_patches(kind):
    features = features_of(HEADS[kind])
    for photo, answer in enumerate(ask(features, "mean")):
        tokens = features.tokens[photo]
        order = sorted(range(N), key=lambda patch: (-float(answer.weights[patch]), patch))
        watched = int(features.logits[photo].argmax())
        coming, staying = [], []
        for count in range(1, N + 1):
            for kept, curve in ((order[:count], coming), (order[count - 1 :], staying)):
                # a "photo" of these patches alone, in a row
                logits = HEADS[kind].logits(tokens[kept].T[None, :, None])[0]
                curve.append(float(logits.softmax(0)[watched]))
        attended = answer.attended
        np.testing.assert_allclose(attended.insertion.curve, coming, atol=1e-6)
        np.testing.assert_allclose(attended.deletion.curve, staying, atol=1e-6)
        assert attended.insertion.area == pytest.approx(np.trapezoid(coming) / (N - 1), abs=1e-6)
        assert attended.deletion.area == pytest.approx(np.trapezoid(staying) / (N - 1), abs=1e-6)


def test_areas_are_those_that_evaluate_counts():
    head, features = HEADS["linear"], features_of(HEADS["linear"])
    for photo, answer in enumerate(ask(features)):
        scores = (features.tokens[photo] @ head.weight.T).T.unflatten(1, GRID)
        evidence, maps = Evidence(scores, head.bias, 3), answer.weights.view(1, *GRID)
        assert answer.attended.insertion.area == pytest.approx(
            float(latent_insertion(maps, evidence)), abs=1e-6
        )
        assert answer.attended.deletion.area == pytest.approx(
            float(latent_deletion(maps, evidence)), abs=1e-6
        )


def test_the_mean_patch_is_made_of_the_context_and_its_complement():
    answer = ask(features_of(HEADS["linear"]))[1]
    weights = complement(answer.weights.double())
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6) and float(weights.min()) >= 0
    attended = answer.attended
    whole = attended.inside.logit / N + attended.outside.logit * (N - 1) / N
    assert attended.whole.logit == pytest.approx(whole, abs=1e-6)


def test_one_patch_alone_has_no_complement():
    features = features_of(HEADS["linear"])
    placement = replace(features.placements[0], grid=(1, 1))
    single = replace(features, tokens=features.tokens[:, :1], grid=(1, 1), placements=(placement,) * 2)
    attended = ask(single)[0].attended
    assert math.isnan(attended.outside.logit) and attended.outside.name == ""
    assert attended.inside.logit == attended.whole.logit
    assert attended.insertion.area == attended.deletion.area == pytest.approx(attended.insertion.curve[0])


def test_along_the_temperature_the_ends_are_the_best_patch_and_all():
    head, features = HEADS["linear"], features_of(HEADS["linear"])
    attended = ask(features)[0].attended
    assert attended.temperatures == TEMPERATURES and len(attended.margins) == len(TEMPERATURES)
    scores = features.tokens[0] @ head.weight[3]
    hottest = head(features.tokens[0, int(scores.argmax())])
    assert attended.logits[0] == pytest.approx(float(hottest[3]), abs=1e-4)
    assert attended.logits[-1] == pytest.approx(float(features.logits[0, 3]), abs=0.05)
    assert (np.diff(attended.logits) < 1e-6).all(), "a class's own evidence falls as it is spread"
    # one in the middle, by the definition
    tau = TEMPERATURES[28] * float(scores.std(correction=0))
    weights = [math.exp(float(score - scores.max()) / tau) for score in scores]
    logit = sum(w * float(s) for w, s in zip(weights, scores, strict=True)) / sum(weights) + float(
        head.bias[3]
    )
    assert attended.logits[28] == pytest.approx(logit, abs=1e-5)


@pytest.mark.parametrize(
    ("stages", "is_marked"),
    [
        ({"scaling": partial(temperature, tau=0.5)}, True),
        ({"scaling": perplexity}, True),
        ({"scaling": partial(cosine, tau=0.5)}, False),
        ({"scaling": partial(temperature, tau=2.0), "normalise": sparsemax}, False),
        ({"scaling": temperature, "heads": partial(contiguous, count=3)}, False),
    ],
)
def test_a_map_has_a_place_among_softmaxes_where_it_is_one(stages, is_marked):
    features = features_of(HEADS["linear"])
    method = AttentionMethod(no_network, parse("class:3"), attended=True, **stages)
    for (answer,) in method.answer((features,)):
        probability, margin, _ = attended_plots(answer)
        assert ("dotted" in probability.title) == is_marked
        assert (probability.place is not None) == (margin.place is not None) == is_marked
        if is_marked:  # the context's own margin lies between those of the two nearest temperatures
            number = probability.place * (len(TEMPERATURES) - 1)
            nearest = answer.attended.margins[[math.floor(number), math.ceil(number)]]
            assert min(nearest) - 1e-5 <= answer.attended.inside.margin <= max(nearest) + 1e-5


def test_a_classifier_that_takes_no_mean_says_so():
    features = features_of(HEADS["linear"])
    gradient = replace(features, head=Gradient(nn.Identity(), NAMES))
    without = replace(features, head=None, logits=None)
    for odd in (gradient, without):
        attended = ask(odd, "mean")[0].attended
        assert attended.reason == NO_MEAN and math.isnan(attended.inside.logit)
    assert ask(features, attended=False)[0].attended is None
    assert attended_by(None, ask(features)[0].attention, 3).reason == Attended(reason=NO_MEAN).reason


def test_a_run_keeps_it_in_records_maps_panel_and_page(attnvis, cat):
    ended = attnvis(
        "run", "cat.png", "query=class,tabby", "attended=true", "stability=true", "random_classes=99"
    )
    assert ended.code == 0, ended
    rows = records()
    checks = {"attended": True, "stability": True, "random_classes": 99}
    for row, result in zip(rows, explain_all("cat.png", "class,tabby", size=96, **checks), strict=True):
        answer = result.answer
        assert answer.p_value == pytest.approx(float(row["p_value"]), abs=0.011)
        assert answer.stability.worst == pytest.approx(float(row["worst_correlation"]), abs=1e-4)
        assert answer.attended.inside.logit == pytest.approx(float(row["attended_logit"]), rel=1e-4)
        lines = dict(result.lines())
        assert {"holds still", "as hot by chance", "attended", "the rest", "margin", "cells"} <= lines.keys()
    assert rows[0]["watched_class"] == rows[0]["predicted"] and rows[1]["watched_class"] == "tabby"
    for row in rows:
        assert float(row["whole_logit"]) == pytest.approx(float(row["class_logit"]), abs=1e-4)
        assert (float(row["whole_margin"]) > 0) == (row["watched_class"] == row["predicted"])
        assert 0 < float(row["latent_deletion"]) < float(row["latent_insertion"]) < 1
    words = Page(Path("out/index.html")).words
    assert f"attended: {rows[0]['attended_class']}" in words and "the rest: " in words
    ended = attnvis("redraw", "out", "hydra.run.dir=again")
    assert ended.code == 0, ended
    names = [
        name for name in rows[0] if name.startswith(("whole", "attended", "complement", "latent", "watched"))
    ]
    assert len(names) == 13 and all(rows[0][name] for name in names)
    assert [[row[name] for name in names] for row in records("again")] == [
        [row[name] for name in names] for row in rows
    ]
    for panel in Path("out/panels").iterdir():
        assert (Path("again/panels") / panel.name).read_bytes() == panel.read_bytes(), "the plots too"


def test_it_is_no_question_for_another_method(attnvis, cat):
    assert "leave one out" in attnvis("run", "cat.png", "method=gradcam", "attended=true").complaint
