"""What several test files share: small photos, the command line called in this process, and a network that is loaded once."""

import csv
import functools
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from attnvis import backbone, cli
from attnvis.backbone import Backbone
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Attention, Preprocessing

PRETRAINED = backbone.efficientnet_lite
REMEMBERED = functools.cache(PRETRAINED)


@functools.wraps(PRETRAINED)
def LOADED(layer="last", **settings):
    return (REMEMBERED if isinstance(layer, str) else PRETRAINED)(layer=layer, **settings)


def make_photo(path: Path, size: tuple[int, int] = (70, 90), seed: int = 0) -> Path:
    """Blurred noise in colour, other for every seed."""
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, cv2.GaussianBlur(noise, (9, 9), 3))[1].tobytes())
    return path


class Whole(nn.Module):
    """A network of two parts: images -> maps, and a head that reads them."""

    def __init__(self, maps: nn.Module, head=None) -> None:
        super().__init__()
        self.maps, self.read = maps, head.logits if head else lambda maps: maps

    def forward(self, images):
        return self.read(self.maps(images))


def fake_backbone(maps: nn.Module, how: Preprocessing, head=None, **changes) -> Backbone:
    """A backbone of a few lines, in fp32, its maps stretched over the photo unless `changes` says otherwise."""
    told = {
        "digest": changes.pop("digest", "f" * 64),
        "dtype": changes.pop("dtype", torch.float32),
        "weights": changes.pop("weights", "given"),
    }
    settings = {"name": "fake", "placement": "stretch", "precision": "fp32", "layer": "maps"} | changes
    made = Backbone(
        Whole(maps, head),
        head=(lambda net, rest: head) if head else "none",
        cut=whole_cut,
        stages={settings["layer"]: "maps"},
        **settings,
    )
    made.trunk, made.preprocessing = Single(maps), how  # not folded, not copied
    for name, value in told.items():
        setattr(made, name, value)
    return made


class Single(nn.Module):
    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images):
        return (self.maps(images),)


def whole_cut(net: Whole, nodes):
    return Single(net.maps), [net.read]


def no_network(batch):
    """In the place of a backbone, where a test brings features of its own."""
    raise AssertionError("no network was to be asked")


def diagnose_attention(attention: Attention):
    return diagnose(attention.weights, attention.logits, attention.scores, attention.dim)


class Page(HTMLParser):
    """Every start tag with its attributes, and the text inside scripts, styles and everything else."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.inside, self.source = [], {}, "", path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        self.words = " ".join(self.texts.get("text", "").split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        kind = self.inside if self.inside in ("script", "style") else "text"
        self.texts[kind] = self.texts.get(kind, "") + data

    def all(self, tag, name):
        return [attributes for kind, attributes in self.tags if kind == tag and name in attributes]

    def rows(self, tag):
        return [
            attributes
            for kind, attributes in self.tags
            if kind == tag and "row" in (attributes.get("class") or "").split()
        ]

    def classes(self):
        return {name for _, attributes in self.tags for name in (attributes.get("class") or "").split()}


def records(folder: str | Path = "out") -> list[dict[str, str]]:
    """The rows of a run's records.csv."""
    with (Path(folder) / "records.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr of a run that went wrong."""
        assert self.code != 0, self
        assert "Traceback" not in self.err, self.err
        assert self.err.startswith("attnvis: ") and self.err.count("\n") == 1, self.err
        return self.err.strip()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; W&B off; the default network loaded once in a session."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(backbone, "efficientnet_lite", LOADED)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def attnvis(here, monkeypatch, capsys):
    """`attnvis WORDS` in this process; a run is small and goes to ./out unless the words say otherwise."""

    def call(*words: str) -> Ended:
        small = ["preprocess.size=96", "hydra.run.dir=out", "hydra.sweep.dir=out"]
        usual = [
            word
            for word in small
            if words[0] == "run"
            and "--resume" not in words
            and not any(given.startswith(word.partition("=")[0]) for given in words)
        ]
        monkeypatch.setattr(sys, "argv", ["attnvis", *words, *usual])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return Ended(code, *capsys.readouterr())

    return call
