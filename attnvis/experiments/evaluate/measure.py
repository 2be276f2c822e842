"""A data set in, of every photo, row and metric a number (or a curve) out: kept photo by photo.

A photo is a file of its own, written whole: a stopped evaluation goes on with those that lack.
"""

import contextlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.data.datasets import Dataset
from attnvis.data.decoding import load
from attnvis.data.truth import resize_truth
from attnvis.errors import in_one_line
from attnvis.experiments.evaluate.maps import MapMaker, PhotoMaps, Row, require_row
from attnvis.files import read_bytes, save
from attnvis.metrics.faithfulness import Evidence, Examined
from attnvis.metrics.metric import Metric, facts
from attnvis.pipeline.streaming import Outcome, stream
from attnvis.types import Box, Photo, PhotoError, Preprocessing, Source, Truth

__all__ = [
    "DataPhotos",
    "Evaluation",
    "Measuring",
    "measure_photo",
    "read_evaluation",
    "require_settings",
    "size_within",
    "usual_metrics",
]

AT_ONCE = 12  # maps that go through a metric together
USUAL = {  # what is known of the photos -> the metrics that one asks first
    "fixations": ("auc", "nss", "cc", "sim", "kl", "ig"),
    "others": ("sauc",),
    "boxes": ("pointing_game", "energy", "lift", "relevance_rank", "mask_auc", "max_box_acc_v2"),
    "mask": ("pointing_game", "energy", "lift", "mask_auc", "mae", "f_max", "s_measure"),
}


def usual_metrics(known: frozenset[str]) -> list[str]:
    """The metrics for what is known.  Raises ValueError where maps are measured against nothing of it."""
    names = [name for need, names in USUAL.items() if need in known for name in names]
    if not names:
        raise ValueError(
            "the data set says neither where people looked nor where things are; "
            "metric=insertion,deletion ask the network itself"
        )
    return list(dict.fromkeys(names))


def size_within(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """(height, width) of the grid on which a photo of `size` is measured."""
    zoom = 1.0 if longest is None else min(1.0, longest / max(size))
    return max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))


def measure_photo(
    maps: PhotoMaps,
    truth: Truth,
    metrics: Mapping[str, Metric],
    longest: int | None = None,
    between: str = "linear",
    logits: Callable[[Tensor], Tensor] | None = None,
    black: tuple[float, float, float] | None = None,
) -> dict[str, Float[np.ndarray, "M *curve"]]:
    """Every metric of all rows of one photo, NaN where one is not defined; of a curve that is not defined
    [M, 0].

    between   the cells' centres: see `PlacedMap.density`
    logits    images -> class logits, for what asks the network
    black     what a black pixel is to it
    """
    size = size_within(truth.size, longest)
    small = resize_truth(truth, size)
    densities = maps.densities(size, between)
    values: dict[str, Float[np.ndarray, M * curve]] = {}
    for name, metric in metrics.items():
        about = facts(metric)
        if about.missing(truth) or not can_ask(about.needs, maps):
            empty = (len(maps.maps), 0) if about.finish else (len(maps.maps),)
            values[name] = np.full(empty, np.nan)
        elif "network" in about.needs:
            assert logits is not None and maps.target is not None
            examined = Examined(maps.image, logits, maps.target, black=black)
            on_input = torch.stack([each.on_input(maps.view) for each in maps.maps])
            with torch.inference_mode():
                values[name] = metric(on_input, examined).cpu().numpy()
        elif "evidence" in about.needs:
            values[name] = on_cells(maps, metric)
        else:
            parts = [metric(some, small) for some in densities.split(AT_ONCE)]
            values[name] = torch.cat(parts).cpu().numpy()
    return values


def require_settings(metrics: Mapping[str, Metric]) -> None:
    """Asks every metric once, of two small maps.  Raises ValueError where one's settings do not fit."""
    height, width = 12, 16
    maps = torch.arange(2.0 * height * width).view(2, height, width)
    things = np.zeros((2, height, width), bool)
    things[0, 2:6, 3:8], things[1, 8:10, 9:12] = True, True
    places = np.argwhere(things[0]) + 0.5
    truth = Truth(
        (height, width),
        fixations=places[::3],
        others=places[::2],
        looks=things[0].astype(float),
        mask=things[0],
        distractors=things[1],
        boxes=(Box(2.0, 3.0, height=4.0, width=5.0),),
    )
    image = maps[:1].expand(3, -1, -1)
    examined = Examined(image, lambda images: images.mean((2, 3)), target=0, black=(0.0, 0.0, 0.0))
    evidence = Evidence(image, torch.zeros(3), target=0)
    for name, metric in metrics.items():
        needs = facts(metric).needs
        beside = examined if "network" in needs else evidence if "evidence" in needs else truth
        try:
            metric(maps, beside)
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = in_one_line(error)
            raise ValueError(f"metric {name} cannot be measured: {reason}; correct its settings") from None


