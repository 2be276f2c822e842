"""Photos of one shape in, of each one map a row of the table out: attention's settings and other methods.

The network sees a batch once, whatever number of rows there is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention import normalise as normalisers
from attnvis.attention.dot_product import Normalise, Scaling, at_least_float32
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.cells import CellGeometry
from attnvis.backbone.heads import Linear
from attnvis.data.reading import suggest
from attnvis.geometry import to_pixels
from attnvis.methods.answer import require_finite, require_finite_classes
from attnvis.methods.attention import Encoder
from attnvis.methods.saliency import Inputs, MapFunction, as_weights, require_finite_maps
from attnvis.metrics.faithfulness import Evidence
from attnvis.pipeline.preparing import prepared
from attnvis.types import (
    Batch,
    Box,
    Features,
    Photo,
    PhotoError,
    Placement,
    Preprocessing,
    Scores,
    Source,
    View,
)

__all__ = ["CellPlaces", "MapMaker", "PhotoMaps", "PlacedMap", "Row", "backbone_placements", "require_row"]


@dataclass(frozen=True)
class Row:
    """A row of the table, or a point of a curve.

    family       rows that compete as settings of one question: attention's query; of others the name itself
    temperature  of a point of a curve, in standard deviations of the scores; None: a row of the table
    between      of a row that is drawn otherwise than the others: see `PlacedMap.density`; "": as they are
    """

    name: str
    family: str
    temperature: float | None = None
    between: str = field(default="", compare=False)


def require_row(name: str, rows: Sequence[Row]) -> None:
    """Raises ValueError where the table has no row of this name."""
    names = [row.name for row in rows]
    if name not in names:
        offered = ", ".join(row.name for row in rows if row.temperature is None)
        raise ValueError(f"against={name} is no row of the table; there are {offered}{suggest(name, names)}")


@dataclass(frozen=True, eq=False)
class PlacedMap:
    """One row's map over one photo: weights that sum to 1, and where their cells lie."""

    row: Row
    weights: Float[Tensor, " N"]
    placement: Placement

    @property
    def cells(self) -> Float[np.ndarray, "h w"]:
        """N a_i on the grid: 1 = no preference."""
        return (len(self.weights) * self.weights).reshape(self.placement.grid).float().numpy()

    def density(self, size: tuple[int, int], between: str = "linear") -> Float[Tensor, "H W"]:
        """Over a grid of `size` that covers the photo, of sum 1; NaN where the network never looked.

        between   the cells' centres: linear, as maps are drawn; or nearest, each pixel its own cell's weight

        What is drawn between the cells, divided by its sum: weights that are all the same stay so.  With each
        cell's weight spread over its own pixels they would not: the outer cells have more, or fewer, of them.
        """
        cells, placement = self.cells, self.placement
        if (self.row.between or between) == "nearest":
            pixels = to_pixels(cells * 0, placement, size) + cells[nearest_cells(placement, size)]
        else:
            pixels = to_pixels(cells, placement, size)
        weights = torch.from_numpy(pixels).double()
        return weights / weights.nansum()

    def on_input(self, view: View) -> Float[Tensor, "H W"]:
        """Over the pixels of the network's input."""
        height, width = view.size
        place = Placement(
            first=view.to_input(*self.placement.first),
            step=(self.placement.step[0] * view.scale[0], self.placement.step[1] * view.scale[1]),
            grid=self.placement.grid,
            size=view.size,
            seen=Box(0.0, 0.0, height=float(height), width=float(width)),
        )
        return torch.from_numpy(to_pixels(self.cells, place))


def nearest_cells(placement: Placement, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows [H, 1], columns [1, W]): the cell that is centred next to each pixel of a grid of `size`."""
    rows, columns = (
        np.rint(((np.arange(pixels) + 0.5) * whole / pixels - first) / step).astype(int).clip(0, cells - 1)
        for pixels, whole, first, step, cells in zip(
            size, placement.size, placement.first, placement.step, placement.grid, strict=True
        )
    )
    return rows[:, None], columns[None]


@dataclass(frozen=True, eq=False)
class PhotoMaps:
    """All rows' maps over one photo, and what faithfulness asks of the network."""

    maps: list[PlacedMap]
    image: Float[Tensor, "3 H W"]
    view: View
    target: int | None = None  # the class that the network answers
    evidence: Evidence | None = None  # of each cell for each class, where the classifier is exact in cells

    def densities(self, size: tuple[int, int], between: str = "linear") -> Float[Tensor, "M H W"]:
        return torch.stack([each.density(size, between) for each in self.maps])


