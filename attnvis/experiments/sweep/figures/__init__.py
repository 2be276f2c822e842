"""A sweep's series -> its figures, each with the words below it: a file per kind of figure.

A new kind of figure is a file here whose `section` takes the series, and a place in SECTIONS.
"""

from collections.abc import Callable, Sequence

from attnvis.experiments.sweep.figures import collapse, ecdf, gaps, gradient, ranks, self_check
from attnvis.experiments.sweep.figures.common import Section
from attnvis.experiments.sweep.statistics import Series

__all__ = ["SECTIONS", "Section", "sections"]

# in the order of the page; of what several heads or layers made only those that need no score
OF_WEIGHTS = (ranks.section,)
SECTIONS: tuple[Callable[[Sequence[Series]], Section | None], ...] = (
    collapse.section,
    gaps.section,
    gradient.section,
    ranks.section,
    ecdf.section,
    self_check.section,
)


def sections(all_series: Sequence[Series]) -> list[Section]:
    """What SECTIONS make of these series; nothing where there are none."""
    of_one_score = [series for series in all_series if series.has_one_score]
    drawn = []
    for make in SECTIONS:
        series = all_series if make in OF_WEIGHTS else of_one_score
        section = make(series) if series else None
        if section is not None:
            drawn.append(section)
    return drawn
