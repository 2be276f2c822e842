"""Metrics of regions and boxes, as Quantus, PySODMetrics, scikit-learn and plain loops compute them."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from attnvis.metrics import boxes, pop_out, regions, segmentation
from attnvis.types import Truth
from metric_oracles.common import SIZE, Row


def region_rows(truth: Truth) -> list[Row]:
    quantus = importlib.import_module("quantus.metrics.localisation")
    sklearn = importlib.import_module("sklearn.metrics")
    mask = truth.mask
    assert mask is not None

    def by_quantus(name: str) -> Callable[[np.ndarray], float]:
        measure = getattr(quantus, name)(
            abs=False, normalise=False, disable_warnings=True, display_progressbar=False
        )

        def value(values: np.ndarray) -> float:
            with contextlib.redirect_stdout(io.StringIO()):
                answer = measure.evaluate_batch(
                    s_batch=mask[None, None], a_batch=values[None, None].copy(), x_batch=values[None, None]
                )
            return float(np.asarray(answer, float).ravel()[0])

        return value

    def binned(values: np.ndarray) -> float:
        shares = (values - values.min()) / max(np.ptp(values), 1e-300)
        edges = np.append(np.arange(1001) / 1000, [2.0])
        return sklearn.average_precision_score(mask.ravel(), np.digitize(shares.ravel(), edges))

    def jaccard(values: np.ndarray) -> float:
        shares = (values - values.min()) / np.ptp(values)
        return max(sklearn.jaccard_score(mask.ravel(), shares.ravel() >= cut / 100) for cut in range(101))

    ties = ("patches", "many zeros", "64 levels", "level")
    tie_reason = "ties: theirs takes those that NumPy's sort puts first, ours each by its chance"
    return [
        Row(
            partial(regions.pointing_game, tolerance=0.0),
            "Quantus PointingGame",
            by_quantus("PointingGame"),
            truth,
            name="pointing_game",
            left_out=ties,
            reason="ties: theirs takes any of the hottest pixels, ours the share of them",
        ),
        Row(
            regions.energy,
            "Quantus RelevanceMassAccuracy",
            by_quantus("RelevanceMassAccuracy"),
            truth,
            left_out=("signed",),
            reason="what is below 0: theirs subtracts it, ours has no mass there",
        ),
        Row(
            regions.lift,
            "Quantus RelevanceMassAccuracy / area",
            lambda s: by_quantus("RelevanceMassAccuracy")(s) / mask.mean(),
            truth,
            left_out=("signed",),
            reason="the same",
        ),
        Row(
            regions.relevance_rank,
            "Quantus RelevanceRankAccuracy",
            by_quantus("RelevanceRankAccuracy"),
            truth,
            left_out=ties,
            reason=tie_reason,
        ),
        Row(
            regions.mask_auc,
            "scikit-learn roc_auc_score",
            lambda s: sklearn.roc_auc_score(mask.ravel(), s.ravel()),
            truth,
        ),
        Row(
            regions.average_precision,
            "scikit-learn average_precision_score",
            lambda s: sklearn.average_precision_score(mask.ravel(), s.ravel()),
            truth,
        ),
        Row(
            regions.iou,
            "scikit-learn jaccard_score",
            jaccard,
            truth,
            left_out=("level",),
            reason="a level map has no range",
        ),
        Row(
            partial(regions.pxap, side=0), "scikit-learn average_precision_score", binned, truth, name="pxap"
        ),
        Row(partial(boxes.max_box_acc, side=0), "plain loop over OpenCV", partial(box_loop, mask), truth),
        Row(
            partial(boxes.max_box_acc_v2, side=0), "plain loop over OpenCV", partial(box_loop_v2, mask), truth
        ),
    ]


def box_loop(mask: np.ndarray, values: np.ndarray, least: float = 0.5, every_part: bool = False) -> float:
    """What wsolevaluation does at each of 1,000 thresholds; it is in no registry."""
    import cv2

    levels = (255 * (values - values.min()) / max(np.ptp(values), 1e-300)).astype(np.uint8)
    ys, xs = np.nonzero(mask)
    true = (xs.min(), ys.min(), min(xs.max() + 1, SIZE[1] - 1), min(ys.max() + 1, SIZE[0] - 1))
    best = 0.0
    for threshold in np.arange(0, 1, 0.001):
        _, cut = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
        outlines, _ = cv2.findContours(cut, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        if not every_part and outlines:
            outlines = [max(outlines, key=cv2.contourArea)]
        for x, y, width, height in [cv2.boundingRect(outline) for outline in outlines] or [(0, 0, 0, 0)]:
            drawn = (x, y, min(x + width, SIZE[1] - 1), min(y + height, SIZE[0] - 1))
            across = min(drawn[2], true[2]) - max(drawn[0], true[0]) + 1
            down = min(drawn[3], true[3]) - max(drawn[1], true[1]) + 1
            both = max(0, across) * max(0, down)
            areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (drawn, true)]
            best = max(best, both / (sum(areas) - both))
    return float(best >= least)


def box_loop_v2(mask: np.ndarray, values: np.ndarray) -> float:
    return float(np.mean([box_loop(mask, values, least=least, every_part=True) for least in (0.3, 0.5, 0.7)]))


def segmentation_rows(truth: Truth) -> list[Row]:
    sod = importlib.import_module("py_sod_metrics")
    mask = truth.mask
    assert mask is not None

    def by_sod(kind: str, read: Callable[[dict], float]) -> Callable[[np.ndarray], float]:
        def value(values: np.ndarray) -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                measure = getattr(sod, kind)()
            measure.step(pred=255 * values, gt=mask * np.uint8(255))
            return read(measure.get_results())

        return value

    library = "PySODMetrics "
    return [
        Row(segmentation.mae, library + "MAE", by_sod("MAE", lambda r: r["mae"]), truth),
        *(
            Row(getattr(segmentation, name), library + kind, by_sod(kind, read), truth)
            for name, kind, read in (
                ("f_adaptive", "Fmeasure", lambda r: r["fm"]["adp"]),
                ("f_max", "Fmeasure", lambda r: r["fm"]["curve"].max()),
                ("f_mean", "Fmeasure", lambda r: r["fm"]["curve"].mean()),
                ("e_adaptive", "Emeasure", lambda r: r["em"]["adp"]),
                ("e_max", "Emeasure", lambda r: r["em"]["curve"].max()),
                ("e_mean", "Emeasure", lambda r: r["em"]["curve"].mean()),
                ("s_measure", "Smeasure", lambda r: r["sm"]),
                ("weighted_f", "WeightedFmeasure", lambda r: r["wfm"]),
            )
        ),
    ]


def pop_out_rows(truth: Truth) -> list[Row]:
    """P3's own code asks for files and is in no registry."""
    mask = truth.mask
    assert mask is not None
    others = np.roll(mask, 24, axis=0) & ~mask
    array = replace(truth, distractors=others)

    def index(values: np.ndarray) -> float:
        shares = (values - values.min()) / max(np.ptp(values), 1e-300)
        on, off = shares[mask].mean(), shares[others].mean()
        return (on - off) / (on + off) if on + off else -1.0

    def is_found(values: np.ndarray) -> float:
        return float(values[mask].max() > values[others].max())

    loop = "P3O3_metrics' formula in numpy"
    return [Row(pop_out.gsi, loop, index, array), Row(pop_out.found_first, loop, is_found, array)]
