"""A batch of photos in, patch features out: a cut network, its heads, its cells, its engine."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnvis import geometry
from attnvis.backbone.cells import CellGeometry
from attnvis.backbone.certificates import Certificate
from attnvis.backbone.cutting import CutNetwork, SelectLayer
from attnvis.backbone.engines import Engine
from attnvis.backbone.pace import PaceBook, Workload
from attnvis.backbone.weights import draw_anew, relearn_statistics
from attnvis.types import Batch, Features, Head, Preprocessing, Provenance

__all__ = ["Backbone"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Backbone:
    """A network cut at one layer, or at several in one pass.  Call it with a Batch.

    Made of finished parts; `build_backbone` makes them of any network.

    network        images -> maps -> logits, in float32
    weights        where they come from, for the records
    digest         of their values; "random": nothing was learned
    heads          what the classifier asks of each layer, on the engine's device; None: there is none
    certificates   how nearly each head gives the network's logits
    cells          where on the input the cells of each layer lie
    engine         what computes the maps, on its device and in its precision
    preprocessing  what the network was trained with
    step           sides of the input that suit its padding are `preprocessing.size` plus a multiple of this;
                   None: any side does
    notes          of the weights' file: where they lay, what was left over or missing, a sentence each
    cell_notes     of a network of tokens: which are its cells, and which were left out
    renew          of a network of one's own: the same settings for what it has learned since
    """

    network: CutNetwork
    weights: str
    digest: str
    heads: tuple[Head | None, ...]
    certificates: tuple[Certificate | None, ...]
    cells: CellGeometry
    engine: Engine
    preprocessing: Preprocessing
    step: int | None = None
    notes: tuple[str, ...] = ()
    cell_notes: tuple[str, ...] = ()
    renew: Callable[[nn.Module], "Backbone"] | None = None

    def __new__(cls, *arguments: object, **parts: object) -> "Backbone":
        """Raises TypeError for a call that made a backbone of a network before `build_backbone` did."""
        if arguments or "net" in parts:
            raise TypeError(
                "Backbone(net, ...) is now build_backbone(net, ...), with the same arguments: "
                "attnvis.build_backbone, in a config _target_: attnvis.backbone.build_backbone"
            )
        return super().__new__(cls)

    def refreshed(self, net: nn.Module) -> "Backbone":
        """A snapshot of a network of one's own as it is now, with the settings of this one.

        Raises ValueError for a backbone that `build_backbone` did not make, and as that does.
        """
        if self.renew is None:
            raise ValueError(
                f"{self.name} was loaded by name and does not change; refreshed() is for what "
                "attnvis.build_backbone(net) makes"
            )
        return self.renew(net)

    def __repr__(self) -> str:
        snapshot = "" if self.renew is None else ", a snapshot (refreshed(net) makes the next)"
        return f"<{self.name}, layer {self.layer}, weights {self.weights}, on {self.device}{snapshot}>"

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> tuple[Features, ...]:
        """The features of each layer, from one pass."""
        layers, prefixes = self.network.split(self.engine.run(batch.images))
        return tuple(
            self.features(maps, number, batch, prefix)
            for number, (maps, prefix) in enumerate(zip(layers, prefixes, strict=True))
        )

    def features(
        self,
        maps: Float[Tensor, "B D h w"],
        number: int,
        batch: Batch,
        prefix: Float[Tensor, "B P D"] | None = None,
    ) -> Features:
        """One layer's maps as features: without the cells that only see the bars of a letterbox."""
        grid = (maps.shape[2], maps.shape[3])
        placements = [
            self.cells.on_photo(view, grid, photo.size, number)
            for view, photo in zip(batch.views, batch.photos, strict=True)
        ]
        rows, columns = geometry.visible_cells(placements[0])
        maps = maps[:, :, rows, columns]
        head = self.head_beside(number, prefix)
        # An earlier layer's logits cost the rest of the network.
        logits, ask = head.read(maps) if head and self.network.ends[number] else (None, None)
        features = Features(
            tokens=maps.flatten(2).mT.contiguous(),  # [B, D, h, w] -> [B, N, D], patch i = row * w + column
            grid=(maps.shape[2], maps.shape[3]),
            placements=tuple(geometry.crop_grid(placement, rows, columns) for placement in placements),
            head=head,
            logits=None if logits is None else logits.float(),
            names=tuple(photo.name for photo in batch.photos),
            layer=self.layers[number],
            prefix=prefix,
        )
        object.__setattr__(features, "ask", ask)
        return features

    def head_beside(self, number: int, prefix: Float[Tensor, "B P D"] | None) -> Head | None:
        """A layer's head, which reads the photos' tokens that are no patches too, where there are any."""
        head = self.heads[number]
        return head if head is None or prefix is None else head.beside(prefix)

    def prepare(
        self,
        photos: int,
        workers: int = 1,
        sample: Batch | None = None,
        batch_size: int = 8,
        book: PaceBook | None = None,
    ) -> None:
        """Start the engine for so many photos, threads and photos at a time.

        On `sample`, the first photos, it is timed and compared with eager float32; `book` has what was timed
        before.  Raises ValueError where the engine that was asked for cannot run here.
        """
        work = Workload(
            photos,
            workers=workers,
            batch=batch_size,
            images=None if sample is None else sample.images,
            head=self.heads[-1] if self.network.ends[-1] and not self.network.has_tokens else None,
            network=f"{self.name} {self.digest} {self.layer}",
        )
        self.engine.prepare(work, book)

    def go_on(self, begun: Provenance, workers: int = 1) -> str:
        """Run as the run did that goes on now: with its engine, in its precision; in place of `prepare`.

        Gives what is to be said where that engine is not to be had any more.
        """
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(begun.precision)
        return self.engine.go_on(begun.engine, dtype, workers)

    @torch.inference_mode()
    def classify(self, maps: Float[Tensor, "B D h w"], number: int = 0) -> Float[Tensor, "B C"]:
        """The logits of maps put in place of a layer's own: the seed note's V' instead of V."""
        return self.network.rests[number](maps.to(self.device, torch.float32))

    @property
    def encode(self) -> nn.Module:
        """Images [B, 3, H, W] -> maps [B, D, h, w] of the first layer, in the engine's precision."""
        return SelectLayer(self.engine.eager, -len(self.layers))

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def layers(self) -> tuple[str, ...]:
        return self.network.layers

    @property
    def layer(self) -> str:
        """All layers in one word."""
        return "+".join(self.layers)

    @property
    def head(self) -> Head | None:
        """Of the first layer."""
        return self.heads[0]

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """In which the network is computed; features are float32."""
        return self.engine.dtype

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was found when it was loaded: in the file of its weights, and among its tokens."""
        return (*self.notes, *self.cell_notes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the network, at any size of the input."""
        if self.digest == "random":
            return ("random weights: nothing was learned, the maps mean nothing",)
        return ()

    def warnings_at(self, how: Preprocessing) -> tuple[str, ...]:
        """Of the network, and of the size of the input.

        A network whose padding depends on the side (TensorFlow's) was trained at one remainder only.
        """
        own, side = self.preprocessing.size, how.size
        if self.step is None or (side - own) % self.step == 0:
            return self.warnings
        right = own + max(0, round((side - own) / self.step)) * self.step
        off_size = (
            f"{self.name} was made for sides of {own} plus a multiple of {self.step} px, not {side}: "
            f"preprocess.size={right} suits it"
        )
        return (*self.warnings, off_size)

    def class_caution(self, how: Preprocessing) -> str:
        """What to say of class scores at this size of the input; "" at the classifier's own."""
        own = self.preprocessing.size
        if how.size == own:
            return ""
        return f"class scores at {how.size} px: the classifier was tested at {own} px"

    def describe(self, how: Preprocessing | None = None) -> Provenance:
        """For records and pages; with the input's fit and size where `how` is given."""
        certificates = [str(each or "none: there is no classifier") for each in self.certificates]
        return Provenance(
            backbone=self.name,
            weights="; ".join((self.weights, *self.notes)),
            weights_digest=self.digest,
            layer=self.layer,
            precision=str(self.dtype).removeprefix("torch."),
            engine=str(self.engine),
            device=str(self.device),
            placement="; ".join((self.cells.describe(self.preprocessing.size), *self.cell_notes)),
            class_scores="; ".join(certificates),
            fit=how.fit if how else "",
            size=str(how.size) if how else "",
            class_size=self.class_caution(how) if how else "",
        )

    def with_random_weights(
        self, seed: int, images: Float[Tensor, "B 3 H W"]
    ) -> tuple["Backbone", list[str]]:
        """This network with every layer's weights drawn anew; the names of the parameters that could not be.

        A layer is drawn by its own `reset_parameters`; what has none stays as it was learned.  Batch norm
        takes its statistics from `images`: without, maps die out with depth.  It has no classifier, and its
        cells are placed by geometry.
        """
        net = copy.deepcopy(self.network.net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unchanged = draw_anew(net)
        network = self.network.applied_to(net)
        relearn_statistics(network.trunk, images.to(self.device))
        none = tuple(None for _ in self.layers)
        control = replace(
            self,
            network=network,
            weights="random",
            digest="random",
            notes=(),
            heads=none,
            certificates=none,
            cells=CellGeometry(self.cells.trunk, "rf", none),
            engine=Engine(network.trunk, self.device, self.dtype, "eager"),
        )
        return control, unchanged
