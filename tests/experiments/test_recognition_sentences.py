"""What the study of recognition says of odd photos, read back against its rows, by scipy and by hand."""

import io
import math
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Page
from scipy import optimize, stats
from test_sweep_sentences import number

from attnvis.experiments.recognition.measure import recognise_photo, settings, summarise
from attnvis.experiments.recognition.page import as_text, conclusions, write_recognition

D, C = 7, 11
NAMES = [setting.name for setting in settings(D)]
GAP, DIVIDED, PLAIN = (NAMES.index(name) for name in ("GAP", "inv_sqrt_d", "none"))


def drawn(photos, gain=0.0, noise=1.0, seed=0):
    """Logits [P, S, C] and truths; `gain` lifts the truth more, the sharper the setting."""
    random = np.random.default_rng(seed)
    truths = random.integers(0, C, photos)
    logits = 2 * random.normal(size=(photos, 1, C)) + noise * random.normal(size=(photos, len(NAMES), C))
    steps = np.linspace(0, 1, len(NAMES))
    logits[np.arange(photos), :, truths] += 2 + gain * steps
    return logits, truths


def equal_settings(photos):
    logits, truths = drawn(photos, noise=0.0)
    return logits, truths


def flat(photos):
    return np.zeros((photos, len(NAMES), C)), np.arange(photos) % C


def one_hot(photos, right=True):
    truths = np.arange(photos) % C
    logits = np.zeros((photos, len(NAMES), C))
    logits[np.arange(photos), :, truths if right else (truths + 1) % C] = 300.0
    return logits, truths


def sharper(photos, factor):
    """Attention that does nothing but multiply the logits."""
    logits, truths = drawn(photos, noise=0.0)
    logits[:, GAP + 1 :] *= factor
    return logits, truths


def well_known(photos, seed):
    """GAP knows its chances, so that rescaling gives nothing; attention finds the truth more often."""
    random = np.random.default_rng(seed)
    base = 2 * random.normal(size=(photos, C))
    chances = np.exp(base) / np.exp(base).sum(1, keepdims=True)
    truths = np.array([random.choice(C, p=row) for row in chances])
    logits = np.repeat(base[:, None], len(NAMES), 1)
    logits[np.arange(photos), GAP + 1 :, truths] += 1.5
    return logits, truths


ODD = {
    **{f"{count} photos": drawn(count, seed=count) for count in (2, 3, 5, 6, 7, 12, 29, 30, 31, 60)},
    **{f"{count} photos that gain": drawn(count, gain=4.0) for count in (2, 6, 29, 30, 80)},
    **{f"{count} photos that lose": drawn(count, gain=-4.0) for count in (3, 6, 30, 80)},
    **{f"equal settings, {count}": equal_settings(count) for count in (2, 6, 40)},
    **{f"flat, {count}": flat(count) for count in (2, 8, 40)},
    **{f"all right, {count}": one_hot(count) for count in (3, 6, 40)},
    **{f"all wrong, {count}": one_hot(count, right=False) for count in (3, 40)},
    **{f"sharper by {factor}, {count}": sharper(count, factor) for factor in (0.4, 2.5) for count in (8, 60)},
    **{f"chances that are known, {seed}": well_known(60, seed) for seed in range(4)},
    "noise beside": drawn(50, noise=8.0),
    "a little gain": drawn(200, gain=0.3, noise=0.1),
}


def findings_of(case):
    logits, truths = ODD[case]
    photos = [
        recognise_photo(torch.tensor(rows), int(truth), {"index": number, "truth": int(truth)})
        for number, (rows, truth) in enumerate(zip(logits, truths, strict=True))
    ]
    return summarise(settings(D), photos)


def test_there_are_many_odd_studies_and_each_sentence_is_said_of_one():
    assert len(ODD) >= 30
    every = " ".join(" ".join(conclusions(findings_of(case))) for case in ODD)
    for words in (
        *("gains", "costs", "makes no difference", "changes nothing", "changes that by"),
        *("NLL of the truth is", "falls from", "rises from", "does not change beyond"),
        *("For comparison", "That much needs no attention", "Part of that", "Mere rescaling gives nothing"),
        *("lower by", "not shown to differ", "These are"),
    ):
        assert words in every, words


@pytest.mark.parametrize("case", ODD)
def test_every_claim_about_odd_photos_is_what_the_rows_say(case):
    findings = findings_of(case)
    rows = findings.table.to_pydict()
    table = {
        name: np.array(rows[name], float).reshape(-1, len(NAMES)) for name in ("top1", "nll", "nll_rescaled")
    }
    text = " ".join(conclusions(findings))
    assert not re.search(r"\b(nan|inf)\b|−0\.0 points", text), text
    count = len(table["top1"])
    read_start(text, table, count)
    effects = re.findall(r"(?:Attention divided by √d = \S+|attention not divided) (.*?)[;.](?=\s)", text)
    for clause, column in zip(effects, (DIVIDED, PLAIN), strict=True):
        read_effect(clause, table, column, count)
    read_nll(text, table, count)
    read_rescaling(text, table, count)
    assert (f"These are {count} photos" in text) == (count < 30)
    if count < 30:
        needs = "fewer than 6 photos: no interval" if count < 6 else "as the NLL is, needs 30"
        assert needs in text and "With both rescaled so" not in text


