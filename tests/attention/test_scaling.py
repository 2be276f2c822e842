"""Scalings against plain loops, scipy's root finder, the goldens and the symmetries that each must have."""

import json
import math
from functools import partial
from pathlib import Path
from statistics import fmean, median, pstdev

import pytest
import torch
from fake_features import eighths
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import softmax as scipy_softmax

from attnvis.attention import scaling
from attnvis.types import Scores

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())
B, Q, N, D = 2, 3, 5, 7  # different primes: a transposed axis cannot pass unnoticed
quick = settings(deadline=None, derandomize=True, max_examples=20)
close = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


rows = st.lists(eighths(-10, 10), min_size=2, max_size=9)
uneven = rows.filter(lambda row: max(row) > min(row))


def scores_of(row: list[float], dim: int = 1, dtype: torch.dtype = torch.float64) -> Scores:
    """One photo and query whose scores are `row`, whatever the dimension."""
    keys = torch.zeros(1, len(row), dim, dtype=dtype)
    keys[0, :, 0] = torch.tensor(row, dtype=dtype)
    return Scores(torch.eye(dim, dtype=dtype)[:1].unsqueeze(0), keys)


def random_scores(seed: int = 0, patches: int = N, dim: int = D) -> Scores:
    chance = torch.Generator().manual_seed(seed)
    return Scores(*(torch.randn(B, n, dim, generator=chance, dtype=torch.float64) for n in (Q, patches)))


def entropy_of(weights) -> float:
    return -sum(a * math.log(a) for a in weights if a > 0)


def perplexity_of(logits: torch.Tensor) -> float:
    return math.exp(entropy_of(scipy_softmax(logits.flatten().tolist())))


def tau_for(scores: list[float], patches: float) -> float:
    def excess(log_tau: float) -> float:
        powers = [math.exp((s - max(scores)) / math.exp(log_tau)) for s in scores]
        return entropy_of([p / math.fsum(powers) for p in powers]) - math.log(patches)

    return math.exp(brentq(excess, -10, 15, xtol=1e-14, rtol=1e-14))


def length(vector: list[float]) -> float:
    return math.sqrt(math.fsum(x * x for x in vector))


def by_robust_z(s: list[float]) -> list[float]:
    mad = median([abs(x - median(s)) for x in s])
    return [(x - median(s)) / (1.4826 * mad * 0.5) for x in s]


# name: (the scaling with settings of its own, what it does to the scores s of query q with the keys)
LOOPS = {
    "none": (scaling.none, lambda s, q, keys: s),
    "inv_sqrt_d": (scaling.inv_sqrt_d, lambda s, q, keys: [x / D**0.5 for x in s]),
    "inv_d": (scaling.inv_d, lambda s, q, keys: [x / D for x in s]),
    "temperature": (partial(scaling.temperature, tau=0.3), lambda s, q, keys: [x / 0.3 for x in s]),
    "cosine": (
        partial(scaling.cosine, tau=0.2),
        lambda s, q, keys: [x / length(q) / length(k) / 0.2 for x, k in zip(s, keys)],
    ),
    "zscore": (
        partial(scaling.zscore, tau=0.5),
        lambda s, q, keys: [(x - fmean(s)) / (pstdev(s) * 0.5) for x in s],
    ),
    "robust_z": (partial(scaling.robust_z, tau=0.5), lambda s, q, keys: by_robust_z(s)),
    "minmax": (
        partial(scaling.minmax, tau=0.5),
        lambda s, q, keys: [(x - min(s)) / (max(s) - min(s)) / 0.5 for x in s],
    ),
    "log_n": (
        partial(scaling.log_n, base=10.0),
        lambda s, q, keys: [x * math.log10(len(s)) / D**0.5 for x in s],
    ),
    "ssmax": (partial(scaling.ssmax, s=0.7), lambda s, q, keys: [x * 0.7 * math.log(len(s)) for x in s]),
    "perplexity": (
        partial(scaling.perplexity, target=1.8),
        lambda s, q, keys: [(x - max(s)) / tau_for(s, 1.8) for x in s],
    ),
}
EVERY = pytest.mark.parametrize("scale", [pair[0] for pair in LOOPS.values()], ids=LOOPS)
BY_DOT = {name: pair[0] for name, pair in LOOPS.items() if name != "cosine"}
DOT = pytest.mark.parametrize("scale", BY_DOT.values(), ids=BY_DOT)


