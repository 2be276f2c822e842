"""What a table says of photos, beside sums by hand and SciPy's bootstrap."""

import math
import re

import numpy as np
import pytest
import scipy.stats
import torch

from attnvis.experiments.evaluate.findings import examples, flat_lines, sentences
from attnvis.experiments.evaluate.maps import Row
from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.experiments.evaluate.page import figures
from attnvis.experiments.evaluate.statistics import (
    chosen_on_halves,
    leaders,
    per_photo,
    resampled,
    summarise,
)
from attnvis.experiments.evaluate.tables import (
    as_csv,
    as_latex,
    as_markdown,
    as_terminal,
    leader_table,
    photo_rows,
    plain_table,
)
from attnvis.metrics.metric import Facts

UP = Facts("up", ("boxes",), "higher", 0.0, 1.0, 0.0, ranks=True)
DOWN = Facts("down", ("boxes",), "lower", 0.0, 1.0, 0.0, ranks=False)
CURVE = Facts("peak", ("mask",), "higher", 0.0, 1.0, 0.0, ranks=False, finish=lambda means: means.amax(-1))
PHOTOS = 60
ROWS = (Row("centre", "centre"), Row("good", "good"), Row("same_100%", "same_100%"))


def evaluation(seed=0, photos=PHOTOS, **more):
    noise = np.random.default_rng(seed).normal(size=(photos, 3))
    base = noise[:, :1]
    up = np.concatenate([base, base + 0.3 + 0.1 * noise[:, 1:2], base + 0.05 * noise[:, 2:]], 1)
    names = tuple(f"{number}.jpg" for number in range(photos))
    return Evaluation(ROWS, names, {"up": up, "down": up.copy()} | more)


def test_photos_are_drawn_with_replacement_and_as_many_as_there_are():
    counts = resampled(7, 5000)
    assert (counts.sum(1) == 7).all()
    assert counts.mean(0) == pytest.approx(np.ones(7), abs=0.06) and counts.var() == pytest.approx(
        6 / 7, abs=0.03
    )


def test_intervals_are_scipys_paired_bootstrap():
    measured = evaluation()
    table = summarise(measured, [UP], "centre")
    values = measured.values["up"]
    for column, row in enumerate(ROWS):
        expected = scipy.stats.bootstrap(
            (values[:, column],), np.mean, n_resamples=10_000, method="percentile", rng=1
        ).confidence_interval
        cell = table.cells[row.name, "up"]
        assert cell.interval.value == pytest.approx(values[:, column].mean())
        assert (cell.interval.low, cell.interval.high) == pytest.approx(
            (expected.low, expected.high), abs=0.012
        )
    difference = values[:, 1] - values[:, 0]
    expected = scipy.stats.bootstrap((difference,), np.mean, method="percentile", rng=1).confidence_interval
    cell = table.cells["good", "up"]
    assert cell.difference.value == pytest.approx(difference.mean())
    assert (cell.difference.low, cell.difference.high) == pytest.approx(
        (expected.low, expected.high), abs=0.002
    )


def test_a_paired_difference_is_seen_where_intervals_overlap():
    table = summarise(evaluation(), [UP, DOWN], "centre")
    good, centre = (table.cells[name, "up"].interval for name in ("good", "centre"))
    assert good.low < centre.high, "alone they could not be told apart"
    assert table.cells["good", "up"].differs and not table.cells["same_100%", "up"].differs
    text = as_markdown(table)
    good_line = next(line for line in text.splitlines() if "| good " in line)
    assert "▲" in good_line.split("|")[2] and "▼" in good_line.split("|")[3], "lower is better in the second"


def test_chance_is_as_it_says_and_raised_for_the_number_of_rows():
    """Rows of pure noise: of 60 tables of 5 rows about 3 may claim a difference; else 11 would."""
    rows = tuple(Row(name, name) for name in ("centre", "a", "b", "c", "d"))
    claims = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(size=(40, 5))
        table = summarise(Evaluation(rows, ("x",) * 40, {"up": values}), [UP], "centre")
        claims += any(table.cells[row.name, "up"].differs for row in rows)
    assert claims <= 6


