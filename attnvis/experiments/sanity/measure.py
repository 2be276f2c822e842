"""Photos in, of every map and check a number a photo out.

A map is a row of `attnvis evaluate`: attention under a query, a scaling and a normaliser, or another method.
All maps of a photo are compared on a grid of SIDE x SIDE that covers it, as densities where the cells lie.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.randomising import Stage
from attnvis.experiments.evaluate.maps import MapMaker, PlacedMap
from attnvis.experiments.sanity.likeness import largest_change, moved, pearson, spearman, ssim
from attnvis.methods import baselines
from attnvis.methods.attention import Encoder
from attnvis.methods.saliency import Inputs, MapFunction
from attnvis.pipeline.stability import mirror_placement
from attnvis.pipeline.streaming import Outcome, stream
from attnvis.types import Batch, Features, Photo, Preprocessing, Query, Source

__all__ = ["SIDE", "WITHOUT_NETWORK", "Measured", "PhotoChecks", "Sanity", "measure"]

SIDE = 32  # of the grid on which maps are compared
TOGETHER = 8  # photos of the larger batch
NUDGE = 1  # pixels of the input by which a photo is moved to see what does not matter
SHARE_SHIFTED = 1 / 32  # of the input's short side: 7 px of 224
MARGIN = 1e-6  # below which two maps, or two questions, are the same
# methods that look at no learned weight
WITHOUT_NETWORK = ("centre", "random_weights", "spectral_residual", "uniform")
CELL_BY_CELL = (baselines.cam, baselines.eigencam, baselines.feature_norm, baselines.random_query)

Maps = dict[str, list[PlacedMap]]  # of every row, one a photo of the batch
Drawn = Float[np.ndarray, "S S"]
Vectors = dict[tuple[str, str], list[np.ndarray]]


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


@dataclass(frozen=True, eq=False)
class Measured:
    """numbers   (map, figure) -> of every photo; NaN: not measured there"""

    photos: tuple[str, ...]
    maps: tuple[str, ...]
    stages: tuple[str, ...]
    numbers: dict[tuple[str, str], Float[np.ndarray, " P"]]
    places: frozenset[str]  # maps that ask about a place
    failures: tuple[tuple[str, str], ...]  # photo, reason
    example: tuple[Photo, dict[str, list[PlacedMap]]] | None  # the first photo, drawn along the cascade

    def of(self, row: str, figure: str) -> Float[np.ndarray, " P"]:
        return self.numbers.get((row, figure), np.full(len(self.photos), np.nan))


# -------------------------------------------------------------------------- encoders and questions, changed


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


def asked_by_another(features: Features, question: QueryFunction, vectors: Vectors, text: str) -> list[Query]:
    """The queries of one photo with the vectors of another."""
    queries = build_queries(question, features)
    others = vectors[text, features.layer]
    return [
        replace(query, vectors=torch.from_numpy(other).unsqueeze(0).to(query.vectors))
        for query, other in zip(queries, others, strict=True)
    ]


# ----------------------------------------------------------------------------------------------- one batch


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


def logits_of(features: Features) -> Tensor | None:
    """What the classifier answers; of an earlier layer by what follows in the network."""
    if features.logits is not None or features.head is None:
        return features.logits
    return features.head.read(features.maps)[0].float()


def shift_of(batch: Batch) -> int:
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


def in_order(placed: PlacedMap, layers: Sequence[Features], seed: int) -> PlacedMap:
    """A map of reordered patches, each weight where its patch was."""
    layer = next(features for features in layers if features.tokens.shape[1] == len(placed.weights))
    return replace(placed, weights=placed.weights[order_of(layer, seed).argsort().cpu()])


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


# ----------------------------------------------------------------------------------------------- all photos


@dataclass
class Gathered:
    """What is kept of every photo while they pass."""

    checks: dict[int, PhotoChecks] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    first: Photo | None = None


def measure(
    paths: Sequence[Source],
    sanity: Sanity,
    how: Preprocessing,
    batch_size: int = 8,
    workers: int = 1,
    say: Callable[[str], None] = lambda text: None,
    watch: Callable[[Iterable[Outcome], int], Iterable[Outcome]] = lambda outcomes, total: outcomes,
) -> Measured:
    """Two passes: every photo by itself, then under the query of the next photo.

    Raises ValueError where no photo can be measured.
    """
    gathered = Gathered()
    outcomes = stream(paths, sanity, how, batch_size=batch_size, workers=workers, say=say)
    for outcome in watch(outcomes, len(paths)):
        if outcome.error:
            gathered.failures[outcome.index] = outcome.error
            continue
        assert outcome.photo is not None
        gathered.checks[outcome.index] = keep(outcome.answers[0], is_first=not gathered.checks)
        gathered.names[outcome.index] = outcome.photo.name
        gathered.first = gathered.first or outcome.photo
    if not gathered.checks:
        reasons = list(gathered.failures.values())
        raise ValueError(f"no photo could be measured{'; the first: ' + reasons[0] if reasons else ''}")
    queried = under_other_queries(paths, sanity, how, gathered)
    return assembled(sanity, gathered, queried, paths)


def keep(checks: PhotoChecks, is_first: bool) -> PhotoChecks:
    """The maps along the cascade are kept of the first photo alone."""
    return checks if is_first else replace(checks, stages={})


def partners(indices: Sequence[int]) -> dict[int, int]:
    """Every photo's other photo: the next one; of the last the first."""
    return dict(zip(indices, [*indices[1:], *indices[:1]], strict=True)) if len(indices) > 1 else {}