def can_ask(needs: Iterable[str], maps: PhotoMaps) -> bool:
    """Whether the network tells what these need of it."""
    if "network" in needs:
        return maps.target is not None
    return "evidence" not in needs or maps.evidence is not None


def on_cells(maps: PhotoMaps, metric: Metric) -> Float[np.ndarray, " M"]:
    """A metric on the classifier's own cells; NaN for maps that have others."""
    assert maps.evidence is not None
    grid = tuple(maps.evidence.scores.shape[1:])
    values = np.full(len(maps.maps), np.nan)
    own = [number for number, each in enumerate(maps.maps) if each.placement.grid == grid]
    if own:
        weights = torch.stack([maps.maps[number].weights.reshape(grid) for number in own])
        values[own] = metric(weights, maps.evidence).numpy()
    return values


# -------------------------------------------------------------------------------- all photos


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    values   metric -> of every photo and row a number [P, M], or a curve [P, M, T]; NaN: not defined
    """

    rows: tuple[Row, ...]
    photos: tuple[str, ...]
    values: dict[str, Float[np.ndarray, "P M *curve"]]
    failures: tuple[tuple[str, str], ...] = ()  # photo, reason


@dataclass(frozen=True)
class DataPhotos:
    """The photos of a data set, for a query that looks at all of them; without those that cannot be read."""

    dataset: Dataset

    def __iter__(self) -> Iterator[Source | Photo]:
        for number in range(len(self.dataset)):
            with contextlib.suppress(PhotoError):
                sample = self.dataset[number]
                yield sample.path or load(sample.picture, name=sample.name)


class Pictures(dict):
    """Photos that are no files, drawn when their turn comes: what `stream` takes for decoded ones."""

    def __init__(self, dataset: Dataset, numbers: Mapping[Path, int]) -> None:
        super().__init__()
        self.dataset, self.numbers = dataset, numbers

    def __bool__(self) -> bool:
        """`stream` asks whether there are any."""
        return bool(self.numbers)

    def pop(self, path: Path, *default: Any) -> Any:
        if path not in self.numbers:
            return default[0] if default else None
        sample = self.dataset[self.numbers[path]]
        return load(sample.picture, name=sample.name)


@dataclass
class Measuring:
    """A data set's photos through all rows and metrics, into a folder.

    left      the numbers of the samples that are still to be measured
    against   a row that there must be: looked for before the first photo is measured
    """

    dataset: Dataset
    maker: MapMaker
    metrics: Mapping[str, Metric]
    preprocessing: Preprocessing
    folder: Path
    longest: int | None
    between: str
    left: list[int]
    against: str | None = None
    failures: dict[int, str] = field(default_factory=dict)

    @cached_property
    def places(self) -> tuple[list[Path], list[int], Pictures]:
        """The files of the samples that are left, their numbers, and what draws those that are none."""
        paths, numbers, drawn = list[Path](), list[int](), dict[Path, int]()
        for number in self.left:
            try:
                sample = self.dataset[number]
            except PhotoError as error:
                self.failures[number] = str(error)
                continue
            path = sample.path or Path(sample.name)
            if sample.path is None:
                drawn[path] = number
            paths.append(path)
            numbers.append(number)
        return paths, numbers, Pictures(self.dataset, drawn)

    def run(
        self,
        batch_size: int,
        workers: int,
        say: Callable[[str], None],
        watch: Callable[[Iterable[Outcome], int], Iterable[Outcome]] = lambda outcomes, total: outcomes,
    ) -> None:
        """Measures what is left; failures are kept by the samples' numbers.

        Raises ValueError where no row can be made, or none is called `against`.
        """
        paths, numbers, pictures = self.places
        is_first = True

        def after(outcome: Outcome[PhotoMaps]) -> None:
            nonlocal is_first
            assert outcome.photo is not None
            maps = outcome.answers[0]
            if is_first and self.against is not None:
                require_row(self.against, [each.row for each in maps.maps])
            is_first = False
            self.measure(numbers[outcome.index], outcome.photo, maps)

        outcomes = stream(
            paths,
            self.maker,
            self.preprocessing,
            batch_size=batch_size,
            workers=workers,
            after=after,
            say=say,
            decoded=pictures,
        )
        for outcome in watch(outcomes, len(paths)):
            if outcome.error:
                self.failures[numbers[outcome.index]] = outcome.error

    def measure(self, number: int, photo: Photo, maps: PhotoMaps) -> None:
        """One photo, into its file.  Raises PhotoError where its truth is that of another size."""
        truth = self.dataset[number].truth
        if truth.size != photo.size:
            (height, width), (own_height, own_width) = truth.size, photo.size
            raise PhotoError(
                f"{photo.name} is {own_width}x{own_height}, and what is known of it is {width}x{height}"
            )
        inputs = self.maker.backbone
        red, green, blue = (
            -mean / std for mean, std in zip(self.preprocessing.mean, self.preprocessing.std, strict=True)
        )
        values = measure_photo(
            maps,
            truth,
            self.metrics,
            longest=self.longest,
            between=self.between,
            logits=lambda images: inputs.network.net(images.to(inputs.device)).float().cpu(),
            black=(red, green, blue),
        )
        save(self.folder, photo_file(number), packed([each.row for each in maps.maps], values))


def photo_file(number: int) -> str:
    return f"photos/{number:06d}.npz"


def packed(rows: Sequence[Row], values: Mapping[str, Float[np.ndarray, "M *curve"]]) -> bytes:
    """A photo's numbers as a file."""
    content = io.BytesIO()
    about = {
        "rows": np.array([row.name for row in rows]),
        "families": np.array([row.family for row in rows]),
        "temperatures": np.array([np.nan if row.temperature is None else row.temperature for row in rows]),
    }
    np.savez(content, allow_pickle=False, **about, **{f"m.{name}": of for name, of in values.items()})
    return content.getvalue()


