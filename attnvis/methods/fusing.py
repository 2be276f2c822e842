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

__all__ = ["FUSIONS", "fused", "require_fusion"]

NO_CONTEXT = "a map made of several layers has no score and no context: no p value, and nothing attended"


def mixture(weights: Float[Tensor, "L N"]) -> Float[Tensor, " N"]:
    """The mean: what any layer looks at."""
    return weights.mean(0)


def product(weights: Float[Tensor, "L N"]) -> Float[Tensor, " N"]:
    """The geometric mean: what all layers look at.  Of softmaxes on one grid: softmax of the mean logits."""
    logs = weights.log().mean(0)
    return (logs - logs.amax()).exp() if logs.amax().isfinite() else torch.zeros_like(logs)


def largest(weights: Float[Tensor, "L N"]) -> Float[Tensor, " N"]:
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
    placements = [answer.placement for answer in answers]
    finest = min(placements, key=lambda placement: placement.step[0] * placement.step[1])
    weights = torch.stack([on_cells(answer, finest) for answer in answers])
    joined = FUSIONS[name](weights)
    if not joined.sum() > 0:
        raise PhotoError(
            f"{base}: the layers' maps share no cell, and their product is nothing; fuse=mixture"
        )
    joined = (joined / joined.sum()).to(answers[0].weights)
    asked = any(answer.attended is not None or answer.critical is not None for answer in answers)
    remarks = [remark for answer in answers for remark in answer.remarks] + [NO_CONTEXT] * asked
    margins = [answer.sign_margin for answer in answers if answer.sign_margin is not None]
    return replace(
        answers[-1],
        label=f"{base}, {name}",
        layer="+".join(answer.layer for answer in answers),
        weights=joined,
        placement=finest,
        diagnostics={key: float(value) for key, value in diagnose(joined).items()},
        attention=None,
        vector=None,
        heads=None,
        p_value=None,
        critical=None,
        attended=None,
        sign_margin=min(margins, default=None),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def on_cells(answer: Answer, finest: Placement) -> Float[Tensor, " N"]:
    """An answer's weights on other cells, summing to 1."""
    weights = answer.weights.double().cpu().reshape(answer.placement.grid)
    if answer.placement != finest:
        rows, columns = (shares_along(finest, answer.placement, axis) for axis in (0, 1))
        weights = rows @ weights @ columns.T
    return weights.flatten() / weights.sum()
