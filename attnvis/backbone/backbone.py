"""A batch of photos in, patch features out: an EfficientNet-Lite, any CNN of torchvision or timm, or a network of your own.

A backbone is cut in two at the chosen layer: `encode` (images -> maps) and `rest` (maps -> logits).
"""

import copy
import threading
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnvis import geometry
from attnvis.backbone import calibration, engines, heads, receptive_field
from attnvis.backbone.cutting import (
    STRIDES,
    Cut,
    Rest,
    SelectLayer,
    by_stride,
    channels_first,
    channels_last_memory,
    cut_nodes,
    depth,
    divide,
    nodes_of,
    pick,
    quietly,
    slices,
)
from attnvis.backbone.engines import agreement, folded, resolve_device
from attnvis.backbone.heads import ask, certified, class_names
from attnvis.backbone.weights import digest, fill, redrawn, relearn_statistics
from attnvis.types import Batch, Features, Head, Preprocessing

__all__ = ["Backbone"]

PLACEMENTS = ("auto", "rf", "calibrated", "stretch")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of its pixels

STARTING, PROBING = (
    threading.Lock(),
    threading.Lock(),
)  # an engine, a network's reach: once, however many threads ask


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
        self.layers = (
            tuple(sorted(known, key=depth))
            if layer == "all"
            else (layer,)
            if isinstance(layer, str)
            else tuple(layer)
        )
        if len(set(self.layers)) != len(self.layers) or not self.layers:
            raise ValueError(f"layers {list(self.layers)}: give at least one, and none twice")
        self.nodes = tuple(pick(one, known, self.name, names) for one in self.layers)
        self.divide = cut or divide
        trunk, self.rests = channels_first(*self.divide(net, self.nodes), self.layers, self.name)
        self.trunk = trunk.eval()  # images -> maps, layer by layer
        asked = [
            head if node == known.get("last", node) else "gradient" if head != "none" else "none"
            for node in self.nodes
        ]
        self.reads = [
            node == known.get("last", node) for node in self.nodes
        ]  # earlier layers' logits cost the rest of the network
        made = [
            ask(net, rest, one, class_names(categories)) for rest, one in zip(self.rests, asked, strict=True)
        ]
        self.certificates = certified(made, self.trunk, self.rests, net, self.name, self.preprocessing.size)
        self.device, self.dtype = resolve_device(device, precision)
        self._reaches: dict[tuple[int, int, int], geometry.ReceptiveField | None] = {}
        self.unplaced = ""  # why the cells could not be probed
        self.shift = tuple(
            self.shift_of(node) for node in self.nodes
        )  # per layer; None: none is known, or none is wanted
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
        self.run = (
            None
            if engine == "eager"
            else engines.start(engine, folded(self.probed), self.dtype, self.device, workers)
        )
        said = [f"auto: {reason}"] if reason else []
        if sample is not None and (engine, self.dtype) != ("eager", torch.float32):
            exact = folded(self.probed).to(self.device)
            said.append(agreement(self.run or self.trunk, exact, sample.images.to(self.device), self.dtype))
        self.engine, self.said, self.ready = engine, "; ".join(said), True

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> tuple[Features, ...]:
        """What each layer says, from one pass."""
        if not self.ready:
            with STARTING:
                if not self.ready:
                    self.prepare(1, torch.get_num_threads())
        run = self.run or self.trunk
        images = batch.images.to(self.device, self.dtype, memory_format=torch.channels_last)
        return tuple(self.features(number, maps.float(), batch) for number, maps in enumerate(run(images)))

    def features(self, number: int, maps: Tensor, batch: Batch) -> Features:
        grid = (maps.shape[2], maps.shape[3])
        whole = [
            geometry.place_grid(
                view,
                self.receptive_field_on(view.size, number) or geometry.stretch(view, grid),
                grid,
                photo.size,
                self.source(number),
            )
            for view, photo in zip(batch.views, batch.photos, strict=True)
        ]
        rows, columns = geometry.visible_cells(whole[0])
        seen, head = (
            maps[:, :, rows, columns],
            self.heads[number],
        )  # the bars of a letterbox are asked nothing, and say nothing of classes
        return Features(
            tokens=seen.flatten(2).mT.contiguous(),  # [B, D, h, w] -> [B, N, D], patch i = row * w + column
            grid=(seen.shape[2], seen.shape[3]),
            placements=tuple(geometry.crop_grid(placement, rows, columns) for placement in whole),
            head=head,
            logits=head.logits(seen).float() if head and self.reads[number] else None,
            names=tuple(photo.name for photo in batch.photos),
            layer=self.layers[number],
        )

    @torch.inference_mode()
    def classify(self, maps: Float[Tensor, "B D h w"], number: int = 0) -> Float[Tensor, "B C"]:
        """The rest of the network on maps put in place of its own: the seed note's V' instead of V."""
        return self.rests[number](maps.to(self.device, torch.float32))

    def receptive_field_on(self, size: tuple[int, int], number: int = 0) -> geometry.ReceptiveField | None:
        """Where the cells of a layer lie on an input of (height, width), probed once; None: stretched."""
        if self.placement == "stretch":
            return None
        key = (number, size[0] % 64, size[1] % 64)
        with PROBING:
            return self.probed_on(key, size, number)

    def probed_on(
        self, key: tuple[int, int, int], size: tuple[int, int], number: int
    ) -> geometry.ReceptiveField | None:
        if key not in self._reaches:
            try:
                with quietly():
                    reach = receptive_field.probe(SelectLayer(self.geometry, number), size)
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
        return SelectLayer(self.trunk, 0)

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
        return (
            ("random weights: nothing was learned, the maps mean nothing",) if self.digest == "random" else ()
        )

    def warnings_at(self, how: Preprocessing) -> tuple[str, ...]:
        """Of the network, and of the size of the input."""
        off_size = self.size_warning(how)
        return (*self.warnings, off_size) if off_size else self.warnings

    def describe(self) -> dict[str, str]:
        """For the run's record and page."""
        side = self.preprocessing.size
        places = [
            self.placed(self.receptive_field_on((side, side), number)) for number in range(len(self.layers))
        ]
        places = [
            f"{place}, {shift}" if shift else place for place, shift in zip(places, self.shift, strict=True)
        ]
        return {
            "backbone": self.name,
            "weights": self.weights,
            "weights digest": self.digest,
            "layer": self.layer,
            "precision": str(self.dtype).removeprefix("torch."),
            "engine": self.engine + (f" ({self.said})" if self.said else ""),
            "device": str(self.device),
            "placement": f"{self.placement}: {'; '.join(places)}",
            "class scores": "; ".join(
                str(one or "none: there is no classifier") for one in self.certificates
            ),
        }

    def calibratable(self, size: tuple[int, int]) -> list[float]:
        """The stride of every layer, in pixels of an input of (height, width); raises ValueError where the flip test would mean nothing."""
        if self.digest == "random":
            raise ValueError("random weights cannot be calibrated: nothing was learned; give trained weights")
        strides = []
        for number, layer in enumerate(self.layers):
            reach = self.receptive_field_on(size, number)
            if reach is None:
                reason = self.unplaced or f"placement={self.placement}"
                raise ValueError(
                    f"layer {layer} of {self.name} cannot be calibrated, for its cells could not be probed: {reason}"
                )
            strides.append(reach.stride[1])
        return strides

    def with_random_weights(
        self, seed: int, images: Float[Tensor, "B 3 H W"]
    ) -> tuple["Backbone", list[str]]:
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
        control.probed = channels_first(*self.divide(net, self.nodes), self.layers, self.name)[0].eval()
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
                raise ValueError(
                    "random weights have no calibrated placement: nothing was learned; use placement=rf"
                )
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
        return (
            {}
            if how.size == own
            else {"class size": f"class scores at {how.size} px: the classifier was tested at {own} px"}
        )

    def size_warning(self, how: Preprocessing) -> str:
        """What an input of that size costs; nothing where it is right.

        A network whose padding depends on the side (TensorFlow's) was trained at one remainder only.
        """
        own, side = self.preprocessing.size, how.size
        if self.step is None or (side - own) % self.step == 0:
            return ""
        right = own + max(0, round((side - own) / self.step)) * self.step
        return f"{self.name} was made for sides of {own} plus a multiple of {self.step} px, not {side}: preprocess.size={right} suits it"

    def placed(self, reach: geometry.ReceptiveField | None) -> str:
        if reach is None:
            return "stretched over the input" + (
                f", because the cells could not be probed ({self.unplaced})" if self.unplaced else ""
            )
        return f"cell i at {reach.offset[1]:.4g} + {reach.stride[1]:.4g} i px of the input"


# ------------------------------------------------------------------------------------------------------------------ cutting


def three(numbers: Sequence[float]) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(number) for number in numbers)
    except (TypeError, ValueError):
        raise ValueError(f"mean and std have three numbers, red, green and blue, not {numbers}") from None
    return red, green, blue
