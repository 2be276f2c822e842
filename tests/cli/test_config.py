"""What a config may name and set: code of others only where it is trusted."""

import re
import sys
from pathlib import Path

import pytest
from conftest import records

from attnvis.cli import config

MINE = """
import torch

def bright(features):
    return features.tokens.amax(1, keepdim=True)

def halved(scores, by: float = 2.0):
    return scores.products / by
"""


@pytest.fixture
def mine(cat):
    Path("my_stages.py").write_text(MINE)
    for group, name in (("query", "bright"), ("scaling", "halved")):
        file = Path("confs") / group / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(
            f"# mine\n_target_: my_stages.{name}\n_partial_: true\n"
            + ("by: 4.0\n" if name == "halved" else "")
        )
    yield "confs"
    sys.modules.pop("my_stages", None)


def test_code_of_others_runs_only_where_it_is_trusted(attnvis, mine):
    for choice in ("query=bright", "scaling=halved"):
        complaint = attnvis("run", "cat.png", "-cd", mine, choice).complaint
        assert "my_stages." in complaint and "trust=[my_stages]" in complaint
        assert "my_stages" not in sys.modules, "a refused module must not even be imported"
    assert (
        attnvis("run", "-cd", mine, "cat.png", "query=bright", "scaling=halved", "trust=my_stages").code == 0
    )
    (row,) = records()
    assert (row["query"], row["label"], row["scaling"]) == ("bright", "bright", "halved(by=4.0)")
    assert float(row["sigma_eff"]) == pytest.approx(float(row["score_std"]) / 4, rel=1e-4)
    assert (
        "scaling.by must be a number"
        in attnvis(
            "run", "-cd", mine, "cat.png", "scaling=halved", "trust=my_stages", "scaling.by=x"
        ).complaint
    )


def test_a_network_of_ones_own_is_not_taken_for_one_of_a_family(attnvis, mine):
    file = Path("confs/backbone/resnet_of_mine.yaml")
    file.parent.mkdir()
    file.write_text("# mine\n_target_: attnvis.backbone.efficientnet_lite\nweights: random\n")
    assert attnvis("run", "-cd", mine, "cat.png", "backbone=resnet_of_mine").code == 0


@pytest.mark.parametrize(
    "target",
    [
        "attnvis.backbone.weights.pickle.loads",
        "attnvis.backbone.weights.pickle",
        "attnvis_evil.x",
        "attnvis.attention.query_evil.mean",
        "attnvis.attention.query.kinds.torch.load",
        "attnvis.attention.query.globals",
        "attnvis.pipeline.run_page.write_page",
        "attnvis.nosuch.x",
        "os.system",
        "mean",
    ],
)
def test_what_only_looks_like_attnvis_own_is_refused(target):
    with pytest.raises(ValueError, match=re.escape(f"query: {target} is not attnvis' own")):
        config.vet(target, "query", trusted=[])


def test_a_target_typed_at_the_command_line_is_refused_too(attnvis, cat):
    assert "os.mkdir is not attnvis' own" in attnvis("run", "cat.png", "query._target_=os.mkdir").complaint


def test_code_hidden_deeper_in_a_config_is_refused_too(attnvis, cat):
    words = ["query=several", "query.of=[{_target_: os.mkdir, path: made}]"]
    assert "os.mkdir is not attnvis' own" in attnvis("run", "cat.png", *words).complaint
    assert not Path("made").exists()
