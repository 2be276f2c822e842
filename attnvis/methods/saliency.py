"""What a method may look at in, its raw maps out; and what makes of such a method one like any other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.spec import format_function
from attnvis.methods.answer import Answer, predictions
from attnvis.methods.attention import Encoder
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Batch, ClassScore, Features, PhotoError, Placement, Preprocessing

__all__ = ["Inputs", "MapFunction", "Network", "RawMaps", "SaliencyMethod", "as_weights"]


@runtime_checkable
class Network(Protocol):
    """What methods ask of a backbone beside its features: gradients, hidden parts, other weights."""

    def __hash__(self) -> int: ...

    @property
    def network(self) -> Any:
        """A `CutNetwork`: net, images -> logits; trunk, images -> maps of every layer."""

    @property
    def device(self) -> torch.device: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def __call__(self, batch: Batch) -> tuple[Features, ...]: ...

    def with_random_weights(
        self, seed: int, images: Float[Tensor, "B 3 H W"]
    ) -> tuple["Network", list[str]]: ...


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a method may look at; what several methods look at is computed once.

    encoder   gives the features: the backbone, or a cache in its place
    backbone  the network itself, for what no features tell: gradients of the input, hidden parts
    """

    batch: Batch
    encoder: Encoder
    backbone: Network

    @cached_property
    def layers(self) -> tuple[Features, ...]:
        return self.encoder(self.batch)

    @cached_property
    def images(self) -> Float[Tensor, "B 3 H W"]:
        """Where the network is."""
        return self.batch.images.to(self.backbone.device)

    def network(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """The class logits, in float32."""
        return self.backbone.network.net(images).float()


@dataclass(frozen=True, eq=False)
class RawMaps:
    """One map over each photo of a batch, as the method's formula gives it: of any sign and sum."""

    values: Float[Tensor, "B N"]
    placements: tuple[Placement, ...]
    labels: tuple[str, ...]  # of each photo
    layer: str = ""  # "": of no layer
    classes: tuple[ClassScore, ...] = ()  # of each photo, where a class was asked for


MapFunction = Callable[[Inputs], list[RawMaps]]  # settings are further arguments; of every layer one entry


def as_weights(values: Float[Tensor, "... N"]) -> Float[Tensor, "... N"]:
    """Not negative, and of sum 1, with the order of the values kept.

    A map that goes below 0 is lifted by its smallest value, and one that is 0 everywhere says nothing, which
    is uniform: pysaliency's way from a saliency map to a density.
    """
    values = values.double()
    lifted = values - values.amin(-1, keepdim=True).clamp_max(0)
    total = lifted.sum(-1, keepdim=True)
    return torch.where(total > 0, lifted / total.clamp_min(1e-300), 1 / values.shape[-1])


@dataclass(frozen=True)
class SaliencyMethod:
    """A formula for raw maps, and the network that it looks into: Batch -> for each photo its answers."""

    encoder: Encoder
    backbone: Network
    function: MapFunction

    @property
    def text(self) -> str:
        """As it is typed: gradcam:tabby."""
        return format_function(self.function)

    def __call__(self, batch: Batch) -> list[list[Answer]]:
        """Raises PhotoError where a map is not finite, ValueError where this network cannot be asked so."""
        inputs = Inputs(batch, self.encoder, self.backbone)
        maps = self.function(inputs)
        of_classes = any(of_layer.classes for of_layer in maps)
        predicted = predictions(inputs.layers) if of_classes else [()] * len(batch.photos)
        answers: list[list[Answer]] = [[] for _ in batch.photos]
        for of_layer in maps:
            require_finite_maps(of_layer.values, batch, self.text)
            weights = as_weights(of_layer.values).cpu()
            numbers = diagnose(weights)
            ending = f", {of_layer.layer}" if len(maps) > 1 else ""
            for photo, placement in enumerate(of_layer.placements):
                answer = Answer(
                    query=self.text,
                    label=of_layer.labels[photo] + ending,
                    weights=weights[photo].float(),
                    placement=placement,
                    diagnostics={name: float(values[photo]) for name, values in numbers.items()},
                    layer=of_layer.layer,
                    class_score=of_layer.classes[photo] if of_layer.classes else None,
                    predicted=predicted[photo],
                )
                answers[photo].append(answer)
        return answers


def require_finite_maps(values: Float[Tensor, "B N"], batch: Batch, method: str) -> None:
    """Raises PhotoError that names the first photo whose map holds NaN or infinity."""
    counts: Sequence[int] = (~values.isfinite()).sum(-1).tolist()
    for photo, count in zip(batch.photos, counts, strict=True):
        if count:
            raise PhotoError(f"{photo.name}: {count} of {values.shape[-1]} values of {method} are not finite")