@dataclass(frozen=True)
class CellPlaces:
    """An answer to where cells lie, and what is drawn between their centres."""

    cells: CellGeometry
    between: str = ""

    def on_photos(self, features: Features, layer: int, batch: Batch) -> tuple[Placement, ...]:
        return tuple(
            self.cells.on_photo(view, features.grid, photo.size, layer)
            for view, photo in zip(batch.views, batch.photos, strict=True)
        )


def backbone_placements(texts: Iterable[str], cells: CellGeometry) -> dict[str, CellPlaces]:
    """KIND or KIND:nearest, KIND one of auto (as the backbone has it), rf and stretch.

    nearest   each pixel has its own cell's weight, and nothing is interpolated

    Raises ValueError for another.
    """
    kinds = {
        "auto": cells,
        "rf": CellGeometry(cells.trunk, "rf", [None] * len(cells.shifts)),
        "stretch": CellGeometry(cells.trunk, "stretch", [None] * len(cells.shifts)),
    }
    places = {}
    for text in texts:
        kind, _, between = text.partition(":")
        if kind not in kinds or between not in ("", "nearest"):
            raise ValueError(
                f"unknown placement {text!r}; placements= takes auto, rf, stretch, and auto:nearest"
            )
        places[text] = CellPlaces(kinds[kind], between)
    return places


