"""The note's page: its sums against the goldens, its sentence against features made to fit and to defy it."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fake_backbone, make_photo
from scipy.optimize import brentq
from scipy.special import expit

from attnvis.attention import query, scaling
from attnvis.attention.normalise import softmax
from attnvis.backbone.heads import Linear
from attnvis.experiments import seed_note
from attnvis.experiments.seed_note import QueryMedians, duel, query_medians, verdict, write_note
from attnvis.experiments.sweep.folder import AXES, read_sweep
from attnvis.experiments.sweep.job import GridWriter, JobWriter
from attnvis.methods.settings import GAPS, SettingGrid
from attnvis.pipeline.streaming import stream
from attnvis.types import Preprocessing

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text())["T1"]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['pair']} d={row['dim']}")
def test_the_page_has_the_true_numbers_of_the_notes_pairs(row):
    numbers = duel(tuple(map(float, row["pair"])), row["dim"])
    assert numbers.weights == pytest.approx((row["first"], row["second"]), rel=1e-9, abs=0)
    for name in ("gap", "entropy", "perplexity", "gradient"):
        assert getattr(numbers, name) == pytest.approx(row[name], rel=1e-4, abs=0), name


def test_the_claims_stand_beside_what_is():
    near, far = seed_note.claims()
    assert near.plain.weights[0] == pytest.approx(0.880797077978) and near.divided.weights[
        0
    ] == pytest.approx(0.511046745542)
    assert near.shares == pytest.approx((51 / 100, 49 / 100)) and round(near.noted_dim, 1) == 2499.3
    assert (
        far.plain.weights[1] == pytest.approx(8.7565107627e-27, rel=1e-9, abs=0)
        and round(far.noted_gap, 2) == 18.42
    )


def test_the_best_divisor_is_where_the_gradient_peaks():
    best = seed_note.best_gap()
    assert best == pytest.approx(brentq(lambda x: x * math.tanh(x / 2) - 1, 0.1, 10, xtol=1e-14), abs=1e-12)
    for pair, root in (((80.0, 20.0), 38.875), ((51.0, 49.0), 1.296)):
        gap = pair[0] - pair[1]
        assert gap / best == pytest.approx(root, abs=5e-4)
        divisors = [gap / best * step for step in (0.8, 0.99, 1.0, 1.01, 1.25)]
        heights = seed_note.gradients(pair, divisors)
        assert heights == pytest.approx([expit(gap / t) * expit(-gap / t) / t for t in divisors], rel=1e-9)
        assert max(heights) == heights[2]


def medians(before: float, after: float, patches: float = 50.0, wide: float = 0.0) -> QueryMedians:
    """`wide` is the share of the pairs over 99 to 1, undivided."""
    nothing = np.zeros(GAPS[2])
    undivided = nothing.copy()
    undivided[-1], undivided[0] = wide, 1 - wide
    return QueryMedians(
        "mean", before, before / patches, after, after / patches, patches, 1.0, (undivided, nothing)
    )


@pytest.mark.parametrize(
    "before, after, holds, words",
    [
        (
            1.02,
            20,
            True,
            "undivided its attention sits on 1.02 of 50 patches, divided it is spread over 20 (40\u00a0%)",
        ),
        (1.0, 1.6, False, "√d is too little"),
        (1.5, 49, False, "√d is too much"),
        (18, 30, False, "nothing was wild, and divided over 30 (60\u00a0%)"),
        (
            18,
            49.5,
            False,
            "nothing was wild, and divided it covers 49.5 (99\u00a0%): hardly any preference is left",
        ),
    ],
)
def test_the_notes_sentence_holds_where_it_was_wild_and_a_choice_is_left(before, after, holds, words):
    found, why = verdict(medians(float(before), float(after)))
    assert found is holds and words in why


@pytest.mark.parametrize(
    "before, after, wide, words",
    [
        (2.68, 60, 0.862, "undivided its attention sits on 2.68 of 330 patches"),
        (2.68, 8.0, 0.862, "divided still on 8 (2.4\u00a0%): √d is too little"),
        (
            40,
            60,
            0.2,
            "spread over 40 of 330 patches (12\u00a0%), though 20\u00a0% of its pairs are over 99 : 1",
        ),
        (160, 200, 0.0, "spread over 160 of 330 patches (48\u00a0%), so nothing was wild"),
    ],
)
def test_nothing_was_wild_is_only_said_where_the_table_says_so(before, after, wide, words):
    """2.68 of 330 patches are 0.8 %: that is wild, however many patches it is."""
    holds, why = verdict(medians(float(before), float(after), 330.0, wide))
    assert words in why and holds == (after == 60 and before < 16.5)


def test_the_judgement_names_the_queries_on_both_sides():
    sentence = seed_note.judgement([medians(1.0, 20.0), replace(medians(18.0, 49.0), query="class")], 6)
    assert re.fullmatch(
        r"On these 6 photos the note's sentence holds for the query mean \(.*\); "
        r"it does not hold for the query class \(.*\)\.",
        sentence,
    )
    assert seed_note.judgement([medians(18.0, 49.0)], 1).startswith(
        "On this photo the note's sentence does not hold for the query mean ("
    )


@pytest.mark.parametrize(
    "weights, words",
    [
        ((0.51, 0.49), "0.51"),
        ((1.0, 8.7565e-27), "1 − 8.757·10⁻²⁷"),
        ((0.999447, 0.000553), "0.9994"),
        ((0.0, 1.0), "0"),
    ],
)
def test_a_probability_is_written_so_that_it_can_be_read(weights, words):
    assert seed_note.probability(weights) == words


# -------------------------------------------------------------------------------- photos

D = 100  # its root moves a gap by one decade: 6 bins of the histogram
HOW = Preprocessing(60, "stretch", multiple=1)


class Tiles(torch.nn.Module):
    """Colours of 4 x 5 tiles, in 100 channels: long vectors, so that the mean's scores lie far apart."""

    def forward(self, images):
        tiles = torch.nn.functional.adaptive_avg_pool2d(images, (4, 5))
        mix = torch.randn(D, 3, generator=torch.Generator().manual_seed(0))
        return 1.5 * torch.einsum("dc,bchw->bdhw", mix, tiles)


