"""Odd sweeps, and every sentence about them read back against the rows, in plain loops."""

import math
import re
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from measured_sweep import GRID, measured, noise
from scipy import stats

from attnvis.experiments.sweep.figures import collapse, ecdf, gaps, gradient, self_check
from attnvis.experiments.sweep.findings import paragraph
from attnvis.experiments.sweep.orderings import orders
from attnvis.experiments.sweep.statistics import series_of

N = math.prod(GRID)
SIX = ("none", "inv_sqrt_d", "zscore", "temperature:2", "minmax:0.25", "perplexity:0.1")
TWO = ("none", "inv_sqrt_d")


def alike(photos):
    return noise(1).repeat(photos, 1, 1)


def outlier(photos):
    """One patch far above all."""
    tokens = noise(photos, spread=0.1)
    tokens[:, 3] *= 8
    return tokens


def rising(photos):
    """Photos of other contrast each."""
    return 1 + torch.stack([2.0**n * (row - 1) for n, row in enumerate(noise(photos, 0.02))])


ODD = {
    "usual": {"photos": 8},
    "six settings": {"photos": 12, "scalings": SIX},
    "six settings, three queries": {"photos": 12, "scalings": SIX, "asked": ("mean", "random", "pca")},
    "five queries": {"photos": 8, "asked": ("mean", "pca", "random", "point:35,25", "point:5,5")},
    "25 photos": {"photos": 25, "scalings": SIX, "asked": ("mean", "random")},
    "equal settings": {"photos": 8, "scalings": ("none", "temperature:1")},
    "equal settings beside 1/sqrt(d)": {"photos": 8, "scalings": ("inv_sqrt_d", "temperature:4")},
    "equal photos": {"photos": 8, "tokens": alike(8), "scalings": SIX},
    "equal photos, two queries": {"photos": 7, "tokens": alike(7), "asked": ("mean", "point:35,25")},
    "one photo": {"photos": 1},
    "one photo, three queries": {"photos": 1, "scalings": SIX, "asked": ("mean", "random", "pca")},
    "one photo, one setting": {"photos": 1, "scalings": ("none",)},
    "two photos": {"photos": 2, "scalings": SIX},
    "two photos, two queries": {"photos": 2, "asked": ("mean", "random")},
    "three photos": {"photos": 3, "scalings": SIX, "asked": ("mean", "random")},
    "five photos": {"photos": 5, "scalings": SIX},
    "six photos": {"photos": 6, "scalings": SIX},
    "seven photos, one comparison": {"photos": 7, "scalings": TWO},
    "all cards": {"photos": 4, "cards": 4},
    "one card": {"photos": 1, "cards": 1, "tokens": torch.ones(1, N, 16)},
    "some cards": {"photos": 8, "cards": 3, "scalings": SIX},
    "one card of nine": {"photos": 9, "cards": 1},
    "no contrast": {"photos": 8, "tokens": torch.ones(8, N, 16), "scalings": SIX},
    "no contrast, two queries": {"photos": 3, "tokens": torch.ones(3, N, 16), "asked": ("mean", "pca")},
    "zeros": {"photos": 6, "tokens": torch.zeros(6, N, 16)},
    "random weights": {"photos": 8, "provenance": {"weights digest": "random"}},
    "one-hot": {"photos": 8, "tokens": 30 * noise(8), "scalings": SIX},
    "one-hot on some": {"photos": 9, "tokens": 1.6 * noise(9), "scalings": ("inv_sqrt_d", "none")},
    "one-hot, one photo": {"photos": 1, "tokens": 30 * noise(1)},
    "nearly uniform": {"photos": 8, "tokens": noise(8, spread=0.001), "scalings": SIX},
    "ties": {"photos": 8, "tokens": noise(8).round(), "scalings": SIX, "asked": ("mean", "point:35,25")},
    "two values": {"photos": 8, "tokens": (noise(8) > 1).float(), "scalings": SIX},
    "sparse": {"photos": 8, "scalings": TWO, "normalisers": ("softmax", "sparsemax", "entmax15")},
    "sparse alone": {"photos": 8, "scalings": TWO, "normalisers": ("sparsemax",)},
    "sparse, one photo": {"photos": 1, "scalings": ("none",), "normalisers": ("sparsemax",)},
    "relu": {"photos": 6, "scalings": TWO, "normalisers": ("softmax", "relu")},
    "cosine alone": {"photos": 8, "scalings": ("cosine:0.07", "cosine:1")},
    "cosine of equal lengths": {
        "photos": 4,
        "tokens": torch.nn.functional.normalize(noise(4), dim=-1),
        "scalings": ("inv_sqrt_d", "cosine:1"),
    },
    "one change and no difference": {"photos": 9, "scalings": ("inv_sqrt_d", "temperature:4.001")},
    "many combinations, some one-hot": {
        "photos": 9,
        "tokens": 1.6 * noise(9),
        "asked": ("mean", "pca", "random", "point:35,25", "point:5,5", "point:65,45"),
        "scalings": ("inv_sqrt_d", "none"),
    },
    "thirty photos, ten flat": {
        "photos": 30,
        "tokens": torch.cat([torch.ones(10, N, 16), noise(20)]),
        "scalings": ("none", "cosine:1"),
    },
    "one factor": {"photos": 8, "scalings": ("none", "cosine:0.07")},
    "perplexity alone": {"photos": 8, "scalings": ("perplexity:0.1", "perplexity:0.3")},
    "perplexity and 1/sqrt(d)": {"photos": 8, "scalings": ("inv_sqrt_d", "perplexity:0.1")},
    "z-scores": {"photos": 8, "scalings": ("zscore:0.3", "zscore", "zscore:3")},
    "an outlier": {"photos": 8, "tokens": outlier(8), "scalings": SIX, "asked": ("mean", "point:35,25")},
    "heavy tails": {"photos": 20, "tokens": noise(20) ** 3, "scalings": SIX, "asked": ("mean", "random")},
    "contrasts of a thousand to one": {"photos": 12, "tokens": rising(12), "scalings": SIX},
    "the same, two queries": {"photos": 12, "tokens": rising(12), "asked": ("mean", "random")},
    "the same, four photos": {"photos": 4, "tokens": rising(4), "asked": ("mean", "random")},
}


