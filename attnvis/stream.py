"""Paths in, outcomes out: photos of like shape share a batch, a bounded number is in memory, a bad photo does not stop the others."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from attnvis.photo import collate, load, shape_key
from attnvis.values import Batch, Features, Photo, PhotoError, Preprocessing

__all__ = ["Outcome", "stream"]


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Outcome(Generic[T]):
    """What became of one photo: its answers, or why there are none."""

    index: int  # in the order the photos were given
    path: Path
    photo: Photo | None = None
    answers: list[T] = field(default_factory=list)
    predicted: tuple[tuple[str, float], ...] = ()  # the network's first classes and their probabilities
    error: str = ""


def stream(
    paths: Iterable[Path],
    backbone: Callable[[Batch], Features],
    method: Callable[[Features], list[list[T]]],
    preprocessing: Preprocessing,
    batch_size: int = 8,
    waiting: int | None = None,
) -> Iterator[Outcome[T]]:
    """One Outcome per path, in the order they get done.

    At most `waiting` decoded photos (None: four batches) wait for others of their shape.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} holds no photo; give 1 or more")
    most = 4 * batch_size if waiting is None else waiting

    def done(group: list[tuple[int, Path, Photo]]) -> Iterator[Outcome[T]]:
        try:
            features = backbone(collate([photo for _, _, photo in group], preprocessing))
            answers = method(features)
        except PhotoError as error:
            if len(group) > 1:  # one photo's mistake is not its neighbours'
                for member in group:
                    yield from done([member])
            else:
                yield Outcome(*group[0], error=str(error))
            return
        for number, (index, path, photo) in enumerate(group):
            yield Outcome(index, path, photo, answers[number], predictions(features, number))

    groups: dict[Hashable, list[tuple[int, Path, Photo]]] = {}
    for index, path in enumerate(paths):
        try:
            photo = load(path, short=preprocessing.size)
        except PhotoError as error:
            yield Outcome(index, path, error=str(error))
            continue
        shape = shape_key(photo, preprocessing)
        groups.setdefault(shape, []).append((index, path, photo))
        del photo  # what has been answered is let go before the next is decoded
        if len(groups[shape]) >= batch_size:
            yield from done(groups.pop(shape))
        elif sum(map(len, groups.values())) >= most:
            yield from done(groups.pop(max(groups, key=lambda key: len(groups[key]))))
    while groups:
        yield from done(groups.pop(next(iter(groups))))


def predictions(features: Features, photo: int, count: int = 5) -> tuple[tuple[str, float], ...]:
    if features.head is None or features.logits is None:
        return ()
    chances, classes = features.logits[photo].softmax(-1).topk(min(count, features.logits.shape[-1]))
    return tuple((features.head.category(index), chance) for chance, index in zip(chances.tolist(), classes.tolist(), strict=True))
