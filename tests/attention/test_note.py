"""The seed note, claim by claim, as far as it is arithmetic.

51 against 49, 80 against 20, and what the root of d_k does to them.
"""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import diagnose_attention, normal
from scipy.optimize import brentq
from scipy.special import expit

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import attend
from attnvis.attention.scaling import inv_sqrt_d, none, temperature
from attnvis.attention.sensitivity import sensitivity
from attnvis.backbone.heads import Linear
from attnvis.types import Attention, Scores

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())
B, Q, N, D, E = 2, 3, 5, 7, 11
close = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


def duel(
    first: float, second: float, dim: int = 1, dtype: torch.dtype = torch.float64, scale=inv_sqrt_d
) -> Attention:
    """Two patches of dimension `dim` whose scores are `first` and `second`."""
    keys = torch.zeros(1, 2, dim, dtype=dtype)
    keys[0, :, 0] = torch.tensor([first, second])
    return attend(torch.eye(dim, dtype=dtype)[None, :1], keys, scaling=scale)


def gradient_of(first: float, second: float, dim: int = 1, scale=inv_sqrt_d) -> float:
    """How much of a change of the two scores reaches the weights."""
    attention = duel(first, second, dim, scale=scale)
    keys = torch.zeros(1, 2, dim, dtype=torch.float64)
    keys[0, :, 0] = torch.tensor([first, second])
    scores = Scores(torch.eye(dim, dtype=torch.float64)[None, :1], keys)
    numbers = sensitivity(
        scores, attention.logits, attention.weights, scaling=scale, normalise=normalise.softmax
    )
    return numbers["gradient_norm"].item()


@pytest.mark.parametrize("row", GOLDEN["T1"], ids=lambda r: f"{r['pair']} d={r['dim']}")
def test_the_pairs_of_the_note_at_every_dimension(row):
    attention = duel(*row["pair"], row["dim"])
    numbers = {name: values.item() for name, values in diagnose_attention(attention).items()}
    first, second = attention.weights.flatten().tolist()
    assert first == pytest.approx(row["first"], abs=1e-12)
    assert second == pytest.approx(row["second"], rel=1e-10, abs=1e-12)
    assert numbers["margin"] == pytest.approx(row["gap"], rel=1e-5)
    assert numbers["entropy"] == pytest.approx(row["entropy"], rel=5e-6)
    assert numbers["perplexity"] == pytest.approx(row["perplexity"], abs=1e-6)
    # |J| of two patches is 2 beta p1 p2
    assert gradient_of(*row["pair"], row["dim"]) / 2 == pytest.approx(row["gradient"], rel=1e-4, abs=0)


def test_s4_51_to_49_is_the_share_of_the_sum_not_the_softmax():
    linear = duel(51, 49, scale=none)
    close(normalise.relu(linear.logits).flatten().tolist(), [0.51, 0.49])
    assert linear.weights.flatten().tolist() == pytest.approx(
        [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))], abs=1e-12
    )
    dim = (2 / math.log(51 / 49)) ** 2  # where softmax does give .51
    assert math.sqrt(dim) == pytest.approx(49.993, abs=1e-3) and round(dim, 1) == 2499.3
    close(
        duel(51, 49, scale=partial(temperature, tau=math.sqrt(dim))).weights.flatten().tolist(), [0.51, 0.49]
    )


def test_s4_the_overwhelming_weight_of_the_note_belongs_to_a_gap_of_18():
    gap = math.log(0.99999999 / 0.00000001)
    assert gap == pytest.approx(18.42, abs=0.005)
    assert duel(gap, 0).weights[0, 0, 0].item() == pytest.approx(0.99999999, abs=1e-12)
    assert duel(80, 20).weights[0, 0, 1].item() == pytest.approx(8.7565107627e-27, rel=1e-10)
    assert duel(80, 20, dtype=torch.float32).weights[0, 0, 0] == 1  # not .99999999 but 1, in single precision


def test_s2_dot_product_and_cosine_differ_by_the_lengths():
    query, keys = normal(B, Q, D), normal(B, N, D, seed=1)
    lengths = query.norm(dim=-1)[..., None] * keys.norm(dim=-1)[:, None]
    close(
        Scores(query, keys).products,
        lengths * torch.cosine_similarity(query.unsqueeze(2), keys.unsqueeze(1), dim=-1),
    )
    close(scaling.cosine(Scores(query, keys), tau=1.0) * lengths, Scores(query, keys).products)


def test_s2_a_longer_key_gains_rank_by_dot_product_and_none_by_cosine():
    query, keys = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    for times, dot, cosine in ((1, 0, 0), (3, 1, 0)):
        longer = keys * torch.tensor([[1.0], [times]])
        assert attend(query, longer, scaling=none).weights.argmax() == dot
        assert attend(query, longer, scaling=scaling.cosine).weights.argmax() == cosine


def test_s3_every_query_scores_every_key():
    query, keys = normal(B, Q, D), normal(B, N, D, seed=1)
    close(attend(query, keys).scores, torch.einsum("bqd,bnd->bqn", query, keys))


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_s4_softmax_turns_differences_into_probabilities(offset):
    attention = duel(51 + offset, 49 + offset, scale=partial(temperature, tau=4.0))
    first, second = attention.weights.flatten().tolist()
    assert first + second == pytest.approx(1, abs=1e-12) and first / second == pytest.approx(
        math.exp(2 / 4), rel=1e-10
    )


