"""A batch of photos in, patch features out: the embedded network, or any torchvision CNN that ends in global pooling and one linear layer.

A backbone is cut in two at the chosen layer: `encode` (images -> maps) and `rest` (maps -> logits).
"""

import difflib
import hashlib
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from attnvis import embedded as shipped
from attnvis import placement as geometry
from attnvis.values import Batch, Features, Head, Preprocessing

__all__ = ["Backbone", "embedded", "torchvision"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded network, cut at one layer.  Call it with a Batch."""

    name: str
    weights: str  # what was loaded, in words
    layer: str
    encode: nn.Module  # images [B, 3, H, W] -> maps [B, D, h, w]
    rest: Callable[[Tensor], Tensor]  # maps [B, D, h, w] -> logits [B, C]
    head: Head | None  # where `rest` is mean, then one linear layer
    preprocessing: Preprocessing
    digest: str  # sha256 of the weights' values; "random" where nothing was loaded
    placement: str = "rf"
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Features:
        images = batch.images.to(self.device, self.dtype, memory_format=torch.channels_last)
        maps = self.encode(images)
        if maps.ndim != 4:
            raise ValueError(
                f"layer {self.layer} of {self.name} gives {tuple(maps.shape)}, not maps [B, D, h, w]: choose a convolutional layer"
            )
        maps = maps.float()
        logits = None if self.head is None else self.head(maps.mean((2, 3)))
        grid = (maps.shape[2], maps.shape[3])
        whole = [
            geometry.place(view, self.reach or geometry.stretch(view, grid), grid, photo.size)
            for view, photo in zip(batch.views, batch.photos, strict=True)
        ]
        rows, columns = geometry.visible(whole[0])
        seen = maps[:, :, rows, columns]
        return Features(
            tokens=seen.flatten(2).mT.contiguous(),  # [B, D, h, w] -> [B, N, D], patch i = row * w + column
            grid=(seen.shape[2], seen.shape[3]),
            placements=tuple(geometry.cut(placement, rows, columns) for placement in whole),
            head=self.head,
            logits=logits,
            names=tuple(photo.name for photo in batch.photos),
        )

    @torch.inference_mode()
    def classify(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        """The rest of the network on maps put in place of its own: the seed note's V' instead of V."""
        return self.rest(maps.to(self.device, self.dtype)).float()

    @cached_property
    def reach(self) -> geometry.Reach | None:
        """Where the cells lie on any input, probed once; None: stretched."""
        return None if self.placement == "stretch" else geometry.probe(self.encode)

    @property
    def warnings(self) -> tuple[str, ...]:
        return ("random weights: nothing was learned, the maps mean nothing",) if self.digest == "random" else ()

    def describe(self) -> dict[str, str]:
        """For the run's record and page."""
        reach = (
            "stretched over the input"
            if self.reach is None
            else f"cell i at {self.reach.offset[1]:.4g} + {self.reach.stride[1]:.4g} i px of the input"
        )
        return {
            "backbone": self.name,
            "weights": self.weights,
            "weights digest": self.digest,
            "layer": self.layer,
            "precision": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "placement": f"{self.placement}: {reach}",
        }


def embedded(
    layer: str = "last", weights: str = "shipped", device: str = "auto", precision: str = "auto", placement: str = "rf"
) -> Backbone:
    """The small network that comes with attnvis, or its architecture with `weights` = random or a .safetensors file."""
    net = shipped.EmbeddedNet()
    if weights == "shipped":
        net.load_state_dict(shipped.load_weights())
    else:
        fill(net, weights, "embedded")
    stages = dict(zip(("stage2", "stage3", "last"), net.stages, strict=True))
    cut = pick(layer, stages, "embedded")
    head = Head(net.head.weight.detach(), net.head.bias.detach(), shipped.categories()) if cut == len(net.features) else None

    def rest(maps: Tensor) -> Tensor:
        return net.head(net.features[cut:](maps).mean((2, 3)))

    backbone = Backbone(
        "embedded", weights, layer, net.features[:cut], rest, head, Preprocessing(shipped.SIZE), digest(net, weights), placement
    )
    return prepared(backbone, net, device, precision)


def torchvision(
    name: str,
    stages: Mapping[str, str],
    head: str,
    weights: str = "DEFAULT",
    layer: str = "last",
    device: str = "auto",
    precision: str = "auto",
    placement: str = "rf",
) -> Backbone:
    """A torchvision classifier by name.

    weights    an enum name (DEFAULT, IMAGENET1K_V2, ...: downloaded once), a .safetensors or .pth file, or "random"
    layer      a stage (last, stage3, ...) or the name of any node of the network's graph
    stages     stage -> node; head: the linear layer that reads the mean of the last stage
    """
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    if name not in models.list_models(module=models):
        near = difflib.get_close_matches(name, models.list_models(module=models), n=4)
        raise ValueError(
            f"torchvision has no classifier called {name!r}; "
            f"{'did you mean ' + ', '.join(near) + '?' if near else 'see attnvis run --help'}"
        )
    known = models.get_model_weights(name)
    enum = known[weights] if weights in known.__members__ else known["DEFAULT"]
    net = models.get_model(name, weights=None, **arguments(name)).eval()
    if weights in known.__members__:
        net.load_state_dict(downloaded(enum, name))
    elif weights.isidentifier() and weights != "random":
        raise ValueError(f"{name} has no weights called {weights!r}; it has {', '.join(known.__members__)}; or give a file, or random")
    else:
        fill(net, weights, name)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that training would have other nodes: nothing is trained here
        nodes = get_graph_node_names(net)[1]
        node = pick(layer, stages, name, nodes)
        encode = Maps(create_feature_extractor(net, {node: "maps"}))
        rest = after(create_feature_extractor(net, {node: "maps", nodes[-1]: "logits"}))
    linear = net.get_submodule(head)
    categories = tuple(enum.meta["categories"])
    reads = Head(linear.weight.detach(), linear.bias.detach(), categories if len(categories) == len(linear.weight) else ())
    how = enum.transforms()
    backbone = Backbone(
        name,
        str(enum) if weights in known.__members__ else weights,
        layer,
        encode,
        rest,
        reads if node == stages["last"] else None,
        Preprocessing(how.crop_size[0], resize=how.resize_size[0], mean=tuple(how.mean), std=tuple(how.std)),
        digest(net, weights),
        placement,
    )
    return prepared(backbone, net, device, precision)


class Maps(nn.Module):
    """A feature extractor's one output, out of its dict."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor(images)["maps"]


def after(whole: fx.GraphModule) -> fx.GraphModule:
    """{maps, logits} extractor -> the part of the network that turns maps into logits."""
    graph = whole.graph
    result = next(node for node in graph.nodes if node.op == "output")
    outputs = result.args[0]
    with graph.inserting_before(next(iter(graph.nodes))):
        maps = graph.placeholder("maps")
    result.args = (outputs["logits"],)
    outputs["maps"].replace_all_uses_with(maps)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op == "placeholder" and node is not maps and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(whole, graph)


def arguments(name: str) -> dict[str, object]:
    """What torchvision's builders need beside the name."""
    return {"init_weights": False, "aux_logits": True, "transform_input": True} if name == "googlenet" else {}


def pick(layer: str, stages: Mapping[str, Any], name: str, nodes: list[str] | None = None) -> Any:
    """The node (or depth) that a stage's name stands for; any node's own name will do too."""
    if layer in stages:
        return stages[layer]
    if nodes and (layer in nodes or any(node.startswith(f"{layer}.") for node in nodes)):
        return layer
    near = difflib.get_close_matches(layer, nodes or [], n=3, cutoff=0.4)
    more = f"; or a node such as {', '.join(near or nodes[-4:])}" if nodes else ""
    raise ValueError(f"{name} has no layer {layer!r}; stages are {', '.join(stages)}{more}")


def prepared(backbone: Backbone, net: nn.Module, device: str, precision: str) -> Backbone:
    """Certified, then moved to its device and precision."""
    if backbone.placement not in ("rf", "stretch"):
        raise ValueError(f"unknown placement {backbone.placement!r}: rf (where the cells look) or stretch (the field's habit)")
    net.eval().requires_grad_(False)
    certify(backbone)
    where, dtype = settle(device, precision)
    _ = backbone.reach  # probed on the network as it was loaded, before it is moved
    head = backbone.head and Head(backbone.head.weight.to(where).clone(), backbone.head.bias.to(where).clone(), backbone.head.categories)
    net.to(where, dtype).to(memory_format=torch.channels_last)
    moved = replace(backbone, head=head, device=where, dtype=dtype)
    moved.__dict__["reach"] = backbone.reach
    return moved


def settle(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """What `auto` stands for on this machine."""
    try:
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: auto, cpu or cuda") from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this machine has no usable GPU; use device=auto or cpu")
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "auto": torch.bfloat16 if fast_bf16(where) else torch.float32}
    if precision not in dtypes:
        raise ValueError(f"unknown precision {precision!r}: auto, fp32 or bf16")
    return where, dtypes[precision]