@pytest.mark.parametrize("case", ODD)
def test_every_claim_about_an_odd_sweep_is_what_its_rows_say(case, tmp_path):
    options = dict(ODD[case])
    sweep = measured(tmp_path, options.pop("photos"), sheets=0, **options)
    all_series = series_of(sweep)
    sentences = paragraph(all_series, orders(all_series), [0.1])
    table = Rows(sweep)
    for sentence in sentences:
        readers = [reader for pattern, reader in READERS.items() if re.search(pattern, sentence)]
        assert len(readers) == 1, f"nobody reads: {sentence}"
        readers[0](sentence, table)
    captions = [text for part in (collapse, ecdf, gaps, gradient) for text in part.caption(all_series)]
    captions += self_check.caption(orders(all_series))
    for part, reader in ((ecdf, read_ecdf), (gaps, read_gaps), (gradient, read_gradient)):
        reader(" ".join(part.caption(all_series)), table)
    read_self_check(" ".join(self_check.caption(orders(all_series))), table)
    for text in (*sentences, *captions):
        assert_sound(text)
        assert len(table.photos) > 5 or "[" not in text


def test_there_are_many_odd_sweeps():
    assert len(ODD) >= 30


def assert_sound(text):
    """What no sentence says, of whatever sweep."""
    assert not re.search(r"\b(nan|inf|None(?! of))\b", text), text
    assert not re.search(
        r"factor of 1(?![.\d])|\ball 1 |\ball 2 |\b1 photos|on no photo|0\.0 percentage", text, re.I
    ), text
    ends = re.search(r"from (\S+).% of the patches under .* to (\S+).% under", text)
    assert not ends or ends[1] != ends[2], text


# -------------------------------------------------------------------------------- rows


class Rows:
    """A sweep's rows and curves by query, setting and photo."""

    def __init__(self, sweep):
        rows = pq.read_table(sweep.folder / "rows.parquet").to_pylist()
        for row in rows:
            row["setting"] = " ".join([row["scaling"], row["normalise"]]).removesuffix(" softmax")
            row["share"] = row["perplexity"] / row["patches"]
        self.rows = rows
        self.queries = list(dict.fromkeys(row["query"] for row in rows))
        self.settings = list(dict.fromkeys(row["setting"] for row in rows))
        self.photos = list(dict.fromkeys(row["photo"] for row in rows))
        self.curves = sweep.parts[0].curves()
        self.cards = [
            f"{n}.jpg" for n in range(len(self.photos)) if self.of(self.queries[0])[n]["pixel_std"] < 1
        ]

    def of(self, query, setting=None):
        """Its rows, photo by photo."""
        setting = setting or self.settings[0]
        return [row for row in self.rows if row["query"] == query and row["setting"] == setting]

    def column(self, name, query, setting=None):
        return np.array([row[name] for row in self.of(query, setting)])

    @property
    def free(self):
        """Settings that are not defined by their share of the patches."""
        return [name for name in self.settings if not re.fullmatch(r"perplexity:\S+", name)]


