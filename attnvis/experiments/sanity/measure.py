"""Photos in, of every map and check a number a photo out: two passes, as some checks need another photo."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Float

from attnvis.experiments.evaluate.maps import PlacedMap
from attnvis.experiments.sanity.checks import Drawn, PhotoChecks, Sanity
from attnvis.experiments.sanity.likeness import moved, spearman
from attnvis.pipeline.streaming import Outcome, stream
from attnvis.types import Photo, Preprocessing, Source

__all__ = ["MARGIN", "WITHOUT_NETWORK", "Measured", "measure"]

MARGIN = 1e-6  # below which two maps, or two questions, are the same
# methods that look at no learned weight
WITHOUT_NETWORK = ("centre", "random_weights", "spectral_residual", "uniform")


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
