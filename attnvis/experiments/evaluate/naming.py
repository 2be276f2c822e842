"""Texts in, rows and metrics out: nss, iou:0.5, gradcam:tabby."""

from collections.abc import Sequence
from functools import partial

from attnvis.attention.spec import parse_function
from attnvis.methods.baselines import parse_method
from attnvis.methods.saliency import MapFunction
from attnvis.metrics.metric import Metric
from attnvis.metrics.registry import METRICS

__all__ = ["ATTENTION", "parse_methods", "parse_metric", "parse_metrics"]

ATTENTION = "attention"  # among the methods: each query under each scaling and normaliser


def parse_metric(text: str) -> Metric:
    """A metric with its settings filled in.

    Raises UnknownName where the text names none, ValueError where its settings do not fit.
    """
    without_maps = {name: partial(function, None) for name, function in METRICS.items()}
    parsed = parse_function(text, without_maps, group="metric")
    assert isinstance(parsed, partial)  # as it makes every function of a text
    return partial(parsed.func, **parsed.keywords)


def parse_metrics(texts: Sequence[str]) -> dict[str, Metric]:
    """By their texts.  Raises as `parse_metric` does."""
    return {text: parse_metric(text) for text in texts}


def parse_methods(texts: Sequence[str]) -> dict[str, MapFunction]:
    """Those that are no attention, by their texts.  Raises as `parse_method` does."""
    return {text: parse_method(text) for text in texts if text != ATTENTION}