def test_every_scaling_has_its_definition_here():
    assert set(LOOPS) == set(scaling.__all__)


# an odd and an even count: the median of the even one lies between two patches
@pytest.mark.parametrize("patches", [N, N + 1])
@pytest.mark.parametrize("name", LOOPS)
def test_scaling_is_its_definition_in_plain_loops(name, patches):
    scale, loop = LOOPS[name]
    scores = random_scores(patches=patches)
    for b, image in enumerate(scores.keys.tolist()):
        for i, q in enumerate(scores.query[b].tolist()):
            s = [math.fsum(x * y for x, y in zip(q, k)) for k in image]
            close(scores.products[b, i], torch.tensor(s, dtype=torch.float64))
            close(scale(scores)[b, i], torch.tensor(loop(s, q, image), dtype=torch.float64))


@pytest.mark.parametrize(
    "golden", GOLDEN["G1"]["scalings"], ids=lambda g: f"{g['scaling']} {g['settings'] or ''}"
)
def test_scaling_gives_the_golden_logits(golden):
    query, keys = (torch.tensor(GOLDEN["G1"][name], dtype=torch.float64) for name in ("query", "values"))
    scores = Scores(query[None, None], keys[None])
    close(scores.products.flatten().tolist(), GOLDEN["G1"]["scores"])
    logits = getattr(scaling, golden["scaling"])(scores, **golden["settings"])
    close(logits.flatten(), torch.tensor(golden["logits"], dtype=torch.float64))


@pytest.mark.parametrize("golden", GOLDEN["ssmax"], ids=lambda g: str(g["patches"]))
def test_ssmax_keeps_one_salient_patch_in_sight_as_the_grid_grows(golden):
    scores = scores_of([3.0] + [-2.0] * (golden["patches"] - 1))
    assert scipy_softmax(scaling.none(scores).numpy()).max() == pytest.approx(golden["softmax"], abs=1e-6)
    assert scipy_softmax(scaling.ssmax(scores, s=0.43).numpy()).max() == pytest.approx(
        golden["ssmax"], abs=1e-6
    )


@pytest.mark.parametrize("target, tau", GOLDEN["G1"]["tau_for_perplexity"])
def test_perplexity_finds_the_golden_temperature(target, tau):
    s = GOLDEN["G1"]["scores"]
    logits = scaling.perplexity(scores_of(s), target).flatten()
    assert (max(s) - min(s)) / float(logits.max() - logits.min()) == pytest.approx(tau, rel=1e-10)


def test_scores_are_linear_in_the_query():
    first, second = random_scores(1), random_scores(2)
    both = Scores(2.5 * first.query + second.query, first.keys)
    close(both.products, 2.5 * first.products + Scores(second.query, first.keys).products)


@DOT
@given(row=uneven)
@quick
def test_dot_product_scalings_multiply_by_a_positive_factor(scale, row):
    s, z = torch.tensor(row, dtype=torch.float64), scale(scores_of(row, dim=D)).flatten()
    low, high = s.argmin(), s.argmax()
    factor = (z[high] - z[low]) / (s[high] - s[low])
    assert factor >= 0
    torch.testing.assert_close(z - z[low], factor * (s - s[low]), rtol=1e-10, atol=1e-10)


def test_cosine_changes_the_ranks():
    scores = scores_of([1.0, 3.0], dim=2)
    scores.keys[0, 1, 1] = 4.0  # the larger score belongs to the key that points elsewhere
    assert scores.products.argmax() == 1
    close(scaling.cosine(scores, tau=1.0).flatten().tolist(), [1.0, 0.6])


@given(row=rows, factor=eighths(0.125, 8), tau=eighths(0.125, 8))
@quick
def test_temperature_and_scores_change_together_unseen(row, factor, tau):
    close(
        scaling.temperature(scores_of([factor * s for s in row]), factor * tau),
        scaling.temperature(scores_of(row), tau),
    )


