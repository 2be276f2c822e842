"""What scaling and normalising do to a small change, each in a form of O(N) numbers; their product's size.

A normaliser of attnvis has d a_i / d z_j = gains_j (delta_ij - shares_i); a scaling is diagonal but for a few
products of a column and a row.  So nothing here ever holds an N x N matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["NormaliserJacobian", "ScalingJacobian", "frobenius_norm", "largest_eigenvalue"]

Numbers = Float[Tensor, "*any N"]


@dataclass(frozen=True)
class NormaliserJacobian:
    """d a_i / d z_j = gains_j (delta_ij - shares_i): what patch j gains, all patches pay by their shares."""

    gains: Numbers  # not negative
    shares: Numbers  # not negative; their sum is 1

    @cached_property
    def squared_lengths(self) -> Numbers:
        """Of the columns, before their gains: 1 - 2 shares_j + |shares|^2.

        The largest share is taken as what the others leave, since shares sum to 1: where attention is nearly
        one-hot, its column would be what is left of numbers that cancel.
        """
        best = self.shares.argmax(-1, keepdim=True)
        others = self.shares.scatter(-1, best, 0.0)
        left = others.sum(-1, keepdim=True)  # 1 - the largest share
        squares = (others**2).sum(-1, keepdim=True)
        return (1 - 2 * others + (squares + (1 - left) ** 2)).scatter(-1, best, left**2 + squares)

    def pull(self, cotangent: Numbers) -> Numbers:
        """J^T c."""
        return self.gains * (cotangent - (cotangent * self.shares).sum(-1, keepdim=True))


@dataclass(frozen=True)
class ScalingJacobian:
    """d z / d s = diag(diagonal) + sum_k columns_k rows_k^T."""

    diagonal: Numbers
    columns: Float[Tensor, "*any K N"]
    rows: Float[Tensor, "*any K N"]

    def pull(self, cotangent: Numbers) -> Numbers:
        """J^T c."""
        amounts = (cotangent.unsqueeze(-2) * self.columns).sum(-1, keepdim=True)  # [*any, K, 1]
        return self.diagonal * cotangent + (amounts * self.rows).sum(-2)


def diagonal(factors: Numbers) -> ScalingJacobian:
    """The Jacobian of a factor per score."""
    nothing = factors.new_zeros(*factors.shape[:-1], 0, factors.shape[-1])
    return ScalingJacobian(factors, columns=nothing, rows=nothing)


def join_normalisers(jacobians: Sequence[NormaliserJacobian]) -> NormaliserJacobian:
    """Of several normalisers, one after the other along the first axis."""
    if len(jacobians) == 1:
        return jacobians[0]
    gains = torch.cat([jacobian.gains for jacobian in jacobians])
    return NormaliserJacobian(gains, shares=torch.cat([jacobian.shares for jacobian in jacobians]))


def join_scalings(jacobians: Sequence[ScalingJacobian]) -> ScalingJacobian:
    """Of several scalings, one after the other along the first axis; what has fewer products gets zeros."""
    if len(jacobians) == 1:
        return jacobians[0]
    most = max(jacobian.columns.shape[-2] for jacobian in jacobians)

    def filled(products: Float[Tensor, "*any K N"]) -> Tensor:
        return pad(products, (0, 0, 0, most - products.shape[-2]))

    return ScalingJacobian(
        torch.cat([jacobian.diagonal for jacobian in jacobians]),
        columns=torch.cat([filled(jacobian.columns) for jacobian in jacobians]),
        rows=torch.cat([filled(jacobian.rows) for jacobian in jacobians]),
    )


def frobenius_norm(
    normaliser: NormaliserJacobian, scaling: ScalingJacobian | None = None
) -> Float[Tensor, "*any"]:
    """Of d a / d s, the product of both; of d a / d z where no scaling is given."""
    if scaling is not None and scaling.columns.shape[-2]:
        return norm_of_products(normaliser, scaling)
    factors = normaliser.gains if scaling is None else normaliser.gains * scaling.diagonal
    return (factors**2 * normaliser.squared_lengths).sum(-1).sqrt()


def norm_of_products(normaliser: NormaliserJacobian, scaling: ScalingJacobian) -> Float[Tensor, "*any"]:
    """The product is diag(d) + U W^T.

    All but the row of the largest share are summed as they stand; that row is minus the sum of the others,
    since weights sum to 1 (see `NormaliserJacobian.squared_lengths`).
    """
    gains, shares = normaliser.gains, normaliser.shares
    changes = gains * scaling.diagonal  # d
    moved = gains.unsqueeze(-2) * scaling.columns
    paid = shares.unsqueeze(-2) * moved.sum(-1, keepdim=True)
    columns = torch.cat([-shares.unsqueeze(-2), moved - paid], -2)  # U, [*any, K, N]
    rows = torch.cat([changes.unsqueeze(-2), scaling.rows], -2)  # W
    best = shares.argmax(-1, keepdim=True)
    others = changes.scatter(-1, best, 0.0)
    other_columns = columns.scatter(-1, best.unsqueeze(-2).expand(*columns.shape[:-1], 1), 0.0)
    # the squares of diag(d) + U W^T without the row of the largest share
    crossed = (others.unsqueeze(-2) * other_columns * rows).sum((-1, -2))
    products = ((other_columns @ other_columns.mT) * (rows @ rows.mT)).sum((-1, -2))
    squares = (others**2).sum(-1) + 2 * crossed + products
    row = others + (other_columns.sum(-1, keepdim=True) * rows).sum(-2)  # minus that row itself
    return (squares.clamp_min(0) + (row**2).sum(-1)).sqrt()


def largest_eigenvalue(normaliser: NormaliserJacobian) -> Float[Tensor, "*any"]:
    """Of d a / d z: the root of sum_i gains_i shares_i / (gains_i - x) = 1 between the two largest gains.

    The eigenvalues are real: the matrix is similar to diag(g) - r r^T with r_i^2 = gains_i shares_i.

    Seen from the largest gain, with y = gains_1 - x, it reads first / (1 + sum(y)) = y, where sum(y) =
    sum_i others_i / (distances_i - y).  The left side is concave and has no poles up to the second gain:
    Newton's steps come down to the root from the right.  They start where the root would be if all but the
    two largest gains stood still half-way between those; two or three give every digit.
    """
    if normaliser.gains.shape[-1] == 1:
        return torch.zeros_like(normaliser.gains[..., 0])
    gains, order = normaliser.gains.topk(2, -1)
    largest, following = gains.split(1, -1)
    parts = normaliser.gains * normaliser.shares
    first, second = parts.gather(-1, order).split(1, -1)
    best = order[..., :1]
    others = parts.scatter(-1, best, 0.0)
    gap = largest - following
    away = 1 + torch.finfo(gap.dtype).eps  # so that no root lies on a pole
    distances = ((largest - normaliser.gains) * away).scatter(-1, best, torch.inf)
    still = (others / (distances - gap / 2)).sum(-1, keepdim=True) - 2 * second / gap
    both = gap * (1 + still) + second
    # of y (1 + still + second / (gap - y)) = first
    root = 2 * first * gap / (both + first + torch.hypot(both - first, 2 * (first * second).sqrt()))
    for _ in range(60):
        root = torch.minimum(root, gap)
        to_poles = distances - root
        terms = others / to_poles
        shrink = (1 + terms.sum(-1, keepdim=True)).reciprocal()
        slope = (terms / to_poles).sum(-1, keepdim=True)
        target = first * shrink
        step = (target - root) / (1 + slope * target * shrink)
        root = root + step
        if not (step.abs() > 1e-8 * (gap - root) + 4e-16 * gap).any():  # another step would square it
            break
    # of equal gains the eigenvalue is that gain
    return torch.where(gap > 0, largest - torch.minimum(root, gap), largest).squeeze(-1)
