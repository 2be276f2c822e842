"""What is changed to see whether a map changes: the order of the patches, whose query it is, the photo."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.experiments.evaluate.maps import PlacedMap
from attnvis.methods.attention import Encoder
from attnvis.pipeline.stability import mirror_placement
from attnvis.types import Batch, Features, Query

__all__ = [
    "AskedAsBefore",
    "Maps",
    "Reordered",
    "Vectors",
    "asked_by_another",
    "asked_in_order",
    "filled",
    "in_order",
    "logits_of",
    "shift_of",
    "shifted",
    "turned_back",
]

SHARE_SHIFTED = 1 / 32  # of the input's short side: 7 px of 224

Maps = dict[str, list[PlacedMap]]  # of every row, one a photo of the batch
Vectors = dict[tuple[str, str], list[np.ndarray]]  # (query, layer) -> an array for each query of that name


@dataclass(frozen=True, eq=False)
class AskedAsBefore:
    """An encoder whose network predicts what another network predicted: "predicted" means the same class."""

    encoder: Encoder
    logits: Sequence[Tensor | None]  # layer by layer

    def __call__(self, batch: Batch) -> tuple[Features, ...]:
        return tuple(
            features if logits is None or features.head is None else replace(features, logits=logits)
            for features, logits in zip(self.encoder(batch), self.logits, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Reordered:
    """An encoder whose patches come in another order."""

    encoder: Encoder
    seed: int

    def __call__(self, batch: Batch) -> tuple[Features, ...]:
        return tuple(
            replace(features, tokens=features.tokens[:, order_of(features, self.seed)])
            for features in self.encoder(batch)
        )


def order_of(features: Features, seed: int) -> Int[Tensor, " N"]:
    """The same order for every layer of so many patches."""
    count = features.tokens.shape[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order.to(features.tokens.device)


def asked_in_order(features: Features, question: QueryFunction, seed: int) -> list[Query]:
    """What is asked of the patches in their own order; keys of the query's own are reordered like them."""
    order = order_of(features, seed)
    queries = build_queries(question, replace(features, tokens=features.tokens[:, order.argsort()]))
    return [query if query.keys is None else replace(query, keys=query.keys[:, order]) for query in queries]


def in_order(placed: PlacedMap, layers: Sequence[Features], seed: int) -> PlacedMap:
    """A map of reordered patches, each weight where its patch was."""
    layer = next(features for features in layers if features.tokens.shape[1] == len(placed.weights))
    return replace(placed, weights=placed.weights[order_of(layer, seed).argsort().cpu()])


def asked_by_another(features: Features, question: QueryFunction, vectors: Vectors, text: str) -> list[Query]:
    """The queries of one photo with the vectors of another."""
    queries = build_queries(question, features)
    others = vectors[text, features.layer]
    return [
        replace(query, vectors=torch.from_numpy(other).unsqueeze(0).to(query.vectors))
        for query, other in zip(queries, others, strict=True)
    ]


def logits_of(features: Features) -> Tensor | None:
    """What the classifier answers; of an earlier layer by what follows in the network."""
    if features.logits is not None or features.head is None:
        return features.logits
    return features.head.read(features.maps)[0].float()


def shift_of(batch: Batch) -> int:
    """By how many pixels of the input a batch is moved."""
    return max(1, round(SHARE_SHIFTED * min(batch.images.shape[2:])))


def shifted(batch: Batch, pixels: int) -> Batch:
    """The input moved down and to the right, its edge drawn out; cells are placed where they look."""
    height, width = batch.images.shape[2:]
    rows = (torch.arange(height) - pixels).clamp_min(0)
    columns = (torch.arange(width) - pixels).clamp_min(0)
    views = [replace(view, shift=(view.shift[0] + pixels, view.shift[1] + pixels)) for view in batch.views]
    return replace(batch, images=batch.images[:, :, rows][:, :, :, columns], views=tuple(views))


def turned_back(maps: Maps) -> Maps:
    """Maps over mirrored photos, where their cells lie on the photos."""
    return {
        row: [
            replace(
                each,
                weights=each.weights.reshape(each.placement.grid).flip(1).flatten(),
                placement=mirror_placement(each.placement),
            )
            for each in of_row
        ]
        for row, of_row in maps.items()
    }


def filled(batch: Batch, count: int) -> Batch:
    """A batch of `count` whose first photos are these; the others are moved copies of them."""
    own = len(batch.photos)
    if own >= count:
        return batch
    numbers = [number % own for number in range(count)]
    images = torch.stack(
        [batch.images[number].roll(16 * (place // own), -1) for place, number in enumerate(numbers)]
    )
    views = tuple(batch.views[number] for number in numbers)
    return Batch(images, views, tuple(batch.photos[number] for number in numbers))
