"""What scaling and normalising do to a small change, each in a form of O(N) numbers; their product's size.

A normaliser of attnvis has d a_i / d z_j = gains_j (delta_ij - shares_i); a scaling is diagonal but for a few
products of a column and a row.  So nothing here ever holds an N x N matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["NormaliserJacobian", "ScalingJacobian", "frobenius_norm", "largest_eigenvalue"]

Numbers = Float[Tensor, "*any N"]


@dataclass(frozen=True)
class NormaliserJacobian:
    """d a_i / d z_j = gains_j (delta_ij - shares_i): what patch j gains, all patches pay by their shares."""

    gains: Numbers  # not negative
    shares: Numbers  # not negative; their sum is 1

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


def join(jacobians: Sequence[ScalingJacobian]) -> ScalingJacobian:
    """Of several scalings, one after the other along the first axis; what has fewer products gets zeros."""
    most = max(jacobian.columns.shape[-2] for jacobian in jacobians)

    def filled(products: Float[Tensor, "*any K N"]) -> Float[Tensor, "*any most N"]:
        return torch.nn.functional.pad(products, (0, 0, 0, most - products.shape[-2]))

    return ScalingJacobian(
        torch.cat([jacobian.diagonal for jacobian in jacobians]),
        columns=torch.cat([filled(jacobian.columns) for jacobian in jacobians]),
        rows=torch.cat([filled(jacobian.rows) for jacobian in jacobians]),
    )


def frobenius_norm(
    normaliser: NormaliserJacobian, scaling: ScalingJacobian | None = None
) -> Float[Tensor, "*any"]:
    """Of d a / d s, the product of both; of d a / d z where no scaling is given.

    The product is diag(d) + U W^T.  All but the row of the largest share are summed as they stand; that row
    is minus the sum of the others, since weights sum to 1: where attention is nearly one-hot, its own entries
    are what is left of numbers that cancel.
    """
    gains, shares = normaliser.gains, normaliser.shares
    changes = gains if scaling is None else gains * scaling.diagonal  # d
    columns, rows = -shares.unsqueeze(-2), changes.unsqueeze(-2)  # U and W, [*any, K, N]
    if scaling is not None and scaling.columns.shape[-2]:
        moved = gains.unsqueeze(-2) * scaling.columns
        paid = shares.unsqueeze(-2) * moved.sum(-1, keepdim=True)
        columns = torch.cat([columns, moved - paid], -2)
        rows = torch.cat([rows, scaling.rows], -2)
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

    Each step puts c + s / (gains_2 - x) in the place of all terms but the first, equal in value and slope,
    and solves that exactly (Bunch, Nielsen and Sorensen 1978): five or six steps give every digit.
    """
    if normaliser.gains.shape[-1] == 1:
        return torch.zeros_like(normaliser.gains[..., 0])
    gains, order = normaliser.gains.sort(-1, descending=True)
    parts = gains * normaliser.shares.gather(-1, order)
    first, others = parts[..., 0], parts[..., 1:]
    poles = gains[..., 1:] - gains[..., :1]  # seen from the largest gain, where all is exact: 0 or less
    gap = -poles[..., 0]
    root = -gap / 2
    is_found = gap == 0  # of equal gains the eigenvalue is that gain
    for _ in range(60):
        distances = poles - root.unsqueeze(-1)
        terms = others / distances
        slope = (terms / distances).sum(-1)
        rise = slope * (gap + root) ** 2  # s
        square = 1 - terms.sum(-1) - slope * (gap + root)  # 1 - c, at least 1
        discriminant = (square * gap - first + rise) ** 2 + 4 * first * rise  # in a form that cancels nothing
        following = -2 * first * gap / (square * gap + first + rise + discriminant.sqrt())
        is_found |= following.isnan()  # the root is the second largest gain, to the last digit
        step = (following - root).abs()
        root = torch.where(is_found, root, following)
        is_found |= step <= 1e-14 * gap
        if is_found.all():
            break
    return gains[..., 0] + root
