"""Every metric beside a published implementation on the same maps, in the environment of `.ci/oracles`.

    python scripts/measure_metrics.py           # the table; exits with 1 where a difference has no reason
    python scripts/measure_metrics.py --speed   # one metric of 10,000 maps, beside pysaliency's loop
    python scripts/measure_metrics.py --material DIR           # of maps of real photos, both ways
    python scripts/measure_metrics.py --material DIR --share   # what metrics cost beside a run; needs none

Needs pysaliency, PySODMetrics, Quantus and scikit-learn beside attnvis and torchcam.  pysaliency and Quantus
call np.trapz, which numpy 2.4 no longer has: they get np.trapezoid under that name.
"""

import argparse
import contextlib
import importlib
import io
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnvis.metrics import boxes, faithfulness, fixations, pop_out, regions, segmentation
from attnvis.metrics.metric import facts
from attnvis.metrics.registry import METRICS
from attnvis.types import Truth

CLOSE = 1e-6
SIZE, OTHER_SIZE = (48, 60), (36, 80)  # of the photo, and of the other whose fixations shuffle
KINDS = ("noise", "smooth", "density", "patches", "many zeros", "signed", "64 levels", "level")


@dataclass(frozen=True)
class Row:
    """One metric, and how another library computes it of one map."""

    metric: Callable[..., Tensor]
    library: str
    theirs: Callable[[np.ndarray], float]
    truth: Any  # what the metric takes beside the maps
    name: str = ""
    left_out: tuple[str, ...] = ()  # kinds of maps on which the two are meant to differ
    reason: str = ""  # why they differ there

    @property
    def label(self) -> str:
        return self.name or facts(self.metric).name


def random_maps(seed: int = 0) -> np.ndarray:
    """[len(KINDS), H, W]: what maps look like, ties and zeros included."""
    rng = np.random.default_rng(seed)
    noise = rng.random(SIZE)
    rows, columns = (np.linspace(-1, 1, length) for length in SIZE)
    smooth = sum(
        rng.random() * np.exp(-8 * ((rows[:, None] - y) ** 2 + (columns - x) ** 2))
        for y, x in rng.uniform(-1, 1, (6, 2))
    )
    smooth = smooth / smooth.max()
    density = np.exp(5 * smooth + 0.1 * noise)
    patches = np.kron(rng.random((6, 6)), np.ones((8, 10)))
    zeros = np.maximum(0, smooth + 0.2 * noise - 0.5)
    levels = np.floor(64 * smooth) / 64
    return np.stack(
        [noise, smooth, density / density.sum(), patches, zeros, smooth - noise, levels, np.full(SIZE, 0.25)]
    )