def number(text):
    return float(text.replace("−", "-").replace("+", ""))


def share(text):
    """A percentage as written -> (value, half of its last digit)."""
    digits = len(text.partition(".")[2])
    return float(text) / 100, 0.51 * 10.0**-digits / 100


def assert_share(text, value):
    if text.startswith((">", "<")):
        return
    written, half = share(text)
    assert written == pytest.approx(value, abs=max(half, 0.051 * value if value < 0.0995 else 0))


# -------------------------------------------------------------------------------- readers


def read_cards(sentence, table):
    if re.match(r"(All|Both|The one)", sentence):
        assert len(table.cards) == len(table.photos)
    else:
        assert sentence.startswith(f"{len(table.cards)} of {len(table.photos)} photos ")
    assert len(table.cards) > 0


def read_contrast(sentence, table):
    """The queries named are those whose scores are equal but for rounding."""
    for query in re.findall("“([^”]*)”", sentence):
        length = max(1.0, float(np.abs(table.column("score_range", query)).max()))
        assert table.column("score_range", query).max() < 1e-3 * length


def read_sqrt_d(sentence, table):
    photos = len(table.photos)
    assert ("On this one photo" in sentence) == (photos == 1)
    assert photos == 1 or f"On these {photos} photos," in sentence
    swept = "inv_sqrt_d" in table.settings
    assert ("which was not part of this sweep" in sentence) == (not swept)
    if not swept:
        return
    whole = re.search(r"leaves (?:all \d+|both) combinations of network and query (.*)\.$", sentence)
    if whole:
        counted = re.fullmatch(r"one-hot on (\d+) of \d+ photos", whole[1])
        for query in table.queries:
            hot = int(table.column("saturated", query, "inv_sqrt_d").sum())
            assert not counted or hot == int(counted[1]), f"{query}: {sentence}"
    for query, text in re.findall(r"“([^”]*)” (one-hot on \d+ of \d+ photos)", sentence):
        hot = int(table.column("saturated", query, "inv_sqrt_d").sum())
        assert text == f"one-hot on {hot} of {photos} photos" and 2 * hot >= photos
    for query, text in re.findall(
        r"“([^”]*)” (?:nearly uniform \(|spread over )(?:a )?(?:median )?(?:of )?([>\d. ]+).%", sentence
    ):
        assert_share(text, float(np.median(table.column("share", query, "inv_sqrt_d"))))
    for query in re.findall(r"“([^”]*)” nearly uniform", sentence):
        assert np.median(table.column("share", query, "inv_sqrt_d")) > 0.95


def read_temperature(sentence, table):
    """Own loops over photos, folds and temperatures; curves are read by np.interp."""
    photos = len(table.photos)
    spreads = {query: table.column("score_std", query) for query in table.queries}
    medians = [np.median(spread[spread > 0]) for spread in spreads.values()]
    first, last = math.floor(4 * math.log2(min(medians) / 64)), math.ceil(4 * math.log2(max(medians) * 64))
    taus = [2.0 ** (quarter / 4) for quarter in range(first, last + 1)]
    steps = np.arange(-28, 29) / 4
    served = {}  # query -> photo -> temperature
    for query, spread in spreads.items():
        served[query] = []
        for deviation, curve in zip(spread, table.curves[query]["perplexity"]):
            places = [math.log2(tau / (deviation or 1.0)) for tau in taus]
            got = np.interp(places, steps, curve.astype(float))
            served[query].append([0.05 <= value <= 0.2 for value in got])

    def best(of):
        def key(t):
            counts = [sum(rows[n][t] for n in of) for rows in served.values()]
            return min(counts), sum(counts), t

        return max(range(len(taus)), key=key)

    everything = list(range(photos))
    chosen = best(everything)
    reached = {query: sum(row[chosen] for row in rows) for query, rows in served.items()}
    if photos >= 6:
        judged = dict.fromkeys(served, 0)
        for fold in range(10):
            t = best([n for n in everything if n % 10 != fold])
            for query, rows in served.items():
                judged[query] += sum(rows[n][t] for n in everything if n % 10 == fold)
        assert "chosen on these" not in sentence
    else:
        judged = reached
        assert "not tried on others" in sentence or min(reached.values()) == 0
    found = re.search(r"(\d+) of (\d+) photos?\b(?! on)", sentence)
    percent = re.search(r"([\d.]+).% of the photos", sentence)
    lowest = min(judged.values())
    if (
        "single temperature, " in sentence
        or "One temperature, " in sentence
        or "best common one, " in sentence
    ):
        tau = float(re.search(r"(?:temperature|one), ([\d.e+-]+),", sentence)[1])
        assert tau == pytest.approx(taus[chosen], rel=5e-3)
        if found:
            assert (int(found[1]), int(found[2])) == (lowest, photos)
        else:
            assert_share(percent[1], lowest / photos)
    elif "that some photos choose" in sentence:
        assert lowest == 0
    else:
        assert min(reached.values()) == 0
    if sentence.startswith("One temperature"):
        assert lowest >= 0.9 * photos
    if "nine photos out of ten" in sentence:
        assert 0 < lowest < 0.9 * photos