@pytest.mark.parametrize("name", ["zscore", "robust_z", "minmax", "perplexity"])
@given(row=uneven, factor=eighths(0.125, 8), shift=eighths(-50, 50))
@quick
def test_relative_scalings_ignore_unit_and_origin_of_the_scores(name, row, factor, shift):
    moved = scores_of([factor * s + shift for s in row])
    scale = partial(scaling.perplexity, target=1.3) if name == "perplexity" else getattr(scaling, name)
    before, after = scale(scores_of(row)), scale(moved)
    close(after.softmax(-1), before.softmax(-1), atol=1e-9)


@given(
    row=st.lists(eighths(-3, 3), min_size=N * D, max_size=N * D),
    factors=st.lists(eighths(0.125, 8), min_size=N + 1, max_size=N + 1),
)
@quick
def test_cosine_ignores_the_lengths_of_query_and_keys(row, factors):
    keys = torch.tensor(row, dtype=torch.float64).reshape(1, N, D)
    query = torch.arange(1.0, D + 1, dtype=torch.float64)[None, None]
    lengths = torch.tensor(factors[1:], dtype=torch.float64)[:, None]
    close(scaling.cosine(Scores(factors[0] * query, lengths * keys)), scaling.cosine(Scores(query, keys)))


def test_cosine_is_the_dot_product_of_unit_vectors():
    scores = random_scores()
    unit = Scores(*(torch.nn.functional.normalize(t, dim=-1) for t in (scores.query, scores.keys)))
    close(scaling.cosine(scores, tau=1.0), unit.products)
    close(
        scaling.cosine(scores, tau=1.0),
        torch.cosine_similarity(scores.query.unsqueeze(2), scores.keys.unsqueeze(1), dim=-1),
    )


@pytest.mark.parametrize("zero", ["query", "patch"])
def test_cosine_of_a_zero_vector_is_zero(zero):
    scores = random_scores()
    (scores.query if zero == "query" else scores.keys)[1, 2] = 0
    logits = scaling.cosine(scores)
    assert (logits[1, 2] == 0).all() if zero == "query" else (logits[1, :, 2] == 0).all()
    assert logits.isfinite().all() and (logits[0] != 0).all()


@given(seed=st.integers(0, 99))
@quick
def test_cosine_at_unit_temperature_is_never_sharp(seed):
    logits = scaling.cosine(random_scores(seed), tau=1.0)
    assert (logits.amax(-1) - logits.amin(-1)).max() <= 2 + 1e-12  # weights within a factor of e^2


@given(row=uneven, tau=eighths(0.125, 4))
@quick
def test_minmax_fixes_the_ratio_of_the_largest_to_the_smallest_weight(row, tau):
    weights = scipy_softmax(scaling.minmax(scores_of(row), tau).flatten().numpy())
    assert weights.max() / weights.min() == pytest.approx(math.exp(1 / tau), rel=1e-10)


def test_robust_z_does_not_let_one_hot_patch_set_the_scale():
    mild, wild = ([0.0, 1.0, 2.0, 3.0, hot] for hot in (4.0, 4000.0))
    close(scaling.robust_z(scores_of(wild))[..., :4], scaling.robust_z(scores_of(mild))[..., :4])
    assert scaling.zscore(scores_of(wild))[..., 3] < 0 < scaling.zscore(scores_of(mild))[..., 3]


@given(row=st.lists(eighths(-5, 5), min_size=3, max_size=9, unique=True), share=st.floats(0.01, 0.99))
@quick
def test_perplexity_looks_at_as_many_patches_as_asked(row, share):
    target = 1 + share * (len(row) - 1)  # anywhere between one patch and all
    assert perplexity_of(scaling.perplexity(scores_of(row), target)) == pytest.approx(target, rel=1e-10)


@pytest.mark.parametrize("target", [1.0, 2.0, 2.9])
def test_perplexity_below_the_number_of_best_patches_is_uniform_over_them(target):
    logits = scaling.perplexity(scores_of([1.0, 4.0, 4.0, 0.0, 4.0, 3.875]), target)
    close(logits.softmax(-1).flatten().tolist(), [0.0, 1 / 3, 1 / 3, 0.0, 1 / 3, 0.0])