@torch.inference_mode()
def certify(backbone: Backbone, tolerance: float = 1e-4) -> float:
    """max |mean_i s_i + bias - logit| / max |logit| on a fixed probe batch; refuses a head that is not mean, then linear."""
    if backbone.head is None:
        return 0.0
    images = torch.randn(2, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    maps = backbone.encode(images)
    own = backbone.rest(maps)
    residual = float((backbone.head(maps.flatten(2).mT).mean(1) - own).abs().max() / own.abs().max().clamp_min(1e-9))
    if not residual <= tolerance:
        raise ValueError(
            f"the classifier of {backbone.name} is not a mean followed by its linear layer: class scores miss the logits by "
            f"{residual:.2g}; check `head` and `stages.last` of its yaml"
        )
    return residual


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 has instructions of its own here; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, bool) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return device.type == "cpu" and any(check() for check in checks)


def digest(net: nn.Module, weights: str) -> str:
    if weights == "random":
        return "random"
    hasher = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        hasher.update(name.encode())
        hasher.update(tensor.contiguous().numpy())
    return hasher.hexdigest()


def fill(net: nn.Module, weights: str, name: str) -> None:
    """Weights from a file into a network; "random" leaves what the seed gave."""
    if weights == "random":
        return
    state = read_weights(Path(weights))
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        complaints = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        shown = complaints if len(complaints) <= 200 else f"{complaints[:200]} ..."
        raise ValueError(f"the weights {weights} do not fit {name}: {shown}; give a file saved from this architecture") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, .pth or .pt; never runs code from the file."""
    if not path.is_file():
        raise ValueError(f"no weights file {path}; give an existing .safetensors or .pth file, an enum name, or random")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        blame = (
            "holds pickled objects beside tensors, which could run code"
            if isinstance(error, pickle.UnpicklingError)
            else "is damaged or cut short"
        )
        raise ValueError(f"{path} {blame}, and was not loaded; save a plain state_dict, best as .safetensors") from None
    for key in ("state_dict", "model"):
        loaded = loaded.get(key, loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} does not hold a state dict (names -> tensors) but {type(loaded).__name__}; save model.state_dict()")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def downloaded(enum: Any, name: str) -> dict[str, Tensor]:
    try:
        return enum.get_state_dict(progress=True, check_hash=True)
    except OSError as error:  # URLError is one
        file = enum.url.rsplit("/", 1)[-1]
        raise ValueError(
            f"could not download {enum} ({error}); offline, put {file} into {Path(torch.hub.get_dir()) / 'checkpoints'}, "
            f"or give a file with backbone.weights=FILE, or use backbone=embedded"
        ) from None