def changes_of(table, pairs):
    """(query, setting, base) -> its differences."""
    changes = {}
    for query in table.queries:
        for base, setting in pairs:
            differences = table.column("share", query, setting) - table.column("share", query, base)
            changes[query, setting, base] = differences
    return changes


def read_certainty(sentence, differences, changes):
    """The interval by scipy's quantiles of the binomial, the count by a loop of Holm's."""
    photos = len(differences)
    median = float(np.median(differences))
    if photos == 1:
        assert "on this one photo" in sentence
    else:
        written = number(re.search(r"median of the paired differences ([−+\d.]+)", sentence)[1])
        assert written == pytest.approx(100 * median, abs=0.051)
    if photos < 6:
        assert "fewer than 6 photos: no interval" in sentence
        return
    level = 0.05 / len(changes)
    rank = int(stats.binom.ppf(level / 2, photos, 0.5))
    rank -= stats.binom.cdf(rank, photos, 0.5) <= level / 2
    rank = max(rank, 0)
    while rank > 0 and 2 * stats.binom.cdf(rank - 1, photos, 0.5) > level:
        rank -= 1
    while 2 * stats.binom.cdf(rank, photos, 0.5) <= level:
        rank += 1
    limits = re.search(r"\[([−+\d.]+), ([−+\d.]+)\]", sentence)
    if not rank:
        assert not limits and f"too few for an interval that allows for {len(changes)}" in sentence
    else:
        ordered = np.sort(differences)
        expected = (100 * ordered[rank - 1], 100 * ordered[-rank])
        assert (number(limits[1]), number(limits[2])) == pytest.approx(expected, abs=0.051)
    chances = []
    for values in changes.values():
        above, below = int((values > 0).sum()), int((values < 0).sum())
        chances.append(stats.binomtest(above, above + below).pvalue if above + below else 1.0)
    real = 0
    while real < len(chances) and sorted(chances)[real] * (len(chances) - real) < 0.05:
        real += 1
    counted = re.search(r"after Holm: (\d+) of (\d+) differ", sentence)
    assert (len(changes) == 1) == (counted is None)
    assert not counted or (int(counted[1]), int(counted[2])) == (real, len(changes))
    steps, raised = sorted(chances), 0.0
    own = next(chance for values, chance in zip(changes.values(), chances) if values is differences)
    for place in range(steps.index(own) + 1):
        raised = max(raised, min(1.0, steps[place] * (len(steps) - place)))
    written = re.search(r"p (=|<) ([\d.e-]+)\b(; it may be chance)?", sentence)
    assert (
        float(written[2].rstrip(".")) == pytest.approx(raised, rel=0.06)
        if written[1] == "="
        else raised < 1e-3
    )
    assert bool(written[3]) == (raised >= 0.05)


