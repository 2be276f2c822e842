"""What a classifier asks of the patches: for every class a query.

Its mean score, with a constant, is the class's logit - or nearly: see certificates.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnvis.backbone.cutting import Rest
from attnvis.errors import first_line
from attnvis.types import Ask, Head

__all__ = [
    "FrozenNorm",
    "Gated",
    "Gradient",
    "Linear",
    "build_head",
    "conv_relu",
    "gradient",
    "layer_norm",
    "linear",
    "to_device",
]


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
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"] | Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        return rows_for(classes, self.weight.to(maps)), rows_for(classes, self.bias.to(maps))

    def rows(self, maps: Float[Tensor, "1 D h w"]) -> Float[Tensor, "C D"]:
        return self.weight.to(maps)

    def before_mean(self, tokens: Float[Tensor, "*any N D"]) -> Float[Tensor, "*any N C"]:
        return self(tokens)  # each patch's own logits: their mean is the mean patch's

    def __call__(self, tokens: Float[Tensor, "... D"]) -> Float[Tensor, "... C"]:
        return tokens @ self.weight.to(tokens).T + self.bias.to(tokens)


@dataclass(frozen=True, eq=False)
class FrozenNorm(Head):
    """The mean patch g, LayerNorm, then one linear layer, as in ConvNeXt.

    Exact once the norm's divisor is held at what it is here.
    logit_c = w_c . (gamma (g - mean g) / sigma(g) + beta) + b_c, and g - mean g is linear in the patches:
    q_c = P(gamma w_c) / sigma(g) with P = I - 11'/D.  The gradient's query would give maps whose mean is 0:
    LayerNorm does not change when g is scaled (Euler).
    """

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    scale: Float[Tensor, " D"]
    shift: Float[Tensor, " D"]
    eps: float
    categories: tuple[str, ...] = ()
    kind = "layer_norm"

    def logits(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        return self.after_mean(maps.flatten(2).mean(2))

    def before_mean(self, tokens: Float[Tensor, "*any N D"]) -> Float[Tensor, "*any N D"]:
        return tokens

    def after_mean(self, means: Float[Tensor, "*any D"]) -> Float[Tensor, "*any C"]:
        """With the norm's divisor of this very mean."""
        normed = nn.functional.layer_norm(
            means, means.shape[-1:], self.scale.to(means), self.shift.to(means), self.eps
        )
        return normed @ self.weight.to(means).T + self.bias.to(means)

    def ask(
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"] | Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        rows, bias = rows_for(classes, self.weight.to(maps)), rows_for(classes, self.bias.to(maps))
        return self.centred(rows, maps), rows @ self.shift.to(maps) + bias

    def rows(self, maps: Float[Tensor, "1 D h w"]) -> Float[Tensor, "C D"]:
        return self.centred(self.weight.to(maps), maps)

    def centred(self, rows: Float[Tensor, "R D"], maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "R D"]:
        """The classifier's rows through the norm of these maps: R is B, or any number for one photo."""
        sigma = (maps.flatten(2).mean(2).var(1, correction=0) + self.eps).sqrt()
        scaled = rows * self.scale.to(maps)
        return (scaled - scaled.mean(1, keepdim=True)) / sigma.unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Gated(Head):
    """A 1x1 convolution, ReLU, then the mean, as in SqueezeNet: logit_c = mean_i relu(w_c . v_i + b_c).

    Scores are before the ReLU.
    """

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    categories: tuple[str, ...] = ()
    kind = "conv_relu"

    def logits(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        return self.before_mean(maps.flatten(2).mT).mean(1)

    def before_mean(self, tokens: Float[Tensor, "*any N D"]) -> Float[Tensor, "*any N C"]:
        return (tokens @ self.weight.to(tokens).T + self.bias.to(tokens)).relu()

    def ask(
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"] | Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        return rows_for(classes, self.weight.to(maps)), rows_for(classes, self.bias.to(maps))

    def rows(self, maps: Float[Tensor, "1 D h w"]) -> Float[Tensor, "C D"]:
        return self.weight.to(maps)

    def evidence(self, scores: Float[Tensor, "B N"], constants: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (scores + constants.unsqueeze(1)).relu().mean(1)


@dataclass(frozen=True, eq=False)
class Gradient(Head):
    """Any classifier, nearly: q_c = sum_i d logit_c / d v_i, Grad-CAM's weights times N.

    The constant is the logit of maps that are all 0.
    Exact where everything after the maps is linear and takes them by their mean; else a linearisation at this
    photo.
    """

    rest: Rest
    categories: tuple[str, ...] = ()
    constants: dict[tuple, Float[Tensor, "_ C"]] = field(default_factory=dict, repr=False)  # by kind of maps
    kind = "gradient"

    @torch.no_grad()
    def logits(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        return self.rest(maps)

    def ask(
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"] | Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        _, ask = self.read(maps)
        nothing = self.logits_of_nothing(maps).expand(len(maps), -1)
        return ask(classes), (as_shares(classes, nothing) * nothing).sum(1)

    def beside(self, prefix: Float[Tensor, "B P D"]) -> "Gradient":
        rest: Any = self.rest
        return replace(self, rest=rest.beside(prefix), constants={})

    @torch.inference_mode(False)
    def read(self, maps: Float[Tensor, "B D h w"]) -> tuple[Float[Tensor, "B C"], Ask]:
        """One pass; every question of it is a pass back."""
        with torch.enable_grad():
            inputs = maps.clone().requires_grad_()
            logits = self.rest(inputs)

        def ask(classes: Tensor) -> Tensor:
            with torch.inference_mode(False):
                chosen = as_shares(classes, logits)
                (slope,) = torch.autograd.grad(logits, inputs, chosen, retain_graph=True)
                return slope.sum((2, 3))

        return logits.detach(), ask

    def logits_of_nothing(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "_ C"]:
        """Of maps that are all 0: computed once for each size, kind and place of maps.

        Beside tokens of a photo's own they are the photo's.
        """
        is_photos = getattr(self.rest, "prefix", None) is not None
        maps = maps if is_photos else maps[:1]
        like = (maps.shape, maps.dtype, maps.device)
        if like not in self.constants:
            self.constants[like] = self.logits(torch.zeros_like(maps))
        return self.constants[like]


def as_shares(classes: Tensor, logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Of one class a photo its one-hot row; shares of all classes as they are, of the logits' kind."""
    if classes.is_floating_point():
        return classes.to(logits)
    return torch.zeros_like(logits).scatter(1, classes.to(logits.device).unsqueeze(1), 1.0)


def rows_for(classes: Tensor, rows: Float[Tensor, "C ..."]) -> Float[Tensor, "B ..."]:
    """One class's row per photo; or of shares of all classes, [B, C], the rows mixed in these shares."""
    return classes.to(rows) @ rows if classes.is_floating_point() else rows[classes]


def to_device(head: Head, device: torch.device) -> Head:
    """The same head with its tensors on a device; the layers that it calls move with their network."""
    values = {field.name: getattr(head, field.name) for field in fields(head)}  # type: ignore[arg-type]
    tensors = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(head, **tensors)  # type: ignore[type-var]


# What a yaml names: `linear:fc` -> linear(net, rest, "fc").
def linear(net: nn.Module, rest: Rest, layer: str) -> Head:
    """layer: the nn.Linear that reads the mean patch.  Raises AttributeError where it is none."""
    classifier: Any = net.get_submodule(layer)
    return Linear(*rows_of(net, classifier))


def layer_norm(net: nn.Module, rest: Rest, norm: str, layer: str) -> Head:
    """norm: the LayerNorm of the mean patch; layer: the nn.Linear that reads it.

    Raises AttributeError where they are none.
    """
    normaliser: Any = net.get_submodule(norm)
    classifier: Any = net.get_submodule(layer)
    weight, bias = rows_of(net, classifier)
    return FrozenNorm(
        weight=weight,
        bias=bias,
        scale=normaliser.weight.detach(),
        shift=normaliser.bias.detach(),
        eps=float(normaliser.eps),
    )


def rows_of(net: nn.Module, classifier: nn.Linear) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """The classifier's weights and bias, class by class; of one logit y, made two classes, -y/2 and y/2."""
    weight, bias = classifier.weight.detach(), classifier.bias.detach()
    if getattr(net, "has_one_logit", False):
        weight, bias = (torch.cat([-numbers / 2, numbers / 2]) for numbers in (weight, bias))
    return weight, bias


def conv_relu(net: nn.Module, rest: Rest, layer: str) -> Head:
    """layer: the 1x1 convolution that a ReLU and the mean follow.  Raises AttributeError where it is none."""
    convolution: Any = net.get_submodule(layer)
    return Gated(convolution.weight.detach().flatten(1), convolution.bias.detach())


def gradient(net: nn.Module, rest: Rest) -> Head:
    """Whatever follows the maps, by its gradient."""
    return Gradient(rest)


# -------------------------------------------------------------------------------- heads of a network, by name


KINDS: dict[str, Callable[..., Head]] = {
    "linear": linear,
    "layer_norm": layer_norm,
    "conv_relu": conv_relu,
    "gradient": gradient,
}


def build_head(
    head: str | Callable[[nn.Module, Rest], Head | None],
    net: nn.Module,
    rest: Rest,
    categories: Sequence[str],
) -> Head | None:
    """The head that a text such as linear:fc names, or that a function makes of net and rest.

    None for "none".  Raises ValueError for a text that names no head of this network.
    """
    if callable(head):
        return head(net, rest)
    if head == "none":
        return None
    kind, _, text = head.partition(":")
    layers = [layer.strip() for layer in text.split(",")] if text else []
    if kind not in KINDS:
        raise ValueError(f"unknown head {head!r}; there are {', '.join(KINDS)} and none")
    try:
        unnamed: Any = KINDS[kind](net, rest, *layers)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"head {head}: {first_line(error)}; "
            "name layers of the network, as in linear:fc, or use head=gradient"
        ) from None
    return replace(unnamed, categories=tuple(categories))