@pytest.mark.parametrize("target", [3.0, 3.5, 100.0])
def test_perplexity_of_all_patches_or_more_is_uniform(target):
    assert scaling.perplexity(scores_of([1.0, 2.0, 4.0]), target).tolist() == [[[0.0, 0.0, 0.0]]]


@given(row=uneven, copies=st.integers(2, 4))
@quick
def test_a_share_of_patches_means_the_same_at_any_resolution(row, copies):
    few, many = (perplexity_of(scaling.perplexity(scores_of(row * n), 0.9)) for n in (1, copies))
    assert many == pytest.approx(copies * few, rel=1e-9)


def test_perplexity_finds_its_temperature_for_every_photo_and_query():
    scores = random_scores(patches=49)
    scores = Scores(scores.query * torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)[:, None], scores.keys)
    logits = scaling.perplexity(scores)
    assert [perplexity_of(z) for z in logits.flatten(0, 1)] == pytest.approx([4.9] * B * Q, rel=1e-9)


def test_perplexity_is_exact_in_float32_under_a_large_common_offset():
    """Rectified features have scores like these: a spread of 1 around 1000."""
    scores = torch.randn(49, generator=torch.Generator().manual_seed(0)) + 1000
    assert perplexity_of(
        scaling.perplexity(scores_of(scores.tolist(), dtype=torch.float32), 5.0)
    ) == pytest.approx(5, rel=1e-6)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.1, -1e4 / 3])
def test_a_photo_without_contrast_has_equal_logits(scale, dtype, constant):
    keys = torch.full((B, N, D), constant, dtype=dtype)
    logits = scale(Scores(torch.full((B, Q, D), 0.7, dtype=dtype), keys))
    assert logits.isfinite().all() and (logits == logits[..., :1]).all()


@pytest.mark.parametrize("name", ["zscore", "robust_z", "minmax", "perplexity"])
def test_contrast_from_rounding_alone_is_no_contrast(name):
    above = math.nextafter(1000.0, 2000.0)
    assert (getattr(scaling, name)(scores_of([1000.0, above, 1000.0, above, above])) == 0).all()


@EVERY
def test_a_single_patch_gives_one_finite_logit(scale):
    logits = scale(random_scores(patches=1))
    assert logits.shape == (B, Q, 1) and logits.isfinite().all()


@EVERY
def test_scaling_treats_photos_and_queries_one_by_one(scale):
    scores = random_scores()
    alone = [
        [scale(Scores(scores.query[b : b + 1, i : i + 1], scores.keys[b : b + 1])) for i in range(Q)]
        for b in range(B)
    ]
    close(scale(scores), torch.cat([torch.cat(line, dim=1) for line in alone]))


@EVERY
def test_scaling_follows_a_permutation_of_the_patches(scale):
    scores, order = random_scores(), torch.tensor([3, 0, 4, 1, 2])
    close(scale(Scores(scores.query, scores.keys[:, order])), scale(scores)[..., order])


@EVERY
def test_scaling_ignores_a_common_rotation_of_query_and_keys(scale):
    scores = random_scores()
    rotation = torch.linalg.qr(
        torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ).Q
    close(scale(Scores(scores.query @ rotation, scores.keys @ rotation)), scale(scores))


def test_centring_the_keys_changes_attention_under_cosine_alone():
    scores = random_scores()
    moved = Scores(scores.query, scores.keys + torch.arange(D, dtype=torch.float64))
    for name, (scale, _) in LOOPS.items():
        same = torch.allclose(scale(moved).softmax(-1), scale(scores).softmax(-1), rtol=0, atol=1e-9)
        assert same == (name != "cosine"), name


@given(row=uneven, tau=eighths(1, 8), cooler=eighths(1.125, 3))
@quick
def test_cooling_sharpens_towards_the_best_patch(row, tau, cooler):
    warm, cool = (scaling.temperature(scores_of(row), t) for t in (tau, tau / cooler))
    assert perplexity_of(cool) < perplexity_of(warm)
    assert cool.softmax(-1).max() > warm.softmax(-1).max()