def short_head() -> Linear:
    return Linear(
        torch.randn(3, D, generator=torch.Generator().manual_seed(1)) / 40,
        torch.zeros(3),
        ("<b>ant</b>", "bee", "cow"),
    )


@pytest.fixture
def folder(tmp_path):
    """A sweep of one job over three photos, as `attnvis sweep experiment=note` leaves it."""
    return swept(
        tmp_path / "sweep",
        ("none", "inv_sqrt_d"),
        [make_photo(tmp_path / f"<i>{n}.png", (60, 75), n) for n in range(3)],
    )


def swept(folder: Path, scalings: tuple[str, ...], photos: list[Path]) -> Path:
    net = fake_backbone(Tiles(), HOW, short_head(), name="tiles", weights="made up")
    grid = SettingGrid(
        net,
        {"mean": query.mean, "class": query.class_},
        {name: getattr(scaling, name) for name in scalings},
        {"softmax": softmax},
    )
    with JobWriter(folder, {}) as job:
        job.update(axes=dict.fromkeys(AXES, "x"), provenance=net.describe().entries())
        with GridWriter(job, grid.settings) as writer:
            for outcome in stream(photos, grid, HOW):
                writer.add(outcome)
    (folder / "plan.json").write_text(
        json.dumps({"command": "attnvis sweep <x>", "jobs": [""], "many": False})
    )
    return folder


def spread_over(weights: np.ndarray) -> float:
    return math.exp(-sum(a * math.log(a) for a in weights if a > 0))