def random_truth(seed: int = 1) -> Truth:
    """Fixations, some twice; those of another photo, already stretched; a blob for a mask."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, SIZE, (40, 2))
    others = rng.uniform(0, OTHER_SIZE, (90, 2)) * np.divide(SIZE, OTHER_SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = ((y - 22) / 13) ** 2 + ((x - 35) / 17) ** 2 + 0.3 * np.sin(x / 3) < 1
    return Truth(SIZE, fixations=np.concatenate([places, places[:5]]), others=others, mask=mask)


# ------------------------------------------------------------------------------------------------- the rows


def rows() -> list[Row]:
    """All of them.  Raises ImportError where a library is missing."""
    np.trapz = np.trapezoid  # type: ignore[attr-defined]  # noqa: NPY201
    truth = random_truth()
    return [
        *fixation_rows(truth),
        *region_rows(truth),
        *segmentation_rows(truth),
        *pop_out_rows(truth),
        *faithfulness_rows(),
    ]


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


def faithfulness_rows() -> list[Row]:
    """On a network of one layer and an image of noise."""
    torchcam = importlib.import_module("torchcam.metrics")
    perturbing = importlib.import_module("quantus.functions.perturb_func")
    chance = torch.Generator().manual_seed(3)
    image = torch.randn(3, *SIZE, generator=chance, dtype=torch.float64)
    weights = torch.randn(5, 3 * SIZE[0] * SIZE[1], generator=chance, dtype=torch.float64) / 20
    layer = torch.nn.Linear(weights.shape[1], 5, bias=False).double()
    layer.weight.data.copy_(weights)
    net = torch.nn.Sequential(torch.nn.Flatten(), layer).eval()
    target = int(net(image[None]).argmax())
    examined = faithfulness.Examined(image, logits=net, target=target)
    steps = SIZE[0] * SIZE[1] // 90  # which divides the pixels: theirs takes whole steps

    def extractor(values: np.ndarray) -> Any:
        shares = (values - values.min()) / max(np.ptp(values), 1e-300)
        shown = torch.from_numpy(shares if np.ptp(values) else np.zeros(SIZE))[None]

        def extract(*_: Any, **__: Any) -> list[Tensor]:
            return [shown]

        extract.model = net  # type: ignore[attr-defined]
        extract.fuse_cams = lambda cams: cams[0]  # type: ignore[attr-defined]
        extract._hooks_off = contextlib.nullcontext  # type: ignore[attr-defined]
        return extract

    def by_torchcam(kind: str, result: str, **settings: Any) -> Callable[[np.ndarray], float]:
        def value(values: np.ndarray) -> float:
            measure = getattr(torchcam, kind)(extractor(values), partial(torch.softmax, dim=-1), **settings)
            measure.update(image[None], class_idx=target)
            return measure.summary()[result]

        return value

    def road_by_quantus(values: np.ndarray) -> float:
        order = np.argsort(-values.ravel(), kind="stable")
        scores = []
        for chosen in (order[::-1], order):
            for percent in (20, 40, 60, 80):
                removed = np.sort(chosen[: round(values.size * percent / 100)])
                filled = perturbing.noisy_linear_imputation(image.numpy().copy(), removed, noise=0.0)
                with torch.no_grad():
                    scores.append(net(torch.from_numpy(filled)[None]).softmax(1)[0, target].item())
        return (np.mean(scores[:4]) - np.mean(scores[4:])) / 2

    return [
        Row(
            partial(faithfulness.deletion, steps=steps),
            "torchcam DeletionInsertionMetric",
            by_torchcam("DeletionInsertionMetric", "deletion_auc", steps=steps),
            examined,
            name="deletion",
        ),
        Row(
            partial(faithfulness.insertion, steps=steps, substitute="mean"),
            "torchcam DeletionInsertionMetric",
            by_torchcam("DeletionInsertionMetric", "insertion_auc", steps=steps),
            examined,
            name="insertion",
        ),
        Row(
            partial(faithfulness.road, noise=0.0),
            "Quantus noisy_linear_imputation",
            road_by_quantus,
            examined,
            name="road",
        ),
        Row(
            faithfulness.average_drop,
            "torchcam ClassificationMetric",
            by_torchcam("ClassificationMetric", "avg_drop"),
            examined,
        ),
        Row(
            faithfulness.confidence_increase,
            "torchcam ClassificationMetric",
            by_torchcam("ClassificationMetric", "conf_increase"),
            examined,
        ),
        *latent_rows(chance),
    ]


def latent_rows(chance: torch.Generator) -> list[Row]:
    scores = torch.randn(7, *SIZE, generator=chance, dtype=torch.float64)
    evidence = faithfulness.Evidence(scores, constants=torch.randn(7, generator=chance).double(), target=4)

    def by_loop(values: np.ndarray, inserts: bool) -> float:
        order = np.argsort(-values.ravel(), kind="stable")
        kept = [order[: count + 1] if inserts else order[count:] for count in range(len(order))]
        cells = scores.flatten(1)
        curve = [
            (cells[:, chosen].mean(1) + evidence.constants).softmax(0)[4].item()
            for chosen in map(torch.from_numpy, kept)
        ]
        return float(np.trapezoid(curve) / (len(curve) - 1))

    return [
        Row(
            getattr(faithfulness, name),
            "the head on the mean of the kept cells",
            partial(by_loop, inserts=name == "latent_insertion"),
            evidence,
        )
        for name in ("latent_deletion", "latent_insertion")
    ]


# ------------------------------------------------------------------------------------------------ the table


def every_metric() -> list[str]:
    return list(METRICS)


def our_values(row: Row, maps: np.ndarray) -> np.ndarray:
    values = row.metric(torch.from_numpy(maps), row.truth)
    finish = facts(row.metric).finish
    return (finish(values) if finish else values).numpy()


def compare(row: Row, maps: np.ndarray) -> SimpleNamespace:
    """Ours and theirs of every map, and the largest difference where they are meant to agree; NaN is NaN."""
    ours = our_values(row, maps)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        theirs = np.array([row.theirs(values) for values in maps], float)
    counts = np.array([kind not in row.left_out for kind in KINDS])
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):  # inf - inf, where both are
        differences = np.where(same, 0, np.abs(ours - theirs))[counts]
    return SimpleNamespace(ours=ours, theirs=theirs, difference=float(np.max(differences)))


def print_table() -> bool:
    maps = random_maps()
    print("| metric | library | ours | theirs | largest difference | left out |")
    print("|---|---|---|---|---|---|")
    all_close = True
    for row in rows():
        result = compare(row, maps)
        is_close = result.difference <= CLOSE
        all_close &= is_close
        note = f"{', '.join(row.left_out)}: {row.reason}" if row.left_out else ""
        print(
            f"| {row.label} | {row.library} | {result.ours[2]:.9f} | {result.theirs[2]:.9f} "
            f"| {result.difference:.1e}{'' if is_close else ' !'} | {note} |"
        )
    kinds = ", ".join(KINDS)
    print(f"\nof a density; the differences over {len(KINDS)} maps of {SIZE[0]} x {SIZE[1]}: {kinds}")
    return all_close


def print_speed(count: int = 10_000, rounds: int = 3) -> None:
    """CPU seconds, the least of some rounds that alternate."""
    np.trapz = np.trapezoid  # type: ignore[attr-defined]  # noqa: NPY201
    their = importlib.import_module("pysaliency.metrics")
    roc = importlib.import_module("pysaliency.roc")
    torch.set_num_threads(1)
    truth = random_truth()
    assert truth.fixations is not None
    y, x = truth.fixations.astype(int).T
    maps = np.random.default_rng(0).random((count, *SIZE))
    looks = fixations.looked_at(truth).numpy()
    loops: dict[str, Callable[[np.ndarray], float]] = {
        "nss": lambda s: their.NSS(s, x, y).mean(),
        "auc": lambda s: roc.general_rocs_per_positive(s[y, x], s.ravel()).mean(),
        "cc": lambda s: their.CC(s, looks),
        "sim": lambda s: their.SIM(s, looks),
        "kl": lambda s: their.MIT_KLDiv(s, looks),
    }
    print(f"| {count:,} maps of {SIZE[0]} x {SIZE[1]} | ours, CPU s | pysaliency's loop, CPU s | times |")
    print("|---|---|---|---|")
    for name, loop in loops.items():
        loop(maps[0])  # what numba compiles
        seconds = np.full((2, rounds), np.inf)
        for turn in range(rounds):
            started = time.process_time()
            ours = [getattr(fixations, name)(torch.from_numpy(part), truth) for part in np.split(maps, 200)]
            middle = time.process_time()
            theirs = [loop(values) for values in maps]
            seconds[:, turn] = middle - started, time.process_time() - middle
            assert np.allclose(torch.cat(ours), theirs, atol=CLOSE)
        mine, others = seconds.min(1)
        print(f"| {name} | {mine:.2f} | {others:.2f} | {others / mine:.1f} |")


# ---------------------------------------------------------------------------------------------- real photos

PHOTO_METHODS = ("gradcam", "eigencam", "spectral_residual", "centre")
PHOTO_QUERIES = ("norm", "class")


def photo_maps(
    dataset: Any, longest: int, methods: tuple[str, ...] = PHOTO_METHODS
) -> Iterator[tuple[Truth, np.ndarray]]:
    """Of every photo the truth, and a few methods' maps on EfficientNet-Lite0, as evaluate has them."""
    from attnvis.attention.query.language import parse
    from attnvis.attention.spec import functions
    from attnvis.backbone.sources import load_backbone
    from attnvis.data.decoding import load
    from attnvis.data.preprocessing import collate
    from attnvis.data.truth import resize_truth
    from attnvis.experiments.evaluate.maps import MapMaker
    from attnvis.experiments.evaluate.measure import size_within
    from attnvis.experiments.evaluate.naming import parse_methods

    backbone = load_backbone("efficientnet_lite0", precision="fp32", engine="eager")
    maker = MapMaker(
        backbone,
        backbone,
        queries={text: parse(text) for text in PHOTO_QUERIES},
        scalings=functions("scaling", ["zscore"]),
        normalisers=functions("normalise", ["softmax"]),
        methods=parse_methods(methods),
    )
    for sample in dataset:
        (maps,) = maker(collate([load(sample.path)], backbone.preprocessing))[0]
        size = size_within(sample.truth.size, longest)
        yield resize_truth(sample.truth, size), maps.densities(size).numpy()


