"""A pop-out study of simulated observers whose thresholds are known."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import Page

from attnvis.experiments.evaluate.maps import Row
from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.experiments.pop_out import page
from attnvis.experiments.pop_out.measure import measure_pop_out, require_levels
from attnvis.metrics.metric import Facts

FOUND = Facts("found_first", ("mask",), "higher", 0.0, 1.0, 0.0, ranks=True)
POINTED = Facts("pointing_game:0", ("mask",), "higher", 0.0, 1.0, math.nan, ranks=True)
GSI = Facts("gsi", ("mask",), "higher", -1.0, 1.0, -1.0, ranks=False)
LEVELS = {
    "orientation": (4, 8, 16, 32, 64),
    "size": (1.1, 1.2, 1.4, 1.8, 2.5),
    "tilted": (7, 49),
    "upright": (7, 49),
}
REPEATS = 60
ROWS = (Row("keen", "keen"), Row("blind", "blind"), Row("uniform", "uniform"))
KEEN = {"orientation": 16.0, "size": 1.4}  # thresholds


def evaluation():
    """`keen` has thresholds, finds tilted nine times in ten and upright never; `blind` guesses."""
    rng = np.random.default_rng(4)
    names, found = [], []
    for kind, levels in LEVELS.items():
        for rank, level in enumerate(levels):
            for repeat in range(REPEATS):
                names.append(f"{kind}_{level:g}_{rank * REPEATS + repeat:05d}.png")
                if kind in KEEN:
                    least = 1 if kind == "size" else 0
                    octaves = math.log2((level - least) / (KEEN[kind] - least))
                    chance = 1 / 49 + (1 - 1 / 49) / (1 + math.exp(-4 * octaves))
                else:
                    chance = 0.9 if kind == "tilted" else 0.0
                found.append([rng.random() < chance, rng.random() < 1 / 49, 0])
    found = np.array(found, float)
    pointed = found.copy()
    pointed[:, 2] = 0.01
    return Evaluation(
        ROWS, tuple(names), {"found_first": found, "pointing_game:0": pointed, "gsi": found - 0.5}
    )


@pytest.fixture(scope="module")
def study():
    return measure_pop_out(evaluation(), [FOUND, POINTED, GSI])


def test_known_thresholds_are_recovered_as_levels_that_can_be_asked_for(study):
    for kind, threshold in KEEN.items():
        keen, blind = study.of(kind, "found_first")
        assert keen.row == "keen" and keen.has_threshold and keen.fit.guess == pytest.approx(1 / 49)
        text = page.threshold_text(keen)
        value, low, high = (
            float(part) for part in text.replace("[", "").replace("]", "").replace(",", "").split()
        )
        assert low <= threshold <= high and value == pytest.approx(threshold, rel=0.15)
        assert page.threshold_text(blind).startswith("no threshold, finds 0.0") and not blind.rises
    assert study.of("size", "pointing_game:0")[0].fit.guess == pytest.approx(0.01)
    assert set(study.numbers) == {
        f"threshold/{metric}/{kind}/keen" for metric in ("found_first", "pointing_game:0") for kind in KEEN
    }


def test_points_are_shares_with_exact_intervals(study):
    (keen, _) = study.of("tilted", "found_first")
    share = keen.shares[0]
    assert keen.levels == (7.0, 49.0) and keen.guesses == (1 / 7, 1 / 49) and keen.fit is None
    assert share.count == REPEATS and share.low < 0.9 < share.high
    mean = study.of("tilted", "gsi")[0].shares[0]
    assert mean.value == pytest.approx(share.value - 0.5)


def test_an_asymmetry_is_told_with_its_direction(study):
    pairs = {(pair.row, pair.metric): pair for pair in study.asymmetries}
    assert pairs["keen", "found_first"].difference.value == pytest.approx(0.9, abs=0.06)
    assert not pairs["blind", "found_first"].difference.certain
    text = " ".join(page.sentences(study))
    assert "found_first, tilted found more often than upright, as people do: keen by 0." in text
    assert "orientation: the lowest threshold is" in text and "no threshold, for finds" in text


def test_the_study_is_written_for_terminal_spreadsheet_and_page(study, tmp_path):
    text = page.as_text(study)
    assert "| threshold | orientation, °" in text and "tilted, 7 → 49 items" in text
    few = replace(study, curves=tuple(study.of("size", "found_first") + study.of("tilted", "found_first")))
    written = page.write_pop_out(few, evaluation(), [FOUND], tmp_path, facts={"seed": "0"})
    with (tmp_path / "thresholds.csv").open(newline="") as file:
        lines = {(line["metric"], line["kind"], line["row"]): line for line in csv.DictReader(file)}
    line = lines["found_first", "size", "keen"]
    assert float(line["low"]) <= 1.4 <= float(line["high"])
    assert lines["found_first", "size", "blind"]["threshold"] == "nan"
    points = list(csv.DictReader(io.StringIO((tmp_path / "points.csv").read_text())))
    assert len(points) == 2 * (len(LEVELS["size"]) + len(LEVELS["tilted"]))
    words = Page(written).words
    assert "no threshold" in words and "By how much an odd item must differ" in words
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawn == {"levels_found_first", "items_found_first"}


def test_chance_of_pointing_has_to_be_known():
    measured = evaluation()
    few = Evaluation(ROWS[:2], measured.photos, {name: of[:, :2] for name, of in measured.values.items()})
    with pytest.raises(
        ValueError, match="pointing_game:0 needs to know what chance finds; add uniform to method="
    ):
        measure_pop_out(few, [POINTED])


def test_levels_are_checked_before_anything_is_drawn():
    require_levels({"orientation": [5, 10, 20], "tilted": [49]})
    for levels, reason in (
        ({}, "study=pop_out has no levels"),
        ({"orientation": [5, 10]}, "give at least 3"),
        ({"size": [1, 1.5, 2]}, "from above 1 on"),
        ({"colour": [20, 10, 5]}, "each larger than the one before"),
        ({"colour": "5"}, "give numbers"),
    ):
        with pytest.raises(ValueError, match=reason):
            require_levels(levels)
