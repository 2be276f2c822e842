"""What a method says of one photo: an attention and its place, and what can be read off them; `predictions`, what the classifier says."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from attnvis.geometry import to_pixels
from attnvis.metrics.diagnostics import NEARLY_UNIFORM
from attnvis.types import Attention, Box, ClassScore, Features, Placement, percent

__all__ = ["Answer"]

UNLIKELY = 0.01  # probability: a class below it is drawn all the same, and said
# |correlation| of scores and norms.  On 200 photos, with EfficientNet-Lite0 and with MobileNetV2 (python scripts/choose_question.py
# DIR/osie/images), pca's map turned over in the mirror or at 320 px on 57 of 152 below it, on 5 of 248 above; .5 would miss 28 of the 62.
FREE_SIGN = 0.75


@dataclass(frozen=True, eq=False)
class Answer:
    """What one query found on one photo."""

    query: str  # what was asked: class:tabby, pca
    label: str  # what that is on this photo: tabby
    attention: Attention  # B = Q = 1
    placement: Placement
    diagnostics: dict[str, float]
    vector: Tensor  # [K], the query itself
    mark: Box | tuple[float, float] | None = None
    layer: str = "last"
    class_score: ClassScore | None = None  # of a class query
    sign_margin: float | None = None  # of a query whose sign is free, 0 ... 1

    @property
    def patches(self) -> int:
        return self.attention.weights.shape[-1]

    @property
    def cells(self) -> np.ndarray:
        """N a_i on the grid [h, w]: 1 = no preference."""
        return self.attention.times_uniform.reshape(self.placement.grid).float().cpu().numpy()

    def map(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """N a_i over the photo's pixels (or a grid of `size`), NaN where the network never looked."""
        return to_pixels(self.cells, self.placement, size)

    def density(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The attention as a density over pixels: it sums to 1."""
        return to_pixels(
            self.attention.weights.reshape(self.placement.grid).float().cpu().numpy(),
            self.placement,
            size,
            density=True,
        )

    @property
    def field(self) -> Box | None:
        """What the cell under the point that was asked about can see of the photo; without a point, the hottest cell."""
        if isinstance(self.mark, tuple):
            return self.placement.sees(*self.placement.nearest(*self.mark))
        return self.placement.sees(*divmod(int(self.attention.weights.argmax()), self.placement.grid[1]))

    def top(self, count: int = 5) -> list[tuple[float, Box]]:
        """The hottest patches: weight, and place on the photo."""
        weights, patches = self.attention.weights.flatten().topk(min(count, self.patches))
        columns = self.placement.grid[1]
        where = [divmod(patch, columns) for patch in patches.tolist()]
        return [
            (weight, self.placement.tile(*cell)) for weight, cell in zip(weights.tolist(), where, strict=True)
        ]

    @property
    def warnings(self) -> tuple[str, ...]:
        said = []
        if self.diagnostics["perplexity"] > NEARLY_UNIFORM * self.patches:
            spread_over = f"{self.diagnostics['perplexity']:.1f} of {self.patches} patches"
            flat = self.diagnostics["score_range"] <= 0
            said.append(
                f"nearly uniform: spread over {spread_over}"
                + ("" if flat else "; scaling=perplexity shows its order")
            )
        if self.diagnostics["saturated"]:
            said.append("one-hot: more than 99 % of the attention is on one patch")
        if self.class_score and self.class_score.probability < UNLIKELY:
            score = self.class_score
            said.append(
                f"unlikely: the network gives {score.name} {percent(score.probability)} here, rank {score.rank}"
            )
        if self.sign_margin is not None and self.sign_margin < FREE_SIGN:
            said.append(
                f"free sign: in a mirror or at another size the map may turn into its opposite (margin {self.sign_margin:.2f})"
            )
        return tuple(said)


def predictions(features: Features, photo: int, count: int = 5) -> tuple[tuple[str, float], ...]:
    """Of the layer that the classifier reads, where it is among those that were asked for."""
    for layer in (features, *features.also):
        if layer.head and layer.logits is not None:
            chances, classes = layer.logits[photo].softmax(-1).topk(min(count, layer.logits.shape[-1]))
            return tuple(
                (layer.head.category(index), chance)
                for chance, index in zip(chances.tolist(), classes.tolist(), strict=True)
            )
    return ()
