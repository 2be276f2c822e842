"""Networks in, one row per layer out: what it costs, where its cells lie, how exact class scores are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from attnvis import catalogue
from attnvis.backbone import lite
from attnvis.backbone.certificates import Certificate
from attnvis.backbone.cutting import CutNetwork
from attnvis.backbone.sources import config_of, from_config
from attnvis.backbone.torchvision_import import import_torchvision
from attnvis.geometry import ReceptiveField

__all__ = ["LayerSummary", "members", "summarise", "table", "with_weights_here"]


@dataclass(frozen=True)
class LayerSummary:
    """One layer of one network on an input of `size` x `size` pixels."""

    name: str
    layer: str  # the stage
    node: str  # what it is called in the network
    channels: int
    grid: tuple[int, int]
    macs: int  # multiply-adds from the pixels to here: what a network cut at this layer costs
    field: ReceptiveField | None  # None: its cells have no place that could be probed
    certificate: Certificate | None  # how far class scores can be trusted; None: there is no classifier
    parameters: int  # of the whole network


def members() -> dict[str, str]:
    """Every classifier of torchvision that a config knows -> its family."""
    models = import_torchvision()
    families = {name: catalogue.family(name) for name in models.list_models(module=models)}
    return {name: family for name, family in families.items() if family}


def with_weights_here() -> list[str]:
    """Networks by name whose usual weights are here: from pip, or in torch's folder of downloads."""
    lites = [name for name, variant in lite.VARIANTS.items() if lite.package_file(variant)]
    models = import_torchvision()
    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    files = {name: models.get_model_weights(name)["DEFAULT"].url.rpartition("/")[2] for name in members()}
    return [*lites, *(name for name, file in files.items() if (downloads / file).is_file())]


def families() -> list[str]:
    """What needs neither another package nor code of the user's."""
    own = (".efficientnet_lite", ".torchvision")
    options = catalogue.options("backbone")
    return [name for name in options if catalogue.settings(f"backbone/{name}")["_target_"].endswith(own)]


def summarise(names: Sequence[str], size: int = 224, weights: str = "random") -> Iterator[LayerSummary]:
    """The stages of each network, from the photo to the classifier, on an input of `size` x `size` pixels.

    A network that takes one size is shown at that.
    names: families, members, or `all`; none: one of each family.  Raises ValueError for a name that is none
    of these.
    """
    for name in members() if "all" in names else names or families():
        yield from stages_of(name, size, weights)


def stages_of(name: str, size: int, weights: str) -> Iterator[LayerSummary]:
    config = config_of(name)
    if config is None:
        raise ValueError(
            f"no backbone {name!r}; give a family ({', '.join(families())}), a member of one, or all"
        )
    settings = {"weights": weights, "device": "cpu", "precision": "fp32", "layer": "all"}
    backbone = from_config(config | settings)
    network = backbone.network
    size = backbone.preprocessing.size if backbone.preprocessing.sides == "fixed" else size
    with torch.inference_mode():
        layers, _ = network.split(backbone.engine.run(torch.zeros(1, 3, size, size)))
    parameters = sum(parameter.numel() for parameter in network.net.parameters())
    for number, maps in enumerate(layers):
        yield LayerSummary(
            name=backbone.name,
            layer=network.layers[number],
            node=network.nodes[number],
            channels=maps.shape[1],
            grid=(maps.shape[2], maps.shape[3]),
            macs=multiply_adds(network, number, size),
            field=backbone.cells.receptive_field((size, size), number),
            certificate=backbone.certificates[number],
            parameters=parameters,
        )


@torch.inference_mode()
def multiply_adds(network: CutNetwork, number: int, size: int) -> int:
    """From a photo of `size` x `size` pixels to the maps of a layer: what a network cut there costs."""
    from torch.utils.flop_counter import FlopCounterMode

    trunk, _ = network.divide(network.net, network.nodes[number : number + 1])
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # what it does in one piece nobody counts
    try:
        with FlopCounterMode(display=False) as counter:
            trunk.eval()(torch.zeros(1, 3, size, size))
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)
    return counter.get_total_flops() // 2


COLUMNS = {
    "network": 18, "M params": 8, "layer": 6, "node": 31, "channels": 8, "grid": 9, "GMAC": 6,
    "cell i at (px)": 14, "class scores": 23, "off by": 7,
}  # fmt: skip


def table(summaries: Iterable[LayerSummary]) -> Iterator[str]:
    """As Markdown, line by line; what holds for a network stands in its first row."""
    yield line(COLUMNS)
    yield line("-" * width for width in COLUMNS.values())
    before = ""
    for row in summaries:
        network = ("", "") if row.name == before else (row.name, f"{row.parameters / 1e6:.1f}")
        before = row.name
        grid, cost = f"{row.grid[0]} x {row.grid[1]}", f"{row.macs / 1e9:.2f}"
        cells = (*network, row.layer, row.node, row.channels, grid, cost, centres(row.field))
        yield line((*cells, *trust(row.certificate)))


def line(cells: Iterable[object]) -> str:
    padded = [f"{cell!s:{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True)]
    return f"| {' | '.join(padded)} |"


def trust(certificate: Certificate | None) -> tuple[str, str]:
    """How class scores are made, and by how much they miss."""
    if certificate is None:
        return "none", ""
    quality = "exact" if certificate.exact else "approximate"
    return f"{certificate.kind}, {quality}", f"{certificate.relative:.1g}"


def centres(field: ReceptiveField | None) -> str:
    """Where cells lie; of one axis, where both are the same."""
    if field is None:
        return "stretched"
    down, across = (
        f"{offset:.4g} + {stride:.4g} i" for offset, stride in zip(field.offset, field.stride, strict=True)
    )
    return down if down == across else f"{down} down, {across} across"
