"""One question's maps of several layers in, one map on the finest of their grids out.

Each layer's weights are brought to the finest cells and made to sum to 1 there: the mean over the finer cells
where it has finer ones along an axis, linear interpolation of times uniform where it has coarser ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.query.patches import shares_along
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import PhotoError, Placement

__all__ = ["FUSIONS", "finest_of", "fused", "joined", "require_fusion"]

NO_CONTEXT = "a map made of several layers has no score and no context: no p value, and nothing attended"


def mixture(weights: Float[Tensor, "L *any N"]) -> Float[Tensor, "*any N"]:
    """The mean: what any layer looks at."""
    return weights.mean(0)


def product(weights: Float[Tensor, "L *any N"]) -> Float[Tensor, "*any N"]:
    """The geometric mean: what all layers look at.  Of softmaxes on one grid: softmax of the mean logits."""
    logs = weights.log().mean(0)
    largest_log = logs.amax(-1, keepdim=True)
    return torch.where(largest_log.isfinite(), (logs - largest_log).exp(), 0.0)


def largest(weights: Float[Tensor, "L *any N"]) -> Float[Tensor, "*any N"]:
    """The larger of them, cell by cell."""
    return weights.amax(0)


FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {"mixture": mixture, "product": product, "max": largest}


def require_fusion(name: str) -> None:
    """Raises ValueError for what is none."""
    if name not in FUSIONS:
        raise ValueError(f"fuse={name}: there are {', '.join(FUSIONS)}")


def fused(answers: Sequence[Answer], name: str, base: str) -> Answer:
    """One photo's answers of several layers to one question, joined; base: its label without a layer.

    It is a map alone: of several layers there is no score and no value.  Raises PhotoError where the layers'
    maps share no cell and their product is nothing.
    """
    weights, finest = joined(
        [answer.weights for answer in answers], [answer.placement for answer in answers], name, base
    )
    asked = any(answer.attended is not None or answer.critical is not None for answer in answers)
    remarks = [remark for answer in answers for remark in answer.remarks] + [NO_CONTEXT] * asked
    margins = [answer.sign_margin for answer in answers if answer.sign_margin is not None]
    return replace(
        answers[-1],
        label=f"{base}, {name}",
        layer="+".join(answer.layer for answer in answers),
        weights=weights,
        placement=finest,
        diagnostics={key: float(value) for key, value in diagnose(weights).items()},
        attention=None,
        vector=None,
        heads=None,
        p_value=None,
        critical=None,
        attended=None,
        sign_margin=min(margins, default=None),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def joined(
    weights: Sequence[Float[Tensor, "..."]], placements: Sequence[Placement], name: str, base: str
) -> tuple[Float[Tensor, "*any N"], Placement]:
    """The maps of several layers as one, and where its cells lie; base: what they answer, for the error.

    Raises PhotoError as `fused` does.
    """
    finest = finest_of(placements)
    on_finest = [on_cells(*layer, finest) for layer in zip(weights, placements, strict=True)]
    whole = FUSIONS[name](torch.stack(on_finest))
    sums = whole.sum(-1, keepdim=True)
    if not (sums > 0).all():
        raise PhotoError(
            f"{base}: the layers' maps share no cell, and their product is nothing; fuse=mixture"
        )
    return (whole / sums).to(weights[0]), finest


def finest_of(placements: Sequence[Placement]) -> Placement:
    """Where the smallest cells lie."""
    return min(placements, key=lambda placement: placement.step[0] * placement.step[1])


def on_cells(
    weights: Float[Tensor, "*any n"], placement: Placement, finest: Placement
) -> Float[Tensor, "*any N"]:
    """Weights on other cells, summing to 1."""
    cells = weights.double().cpu().unflatten(-1, placement.grid)
    if placement != finest:
        rows, columns = (shares_along(finest, placement, axis) for axis in (0, 1))
        cells = rows @ cells @ columns.T
    flat = cells.flatten(-2)
    return flat / flat.sum(-1, keepdim=True)
