"""A head and its network in, how nearly the mean class score plus a constant is the logit out.

Only where it is exact may a map of the scores be called a class activation map (CAM, Zhou et al. 2016).
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.backbone.cutting import CutNetwork, without_stderr
from attnvis.errors import first_line
from attnvis.types import Head

__all__ = ["Certificate", "certify", "certify_all"]

EXACT = 1e-4  # relative


@dataclass(frozen=True)
class Certificate:
    """max |mean_i s_i + constant - logit| over noise and classes.

    Absolute, and relative to the largest |logit - constant|.
    """

    kind: str
    absolute: float
    relative: float

    @property
    def exact(self) -> bool:
        return self.relative < EXACT

    def __str__(self) -> str:
        if self.exact:
            return f"exact, a class activation map ({self.kind} head, certificate {self.relative:.0e})"
        share = f"{self.relative:.0%}" if self.relative < 10 else f"{self.relative:.0f} times"
        missed = f"misses the logit by up to {self.absolute:.2g}, {share} of the largest"
        return f"approximate, by the {self.kind}: on noise the mean score {missed}"


def certify(head: Head, maps: Float[Tensor, "B D h w"], logits: Float[Tensor, "B C"]) -> Certificate:
    """Class scores beside the network's logits of these maps: its best and worst classes, and others."""
    order = logits[0].argsort()
    count = 3 if head.kind == "gradient" else 9  # gradients take their time
    classes = order[torch.linspace(0, len(order) - 1, count).long()].unique().tolist()
    errors, evidence = [torch.zeros((), dtype=torch.float64)], 0.0
    for index in classes:
        vectors, constants = head.ask(maps, torch.full((len(maps),), index, device=maps.device))
        scores = (vectors.unsqueeze(1) @ maps.flatten(2)).squeeze(1)
        errors.append((head.evidence(scores, constants) - logits[:, index]).abs().max().double().cpu())
        evidence = max(evidence, float((logits[:, index] - constants).abs().max()))
    worst = float(torch.stack(errors).max())  # NaN stays NaN, and is not exact
    return Certificate(head.kind, worst, worst / max(evidence, 1e-9))


@torch.inference_mode()
def certify_all(
    heads: Sequence[Head | None], network: CutNetwork, size: int
) -> tuple[Certificate | None, ...]:
    """How nearly each layer's head gives the network's own logits; None where there is no head.

    size: of the input, its short side in pixels.  Raises ValueError for a head that was given as exact and is
    not, and for names that are not as many as the classes.
    """
    numbered = enumerate(heads)
    passes = Passes(network)
    return tuple(
        None if head is None else certify_layer(head, network, number, size, passes)
        for number, head in numbered
    )


def certify_layer(head: Head, network: CutNetwork, number: int, size: int, passes: "Passes") -> Certificate:
    exact = head.kind != "gradient"
    maps, logits, prefix = passes.on_noise(number, size, small=exact)
    if head.categories and len(head.categories) != logits.shape[1]:
        raise ValueError(
            f"categories has {len(head.categories)} names and {network.name} has {logits.shape[1]} classes; "
            "name each, or none"
        )
    # Random networks may give next to nothing: these maps are lively.
    lively = torch.randn(maps.shape, generator=torch.Generator().manual_seed(1)).abs()
    advice = "name its layers right, or use head=gradient"
    try:
        lively_logits = network.rest_beside(number, prefix)(lively)
        if prefix is not None:
            head = head.beside(torch.cat([prefix, prefix]))
        certificate = certify(head, torch.cat([maps, lively]), torch.cat([logits, lively_logits]))
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"the classifier of {network.name} is not what head says "
            f"({head.kind}: {first_line(error)}); {advice}"
        ) from None
    if exact and not certificate.exact:
        raise ValueError(
            f"the classifier of {network.name} is not what head says ({head.kind}): "
            f"class scores miss the logits by {certificate.relative:.2g}; {advice}"
        )
    return certificate


class Passes:
    """A network's answers to noise, layer after layer: layers at one size of the pictures share a pass."""

    def __init__(self, network: CutNetwork) -> None:
        self.network = network
        self.side = 0  # of the pictures of the last pass; 0: there was none
        self.layers: list[Tensor] = []
        self.prefixes: list[Tensor | None] = []
        self.logits = torch.empty(0)

    def on_noise(
        self, number: int, size: int, small: bool
    ) -> tuple[Float[Tensor, "2 D h w"], Float[Tensor, "2 C"], Float[Tensor, "2 P D"] | None]:
        """Maps of a layer on noise, the logits, and tokens beside the maps that are no patches.

        small: of small pictures, where the network takes them; an approximation may depend on the size.
        """
        side = 97 if small else min(size, 224)
        if side == size:
            return self.maps_and_logits(number, size)
        with contextlib.suppress(RuntimeError, AssertionError, ValueError), without_stderr():
            return self.maps_and_logits(number, side)
        return self.maps_and_logits(number, size)  # a network of one size, or of multiples

    def maps_and_logits(self, number: int, side: int) -> tuple[Tensor, Tensor, Tensor | None]:
        if side != self.side:
            self.side = 0  # a pass that fails is none
            images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
            self.layers, self.prefixes = self.network.split(self.network.trunk(images))
            self.logits = self.network.net(images)
            self.side = side
        return self.layers[number], self.logits, self.prefixes[number]