def test_s5_the_most_important_of_four_patches_is_the_first():
    query, keys = (torch.tensor(GOLDEN["G1"][name]) for name in ("query", "values"))
    assert attend(query[None, None], keys[None]).weights.flatten().argsort(descending=True).tolist() == [
        0,
        2,
        1,
        3,
    ]


def test_s6_the_three_stages_follow_from_each_other():
    attention = attend(normal(B, Q, D), normal(B, N, D, seed=1))
    close(attention.logits, attention.scores / math.sqrt(D))
    close(attention.weights, torch.softmax(attention.logits, -1))


def test_s7_after_the_weights_the_query_has_served(tmp_path):
    attention = attend(normal(B, Q, D), normal(B, N, D, seed=1), normal(B, N, E, seed=2))
    torch.save({"weights": attention.weights, "values": attention.values}, tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt")
    close(torch.einsum("bqn,bne->bqe", saved["weights"], saved["values"]), attention.context)
    nothing = torch.full((B, Q, N), math.nan, dtype=torch.float64)
    assert torch.equal(
        Attention(nothing, nothing, saved["weights"], saved["values"]).context, attention.context
    )


def test_s8_and_s9_the_weighted_map_and_its_sum_are_two_things():
    query, keys = (torch.tensor(GOLDEN["G1"][name], dtype=torch.float64) for name in ("query", "values"))
    attention = attend(query[None, None], keys[None])
    close(attention.weighted[0, 0], torch.tensor(GOLDEN["G1"]["weighted"], dtype=torch.float64))
    close(attention.weighted[0, 0].sum(0), attention.context[0, 0])


def test_s10_the_weighted_map_shrinks_features_by_n_the_reinjected_does_not():
    attention, head = (
        attend(normal(B, Q, D), normal(B, N, D, seed=1)),
        Linear(normal(3, D, seed=2), normal(3, seed=3)),
    )
    close(attention.weighted.mean(2), attention.context / N)
    close(head(attention.reinjected.mean(2)), attention.context @ head.weight.T + head.bias)
    uniform = attend(torch.zeros(B, Q, D, dtype=torch.float64), attention.values)
    close(uniform.reinjected[:, 0], attention.values)


def test_s11_keys_are_values_by_default():
    keys = normal(B, N, D)
    assert attend(normal(B, Q, D), keys).values is keys


def test_s12_other_keys_may_have_another_dimension_but_one_key_a_patch():
    values, reading = normal(B, 49, E, seed=2), normal(E, D, seed=3)
    query = values[:, 17:18] @ reading  # asks for patch 17
    related, unrelated = (
        values @ reading,
        (values @ reading)[:, torch.randperm(49, generator=torch.Generator().manual_seed(0))],
    )
    assert (attend(query, related, values, scaling.cosine).weights.argmax(-1) == 17).all()
    assert (attend(query, unrelated, values, scaling.cosine).weights.argmax(-1) != 17).all()
    assert attend(query, related, values).context.shape == (B, 1, E)


@pytest.mark.parametrize("first, second", [(51, 49), (80, 20)])
@pytest.mark.parametrize("dim", [64, 512, 2048])
def test_s14_the_root_of_d_shrinks_the_gap_by_exactly_itself(first, second, dim):
    attention = duel(first, second, dim)
    gaps = [float(tensor[0, 0, 0] - tensor[0, 0, 1]) for tensor in (attention.scores, attention.logits)]
    assert gaps == pytest.approx([first - second, (first - second) / math.sqrt(dim)], rel=1e-12)
    assert attention.weights[0, 0, 0].item() == pytest.approx(
        expit((first - second) / math.sqrt(dim)), abs=1e-12
    )


@pytest.mark.parametrize("first, second, root, dim", [(80, 20, 38.875, 1511), (51, 49, 1.296, 1.68)])
def test_s14_dividing_too_much_starves_the_gradient_too(first, second, root, dim):
    """beta p (1 - p) over beta = x / gap is largest where x tanh(x / 2) = 1."""
    best = brentq(lambda x: x * math.tanh(x / 2) - 1, 0.1, 10, xtol=1e-13)
    assert best == pytest.approx(1.543405, abs=1e-6) and expit(best) == pytest.approx(0.823959, abs=1e-6)
    taus = [root * n / 40 for n in range(20, 80)]
    gradients = [gradient_of(first, second, scale=partial(temperature, tau=tau)) for tau in taus]
    peak = taus[gradients.index(max(gradients))]
    assert peak == pytest.approx(root, rel=0.01) and (first - second) / best == pytest.approx(root, rel=5e-4)
    assert ((first - second) / best) ** 2 == pytest.approx(dim, rel=5e-3)
    assert gradients[0] < 0.95 * max(gradients) > gradients[-1]


def test_s16_a_sequence_of_words_is_attended_like_a_map():
    steps = normal(B, N, D)  # what an LSTM returns
    last = steps[:, -1:]
    close(attend(last, steps).context, torch.nn.functional.scaled_dot_product_attention(last, steps, steps))
