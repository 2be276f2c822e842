"""The explorer's own scalings and normalisers in Node: Python's numbers in double precision, to rounding."""

import json
import shutil
import subprocess
from functools import cache
from importlib.resources import files

import pytest
import random_questions
import torch

from attnvis.attention import normalise, scaling
from attnvis.explorer.encode import encode_layer
from attnvis.geometry import cubic_weights
from attnvis.types import Scores

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
JS = files("attnvis.explorer").joinpath("js")
N, D = 23, 7

SCRIPT = """
import { readFileSync } from "node:fs";
const { scale } = await import(`${process.argv[1]}/scaling.js`);
const { normalise } = await import(`${process.argv[1]}/normalise.js`);
const { cubicTaps } = await import(`${process.argv[1]}/geometry.js`);
const asked = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(asked.map((one) => {
  if (one.taps) {
    const { cells, weights } = cubicTaps(...one.taps);
    return [Array.from(cells), Array.from(weights)];
  }
  const [scores, keyNorms] = [one.scores, one.keyNorms].map((values) => Float64Array.from(values));
  const given = { scores, keyNorms, dim: one.dim, length: one.length, error: 0 };
  const { logits } = scale(given, ...one.scaling);
  return [Array.from(logits), Array.from(normalise(logits, ...one.normalise))];
})));
"""


def in_node(asked: list[dict]) -> list:
    command = ["node", "--input-type=module", "-e", SCRIPT, str(JS)]
    ended = subprocess.run(command, input=json.dumps(asked), text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def samples() -> dict[str, Scores]:
    """Usual scores, those without contrast, with ties, one patch, a zero patch."""
    draw = torch.Generator().manual_seed(3)
    usual = torch.randn(1, N, D, generator=draw, dtype=torch.float64)
    tied = usual.round()
    tied[0, 4] = 0
    query = torch.randn(1, 1, D, generator=draw, dtype=torch.float64)
    flat = usual[:, :1].expand(1, N, D)
    keys = {"usual": usual, "tied": tied, "flat": flat, "one patch": usual[:, :1], "even": usual[:, :22]}
    return {name: Scores(query if name != "tied" else query.round(), each) for name, each in keys.items()}


def split(text: str) -> list:
    name, _, setting = text.partition(":")
    return [name, float(setting) if setting else None]


@cache
def answers() -> dict[tuple[str, str, str], list]:
    scalings = [
        "none",
        "inv_sqrt_d",
        "inv_d",
        "temperature:2.5",
        "cosine:0.2",
        "zscore:0.7",
        "robust_z:1.3",
        "minmax:0.3",
    ]
    scalings += [
        "log_n:100",
        "ssmax:0.2",
        "perplexity:0.2",
        "perplexity:3",
        "perplexity:0.95",
        "perplexity:400",
    ]
    normalisers = [
        "softmax",
        "sparsemax",
        "entmax15",
        "sigmoid",
        "top_k:3",
        "top_k:200",
        "relu",
        "power:2.5",
        "power:0.5",
    ]
    names = [(sample, scale, normal) for sample in samples() for scale in scalings for normal in normalisers]
    asked = [
        {
            "scores": samples()[sample].products[0, 0].tolist(),
            "keyNorms": samples()[sample].keys[0].norm(dim=-1).tolist(),
            "length": float(samples()[sample].query[0, 0].norm()),
            "dim": D,
            "scaling": split(scale),
            "normalise": split(normal),
        }
        for sample, scale, normal in names
    ]
    return dict(zip(names, in_node(asked), strict=True))


def test_every_scaling_and_normaliser_has_its_twin():
    source = {name: JS.joinpath(f"{name}.js").read_text() for name in ("scaling", "normalise")}
    for name in scaling.__all__:
        assert f"  {name}: " in source["scaling"], name
    for name in normalise.__all__:
        assert f"  {name}: " in source["normalise"], name


@pytest.mark.parametrize("sample", samples())
def test_logits_and_weights_are_pythons(sample):
    for (name, scale, normal), (logits, weights) in answers().items():
        if name != sample:
            continue
        expected = random_questions.function(scaling, scale)(samples()[sample])
        shares = random_questions.function(normalise, normal)(expected)[0, 0].tolist()
        assert logits == pytest.approx(expected[0, 0].tolist(), rel=1e-6, abs=1e-7), (scale, normal)
        assert weights == pytest.approx(shares, abs=1e-7), (scale, normal)


@pytest.mark.parametrize(
    "first, step, cells, pixels",
    [(10.0, 20.0, 5, 93), (-4.0, 33.0, 3, 64), (7.0, 9.0, 1, 11), (3.0, 30.0, 2, 50)],
)
def test_pixels_are_interpolated_as_render_does(first, step, cells, pixels):
    placement = {
        "grid": [cells, cells],
        "first": [first, first],
        "step": [step, step],
        "seen": [0, 0, pixels, pixels],
    }
    ((taps, weights),) = in_node([{"taps": [placement, 0, pixels, pixels]}])
    matrix = torch.zeros(pixels, cells, dtype=torch.float64)
    for place, (cell, weight) in enumerate(zip(taps, weights)):
        matrix[place // 4, cell] += weight
    assert matrix.numpy() == pytest.approx(cubic_weights(first, step, cells, pixels), abs=1e-5)


def test_a_layer_is_read_as_it_was_written():
    """Tokens, rows and the lengths of differences of classes, decoded in Node from a file's own pieces."""
    import base64

    import test_encode

    sample = test_encode.features()
    layer = encode_layer(sample)
    script = """
import { readFileSync } from "node:fs";
const { decodeLayer } = await import(`${process.argv[1]}/decode.js`);
const { ask, readTerm } = await import(`${process.argv[1]}/scores.js`);
const { facts, packed, questions } = JSON.parse(readFileSync(0, "utf8"));
const layer = await decodeLayer(facts, (name) => packed[name]);
console.log(JSON.stringify(questions.map((texts) => {
  const { scores, length } = ask(layer, texts.map(readTerm));
  return [Array.from(scores), length];
})));
"""
    questions = [
        ["point:33,21"],
        ["box:5,5,40,30"],
        ["class:2"],
        ["class:1", "-class:3"],
        ["mean", "-class:0", "pca:1"],
    ]
    packed = {name: base64.b64encode(data).decode() for name, data in layer.packed.items()}
    given = json.dumps({"facts": layer.facts, "packed": packed, "questions": questions})
    command = ["node", "--input-type=module", "-e", script, str(JS)]
    ended = subprocess.run(command, input=given, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    from attnvis.attention.query.language import build_queries, parse

    for texts, (scores, length) in zip(questions, json.loads(ended.stdout), strict=True):
        vector = sum(
            build_queries(parse(text.removeprefix("-")), sample)[0].vectors[0, 0]
            * (-1 if text[0] == "-" else 1)
            for text in texts
        )
        assert scores == pytest.approx((sample.tokens[0] @ vector).tolist(), abs=2e-2), texts
        assert length == pytest.approx(float(vector.norm()), rel=1e-3), texts
