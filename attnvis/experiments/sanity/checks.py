"""A batch of photos in, of every map and check a number a photo out.

A map is a row of `attnvis evaluate`: attention under a query, a scaling and a normaliser, or another method.
All maps of a photo are compared on a grid of SIDE x SIDE that covers it, as densities where the cells lie.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.randomising import Stage
from attnvis.experiments.evaluate.maps import MapMaker, PlacedMap
from attnvis.experiments.sanity.changes import (
    AskedAsBefore,
    Maps,
    Reordered,
    Vectors,
    asked_by_another,
    asked_in_order,
    filled,
    in_order,
    logits_of,
    shift_of,
    shifted,
    turned_back,
)
from attnvis.experiments.sanity.likeness import largest_change, moved, pearson, spearman, ssim
from attnvis.methods import baselines
from attnvis.methods.attention import Encoder
from attnvis.methods.saliency import Inputs, MapFunction
from attnvis.types import Batch, Features

__all__ = ["SIDE", "Drawn", "PhotoChecks", "Sanity"]

SIDE = 32  # of the grid on which maps are compared
TOGETHER = 8  # photos of the larger batch
NUDGE = 1  # pixels of the input by which a photo is moved to see what does not matter
CELL_BY_CELL = (baselines.cam, baselines.eigencam, baselines.feature_norm, baselines.random_query)

Drawn = Float[np.ndarray, "S S"]


@dataclass(frozen=True, eq=False)
class PhotoChecks:
    """What was measured of one photo.

    numbers   (map, figure) -> its number; one that means nothing there is not in it
    drawn     map -> its density on the grid
    vectors   (query, layer) -> the vectors that the photo asks, an array for each of that name
    places    the queries that ask about a place of the photo
    queries   map -> the query whose it is; methods have none
    stages    map -> its map after each stage of the cascade, to be drawn
    """

    numbers: dict[tuple[str, str], float]
    drawn: dict[str, Drawn]
    vectors: Vectors
    places: frozenset[str]
    queries: dict[str, str]
    stages: dict[str, list[PlacedMap]]


@dataclass(frozen=True)
class Sanity:
    """Batch -> for each photo a list of one, its `PhotoChecks`.

    backbone   in float32, as PyTorch runs it
    half       the same in bfloat16
    stages     the cascade
    """

    backbone: Backbone
    half: Backbone
    stages: Sequence[Stage]
    maker: MapMaker
    seed: int = 0

    def __call__(self, batch: Batch) -> list[list[PhotoChecks]]:
        """Raises PhotoError where a map is not finite, ValueError where no row is left."""
        layers = self.backbone(batch)
        own, queries = self.own(batch, layers)
        vectors, places = self.asked(layers)
        logits = [logits_of(features) for features in layers]
        asked_as_before = AskedAsBefore(self.backbone, logits)
        in_mirror = replace(batch, images=batch.images.flip(-1))
        changed = {
            "nudged": self.maps(shifted(batch, NUDGE), self.backbone),
            "shifted": self.maps(shifted(batch, shift_of(batch)), self.backbone, asked_as_before),
            "half": self.maps(batch, self.half),
            "mirrored": turned_back(self.maps(in_mirror, self.backbone, asked_as_before)),
            "reordered": self.reordered(batch, layers),
            "alone": self.alone(batch),
            "together": self.maps(filled(batch, TOGETHER), self.backbone),
        }
        stages = [
            self.maps(batch, stage.backbone, AskedAsBefore(stage.backbone, logits)) for stage in self.stages
        ]
        return [
            [
                PhotoChecks(
                    numbers=self.numbers(photo, own, changed, stages),
                    drawn={row: drawn(maps[photo]) for row, maps in own.items()},
                    vectors={key: [each[photo] for each in arrays] for key, arrays in vectors.items()},
                    places=places,
                    queries=queries,
                    stages={
                        row: [maps[photo], *(stage[row][photo] for stage in stages if row in stage)]
                        for row, maps in own.items()
                    },
                )
            ]
            for photo in range(len(batch.photos))
        ]

    def maps(self, batch: Batch, backbone: Backbone, encoder: Encoder | None = None, **parts: Any) -> Maps:
        """Every row's maps over the photos of a batch; `parts` of the maker that are others here."""
        encoder = encoder or backbone
        maker = replace(self.maker, encoder=encoder, backbone=backbone, **parts)
        return {
            row.name: [
                PlacedMap(row, of_photo.float().cpu(), placement)
                for of_photo, placement in zip(weights, placements, strict=True)
            ]
            for row, weights, placements in maker.rows(Inputs(batch, encoder, backbone))
        }

    def own(self, batch: Batch, layers: tuple[Features, ...]) -> tuple[Maps, dict[str, str]]:
        """The maps as they are, and whose query each is.  Raises ValueError where no row is left."""
        maps, queries = Maps(), dict[str, str]()
        for text, question in self.maker.queries.items():
            of_query = self.maps(batch, self.backbone, lambda _: layers, queries={text: question}, methods={})
            maps |= of_query
            queries |= dict.fromkeys(of_query, text)
        maps |= self.maps(batch, self.backbone, lambda _: layers, queries={})
        if not maps:
            raise ValueError(self.maker.nothing_left())
        return maps, queries

    def asked(self, layers: Sequence[Features]) -> tuple[Vectors, frozenset[str]]:
        """The vectors of every query [B, Q, K], and the queries that ask about a place."""
        vectors, places = Vectors(), set[str]()
        for text, question in self.maker.queries.items():
            for features in layers:
                queries = build_queries(question, features)
                vectors[text, features.layer] = [query.vectors.float().cpu().numpy() for query in queries]
                if any(mark is not None for query in queries for mark in query.marks):
                    places.add(text)
        return vectors, frozenset(places)

    def reordered(self, batch: Batch, layers: tuple[Features, ...]) -> Maps:
        """Maps of the patches in another order; of methods those alone that look at patch after patch."""
        queries: dict[str, QueryFunction] = {
            text: partial(asked_in_order, question=question, seed=self.seed)
            for text, question in self.maker.queries.items()
        }
        methods = {text: each for text, each in self.maker.methods.items() if is_cell_by_cell(each)}
        encoder = Reordered(lambda _: layers, self.seed)
        changed = self.maps(batch, self.backbone, encoder, queries=queries, methods=methods)
        return {row: [in_order(each, layers, self.seed) for each in maps] for row, maps in changed.items()}

    def alone(self, batch: Batch) -> Maps:
        """Each photo by itself."""
        together: Maps = {}
        for number in range(len(batch.photos)):
            part = slice(number, number + 1)
            one = Batch(batch.images[part], batch.views[part], batch.photos[part])
            for row, maps in self.maps(one, self.backbone).items():
                together.setdefault(row, []).extend(maps)
        return together

    def by_another(self, vectors: Vectors, batch: Batch) -> list[list[dict[str, Drawn]]]:
        """Attention's maps over one photo under another photo's queries, drawn: a second pass."""
        queries: dict[str, QueryFunction] = {
            text: partial(asked_by_another, question=question, vectors=vectors, text=text)
            for text, question in self.maker.queries.items()
        }
        maps = self.maps(batch, self.backbone, queries=queries, methods={})
        return [
            [{row: drawn(of_row[photo]) for row, of_row in maps.items()}]
            for photo in range(len(batch.photos))
        ]

    def numbers(
        self, photo: int, own: Maps, changed: Mapping[str, Maps], stages: Sequence[Maps]
    ) -> dict[tuple[str, str], float]:
        """Every figure of one photo that needs no other photo."""
        figures: dict[tuple[str, str], float] = {}
        for row, maps in own.items():
            original = drawn(maps[photo])
            others = {name: drawn(of[row][photo]) for name, of in changed.items() if row in of}
            figures[row, "nudge"] = moved(original, others["nudged"])
            figures[row, "half"] = moved(original, others["half"])
            figures[row, "mirror"] = spearman(original, others["mirrored"])
            figures[row, "shift"] = spearman(original, others["shifted"])
            figures[row, "batch"] = largest_change(others["alone"], others["together"])
            if "reordered" in others:
                figures[row, "order"] = largest_change(original, others["reordered"])
            for number, stage in enumerate(stages):
                if row in stage:
                    after = drawn(stage[row][photo])
                    figures[row, f"spearman {number}"] = left_of(original, after, spearman)
                    figures[row, f"pearson {number}"] = left_of(original, after, pearson)
                    figures[row, f"ssim {number}"] = ssim(original, after)
                    figures[row, f"moved {number}"] = moved(original, after)
        return figures


def drawn(placed: PlacedMap) -> Drawn:
    return placed.density((SIDE, SIDE)).numpy()


def left_of(original: Drawn, after: Drawn, correlation: Callable[[Drawn, Drawn], float]) -> float:
    """A correlation; 0 where nothing is left: a map that became the same everywhere."""
    value = correlation(original, after)
    return 0.0 if math.isnan(value) and not math.isnan(correlation(original, original)) else value


def is_cell_by_cell(function: MapFunction) -> bool:
    return getattr(function, "func", function) in CELL_BY_CELL
