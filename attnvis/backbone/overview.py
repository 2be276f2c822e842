"""Networks in, one row per layer out: what there is to attend over, what it costs, and how far class scores can be trusted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from attnvis import backbone as backbones
from attnvis import catalogue
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.heads import Certificate
from attnvis.geometry import ReceptiveField

__all__ = ["LayerSummary", "members", "survey", "table"]


@dataclass(frozen=True)
class LayerSummary:
    """One layer of one network on an input of `size` x `size` pixels."""

    name: str
    layer: str  # the stage
    node: str  # what it is called in the network
    channels: int
    grid: tuple[int, int]
    macs: int  # multiply-adds from the pixels to here: what a network cut at this layer costs
    reach: ReceptiveField | None  # None: its cells have no place that could be probed
    certificate: Certificate | None  # how far class scores can be trusted; None: there is no classifier
    parameters: int  # of the whole network


def members() -> dict[str, str]:
    """Every classifier of torchvision that a config knows -> its family."""
    from torchvision import models

    found = {name: catalogue.family(name) for name in models.list_models(module=models)}
    return {name: family for name, family in found.items() if family}


def families() -> list[str]:
    """What needs neither another package nor code of the user's."""
    known = catalogue.options("backbone")
    return [
        name
        for name in known
        if catalogue.settings(f"backbone/{name}")["_target_"].endswith((".efficientnet_lite", ".torchvision"))
    ]


def survey(names: Sequence[str], size: int = 224, weights: str = "random") -> Iterator[LayerSummary]:
    """The stages of each network, from the photo to the classifier.  names: families, members, or `all`; none: one of each family."""
    for name in members() if "all" in names else names or families():
        yield from rows(name, size, weights)


def rows(name: str, size: int, weights: str) -> Iterator[LayerSummary]:
    family = name if name in catalogue.options("backbone") else catalogue.family(name)
    if family is None:
        raise ValueError(
            f"no backbone {name!r}; give a family ({', '.join(families())}), a member of one, or all"
        )
    config = catalogue.settings(f"backbone/{family}")
    target = config.pop("_target_").rsplit(".", 1)[-1]
    config |= {"weights": weights, "device": "cpu", "precision": "fp32"} | (
        {"name": name} if "name" in config and name != family else {}
    )
    network: Backbone = getattr(backbones, target)(**config | {"layer": "all"})
    with torch.inference_mode():
        maps = network.trunk(torch.zeros(1, 3, size, size))
    parameters = sum(parameter.numel() for parameter in network.net.parameters())
    for number, (layer, found, certificate) in enumerate(
        zip(network.layers, maps, network.certificates, strict=True)
    ):
        cost, reach, grid = (
            network.cost(number, (size, size)),
            network.receptive_field_on((size, size), number),
            (found.shape[2], found.shape[3]),
        )
        yield LayerSummary(
            network.name,
            layer,
            network.nodes[number],
            found.shape[1],
            grid,
            cost,
            reach,
            certificate,
            parameters,
        )


COLUMNS = {
    "network": 18, "M params": 8, "layer": 6, "node": 24, "channels": 8, "grid": 9, "GMAC": 6, "cell i at (px)": 14,
    "class scores": 23, "off by": 7,
}  # fmt: skip


def table(found: Iterable[LayerSummary]) -> Iterator[str]:
    """As Markdown, line by line; what holds for a network stands in its first row."""
    yield line(COLUMNS)
    yield line("-" * width for width in COLUMNS.values())
    before = ""
    for row in found:
        whole = ("", "") if row.name == before else (row.name, f"{row.parameters / 1e6:.1f}")
        before, judged = row.name, row.certificate
        how, wide = (
            ("exact" if judged.exact else "approximate", f"{judged.relative:.1g}") if judged else ("none", "")
        )
        grid, kind = f"{row.grid[0]} x {row.grid[1]}", f"{judged.kind}, " if judged else ""
        yield line(
            (
                *whole,
                row.layer,
                row.node,
                row.channels,
                grid,
                f"{row.macs / 1e9:.2f}",
                said(row.reach),
                kind + how,
                wide,
            )
        )


def line(cells: Iterable[object]) -> str:
    return (
        "| "
        + " | ".join(f"{cell!s:{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True))
        + " |"
    )


def said(reach: ReceptiveField | None) -> str:
    """One axis's, where both are the same."""
    if reach is None:
        return "stretched"
    told = [
        f"{offset:.4g} + {stride:.4g} i" for offset, stride in zip(reach.offset, reach.stride, strict=True)
    ]
    return told[0] if told[0] == told[1] else f"{told[0]} down, {told[1]} across"