def test_what_is_not_defined_is_counted_and_out_of_the_mean():
    measured = evaluation()
    measured.values["up"][:7, 1] = np.nan
    table = summarise(measured, [UP], "centre")
    cell, values = table.cells["good", "up"], measured.values["up"]
    assert cell.undefined == 7 and cell.interval.count == PHOTOS - 7
    assert cell.interval.value == pytest.approx(values[7:, 1].mean())
    assert cell.difference.value == pytest.approx((values[7:, 1] - values[7:, 0]).mean()), "on shared photos"
    assert "(7 undefined)" in as_terminal(table)
    measured.values["up"][:, 1] = np.nan
    cell = summarise(measured, [UP], "centre").cells["good", "up"]
    assert math.isnan(cell.interval.value) and cell.undefined == PHOTOS and not cell.differs


def test_few_photos_get_no_intervals_and_are_not_compared():
    table = summarise(evaluation(photos=8), [UP], "centre")
    assert math.isnan(table.cells["good", "up"].interval.low) and not table.cells["good", "up"].differs
    assert "These are 8 photos" in next(sentences(table))


def test_a_curve_is_finished_after_its_mean_not_before():
    """Two photos that peak at different thresholds: the data set's peak is no mean of theirs."""
    curves = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))[:, None].repeat(3, 1)
    table = summarise(evaluation(photos=40, peak=curves), [CURVE], "centre")
    assert table.cells["good", "peak"].interval.value == 0.5
    assert per_photo(curves, CURVE).tolist() == [[1.0] * 3] * 40
    assert 0.5 <= table.cells["good", "peak"].interval.low <= table.cells["good", "peak"].interval.high < 0.85


def test_each_half_is_measured_under_the_setting_that_is_best_on_the_other():
    """Of noise alone the best of many settings looks good; chosen on the other half it does not."""
    rows = (*(Row(f"mean {number}", "mean") for number in range(30)), Row("centre", "centre"))
    values = np.random.default_rng(5).normal(size=(50, 31))
    ((row, (choices, composed)),) = chosen_on_halves(rows, values, UP).items()
    assert row == Row("mean (chosen)", "mean") and len(set(choices)) == 2
    half = np.random.default_rng(0).permutation(50) % 2 == 0
    for judged, choosing, choice in ((half, ~half, choices[0]), (~half, half, choices[1])):
        best = values[choosing][:, :30].mean(0).argmax()
        assert choice == f"mean {best}"
        assert (composed[judged] == values[judged, best]).all()
    assert abs(composed.mean()) < 0.2 < values[:, :30].mean(0).max()
    ((low, _),) = chosen_on_halves(rows, values, DOWN).values()
    assert low[0] == f"mean {values[~half][:, :30].mean(0).argmin()}"


def test_points_of_curves_are_neither_rows_nor_candidates():
    rows = (*ROWS, Row("good at 1", "good", 1.0), Row("good at 2", "good", 2.0))
    values = np.concatenate([evaluation().values["up"], np.full((PHOTOS, 2), 9.0)], 1)
    measured = Evaluation(rows, evaluation().photos, {"up": values})
    table = summarise(measured, [UP], "centre")
    assert [row.name for row in table.ranked(UP)] == ["good", "same_100%", "centre"] or len(
        table.ranked(UP)
    ) == 3
    assert "good at 1" not in as_terminal(table) and "good at 1" in as_csv(table)
    assert list(flat_lines(table)) == ["up (ranks alone): from one end to the other good 0.000 (best at 1)."]


def test_a_row_that_is_not_there_cannot_be_held_against():
    with pytest.raises(ValueError, match="against=middle is no row of the table; there are centre, good"):
        summarise(evaluation(), [UP], "middle")


def test_examples_are_the_best_the_worst_and_the_most_disagreeing_photo():
    values = np.zeros((4, 3))
    values[:, 1] = [0.5, 0.9, 0.1, 0.5]
    values[3, 2] = -5
    measured = Evaluation(ROWS, ("a", "b", "c", "d"), {"up": values})
    shown = {each.what: each for each in examples(measured, summarise(measured, [UP], "centre"))}
    assert shown["best"].photo == "b" and shown["best"].rows == (("good", 0.9),)
    assert shown["worst"].photo == "c"
    assert shown["most disagreeing"].photo == "d"
    assert [row for row, _ in shown["most disagreeing"].rows] == ["good", "same_100%"]


def test_latex_compiles_its_own_signs_as_letters():
    text = as_latex(summarise(evaluation(), [UP, DOWN], "centre"))
    assert r"same\_100\%" in text and text.count(r"\\") == 4 and "−" not in text
    assert text.count("&") == 8 and "\\begin{tabular}{lcc}" in text


