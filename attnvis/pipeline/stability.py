"""Does a map hold still?  The same question of the mirrored photo, of one shifted by some pixels, of another
size: how far the maps agree on the photo.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from attnvis.data.preprocessing import collate
from attnvis.geometry import to_pixels
from attnvis.methods.answer import Answer, Stability
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import PhotoResult, SettingGrid
from attnvis.types import Batch, Box, Features, Placement, Preprocessing

__all__ = [
    "CHANGES",
    "StableGrid",
    "StableMethod",
    "allowed_changes",
    "mirrored",
    "resized",
    "shifted",
    "stability_of",
]

COLOURS = (-2.0, 6.0)  # log2 of times uniform where the colours end: 1/4 ... 64
FAINTEST = 2.0**-10  # times uniform; less is as little
SHARE_SHIFTED = 1 / 32  # of the input's short side: 7 px of 224
SHARE_LARGER = 10 / 7  # 320 px for 224


@dataclass(frozen=True, eq=False)
class SettingMap:
    """One setting's map of a sweep."""

    cells: Float[np.ndarray, "h w"]  # times uniform
    placement: Placement


Asked = AttentionMethod | SettingGrid  # what asks a network
Mapped = Answer | SettingMap


Change = Callable[[Asked, Batch, Preprocessing], Sequence[Features]]


def mirrored(method: Asked, batch: Batch, how: Preprocessing) -> list[Features]:
    """The features of the mirrored photos, their columns turned back to where they lie on the photo."""
    return [turned_back(layer) for layer in method.backbone(replace(batch, images=batch.images.flip(-1)))]


def turned_back(features: Features) -> Features:
    tokens = features.maps.flip(-1).flatten(2).mT.contiguous()
    placements = tuple(map(mirror_placement, features.placements))
    turned = replace(features, tokens=tokens, placements=placements)
    object.__setattr__(turned, "ask", features.ask)  # it asks no place: the sum over all patches
    return turned


def mirror_placement(placement: Placement) -> Placement:
    """Where the cells of a mirrored photo lie on the photo, the columns in its order."""
    width = placement.size[1]
    last = placement.first[1] + placement.step[1] * (placement.grid[1] - 1)
    seen = placement.seen
    return replace(
        placement,
        first=(placement.first[0], width - last),
        seen=Box(seen.top, width - seen.left - seen.width, seen.height, seen.width),
    )


def shifted(method: Asked, batch: Batch, how: Preprocessing) -> Sequence[Features]:
    """Of the input shifted down and to the right, its edge drawn out; every cell is placed where it looks."""
    pixels = max(1, round(SHARE_SHIFTED * how.size))
    height, width = batch.images.shape[2:]
    rows = (torch.arange(height) - pixels).clamp_min(0)
    columns = (torch.arange(width) - pixels).clamp_min(0)
    views = [replace(view, shift=(view.shift[0] + pixels, view.shift[1] + pixels)) for view in batch.views]
    return method.backbone(
        replace(batch, images=batch.images[:, :, rows][:, :, :, columns], views=tuple(views))
    )


def resized(method: Asked, batch: Batch, how: Preprocessing) -> Sequence[Features]:
    """Of the photos at the next larger size that the preprocessing allows."""
    steps = round(SHARE_LARGER * how.size / how.multiple - how.size / how.multiple)
    larger = replace(how, size=how.size + max(1, steps) * how.multiple)
    return method.backbone(collate(batch.photos, larger))


CHANGES: dict[str, Change] = {"mirror": mirrored, "shift": shifted, "size": resized}


@dataclass(frozen=True)
class StableMethod:
    """A method whose answers know how far they hold still: Batch -> answers, one more pass per change."""

    method: AttentionMethod
    how: Preprocessing
    changes: tuple[str, ...] = tuple(CHANGES)

    def __call__(self, batch: Batch) -> list[list[Answer]]:
        return self.judged(self.method(batch), self.changed(batch))

    def changed(self, batch: Batch) -> dict[str, Sequence[Features]]:
        """The features of the photos under every change that the network allows: one pass for each."""
        return changed_features(self.method, batch, self.how, self.changes)

    def judged(
        self, answers: Sequence[Sequence[Answer]], changed: Mapping[str, Sequence[Features]]
    ) -> list[list[Answer]]:
        """The answers with how far they hold still."""
        method = replace(self.method, random_classes=0, attended=False)  # once is enough
        others = {name: method.answer(layers) for name, layers in changed.items()}
        return [
            [
                replace(
                    answer,
                    stability=stability_of(
                        answer, {name: of_photos[photo][number] for name, of_photos in others.items()}
                    ),
                )
                for number, answer in enumerate(of_photo)
            ]
            for photo, of_photo in enumerate(answers)
        ]


