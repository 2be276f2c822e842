"""What a method says of one photo: where it looks, on which grid of cells, and what can be read off that."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attnvis.geometry import to_pixels
from attnvis.metrics.diagnostics import NEARLY_UNIFORM
from attnvis.types import Attention, Batch, Box, ClassScore, Features, PhotoError, Placement, percent

__all__ = [
    "AlongCells",
    "Answer",
    "Attended",
    "Method",
    "Pooled",
    "Stability",
    "predictions",
    "require_finite",
    "require_finite_classes",
]

UNLIKELY = 0.01  # probability: a class below it is drawn all the same, and the answer warns of it
# |correlation| of scores and norms.  On 200 photos, with EfficientNet-Lite0 and with MobileNetV2 (python
# scripts/choose_question.py DIR/osie/images), pca's map turned over in the mirror or at 320 px on 57 of 152
# below it, on 5 of 248 above; .5 would miss 28 of the 62.
FREE_SIGN = 0.75


@dataclass(frozen=True, eq=False)
class Stability:
    """How far a map holds still where the photo is mirrored, shifted, or of another size."""

    worst: float  # the smallest correlation with the photo's own map, log scale; NaN: there is no contrast
    change: str  # under which change: mirror, shift, size
    spread: float  # of log2 of times uniform over the maps, standard deviation, the mean over the photo
    mean_map: Float[np.ndarray, "h w"] | None = None  # times uniform, geometric mean; None: read from a file
    spread_map: Float[np.ndarray, "h w"] | None = None


NAN = float("nan")
NO_CURVE = np.empty(0, np.float32)


@dataclass(frozen=True)
class Pooled:
    """What the classifier says of one mean of the patches; NaN and "" where there is none."""

    name: str = ""  # of the likeliest class
    probability: float = NAN  # of that class
    logit: float = NAN  # of the class that is watched
    margin: float = NAN  # that logit less the best other class's: above 0 it is the likeliest


@dataclass(frozen=True, eq=False)
class AlongCells:
    """A class's probability while the mean is of ever more or ever fewer cells, and the area under it."""

    area: float = NAN
    curve: Float[np.ndarray, " N"] = field(default_factory=lambda: NO_CURVE)


@dataclass(frozen=True, eq=False)
class Attended:
    """What the classifier says where it reads the context in place of the mean patch (V' in place of V)."""

    name: str = ""  # of the class that is watched: the one asked for, else the photo's likeliest
    whole: Pooled = Pooled()  # of the mean patch, as the network has it
    inside: Pooled = Pooled()  # of the context, sum_i a_i v_i
    outside: Pooled = Pooled()  # of its complement, the mean by (1 - a_i) / (N - 1)
    insertion: AlongCells = AlongCells()  # the hottest cell alone first, at last all
    deletion: AlongCells = AlongCells()  # all first, at last the coldest cell alone
    # along the temperature, tau / std of the scores, under softmax: the class that is watched
    temperatures: tuple[float, ...] = ()
    probabilities: Float[np.ndarray, " T"] = field(default_factory=lambda: NO_CURVE)
    logits: Float[np.ndarray, " T"] = field(default_factory=lambda: NO_CURVE)
    margins: Float[np.ndarray, " T"] = field(default_factory=lambda: NO_CURVE)
    reason: str = ""  # why nothing is known


CHANGED = {"mirror": "in the mirror", "shift": "shifted by a few pixels", "size": "at another size"}
CHANCE = 0.05  # a p value above it is said: the map may be anybody's


