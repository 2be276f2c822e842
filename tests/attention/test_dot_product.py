"""Attention against plain loops, the goldens, and identities of a class query on GAP + linear."""

import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from torch import Tensor

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import attend, gamma_pooled, weigh
from attnvis.backbone.heads import Linear
from attnvis.types import Attention, Scores

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())
B, Q, N, D, E, C = 2, 3, 5, 7, 11, 13  # different primes: a transposed axis cannot pass unnoticed
quick = settings(deadline=None, derandomize=True, max_examples=20)
close = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


def golden(*path: str) -> Tensor:
    figures = GOLDEN
    for name in path:
        figures = figures[name]
    return torch.tensor(figures, dtype=torch.float64)


def plain(query: Tensor, keys: Tensor, values: Tensor) -> Attention:
    """Scaled dot-product attention, one number at a time."""
    scores, weights = torch.zeros(2, B, Q, N, dtype=torch.float64)
    for b in range(B):
        for q in range(Q):
            for i in range(N):
                scores[b, q, i] = math.fsum(x * y for x, y in zip(query[b, q].tolist(), keys[b, i].tolist()))
            powers = [math.exp(s / math.sqrt(query.shape[-1])) for s in scores[b, q].tolist()]
            weights[b, q] = torch.tensor([p / math.fsum(powers) for p in powers], dtype=torch.float64)
    return Attention(scores, scores / math.sqrt(query.shape[-1]), weights, values)


def parts(attention: Attention) -> dict[str, Tensor]:
    names = ("scores", "logits", "weights", "weighted", "context", "reinjected", "times_uniform")
    return {name: getattr(attention, name) for name in names}


def test_attention_with_values_of_its_own_is_its_definition_in_plain_loops():
    query, keys, values = normal(B, Q, D), normal(B, N, D, seed=1), normal(B, N, E, seed=2)
    attention, expected = attend(query, keys, values), plain(query, keys, values)
    for name in ("scores", "logits", "weights"):
        close(getattr(attention, name), getattr(expected, name))
    for b in range(B):
        for q in range(Q):
            rows = [[expected.weights[b, q, i] * values[b, i, e] for e in range(E)] for i in range(N)]
            close(attention.weighted[b, q], torch.tensor(rows, dtype=torch.float64))
            close(
                attention.context[b, q],
                torch.tensor([math.fsum(column) for column in zip(*rows)], dtype=torch.float64),
            )


def test_attention_agrees_with_that_of_torch():
    query, keys, values = normal(B, Q, D), normal(B, N, D, seed=1), normal(B, N, E, seed=2)
    close(
        attend(query, keys, values).context,
        torch.nn.functional.scaled_dot_product_attention(query, keys, values),
    )


@pytest.mark.parametrize(
    "case", GOLDEN["G1"]["scalings"], ids=lambda g: f"{g['scaling']} {g['settings'] or ''}"
)
def test_attention_gives_the_golden_weights_and_context(case):
    scale = partial(getattr(scaling, case["scaling"]), **case["settings"])
    attention = attend(golden("G1", "query")[None, None], golden("G1", "values")[None], scaling=scale)
    close(attention.scores[0, 0], golden("G1", "scores"))
    close(attention.weights[0, 0], torch.tensor(case["weights"], dtype=torch.float64))
    close(attention.context[0, 0], torch.tensor(case["context"], dtype=torch.float64))


