"""Random questions of a photo, as an explorer's link has them, and Python's own answers to them."""

import random
from functools import partial

import torch

from attnvis.attention import normalise, scaling
from attnvis.attention.dot_product import attend
from attnvis.attention.query.language import build_queries, parse
from attnvis.types import Features

# Settings that a reader would choose: at the sharpest a map is one patch, at the flattest it is uniform.
SCALINGS = {
    "none": None,
    "inv_sqrt_d": None,
    "inv_d": None,
    "temperature": (2.0, 200.0),
    "cosine": (0.03, 1.0),
    "zscore": (0.2, 3.0),
    "robust_z": (0.2, 3.0),
    "minmax": (0.05, 1.0),
    "log_n": (64.0, 2048.0),
    "ssmax": (0.002, 0.1),
    "perplexity": (0.02, 0.9),
}
NORMALISERS = {
    "softmax": None,
    "sparsemax": None,
    "entmax15": None,
    "sigmoid": None,
    "top_k": (1.0, 40.0),
    "relu": None,
    "power": (0.5, 4.0),
}
ALONE = ("distance", "norm", "rarity", "pca:1", "pca:2", "random:0", "random:2", "mean")


def stage(draw: random.Random, options: dict) -> str:
    """zscore:0.73"""
    name = draw.choice(list(options))
    if options[name] is None:
        return name
    low, high = options[name]
    value = low * (high / low) ** draw.random()
    return f"{name}:{round(value)}" if name == "top_k" else f"{name}:{value:.3g}"


def term(draw: random.Random, features: Features, classes: list[int]) -> str:
    height, width = features.placements[0].size
    kind = draw.choice(("point", "point", "box", "class"))
    if kind == "class" and classes:
        return f"class:{draw.choice(classes)}"
    x, y = round(draw.uniform(0, width - 1), 1), round(draw.uniform(0, height - 1), 1)
    if kind == "box":
        wide, tall = draw.randint(1, max(1, width // 2)), draw.randint(1, max(1, height // 2))
        return f"box:{int(x)},{int(y)},{wide},{tall}"
    return f"point:{x},{y}"


def question(draw: random.Random, features: Features, classes: list[int]) -> tuple[list[str], str, str]:
    """(terms, scaling, normaliser)"""
    chance = draw.random()
    if chance < 0.25:
        terms = [draw.choice(ALONE)]
    elif chance < 0.75:
        terms = [term(draw, features, classes)]
    else:
        terms = [term(draw, features, classes), f"-{term(draw, features, classes)}"]
        if draw.random() < 0.3:
            terms.append(draw.choice(("mean", "-mean", "pca:1", "random:1")))
    return terms, stage(draw, SCALINGS), stage(draw, NORMALISERS)


def link(terms: list[str], scaling: str, normalise: str) -> str:
    return f"q={';'.join(terms)}&scaling={scaling}&normalise={normalise}"


def weights(features: Features, terms: list[str], scale: str, normal: str) -> torch.Tensor:
    """[N], as `attnvis.explain` computes them."""
    total, keys = 0.0, None
    for text in terms:
        (query,) = build_queries(parse(text.removeprefix("-")), features)
        total = total + query.vectors.float() * (-1.0 if text.startswith("-") else 1.0)
        keys = query.keys
    keys = features.tokens.float() if keys is None else keys
    attention = attend(total, keys, scaling=function(scaling, scale), normalise=function(normalise, normal))
    return attention.weights[0, 0]


def function(module, text: str):
    name, _, setting = text.partition(":")
    if not setting:
        return getattr(module, name)
    parameter = {"log_n": "base", "ssmax": "s", "perplexity": "target", "top_k": "k", "power": "p"}.get(
        name, "tau"
    )
    return partial(getattr(module, name), **{parameter: int(setting) if name == "top_k" else float(setting)})


def distance(one, other) -> float:
    """Total variation, 0 ... 1."""
    return float(
        (torch.as_tensor(one, dtype=torch.float64) - torch.as_tensor(other).double()).abs().sum() / 2
    )