@dataclass(frozen=True, eq=False)
class Answer:
    """One map over one photo, and where it comes from.

    Of an attention all of its stages; another method has none.
    """

    query: str  # the question as it is typed: class:tabby, pca
    label: str  # what that is on this photo: tabby
    weights: Float[Tensor, " N"]  # of the cells, row by row; not negative, they sum to 1
    placement: Placement
    diagnostics: dict[str, float]
    attention: Attention | None = None  # B = Q = 1
    vector: Tensor | None = None  # [K], the query of an attention
    mark: Box | tuple[float, float] | None = None
    layer: str = "last"
    class_score: ClassScore | None = None  # of a class query
    sign_margin: float | None = None  # of a query whose sign is free, 0 ... 1
    p_value: float | None = None  # of a class query: how often a random class's hottest patch is as hot
    # of a score above the mean score: beyond it a patch is hotter than any of 95 % of random classes' maps
    critical: float | None = None
    stability: Stability | None = None  # where it was asked for
    heads: Float[Tensor, "H N"] | None = None  # the weights of each of several heads; `weights` is their mean
    remarks: tuple[str, ...] = ()  # of the question and its keys, in sentences: among the warnings
    attended: Attended | None = None  # likewise
    # the network's likeliest classes on this photo, with probabilities
    predicted: tuple[tuple[str, float], ...] = ()

    @property
    def patches(self) -> int:
        """N."""
        return len(self.weights)

    @property
    def cells(self) -> Float[np.ndarray, "h w"]:
        """N a_i on the grid: 1 = no preference."""
        return (len(self.weights) * self.weights).reshape(self.placement.grid).float().cpu().numpy()

    def map(self, size: tuple[int, int] | None = None) -> Float[np.ndarray, "H W"]:
        """N a_i over the photo's pixels (or a grid of `size`), NaN where the network never looked."""
        return to_pixels(self.cells, self.placement, size)

    def density(self, size: tuple[int, int] | None = None) -> Float[np.ndarray, "H W"]:
        """The weights as a density over pixels: it sums to 1."""
        cells = self.weights.reshape(self.placement.grid).float().cpu().numpy()
        return to_pixels(cells, self.placement, size, density=True)

    @property
    def hottest(self) -> tuple[int, int]:
        """The cell (row, column) of the largest weight."""
        row, column = divmod(int(self.weights.argmax()), self.placement.grid[1])
        return row, column

    @property
    def field(self) -> Box | None:
        """What the cell under the point that was asked about can see of the photo; without a point,
        the hottest cell.
        """
        cell = self.placement.nearest(*self.mark) if isinstance(self.mark, tuple) else self.hottest
        return self.placement.sees(*cell)

    def top(self, count: int = 5) -> list[tuple[float, Box]]:
        """The hottest patches: weight, and place on the photo."""
        weights, patches = self.weights.topk(min(count, self.patches))
        cells = [divmod(patch, self.placement.grid[1]) for patch in patches.tolist()]
        return [
            (weight, self.placement.tile(*cell)) for weight, cell in zip(weights.tolist(), cells, strict=True)
        ]

    @property
    def head_agreement(self) -> float | None:
        """The mean correlation of two heads' weights; NaN where one has no contrast, None of one head."""
        if self.heads is None:
            return None
        weights = self.heads.double()
        centred = weights - weights.mean(1, keepdim=True)
        lengths = centred.norm(dim=1)
        if bool((lengths <= 1e-9).any()):
            return math.nan
        directions = centred / lengths.unsqueeze(1)
        cosines = directions @ directions.mT
        count = len(weights)
        return float((cosines.sum() - count) / (count * (count - 1)))

    @property
    def beyond_chance(self) -> Float[np.ndarray, "h w"] | None:
        """s_i - mean s less the critical value, on the grid: above 0 the patch is hotter than chance, over
        the whole photo (family-wise 5 %); None where there is no such value.
        """
        if self.critical is None or self.attention is None or not math.isfinite(self.critical):
            return None
        scores = self.attention.scores.flatten().double()
        excess = scores - scores.mean() - self.critical
        return excess.reshape(self.placement.grid).float().cpu().numpy()

    @property
    def patches_beyond_chance(self) -> int | None:
        excess = self.beyond_chance
        return None if excess is None else int((excess > 0).sum())

    @property
    def turns_over(self) -> bool:
        """Whether a change of the photo that changes no question turns the map into its opposite."""
        return self.stability is not None and self.stability.worst < 0

    @property
    def is_chance(self) -> bool:
        """Whether a random class's map would be as hot: its p value is known, and large."""
        return self.p_value is not None and self.p_value > CHANCE

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the map has to know, in sentences."""
        warnings = []
        perplexity = self.diagnostics["perplexity"]
        if perplexity > NEARLY_UNIFORM * self.patches:
            flat = self.diagnostics.get("score_range", 0.0) <= 0
            advice = "" if flat else "; scaling=perplexity shows its order"
            warnings.append(f"nearly uniform: spread over {perplexity:.1f} of {self.patches} patches{advice}")
        if self.diagnostics["saturated"]:
            warnings.append("one-hot: more than 99 % of the attention is on one patch")
        if self.class_score and self.class_score.probability < UNLIKELY:
            score = self.class_score
            chance = percent(score.probability)
            warnings.append(f"unlikely: the network gives {score.name} {chance} here, rank {score.rank}")
        if self.stability is not None and self.turns_over:
            warnings.append(
                f"turns over: {CHANGED[self.stability.change]} the map becomes its opposite "
                f"(correlation {self.stability.worst:.2f})"
            )
        if self.p_value is not None and self.is_chance:
            warnings.append(f"chance: {percent(self.p_value)} of random classes have as hot a patch")
        if self.sign_margin is not None and self.sign_margin < FREE_SIGN:
            warnings.append(
                "free sign: in a mirror or at another size the map may turn into its opposite "
                f"(margin {self.sign_margin:.2f})"
            )
        return (*warnings, *self.remarks)


def require_finite(numbers: Float[Tensor, "B ..."], features: Features, what: str) -> None:
    """Raises PhotoError where a layer gave NaN or infinity:
    a normaliser would turn it into a map like any other.

    `what` these numbers are: features, scores.  The first such photo of a batch is named.
    """
    if math.isfinite(numbers.sum()):  # one NaN or infinity makes the sum one; so may finite numbers
        return
    counts = (~numbers.isfinite()).flatten(1).sum(1).tolist()
    if not any(counts):
        return
    photo = next(index for index, count in enumerate(counts) if count)
    name = features.names[photo] if features.names else f"photo {photo}"
    raise PhotoError(
        f"{name}: {counts[photo]} of {numbers[photo].numel()} {what} of layer {features.layer} are not "
        "finite (NaN or infinite); the weights are damaged, or the network overflows: "
        "try backbone.precision=fp32"
    )


def require_finite_classes(features: Features) -> None:
    """Raises PhotoError where the class logits of a layer that the classifier reads are not finite."""
    if features.head and features.logits is not None:
        require_finite(features.logits, features, "class logits")


Method = Callable[[Batch], list[list[Answer]]]  # photos of one shape in; of each photo its answers


def predictions(layers: Sequence[Features], count: int = 5) -> list[tuple[tuple[str, float], ...]]:
    """Of each photo the likeliest classes and their probabilities, says the layer that the classifier reads;
    () where none of these is it.
    """
    for layer in layers:
        if layer.head and layer.logits is not None:
            likeliest = layer.logits.softmax(-1).topk(min(count, layer.logits.shape[-1]))
            rows = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            return [
                tuple(zip(map(layer.head.category, classes), probabilities, strict=True))
                for classes, probabilities in rows
            ]
    return [()] * len(layers[0].tokens)