def test_the_medians_are_those_of_the_photos(folder, tmp_path):
    from attnvis.data.decoding import load
    from attnvis.data.preprocessing import collate

    shares = {"none": [], "inv_sqrt_d": []}
    for number in range(3):
        maps = (
            Tiles()(collate([load(tmp_path / f"<i>{number}.png")], HOW).images)[0]
            .flatten(1)
            .T.double()
            .numpy()
        )
        scores = maps @ maps.mean(0)
        for name, divisor in (("none", 1.0), ("inv_sqrt_d", math.sqrt(D))):
            powers = np.exp((scores - scores.max()) / divisor)
            shares[name].append(spread_over(powers / powers.sum()))
    mean, class_ = query_medians(read_sweep(folder).parts[0])
    assert (mean.query, class_.query, mean.patches) == ("mean", "class", 20)
    assert mean.before == pytest.approx(sorted(shares["none"])[1], rel=1e-3)
    assert mean.after == pytest.approx(sorted(shares["inv_sqrt_d"])[1], rel=1e-3)
    assert mean.after_share == pytest.approx(mean.after / 20)


def test_dividing_moves_the_gaps_by_the_root_of_d_and_leaves_their_form(folder):
    for entry in query_medians(read_sweep(folder).parts[0]):
        before, after = entry.gaps
        assert before.sum() == pytest.approx(1) and after.sum() == pytest.approx(1)
        assert np.abs(after - np.roll(before, -6)).sum() < 0.05, (
            "10 = one decade = 6 bins; pairs at an edge may fall either way"
        )
        wide, divided = entry.beyond(seed_note.WIDE)
        assert divided == pytest.approx(entry.beyond(10 * seed_note.WIDE)[0], abs=0.05) and divided <= wide


def test_the_odds_at_the_marks_are_what_the_figure_says():
    assert [round(100 * expit(gap)) for gap in (seed_note.WIDE, seed_note.NARROW)] == [99, 55]
    assert (seed_note.odds(seed_note.WIDE), seed_note.odds(seed_note.NARROW)) == ("99 : 1", "55 : 45")


def test_the_page_says_where_the_sentence_holds_and_needs_nothing_else(folder, tmp_path):
    path = write_note(read_sweep(folder), tmp_path / "out")
    page = path.read_text("utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["note.html"]
    assert (
        "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
        and "default-src 'none'" in page
        and page.count("<script") == 1
        and "script-src 'sha256-" in page
    )
    # tiles; curves, two histograms, colours
    assert page.count('src="data:image/jpeg') == 4 and page.count('src="data:image/png') == 4
    for number in ("0.8808", "0.511", "8.757·10⁻²⁷", "38.875", "1.543405", "2499.3", "18.42", "0.7901"):
        assert number in page, number
    assert (
        "the note&#39;s sentence holds for the query mean (" in page
        and "it does not hold for the query class (" in page
    )
    assert "&lt;i&gt;0.png" in page and "<i>0" not in page and "attnvis sweep &lt;x&gt;" in page


def test_labels_of_strangers_stay_text(folder, tmp_path):
    record = json.loads((folder / "job.json").read_text())
    for tile in record["tiles"]:
        tile["label"] = "<b>ant</b>"
    del record["seal"]  # it is written anew here
    (folder / "job.json").write_text(json.dumps(record))
    page = write_note(read_sweep(folder), tmp_path / "out").read_text("utf-8")
    assert "&lt;b&gt;ant&lt;/b&gt;" in page and "<b>ant" not in page


def test_missing_tiles_and_random_weights_do_not_stop_the_page(folder, tmp_path):
    for tile in (folder / "tiles").iterdir():
        tile.unlink()
    record = json.loads((folder / "job.json").read_text())
    del record["seal"]  # it is written anew here
    (folder / "job.json").write_text(json.dumps(record | {"weights digest": "random", "files": {}}))
    page = write_note(read_sweep(folder), tmp_path / "out").read_text("utf-8")
    assert "What it looks like" not in page and "random weights: nothing was learned" in page


def test_a_sweep_without_both_scalings_is_one_line(tmp_path):
    lacking = swept(tmp_path / "sweep", ("none", "zscore"), [make_photo(tmp_path / "a.png")])
    with pytest.raises(ValueError, match="try: attnvis sweep experiment=note") as caught:
        write_note(read_sweep(lacking), tmp_path)
    assert "\n" not in str(caught.value)
