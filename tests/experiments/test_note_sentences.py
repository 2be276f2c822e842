"""What the note's page says of odd sweeps, read back against the rows and the gaps, in plain loops."""

import re

import numpy as np
import pytest
from measured_sweep import measured
from test_sweep_sentences import ODD, Rows, assert_share, assert_sound

from attnvis.experiments.seed_note import judgement, query_medians

BOTH = {"none", "inv_sqrt_d"}
CASES = [
    name
    for name, options in ODD.items()
    if set(options.get("scalings", BOTH)) >= BOTH and "softmax" in options.get("normalisers", ("softmax",))
]


@pytest.mark.parametrize("case", CASES)
def test_every_claim_of_the_notes_page_is_what_the_rows_say(case, tmp_path):
    options = dict(ODD[case])
    sweep = measured(tmp_path, options.pop("photos"), sheets=0, **options)
    sentence = judgement(query_medians(sweep.parts[0]), sweep.parts[0].record.done)
    table = Rows(sweep)
    assert_sound(sentence)
    photos = len(table.photos)
    assert sentence.startswith("On this photo " if photos == 1 else f"On these {photos} photos ")
    left, _, right = sentence.partition("does not hold ")
    read = {
        **{query: (True, text) for query, text in clauses(left)},
        **{query: (False, text) for query, text in clauses(right)},
    }
    assert sorted(read) == sorted(table.queries)
    for query, (holds, text) in read.items():
        read_clause(table, query, holds, text)


def test_there_are_many_odd_notes():
    assert len(CASES) >= 30


def clauses(text):
    """(query, what is said of it): each is in brackets, which may hold others."""
    parts = re.split(r"for the query (\S+) \((?=undivided)", text)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def read_clause(table, query, holds, text):
    (patches,) = {row["patches"] for row in table.of(query)}
    before, after = (np.median(table.column("perplexity", query, name)) for name in ("none", "inv_sqrt_d"))
    few = min(max(2.0, 0.05 * patches), patches / 2)
    settings = [f"{row['scaling']} {row['normalise']}" for row in table.rows if row["query"] == query]
    row = 1 + list(dict.fromkeys(settings)).index("none softmax")  # the raw scores come first
    counts = table.curves[query]["gaps"][row]
    edges = -6 + np.arange(72) / 6
    wide = counts[edges > 2 / 3 - 1e-6].sum() / counts.sum()  # logits more than 4.64 apart: 99 to 1

    sits = re.match(r"undivided its attention (sits on|is spread over) ([\d.]+) of ([\d.]+) patches", text)
    assert float(sits[2]) == pytest.approx(before, rel=6e-3) and float(sits[3]) == patches
    assert (sits[1] == "sits on") == (before < few)
    shares = re.findall(r"\((>?\s?[\d.]+).%\)", text)
    assert_share(shares[-1], after / patches)
    later = re.search(r"divided (?:still on|it is spread over|it covers|over) ([\d.]+) \(", text)
    if later:
        assert float(later[1]) == pytest.approx(after, rel=6e-3)
    if sits[1] == "is spread over":
        assert_share(shares[0], before / patches)
        assert ("so nothing was wild" in text) == (wide <= 0.01)
        over = re.search(r"though (\S+).% of its pairs are over 99 : 1", text)
        assert bool(over) == (wide > 0.01)
        assert not over or over[1] in "<>" or float(over[1]) / 100 == pytest.approx(wide, rel=0.06)
    else:
        assert "wild" not in text
    assert holds == (before < few <= after and after <= 0.95 * patches)
    assert ("√d is too little" in text) == (before < few and after < few)
    assert ("no preference is left" in text) == (before < few <= after and after > 0.95 * patches)
    assert ("hardly any preference to begin with" in text) == (
        before > 0.95 * patches and after > 0.95 * patches
    )
    assert ("hardly any preference is left" in text) == (
        few <= before <= 0.95 * patches and after > 0.95 * patches
    )
