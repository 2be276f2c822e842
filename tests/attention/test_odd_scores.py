"""Every scaling and normaliser on odd scores, beside its definition in plain loops of Python's numbers."""

import math
from functools import partial
from itertools import product

import pytest
import torch

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import weigh
from attnvis.types import Scores

HUGE, TINY = 1e38, 1e-40  # near the largest number of single precision; below its smallest normal one
ODD = {
    "usual": [0.3, -1.2, 2.5, 0.0, 1.1, -0.7, 0.9],
    "one patch": [1.7],
    "one patch of zero": [0.0],
    "two patches": [1.0, -1.0],
    "all equal": [2.5] * 7,
    "all zero": [0.0] * 7,
    "negative zeros": [-0.0, 0.0, -0.0, 0.0, -0.0, 1.0],
    "all negative": [-1.0, -2.0, -3.0, -0.5, -8.0],
    "ties": [1.0, 2.0, 2.0, 1.0, 0.0, 2.0],
    "equal but for rounding": [1.0, 1.0 + 2**-23, 1.0, 1.0 - 2**-24, 1.0],
    "an outlier": [1e4, 0.1, 0.2, 0.3, -0.1, 0.0, 0.2],
    "hundreds": [900.0, 870.0, 910.0, 905.0, 640.0],
    "huge": [HUGE, -HUGE, 0.5 * HUGE, 0.0, 0.9 * HUGE, HUGE],
    "huge and positive": [HUGE, 0.2 * HUGE, 0.7 * HUGE, 0.95 * HUGE, 1.0],
    "many that are huge": [HUGE * (1 - n / 40) for n in range(20)],
    "denormal": [TINY, 3 * TINY, -TINY, 0.0, 2 * TINY],
    "denormal beside usual": [TINY, 1.0, -TINY, 0.5, 0.0],
    "large and small": [HUGE, 1.0, TINY, 0.0, -1.0],
}
DIM = 4


def scores_of(row):
    """Of one photo and query: keys whose dot product with the query is that row."""
    keys = torch.zeros(1, len(row), DIM)
    keys[0, :, 0] = torch.tensor(row)
    keys[0, :, 1] = torch.tensor([1.0 + n % 3 for n in range(len(row))])  # lengths of their own
    query = torch.zeros(1, 1, DIM)
    query[..., 0] = 1.0
    return Scores(query, keys)


# -------------------------------------------------------------------------------- definitions


def noise(row):
    """What single precision cannot tell from equal."""
    return max(map(abs, row)) * 8 * 2.0**-23


def middle(row):
    ordered, n = sorted(row), len(row)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def zscore(row, tau=1.0):
    mean = math.fsum(row) / len(row)
    spread = math.hypot(*(s - mean for s in row)) / math.sqrt(len(row))
    return [(s - mean) / spread / tau if spread > noise(row) else 0.0 for s in row]


def robust_z(row, tau=1.0):
    deviations = [s - middle(row) for s in row]
    spread = 1.4826 * middle([abs(deviation) for deviation in deviations])
    return [deviation / spread / tau if spread > noise(row) else 0.0 for deviation in deviations]


def minmax(row, tau=0.25):
    low, high = min(row), max(row)
    return [(s - low) / (high - low) / tau if high - low > noise(row) else 0.0 for s in row]


def cosine(row, tau=0.07):
    return [s / math.hypot(s, 1.0 + n % 3) / tau for n, s in enumerate(row)]


def perplexity(row, target=0.1):
    """By bisection of the temperature, entropy summed one weight at a time."""
    patches = target * (len(row) if target < 1 else 1)
    if patches >= len(row) or max(row) - min(row) <= noise(row):
        return [0.0] * len(row)
    wanted = math.log(max(1.0, patches))
    size = max(row) - min(row)
    gaps = [(s - max(row)) / size for s in row]  # 0 ... -1
    low, high = -25.0, 25.0
    for _ in range(200):
        between = (low + high) / 2
        powers = [math.exp(gap / math.exp(between)) for gap in gaps]
        total = math.fsum(powers)
        entropy = -math.fsum(p / total * math.log(p / total) for p in powers if p > 0)
        low, high = (between, high) if entropy < wanted else (low, between)
    return [gap / math.exp(high) for gap in gaps]