def changed_features(
    method: Asked, batch: Batch, how: Preprocessing, changes: Sequence[str] = tuple(CHANGES)
) -> dict[str, Sequence[Features]]:
    """Of each change that the network allows its features: one pass for each."""
    return {name: CHANGES[name](method, batch, how) for name in allowed_changes(how, changes)}


def allowed_changes(how: Preprocessing, changes: Sequence[str] = tuple(CHANGES)) -> list[str]:
    """Those of the changes that a network allows: one that takes a single size has no other."""
    return [name for name in changes if name != "size" or how.sides != "fixed"]


@dataclass(frozen=True)
class StableGrid:
    """A grid of settings whose results know how far each map holds still: one more pass per change."""

    grid: SettingGrid
    how: Preprocessing

    def __call__(self, batch: Batch) -> list[list[PhotoResult]]:
        results = self.grid(batch)
        bare = replace(self.grid, random_classes=0)
        changed = changed_features(self.grid, batch, self.how)
        others = {name: bare.answer(layers) for name, layers in changed.items()}
        return [
            [
                steadied(result, {name: of_photos[photo][number] for name, of_photos in others.items()})
                for number, result in enumerate(of_photo)
            ]
            for photo, of_photo in enumerate(results)
        ]


def steadied(result: PhotoResult, others: Mapping[str, PhotoResult]) -> PhotoResult:
    """The result with worst_correlation and spread of every setting."""
    of_changes = {name: setting_maps(other) for name, other in others.items()}
    stabilities = [
        stability_of(own, {name: maps[number] for name, maps in of_changes.items()})
        for number, own in enumerate(setting_maps(result))
    ]
    checks = {
        "worst_correlation": [stability.worst for stability in stabilities],
        "spread": [stability.spread for stability in stabilities],
    }
    return replace(result, checks={**result.checks, **checks})


def setting_maps(result: PhotoResult) -> list[SettingMap]:
    weights = result.weights
    cells = (weights.shape[-1] * weights).unflatten(-1, result.placement.grid).float().cpu().numpy()
    return [SettingMap(of_setting, result.placement) for of_setting in cells]


def stability_of(answer: Mapped, others: Mapping[str, Mapped]) -> Stability:
    """How far the maps of the changed photos agree with the photo's own.

    All are drawn on a grid twice as fine as the cells.  Correlations are Pearson's of log2 of times uniform,
    over what both saw; NaN for a map without contrast.  The spread is between the ends of the colours: what
    nobody sees does not count.
    """
    rows, columns = answer.placement.grid
    size = (2 * rows, 2 * columns)
    own = log_map(answer, size)
    changed = {name: log_map(other, size) for name, other in others.items()}
    correlations = {name: correlation(own, other) for name, other in changed.items()}
    defined = {name: value for name, value in correlations.items() if not np.isnan(value)}
    worst = min(defined, key=defined.__getitem__) if defined else ""
    maps = np.stack([own, *changed.values()])
    spread = np.std(maps.clip(*COLOURS), axis=0)
    mean = np.exp2(maps.mean(0))
    return Stability(
        worst=defined.get(worst, float("nan")),
        change=worst,
        spread=float(np.nanmean(spread)),
        mean_map=mean / np.nanmean(mean),
        spread_map=spread,
    )


def log_map(answer: Mapped, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    return np.log2(to_pixels(answer.cells, answer.placement, size).clip(FAINTEST))


def correlation(one: Float[np.ndarray, "h w"], other: Float[np.ndarray, "h w"]) -> float:
    """Pearson's, over what both saw; NaN where either has no contrast."""
    seen = ~(np.isnan(one) | np.isnan(other))
    first, second = (values[seen] - values[seen].mean() for values in (one, other))
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / lengths) if lengths > 1e-9 else float("nan")