def test_every_photos_number_is_kept():
    measured = evaluation()
    rows = photo_rows(measured, [UP]).to_pylist()
    assert len(rows) == PHOTOS * 3
    assert rows[4] == {
        "photo": "1.jpg", "row": "good", "temperature": None, "metric": "up",
        "value": measured.values["up"][1, 1],
    }  # fmt: skip
    assert torch.tensor(measured.values["up"]).isfinite().all()


def test_of_controls_alone_no_sentence_says_that_a_metric_is_not_defined():
    values = np.random.default_rng(0).normal(size=(PHOTOS, 2))
    controls = (Row("centre", "centre"), Row("uniform", "uniform"))
    measured = Evaluation(controls, tuple(f"{number}.jpg" for number in range(PHOTOS)), {"up": values})
    said = list(sentences(summarise(measured, [UP], "centre")))
    assert said == ["up: the controls alone were measured; add a method to compare with them."]


@pytest.mark.parametrize(
    "columns, facts, said",
    [
        ((1, 2, 3), UP, "up: the best method is b with 3.000, and centre has 1.000"),
        (
            (4, 2, 3),
            UP,
            "up: no method has a better number than centre with 4.000; the best method is b with 3.000",
        ),
        (
            (1, 2, 3),
            DOWN,
            "down: no method has a better number than centre with 1.000; the best method is a with",
        ),
        (
            (3, 3, 3),
            UP,
            "up: no method has a better number than centre with 3.000; a and b are tied with 3.000",
        ),
        ((1, 3, 3), UP, "up: a and b are tied with 3.000, and centre has 1.000"),
    ],
)
def test_a_sentence_names_no_winner_where_the_control_wins_or_rows_are_tied(columns, facts, said):
    rows = (Row("centre", "centre"), Row("a", "a"), Row("b", "b"))
    values = np.tile(np.array(columns, float), (3, 1))
    measured = Evaluation(rows, ("1", "2", "3"), {facts.name: values})
    assert list(sentences(summarise(measured, [facts], "centre")))[1].startswith(said)


def test_the_best_setting_is_named_with_those_that_are_not_shown_to_be_worse():
    noise = np.random.default_rng(2).normal(size=(PHOTOS, 4))
    base = noise[:, 0]
    columns = (base, base + 0.01 * noise[:, 1] + 0.001, base - 0.5 + 0.1 * noise[:, 2], base - 9)
    rows = (*(Row(f"mean {name}", "mean") for name in ("a", "b", "c")), Row("centre", "centre"))
    measured = Evaluation(rows, tuple(map(str, range(PHOTOS))), {"up": np.stack(columns, 1)})
    (leader,) = leaders(measured, [UP])
    rival = {"mean a": "mean b", "mean b": "mean a"}[leader.best]
    assert leader.family == "mean" and leader.alike == (rival,) and leader.settings == 3
    headings, lines = leader_table([leader])
    assert headings == ("best setting of", "mean")
    assert lines == [("up", f"{leader.best[-1]} (or {rival[-1]})")]
    assert plain_table(headings, lines).splitlines()[0].startswith("| best setting of | mean")
    few = Evaluation(rows, measured.photos[:9], {"up": measured.values["up"][:9]})
    assert leader_table(list(leaders(few, [UP])))[1] == [("up", "none told apart")]


def test_what_counts_ranks_alone_is_flat_beside_all_other_metrics():
    """The figure's lines, read off its SVG: one dashed line on one height, one that falls."""
    rng = np.random.default_rng(0)
    rows = (Row("centre", "centre"), *(Row(f"mean at {tau:g}", "mean", tau) for tau in (0.5, 1.0, 2.0)))
    ranks = np.repeat(rng.normal(size=(PHOTOS, 1)), 4, 1)
    values = ranks + np.array([0, -1.0, 0.0, -0.5])
    measured = Evaluation(rows, tuple(map(str, range(PHOTOS))), {"up": ranks, "down": -values})
    table = summarise(measured, [UP, DOWN], "centre")
    drawn = {figure.name: figure for figure in figures(table)}
    assert list(drawn) == ["temperature", "temperature_up", "temperature_down"]
    heights = [path_heights(line) for line in drawn["temperature"].svg.decode().split('<g id="line2d_')[1:]]
    curves = [line for line in heights if len(line) == 3]
    flat, falling = (max(line) - min(line) for line in curves[:2])
    assert flat < 1e-6 < falling
    assert curves[1][1] == pytest.approx(min(curves[1])), "the best point is the highest"


def path_heights(line):
    path = re.search(r'<path d="([^"]*)"[^>]*clip-path', line)
    return [float(y) for _, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.group(1))] if path else []