def read_change(sentence, table):
    pairs = [("inv_sqrt_d", setting) for setting in table.free if setting != "inv_sqrt_d"]
    changes = changes_of(table, pairs)
    found = re.search(
        r"that of “([^”]*)” on the query “([^”]*)”.*?: ([\d.]+) percentage points of the patches (\w+)",
        sentence,
    )
    differences = changes[found[2], found[1], "inv_sqrt_d"]
    median = float(np.median(differences))
    assert float(found[3]) == pytest.approx(100 * abs(median), abs=0.051)
    assert (found[4] == "more") == (median > 0)
    assert abs(median) >= max(abs(np.median(values)) for values in changes.values()) - 1e-12
    assert sentence.startswith(
        "The change " if len(changes) == 1 else f"The largest of {len(changes)} changes "
    )
    read_certainty(sentence, differences, changes)


def read_no_change(sentence, table):
    pairs = [("inv_sqrt_d", setting) for setting in table.free if setting != "inv_sqrt_d"]
    if "No two settings" in sentence:
        pairs = list(combinations(table.free, 2))
    changes = changes_of(table, pairs)
    assert max(abs(np.median(values)) for values in changes.values()) < 0.001
    assert len(changes) > 1 or "by less than 0.1" in sentence or "No two" in sentence
    counted = re.search(r"None of (\d+)|\((\d+) pairs?\)", sentence)
    assert not counted or int(counted[1] or counted[2]) == len(changes)


def read_range(sentence, table):
    changes = changes_of(table, list(combinations(table.free, 2)))
    found = re.search(
        r"the query “([^”]*)”: from ([<>\d. ]+).% of the patches under “([^”]*)” "
        r"to ([<>\d. ]+).% under “([^”]*)”",
        sentence,
    )
    query, low, base, high, setting = found.groups()
    assert_share(low, float(np.median(table.column("share", query, base))))
    assert_share(high, float(np.median(table.column("share", query, setting))))
    differences = changes.get((query, setting, base))
    if differences is None:
        key = query, base, setting
        differences = changes[key] = -changes[key]
    assert np.median(differences) >= max(abs(np.median(values)) for values in changes.values()) - 1e-12
    read_certainty(sentence, differences, changes)


def read_theory(sentence, table):
    simple, cumulants = [], []
    for row in table.rows:
        s, g, k = row["sigma_eff"], row["logit_skewness"], row["logit_kurtosis"]
        if row["normalise"] == "softmax" and 0.5 - 1e-6 <= s <= 1 + 1e-6:
            simple.append(abs(row["share"] - math.exp(-(s**2) / 2)))
            cumulants.append(abs(row["share"] - math.exp(-(s**2) / 2 - g * s**3 / 3 - k * s**4 / 8)))
    found = re.search(
        r"to within (\S+) in the (?:one map|median of (\d+) maps) .* and to (\S+) of exp", sentence
    )
    assert int(found[2] or 1) == len(simple) > 0
    assert float(found[1]) == pytest.approx(np.median(simple), rel=0.06, abs=1e-9)
    assert float(found[3]) == pytest.approx(np.median(cumulants), rel=0.06, abs=1e-9)


def read_order(sentence, table):
    factors = [name for name in table.settings if not name.startswith("cosine")]
    count = {1: "The one setting", 2: "Both settings"}.get(len(factors), f"All {len(factors)} settings")
    assert sentence.startswith(count)
    lost = [row for row in table.rows if row["setting"] in factors and row["weight_rank_correlation"] < 0.99]
    assert ("and in the weights" in sentence) == (not lost)


def read_weights(sentence, table):
    texts = re.findall(
        r"“([^”]*)” on (\d+) of (\d+) maps? \(at worst (\d+) of (\d+) patches .*? is (\S+)\)", sentence
    )
    assert texts
    for setting, lost, maps, alive, patches, correlation in texts:
        rows = [row for row in table.rows if row["setting"] == setting]
        cut = [row for row in rows if row["weight_rank_correlation"] < 0.99]
        assert (int(lost), int(maps), int(patches)) == (len(cut), len(rows), N)
        worst = min(row["weight_rank_correlation"] for row in rows)
        assert float(correlation) == pytest.approx(worst, abs=0.0051)
        assert int(alive) in [row["alive"] for row in rows if row["weight_rank_correlation"] == worst]