def under_other_queries(
    paths: Sequence[Source], sanity: Sanity, how: Preprocessing, gathered: Gathered
) -> dict[int, dict[str, Drawn]]:
    """Of every photo attention's maps under the next photo's queries."""
    order = sorted(gathered.checks)
    if not sanity.maker.queries or len(order) < 2:
        return {}
    swapped: dict[int, dict[str, Drawn]] = {}
    for index, other in partners(order).items():
        vectors = gathered.checks[other].vectors
        (outcome,) = stream([paths[index]], partial(sanity.by_another, vectors), how, batch_size=1)
        if not outcome.error:
            swapped[index] = outcome.answers[0]
    return swapped


def assembled(
    sanity: Sanity, gathered: Gathered, queried: Mapping[int, dict[str, Drawn]], paths: Sequence[Source]
) -> Measured:
    """The numbers of all photos, those that need another photo too."""
    order = sorted(gathered.checks)
    checks = gathered.checks
    rows = tuple(dict.fromkeys(row for index in order for row in checks[index].drawn))
    numbers: dict[tuple[str, str], np.ndarray] = {}

    def put(row: str, figure: str, place: int, value: float) -> None:
        column = numbers.setdefault((row, figure), np.full(len(order), math.nan))
        column[place] = value

    for place, index in enumerate(order):
        for (row, figure), value in checks[index].numbers.items():
            put(row, figure, place, value)
        other = partners(order).get(index)
        if other is None:
            continue
        for row, own in checks[index].drawn.items():
            if row in checks[other].drawn:
                put(row, "other", place, spearman(own, checks[other].drawn[row]))
        for row, swapped in queried.get(index, {}).items():
            if not same_question(row, checks[index], checks[other]):
                put(row, "query", place, moved(checks[index].drawn[row], swapped))
    first = checks[order[0]]
    example = None if gathered.first is None else (gathered.first, first.stages)
    return Measured(
        photos=tuple(gathered.names[index] for index in order),
        maps=rows,
        stages=tuple(stage.name for stage in sanity.stages),
        numbers=numbers,
        places=frozenset(row for row in rows if first.queries.get(row) in first.places),
        failures=tuple((str(paths[index]), reason) for index, reason in sorted(gathered.failures.items())),
        example=example,
    )


def same_question(row: str, own: PhotoChecks, other: PhotoChecks) -> bool:
    """Whether both photos ask with the same vectors."""
    pairs = [
        (mine, theirs)
        for (text, layer), arrays in own.vectors.items()
        if text == own.queries[row]
        for mine, theirs in zip(arrays, other.vectors[text, layer], strict=True)
    ]
    return all(np.abs(mine - theirs).max() <= MARGIN * np.abs(mine).max() for mine, theirs in pairs)
