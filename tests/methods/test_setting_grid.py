"""Many settings from one product: each is what its attention alone would have been; the curves against
plain loops and hand arithmetic."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import GRADIENT, no_network
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import attend
from attnvis.attention.query import language
from attnvis.attention.scaling import positive_factor
from attnvis.attention.sensitivity import sensitivity
from attnvis.attention.spec import functions
from attnvis.backbone.heads import Linear
from attnvis.experiments.sweep.curves import curves_of
from attnvis.experiments.sweep.shapes import shapes_of
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import GAPS, PAIRS, RANKS, TEMPERATURES, PhotoResult, SettingGrid
from attnvis.metrics.diagnostics import DESCRIPTIONS, diagnose
from attnvis.types import Box, Features, PhotoError, Placement, Scores

B, D, C = 2, 7, 11  # different primes: a transposed axis cannot pass unnoticed
GRID = (5, 13)
N = GRID[0] * GRID[1]
SCALINGS = functions("scaling", [*scaling.__all__, "temperature:2", "cosine:0.5", "perplexity:3"])
NORMALISERS = functions("normalise", normalise.__all__)
TEXTS = ("mean", "class:two", "random:0,3", "rarity:3", "box:3,2,20,10", "pca:2")
PEAK = 1.543405  # x tanh(x / 2) = 1: of two logits, the difference at which most gradient reaches the scores


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiles(size: tuple[int, int], grid: tuple[int, int]) -> Placement:
    step = (size[0] / grid[0], size[1] / grid[1])
    return Placement(
        (step[0] / 2, step[1] / 2), step, grid, size, Box(0.0, 0.0, float(size[0]), float(size[1]))
    )


def some(tokens: Tensor | None = None, grid: tuple[int, int] = GRID) -> Features:
    tokens = normal(B, N, D) if tokens is None else tokens
    head = Linear(normal(C, tokens.shape[-1], seed=1), normal(C, seed=2), ("zero", "one", "two"))
    placements = tuple(tiles((50 + 5 * photo, 65), grid) for photo in range(len(tokens)))
    return Features(
        tokens,
        grid,
        placements,
        head,
        head(tokens.mean(1)),
        tuple(f"{photo}.jpg" for photo in range(len(tokens))),
    )


def asking(*texts: str, scalings=SCALINGS, normalisers=NORMALISERS) -> SettingGrid:
    return SettingGrid(no_network, {text: language.parse(text) for text in texts}, scalings, normalisers)


def scored(*scores: float, scalings=("none",)) -> PhotoResult:
    """One photo whose patches have these raw scores, under softmax."""

    def one(features: Features) -> Tensor:
        return torch.ones(1, 1, 1)

    features = some(torch.tensor(scores).view(1, -1, 1), (1, len(scores)))
    return SettingGrid(
        no_network, {"one": one}, functions("scaling", scalings), functions("normalise", ["softmax"])
    ).answer((features,))[0][0]


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def perplexity(weights: list[float]) -> float:
    return math.exp(-math.fsum(weight * math.log(weight) for weight in weights if weight > 0))


# Every setting, from one product


@pytest.mark.parametrize("text", TEXTS)
def test_every_setting_is_exactly_what_its_attention_alone_would_be(text):
    features = some()
    grid = asking(text)
    (asked,) = language.build_queries(language.parse(text), features)
    answers = grid.answer((features,))
    assert grid.settings == tuple((one, other) for one in SCALINGS for other in NORMALISERS)
    keys = features.tokens if asked.keys is None else asked.keys
    whole = answers[0][0].batch
    for number, (one, other) in enumerate(grid.settings):
        alone = attend(asked.vectors, keys, features.tokens, SCALINGS[one], NORMALISERS[other])
        assert torch.equal(whole.scores, alone.scores) and whole.dim == alone.dim
        assert torch.equal(whole.logits[number], alone.logits), (one, other)
        assert torch.equal(whole.weights[number], alone.weights), (one, other)
        gradient = sensitivity(
            Scores(asked.vectors, keys),
            alone.logits,
            alone.weights,
            scaling=SCALINGS[one],
            normalise=NORMALISERS[other],
        )
        numbers = diagnose(alone.weights, alone.logits, alone.scores, dim=alone.dim, gradient=gradient)
        assert list(whole.numbers) == list(numbers) == list(DESCRIPTIONS)
        for name, values in whole.numbers.items():
            where, tolerance = f"{name} of {one} {other}", 1e-12 if name in GRADIENT else 0  # summed together
            np.testing.assert_allclose(values[number], numbers[name], tolerance, tolerance, err_msg=where)


FEW = functions("scaling", ["none", "inv_sqrt_d", "perplexity"]), functions("normalise", ["softmax", "relu"])


@pytest.mark.parametrize("text", ["contiguous:3", "random:2,1", "pca:4"])
def test_under_several_heads_every_setting_is_what_it_is_alone(text):
    features = some()
    (heads,) = functions("heads", [text]).values()
    grid = replace(asking("mean", "random:0,3", scalings=FEW[0], normalisers=FEW[1]), heads=heads)
    answers = grid.answer((features,))
    for number, (one, other) in enumerate(grid.settings):
        parts = FEW[0][one], FEW[1][other]
        for query, place in (("mean", slice(1)), ("random:0,3", slice(1, 4))):
            method = AttentionMethod(no_network, language.parse(query), *parts, heads=heads)
            for photo, alone in enumerate(method.answer((features,))):
                for found, answer in zip(answers[photo][place], alone, strict=True):
                    where = f"{one} {other}, {answer.label}"
                    assert torch.equal(found.weights[number], answer.weights), where
                    for name, values in found.numbers.items():
                        expected = answer.diagnostics[name]
                        assert values[number] == pytest.approx(expected, nan_ok=True), (where, name)
    whole, *_ = answers[0]
    assert whole.batch.heated[0].isnan().all() and math.isnan(whole.temperature_for(0.1))
    assert asking("mean").has_one_score and not grid.has_one_score


def letterbox(grid: tuple[int, int]) -> Placement:
    """Of a photo of 30 x 60 in a square of 60, above and below which there is none of it."""
    step = (60 / grid[0], 60 / grid[1])
    first = (step[0] / 2 - 15, step[1] / 2)
    return Placement(first, step, grid, (30, 60), Box(0.0, 0.0, 30.0, 60.0))


@pytest.mark.parametrize(
    "name, text", [("mixture", "one"), ("product", "one"), ("max", "one"), ("product", "contiguous:3")]
)
def test_layers_joined_under_every_setting_are_what_they_are_alone(name, text):
    (heads,) = functions("heads", [text]).values()
    coarse, fine = (
        replace(features, placements=(features.placements[0], letterbox(features.grid)))
        for features in (some(normal(B, 6, D), (2, 3)), some(normal(B, N, D, seed=5)))
    )
    coarse = replace(coarse, layer="coarse")
    grid = asking("mean", "random:0,3", scalings=FEW[0], normalisers=FEW[1])
    grid = replace(grid, fuse=name, heads=heads)
    answers = grid.answer((coarse, fine))
    for number, (one, other) in enumerate(grid.settings):
        for query, place in (("mean", slice(1)), ("random:0,3", slice(1, 4))):
            method = AttentionMethod(
                no_network,
                language.parse(query),
                FEW[0][one],
                normalise=FEW[1][other],
                fuse=name,
                heads=heads,
            )
            for photo, alone in enumerate(method.answer((coarse, fine))):
                of_photo = [answer for answer in alone if "+" in answer.layer]
                for found, answer in zip(answers[photo][place], of_photo, strict=True):
                    torch.testing.assert_close(found.weights[number], answer.weights, rtol=1e-6, atol=1e-9)
                    assert found.placement == answer.placement and found.query == query
                    known = {key: values[number] for key, values in found.numbers.items()}
                    for key, expected in answer.diagnostics.items():
                        assert known.pop(key) == pytest.approx(expected, rel=1e-5), key
                    assert all(map(math.isnan, known.values())) and "sigma_eff" in known
    found = answers[0][0]
    assert found.batch.gaps.sum() == 0 and found.batch.ranked.isfinite().all()
    assert math.isnan(shapes_of(found)["weight_rank_correlation"][0])
    assert math.isnan(shapes_of(found)["logit_kurtosis"][0]) and shapes_of(found)["alive"][0] > 0


def test_what_a_grid_cannot_join_is_said():
    grid = asking("mean", scalings=FEW[0], normalisers=FEW[1])
    with pytest.raises(ValueError, match="measures one layer at a time, not 2"):
        grid.answer((some(), some()))
    with pytest.raises(ValueError, match=r"fuse=max joins several layers of one pass.* give two layers"):
        replace(grid, fuse="max").answer((some(),))
    with pytest.raises(ValueError, match="there are mixture, product, max"):
        replace(grid, fuse="sum")
    for changes, advice in (
        ({"fuse": "max"}, "take no fuse"),
        ({"heads": functions("heads", ["random"])["random"]}, "take heads=1"),
    ):
        with pytest.raises(ValueError, match=f"random_classes compares .* {advice}"):
            replace(grid, random_classes=100, **changes)
    hottest = functions("normalise", ["top_k:1"])
    apart = replace(asking("random:0", scalings=functions("scaling", ["none"]), normalisers=hottest))
    turned = some(normal(B, N, D).flip(1))
    with pytest.raises(PhotoError, match=r"0.jpg: random under none top_k:1: the layers' maps.*setting out"):
        replace(apart, fuse="product").answer((some(), turned))


def test_a_photos_and_a_querys_part_is_its_own():
    features = some()
    scalings, normalisers = (
        functions("scaling", ["inv_d", "zscore"]),
        functions("normalise", ["softmax", "sparsemax", "relu"]),
    )
    answers = asking("random:0,3", scalings=scalings, normalisers=normalisers).answer((features,))
    for photo, answer in enumerate(answers):
        for column, found in enumerate(answer):
            vector = torch.randn(3, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[
                column
            ].float()
            torch.testing.assert_close(found.scores, features.tokens[photo] @ vector, rtol=1e-5, atol=1e-5)
            expected = torch.tensor(softmax([score / D for score in found.scores.tolist()]))
            torch.testing.assert_close(found.weights[0], expected, rtol=1e-5, atol=1e-7)
            assert found.weights.shape == (6, N) and set(found.numbers) == set(DESCRIPTIONS)
            assert found.numbers["max"] == pytest.approx(found.weights.amax(-1).tolist(), rel=1e-6)
            assert found.numbers["sigma_eff"][3:] == pytest.approx([1.0] * 3, rel=1e-5), "what a z-score sets"


def test_queries_and_keys_are_multiplied_once_for_all_settings():
    class Products(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            is_product = function.__name__ in ("matmul", "__matmul__", "bmm", "einsum")
            self.seen += is_product and args[0].shape[-1] == D
            return function(*args, **(kwargs or {}))

    features = some()
    with Products() as products:
        asking("mean", "random:0,3", "random:1").answer((features,))
    assert products.seen == 3


def test_several_vectors_give_one_result_each_and_photos_stay_apart():
    features = some()
    answers = asking("random:0,3", "mean").answer((features,))
    for photo, answer in enumerate(answers):
        assert [found.query for found in answer] == ["random:0,3"] * 3 + ["mean"]
        assert [found.label for found in answer] == ["random 0 #1", "random 0 #2", "random 0 #3", "mean"]
        assert all(found.placement is features.placements[photo] and found.mark is None for found in answer)


def test_what_was_pointed_at_comes_along():
    (answer, _) = asking("box:3,2,20,10").answer((some(),))
    assert answer[0].mark == Box(2.0, 3.0, 10.0, 20.0)


def test_rarity_is_scored_by_its_own_keys():
    features = some()
    for photo, (found,) in enumerate(asking("rarity:3").answer((features,))):
        centred = (features.tokens[photo] - features.tokens[photo].mean(0)).double().numpy()
        _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
        variances = sizes[:3] ** 2 / N
        expected = ((centred @ axes[:3].T) ** 2 / (variances + 0.01 * variances.mean())).sum(1)
        np.testing.assert_allclose(found.scores.numpy(), expected, rtol=1e-3)
        assert found.batch.dim == 3


def test_a_users_bare_vectors_and_two_queries_of_one_text_are_measured():
    def mine(features: Features) -> Tensor:
        return features.tokens[:, :2]

    answers = SettingGrid(
        no_network,
        {"mine:1": mine, "also mine": mine},
        functions("scaling", ["none"]),
        functions("normalise", ["softmax"]),
    ).answer((some(),))
    assert [len(answer) for answer in answers] == [4, 4]
    assert [found.label for found in answers[0]] == ["mine #1", "mine #2"] * 2


def test_half_precise_features_are_multiplied_in_float32():
    features = some(normal(B, N, D).bfloat16())
    (asked,) = language.build_queries(language.parse("random:0,3"), features)
    (found, *_), _ = asking(
        "random:0,3", scalings=functions("scaling", ["none"]), normalisers={"softmax": normalise.softmax}
    ).answer((features,))
    assert found.scores.dtype == found.weights.dtype == torch.float32
    assert torch.equal(found.batch.scores, asked.vectors.float() @ features.tokens.float().mT)


def test_autocast_changes_nothing():
    features, grid = some(), asking("random:0,3", scalings=functions("scaling", ["none", "cosine"]))
    with torch.autocast("cpu", torch.bfloat16):
        hurried = grid.answer((features,))
    for answer, expected in zip(hurried, grid.answer((features,)), strict=True):
        for found, calm in zip(answer, expected, strict=True):
            assert torch.equal(found.scores, calm.scores) and torch.equal(found.weights, calm.weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("text, fuse", [("one", ""), ("contiguous:3", ""), ("one", "mixture")])
def test_what_a_gpu_measured_has_the_same_curves(text, fuse):
    (heads,) = functions("heads", [text]).values()
    grid = replace(asking("random:0,3"), heads=heads, fuse=fuse)
    layers = [some(), replace(some(normal(B, 6, D), (2, 3)), layer="coarse")][: 2 if fuse else 1]
    moved = [replace(features, tokens=features.tokens.cuda()) for features in layers]
    for found, expected in zip(grid.answer(moved)[0], grid.answer(layers)[0], strict=True):
        curves_of(found, (0.1,), 0)
        for name in ("ranked", "gaps", "logits", "weights"):
            torch.testing.assert_close(
                getattr(found.batch, name),
                getattr(expected.batch, name),
                rtol=1e-3,
                atol=1e-3,
                equal_nan=True,
            )
        torch.testing.assert_close(
            found.batch.heated, expected.batch.heated, rtol=1e-3, atol=1e-3, equal_nan=True
        )


# Ranked weights


def test_ranked_weights_are_the_sorted_ones_read_off_at_equal_steps():
    for answer in asking("mean", "random:0,3").answer((some(),)):
        for found in answer:
            assert found.batch.ranked.shape[-1] == RANKS
            for number, weights in enumerate(found.weights.double().numpy()):
                with np.errstate(divide="ignore"):
                    ordered = np.maximum(np.log2(N * np.sort(weights)[::-1]), -30)
                expected = np.interp(np.linspace(0, N - 1, RANKS), np.arange(N), ordered)
                np.testing.assert_allclose(found.batch.ranked[number][found.at], expected, atol=1e-9)


def test_four_patches_run_from_the_hottest_to_the_floor():
    found = scored(0.0, 3 * math.log(2), 0.0, 0.0)  # weights 1, 8, 1, 1 of 11
    curve = found.batch.ranked[0][found.at]
    assert curve[0].item() == pytest.approx(math.log2(32 / 11), abs=1e-6)
    assert curve[-1].item() == pytest.approx(math.log2(4 / 11), abs=1e-6)
    assert scored(0.0, 1000.0).batch.ranked.flatten()[-1] == -30
    assert (scored(5.0).batch.ranked == 0).all(), "a single patch is uniform"


# Gaps


def bin_of(gap: float) -> int:
    return math.floor((math.log10(gap) - GAPS[0]) * 6)


def test_two_patches_have_one_gap_and_none_with_themselves():
    found = scored(3.0, 5.0, scalings=("none", "temperature:100"))
    raw, none, hundredth = found.batch.gaps[:, *found.at].tolist()
    assert GAPS == (-6.0, 6.0, 72) and bin_of(2) == 37
    assert [number for number, count in enumerate(raw) if count] == [37] and raw == none
    assert [number for number, count in enumerate(hundredth) if count] == [37 - 12]
    assert sum(raw) == sum(hundredth) and abs(sum(raw) - PAIRS / 2) < 5 * math.sqrt(PAIRS / 4), (
        "half of the draws pair two patches"
    )


def test_gaps_of_four_patches_are_the_six_differences_equally_often():
    found = scored(0.0, 1.0, 11.0, 1011.0)
    counts = found.batch.gaps[0][found.at]
    gaps = (1, 11, 1011, 10, 1010, 1000)
    expected = torch.zeros(GAPS[2], dtype=torch.float64)
    for gap in gaps:
        expected[bin_of(gap)] += 1 / 6
    assert torch.equal(counts > 0, expected > 0)
    assert abs(float(counts.sum()) - PAIRS * 3 / 4) < 5 * math.sqrt(PAIRS * 3 / 16)
    assert (counts / counts.sum() - expected).abs().max() < 0.1


def test_dividing_the_scores_by_ten_shifts_the_histogram_by_a_decade():
    (answer, _) = asking(
        "random:0,3",
        scalings=functions("scaling", ["none", "temperature:10"]),
        normalisers={"a": normalise.softmax},
    ).answer((some(),))
    for found in answer:
        raw, none, tenth = found.batch.gaps[:, *found.at].numpy()
        assert (raw == none).all() and (tenth == np.roll(raw, -6)).all() and (raw > 0).sum() > 6


def test_gaps_beyond_the_ends_are_counted_at_the_ends():
    assert scored(1.0, 1.0).batch.gaps[0].flatten()[0] > 200
    assert scored(0.0, 1e9).batch.gaps[0].flatten()[-1] > 200
    assert scored(1.0).batch.gaps.sum() == 0


# Temperatures


def test_spread_and_gradient_by_temperature_are_those_of_plain_softmax():
    features = some()
    for answer in asking("mean", "random:0,3").answer((features,)):
        for found in answer:
            shares, gradients = (values[found.at] for values in found.batch.heated)
            assert shares.shape == gradients.shape == (len(TEMPERATURES),)
            scores = found.scores.double().tolist()
            mean = math.fsum(scores) / N
            std = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / N)
            for index in (20, 28, 45):
                tau = TEMPERATURES[index] * std
                a = softmax([score / tau for score in scores])
                assert shares[index].item() == pytest.approx(perplexity(a) / N, rel=1e-9)
                jacobian = [[(a[i] * (i == j) - a[i] * a[j]) / tau for j in range(N)] for i in range(N)]
                norm = math.sqrt(math.fsum(entry**2 for row in jacobian for entry in row))
                assert gradients[index].item() == pytest.approx(norm * std, rel=1e-9)


def test_temperatures_run_from_a_128th_to_128_and_the_spread_with_them():
    assert TEMPERATURES[0] == 1 / 128 and TEMPERATURES[28] == 1 and TEMPERATURES[-1] == 128
    assert np.allclose(np.diff(np.log2(TEMPERATURES)), 0.25)
    for answer in asking("random:0,3").answer((some(),)):
        for found in answer:
            shares = found.batch.heated[0][found.at]
            assert (shares.diff() > -1e-12).all() and shares[-1] > 0.99


@pytest.mark.parametrize(
    "scores", [(0.0, 1.0), (0.0, 1.0, 2.0, 3.0), (7.0, -2.0, 0.0, 1.0, 2.0, 2.0, 2.0, -1.0)]
)
def test_too_cold_and_too_hot_both_starve_the_gradient(scores):
    gradient = scored(*scores).batch.heated[1].flatten()
    peak = int(gradient.argmax())
    assert 10 < peak < len(TEMPERATURES) - 10
    assert (
        (gradient[: peak + 1].diff() > 0).all()
        and gradient[0] < 1e-12 * gradient[peak]
        and gradient[-1] < 0.02 * gradient[peak]
    )


def test_two_equal_best_patches_keep_a_gradient_however_cold():
    gradient = scored(0.0, 1.0, 1.0).batch.heated[1].flatten()
    tau = torch.tensor(TEMPERATURES, dtype=torch.float64)
    # weights 0, 1/2, 1/2: four entries of 1/4
    np.testing.assert_allclose(gradient[:8] * tau[:8], 0.5, rtol=1e-9)


@pytest.mark.parametrize("gap", [1e-3, 2.0, 60.0])
def test_two_patches_learn_fastest_where_the_closed_form_says(gap):
    assert PEAK * math.tanh(PEAK / 2) == pytest.approx(1, abs=1e-6)
    gradient = scored(0.0, gap).batch.heated[1].flatten()
    # the standard deviation of two numbers is half their difference
    tau = TEMPERATURES[int(gradient.argmax())] * gap / 2
    assert abs(math.log2(gap / tau / PEAK)) <= 0.25, "within one step of the temperatures"


def test_scores_without_contrast_are_spread_evenly_at_every_temperature():
    shares, gradients = scored(3.0, 3.0, 3.0, 3.0).batch.heated
    assert torch.allclose(shares, torch.ones_like(shares)) and gradients.isfinite().all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_the_temperature_for_a_share_spreads_the_attention_over_that_share(share):
    for answer in asking("mean", "random:0,3").answer((some(),)):
        for found in answer:
            tau = found.temperature_for(share)
            assert perplexity(
                softmax([score / tau for score in found.scores.double().tolist()])
            ) == pytest.approx(share * N, rel=1e-6)


def test_the_temperature_grows_with_the_scores_and_with_the_share():
    scores = (0.0, 1.0, 2.5, 7.0, 7.5)
    small, large = scored(*scores), scored(*(1000 * score for score in scores))
    assert large.temperature_for(0.5) == pytest.approx(1000 * small.temperature_for(0.5), rel=1e-6)
    assert small.temperature_for(0.3) < small.temperature_for(0.6) < small.temperature_for(0.9)


def test_no_temperature_where_the_scores_have_no_contrast():
    assert scored(3.0, 3.0, 3.0, 3.0).temperature_for(0.5) == 0
    assert scored(1000.0, 1000.0001, 1000.0, 1000.0).temperature_for(0.5) == 0, (
        "one float32 rounding is no contrast"
    )


@pytest.mark.parametrize("share", [0.0, 1.0, 5.0, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"(?i)share|target"):
        scored(0.0, 1.0, 2.0).temperature_for(share)


# Names


def test_settings_are_read_as_they_are_typed():
    read = functions("scaling", ["temperature:2", "none"])
    assert list(read) == ["temperature:2", "none"]
    scores = Scores(normal(1, 1, D), normal(1, N, D, seed=1))
    assert torch.equal(read["temperature:2"](scores), scores.products / 2)
    logits = torch.tensor([[[3.0, 1.0, 2.0, 0.0]]])
    assert functions("normalise", ["top_k:1"])["top_k:1"](logits).tolist() == [[[1.0, 0.0, 0.0, 0.0]]]
    with pytest.raises(ValueError, match="did you mean zscore"):
        functions("scaling", ["zscor"])
    with pytest.raises(ValueError, match="normalise 'top_k:many'"):
        functions("normalise", ["top_k:many"])


@pytest.mark.parametrize("text", [*scaling.__all__, "temperature:2", "cosine:0.07", "perplexity:0.3"])
def test_a_scaling_is_a_positive_factor_exactly_if_it_keeps_every_order(text):
    keys = normal(B, N, D) * normal(B, N, 1, seed=3).exp()  # of very different norms
    scores = Scores(normal(B, 3, D, seed=4), keys)
    logits = functions("scaling", [text])[text](scores)
    kept = torch.equal(logits.argsort(-1), scores.products.argsort(-1))
    assert positive_factor(text) == kept


def test_nothing_is_promised_of_a_users_own_scaling():
    assert not positive_factor("mine.scaling:2") and not positive_factor("mine")
