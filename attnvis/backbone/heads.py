"""What a classifier asks of the patches: for every class a query.

Its mean score, with a constant, is the class's logit - or nearly.  A certificate says how nearly.  Only where
it is exact may a map of the scores be called a class activation map (CAM, Zhou et al. 2016).
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnvis.backbone.cutting import CutNetwork, Rest, first_line, without_stderr
from attnvis.files import read_bytes
from attnvis.types import Ask, Head

__all__ = [
    "Certificate",
    "FrozenNorm",
    "Gated",
    "Gradient",
    "Linear",
    "build_head",
    "certify",
    "certify_all",
    "class_names",
    "conv_relu",
    "gradient",
    "layer_norm",
    "linear",
    "to_device",
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


# ------------------------------------------------------------------------------------------------ certificate


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


# -------------------------------------------------------------------------------- heads of a network, by name


CLASS_NAMES = {"imagenet": Path(__file__).with_name("imagenet_classes.txt")}

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


def class_names(categories: Sequence[str] | str) -> tuple[str, ...]:
    """A list of names, or those that a word, a file or a folder stands for.

    "": none; imagenet; a text file, a name on each line; a json file of a list, of {index: name}, of
    {name: index} or of {index: [id, name]}; a folder of a folder for each class, in the order of `sorted`, as
    torchvision's ImageFolder counts them.  Raises ValueError for anything else.
    """
    if not isinstance(categories, str) or not categories:
        return tuple(str(name) for name in categories)
    path = Path(categories)
    if categories in CLASS_NAMES:
        names = CLASS_NAMES[categories].read_text(encoding="utf-8").splitlines()
    elif path.is_dir():
        names = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    elif path.is_file():
        names = names_in_file(path)
    else:
        raise ValueError(
            f"categories: {categories!r} is no list of names; give one, or {', '.join(CLASS_NAMES)}, "
            "or a text file, a json file, or a folder of a folder for each class"
        )
    if not names:
        raise ValueError(f"categories: {categories} names no class")
    return tuple(names)


def names_in_file(path: Path) -> list[str]:
    """Raises ValueError for a file that is neither text nor json of class names."""
    try:
        text = read_bytes(path, most=1 << 26).decode("utf-8-sig")
        if text.lstrip()[:1] not in ("{", "["):
            return [line.strip() for line in text.splitlines() if line.strip()]
        return names_in_json(json.loads(text))
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"categories: {path} holds no class names ({first_line(error)}); give a text file with a name on "
            "each line, or json: a list, {index: name} or {name: index}"
        ) from None


def names_in_json(table: Any) -> list[str]:
    """A list, or a dictionary one side of which counts the classes from 0.  Raises ValueError for others."""
    if isinstance(table, dict) and isinstance(table.get("id2label"), dict):  # Hugging Face's config.json
        table = table["id2label"]
    if isinstance(table, dict):
        counted = all(isinstance(value, int) for value in table.values())
        rows = ((value, key) if counted else (int(key), value) for key, value in table.items())
        pairs = sorted(rows, key=lambda row: row[0])
        if [index for index, _ in pairs] != list(range(len(pairs))):
            raise ValueError("its indices are not 0, 1, 2, ...")
        table = [name for _, name in pairs]
    names = [name[-1] if isinstance(name, list) else name for name in table]  # imagenet: [wnid, name]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name is no text")
    return names


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
