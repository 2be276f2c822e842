"""Every metric against a published implementation; they are in the environment that .ci/oracles makes."""

import importlib.util
import sys
from pathlib import Path

import pytest

LIBRARIES = ("pysaliency", "py_sod_metrics", "quantus", "sklearn", "torchcam")
MISSING = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
if MISSING:
    pytest.skip(f"{', '.join(MISSING)} not installed: see .ci/oracles", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
common = importlib.import_module("metric_oracles.common")
measure_metrics = importlib.import_module("measure_metrics")
ROWS = measure_metrics.rows()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_a_metric_is_that_of_its_library(row):
    result = common.compare(row, common.random_maps(seed=5))
    assert result.difference <= 1e-6


def test_every_metric_has_a_row_or_needs_chance():
    measured = {common.facts(row.metric).name for row in ROWS}
    drawn_by_chance = {"auc_borji", "sauc_borji"}  # tests/metrics/test_fixation_metrics.py has their loops
    assert measured == set(measure_metrics.every_metric()) - drawn_by_chance
