"""Diagnostics against their definitions in plain loops, autograd, eigenvalues, scipy,
the goldens and the theory of Gaussian scores.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest
import torch
from conftest import diagnose_attention
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, spearmanr
from torch import Tensor
from torch.autograd.functional import jacobian

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import attend
from attnvis.metrics.diagnostics import DESCRIPTIONS, freezing_point
from attnvis.types import Attention, Scores

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())
B, Q, N, D = 2, 3, 5, 7  # different primes: a transposed axis cannot pass unnoticed
quick = settings(deadline=None, derandomize=True, max_examples=25)
close = partial(pytest.approx, rel=1e-10, abs=1e-10)


def random_attention(patches: int, normaliser: Callable[[Tensor], Tensor] = normalise.softmax) -> Attention:
    chance = torch.Generator().manual_seed(patches)
    query, keys = (torch.randn(B, n, D, generator=chance, dtype=torch.float64) for n in (Q, patches))
    return attend(query, keys, normalise=normaliser)


def attention_of(
    weights: list[float], scores: list[float] | None = None, dtype: torch.dtype = torch.float64
) -> Attention:
    a = torch.tensor([[weights]], dtype=dtype)
    s = a.clone() if scores is None else torch.tensor([[scores]], dtype=dtype)
    return Attention(s, s, a, a.mT)


def figures(attention: Attention) -> dict[str, float]:
    return {name: values.item() for name, values in diagnose_attention(attention).items()}


def share_of_top(weights: list[float], percent: int) -> float:
    return math.fsum(
        sorted(weights)[-max(1, (2 * percent * len(weights) + 100) // 200) :]
    )  # the nearest count


def plain(weights: list[float], logits: list[float], scores: list[float]) -> dict[str, float]:
    """The definitions, in plain loops where one exists."""
    patches, moment = len(weights), math.fsum(a * a for a in weights)
    derivative = [[a * ((i == j) - b) for j, b in enumerate(weights)] for i, a in enumerate(weights)]
    norm = math.sqrt(math.fsum(x * x for row in derivative for x in row))
    first, second, *_ = sorted(logits, reverse=True)
    return {
        "entropy": entropy(weights),
        "perplexity": math.exp(entropy(weights)),
        "entropy_share": entropy(weights, base=patches),
        "effective_patches": 1 / moment,
        "max": max(weights),
        "max_times_uniform": max(weights) * patches,
        "gini": math.fsum(abs(a - b) for a in weights for b in weights) / (2 * patches),
        **{f"top_{percent}_percent": share_of_top(weights, percent) for percent in (1, 5, 10)},
        "above_uniform": sum(a > 1 / patches for a in weights),
        "score_std": pstdev(scores),
        "score_range": max(scores) - min(scores),
        "sigma_eff": pstdev(logits),
        "margin": first - second,
        "jacobian_norm": norm,
        "jacobian_spectral": float(torch.linalg.eigvalsh(torch.tensor(derivative, dtype=torch.float64))[-1]),
        "gradient_norm": norm * (first - second) / (sorted(scores)[-1] - sorted(scores)[-2]),
        "kl_uniform": entropy(weights, [1 / patches] * patches),
        "rank_correlation": float(spearmanr(scores, logits).statistic),
        "saturated": float(max(weights) > 0.99),
        "dead": float(math.exp(entropy(weights)) > 0.99 * patches),
    }


@pytest.mark.parametrize(
    "normaliser", [normalise.softmax, normalise.sparsemax, normalise.relu], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("patches", [2, N, 23])
def test_diagnostics_are_their_definitions_in_plain_loops(patches, normaliser):
    attention = random_attention(patches, normaliser)
    found = diagnose_attention(attention)
    assert list(found) == list(DESCRIPTIONS)
    for b in range(B):
        for q in range(Q):
            expected = plain(
                *(tensor[b, q].tolist() for tensor in (attention.weights, attention.logits, attention.scores))
            )
            assert {
                name: values[b, q].item() for name, values in found.items() if name != "js_inv_sqrt_d"
            } == close(expected)


@pytest.mark.parametrize("name", ["none", "inv_sqrt_d", "zscore", "cosine"])
def test_the_divergence_to_inv_sqrt_d_is_scipys(name):
    chance = torch.Generator().manual_seed(11)
    query, keys = (torch.randn(B, n, D, generator=chance, dtype=torch.float64) for n in (Q, N))
    attention = attend(query, keys, scaling=getattr(scaling, name))
    reference = attend(query, keys, scaling=scaling.inv_sqrt_d).weights
    expected = jensenshannon(attention.weights.numpy(), reference.numpy(), axis=-1) ** 2
    np.testing.assert_allclose(diagnose_attention(attention)["js_inv_sqrt_d"].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    "case", GOLDEN["G1"]["scalings"], ids=lambda g: f"{g['scaling']} {g['settings'] or ''}"
)
def test_diagnostics_give_the_golden_figures_of_every_scaling(case):
    query, keys = (torch.tensor(GOLDEN["G1"][name], dtype=torch.float64) for name in ("query", "values"))
    found = figures(
        attend(
            query[None, None],
            keys[None],
            scaling=partial(getattr(scaling, case["scaling"]), **case["settings"]),
        )
    )
    assert {name: found[name] for name in case["diagnostics"]} == pytest.approx(
        case["diagnostics"], rel=1e-8, abs=1e-13
    )


@pytest.mark.parametrize(
    "case", [g for g in GOLDEN["G1"]["normalise"] if "diagnostics" in g], ids=lambda g: g["normalise"]
)
def test_diagnostics_give_the_golden_figures_of_sparse_weights(case):
    found = figures(attention_of(case["weights"]))
    assert {name: found[name] for name in case["diagnostics"]} == close(case["diagnostics"])


def test_uniform_weights_give_the_golden_figures():
    found = figures(attention_of([0.25] * 4))
    assert {name: found[name] for name in GOLDEN["uniform4"]} == close(GOLDEN["uniform4"])


logit_rows = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=2, max_size=9)  # ties are common


@given(row=logit_rows)
@example(row=[2.0, 2.0, -1.0])
@example(row=[1.0, 1.0, 1.0, 1.0])
@example(row=[60.0, 0.0, 0.0])
@example(row=[20.0, 0.0])
@quick
def test_jacobian_norms_are_those_of_the_derivative_of_softmax(row):
    logits = torch.tensor(row, dtype=torch.float64)
    derivative = jacobian(lambda z: z.softmax(0), logits)
    found = figures(attention_of(logits.softmax(0).tolist(), row))
    assert found["jacobian_norm"] == pytest.approx(
        float(torch.linalg.matrix_norm(derivative)), rel=1e-6, abs=1e-15
    )
    assert found["jacobian_spectral"] == pytest.approx(
        float(torch.linalg.eigvalsh(derivative)[-1]), abs=1e-12
    )
    bound = max(a * (1 - a) for a in logits.softmax(0).tolist())
    assert bound - 1e-12 <= found["jacobian_spectral"] <= min(2 * bound, 0.5) + 1e-12


@pytest.mark.parametrize("patches", [1, 2, N, 49])
def test_uniform_and_one_hot_weights_have_jacobians_known_by_hand(patches):
    uniform, one_hot = (
        figures(attention_of([1 / patches] * patches)),
        figures(attention_of([0.0] * (patches - 1) + [1.0])),
    )
    assert uniform["jacobian_norm"] == close(math.sqrt(patches - 1) / patches)
    assert uniform["jacobian_spectral"] == close(1 / patches if patches > 1 else 0)
    assert one_hot["jacobian_norm"] == close(0) and one_hot["jacobian_spectral"] == close(0)


FROZEN = {  # the factor from score to logit, by hand
    "none": (scaling.none, lambda s: 1),
    "inv_sqrt_d": (scaling.inv_sqrt_d, lambda s: 1 / math.sqrt(D)),
    "inv_d": (scaling.inv_d, lambda s: 1 / D),
    "temperature": (partial(scaling.temperature, tau=0.3), lambda s: 1 / 0.3),
    "log_n": (scaling.log_n, lambda s: math.log(N, 512) / math.sqrt(D)),
    "ssmax": (scaling.ssmax, lambda s: 0.43 * math.log(N)),
    "zscore": (partial(scaling.zscore, tau=2.0), lambda s: 1 / (2 * pstdev(s))),
    "minmax": (partial(scaling.minmax, tau=1.0), lambda s: 1 / (max(s) - min(s))),
}


@pytest.mark.parametrize("name", FROZEN)
def test_gradient_norm_is_what_reaches_a_raw_score(name):
    """By autograd through the scaling; those that measure the scores take their factor as given."""
    scale, factor = FROZEN[name]
    chance = torch.Generator().manual_seed(5)
    query, keys = (torch.randn(1, n, D, generator=chance, dtype=torch.float64) for n in (1, N))
    attention = attend(query, keys, scaling=scale)
    beta = factor(attention.scores.flatten().tolist())

    def weights(scores: Tensor) -> Tensor:
        if name in ("zscore", "minmax"):
            return (beta * scores).softmax(0)
        axis = torch.eye(1, D, dtype=torch.float64)
        return scale(Scores(axis[None], (scores[:, None] * axis)[None])).softmax(-1).flatten()

    derivative = jacobian(weights, attention.scores.flatten())
    assert figures(attention)["gradient_norm"] == close(float(torch.linalg.matrix_norm(derivative)))


@given(first=logit_rows, second=st.lists(st.integers(0, 3).map(float), min_size=9, max_size=9))
@quick
def test_rank_correlation_is_that_of_scipy_with_ties(first, second):
    second = second[: len(first)]
    attention = Attention(
        *(torch.tensor([[row]], dtype=torch.float64) for row in (first, second, first)),
        torch.zeros(1, len(first), 1),
    )
    constant = max(first) == min(first) or max(second) == min(
        second
    )  # scipy gives NaN; here no order is lost
    assert figures(attention)["rank_correlation"] == close(
        1.0 if constant else spearmanr(first, second).statistic
    )


@pytest.mark.parametrize("name", scaling.__all__)
def test_only_cosine_changes_the_ranks(name):
    chance = torch.Generator().manual_seed(0)
    query, keys = (torch.randn(B, n, D, generator=chance, dtype=torch.float64) for n in (Q, 49))
    correlation = diagnose_attention(attend(query, keys, scaling=getattr(scaling, name)))["rank_correlation"]
    assert ((correlation > 1 - 1e-12) == (name != "cosine")).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("patches", [N, 7, 49])
def test_uniform_attention_prefers_no_patch(patches, dtype):
    constant = torch.full((1, patches, D), 0.1, dtype=dtype)
    found = figures(attend(constant[:, :1], constant))
    expected = {
        "entropy_share": 1,
        "gini": 0,
        "above_uniform": 0,
        "kl_uniform": 0,
        "dead": 1,
        "saturated": 0,
        "max_times_uniform": 1,
    }
    expected |= {"perplexity": patches, "effective_patches": patches, "margin": 0, "rank_correlation": 1}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_one_hot_attention_prefers_one_patch():
    found = figures(attention_of([0.0, 0.0, 1.0, 0.0, 0.0]))
    expected = {
        "entropy": 0,
        "perplexity": 1,
        "entropy_share": 0,
        "effective_patches": 1,
        "gini": 0.8,
        "kl_uniform": math.log(5),
    }
    expected |= {"max_times_uniform": 5, "above_uniform": 1, "saturated": 1, "dead": 0, "top_1_percent": 1}
    assert {name: found[name] for name in expected} == close(expected)
    assert math.copysign(1, found["entropy"]) == 1  # 0, not -0


@pytest.mark.parametrize("patches, constant", [(1, -1e4), (N, 0.1)])
@pytest.mark.parametrize("name", scaling.__all__)
def test_no_diagnostic_of_a_constant_map_or_a_single_patch_is_nan(name, constant, patches):
    keys = torch.full((B, patches, D), constant)
    for values in diagnose_attention(
        attend(torch.full((B, Q, D), 0.7), keys, scaling=getattr(scaling, name))
    ).values():
        assert values.shape == (B, Q) and values.dtype == torch.float64 and values.isfinite().all()


@pytest.mark.parametrize("weight, saturated", [(0.985, 0), (0.995, 1)])
def test_attention_is_saturated_beyond_99_percent_on_one_patch(weight, saturated):
    assert figures(attention_of([1 - weight, weight]))["saturated"] == saturated


def test_a_patch_of_weight_zero_counts_for_nothing_in_the_entropy():
    assert figures(attention_of([0.5, 0.5, 0.0]))["entropy"] == close(math.log(2))


def test_top_shares_are_of_one_patch_at_least_and_of_a_hundred_patches_one_five_and_ten():
    few, many = (
        figures(attention_of([0.1, 0.7, 0.2])),
        figures(attention_of([n / 5050 for n in range(1, 101)])),
    )
    assert [few[f"top_{p}_percent"] for p in (1, 5, 10)] == close([0.7] * 3)
    assert [many[f"top_{p}_percent"] for p in (1, 5, 10)] == close([100 / 5050, 490 / 5050, 955 / 5050])


@pytest.mark.parametrize("sigma", [0.25, 0.5, 0.75, 1.0])
def test_attention_to_gaussian_scores_spreads_over_n_exp_minus_half_the_variance(sigma):
    scores = torch.randn(32, 784, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = diagnose_attention(
        attend(
            torch.ones(32, 1, 1, dtype=torch.float64), scores, scaling=partial(scaling.zscore, tau=1 / sigma)
        )
    )
    assert found["sigma_eff"].flatten().tolist() == close([sigma] * 32)
    assert fmean(found["perplexity"].flatten().tolist()) == pytest.approx(
        784 * math.exp(-(sigma**2) / 2), rel=0.02
    )


@pytest.mark.parametrize("patches, sigma", GOLDEN["freezing"])
def test_attention_freezes_on_single_patches_beyond_the_freezing_point(patches, sigma):
    assert freezing_point(patches) == pytest.approx(sigma, abs=0.005)
    scores = torch.randn(16, patches, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for times, few in ((0.4, False), (2.0, True)):
        frozen = partial(scaling.zscore, tau=1 / (times * sigma))
        found = diagnose_attention(attend(torch.ones(16, 1, 1, dtype=torch.float64), scores, scaling=frozen))
        assert (fmean(found["effective_patches"].flatten().tolist()) < 3) == few


@given(row=logit_rows.filter(lambda row: max(row) > min(row)))
@quick
def test_gini_and_concentration_grow_as_attention_cools(row):
    warm, cool = (
        figures(attention_of(torch.tensor(row, dtype=torch.float64).div(tau).softmax(0).tolist()))
        for tau in (2, 1)
    )
    assert cool["gini"] > warm["gini"] and cool["kl_uniform"] > warm["kl_uniform"]
    assert (
        cool["effective_patches"] < warm["effective_patches"]
        and cool["top_1_percent"] > warm["top_1_percent"]
    )