def test_a_linear_key_map_is_a_change_of_query():
    values, key_map = golden("G1", "values")[None], golden("G2", "key_map")
    query, keys = golden("G2", "query")[None, None], values @ key_map
    close(keys[0], golden("G2", "keys"))
    attention = attend(query, keys, values)
    close(attention.scores[0, 0], golden("G2", "scores"))
    close(attention.weights[0, 0], golden("G2", "weights"))
    close(attention.context[0, 0], golden("G2", "context"))
    same = attend(
        golden("G2", "equivalent_query")[None, None],
        values,
        scaling=partial(scaling.temperature, tau=math.sqrt(2)),
    )
    close(query @ key_map.T, golden("G2", "equivalent_query")[None, None])
    close(same.weights, attention.weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_are_the_values_unless_told_otherwise(dtype):
    keys = normal(B, N, D).to(dtype)
    assert attend(normal(B, Q, D).to(dtype), keys).values.data_ptr() == keys.data_ptr()


def test_a_sweep_over_scalings_computes_its_scores_once():
    query, keys, values = normal(B, Q, D), normal(B, N, D, seed=1), normal(B, N, E, seed=2)
    scores = Scores(query, keys)
    for scale in (scaling.none, scaling.cosine, scaling.zscore):
        swept, fresh = (
            weigh(scores, values, scale, normalise.sparsemax),
            attend(query, keys, values, scale, normalise.sparsemax),
        )
        assert swept.scores is scores.products
        for name, tensor in parts(fresh).items():
            assert torch.equal(getattr(swept, name), tensor)


@pytest.mark.parametrize("shape", [(B, Q, N), (1, 1, 1), (B, 1, N), (1, Q, 1)])
@pytest.mark.parametrize("name", normalise.__all__)
def test_every_stage_is_kept_and_the_weighted_rows_add_up_to_the_context(shape, name):
    b, q, n = shape
    attention = attend(
        normal(b, q, D), normal(b, n, D, seed=1), normal(b, n, E, seed=2), normalise=getattr(normalise, name)
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in parts(attention).items()}
    assert shapes["scores"] == shapes["logits"] == shapes["weights"] == shapes["times_uniform"] == (b, q, n)
    assert shapes["weighted"] == shapes["reinjected"] == (b, q, n, E) and shapes["context"] == (b, q, E)
    assert torch.equal(attention.weights, getattr(normalise, name)(attention.logits))
    close(attention.weighted.sum(2), attention.context)
    close(attention.reinjected.mean(2), attention.context)
    close(attention.times_uniform.mean(-1), torch.ones(b, q, dtype=torch.float64))


def test_reinjected_map_through_the_classifier_is_the_classified_context():
    head = Linear(normal(C, E, seed=3), normal(C, seed=4))
    attention = attend(normal(B, Q, D), normal(B, N, D, seed=1), normal(B, N, E, seed=2))
    for b in range(B):
        for q in range(Q):
            by_hand = [
                math.fsum(w * x for w, x in zip(row, attention.context[b, q].tolist())) + bias
                for row, bias in zip(head.weight.tolist(), head.bias.tolist())
            ]
            close(head(attention.reinjected.mean(2))[b, q], torch.tensor(by_hand, dtype=torch.float64))


def test_uniform_attention_changes_neither_features_nor_logits():
    head, values = Linear(normal(C, E, seed=3), normal(C, seed=4)), normal(B, N, E, seed=2)
    attention = attend(torch.zeros(B, Q, D, dtype=torch.float64), normal(B, N, D, seed=1), values)
    close(attention.reinjected, values.unsqueeze(1).expand(B, Q, N, E))
    logits = torch.nn.functional.linear(values.mean(1), head.weight, head.bias)
    close(head(attention.context), logits.unsqueeze(1).expand(B, Q, C))


def test_patches_may_be_renamed():
    query, keys, values, order = (
        normal(B, Q, D),
        normal(B, N, D, seed=1),
        normal(B, N, E, seed=2),
        torch.tensor([3, 0, 4, 1, 2]),
    )
    before, after = attend(query, keys, values), attend(query, keys[:, order], values[:, order])
    close(after.weights, before.weights[..., order])
    close(after.context, before.context)


def test_shuffling_the_keys_among_the_patches_destroys_localisation():
    """The control that every picture needs: planted objects are found.

    And they are lost where keys and patches no longer belong together.
    """
    patches, photos = 49, 40
    background = 0.1 * normal(photos, patches, D)
    planted = torch.arange(photos) % patches
    features = background.index_put((torch.arange(photos), planted), torch.ones(D, dtype=torch.float64))
    query = torch.ones(photos, 1, D, dtype=torch.float64)
    shuffled = features[:, torch.randperm(patches, generator=torch.Generator().manual_seed(1))]
    found, lost = (attend(query, keys, features, scaling.none).weights[:, 0] for keys in (features, shuffled))
    assert (found.argmax(-1) == planted).all()
    assert found.gather(1, planted[:, None]).min() > 0.7
    assert (lost.argmax(-1) == planted).sum() <= 3
    context = attend(query, shuffled, features, scaling.none).context[:, 0]
    assert (
        context.mean()
        < 0.2
        < 0.7
        < attend(query, features, scaling=scaling.none).context[:, 0].mean(-1).min()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_features_are_attended_in_single_precision(dtype, autocast):
    query, keys = (4 * normal(B, Q, D)).to(dtype), (4 * normal(B, N, D, seed=1)).to(dtype)
    expected = plain(query.double(), keys.double(), keys.double())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        attention = attend(query, keys)
        results = parts(attention)
    for name, tensor in results.items():
        assert tensor.dtype == torch.float32, name
        torch.testing.assert_close(tensor.double(), getattr(expected, name), rtol=1e-5, atol=2e-5, msg=name)


def test_autocast_does_not_touch_single_precision_features():
    query, keys = normal(B, Q, D).float(), normal(B, N, D, seed=1).float()
    outside = parts(attend(query, keys))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = parts(attend(query, keys))
    for name, tensor in outside.items():
        assert torch.equal(inside[name], tensor), name


def test_double_precision_stays_double():
    assert {tensor.dtype for tensor in parts(attend(normal(B, Q, D), normal(B, N, D))).values()} == {
        torch.float64
    }


@pytest.mark.parametrize("name", scaling.__all__)
def test_a_zero_patch_and_huge_scores_leave_attention_finite(name):
    keys = 1e4 * normal(B, N, D, seed=1).float()
    keys[:, 2] = 0
    for query in (normal(B, Q, D).float(), torch.zeros(B, Q, D)):
        attention = attend(query, keys, scaling=getattr(scaling, name))
        assert all(tensor.isfinite().all() for tensor in parts(attention).values())
        torch.testing.assert_close(attention.weights.sum(-1), torch.ones(B, Q))


@pytest.mark.parametrize("name", [name for name in scaling.__all__ if name != "perplexity"])
def test_a_query_can_learn_through_any_scaling(name):
    query = normal(B, Q, D).requires_grad_()
    attend(query, normal(B, N, D, seed=1), scaling=getattr(scaling, name)).context.square().sum().backward()
    assert query.grad.isfinite().all() and query.grad.abs().max() > 1e-6


class_scores = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=2, max_size=9).filter(
    lambda s: max(s) > min(s)
)


def class_logit(scores: list[float], tau: float, bias: float = 0.25) -> float:
    """Of the context that a class query attends to.

    Patches whose evidence for the class are `scores`, weight row e_1.
    """
    keys = torch.zeros(1, len(scores), D, dtype=torch.float64)
    keys[0, :, 0] = torch.tensor(scores)
    head = Linear(torch.eye(1, D, dtype=torch.float64), torch.tensor([bias], dtype=torch.float64))
    return float(head(attend(head.weight[None], keys, scaling=partial(scaling.temperature, tau=tau)).context))


@given(scores=class_scores, tau=st.floats(0.1, 10), warmer=st.floats(1.01, 10))
@quick
def test_class_attention_never_lowers_its_own_logit(scores, tau, warmer):
    mean = math.fsum(scores) / len(scores) + 0.25
    assert class_logit(scores, tau) >= class_logit(scores, tau * warmer) - 1e-10 >= mean - 2e-10


@given(scores=class_scores)
@quick
def test_class_logit_runs_from_the_best_patch_to_the_mean_patch(scores):
    assert class_logit(scores, 1e-6) == pytest.approx(max(scores) + 0.25, abs=1e-10)
    assert class_logit(scores, 1e9) == pytest.approx(math.fsum(scores) / len(scores) + 0.25, abs=1e-7)


@given(scores=class_scores, beta=st.floats(0.1, 4))
@quick
def test_class_logit_grows_with_1_over_tau_by_the_attended_variance(scores, beta):
    keys = torch.tensor(scores, dtype=torch.float64)[None, :, None]
    weights = attend(
        torch.ones(1, 1, 1, dtype=torch.float64), keys, scaling=partial(scaling.temperature, tau=1 / beta)
    ).weights
    pairs = list(zip(weights.flatten().tolist(), scores))
    mean = math.fsum(a * s for a, s in pairs)
    variance = math.fsum(a * (s - mean) ** 2 for a, s in pairs)
    step = 1e-5
    slope = (class_logit(scores, 1 / (beta + step)) - class_logit(scores, 1 / (beta - step))) / (2 * step)
    assert slope == pytest.approx(variance, abs=1e-6)


@given(scores=class_scores, tau=st.floats(0.1, 10))
@quick
def test_attention_pooling_lies_between_the_smooth_maximum_and_the_maximum(scores, tau):
    smooth = tau * (logsumexp([s / tau for s in scores]) - math.log(len(scores)))  # Pinheiro & Collobert 2015
    assert math.fsum(scores) / len(scores) <= smooth + 1e-10
    assert smooth - 1e-10 <= class_logit(scores, tau, bias=0.0) <= max(scores) + 1e-10


def test_asking_again_with_the_context_never_raises_the_energy():
    """q <- c(q) descends -logsumexp(beta V q) / beta + |q|^2 / 2 (Ramsauer et al. 2021)."""
    values, query, beta = normal(1, 23, D), normal(1, 1, D, seed=1), 2.0
    energies = []
    for _ in range(12):
        energies.append(
            -logsumexp(beta * (values[0] @ query[0, 0]).numpy()) / beta + float(query.square().sum()) / 2
        )
        query = attend(query, values, scaling=partial(scaling.temperature, tau=1 / beta)).context
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(energies))
    assert energies[-1] < energies[0] - 0.1


def test_gamma_pooling_is_simpools_formula_photo_by_photo():
    """By plain loops; the minimum is the photo's own, whatever else is in the batch."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    values[1] -= 7
    weights = torch.rand(2, 2, 5, generator=generator, dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    for gamma in (0.5, 1.0, 1.25, 2.0, 40.0):
        pooled = gamma_pooled(weights, values, gamma)
        for photo in range(2):
            low = min(float(value) for value in values[photo].flatten())
            for query in range(2):
                for channel in range(3):
                    powers = [(float(values[photo, i, channel]) - low + 1e-6) ** gamma for i in range(5)]
                    total = sum(float(weights[photo, query, i]) * powers[i] for i in range(5))
                    assert float(pooled[photo, query, channel]) == pytest.approx(total ** (1 / gamma))
        torch.testing.assert_close(pooled[1:], gamma_pooled(weights[1:], values[1:], gamma))
    context = weights @ values
    lows = values.amin((1, 2)).view(2, 1, 1)
    torch.testing.assert_close(gamma_pooled(weights, values, 1.0), context - lows + 1e-6)
    with pytest.raises(ValueError, match="gamma must be above 0, not 0"):
        gamma_pooled(weights, values, 0.0)