def read_ecdf(text, table):
    """The factor between the medians, and within a query."""
    assert ("Another divisor moves all curves" in text) == ("medians differ by a factor" in text)
    found = re.search(r"medians differ by a factor of ([\d.e+]+): (\S+) \((.*?)\) to (\S+) \((.*?)\)\.", text)
    if found:
        medians = {query: np.median(table.column("score_std", query)) / 4 for query in table.queries}
        low, high = min(medians.values()), max(medians.values())
        assert (medians[found[3]], medians[found[5]]) == (low, high)
        assert float(found[1]) == pytest.approx(high / low, rel=0.06)
    for ends, widths in re.findall(
        r"Within one query, (.*?) the photos, σ_eff spans a factor of (.*?)\.(?: |$)", text
    ):
        for width, query in re.findall(r"([\d.e+]+) \((.*?)\)", widths):
            spread = table.column("score_std", query)
            spread = np.sort(spread[spread > 0])
            low, high = spread[0], spread[-1]
            assert ends == (
                "over the middle 90 % of" if len(spread) >= 20 else "from the lowest to the highest of"
            )
            if len(spread) >= 20:
                low, high = np.quantile(spread, [0.05, 0.95])
            assert float(width) == pytest.approx(high / low, rel=0.06)


def read_self_check(text, table):
    """Which maps kept their order, and what did not."""
    own = {
        name: [row["rank_correlation"] for row in table.rows if row["setting"] == name]
        for name in table.settings
    }
    factors = [value for name, values in own.items() for value in values if not name.startswith("cosine")]
    kept = sum(value >= 1 - 1e-6 for value in factors)
    found = re.search(
        r"Of such settings (\d+) of (\d+) maps? ha\w+ .*?10⁻⁶(?:; the lowest is (\S+) \((\S+),)?", text
    )
    assert bool(found) == bool(factors)
    if found:
        assert (int(found[1]), int(found[2])) == (kept, len(factors))
        assert (found[3] is None) == (kept == len(factors))
        if found[3]:
            assert float(found[3]) == pytest.approx(min(factors), abs=1e-6) == min(own[found[4]])
    for name, values in own.items():
        if name.startswith("cosine"):
            moved = re.search(rf"and so they do;.*?(\S+) under {re.escape(name)}[,. ]", text)
            assert bool(moved) == (min(values) < 1 - 1e-6)
            assert bool(moved) or re.search(rf"and did not here: .*{re.escape(name)}", text)
            assert not moved or float(moved[1]) == pytest.approx(min(values), rel=6e-3)
    maps = min(len(values) for values in own.values())
    assert ("with a bar over the middle 90 % of the maps" in text) == (maps >= 20)


def read_gradient(text, table):
    photos = len(table.photos)
    assert ("Of the one photo" in text) == (photos == 1)
    assert (
        photos == 1
        or f"a band {'over the middle 90 %' if photos >= 20 else 'from the lowest to the highest'} of them"
        in text
    )
    for query, at in re.findall(r"(?:inside the range: |; )(\S+) at (\S+) std", text):
        curve = np.median(table.curves[query]["gradient"], 0)
        assert float(at) == pytest.approx(2.0 ** (curve.argmax() / 4 - 7), rel=0.06)
    for query, share_text in re.findall(
        r"(\S+) at \S+ std, while 1/√d_k stands at \S+ with ([\d.]+).% of the peak", text
    ):
        curves = table.curves[query]["gradient"]
        places = np.log2(np.array([row["dim"] ** 0.5 / (row["score_std"] or 1) for row in table.of(query)]))
        got = [np.interp(place, np.arange(-28, 29) / 4, curve) for place, curve in zip(places, curves)]
        assert_share(share_text, min(1.0, np.median(got) / np.median(curves, 0).max()))


def read_gaps(text, table):
    for query, moved, factor, log in re.findall(
        r"(\S+) ([−+][\d.]+) \(log₁₀ of ([\d.]+) is ([−+][\d.]+)\)", text
    ):
        dim = table.of(query)[0]["dim"]
        assert float(factor) == pytest.approx(dim**-0.5, abs=6e-5)
        assert number(log) == pytest.approx(-math.log10(dim) / 2, abs=6e-4)
        assert number(moved) == pytest.approx(number(log), abs=0.09), "to a bin of the histogram"


READERS = {
    "of one colour": read_cards,
    "no setting can prefer one": read_contrast,
    r"^On th.*1/√d_k.* the query|^On th.*1/√d_k.* combination": read_sqrt_d,
    "ingle temperature|^One temperature": read_temperature,
    "^The (largest|change)": read_change,
    "^(None of|“.*” changes the share|No two settings)": read_no_change,
    "^The settings differ most": read_range,
    "^What a scaling sets": read_theory,
    "by one positive factor": read_order,
    "^In the weights": read_weights,
}