def photo_rows(truth: Truth) -> list[Row]:
    """What pysaliency, Quantus and scikit-learn say of a photo's maps: by fixations, or by boxes."""
    if truth.fixations is None:
        mask = regions.region_of(truth)
        assert mask is not None
        boxed = Truth(truth.size, mask=mask.reshape(truth.size).numpy())
        shown = ("pointing_game", "energy", "relevance_rank", "mask_auc", "average_precision")
        return [row for row in region_rows(boxed) if row.label in shown]
    their = importlib.import_module("pysaliency.metrics")
    roc = importlib.import_module("pysaliency.roc")
    y, x = truth.fixations.astype(int).T
    assert truth.others is not None
    others_y, others_x = truth.others.astype(int).T
    looks = fixations.looked_at(truth).numpy()
    return [
        Row(
            fixations.auc,
            "pysaliency roc",
            lambda s: roc.general_rocs_per_positive(s[y, x], s.ravel()).mean(),
            truth,
        ),
        Row(
            fixations.sauc,
            "pysaliency roc",
            lambda s: roc.general_rocs_per_positive(s[y, x], s[others_y, others_x]).mean(),
            truth,
        ),
        Row(fixations.nss, "pysaliency NSS", lambda s: their.NSS(s, x, y).mean(), truth),
        Row(fixations.cc, "pysaliency CC", lambda s: their.CC(s, looks), truth),
        Row(fixations.sim, "pysaliency SIM", lambda s: their.SIM(s, looks), truth),
        Row(fixations.kl, "pysaliency MIT_KLDiv", lambda s: their.MIT_KLDiv(s, looks), truth),
    ]


