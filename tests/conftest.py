"""What test files share: small photos, the command line in this process, a network that is loaded once."""

import copy
import csv
import functools
import gc
import os
import signal
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from browsing import chromium, visit, window  # noqa: F401
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from slurm_cluster import slurm, started_slurm  # noqa: F401
from torch import Tensor, nn

from attnvis import backbone, cli
from attnvis.backbone import Backbone
from attnvis.backbone.cells import CellGeometry
from attnvis.backbone.certificates import certify_all
from attnvis.backbone.cutting import CutNetwork
from attnvis.backbone.engines import Engine
from attnvis.cli import common
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Attention, Preprocessing

# A shell that starts the suite in the background ignores Ctrl-C and hang-ups, also for what tests start;
# others ignore SIGTERM.  Servers of tests stand on this machine: no proxy is asked for them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"

common.keep_freed_memory = lambda: None  # for good, and this process has thousands of commands before it

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


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64, other for every seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Whole(nn.Module):
    """A network of two parts: images -> maps, and a head that reads them."""

    def __init__(self, maps: nn.Module, head=None) -> None:
        super().__init__()
        self.maps, self.read = maps, head.logits if head else lambda maps: maps

    def forward(self, images):
        return self.read(self.maps(images))


def fake_backbone(
    maps: nn.Module,
    how: Preprocessing,
    head=None,
    *,
    name="fake",
    layer="maps",
    weights="given",
    digest="f" * 64,
    placement="stretch",
    dtype=torch.float32,
) -> Backbone:
    """A backbone of a few lines, neither folded nor copied; its maps are stretched over the photo."""
    net = Whole(maps, head).eval().requires_grad_(False)
    trunk, rests = whole_cut(net, ("maps",))
    network = CutNetwork(
        name, net, trunk, rests=tuple(rests), layers=(layer,), nodes=("maps",), ends=(True,), divide=whole_cut
    )
    return Backbone(
        network=network,
        weights=weights,
        digest=digest,
        heads=(head,),
        certificates=certify_all((head,), network, how.size),
        cells=CellGeometry(trunk, placement, (None,)),
        engine=Engine(trunk, torch.device("cpu"), dtype, eager=trunk),
        preprocessing=how,
    )


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


GRADIENT = ("jacobian_norm", "jacobian_spectral", "gradient_norm")  # what no weights tell


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


def pytest_collection_finish(session):
    """What is imported by now stays: no collection goes through it again."""
    gc.collect()
    gc.freeze()


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
def wandb(here, monkeypatch):
    """The library that sends to W&B as in a process of its own."""
    from fake_wandb import fresh_wandb

    yield from fresh_wandb(here, monkeypatch)


@pytest.fixture
def one_composition(monkeypatch):
    """Hydra composes a config twice: a run's to learn its mode, a job's to see whether it can.  Here once.

    It is most of the time that a small run takes.  Of our configs only an experiment changes the mode.
    """
    get_mode, load = Hydra.get_mode, ConfigLoaderImpl.load_configuration
    composed = {}

    def mode_without_composing(hydra, config_name, overrides):
        changes = any(word.startswith(("experiment=", "hydra.mode=")) for word in overrides)
        return get_mode(hydra, config_name, overrides) if changes else None

    def load_once(loader, config_name, overrides, *more, **settings):
        key = (loader, config_name, *overrides, *more, *settings.items())
        if key not in composed:
            composed[key] = load(loader, config_name, overrides, *more, **settings)
        return copy.deepcopy(composed[key])

    monkeypatch.setattr(Hydra, "get_mode", mode_without_composing)
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load_once)


@pytest.fixture
def attnvis(here, one_composition, monkeypatch, capsys):
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


@pytest.fixture
def cat(here):
    """./cat.png, a photo of 90 x 70 pixels."""
    return make_photo(here / "cat.png")
