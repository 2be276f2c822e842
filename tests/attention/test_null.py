"""p values of class maps: uniform where nothing is to be found, by definition in plain loops, and by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import no_network
from fake_features import CATEGORIES, B, normal, tiled, two_photos
from scipy.stats import ks_2samp, kstest, norm

from attnvis.attention import scaling
from attnvis.attention.normalise import softmax
from attnvis.attention.null import (
    NullMaps,
    chances,
    class_scores,
    critical_value,
    length_of_shares,
    ordered_noise,
    ordered_together,
    p_values,
)
from attnvis.attention.query.language import build_queries, parse
from attnvis.backbone.heads import FrozenNorm, Gradient, Linear
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import SettingGrid
from attnvis.types import Features

CLASSES, WIDTH = 400, 16


def world(seed: int, scale: float = 1.0) -> Features:
    """One photo, and a classifier whose classes are random: what the null says."""
    tokens = normal(1, 24, WIDTH, seed=10_000).abs() * torch.linspace(0.1, 2, WIDTH).double()
    head = Linear(scale * (0.5 + normal(CLASSES, WIDTH, seed=seed)), 0.0 * normal(CLASSES), ())
    return Features(tokens, (4, 6), (tiled((60, 90), (4, 6)),), head, head(tokens.mean(1)), ("a.jpg",))


def p_of(text: str, features: Features, draws: int = 400) -> torch.Tensor:
    return torch.cat([p_values(query, features, draws) for query in build_queries(parse(text), features)], 1)


def test_p_values_of_random_classes_are_uniform():
    values = p_of("random_class:5,400", world(1), draws=2000)[0]
    assert kstest(values, "uniform").pvalue > 0.01
    assert 0.02 < (values <= 0.05).double().mean() < 0.09


CHOSEN = {"class": 250, "class:predicted#2": 250, "class:7": 250}
SUMS = {"class:7 - class:9": 120, "class - class:predicted#2": 120}


@pytest.mark.parametrize("text, worlds", (CHOSEN | SUMS).items())
def test_p_values_are_uniform_where_a_random_class_was_chosen(text, worlds):
    values = torch.cat([p_of(text, world(seed)) for seed in range(worlds)])[:, 0]
    assert kstest(values, "uniform").pvalue > 0.01, values.mean()


def test_without_the_choice_in_the_null_the_predicted_class_would_be_far_out():
    few = 0
    for seed in range(60):
        (query,) = build_queries(parse("class"), world(seed))
        few += float(p_values(replace(query, mixtures=(((1.0, 0),),)), world(seed), 400)) <= 0.05
    assert few >= 20, few  # 3 were expected by chance


def test_a_p_value_counts_the_random_classes_that_are_as_hot():
    features = world(3)
    scores = class_scores(features, 0)
    null = NullMaps(scores, features.logits[0], draws=200, seed=0)
    noise = torch.randn(CLASSES, 200, generator=torch.Generator().manual_seed(0)).double()
    rows = features.head.weight
    peaks = []
    for draw in range(200):
        q = rows.mean(0) + (noise[:, draw] / math.sqrt(CLASSES - 1)) @ (rows - rows.mean(0))
        map_ = features.tokens[0] @ q
        peaks.append(float(map_.max() - map_.mean()))
    torch.testing.assert_close(null.peaks(0), torch.tensor(peaks, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    map_ = features.tokens[0] @ rows[7]
    count = sum(peak >= float(map_.max() - map_.mean()) for peak in peaks)
    assert float(p_of("class:7", features, draws=200)) == pytest.approx((1 + count) / 201)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_the_kth_largest_of_normal_numbers_is_distributed_as_those_that_are_drawn(rank):
    drawn = torch.randn(4000, 50, generator=torch.Generator().manual_seed(1)).double()
    kth = drawn.sort(1, descending=True).values[:, rank - 1]
    assert kstest(ordered_noise(50, rank, 4000, seed=0), kth.numpy()).pvalue > 0.01
    assert kstest(ordered_noise(1, 1, 4000, seed=0), norm.cdf).pvalue > 0.01


def test_a_sum_of_random_classes_is_drawn_as_they_are_one_by_one():
    features, draws = world(3), 3000
    null = NullMaps(class_scores(features, 0), features.logits[0], draws=draws, seed=0)
    rows = features.head.weight
    noise = normal(2, draws, CLASSES, seed=5) / math.sqrt(CLASSES - 1)
    first, second = (rows.mean(0) + part @ (rows - rows.mean(0)) for part in noise)
    for (one, two), text in (((1.0, -1.0), "a - b"), ((0.5, 0.5), "mean"), ((2.0, -0.5), "2a - b/2")):
        maps = (one * first + two * second) @ features.tokens[0].T
        drawn = maps.amax(1) - maps.mean(1)
        peaks = null.peaks_of_sum(((one, 0), (two, 0)))
        assert ks_2samp(drawn, peaks).pvalue > 0.01, text


KINDS = ("contrast", "rest", "log_odds", "finer", "finer:{},0.6,5")


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.3, 3.0], ids=["even", "peaked"])  # of the probabilities
@pytest.mark.parametrize("name", ["predicted", "7", "predicted#2"])
def test_p_values_against_rivals_are_uniform_where_classes_are_random(name, scale):
    values = {kind: [] for kind in KINDS}
    for seed in range(500):
        features = world(seed, scale)
        for kind, of_kind in values.items():
            of_kind.append(float(p_of(kind.format(name) if "{}" in kind else f"{kind}:{name}", features)))
    for kind, of_kind in values.items():
        found = kstest(of_kind, "uniform")
        assert found.pvalue > 0.001, (kind, found)  # of 30
        assert np.mean(np.array(of_kind) <= 0.05) < 0.09, kind


@pytest.mark.parametrize("text", ["log_odds:7", "finer", "rest:predicted#2"])
def test_random_classes_against_their_rivals_are_drawn_as_they_are_one_by_one(text):
    """Of the very queries that are asked of worlds whose classes are drawn one by one."""
    features, draws = world(3), 300
    rows = features.head.weight
    root = torch.linalg.cholesky(torch.cov(rows.T))
    lengths, peaks = [], []
    for draw in range(draws):
        weight = rows.mean(0) + normal(CLASSES, WIDTH, seed=100 + draw) @ root.T
        head = Linear(weight, features.head.bias, ())
        drawn = replace(features, head=head, logits=head(features.tokens.mean(1)))
        (query,) = build_queries(parse(text), drawn)
        chosen = torch.zeros(1, CLASSES).double()
        chosen[0, query.classes[0][0].index] = 1
        lengths.append(float(query.rivals.shares(chosen, drawn.logits.softmax(1)).norm()))
        map_ = query.vectors[0, 0] @ drawn.tokens[0].T
        peaks.append(float(map_.max() - map_.mean()) / lengths[-1])
    (query,) = build_queries(parse(text), features)
    null = NullMaps(class_scores(features, 0), features.logits[0], draws=2000, seed=0)
    assert ks_2samp(peaks, null.peaks_against_rivals(query.rivals)).pvalue > 0.001
    assert min(lengths) >= 1 and max(lengths) < 3


def test_a_class_against_one_sure_rival_is_the_difference_of_two():
    """p_rival = 1: log_odds is w_c - w_r, of length sqrt(2); contrast the same, however short."""
    features = world(3)
    logits = torch.full((1, CLASSES), -200.0).double()
    logits[0, 9] = 200.0
    sure = replace(features, logits=logits)
    (query,) = build_queries(parse("log_odds:7"), sure)
    torch.testing.assert_close(query.vectors[0, 0], features.head.weight[7] - features.head.weight[9])
    assert length_of_shares(query.rivals, logits[0], 7) == pytest.approx(math.sqrt(2))
    assert length_of_shares(query.rivals, features.logits[0], 7) > 1
    for name in ("7", "predicted"):
        odds, contrast = (p_of(f"{kind}:{name}", features) for kind in ("log_odds", "contrast"))
        assert odds == pytest.approx(contrast, abs=1e-3), "the one is the other times 1 - p_c"


def test_a_group_of_like_classes_is_compared_with_vectors_as_far_from_the_mean():
    features = world(2)
    rows = features.head.weight.clone()
    rows[:5] = rows[0] + 0.01 * normal(5, WIDTH, seed=9)  # five of a kind ask what one of them asks
    like = replace(features, head=replace(features.head, weight=rows))
    group, one = p_of("class:[0,1,2,3,4]", like, 2000), p_of("class:0", like, 2000)
    distances = (rows - rows.mean(0)).norm(dim=1)
    scale = float(distances[0]) / float(((distances**2).sum() / (CLASSES - 1)).sqrt())
    null = NullMaps(class_scores(like, 0), like.logits[0], draws=2000, seed=0)
    maps = null.centre + scale * null.deviations
    map_ = like.tokens[0] @ rows[0]
    expected = (1 + int((maps.amax(0) >= map_.max() - map_.mean()).sum())) / 2001
    assert float(group) == pytest.approx(expected, abs=0.01) and abs(float(group) - float(one)) < 0.5
    # a mean of five independent ones would be flatter, and any group far out
    assert float(chances(build_queries(parse("class:[0,1,2,3,4]"), like)[0], like).critical) > 1.5 * float(
        null.peaks_of_sum(((0.2, 0),) * 5).quantile(0.95)
    )


def test_the_likeliest_less_three_of_a_named_class_is_drawn_as_both_are():
    features, draws = world(3), 1500
    null = NullMaps(class_scores(features, 0), features.logits[0], draws=draws, seed=0)
    rows = features.head.weight
    root = torch.linalg.cholesky(torch.cov(rows.T))
    classes = rows.mean(0) + normal(draws, CLASSES, WIDTH, seed=5) @ root.T
    likeliest = (classes @ features.tokens[0].mean(0)).argmax(1)
    chosen = classes[torch.arange(draws), likeliest]
    named = rows.mean(0) + normal(draws, WIDTH, seed=6) @ root.T
    maps = (chosen - 3 * named) @ features.tokens[0].T
    assert ks_2samp(maps.amax(1) - maps.mean(1), null.peaks_of_sum(((1.0, -1), (-3.0, 0)))).pvalue > 0.01


def test_a_likeliest_class_by_the_factor_0_changes_no_sum():
    features = world(3)
    null = NullMaps(class_scores(features, 0), features.logits[0], draws=50, seed=0)
    torch.testing.assert_close(null.peaks_of_sum(((0.0, -1), (1.0, 0))), null.peaks(0))


def test_the_critical_value_is_the_tenth_largest_of_199():
    assert critical_value(torch.arange(199.0)) == 189  # ten as hot, and itself, are 11 of 200: p = .055
    assert critical_value(torch.arange(19.0)) == 18 and critical_value(torch.arange(18.0)) == math.inf


def test_likeliest_classes_are_drawn_together():
    drawn = torch.randn(4000, 50, generator=torch.Generator().manual_seed(1)).double()
    ordered = drawn.sort(1, descending=True).values
    together = ordered_together(50, (1, 2, 5), 4000, seed=0)
    assert (together[0] > together[1]).all() and (together[1] > together[2]).all()
    for row, rank in zip(together, (1, 2, 5), strict=True):
        assert kstest(row, ordered[:, rank - 1].numpy()).pvalue > 0.01
    assert ks_2samp(together[0] - together[1], ordered[:, 0] - ordered[:, 1]).pvalue > 0.01


def test_beyond_the_critical_value_lie_the_patches_of_small_p():
    features, draws = world(6), 199
    (query,) = build_queries(parse("random_class:5,60"), features)
    found = chances(query, features, draws)
    peaks = NullMaps(class_scores(features, 0), features.logits[0], draws, 0).peaks(0)
    maps = query.vectors[0] @ features.tokens[0].T
    for column, map_ in enumerate(maps):
        for score in map_ - map_.mean():
            p = (1 + sum(float(peak) >= float(score) for peak in peaks)) / (draws + 1)
            assert (float(score) > float(found.critical[0, column])) == (p <= 0.05)
    assert chances(query, features, 18).critical.isinf().all(), "19 random classes could not tell"


def test_a_class_taken_from_itself_is_no_sum():
    features = two_photos()
    (query,) = build_queries(parse("class:bee - 0.5*class:bee"), features)
    assert query.mixtures == (((0.5, CATEGORIES.index("bee")),),)
    assert torch.equal(p_of("class:bee - 0.5*class:bee", features, 300), p_of("0.5*class:bee", features, 300))
    assert p_of("class:bee - class:bee", features).isnan().all()
    assert torch.equal(p_of("2*class:bee", features), p_of("class:bee", features))


def test_a_class_whose_patch_is_there_is_no_chance():
    features = world(4)
    tokens = features.tokens.clone()
    tokens[0, 11] += 30 * features.head.weight[7] / features.head.weight[7].norm()
    planted = replace(features, tokens=tokens, logits=features.head(tokens.mean(1)))
    assert float(p_of("class:7", planted)) == pytest.approx(1 / 401)
    assert float(p_of("class:7", features)) > 1 / 401


def test_what_asks_no_class_has_none_and_neither_has_a_gradient():
    features = two_photos()
    for text in (
        *("mean", "class:bee - mean", "normalise(class:bee)", "rarity", "random:1,3"),
        *("normalise(contrast:bee)", "contrast:bee - mean", "0.5*finer:bee"),
    ):
        assert p_of(text, features).isnan().all(), text
    gradient = replace(features, head=Gradient(torch.nn.Identity(), CATEGORIES))
    (query,) = build_queries(parse("class:bee"), features)
    assert p_values(query, gradient).isnan().all()


def test_a_norm_that_is_held_changes_no_p_value_by_its_scale():
    features = two_photos()
    width = features.tokens.shape[2]
    norms = [FrozenNorm(features.head.weight, features.head.bias, k * torch.ones(width).double(),
                        torch.zeros(width).double(), 1e-6, CATEGORIES) for k in (1.0, 3.0)]  # fmt: skip
    one, other = (replace(features, head=head, logits=head.logits(features.maps)) for head in norms)
    assert torch.equal(p_of("class:bee", one), p_of("class:bee", other))


def test_a_method_gives_p_values_where_they_are_asked_for_and_doubtful_maps_say_so():
    features = two_photos()
    ask = AttentionMethod(no_network, parse("random_class:1,9"), random_classes=500)
    answers = [answer for photo in ask.answer((features,)) for answer in photo]
    expected = p_of("random_class:1,9", features, draws=500).flatten().tolist()
    assert [answer.p_value for answer in answers] == pytest.approx(expected)
    for answer in answers:
        assert answer.is_chance == (answer.p_value > 0.05)
        assert (
            any("random classes have as hot a patch" in text for text in answer.warnings) == answer.is_chance
        )
    silent = AttentionMethod(no_network, parse("random_class:1,9")).answer((features,))
    assert all(answer.p_value is None and not answer.is_chance for photo in silent for answer in photo)
    (mean,), _ = AttentionMethod(no_network, parse("mean"), random_classes=500).answer((features,))
    assert mean.p_value is None and B == 2


def test_a_sweep_has_the_same_p_value_under_every_setting():
    features = two_photos()
    grid = SettingGrid(
        no_network, {"random_class:1": parse("random_class:1"), "mean": parse("mean")},
        {"none": scaling.none, "zscore": scaling.zscore}, {"softmax": softmax}, random_classes=300,
    )  # fmt: skip
    expected = p_of("random_class:1", features, draws=300)[:, 0].tolist()
    for photo, (named, mean) in enumerate(grid.answer((features,))):
        assert named.checks["p_value"] == pytest.approx([expected[photo]] * 2)
        assert all(map(math.isnan, mean.checks["p_value"]))


def test_at_the_command_line_the_record_the_page_and_the_maps_have_it(attnvis, cat):
    from conftest import records

    ended = attnvis(
        "run", "cat.png", "query=class,random_class:0,mean,class:281 - class:504", "random_classes=200"
    )
    assert ended.code == 0, ended
    values = [row["p_value"] for row in records()]
    assert all(0 < float(value) <= 1 for value in (*values[:2], values[3])) and values[2] == ""
    beyond = [row["beyond_chance"] for row in records()]
    assert beyond[2] == "" and all(
        (float(count) > 0) == (float(value) <= 0.05)
        for count, value in zip(beyond, values, strict=True)
        if count
    )
    assert ("chance" in Path("out/index.html").read_text("utf-8")) == any(
        float(value) > 0.05 for value in (*values[:2], values[3])
    )
    ended = attnvis("redraw", "out", "hydra.run.dir=again")
    assert ended.code == 0 and [row["p_value"] for row in records("again")] == values
    assert [row["beyond_chance"] for row in records("again")] == beyond
    for panel in Path("out/panels").iterdir():
        assert (Path("again/panels") / panel.name).read_bytes() == panel.read_bytes(), "the outline too"
    assert "give 0 for no p value" in attnvis("run", "cat.png", "random_classes=-1").complaint
