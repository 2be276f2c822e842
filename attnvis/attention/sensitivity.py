"""How much of a change of a raw score reaches the weights, under any scaling and normaliser.

Those of attnvis carry their derivative beside them (`DERIVATIVES`); any other is differentiated by autograd.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention import normalise as normalisers
from attnvis.attention import scaling as scalings
from attnvis.attention.dot_product import Normalise, Scaling
from attnvis.attention.jacobian import (
    NormaliserJacobian,
    ScalingJacobian,
    frobenius_norm,
    join_normalisers,
    join_scalings,
    largest_eigenvalue,
)
from attnvis.types import Scores

__all__ = ["MOST_PATCHES", "sensitivity", "sensitivity_of_settings"]

MOST_PATCHES = 1024  # autograd takes a backward pass for each: beyond, a function from elsewhere gets NaN

Numbers = dict[str, Float[Tensor, "*any"]]


@dataclass(frozen=True)
class Recorded:
    """A function's outputs with what autograd recorded on the way to them."""

    inputs: Float[Tensor, "B Q N"]
    outputs: Float[Tensor, "B Q N"]

    def pull(self, cotangent: Float[Tensor, "B Q N"]) -> Float[Tensor, "B Q N"]:
        """J^T c, in the precision of c.  Raises RuntimeError where the inputs play no part."""
        (gradient,) = torch.autograd.grad(
            self.outputs, self.inputs, cotangent.to(self.outputs), retain_graph=True
        )
        return gradient.to(cotangent)


Jacobian = NormaliserJacobian | ScalingJacobian | Recorded  # each can `pull`


def sensitivity(
    scores: Scores,
    logits: Float[Tensor, "B Q N"],
    weights: Float[Tensor, "B Q N"],
    scaling: Scaling,
    normalise: Normalise,
) -> Numbers:
    """jacobian_norm and jacobian_spectral of d a / d logits, gradient_norm of d a / d scores, [B, Q].

    `cosine` divides by the lengths of query and key, which are no part of the raw score: they stand still.
    So does all but `Scores.products` in a scaling from elsewhere; each photo and query counts as its own.
    NaN where autograd cannot differentiate a function, or would take too long (MOST_PATCHES); the largest
    eigenvalue is NaN for any normaliser from elsewhere.
    """
    return sensitivity_of_settings(scores, logits, weights, [(scaling, normalise)])


def sensitivity_of_settings(
    scores: Scores,
    logits: Float[Tensor, "SB Q N"],
    weights: Float[Tensor, "SB Q N"],
    settings: Sequence[tuple[Scaling, Normalise]],
) -> Numbers:
    """`sensitivity` of several settings of one product; logits and weights setting by setting."""
    parts = zip(logits.chunk(len(settings)), weights.chunk(len(settings)), settings, strict=True)
    inner: dict[int, Jacobian | None] = {}  # once for each scaling
    pairs = []
    for setting_logits, setting_weights, (scaling, normalise) in parts:
        if id(scaling) not in inner:
            inner[id(scaling)] = scaling_jacobian(scaling, scores, logits=setting_logits)
        pairs.append((normaliser_jacobian(normalise, setting_logits, setting_weights), inner[id(scaling)]))
    known = [
        (outer, scaled)
        for outer, scaled in pairs
        if isinstance(outer, NormaliserJacobian) and isinstance(scaled, ScalingJacobian)
    ]
    if len(known) == len(pairs):
        return known_numbers(known)  # all settings at once
    results = [any_numbers(outer, scaled, like=scores.products) for outer, scaled in pairs]
    return {name: torch.cat([numbers[name] for numbers in results]) for name in results[0]}


def normaliser_jacobian(
    normalise: Normalise, logits: Float[Tensor, "B Q N"], weights: Float[Tensor, "B Q N"]
) -> Jacobian | None:
    """As it is known, else as autograd records it; None where neither can be had."""
    function, settings = unwrapped(normalise)
    derivative = entry(normalisers.DERIVATIVES, function)
    if derivative is not None:
        return derivative(logits.double(), weights.double(), **settings)
    return recorded(normalise, logits)


