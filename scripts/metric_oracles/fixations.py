"""Metrics of fixations, as pysaliency and scikit-learn compute them."""

import importlib
from functools import partial
from typing import Any

import numpy as np

from attnvis.metrics import fixations
from attnvis.types import Truth
from metric_oracles.common import OTHER_SIZE, SIZE, Row


def fixation_rows(truth: Truth) -> list[Row]:
    pysaliency = importlib.import_module("pysaliency")
    their = importlib.import_module("pysaliency.metrics")
    roc = importlib.import_module("pysaliency.roc")
    roc_auc = importlib.import_module("sklearn.metrics").roc_auc_score
    assert truth.fixations is not None and truth.others is not None
    places = truth.fixations.astype(int)
    others = truth.others * np.divide(OTHER_SIZE, SIZE)  # on their own photo
    sizes = (SIZE, OTHER_SIZE)  # each photo of another grey: pysaliency knows them by their bytes
    stimuli = pysaliency.Stimuli([np.full((*size, 3), n, np.uint8) for n, size in enumerate(sizes)])
    gaze = pysaliency.Fixations.create_without_history(
        np.concatenate([truth.fixations[:, 1], others[:, 1]]),
        np.concatenate([truth.fixations[:, 0], others[:, 0]]),
        np.repeat([0, 1], [len(places), len(others)]),
    )
    own = gaze[gaze.n == 0]
    looks = fixations.looked_at(truth).numpy()
    blurred = pysaliency.FixationMap(stimuli, gaze, kernel_size=35.0, convolution_mode="nearest")

    def model(values: np.ndarray) -> Any:
        class Given(pysaliency.SaliencyMapModel):  # type: ignore[name-defined]
            def _saliency_map(self, stimulus: np.ndarray) -> np.ndarray:
                return values if stimulus.shape[:2] == SIZE else np.zeros(stimulus.shape[:2])

        return Given()

    def density(values: np.ndarray) -> Any:
        class Given(pysaliency.Model):  # type: ignore[name-defined]
            def _log_density(self, stimulus: np.ndarray) -> np.ndarray:
                uniform = np.full(stimulus.shape[:2], 1 / np.prod(stimulus.shape[:2]))
                return np.log(values if stimulus.shape[:2] == SIZE else uniform)

        return Given()

    def shuffled(values: np.ndarray) -> float:
        per_photo = model(values).AUC_per_image(stimuli, gaze, nonfixations="shuffled")
        return per_photo[0]

    def unfixated(values: np.ndarray) -> float:
        taken = np.zeros(SIZE, bool)
        taken[tuple(places.T)] = True
        return roc_auc(taken.ravel(), values.ravel())

    def judd(values: np.ndarray) -> float:
        taken = np.zeros(SIZE, bool)
        taken[tuple(places.T)] = True
        return roc.general_roc(values[taken], values[~taken], judd=1)[0]

    def gain(values: np.ndarray, baseline: str, floor: float) -> float:
        raised = values - min(0, values.min())
        ours = (1 - floor) * raised / raised.sum() + floor / values.size
        base = fixations.baseline_density(truth, baseline, floor)
        assert base is not None
        return density(ours).information_gain(stimuli, own, baseline_model=density(base.numpy()))

    ties = ("patches", "many zeros", "64 levels", "level")
    return [
        Row(fixations.auc, "pysaliency AUC uniform", lambda s: model(s).AUC(stimuli, own), truth),
        Row(
            partial(fixations.auc, negatives="unfixated"),
            "pysaliency AUC unfixated",
            lambda s: model(s).AUC(stimuli, own, nonfixations="unfixated"),
            truth,
            name="auc unfixated",
        ),
        Row(
            partial(fixations.auc, negatives="unfixated", repeats=False),
            "scikit-learn roc_auc_score",
            unfixated,
            truth,
            name="auc unfixated, once",
        ),
        Row(
            fixations.auc_judd,
            "pysaliency general_roc judd",
            judd,
            truth,
            left_out=ties,
            reason="ties: MATLAB's counting, which ours repeats, ranks tied fixations as if they came first",
        ),
        Row(fixations.sauc, "pysaliency AUC shuffled", shuffled, truth),
        Row(
            fixations.nss, "pysaliency NSS", lambda s: their.NSS(s, places[:, 1], places[:, 0]).mean(), truth
        ),
        Row(fixations.cc, "pysaliency CC", lambda s: their.CC(s, blurred.saliency_map(stimuli[0])), truth),
        Row(fixations.sim, "pysaliency SIM", lambda s: their.SIM(s, blurred.saliency_map(stimuli[0])), truth),
        Row(fixations.kl, "pysaliency MIT_KLDiv", lambda s: their.MIT_KLDiv(s, looks), truth),
        Row(
            partial(fixations.kl, convention="pysaliency"),
            "pysaliency image_based_kl_divergence",
            lambda s: their.image_based_kl_divergence(s, looks),
            truth,
            name="kl pysaliency",
        ),
        Row(fixations.ig, "pysaliency information_gain", partial(gain, baseline="centre", floor=0.01), truth),
        Row(
            partial(fixations.ig, baseline="uniform", floor=0.0),
            "pysaliency information_gain",
            partial(gain, baseline="uniform", floor=0.0),
            truth,
            name="ig uniform",
            left_out=("many zeros", "smooth", "signed", "64 levels"),
            reason="a fixation where the map has nothing: both -inf or nearly",
        ),
    ]
