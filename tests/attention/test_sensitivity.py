"""The closed forms against autograd through the functions themselves, differences, and plain matrices."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import jacobian

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import weigh
from attnvis.attention.jacobian import NormaliserJacobian, diagonal, frobenius_norm, largest_eigenvalue
from attnvis.attention.sensitivity import MOST_PATCHES, sensitivity, sensitivity_of_settings
from attnvis.types import Scores

B, Q, N, D = 2, 3, 11, 7  # different primes: a transposed axis cannot pass unnoticed
SCALINGS = {
    **{name: getattr(scaling, name) for name in scaling.__all__},
    "temperature:0.3": partial(scaling.temperature, tau=0.3),
    "zscore:0.5": partial(scaling.zscore, tau=0.5),
    "robust_z:2": partial(scaling.robust_z, tau=2.0),
    "minmax:1": partial(scaling.minmax, tau=1.0),
    "perplexity:3": partial(scaling.perplexity, target=3.0),
    "perplexity:0.5": partial(scaling.perplexity, target=0.5),
}
NORMALISERS = {
    **{name: getattr(normalise, name) for name in normalise.__all__},
    "sigmoid:0.5": partial(normalise.sigmoid, bias=0.5),
    "top_k:4": partial(normalise.top_k, k=4),
    "power:3": partial(normalise.power, p=3.0),
    "power:1.5": partial(normalise.power, p=1.5),
}


def random_scores(patches: int = N, size: float = 1.0, seed: int = 0) -> Scores:
    chance = torch.Generator().manual_seed(seed)
    query, keys = (torch.randn(B, n, D, generator=chance, dtype=torch.float64) for n in (Q, patches))
    return Scores(size * query, keys)


def numbers_of(scores: Scores, scale, normaliser) -> dict[str, Tensor]:
    attention = weigh(scores, scores.keys, scaling=scale, normalise=normaliser)
    return sensitivity(scores, attention.logits, attention.weights, scaling=scale, normalise=normaliser)


def alone(scores: Scores, photo: int, column: int) -> Scores:
    return Scores(scores.query[photo : photo + 1, column : column + 1], scores.keys[photo : photo + 1])


class Products(Scores):
    """Scores whose dot products are given."""

    products = None

    def __init__(self, scores: Scores, products: Tensor) -> None:
        super().__init__(scores.query, scores.keys)
        object.__setattr__(self, "products", products)


def scale_alone(scale, scores: Scores):
    """One photo's and one query's raw scores [N] -> logits [N]."""
    return lambda products: scale(Products(scores, products.view(1, 1, -1))).flatten()


def normalise_alone(normaliser):
    """One photo's and one query's logits [N] -> weights [N]."""
    return lambda logits: normaliser(logits.view(1, 1, -1)).flatten()


def central_differences(function, at: Tensor, step: float = 1e-5) -> Tensor:
    """d outputs / d inputs, of fourth order."""
    columns = []
    for index in range(len(at)):
        shift = torch.zeros_like(at)
        shift[index] = step
        near = function(at + shift) - function(at - shift)
        far = function(at + 2 * shift) - function(at - 2 * shift)
        columns.append((8 * near - far) / (12 * step))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("patches", [2, N, 12])  # odd and even: a median of one value, and of two
@pytest.mark.parametrize("name", SCALINGS)
def test_what_reaches_a_raw_score_is_what_autograd_says(name, patches):
    """Under every normaliser; autograd does not see through the bisection of perplexity: differences do."""
    scores = random_scores(patches)
    numbers = {text: numbers_of(scores, SCALINGS[name], NORMALISERS[text]) for text in NORMALISERS}
    for photo, column in ((0, 1), (1, 2)):
        one = alone(scores, photo, column)
        raw = one.products.flatten()
        scaled = scale_alone(SCALINGS[name], one)
        differentiate = central_differences if name.startswith("perplexity") else jacobian
        inner = differentiate(scaled, raw).nan_to_num(0.0)  # of a constant
        logits = scaled(raw)
        # where scaling undoes nearly all of a change, as with two patches, what is left is rounding
        rounding = 1e-7 * float(logits.std() / raw.std())
        for text, normaliser in NORMALISERS.items():
            outer = jacobian(normalise_alone(normaliser), logits).nan_to_num(0.0)
            size = float(torch.linalg.matrix_norm(outer))
            largest = float(torch.linalg.eigvals(outer).real.max())
            expected = float(torch.linalg.matrix_norm(outer @ inner))
            found = {key: values[photo, column].item() for key, values in numbers[text].items()}
            assert found["gradient_norm"] == pytest.approx(expected, rel=1e-6, abs=size * rounding + 1e-12), (
                text
            )
            assert found["jacobian_norm"] == pytest.approx(size, rel=1e-9, abs=1e-12), text
            assert found["jacobian_spectral"] == pytest.approx(largest, rel=1e-9, abs=1e-8), text


def test_plain_softmax_sparsemax_and_entmax_have_the_matrix_of_the_review():
    """diag(u) - u u^T / sum(u), u = a^(2 - alpha) on the support: written out."""
    scores = random_scores()
    for normaliser, alpha in ((normalise.softmax, 1), (normalise.entmax15, 1.5), (normalise.sparsemax, 2)):
        weights = normaliser(scores.products)
        norms = numbers_of(scores, scaling.none, normaliser)["gradient_norm"]
        for photo, column in product(range(B), range(Q)):
            u = [a ** (2 - alpha) if a > 0 else 0.0 for a in weights[photo, column].tolist()]
            squares = [(x * (i == j) - x * y / sum(u)) ** 2 for i, x in enumerate(u) for j, y in enumerate(u)]
            assert norms[photo, column].item() == pytest.approx(math.sqrt(math.fsum(squares)), rel=1e-12)


@pytest.mark.parametrize("gap", [1.0, 10.0, 20.0, 40.0, 300.0])
def test_what_is_left_of_a_nearly_one_hot_attention_is_exact(gap):
    """Two patches and a gap g under softmax: 2 p (1 - p) = 2 e^-g / (1 + e^-g)^2."""
    logits = torch.tensor([[[gap, 0.0]]], dtype=torch.float64)
    weights = logits.softmax(-1)
    norm = frobenius_norm(NormaliserJacobian(weights, shares=weights))
    assert norm.item() == pytest.approx(2 * math.exp(-gap) / (1 + math.exp(-gap)) ** 2, rel=1e-12, abs=0)


@pytest.mark.parametrize("patches", [1, 2, 5, 49])
def test_uniform_and_one_hot_weights_have_jacobians_known_by_hand(patches):
    keys = torch.zeros(1, patches, 1, dtype=torch.float64)
    uniform = numbers_of(Scores(torch.ones_like(keys[:, :1]), keys), scaling.none, normalise.softmax)
    assert uniform["jacobian_norm"].item() == pytest.approx(math.sqrt(patches - 1) / patches, abs=1e-12)
    assert uniform["jacobian_spectral"].item() == pytest.approx(1 / patches if patches > 1 else 0, abs=1e-12)
    keys = keys.clone()
    keys[:, -1] = 1e4
    one_hot = numbers_of(Scores(torch.ones_like(keys[:, :1]), keys), scaling.none, normalise.softmax)
    assert [values.item() for values in one_hot.values()] == pytest.approx([0.0] * 3, abs=1e-12)


@pytest.mark.parametrize("name", NORMALISERS)
@pytest.mark.parametrize("scale", SCALINGS)
def test_no_gradient_of_a_constant_map_is_nan(scale, name):
    for constant, patches in ((-1e4, 1), (0.1, 5)):
        keys = torch.full((B, patches, D), constant)
        scores = Scores(torch.full((B, Q, D), 0.7), keys)
        for values in numbers_of(scores, SCALINGS[scale], NORMALISERS[name]).values():
            assert values.shape == (B, Q) and values.dtype == torch.float64 and values.isfinite().all()


def test_settings_together_are_each_alone_and_single_precision_is_near_double():
    scores = random_scores()
    pairs = list(product(SCALINGS.values(), NORMALISERS.values()))[::7]
    single = Scores(scores.query.float(), scores.keys.float())
    for these, tolerance in ((scores, 1e-12), (single, 2e-3)):
        logits = [scale(these) for scale, _ in pairs]
        weights = [normaliser(part) for part, (_, normaliser) in zip(logits, pairs, strict=True)]
        together = sensitivity_of_settings(these, torch.cat(logits), torch.cat(weights), pairs)
        for name, values in together.items():
            expected = torch.cat([numbers_of(scores, *pair)[name] for pair in pairs])
            torch.testing.assert_close(values, expected, rtol=tolerance, atol=tolerance)


@given(row=st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=2, max_size=9))  # ties are common
@example(row=[2.0, 2.0, -1.0])
@example(row=[1.0, 1.0, 1.0, 1.0])
@example(row=[60.0, 0.0, 0.0])
@example(row=[20.0, 0.0])
@settings(deadline=None, derandomize=True, max_examples=25)
def test_jacobian_norms_are_those_of_the_derivative_of_softmax(row):
    logits = torch.tensor(row, dtype=torch.float64)
    derivative = jacobian(lambda z: z.softmax(0), logits)
    scores = Scores(torch.ones(1, 1, 1, dtype=torch.float64), logits.view(1, -1, 1))
    found = {
        name: values.item() for name, values in numbers_of(scores, scaling.none, normalise.softmax).items()
    }
    norm = float(torch.linalg.matrix_norm(derivative))
    assert found["jacobian_norm"] == pytest.approx(norm, rel=1e-6, abs=1e-15)
    largest = float(torch.linalg.eigvalsh(derivative)[-1])
    assert found["jacobian_spectral"] == pytest.approx(largest, abs=1e-12)
    bound = max(a * (1 - a) for a in logits.softmax(0).tolist())
    assert bound - 1e-12 <= found["jacobian_spectral"] <= min(2 * bound, 0.5) + 1e-12


def dense(normaliser: NormaliserJacobian) -> Tensor:
    """diag(gains) - shares gains^T, written out."""
    gains, shares = normaliser.gains, normaliser.shares
    return torch.diag_embed(gains) - shares.unsqueeze(-1) * gains.unsqueeze(-2)


def symmetric(normaliser: NormaliserJacobian) -> Tensor:
    """diag(gains) - r r^T with r^2 = gains shares: the eigenvalues of `dense`, for eigvalsh."""
    root = (normaliser.gains * normaliser.shares).sqrt()
    return torch.diag_embed(normaliser.gains) - root.unsqueeze(-1) * root.unsqueeze(-2)


extreme = st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 20.0, 700.0, 1e4])


@given(
    rows=st.lists(st.lists(st.integers(-4, 4), min_size=6, max_size=6), min_size=1, max_size=5),
    size=extreme,
    patches=st.integers(1, 6),
    name=st.sampled_from(["softmax", "entmax15", "sparsemax", "sigmoid", "top_k:4", "power:3"]),
)
@example(rows=[[4, 4, 4, 4, 4, 4]], size=1.0, patches=6, name="softmax")
@example(rows=[[4, 0, 0, 0, 0, 0], [4, 4, 0, 0, 0, 0]], size=20.0, patches=6, name="softmax")
@example(rows=[[1, 0, 0, 0, 0, 0]], size=1e-9, patches=6, name="softmax")
@settings(deadline=None, derandomize=True, max_examples=150)
def test_the_closed_forms_are_those_of_the_matrix_written_out(rows, size, patches, name):
    """Ties, one patch, one-hot and flat rows, each beside others that need more steps."""
    logits = size * torch.tensor(rows, dtype=torch.float64)[:, None, :patches]
    function, settings_of = normalise_parts(NORMALISERS[name])
    normaliser = normalise.DERIVATIVES[function](logits, NORMALISERS[name](logits), **settings_of)
    scale = max(1.0, float(normaliser.gains.max()))
    eigenvalues = torch.linalg.eigvalsh(symmetric(normaliser))[..., -1].clamp_min(0)
    torch.testing.assert_close(largest_eigenvalue(normaliser), eigenvalues, rtol=0, atol=1e-14 * scale)
    norms = torch.linalg.matrix_norm(dense(normaliser))
    torch.testing.assert_close(frobenius_norm(normaliser), norms, rtol=1e-12, atol=1e-15 * scale)
    factors = 0.1 + torch.arange(patches, dtype=torch.float64).expand_as(logits)
    scaled = torch.linalg.matrix_norm(dense(normaliser) * factors.unsqueeze(-2))
    known = frobenius_norm(normaliser, diagonal(factors))
    torch.testing.assert_close(known, scaled, rtol=1e-12, atol=1e-14 * scale)


def normalise_parts(normaliser):
    """A normaliser without its settings, and these."""
    return (normaliser.func, normaliser.keywords) if isinstance(normaliser, partial) else (normaliser, {})


@pytest.mark.parametrize("left", [1e-2, 1e-5, 1e-8, 1e-12])
def test_the_eigenvalue_of_nearly_one_hot_weights_is_exact_beside_its_pole(left):
    """Three patches 1 - 2 e, e, e: the vector (0, 1, -1) has e, and (2, -1, -1) has 3 e (1 - 2 e)."""
    weights = torch.tensor([[1 - 2 * left, left, left]], dtype=torch.float64)
    found = largest_eigenvalue(NormaliserJacobian(weights, shares=weights))
    assert found.item() == pytest.approx(max(left, 3 * left * (1 - 2 * left)), abs=1e-15)


def test_a_row_that_is_not_a_number_stays_none_and_leaves_its_neighbours():
    weights = torch.tensor([[0.5, 0.3, 0.2], [torch.nan, 0.3, 0.2]], dtype=torch.float64)
    normaliser = NormaliserJacobian(weights, shares=weights)
    for function in (largest_eigenvalue, frobenius_norm):
        both = function(normaliser)
        assert both[1].isnan() and both[0].isfinite()
        assert torch.equal(both[:1], function(NormaliserJacobian(weights[:1], shares=weights[:1])))


# Functions from elsewhere


def root(scores: Scores, power: float = 0.5) -> Tensor:
    return scores.products.sign() * scores.products.abs() ** power


def squares(logits: Tensor) -> Tensor:
    return logits**2 / (logits**2).sum(-1, keepdim=True)


@pytest.mark.parametrize("scale", [root, partial(root, power=0.7), scaling.zscore, scaling.perplexity])
@pytest.mark.parametrize("normaliser", [squares, normalise.softmax, normalise.relu])
def test_a_function_of_your_own_needs_no_derivative(scale, normaliser):
    scores = random_scores()
    with torch.inference_mode():  # as in a run
        numbers = numbers_of(scores, scale, normaliser)
    for photo, column in product(range(B), range(Q)):
        one = alone(scores, photo, column)
        scaled = scale_alone(scale, one)

        def weights(products: Tensor, scaled=scaled) -> Tensor:
            return normaliser(scaled(products).view(1, 1, -1)).flatten()

        derivative = central_differences(weights, one.products.flatten(), step=1e-6)
        expected = float(torch.linalg.matrix_norm(derivative))
        assert numbers["gradient_norm"][photo, column].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert numbers["jacobian_spectral"].isnan().all() == (normaliser is squares)
    assert numbers["jacobian_norm"].isfinite().all()


def through_numpy(scores: Scores) -> Tensor:
    return torch.from_numpy(scores.products.numpy() * 2)


def past_the_products(scores: Scores) -> Tensor:
    return scores.query @ scores.keys.mT


@pytest.mark.parametrize("scale", [through_numpy, past_the_products])
def test_what_autograd_cannot_see_is_nan_and_never_a_number(scale):
    numbers = numbers_of(random_scores(), scale, normalise.softmax)
    assert numbers["gradient_norm"].isnan().all() and numbers["gradient_norm"].shape == (B, Q)
    assert numbers["jacobian_norm"].isfinite().all(), "softmax is known whatever scales"


def test_a_function_of_your_own_is_not_differentiated_beyond_so_many_patches():
    known = numbers_of(random_scores(MOST_PATCHES + 1), scaling.zscore, normalise.sparsemax)
    assert all(values.isfinite().all() for values in known.values())
    for scale, normaliser in ((root, normalise.softmax), (scaling.none, squares)):
        unknown = numbers_of(random_scores(MOST_PATCHES + 1), scale, normaliser)
        assert unknown["gradient_norm"].isnan().all()


def test_every_scaling_and_normaliser_of_ours_carries_its_derivative():
    assert set(scaling.DERIVATIVES) == {getattr(scaling, name) for name in scaling.__all__}
    assert set(normalise.DERIVATIVES) == {getattr(normalise, name) for name in normalise.__all__}
