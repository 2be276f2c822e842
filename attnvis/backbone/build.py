"""A network in, a backbone out: cut at layers, its heads certified, its cells placed, an engine at hand."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from attnvis.backbone import heads
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.cells import CellGeometry, check_placement, known_shifts
from attnvis.backbone.certificates import certify_all
from attnvis.backbone.class_files import class_names
from attnvis.backbone.cutting import (
    STRIDES,
    Cut,
    CutNetwork,
    Rest,
    channels_first,
    divide,
    divide_sequential,
    nodes_of,
    resolve_layer,
    sequential_nodes,
    stage_order,
    stages_by_stride,
)
from attnvis.backbone.device import has_fast_bf16, resolve_device
from attnvis.backbone.engines import Engine
from attnvis.backbone.host import undisturbed
from attnvis.backbone.matching import Checkpoint
from attnvis.backbone.own import copy_of, last_maps, photos_to_logits
from attnvis.backbone.tokens import PatchCells, TokenGrid, find_grid, gives_tokens, patch_size, token_cut
from attnvis.backbone.weights import digest, load_file
from attnvis.geometry import Shift
from attnvis.types import Head, Preprocessing

__all__ = ["IMAGENET", "SourceNetwork", "assemble", "build_backbone", "rgb"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of its pixels

HeadChoice = str | Callable[[nn.Module, Rest], Head | None]


@dataclass(frozen=True)
class SourceNetwork:
    """A network that may be taken over (frozen, set to eval, moved to a device), and what is known of it.

    net            images [B, 3, H, W] -> logits [B, C], with its weights
    weights        where they come from, for the records; "random": nothing was learned
    stages         names for nodes; `last` is the one that the classifier reads
    head           what the classifier asks of the last stage; other layers are asked by the gradient
    categories     the names of the classes, in order
    cut            how it is cut; None: by its traced graph, else by hooks
    shifts         node -> how far training moved its cells
    step           sides of the input that suit its padding are the size plus a multiple of this; None: any
                   side does
    twin           a network of the same geometry with fewer channels, probed in its stead: cells lie at the
                   same places
    notes          of its weights: what was taken off, left over or missing
    grid           of a network of tokens: how its patches lie; None: its layers give maps
    """

    net: nn.Module
    name: str
    weights: str
    preprocessing: Preprocessing
    stages: Mapping[str, str] = field(default_factory=dict)
    head: HeadChoice = "gradient"
    categories: tuple[str, ...] = ()
    cut: Cut | None = None
    shifts: Mapping[str, Shift] = field(default_factory=dict)
    step: int | None = None
    twin: nn.Module | None = None
    notes: tuple[str, ...] = ()
    grid: TokenGrid | None = None


def build_backbone(
    net: nn.Module,
    layer: str | Sequence[str] | None = None,
    head: HeadChoice = "gradient",
    stages: Mapping[str, str] | None = None,
    name: str = "",
    weights: str = "given",
    size: int = 224,
    resize: int | None = None,
    mean: float | Sequence[float] = IMAGENET[0],
    std: float | Sequence[float] = IMAGENET[1],
    categories: Sequence[str] | str = "",
    placement: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    cut: Cut | None = None,
    shifts: Mapping[str, Shift] | None = None,
    step: int | None = None,
    twin: nn.Module | None = None,
    weights_key: str = "",
) -> Backbone:
    """A snapshot of a network of your own, which stays as it is: a copy is frozen, set to eval and moved.

    What the network learns later is not in it: `refreshed` makes the next.  Hooks of yours are not copied.

    net         images [B, 3, H, W] -> logits [B, C], on any device and in any dtype.  Logits may lie in a
                dict, a tuple, a dataclass or an object; one logit y becomes two classes, -y/2 and y/2; a
                network of one channel gets the photo's grey
    layer       a stage, or any submodule or node of the traced graph that gives maps, [B, D, h, w] or
                [B, h, w, D]; or a list of these; all: every stage.  None: the stage `last`, else the last
                submodule that gives maps, as `layer` of the backbone says
    head        what the classifier asks of the last stage; other layers are asked by the gradient:
                linear:LAYER | layer_norm:NORM,LAYER | conv_relu:LAYER | gradient | none, or a function
                (net, rest) -> Head
    stages      names for nodes; `last` is the one that the head reads
    name        what it is called in the records; nothing: as its class is
    weights     given: as they are in `net` | random: nothing was learned | a file, whatever wraps them there
    size        short side of its input in pixels
    resize      the short side before the crop of preprocess.fit=crop; None: the same
    mean, std   of the pixels that it was trained on, as RGB between 0 and 1; one number stands for three
    categories  the names of the classes, in order, or what has them: "imagenet", a file, a folder of classes
    placement   rf: the middle of a cell's receptive field, probed on the network
                calibrated: moved by the shift that is known for these very weights, stored by
                `attnvis calibrate` or else in `shifts`
                auto: calibrated where a shift is known, else rf
                stretch: the field's habit, the grid pulled over the input
    device      auto | cpu | cuda
    precision   fp32 | bf16 | auto: fp32, unless `prepare` finds that a run's photos agree in bf16
    engine      eager | compile | openvino | auto: the one that `prepare` finds to be done first, eager until
                then
    cut         how the network is cut: net, nodes -> trunk, rests; None: by its traced graph, else by hooks
    shifts      node -> how far training moved its cells, for the weights that are given
    step        sides of the input that suit its padding are `size` plus a multiple of this; None: any side
                does
    twin        a network of the same geometry with fewer channels, probed in its stead
    weights_key of several networks in the file that fit, the one to take, as in "student"

    Raises ValueError for a layer, head, placement, engine, file or list of names that does not fit.
    """
    arguments = {**locals()}
    own_net = arguments.pop("net")
    with undisturbed():
        net = copy_of(own_net)
        name = name or type(net).__name__
        loaded = Checkpoint()
        if weights not in ("given", "random"):
            loaded = load_file(net, weights, name, key=weights_key)
        net = photos_to_logits(net, size)
        stages = dict(stages or {})
        if layer is None and (cut or "last" in stages):
            layer = "last"
        grid = None if cut else own_grid(net, layer, stages, size=size)
        if grid:
            stages.setdefault("last", grid.last)
            head = head if grid.classifies or head != "gradient" else "none"
        if layer is None:
            layer = "last" if grid else last_maps(net, size)
        source = SourceNetwork(
            net,
            name,
            weights,
            Preprocessing(size, resize=resize, mean=rgb(mean), std=rgb(std)),
            stages=stages,
            head=head if loaded.has_head else "none",
            categories=class_names(categories),
            cut=cut,
            shifts=shifts or {},
            step=step,
            twin=twin,
            notes=loaded.notes,
            grid=grid,
        )
        backbone = assemble(
            source, layer, placement=placement, device=device, precision=precision, engine=engine
        )
    return replace(backbone, renew=partial(build_backbone, **arguments))


def own_grid(
    net: nn.Module, layer: str | Sequence[str] | None, stages: Mapping[str, str], size: int
) -> TokenGrid | None:
    """Of a network whose layer gives tokens, their grid; without a layer, of one that makes patches at once.

    Raises ValueError where no grid is certain.
    """
    layers = [layer] if isinstance(layer, str) else layer or []
    nodes = [stages.get(each, each) for each in layers]
    if layer is not None:
        return find_grid(net, size) if gives_tokens(net, nodes, size) else None
    if patch_size(net) == 0:
        return None
    try:
        return find_grid(net, size)
    except ValueError:
        is_first = isinstance(net.get_submodule(last_maps(net, size)), nn.Conv2d)
        if is_first:  # nothing after the patches gives maps
            raise
        return None


def assemble(
    source: SourceNetwork,
    layer: str | Sequence[str] = "last",
    placement: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
) -> Backbone:
    """A backbone of a network that is taken over.  Settings and errors are those of `build_backbone`."""
    check_placement(placement)
    target, dtype = resolve_device(device, precision)
    faster = torch.bfloat16 if precision == "auto" and has_fast_bf16(target) else None
    source.net.float().eval().requires_grad_(False)
    weights_digest = digest(source.net, source.weights)
    network = cut_network(source, layer)
    layer_heads = [
        heads.build_head(choose_head(source, node, end), source.net, rest, source.categories)
        for rest, node, end in zip(network.rests, network.nodes, network.ends, strict=True)
    ]
    certificates = certify_all(layer_heads, network, source.preprocessing.size)
    shifts = known_shifts(network, weights_digest, placement, source.shifts)
    preprocessing = source.preprocessing
    cell_notes: tuple[str, ...] = ()
    probed = network.divide(source.twin, network.nodes)[0].eval() if source.twin else network.trunk
    if source.grid:
        probed = PatchCells(source.net, layers=len(network.layers))
        preprocessing, cell_notes = source.grid.fitted(preprocessing), source.grid.notes()
    source.net.to(target)
    return Backbone(
        network=network,
        weights=source.weights,
        digest=weights_digest,
        heads=tuple(head and heads.to_device(head, target) for head in layer_heads),
        certificates=certificates,
        cells=CellGeometry(probed, placement, shifts),
        engine=Engine(network.trunk, target, dtype, engine, faster=faster),
        preprocessing=preprocessing,
        step=source.step,
        notes=source.notes,
        cell_notes=cell_notes,
    )


def cut_network(source: SourceNetwork, layer: str | Sequence[str]) -> CutNetwork:
    """A network cut at stages, at nodes, or at `all` stages.  Raises ValueError for what is no layer."""
    stages = all_stages(source, layer)
    if layer == "all":
        layers = tuple(sorted(stages, key=stage_order))
    else:
        layers = (layer,) if isinstance(layer, str) else tuple(layer)
    if len(set(layers)) != len(layers) or not layers:
        raise ValueError(f"layers {list(layers)}: give at least one, and none twice")
    available = None
    if source.cut is divide_sequential:
        available = sequential_nodes(source.net)
    elif source.cut is None:
        available = nodes_of(source.net)
    nodes = tuple(resolve_layer(each, stages, source.name, available) for each in layers)
    cut = source.cut or (token_cut(source.grid) if source.grid else divide)
    trunk, rests = channels_first(*cut(source.net, nodes), layers=layers, name=source.name)
    return CutNetwork(
        name=source.name,
        net=source.net,
        trunk=trunk.eval(),
        rests=tuple(rests),
        layers=layers,
        nodes=nodes,
        ends=tuple(node == stages.get("last", node) for node in nodes),
        divide=cut,
    )


def all_stages(source: SourceNetwork, layer: str | Sequence[str]) -> dict[str, str]:
    """The stages that are known; where `layer` names others, also those that strides can tell."""
    if layer == "all":
        named = set(STRIDES)
    else:
        named = set(STRIDES) & ({layer} if isinstance(layer, str) else set(layer))
    if source.cut or source.grid or named <= set(source.stages):
        return dict(source.stages)
    return stages_by_stride(source.net, source.stages.get("last", "")) | dict(source.stages)


def choose_head(source: SourceNetwork, node: str, end: bool) -> HeadChoice:
    """The last stage has the head that was given, the others the gradient's.

    None where there is none, and behind the last layer whose patches it reads.
    """
    if source.grid and source.grid.is_unread(node):
        return "none"
    if end or source.head == "none":
        return source.head
    return "gradient"


def rgb(numbers: float | Sequence[float]) -> tuple[float, float, float]:
    """Three numbers, of which one stands for all.  Raises ValueError where they are not three numbers."""
    try:
        several = numbers if isinstance(numbers, Iterable) else (numbers,) * 3
        red, green, blue = (float(number) for number in several)
    except (TypeError, ValueError):
        raise ValueError(f"mean and std have three numbers, red, green and blue, not {numbers}") from None
    return red, green, blue