SCALINGS = {
    "none": (scaling.none, lambda row: row),
    "inv_sqrt_d": (scaling.inv_sqrt_d, lambda row: [s / 2 for s in row]),
    "inv_d": (scaling.inv_d, lambda row: [s / 4 for s in row]),
    "temperature": (partial(scaling.temperature, tau=3.0), lambda row: [s / 3 for s in row]),
    "log_n": (scaling.log_n, lambda row: [s * math.log(len(row)) / math.log(512) / 2 for s in row]),
    "ssmax": (scaling.ssmax, lambda row: [s * 0.43 * math.log(len(row)) for s in row]),
    "cosine": (scaling.cosine, cosine),
    "zscore": (scaling.zscore, zscore),
    "robust_z": (scaling.robust_z, robust_z),
    "minmax": (scaling.minmax, minmax),
    "perplexity": (partial(scaling.perplexity, target=2.5), partial(perplexity, target=2.5)),
}


def softmax(z):
    powers = [math.exp(value - max(z)) for value in z]
    return [power / math.fsum(powers) for power in powers]


def threshold(z, amount):
    """t with sum of amount(z - t) = 1: the sum falls as t grows."""
    low, high = max(z) - 2.0, max(z)
    for _ in range(200):
        between = (low + high) / 2
        low, high = (between, high) if math.fsum(amount(v - between) for v in z) > 1 else (low, between)
    return high


def sparsemax(z):
    z = [v - max(z) for v in z]
    t = threshold(z, lambda v: max(v, 0.0))
    return [max(v - t, 0.0) for v in z]


def entmax15(z):
    z = [(v - max(z)) / 2 for v in z]
    t = threshold(z, lambda v: max(v, 0.0) ** 2)
    return [max(v - t, 0.0) ** 2 for v in z]


def sigmoid(z):
    """Gates over the largest gate, so that none vanishes: ln g = -ln(1 + e^-x)."""

    def log_gate(x):
        return -math.log1p(math.exp(-x)) if x > -30 else x

    return softmax([log_gate(v - math.log(len(z))) for v in z])


def top_k(z, k=3):
    kept = sorted(range(len(z)), key=lambda n: (-z[n], n))[:k]
    powers = [math.exp(z[n] - max(z)) if n in kept else 0.0 for n in range(len(z))]
    return [power / math.fsum(powers) for power in powers]


def power(z, p):
    peak = max(z)
    if peak <= 0:
        return [1 / len(z)] * len(z)
    amounts = [(max(v, 0.0) / peak) ** p for v in z]
    return [amount / math.fsum(amounts) for amount in amounts]


NORMALISERS = {
    "softmax": (normalise.softmax, softmax),
    "sparsemax": (normalise.sparsemax, sparsemax),
    "entmax15": (normalise.entmax15, entmax15),
    "sigmoid": (normalise.sigmoid, sigmoid),
    "top_k": (partial(normalise.top_k, k=3), top_k),
    "relu": (normalise.relu, partial(power, p=1.0)),
    "power": (normalise.power, partial(power, p=2.0)),
}


def test_nothing_of_ours_is_left_out():
    assert set(SCALINGS) == set(scaling.__all__) and set(NORMALISERS) == set(normalise.__all__)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("row", ODD)
def test_odd_scores_become_the_logits_of_the_definition(row, name):
    function, definition = SCALINGS[name]
    scores = scores_of(ODD[row])
    raw = scores.products.flatten().tolist()
    logits = function(scores).flatten()
    assert logits.dtype == torch.float32
    expected = definition(raw)
    size = max(1e-30, *map(abs, expected))
    assert logits.tolist() == pytest.approx(expected, rel=3e-6, abs=3e-6 * size)


@pytest.mark.parametrize("name, scale", list(product(NORMALISERS, SCALINGS)))
def test_odd_scores_become_the_weights_of_the_definition(name, scale):
    """From the logits as they are: 1e38 less 1e31 is 1e38."""
    for text, row in ODD.items():
        scores = scores_of(row)
        attention = weigh(scores, scores.keys, scaling=SCALINGS[scale][0], normalise=NORMALISERS[name][0])
        logits, weights = attention.logits.flatten().tolist(), attention.weights.flatten().tolist()
        assert all(map(math.isfinite, logits)), text
        assert weights == pytest.approx(NORMALISERS[name][1](logits), rel=1e-4, abs=2e-6), text
        assert math.fsum(weights) == pytest.approx(1, abs=1e-5), text


@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
@pytest.mark.parametrize("name, scale", list(product(NORMALISERS, SCALINGS)))
def test_a_score_that_is_not_finite_leaves_no_map(name, scale, spoiled):
    """NaN in the weights or in the largest logit is what a run refuses; never a map that looks like one."""
    scores = scores_of([0.3, spoiled, 2.5, 0.0, -1.1])
    attention = weigh(scores, scores.keys, scaling=SCALINGS[scale][0], normalise=NORMALISERS[name][0])
    finite = attention.weights.isfinite().all() and attention.logits.amax(-1).isfinite().all()
    assert not finite
