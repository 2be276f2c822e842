"""keys= at the command line: what a run and a sweep record, and what they say of keys that cannot be."""

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Page, records

from attnvis.json_files import read_json
from attnvis.pipeline.maps import read_maps


@pytest.fixture
def out(attnvis, cat, here):
    np.save(here / "w.npy", np.eye(3, 1280))
    return lambda *words: attnvis("run", str(cat), "query=class", *words)


def test_a_run_says_which_keys_its_maps_have(out, here):
    assert out("keys=whitened:999").code == 0
    (row,) = records()
    assert row["keys"] == "whitened(components=999)" and "directions, all are taken" in row["remark"]
    scores = read_json(here / "out/run.json")["class scores"]
    assert scores == (
        "with keys=whitened(components=999) they add up to no logit: this is no class activation map"
    )
    page = Page(here / "out/index.html")
    assert "keys whitened(components=999)" in page.words and row["remark"] in page.words
    (answer,) = read_maps(here / "out" / row["map"])
    assert answer.remarks == (row["remark"],)


def test_keys_that_are_the_patches_leave_the_certificate(out, here):
    assert out("keys=same").code == 0
    assert (
        records()[0]["keys"] == "same" and "no logit" not in read_json(here / "out/run.json")["class scores"]
    )


def test_a_matrix_from_a_file_is_the_keys(out, here):
    assert out("keys=linear:w.npy").code == 0
    (answer,) = read_maps(here / "out" / records()[0]["map"])
    assert answer.vector.shape == (3,) and answer.attention.dim == 3


def test_a_panel_shows_every_head_and_the_maps_keep_them(out, here, attnvis):
    assert out("heads=3").code == 0
    (row,) = records()
    assert row["heads"] == "contiguous(count=3)" and -0.5 <= float(row["head_agreement"]) <= 1
    (answer,) = read_maps(here / "out" / row["map"])
    assert answer.heads.shape == (3, 12) and np.allclose(answer.heads.mean(0), answer.weights)
    assert answer.head_agreement == pytest.approx(float(row["head_agreement"]), abs=1e-4)
    with_heads = cv2.imread(str(here / "out" / row["panel"]))
    assert attnvis("redraw", "out", "hydra.run.dir=again").code == 0
    assert (cv2.imread(str(here / "again" / row["panel"])) == with_heads).all()
    assert out("heads=1", "hydra.run.dir=one").code == 0
    alone = cv2.imread(str(here / "one" / row["panel"]))
    assert with_heads.shape[0] > alone.shape[0] + 48 and with_heads.shape[1] == alone.shape[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("heads=4,random:4,1", "heads=4,random:4,1 names 2 and attnvis run takes one"),
        ("keys=white", "did you mean whitened?"),
        ("keys=pca:0", "at least 1 component"),
        ("keys=linear:none.npy", "there is no file none.npy, from which the matrix was to be read"),
        ("keys=layer:stage3", "give backbone.layer=[stage3,last]"),
        ("keys=pca,l2", "attnvis sweep PHOTO"),
        ("keys=l2 random_classes=19", "take keys=same"),
        ("random_classes=18", "of so few is 0.053, and never .05; give 19 or more"),
    ],
)
def test_keys_that_cannot_be_are_said_in_a_line(out, words, said):
    assert said in out(*words.split()).complaint


@pytest.mark.slow
def test_keys_are_an_axis_of_a_sweep(attnvis, cat, here):
    words = ["query=mean", "scaling=none", "sheets=0", "preprocess.size=96"]
    assert attnvis("sweep", str(cat), "keys=same,centred,pca:4", *words, "hydra.sweep.dir=out").code == 0
    rows = pq.read_table(here / "out/sweep.parquet").to_pylist()
    assert [(row["keys"], row["dim"]) for row in rows] == [
        ("same", 1280),
        ("centred", 1280),
        ("pca(components=4)", 4),
    ]
    assert rows[0]["perplexity"] == pytest.approx(rows[1]["perplexity"], rel=1e-4) != rows[2]["perplexity"]
    assert "keys pca(components=4)" in Page(here / "out/index.html").words


@pytest.mark.slow
def test_heads_and_layers_joined_are_axes_of_a_sweep(attnvis, cat, here):
    words = ["query=mean", "scaling=inv_sqrt_d", "preprocess.size=96"]
    layers = "backbone.layer=[stage3,last]"
    assert attnvis("sweep", str(cat), "heads=1,4,random:4,1", *words, "hydra.sweep.dir=heads").code == 0
    fusing = attnvis("sweep", str(cat), layers, "fuse=mixture,product", *words, "hydra.sweep.dir=fuse")
    assert fusing.code == 0, fusing.complaint
    texts = {
        "heads": ["one", "contiguous(count=4)", "random(count=4, seed=1)"],
        "fuse": ["mixture", "product"],
    }
    typed = {"heads": ["heads=1", "heads=4", "heads=random:4,1"], "fuse": ["fuse=mixture", "fuse=product"]}
    for axis, names in texts.items():
        rows = pq.read_table(here / axis / "sweep.parquet").to_pylist()
        assert [row[axis] for row in rows] == names
        for row, setting in zip(rows, typed[axis], strict=True):
            run = [*words, setting, *([layers] if axis == "fuse" else []), "hydra.run.dir=alone"]
            assert attnvis("run", str(cat), *run).code == 0
            *_, alone = records("alone")
            assert row["perplexity"] == pytest.approx(float(alone["perplexity"]), rel=1e-4), setting
        page = Page(here / axis / "index.html").words
        assert f"{axis} {names[-1]}" in page and "no one score gives them" in page
        assert "Which temperature" not in page or axis == "heads"
        assert f"{typed[axis][-1]} " in page, "as it was typed, above its pictures"
