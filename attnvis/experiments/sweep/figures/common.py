"""What the figures of a sweep share: the value that each file gives, colours, names, how many of a kind."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnvis.attention.scaling import positive_factor
from attnvis.experiments.sweep.statistics import Series
from attnvis.files import slug, unique
from attnvis.render.plots import Figure

__all__ = [
    "PANELS",
    "SCALING_COLOURS",
    "Section",
    "Table",
    "by_job",
    "file_names",
    "first_of",
    "kind_of_scaling",
    "query_colours",
]

PANELS = 8  # figures of one kind

# Okabe and Ito, readable on white
QUERY_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a07000", "#444444", "#8c2d8c")
SAME_FACTOR = "one factor for every photo"
OWN_FACTOR = "a factor of each photo's own"
COSINE = "cosine: a factor of each patch's own"
NOT_SOFTMAX = "not softmax"
FOREIGN = "yours"
SCALING_COLOURS = {
    SAME_FACTOR: "#0072b2",
    OWN_FACTOR: "#d55e00",
    COSINE: "#009e73",
    NOT_SOFTMAX: "#8c2d8c",
    FOREIGN: "#444444",
}
OWN = ("zscore", "robust_z", "minmax", "perplexity")  # take their factor from the photo's scores


@dataclass(frozen=True)
class Table:
    """A small table below a figure; a cell is a text and a remark in smaller print."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # (what, cells)


@dataclass(frozen=True)
class Section:
    """A part of the page: figures of one kind; in paragraphs what they show and how they were computed."""

    heading: str
    figures: tuple[Figure, ...]
    caption: tuple[str, ...]
    table: Table | None = None


def kind_of_scaling(setting: tuple[str, str]) -> str:
    """What a setting's factor depends on: a key of SCALING_COLOURS."""
    scaling, normalise = setting
    name = scaling.partition(":")[0]
    if normalise != "softmax":
        return NOT_SOFTMAX
    if name in OWN:
        return OWN_FACTOR
    if name == "cosine":
        return COSINE
    return SAME_FACTOR if positive_factor(scaling) else FOREIGN


def query_colours(all_series: Sequence[Series]) -> dict[str, str]:
    """Every query has its colour, in all jobs the same."""
    queries = dict.fromkeys(series.query for series in all_series)
    return {query: QUERY_COLOURS[number % len(QUERY_COLOURS)] for number, query in enumerate(queries)}


def by_job(all_series: Sequence[Series]) -> dict[str, list[Series]]:
    """The series of each job, by its name."""
    jobs: dict[str, list[Series]] = {}
    for series in all_series:
        jobs.setdefault(series.job, []).append(series)
    return jobs


def file_names(kind: str, subjects: Iterable[str]) -> list[str]:
    """A file name for each figure of a kind: gaps_mean, gaps_class."""
    taken: dict[str, int] = {}
    return [unique(slug(f"{kind}_{subject}" if subject else kind), taken) for subject in subjects]


def first_of(count: int) -> str:
    """The end of a caption where not all can be drawn."""
    return f" Drawn are the first {PANELS} of {count}; all are in the table below." if count > PANELS else ""
