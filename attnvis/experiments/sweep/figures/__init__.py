"""A sweep's series -> its figures, each with the words below it: a file per kind of figure.

A new kind of figure is a file here whose `section` takes the series, and a place in SECTIONS.
"""

from collections.abc import Callable, Sequence

from attnvis.experiments.sweep.figures import collapse, ecdf, gaps, gradient, ranks, self_check
from attnvis.experiments.sweep.figures.common import Section
from attnvis.experiments.sweep.statistics import Series

__all__ = ["SECTIONS", "Section", "sections"]

SECTIONS: tuple[Callable[[Sequence[Series]], Section | None], ...] = (  # in the order of the page
    collapse.section,
    gaps.section,
    gradient.section,
    ranks.section,
    ecdf.section,
    self_check.section,
)


def sections(all_series: Sequence[Series]) -> list[Section]:
    """What SECTIONS make of these series; nothing where there are none."""
    if not all_series:
        return []
    made_of_series = (section(all_series) for section in SECTIONS)
    return [section for section in made_of_series if section is not None]