def print_photos(folder: Path, count: int, longest: int = 256) -> None:
    """Means over photos and maps, the largest difference of any map, and the CPU seconds of both."""
    from attnvis.data.datasets import open_dataset

    np.trapz = np.trapezoid  # type: ignore[attr-defined]  # noqa: NPY201
    torch.set_num_threads(1)
    dataset = open_dataset(folder)
    dataset = dataset.chosen(range(min(count, len(dataset))))
    table: dict[str, SimpleNamespace] = {}
    maps_in_all = 0
    for truth, maps in photo_maps(dataset, longest):
        warm = not table
        maps_in_all += len(maps)
        for row in photo_rows(truth):
            line = table.setdefault(
                row.label, SimpleNamespace(row=row, ours=[], theirs=[], seconds=np.zeros(2))
            )
            if warm:
                row.theirs(maps[0])  # what numba compiles
            started = time.process_time()
            ours = our_values(row, maps)
            middle = time.process_time()
            library = [row.theirs(values) for values in maps]
            line.seconds += middle - started, time.process_time() - middle
            line.ours.append(ours)
            line.theirs.append(library)
    print(
        f"| {len(dataset)} photos, {maps_in_all} maps | library | ours | theirs | largest difference "
        "| ours, CPU s | theirs, CPU s |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, line in table.items():
        ours, theirs = (np.concatenate(each) for each in (line.ours, line.theirs))
        mine, others = line.seconds
        print(
            f"| {name} | {line.row.library} | {np.nanmean(ours):.6f} | {np.nanmean(theirs):.6f} "
            f"| {np.nanmax(np.abs(ours - theirs)):.1e} | {mine:.2f} | {others:.2f} |"
        )


SHARE_METHODS = "cam,eigencam,feature_norm,spectral_residual,centre,uniform,random_query,random_weights"
SHARE_METRICS = "auc,auc_judd,sauc,nss,cc,sim,kl,ig"


def print_share(folder: Path, count: int) -> None:
    """CPU seconds of `attnvis run` and of `attnvis evaluate`, and how many of those are the metrics'."""
    from attnvis.data.datasets import open_dataset

    dataset = open_dataset(folder)
    count = min(count, len(dataset))
    with tempfile.TemporaryDirectory() as own:
        photos = Path(own) / "photos.txt"
        photos.write_text("".join(f"{sample.path}\n" for sample in dataset.chosen(range(count))))
        common = [
            "workers=1",
            "logger.mode=disabled",
            "cache.use=false",
            "backbone.precision=fp32",
            "backbone.engine=eager",
        ]
        run = ["run", f"images={photos}", f"hydra.run.dir={own}/run", *common]
        rows = [f"method=attention,{SHARE_METHODS}", "query=mean,class", "scaling=zscore", "temperatures=[]"]
        evaluation = [
            *("evaluate", str(folder), *rows, f"metric={SHARE_METRICS}", f"most={count}", "examples=false"),
            *(f"hydra.run.dir={own}/evaluate", *common),
        ]
        start = cpu_of(["run", "--help"])[0]
        of_run, _ = cpu_of(run)
        of_evaluation, of_metrics = cpu_of(evaluation)
    print(
        f"{count} photos, {len(rows[0].split(',')) + 1} methods, {len(SHARE_METRICS.split(','))} metrics; "
        "CPU s, one thread"
    )
    print(
        f"attnvis run: {of_run:.1f}; attnvis evaluate: {of_evaluation:.1f}, "
        f"{of_evaluation / of_run:.2f} times as much"
    )
    share = of_metrics / of_evaluation
    print(f"in the metrics: {of_metrics:.1f}, {100 * share:.0f} % of evaluate; start-up alone: {start:.1f}")


TIMED = """
import sys, time
from attnvis.experiments.evaluate import measure
from attnvis.cli import main
seconds, plain = 0.0, measure.measure_photo
def timed(*args, **settings):
    global seconds
    started = time.thread_time()
    try:
        return plain(*args, **settings)
    finally:
        seconds += time.thread_time() - started
measure.measure_photo = timed
try:
    main()
finally:
    print("metrics took", seconds, file=sys.stderr)
"""


def cpu_of(words: list[str]) -> tuple[float, float]:
    """The CPU seconds of a command, and those in its metrics.  Raises RuntimeError where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, "-c", TIMED, *words], check=False, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise RuntimeError(f"attnvis {' '.join(words)} failed: {ended.stderr[-500:]}")
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return total, float(ended.stderr.rsplit("metrics took", 1)[1])


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--speed", action="store_true", help="CPU time of many maps instead of the table")
    parser.add_argument("--material", type=Path, help="a folder with osie/ and raccoon/: real photos instead")
    parser.add_argument("--photos", type=int, default=40, help="of each data set")
    parser.add_argument("--share", action="store_true", help="what metrics cost beside a run, on osie/")
    args = parser.parse_args()
    try:
        if args.material and args.share:
            print_share(args.material / "osie", args.photos)
        elif args.material:
            print_photos(args.material / "osie", args.photos)
            print()
            print_photos(args.material / "raccoon", args.photos)
        elif args.speed:
            print_speed()
        elif not print_table():
            sys.exit("where it says ! a metric differs from its library by more than 1e-6")
    except ImportError as error:
        sys.exit(f"{error.name} is not installed; .ci/oracles makes an environment that has it")


if __name__ == "__main__":
    main()