@dataclass(frozen=True)
class MapMaker:
    """Batch -> for each photo a list of one, its `PhotoMaps`.

    queries, scalings, normalisers   attention's: each with each; none of either: no attention
    methods       other methods, by the texts that name them
    temperatures  of softmax(s / (tau std s)), a curve of each query
    wants_cells   whether `evidence` is asked for
    placements    where attention's cells lie, a row of the table each: see `backbone_placements`; none: where
                  the backbone says
    """

    encoder: Encoder
    backbone: Backbone
    queries: Mapping[str, QueryFunction]
    scalings: Mapping[str, Scaling]
    normalisers: Mapping[str, Normalise]
    methods: Mapping[str, MapFunction]
    temperatures: Sequence[float] = ()
    wants_cells: bool = False
    placements: Mapping[str, "CellPlaces"] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # rows that this network cannot make, and why

    def __call__(self, batch: Batch) -> list[list[PhotoMaps]]:
        """Raises ValueError where no row is left."""
        inputs = Inputs(batch, self.encoder, self.backbone)
        maps: list[list[PlacedMap]] = [[] for _ in batch.photos]
        for row, weights, placements in self.rows(inputs):
            for photo, (of_photo, placement) in enumerate(zip(weights, placements, strict=True)):
                maps[photo].append(PlacedMap(row, of_photo.cpu(), placement))
        if not all(maps):
            raise ValueError(self.nothing_left())
        last = inputs.layers[-1]
        targets = [None] * len(maps) if last.logits is None else last.logits.argmax(-1).tolist()
        photos = zip(maps, batch.images, batch.views, targets, strict=True)
        return [
            [PhotoMaps(*photo, evidence=self.evidence(last, number, photo[-1]))]
            for number, photo in enumerate(photos)
        ]

    def nothing_left(self) -> str:
        if not self.refused:
            return "the table has no row; give query=, scaling= and temperatures=, or method="
        row, reason = next(iter(self.refused.items()))
        return f"no row of the table can be made; {row}: {reason}"

    def prepared(self, how: Preprocessing, photos: Iterable[Source | Photo]) -> "MapMaker":
        """With queries that looked at their exemplars and read their files; photos: those of exemplar:run.

        Raises ValueError as `pipeline.preparing.prepared` does.
        """
        queries = {
            text: prepared(question, self.encoder, how, photos=photos)
            for text, question in self.queries.items()
        }
        return replace(self, queries=queries)

    def evidence(self, features: Features, photo: int, target: int | None) -> Evidence | None:
        head = features.head
        if not self.wants_cells or target is None or not isinstance(head, Linear):
            return None
        scores = features.tokens[photo] @ head.weight.to(features.tokens).T  # [N, C]
        return Evidence(scores.T.unflatten(1, features.grid).cpu(), head.bias.cpu(), target)

    def rows(self, inputs: Inputs) -> Iterator[tuple[Row, Float[Tensor, "B N"], tuple[Placement, ...]]]:
        """Row by row the weights of all photos.

        A row that this network cannot make is told in `refused` and left out from then on.
        """
        for text, question in self.queries.items():
            yield from self.unless_refused(text, partial(self.attended, question, inputs))
        for text, function in self.methods.items():
            yield from self.unless_refused(text, partial(self.mapped, text, function, inputs))

    def unless_refused(self, text: str, make: Callable[[], Iterator]) -> Iterator:
        """The rows that are made; none, and the reason in `refused`, where the network cannot make them."""
        if text in self.refused:
            return
        try:
            rows = list(make())
        except PhotoError:
            raise
        except ValueError as error:
            self.refused[text] = str(error)
            return
        yield from rows

    def attended(
        self, question: QueryFunction, inputs: Inputs
    ) -> Iterator[tuple[Row, Float[Tensor, "B N"], tuple[Placement, ...]]]:
        """One query under every scaling and normaliser, then along the temperature."""
        for layer, features in enumerate(inputs.layers):
            require_finite(features.tokens, features, "features")
            require_finite_classes(features)
            ending = f", {features.layer}" if len(inputs.layers) > 1 else ""
            for query in build_queries(question, features):
                keys = at_least_float32(features.tokens if query.keys is None else query.keys)
                for column in range(query.vectors.shape[1]):
                    vectors = at_least_float32(query.vectors[:, column : column + 1])
                    scores = Scores(vectors, keys)
                    require_finite(scores.products, features, "scores")
                    number = f" #{column + 1}" if query.vectors.shape[1] > 1 else ""
                    for row, weights in self.settings(scores, query.text + number, ending):
                        require_finite(weights, features, f"weights of {row.name}")
                        for placed, placements in self.placed(row, features, layer, inputs.batch):
                            yield placed, weights.squeeze(1), placements

    def placed(
        self, row: Row, features: Features, layer: int, batch: Batch
    ) -> Iterator[tuple[Row, tuple[Placement, ...]]]:
        """A row of the table under each of the placements; a point of a curve where the backbone says."""
        if not self.placements or row.temperature is not None:
            yield row, features.placements
            return
        for text, places in self.placements.items():
            named = replace(row, name=f"{row.name}, {text}", between=places.between)
            yield named, places.on_photos(features, layer, batch)

    def settings(
        self, scores: Scores, question: str, ending: str
    ) -> Iterator[tuple[Row, Float[Tensor, "B 1 N"]]]:
        """One query's weights under every scaling and normaliser, then along its temperature."""
        with torch.autocast(scores.keys.device.type, enabled=False):
            for scaling_text, scaling in self.scalings.items():
                logits = scaling(scores)
                for text, normalise in self.normalisers.items():
                    setting = f"{scaling_text} {text}" if len(self.normalisers) > 1 else scaling_text
                    yield Row(f"{question} {setting}{ending}", question), normalise(logits)
            spread = scores.products.std(-1, correction=0, keepdim=True).clamp_min(1e-30)
            centred = scores.products - scores.products.mean(-1, keepdim=True)
            for tau in self.temperatures:
                row = Row(f"{question} at {tau:g}{ending}", question + ending, tau)
                yield row, normalisers.softmax(centred / (tau * spread))

    def mapped(
        self, text: str, function: MapFunction, inputs: Inputs
    ) -> Iterator[tuple[Row, Float[Tensor, "B N"], tuple[Placement, ...]]]:
        """Another method's maps, layer by layer."""
        layers = function(inputs)
        for of_layer in layers:
            require_finite_maps(of_layer.values, inputs.batch, text)
            ending = f", {of_layer.layer}" if len(layers) > 1 else ""
            yield Row(text + ending, text), as_weights(of_layer.values), of_layer.placements
