"""The notebooks run from the first cell to the last, hold no outputs, and end with a figure."""

import json
import re
from pathlib import Path

import pytest

import attnvis

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_small_and_holds_no_outputs(path):
    assert path.stat().st_size < 20_000
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "".join(code[0]["source"]).startswith("%pip install") and "attnvis" in code[0]["source"][0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_from_pip_install_to_a_figure(path, here):
    """Cell by cell in one namespace, as Jupyter does, without the lines that are Jupyter's own."""
    names: dict = {}
    for cell in cells(path):
        if cell["cell_type"] == "code":
            exec(re.sub(r"^%.*$", "", "".join(cell["source"]), flags=re.MULTILINE), names)
    assert isinstance(names["figure"], attnvis.Comparison)
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF")
    # What was learned is where it was learned: the cat on the left half, the coffee on the right.
    network, both = names["network"], names["both"]
    for query, half in (("class:cat", 0), ("class:coffee", 1)):
        weights = attnvis.explain(both, query, "perplexity:0.2", backbone=network).weights
        halves = [
            part.sum() for part in (weights[:, : weights.shape[1] // 2], weights[:, weights.shape[1] // 2 :])
        ]
        assert halves[half] > 0.6
    assert network.notes[0] == "the weights lie under state_dict.module"