def read_start(text, table, count):
    found = re.match(r"On (\d+) photos .*? is right on ([\d.]+)(?: \[([\d.]+), ([\d.]+)\])? %\.", text)
    right = int(table["top1"][:, GAP].sum())
    assert int(found[1]) == count and float(found[2]) == pytest.approx(100 * right / count, abs=0.051)
    assert (found[3] is None) == (count < 6)
    if count >= 6:
        exact = stats.binomtest(right, count).proportion_ci(method="exact")
        assert (float(found[3]), float(found[4])) == pytest.approx(
            (100 * exact.low, 100 * exact.high), abs=0.051
        )


def read_effect(clause, table, column, count):
    changes = table["top1"][:, column] - table["top1"][:, GAP]
    gained, lost = int((changes > 0).sum()), int((changes < 0).sum())
    points = 100 * (gained - lost) / count
    if count < 6:
        if gained == lost:
            assert clause == "changes nothing of that here"
        else:
            assert number(re.match(r"changes that by (\S+) points here", clause)[1]) == pytest.approx(
                points, abs=0.051
            )
        return
    middle = (gained - lost) / (count + 2)  # half a photo more of each of four kinds
    half = stats.norm.ppf(0.975) * math.sqrt(((gained + lost + 1) / (count + 2) - middle**2) / (count + 2))
    low, high = (number(text) for text in re.search(r"95 % interval (\S+) to ([^\s)]+)\)", clause).groups())
    assert (low, high) == pytest.approx((100 * (middle - half), 100 * (middle + half)), abs=0.051)
    word = clause.split()[0]
    assert word == ("gains" if middle > half else "costs" if -middle > half else "makes")
    assert abs(number(re.search(r"([−+]?[\d.]+) points", clause)[1])) == pytest.approx(abs(points), abs=0.051)


def by_scipy(values):
    """Student's t, and Hall's interval by a root of his transformation; whichever end lies further out."""
    n, mean, error = len(values), values.mean(), stats.sem(values)
    if error < 1e-12 * (1 + abs(mean)):
        return mean, mean
    t, g = stats.t.ppf(0.975, n - 1), stats.skew(values)

    def bent(x, target):
        return x + g * x**2 / (3 * n**0.5) + g**2 * x**3 / (27 * n) + g / (6 * n**0.5) - target

    low, high = (optimize.brentq(bent, -1e6, 1e6, args=(sign * t,)) for sign in (1, -1))
    return mean - error * max(t, low), mean - error * min(-t, high)


def read_nll(text, table, count):
    gap, divided = table["nll"][:, GAP], table["nll"][:, DIVIDED]
    found = re.search(r"The NLL of the truth (.*?) with √d \((\S+?)(?: \[(\S+), (\S+)\])?\)\.", text)
    numbers = [float(value) for value in re.findall(r"\d+\.\d{3}", found[1])]
    assert numbers == pytest.approx([gap.mean(), divided.mean()], abs=5.1e-4)
    assert number(found[2]) == pytest.approx((divided - gap).mean(), abs=5.1e-4)
    assert (found[3] is None) == (count < 30) == found[1].startswith("is ")
    if count >= 30:
        low, high = by_scipy(divided - gap)
        assert (number(found[3]), number(found[4])) == pytest.approx((low, high), abs=6e-4)
        verb = "falls" if high < 0 else "rises" if low > 0 else "does"
        assert found[1].split()[0] == verb


def read_rescaling(text, table, count):
    gap, divided, rescaled = (
        table[name][:, column] for name, column in (("nll", GAP), ("nll", DIVIDED), ("nll_rescaled", GAP))
    )
    found = re.search(r"\. ([^.]*): GAP's own logits divided by ([\d.]+), .*? reach (\d+\.\d{3})\.", text)
    assert float(found[3]) == pytest.approx(rescaled.mean(), abs=5.1e-4)
    falls = count >= 30 and by_scipy(divided - gap)[1] < 0
    if not falls:
        assert found[1] == "For comparison"
    elif rescaled.mean() <= divided.mean():
        assert found[1] == "That much needs no attention"
    else:
        part = rescaled.mean() < gap.mean()
        assert found[1] == (
            "Part of that is mere rescaling" if part else "Mere rescaling gives nothing of that"
        )
    if count >= 30:
        difference = table["nll_rescaled"][:, DIVIDED] - rescaled
        low, high = by_scipy(difference)
        words = re.search(r"With both rescaled so, the NLL of attention is (.*?) that of GAP", text)[1]
        if low <= 0 <= high:
            assert words == "not shown to differ from"
        else:
            assert words.startswith("lower" if high < 0 else "higher")
            assert float(re.search(r"by (\S+) than", words)[1]) == pytest.approx(
                abs(difference.mean()), abs=5.1e-4
            )


@pytest.mark.parametrize("case", ["3 photos", "12 photos", "31 photos"])
def test_the_page_promises_no_interval_that_it_does_not_give(case, tmp_path):
    findings = findings_of(case)
    page = Page(write_recognition(findings, tmp_path, {}))
    right = findings.photos >= 6
    sure = findings.photos >= 30
    assert ("exact interval" in page.words) == right
    assert ("with its 95 % interval" in page.words) == right
    assert ("The interval takes that number as given" in page.words) == sure
    assert ("none below 30 photos" in page.words) == (right and not sure)
    written = pq.read_table(io.BytesIO((tmp_path / "recognition.parquet").read_bytes()))
    assert written.num_rows == findings.photos * len(NAMES)
    nll = as_text(findings).split("rescaled by")[1]
    assert ("[" in nll.split("\n\n")[0]) == sure
