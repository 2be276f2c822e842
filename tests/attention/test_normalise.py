"""Normalisers against plain loops, scipy's root finder, the goldens, and axioms that each meets or breaks."""

import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fake_features import eighths
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logsumexp

from attnvis.attention import normalise

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())
B, Q, N = 2, 3, 5
quick = settings(deadline=None, derandomize=True, max_examples=20)
close = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


rows = st.lists(eighths(-4, 4), min_size=2, max_size=9)


def weights_of(function, row: list[float], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return function(torch.tensor([[row]], dtype=dtype))[0, 0]


def shares(amounts: list[float]) -> list[float]:
    return [x / math.fsum(amounts) for x in amounts] if any(amounts) else [1 / len(amounts)] * len(amounts)


def to_unit_sum(row: list[float], amount) -> list[float]:
    """amount(z - threshold), with the threshold at which they sum to 1."""
    threshold = brentq(
        lambda t: math.fsum(amount(z - t) for z in row) - 1, max(row) - 1, max(row), xtol=1e-15, rtol=1e-14
    )
    return [amount(z - threshold) for z in row]


def top(row: list[float], k: int) -> list[float]:
    kept = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    return shares([math.exp(z) if i in kept else 0.0 for i, z in enumerate(row)])


LOOPS = {
    "softmax": (normalise.softmax, lambda row: shares([math.exp(z) for z in row])),
    "sparsemax": (normalise.sparsemax, lambda row: to_unit_sum(row, lambda x: max(x, 0.0))),
    "entmax15": (
        normalise.entmax15,
        lambda row: to_unit_sum([z / 2 for z in row], lambda x: max(x, 0.0) ** 2),
    ),
    "sigmoid": (normalise.sigmoid, lambda row: shares([float(expit(z - math.log(len(row)))) for z in row])),
    "sigmoid, bias 1": (
        partial(normalise.sigmoid, bias=1.0),
        lambda row: shares([float(expit(z + 1)) for z in row]),
    ),
    "top_k": (partial(normalise.top_k, k=3), lambda row: top(row, 3)),
    "relu": (normalise.relu, lambda row: shares([max(z, 0.0) for z in row])),
    "power": (partial(normalise.power, p=3.0), lambda row: shares([max(z, 0.0) ** 3 for z in row])),
}
EVERY = pytest.mark.parametrize("function", [pair[0] for pair in LOOPS.values()], ids=LOOPS)


def only(*names: str):
    return pytest.mark.parametrize("function", [LOOPS[name][0] for name in names], ids=names)


def test_every_normaliser_has_its_definition_here():
    assert {name.split(",")[0] for name in LOOPS} == set(normalise.__all__)


@pytest.mark.parametrize("name", LOOPS)
@given(row=rows)
@quick
def test_normaliser_is_its_definition_in_plain_loops(name, row):
    function, loop = LOOPS[name]
    close(weights_of(function, row), torch.tensor(loop(row), dtype=torch.float64))


@pytest.mark.parametrize(
    "golden",
    GOLDEN["G1"]["normalise"],
    ids=lambda g: f"{g['normalise']}({g['factor']}s) {g['settings'] or ''}",
)
def test_normaliser_gives_the_golden_weights(golden):
    function = partial(getattr(normalise, golden["normalise"]), **golden["settings"])
    row = [golden["factor"] * s for s in GOLDEN["G1"]["scores"]]
    close(weights_of(function, row), torch.tensor(golden["weights"], dtype=torch.float64))


@EVERY
@given(row=rows)
@quick
def test_weights_are_a_distribution_that_keeps_the_order(function, row):
    weights = weights_of(function, row).tolist()
    assert min(weights) >= 0 and math.fsum(weights) == pytest.approx(1, abs=1e-10)
    by_logit = [a for _, a in sorted(zip(row, weights))]
    assert all(low <= high + 1e-12 for low, high in pairwise(by_logit))


@EVERY
def test_normaliser_runs_over_the_patches_of_each_photo_and_query(function):
    logits = torch.randn(B, Q, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    close(function(logits).sum(-1), torch.ones(B, Q, dtype=torch.float64))
    close(
        function(logits),
        torch.stack([torch.stack([weights_of(function, z) for z in image]) for image in logits.tolist()]),
    )
    close(function(logits[..., order]), function(logits)[..., order])


@only("softmax", "sparsemax", "entmax15", "top_k")
@given(row=rows, shift=eighths(-1000, 1000))
@quick
def test_only_differences_of_logits_matter(function, row, shift):
    close(weights_of(function, [z + shift for z in row]), weights_of(function, row))


@only("sigmoid", "relu", "power")
def test_the_origin_of_the_logits_matters_to_gates_and_powers(function):
    assert (weights_of(function, [1.0, 2.0]) - weights_of(function, [2.0, 3.0])).abs().max() > 0.02


@only("softmax", "sparsemax", "entmax15", "sigmoid", "relu", "power")
@given(row=rows)
@quick
def test_equal_logits_share_equally(function, row):
    weights = weights_of(function, [*row, row[0], row[-1]])
    close(weights[[0, -3]], weights[[-2, -1]], atol=1e-12)


@EVERY
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    "row", [[1e4, 9999.5, -1e4, 0.0, 1e4], [-1e4, -9999.5, -2e4, -3e4, -1e4], [1e4] * 5, [-1e4] * 5]
)
def test_logits_of_ten_thousand_still_give_a_distribution(function, dtype, tolerance, row):
    weights = weights_of(function, row, dtype)
    assert weights.isfinite().all() and (weights >= 0).all()
    assert float(weights.double().sum()) == pytest.approx(1, abs=tolerance)


@only("softmax", "sparsemax", "entmax15")
def test_a_large_common_offset_costs_single_precision_nothing(function):
    row = torch.randint(-16, 17, (784,), generator=torch.Generator().manual_seed(0)).div(8).tolist()
    far = weights_of(function, [z + 1024 for z in row], torch.float32)  # exact in float32
    close(far.double(), weights_of(function, row), atol=1e-6)


@EVERY
def test_a_single_patch_has_all_the_weight(function):
    for logit in (-3.0, 0.0, 2.0):
        assert weights_of(function, [logit]).tolist() == [1.0]


@only("softmax", "sparsemax", "entmax15", "sigmoid", "relu", "power")
@pytest.mark.parametrize("constant", [-2.0, 0.0, 0.1, 3.0])
def test_a_constant_map_is_uniform(function, constant):
    close(weights_of(function, [constant] * 49), torch.full((49,), 1 / 49, dtype=torch.float64))


@given(row=rows, others=rows)
@quick
def test_softmax_odds_of_two_patches_are_independent_of_the_rest(row, others):
    alone, among = weights_of(normalise.softmax, row), weights_of(normalise.softmax, row + others)
    assert float(among[0] / among[1]) == pytest.approx(math.exp(row[0] - row[1]), rel=1e-10)
    assert float(alone[0] / alone[1]) == pytest.approx(math.exp(row[0] - row[1]), rel=1e-10)


@given(row=rows, tau=eighths(0.5, 4))
@quick
def test_softmax_is_the_gradient_of_the_smooth_maximum(row, tau):
    """a = grad_s tau logsumexp(s / tau), by central differences of scipy's logsumexp."""
    step = 1e-5
    for i, weight in enumerate(weights_of(normalise.softmax, [s / tau for s in row]).tolist()):
        up, down = (
            tau * logsumexp([(s + sign * step * (j == i)) / tau for j, s in enumerate(row)])
            for sign in (1, -1)
        )
        assert weight == pytest.approx((up - down) / (2 * step), abs=1e-8)


@given(row=rows, other=rows)
@quick
def test_sparsemax_is_the_nearest_point_of_the_simplex(row, other):
    z = torch.tensor(row, dtype=torch.float64)
    # any other distribution
    point = torch.tensor(shares([abs(x) for x in (other * 9)[: len(row)]]), dtype=torch.float64)
    assert (weights_of(normalise.sparsemax, row) - z).norm() <= (point - z).norm() + 1e-12


@given(row=rows)
@quick
def test_sparsemax_keeps_no_patch_that_entmax_drops(row):
    kept = [
        weights_of(function, row) > 0
        for function in (normalise.sparsemax, normalise.entmax15, normalise.softmax)
    ]
    assert (kept[0] <= kept[1]).all() and (kept[1] <= kept[2]).all() and kept[2].all()


@pytest.mark.parametrize("function, gap", [(normalise.sparsemax, 1.0), (normalise.entmax15, 2.0)])
@given(row=rows)
@quick
def test_sparse_attention_is_one_hot_exactly_from_its_gap_on(function, gap, row):
    for lead, one_hot in ((gap, True), (gap + 0.125, True), (gap - 0.125, False)):
        weights = weights_of(function, [*row, max(row) + lead])
        assert (weights[-1] > 1 - 1e-12 and (weights[:-1] < 1e-12).all()) == one_hot


def test_sigmoid_gates_open_to_one_patch_in_all_at_zero():
    """The default bias -ln N: N sigmoid(-ln N) = N / (1 + N), about 1."""
    row = [2.0, -1.0, 0.5, 0.0]
    close(weights_of(normalise.sigmoid, row), weights_of(partial(normalise.sigmoid, bias=-math.log(4)), row))


@given(row=rows, p=eighths(0.125, 4))
@quick
def test_power_of_an_exponential_is_softmax_at_temperature_one_over_p(row, p):
    powered = weights_of(partial(normalise.power, p=p), [math.exp(z) for z in row])
    close(powered, weights_of(normalise.softmax, [p * z for z in row]))


@given(row=rows)
@quick
def test_first_power_is_relu(row):
    close(weights_of(partial(normalise.power, p=1.0), row), weights_of(normalise.relu, row))


@only("relu", "power")
@pytest.mark.parametrize("unit", [1e-20, 1e20])
def test_powers_ignore_the_unit_of_the_logits(function, unit):
    row = [1.0, 2.0, -1.0, 3.0]
    close(
        weights_of(function, [unit * z for z in row], torch.float32),
        weights_of(function, row, torch.float32),
        atol=1e-6,
    )


@only("relu", "power")
def test_where_nothing_is_positive_nothing_is_preferred(function):
    close(weights_of(function, [-3.0, -1.0, 0.0, -2.0]).tolist(), [0.25] * 4)


def test_top_k_keeps_the_first_of_equal_patches():
    row = [0.0] * 3 + [1.0] * 40
    assert weights_of(partial(normalise.top_k, k=5), row).nonzero().flatten().tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("k", [9, 10, 1000])
def test_top_of_all_patches_is_softmax(k):
    row = [0.5, -1.0, 2.0, 2.0, 0.0, 1.0, -3.0, 0.25, 1.0]
    close(weights_of(partial(normalise.top_k, k=k), row), weights_of(normalise.softmax, row))


@pytest.mark.parametrize(
    "function",
    [partial(normalise.top_k, k=0), partial(normalise.power, p=0.0), partial(normalise.power, p=math.nan)],
)
def test_a_setting_without_meaning_is_refused(function):
    with pytest.raises(ValueError, match=r"needs (k of at least 1|p above 0), not"):
        weights_of(function, [1.0, 2.0])


@EVERY
def test_gradients_are_finite_even_where_nothing_stands_out(function):
    for row in ([0.0] * N, [1e4, 0.0, -1e4, 0.0, 0.0], [-1.0] * N):
        logits = torch.tensor([[row]], dtype=torch.float64, requires_grad=True)
        function(logits)[..., 0].sum().backward()
        assert logits.grad.isfinite().all()
