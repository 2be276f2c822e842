"""What a classifier asks of the patches: for every class a query whose mean score, with a constant, is the class's logit - or nearly.

A certificate says how nearly.  Only where it is exact may a map of the scores be called a class activation map (CAM, Zhou et al. 2016).
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnvis.backbone.cutting import Rest, first_line, quietly
from attnvis.types import Head

__all__ = [
    "Certificate",
    "FrozenNorm",
    "Gated",
    "Gradient",
    "Linear",
    "certify",
    "conv_relu",
    "gradient",
    "layer_norm",
    "linear",
    "moved",
]

EXACT = 1e-4  # relative


@dataclass(frozen=True, eq=False)
class Linear(Head):
    """The mean patch, then one linear layer: q_c = weight_c, constant bias_c."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    categories: tuple[str, ...] = ()
    kind = "linear"

    def logits(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        return self(maps.flatten(2).mean(2))

    def ask(
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        return self.weight.to(maps)[classes], self.bias.to(maps)[classes]

    def __call__(self, tokens: Float[Tensor, "... D"]) -> Float[Tensor, "... C"]:
        return tokens @ self.weight.to(tokens).T + self.bias.to(tokens)


@dataclass(frozen=True, eq=False)
class FrozenNorm(Head):
    """The mean patch g, LayerNorm, then one linear layer, as in ConvNeXt: exact once the norm's divisor is held at what it is here.

    logit_c = w_c . (gamma (g - mean g) / sigma(g) + beta) + b_c, and g - mean g is linear in the patches: q_c = P(gamma w_c) / sigma(g)
    with P = I - 11'/D.  The gradient's query would give maps whose mean is 0: LayerNorm does not change when g is scaled (Euler).
    """

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    scale: Float[Tensor, " D"]
    shift: Float[Tensor, " D"]
    eps: float
    categories: tuple[str, ...] = ()
    kind = "layer_norm"

    def logits(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        mean = maps.flatten(2).mean(2)
        normed = nn.functional.layer_norm(
            mean, mean.shape[1:], self.scale.to(maps), self.shift.to(maps), self.eps
        )
        return normed @ self.weight.to(maps).T + self.bias.to(maps)

    def ask(
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        rows, bias = self.weight.to(maps)[classes], self.bias.to(maps)[classes]
        sigma = (maps.flatten(2).mean(2).var(1, correction=0) + self.eps).sqrt()
        scaled = rows * self.scale.to(maps)
        return (scaled - scaled.mean(1, keepdim=True)) / sigma.unsqueeze(1), rows @ self.shift.to(maps) + bias


@dataclass(frozen=True, eq=False)
class Gated(Head):
    """A 1x1 convolution, ReLU, then the mean, as in SqueezeNet: logit_c = mean_i relu(w_c . v_i + b_c).  Scores are before the ReLU."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    categories: tuple[str, ...] = ()
    kind = "conv_relu"

    def logits(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        return (maps.flatten(2).mT @ self.weight.to(maps).T + self.bias.to(maps)).relu().mean(1)

    def ask(
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        return self.weight.to(maps)[classes], self.bias.to(maps)[classes]

    def evidence(self, scores: Float[Tensor, "B N"], constants: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (scores + constants.unsqueeze(1)).relu().mean(1)


@dataclass(frozen=True, eq=False)
class Gradient(Head):
    """Any classifier, nearly: q_c = sum_i d logit_c / d v_i, Grad-CAM's weights times N; the constant is the logit of maps that are all 0.

    Exact where everything after the maps is linear and takes them by their mean; else a linearisation at this photo.
    """

    rest: Rest
    categories: tuple[str, ...] = ()
    kind = "gradient"

    @torch.no_grad()
    def logits(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        return self.rest(maps)

    @torch.inference_mode(False)
    def ask(
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        with torch.enable_grad():
            inputs = maps.clone().requires_grad_()
            slope = torch.autograd.grad(
                self.rest(inputs).gather(1, classes.clone().unsqueeze(1)).sum(), inputs
            )[0]
        nothing = self.logits(torch.zeros_like(inputs[:1]))[0]
        return slope.sum((2, 3)), nothing[classes.to(nothing.device)]


def moved(head: Head, device: torch.device) -> Head:
    """With its tensors on a device; layers move with their network."""
    found = {field.name: getattr(head, field.name) for field in fields(head)}  # type: ignore[arg-type]
    return replace(
        head, **{name: value.to(device) for name, value in found.items() if isinstance(value, Tensor)}
    )  # type: ignore[type-var]


# What a yaml names: `linear:fc` -> linear(net, rest, "fc").
def linear(net: nn.Module, rest: Rest, layer: str) -> Head:
    """layer: the nn.Linear that reads the mean patch."""
    found: Any = net.get_submodule(layer)
    return Linear(found.weight.detach(), found.bias.detach())


def layer_norm(net: nn.Module, rest: Rest, norm: str, layer: str) -> Head:
    """norm: the LayerNorm of the mean patch; layer: the nn.Linear that reads it."""
    normed: Any = net.get_submodule(norm)
    found: Any = net.get_submodule(layer)
    return FrozenNorm(
        found.weight.detach(),
        found.bias.detach(),
        normed.weight.detach(),
        normed.bias.detach(),
        float(normed.eps),
    )


def conv_relu(net: nn.Module, rest: Rest, layer: str) -> Head:
    """layer: the 1x1 convolution that a ReLU and the mean follow."""
    found: Any = net.get_submodule(layer)
    return Gated(found.weight.detach().flatten(1), found.bias.detach())


def gradient(net: nn.Module, rest: Rest) -> Head:
    return Gradient(rest)


# -------------------------------------------------------------------------------------------------------------- certificate


@dataclass(frozen=True)
class Certificate:
    """max |mean_i s_i + constant - logit| over noise and classes: absolute, and relative to the largest |logit - constant|."""

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


def certify(head: Head, maps: Float[Tensor, "B D h w"], truth: Float[Tensor, "B C"]) -> Certificate:
    """What a head says of maps, beside what the network itself said: of its best and worst classes, and of some between."""
    order, count = truth[0].argsort(), 3 if head.kind == "gradient" else 9  # gradients take their time
    missed, evidence = [torch.zeros((), dtype=torch.float64)], 0.0
    for index in order[torch.linspace(0, len(order) - 1, count).long()].unique().tolist():
        vectors, constants = head.ask(maps, torch.full((len(maps),), index, device=maps.device))
        scores = (vectors.unsqueeze(1) @ maps.flatten(2)).squeeze(1)
        missed.append((head.evidence(scores, constants) - truth[:, index]).abs().max().double().cpu())
        evidence = max(evidence, float((truth[:, index] - constants).abs().max()))
    worst = float(torch.stack(missed).max())  # NaN stays NaN, and is not exact
    return Certificate(head.kind, worst, worst / max(evidence, 1e-9))


# --------------------------------------------------------------------------------------------------- heads of a network, by name


CLASS_NAMES = {"imagenet": Path(__file__).with_name("imagenet_classes.txt")}

KINDS: dict[str, Callable[..., Head]] = {
    "linear": linear,
    "layer_norm": layer_norm,
    "conv_relu": conv_relu,
    "gradient": gradient,
}


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
        raise ValueError(
            f"head {head}: {first_line(error)}; name layers of the network, as in linear:fc, or use head=gradient"
        ) from None
    return replace(made, categories=tuple(categories))


def class_names(categories: Sequence[str] | str) -> tuple[str, ...]:
    """A list of names, or the list that a word stands for.  Raises ValueError for a word that stands for none."""
    if not isinstance(categories, str):
        return tuple(str(name) for name in categories)
    if categories not in CLASS_NAMES:
        raise ValueError(
            f"categories: {categories!r} is no list of names; give one, or {', '.join(CLASS_NAMES)}"
        )
    return tuple(CLASS_NAMES[categories].read_text(encoding="utf-8").splitlines())


@torch.inference_mode()
def certified(
    made: Sequence[Head | None], trunk: nn.Module, rests: Sequence[Rest], net: nn.Module, name: str, size: int
) -> list[Certificate | None]:
    """How nearly each head says what the network says; refuses one that was given as exact and is not."""
    found: list[Certificate | None] = []
    for number, head in enumerate(made):
        if head is None:
            found.append(None)
            continue
        maps, truth = noise(trunk, net, number, size, exact=head.kind != "gradient")
        if head.categories and len(head.categories) != truth.shape[1]:
            raise ValueError(
                f"categories has {len(head.categories)} names and {name} has {truth.shape[1]} classes; name each, or none"
            )
        lively = torch.randn(
            maps.shape, generator=torch.Generator().manual_seed(1)
        ).abs()  # random networks may give next to nothing
        try:
            certificate = certify(head, torch.cat([maps, lively]), torch.cat([truth, rests[number](lively)]))
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the classifier of {name} is not what head says ({head.kind}: {first_line(error)}); "
                "name its layers right, or use head=gradient"
            ) from None
        if head.kind != "gradient" and not certificate.exact:
            raise ValueError(
                f"the classifier of {name} is not what head says ({head.kind}): class scores miss the logits by "
                f"{certificate.relative:.2g}; name its layers right, or use head=gradient"
            )
        found.append(certificate)
    return found


def noise(trunk: nn.Module, net: nn.Module, number: int, size: int, exact: bool) -> tuple[Tensor, Tensor]:
    """Maps of a layer on noise, and the logits; of small pictures where that makes no difference, as it may to an approximation."""
    sides = (97, size) if exact else (min(size, 224),)
    for side in sides[:-1]:
        with (
            contextlib.suppress(RuntimeError, AssertionError, ValueError),
            quietly(),
        ):  # a network of one size only
            return both(trunk, net, number, side)
    return both(trunk, net, number, sides[-1])


def both(trunk: nn.Module, net: nn.Module, number: int, side: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return trunk(images)[number], net(images)