def unpacked(content: bytes, metrics: Iterable[str]) -> tuple[tuple[Row, ...], dict[str, np.ndarray]]:
    """Raises ValueError, KeyError or BadZipFile for what is none of these files, or has not these metrics."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        temperatures = arrays["temperatures"].tolist()
        columns = zip(arrays["rows"].tolist(), arrays["families"].tolist(), temperatures, strict=True)
        rows = tuple(Row(name, family, None if tau != tau else tau) for name, family, tau in columns)
        return rows, {name: arrays[f"m.{name}"] for name in metrics}


def read_measured(folder: Path, number: int, metrics: Iterable[str]) -> tuple[tuple[Row, ...], dict] | None:
    """What is kept of one photo; None where it is damaged or absent."""
    try:
        return unpacked(read_bytes(folder / photo_file(number), most=1 << 30), metrics)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None


def read_evaluation(
    folder: Path, names: Sequence[str], metrics: Sequence[str], failures: Mapping[int, str]
) -> Evaluation:
    """What is kept of all photos.  Raises ValueError where nothing is."""
    kept = [(name, read_measured(folder, number, metrics)) for number, name in enumerate(names)]
    measured = [(name, photo) for name, photo in kept if photo is not None]
    if not measured:
        reasons = list(failures.values())
        raise ValueError(f"no photo could be measured{'; the first: ' + reasons[0] if reasons else ''}")
    rows = measured[0][1][0]
    order = {row: number for number, row in enumerate(rows)}
    values = {}
    for metric in metrics:
        curves = [aligned(photo[0], photo[1][metric], order) for _, photo in measured]
        longest = max((curve.shape[1] for curve in curves if curve.ndim == 2), default=0)
        curves = [
            np.full((len(rows), longest), np.nan) if curve.shape[1:] == (0,) else curve for curve in curves
        ]
        values[metric] = np.stack(curves)
    failed = tuple((names[number], reason) for number, reason in sorted(failures.items()))
    return Evaluation(rows, tuple(name for name, _ in measured), values, failed)


def aligned(rows: Sequence[Row], values: np.ndarray, order: Mapping[Row, int]) -> np.ndarray:
    """A photo's numbers in the order of the first one's rows; NaN where it has not such a row."""
    placed = np.full((len(order), *values.shape[1:]), np.nan)
    for row, value in zip(rows, values, strict=True):
        if row in order:
            placed[order[row]] = value
    return placed
