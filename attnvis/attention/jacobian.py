"""What scaling and normalising do to a small change, each in a form of O(N) numbers; their product's size.

A normaliser of attnvis has d a_i / d z_j = gains_j (delta_ij - shares_i); a scaling is diagonal but for a few
products of a column and a row.  So nothing here ever holds an N x N matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

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


# What follows is numpy's, in double precision: of one question's few patches PyTorch takes thrice as long.
Rows = Float[np.ndarray, "*any N"]
Products = Float[np.ndarray, "*any K N"]


def as_rows(numbers: Tensor) -> np.ndarray:
    return numbers.detach().double().cpu().numpy()


def best_of(shares: Rows) -> Bool[np.ndarray, "*any N"]:
    """Where the largest is; of equal ones the first."""
    return np.arange(shares.shape[-1]) == shares.argmax(-1)[..., None]


def frobenius_norm(
    normaliser: NormaliserJacobian, scaling: ScalingJacobian | None = None
) -> Float[Tensor, "*any"]:
    """Of d a / d s, the product of both; of d a / d z where no scaling is given."""
    gains, shares = as_rows(normaliser.gains), as_rows(normaliser.shares)
    if scaling is not None and scaling.columns.shape[-2]:
        parts = (as_rows(numbers) for numbers in (scaling.diagonal, scaling.columns, scaling.rows))
        norms = norm_of_products(gains, shares, *parts)
    else:
        factors = gains if scaling is None else gains * as_rows(scaling.diagonal)
        norms = np.sqrt((factors**2 * squared_lengths(shares)).sum(-1))
    return torch.from_numpy(np.asarray(norms)).to(normaliser.gains.device)


def squared_lengths(shares: Rows) -> Rows:
    """Of a normaliser's columns, before their gains: 1 - 2 shares_j + |shares|^2.

    The largest share is taken as what the others leave, since shares sum to 1: where attention is nearly
    one-hot, its column would be what is left of numbers that cancel.
    """
    is_best = best_of(shares)
    others = np.where(is_best, 0.0, shares)
    left = others.sum(-1, keepdims=True)  # 1 - the largest share
    squares = (others**2).sum(-1, keepdims=True)
    return np.where(is_best, left**2 + squares, 1 - 2 * others + (squares + (1 - left) ** 2))


def norm_of_products(
    gains: Rows, shares: Rows, diagonal: Rows, columns: Products, rows: Products
) -> Float[np.ndarray, "*any"]:
    """The product is diag(d) + U W^T.

    All but the row of the largest share are summed as they stand; that row is minus the sum of the others,
    since weights sum to 1 (see `squared_lengths`).
    """
    changes = gains * diagonal  # d
    moved = gains[..., None, :] * columns
    paid = shares[..., None, :] * moved.sum(-1, keepdims=True)
    is_best = best_of(shares)
    columns = np.concatenate([-shares[..., None, :], moved - paid], -2)  # U, [*any, K, N]
    columns = np.where(is_best[..., None, :], 0.0, columns)
    rows = np.concatenate([changes[..., None, :], rows], -2)  # W
    others = np.where(is_best, 0.0, changes)
    # the squares of diag(d) + U W^T without the row of the largest share
    crossed = (others[..., None, :] * columns * rows).sum((-1, -2))
    products = (products_of_pairs(columns) * products_of_pairs(rows)).sum((-1, -2))
    squares = (others**2).sum(-1) + 2 * crossed + products
    row = others + (columns.sum(-1, keepdims=True) * rows).sum(-2)  # minus that row itself
    return np.sqrt(np.maximum(squares, 0) + (row**2).sum(-1))


def products_of_pairs(vectors: Products) -> Float[np.ndarray, "*any K K"]:
    """V V^T; not by numpy's matrix product, whose threads would spin."""
    tensor = torch.from_numpy(vectors)
    return (tensor @ tensor.mT).numpy()


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
    gains = as_rows(normaliser.gains)
    parts = gains * as_rows(normaliser.shares)
    is_best = best_of(gains)
    others = np.where(is_best, 0.0, parts)
    other_gains = np.where(is_best, -np.inf, gains)
    largest, following = gains.max(-1, keepdims=True), other_gains.max(-1, keepdims=True)
    first = (parts - others).sum(-1, keepdims=True)
    second = np.where(best_of(other_gains), parts, 0.0).sum(-1, keepdims=True)
    gap = largest - following
    away = 1 + np.finfo(gap.dtype).eps  # so that no root lies on a pole
    with np.errstate(all="ignore"):
        distances = np.where(is_best, np.inf, (largest - gains) * away)
        still = (others / (distances - gap / 2)).sum(-1, keepdims=True) - 2 * second / gap
        both = gap * (1 + still) + second
        # of y (1 + still + second / (gap - y)) = first
        root = 2 * first * gap / (both + first + np.hypot(both - first, 2 * np.sqrt(first * second)))
        for _ in range(60):
            root = np.minimum(root, gap)
            to_poles = distances - root
            terms = others / to_poles
            shrink = 1 / (1 + terms.sum(-1, keepdims=True))
            slope = (terms / to_poles).sum(-1, keepdims=True)
            target = first * shrink
            step = (target - root) / (1 + slope * target * shrink)
            root = root + step
            if not (np.abs(step) > 1e-8 * (gap - root) + 4e-16 * gap).any():  # another step would square it
                break
        # of equal gains the eigenvalue is that gain
        eigenvalues = np.where(gap > 0, largest - np.minimum(root, gap), largest)
    return torch.from_numpy(eigenvalues[..., 0]).to(normaliser.gains.device)
