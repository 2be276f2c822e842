"""What metrics cost: beside pysaliency's loop, and beside a run."""

import importlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from attnvis.metrics import fixations
from metric_oracles.common import (
    CLOSE,
    SIZE,
    random_truth,
)


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