def scaling_jacobian(scaling: Scaling, scores: Scores, logits: Float[Tensor, "B Q N"]) -> Jacobian | None:
    """As it is known, else as autograd records it; None where neither can be had."""
    function, _ = unwrapped(scaling)
    derivative = entry(scalings.DERIVATIVES, function)
    if derivative is not None:
        return derivative(scaling, scores, logits.double())
    with torch.inference_mode(False):  # autograd cannot use what was made in inference mode
        plain = Scores(scores.query.clone(), scores.keys.clone())
    return recorded(lambda products: scaling(scalings.with_products(plain, products)), scores.products)


def unwrapped(function: Callable) -> tuple[Callable, dict[str, Any]]:
    """A function without the settings that are filled in, and these."""
    if isinstance(function, partial) and not function.args:
        return function.func, function.keywords
    return function, {}


def entry(derivatives: Mapping[Callable, Callable], function: object) -> Callable | None:
    """The derivative of a function; None for one that is not ours, which need not even be hashable."""
    return next((derivative for known, derivative in derivatives.items() if known is function), None)


def recorded(function: Callable[[Tensor], Tensor], at: Float[Tensor, "B Q N"]) -> Recorded | None:
    """A function's run under autograd; None for too many patches, or where it breaks off the record."""
    if at.shape[-1] > MOST_PATCHES:
        return None
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(at.device.type, enabled=False),
        ):
            inputs = at.detach().clone().requires_grad_()
            outputs = function(inputs)
    except RuntimeError:  # what leaves PyTorch, or writes in place
        return None
    return Recorded(inputs, outputs) if outputs.requires_grad else None


def known_numbers(jacobians: Sequence[tuple[NormaliserJacobian, ScalingJacobian]]) -> Numbers:
    """Of settings whose derivatives are known, all at once."""
    normaliser = join_normalisers([outer for outer, _ in jacobians])
    return {
        "jacobian_norm": frobenius_norm(normaliser),
        "jacobian_spectral": largest_eigenvalue(normaliser),
        "gradient_norm": frobenius_norm(normaliser, join_scalings([inner for _, inner in jacobians])),
    }


def any_numbers(outer: Jacobian | None, inner: Jacobian | None, like: Float[Tensor, "B Q N"]) -> Numbers:
    """Of one setting; NaN for what is not known."""
    if isinstance(outer, NormaliserJacobian) and isinstance(inner, ScalingJacobian):
        return known_numbers([(outer, inner)])
    unknown = torch.full(like.shape[:-1], torch.nan, dtype=torch.float64, device=like.device)
    numbers = dict.fromkeys(("jacobian_norm", "jacobian_spectral", "gradient_norm"), unknown)
    if isinstance(outer, NormaliserJacobian):
        numbers["jacobian_norm"] = frobenius_norm(outer)
        numbers["jacobian_spectral"] = largest_eigenvalue(outer)
    elif outer is not None:
        numbers["jacobian_norm"] = norm_by_rows([outer], like)
    if outer is not None and inner is not None and like.shape[-1] <= MOST_PATCHES:
        numbers["gradient_norm"] = norm_by_rows([outer, inner], like)
    return numbers


def norm_by_rows(jacobians: Sequence[Jacobian], like: Float[Tensor, "B Q N"]) -> Float[Tensor, "B Q"]:
    """Frobenius norm of a product of Jacobians, the last function first; NaN where autograd fails."""
    squares = torch.zeros(like.shape[:-1], dtype=torch.float64, device=like.device)
    for patch in range(like.shape[-1]):
        row = torch.zeros_like(like, dtype=torch.float64)
        row[..., patch] = 1
        try:
            for jacobian in jacobians:
                row = jacobian.pull(row)
        except RuntimeError:
            return torch.full_like(squares, torch.nan)
        squares += (row**2).sum(-1)
    return squares.sqrt()