@given(row=uneven)
@quick
def test_attention_runs_from_uniform_over_the_best_patches_to_uniform(row):
    s = torch.tensor(row, dtype=torch.float64)
    best = (s == s.max()).double()
    cold, warm, hot = (
        scaling.temperature(scores_of(row), tau).softmax(-1).flatten() for tau in (1e-6, 1e4, 1e9)
    )
    close(cold, best / best.sum())
    close(warm, (1 + (s - s.mean()) / 1e4) / len(row), atol=1e-5)  # O(1 / tau^2)
    close(warm * 1e4 - 1e4 / len(row), (s - s.mean()) / len(row), atol=0.05)
    close(hot, torch.full_like(s, 1 / len(row)), atol=2e-8)


@given(row=uneven, copies=st.integers(2, 4))
@quick
def test_a_finer_grid_moves_no_mass_but_under_log_n_which_sharpens(row, copies):
    s = torch.tensor(row, dtype=torch.float64)
    best = s == s.max()

    def mass(scale, times: int) -> float:  # on the best patch and all its copies
        return float(scale(scores_of(row * times)).softmax(-1).reshape(times, -1).sum(0)[best].sum())

    assert mass(scaling.none, copies) == pytest.approx(mass(scaling.none, 1), abs=1e-10)
    for scale in (partial(scaling.log_n, base=32.0), partial(scaling.ssmax, s=0.1)):
        assert mass(scale, copies) > mass(scale, 1)


@pytest.mark.parametrize("dim", [64, 512, 2048])
def test_inv_sqrt_d_gives_unit_variance_to_independent_normals(dim):
    chance = torch.Generator().manual_seed(dim)
    query, keys = (torch.randn(4000, 1, dim, generator=chance) for _ in range(2))
    assert float(scaling.inv_sqrt_d(Scores(query, keys)).var()) == pytest.approx(1, abs=0.1)
    correlated = Scores(query, query)  # a self-query grows like d, so d is what makes it dimensionless
    assert float(scaling.inv_d(correlated).mean()) == pytest.approx(1, abs=0.01)
    rectified = scaling.inv_sqrt_d(Scores(query.relu(), keys.relu()))
    assert float(rectified.mean()) == pytest.approx(math.sqrt(dim) / (2 * math.pi), rel=0.02)
    assert float(rectified.var()) == pytest.approx(1 / 4 - 1 / (4 * math.pi**2), rel=0.1)


@pytest.mark.parametrize("rank", [8, 64])
def test_inv_sqrt_d_undercorrects_correlated_channels(rank):
    """Unit total variance per channel on `rank` directions: the logits spread by sqrt(d / rank), not 1."""
    chance, dim = torch.Generator().manual_seed(rank), 512
    query, keys = (torch.randn(4000, 1, rank, generator=chance).repeat(1, 1, dim // rank) for _ in range(2))
    assert float(scaling.inv_sqrt_d(Scores(query, keys)).std()) == pytest.approx(
        math.sqrt(dim / rank), rel=0.06
    )


@pytest.mark.parametrize("name", ["temperature", "cosine", "zscore", "robust_z", "minmax"])
@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_temperature_must_be_positive(name, tau):
    with pytest.raises(ValueError, match="tau must be above 0"):
        getattr(scaling, name)(random_scores(), tau=tau)


@pytest.mark.parametrize(
    "name, wrong", [("log_n", {"base": 1.0}), ("ssmax", {"s": 0.0}), ("perplexity", {"target": 0.0})]
)
def test_a_setting_without_meaning_is_named(name, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*0"):
        getattr(scaling, name)(random_scores(), **wrong)


@pytest.mark.parametrize("target", [0.3, 2.0])
def test_autograd_follows_the_scores_through_perplexity(target):
    scores = random_scores(patches=7)
    products = scores.products.clone().requires_grad_()

    def logits(changed: torch.Tensor) -> torch.Tensor:
        return scaling.perplexity(scaling.with_products(scores, changed), target)

    assert torch.autograd.gradcheck(logits, products, eps=1e-5, atol=1e-6)  # against central differences
