"""A file of weights and a network in, the network's tensors out, and what is to be said of them.

Where the network's tensors lie in the file, their names and shapes tell: below the prefix under which most of
them fit.  So no list of frameworks is needed, and wrappings may come in any order.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnvis.backbone.checkpoint_file import read_checkpoint

__all__ = ["Checkpoint", "Classifier", "old_names", "state_dict"]

# Of weights that fit equally well, those that average others over training come first.
AVERAGED = re.compile(r"(?:^|[._])(?:ema|teacher|swa|averaged?|avg|shadow)(?=[._]|$)", re.IGNORECASE)
TOP = "top"  # what `weights_key` calls the place of names without a prefix
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
LEARNED = ("weight", "bias", "running_mean", "running_var")  # what no layer can be without
DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds for a network.

    tensors   by the network's names: all of them, in its shapes but for the number of classes and the
              square that the first convolution reads
    has_head  whether the classifier is among them; without, its tensors are 0
    notes     what was taken, left over or missing, a sentence each; none for a plain state dict
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    has_head: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """The tensors below one prefix: the network's names -> the file's full names."""

    prefix: str
    names: dict[str, str]
    fitting: int  # how many have the network's shape too

    @property
    def key(self) -> str:
        return shown(self.prefix) or TOP

    def is_meant_by(self, key: str) -> bool:
        return key == self.key or f".{key}." in f".{self.prefix}."


def state_dict(
    path: Path, net: nn.Module, name: str, key: str = "", aliases: Mapping[str, str] | None = None
) -> Checkpoint:
    """The tensors of the network `name` out of a file, whatever they are wrapped in.

    key       of several that fit: the prefix of the one to take, or a part of it, such as student
    aliases   names of another implementation -> the network's own

    Raises ValueError as `read_checkpoint` does, and for a file that holds another network, half of this one,
    or numbers that are not finite.
    """
    tensors = read_checkpoint(path)
    wanted = {own: value for own, value in net.state_dict().items() if isinstance(value, Tensor)}
    found = candidates(tensors, wanted, aliases or {})
    chosen, others = choose(found, key, path)
    refused = f"the weights {path} do not fit {name}"
    if chosen is None:
        raise ValueError(f"{refused}: {mismatch(wanted, tensors)}; give a file saved from this architecture")
    beside, where = classifier_beside(chosen, found, net, tensors)
    given = {own: tensors[full] for own, full in (chosen.names | beside).items()}
    used = {
        full for names in (beside, chosen.names, *(each.names for each in others)) for full in names.values()
    }
    below = f"{chosen.prefix}." if chosen.prefix else ""
    left = [full for full in tensors if full not in used]
    try:
        require_no_more(net, [full.removeprefix(below) for full in left if full.startswith(below)])
        checkpoint = fitted(net, wanted, given)
    except Misfit as misfit:
        raise ValueError(f"{refused}: {misfit}{advice(path)}") from None
    require_finite(checkpoint.tensors, path)
    return Checkpoint(
        checkpoint.tensors,
        checkpoint.has_head,
        notes=(*notes_on_place(chosen, others), *where, *notes_on_rest(left), *checkpoint.notes),
    )


def old_names(wanted: Iterable[str]) -> dict[str, str]:
    """Names in torchvision's files -> in its networks: of DenseNets, norm.1 and norm1."""
    return {DENSENET.sub(r"\1.\2", own): own for own in wanted}


class Misfit(ValueError):
    """Why a file's tensors are not this network's."""


# ------------------------------------------------------------------------------------- where the tensors lie


def candidates(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> list[Candidate]:
    """Every prefix below which there are names of the network's, in the file's order."""
    owns = old_names(wanted) | dict(aliases) | {own: own for own in wanted}
    longest = max((own.count(".") + 1 for own in owns), default=0)
    names_below: dict[str, dict[str, str]] = {}
    for full in tensors:
        parts = full.split(".")
        for start in range(max(0, len(parts) - longest), len(parts)):
            own = owns.get(".".join(parts[start:]))
            if own is not None:
                names_below.setdefault(".".join(parts[:start]), {}).setdefault(own, full)
    return [
        Candidate(prefix, names, sum(tensors[full].shape == wanted[own].shape for own, full in names.items()))
        for prefix, names in names_below.items()
    ]


def choose(
    found: Sequence[Candidate], key: str, path: Path
) -> tuple[Candidate | None, tuple[Candidate, ...]]:
    """The candidate that fits best, and the others that fit as well; None: there is none.

    Of equals an average over training comes first, else what is first in the file.  Raises ValueError for a
    key that means none of those that fit at all.
    """
    fitting = [each for each in found if each.fitting]
    if not fitting:
        return None, ()
    meant = [each for each in fitting if each.is_meant_by(key)] if key else fitting
    if not meant:
        best = max(fitting, key=rank)
        keys = ", ".join(each.key for each in fitting if rank(each) == rank(best))
        raise ValueError(f"{path} has no weights under {key!r}; backbone.weights_key may be {keys}")
    best = max(meant, key=rank)
    equal = [each for each in meant if rank(each) == rank(best)]
    chosen = next((each for each in equal if AVERAGED.search(each.prefix)), equal[0])
    return chosen, tuple(each for each in equal if each is not chosen)


def classifier_beside(
    chosen: Candidate, found: Sequence[Candidate], net: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, str], list[str]]:
    """Where body and head are wrapped apart (backbone.conv1, head.fc): the head's names, and what to say.

    Only where there is one that fits beside the body.
    """
    head = Classifier.of(net)
    if head is None or any(head.holds(own) for own in chosen.names):
        return {}, []
    parent = chosen.prefix.rpartition(".")[0]
    weight = f"{head.layer}.weight"
    width = net.get_parameter(weight).shape[1:]
    beside = [
        each
        for each in found
        if weight in each.names
        and tensors[each.names[weight]].shape[1:] == width
        and parent in (each.prefix, each.prefix.rpartition(".")[0])
    ]
    if len(beside) != 1:
        return {}, []
    names = {own: full for own, full in beside[0].names.items() if head.holds(own)}
    return names, [f"its classifier lies under {beside[0].key}"]


def rank(candidate: Candidate) -> tuple[int, int]:
    return candidate.fitting, len(candidate.names)


def notes_on_place(chosen: Candidate, others: Sequence[Candidate]) -> list[str]:
    notes = [f"the weights lie under {chosen.key}"] if chosen.prefix else []
    if others:
        keys = ", ".join(each.key for each in others)
        notes.append(f"{keys} would fit as well (backbone.weights_key={others[0].key})")
    return notes


def notes_on_rest(left: Sequence[str]) -> list[str]:
    return [f"{counted(left)} left over ({some(left)})"] if left else []


# ----------------------------------------------------------------------------------------- whether they fit


@dataclass(frozen=True)
class Classifier:
    """Of a network: its last layer, the part of the network that is nothing but head, and the classes."""

    layer: str
    part: str
    classes: int

    @classmethod
    def of(cls, net: nn.Module) -> "Classifier | None":
        layers = [(name, module) for name, module in net.named_modules() if is_linear(module)]
        if not layers:
            return None
        layer, module = layers[-1]
        parent = layer.rpartition(".")[0]
        is_head = parent and not any(looks_around(inner) for inner in net.get_submodule(parent).modules())
        return cls(layer, parent if is_head else layer, classes=len(module.weight))

    def differs_in_classes(self, own: str, tensor: Tensor, like: Tensor) -> bool:
        is_own = own.rpartition(".")[0] == self.layer
        return (
            is_own and 0 < tensor.ndim == like.ndim and tensor.shape[1:] == like.shape[1:] and len(tensor) > 0
        )

    def holds(self, own: str) -> bool:
        return f"{own}.".startswith(f"{self.part}.")


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def looks_around(module: nn.Module) -> bool:
    """Whether it is a convolution of more than one cell, as no classifier has."""
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1


def is_auxiliary(own: str) -> bool:
    """Of a classifier that serves training alone, as those of GoogLeNet and Inception v3."""
    return own.lower().startswith("aux")


def require_no_more(net: nn.Module, left: Iterable[str]) -> None:
    """Other heads may be left over; a layer inside the network's own parts makes it another network.

    left: names as seen from the network.  Raises Misfit.
    """
    modules = {name for name, _ in net.named_modules()}
    head = Classifier.of(net)
    around = "" if head is None else f".{head.layer}."
    foreign = []
    for name in left:
        container, _, leaf = name.rpartition(".")
        while container not in modules:
            container = container.rpartition(".")[0]
        is_around = not container or around.startswith(f".{container}.")
        if leaf in LEARNED and not (is_around or (head and head.holds(container)) or is_auxiliary(name)):
            foreign.append(name)
    if foreign:
        verb = "has" if len(foreign) == 1 else "have"
        raise Misfit(f"{len(foreign)} of the file's tensors {verb} no place in it ({some(foreign)})")


def fitted(net: nn.Module, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Checkpoint:
    """The network's tensors out of those that were given for them.  Raises Misfit."""
    head = Classifier.of(net)
    own_tensors: dict[str, Tensor] = {}
    notes: list[str] = []
    misshapen: list[str] = []
    for own, tensor in given.items():
        like = wanted[own]
        if like.is_floating_point() and not tensor.is_floating_point():
            raise Misfit(f"{own} holds {str(tensor.dtype).removeprefix('torch.')} and no floats")
        if tensor.shape == like.shape or (head and head.differs_in_classes(own, tensor, like)):
            own_tensors[own] = tensor
        elif (stem := Stem.of(net, own)) and stem.takes(tensor):
            own_tensors[own] = stem.of_photos(tensor)
            notes += stem.notes(tensor)
        elif not is_auxiliary(own):
            misshapen.append(difference(own, tensor, like))
    if misshapen:
        raise Misfit(misshapen[0] + (f"; {len(misshapen) - 1} more differ" if misshapen[1:] else ""))
    has_head = head is None or f"{head.layer}.weight" in own_tensors
    if head and has_head:
        notes += notes_on_classes(head, own_tensors)
    absent = {
        own: like for own, like in wanted.items() if own not in own_tensors and like.is_floating_point()
    }
    ignored = [own for own in absent if is_auxiliary(own)]
    headless = [own for own in absent if head and not has_head and head.holds(own)]
    lacking = [own for own in absent if own not in ignored and own not in headless]
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        raise Misfit(f"{len(lacking)} of its {len(wanted)} tensors {verb} missing ({some(lacking)})")
    if head and all(head.holds(own) for own in own_tensors) and not all(head.holds(own) for own in wanted):
        raise Misfit("only its classifier is there")
    if ignored:
        notes.append(f"{counted(ignored)} of auxiliary classifiers missing, which no map needs")
    if headless:
        notes.append(f"the classifier is missing ({some(headless)}): no class can be asked")
    rest = {own: torch.zeros_like(like) if own in absent else like for own, like in wanted.items()}
    return Checkpoint(rest | own_tensors, has_head, tuple(notes))


@dataclass(frozen=True)
class Stem:
    """The first convolution of a network of photos: its file's may read one channel, or another square.

    weight    its name, and `like` its value: [D, 3, height, width]
    stride    in pixels
    """

    weight: str
    like: Tensor
    stride: int

    @classmethod
    def of(cls, net: nn.Module, own: str) -> "Stem | None":
        """None where `own` is no weight of a convolution of photos."""
        layer, _, leaf = own.rpartition(".")
        convolution: Any = net.get_submodule(layer)
        if leaf != "weight" or not isinstance(convolution, nn.Conv2d) or convolution.weight.shape[1] != 3:
            return None
        return cls(own, convolution.weight, convolution.stride[0])

    def takes(self, tensor: Tensor) -> bool:
        """Whether it can be given this weight: of 3 channels or 1, in its own square or another odd one."""
        if tensor.ndim != 4 or len(tensor) != len(self.like) or tensor.shape[1] not in (1, 3):
            return False
        sides, own_sides = set(tensor.shape[2:]), set(self.like.shape[2:])
        is_odd = len(sides | own_sides) <= 2 and all(side % 2 for side in sides | own_sides)
        return tensor.shape[2:] == self.like.shape[2:] or (len(sides) == len(own_sides) == 1 and is_odd)

    def of_photos(self, tensor: Tensor) -> Tensor:
        """The weight for red, green and blue."""
        if tensor.shape[1] == 3:
            return tensor
        return tensor.float() * torch.tensor(LUMINANCE).view(1, 3, 1, 1)

    def notes(self, tensor: Tensor) -> list[str]:
        notes = []
        if tensor.shape[1] == 1:
            notes.append(f"{self.weight} reads one channel: it is given the luminance of the photo")
        if tensor.shape[2:] != self.like.shape[2:]:
            notes.append(
                f"{self.weight} is {sides(tensor)} in place of {sides(self.like)}: its stride of "
                f"{self.stride} px and what follows are kept, which no file tells; a network trained with "
                "others is one for backbone=own"
            )
        return notes


def sides(tensor: Tensor) -> str:
    return f"{tensor.shape[2]} x {tensor.shape[3]}"


def differs_in_channels(tensor: Tensor, like: Tensor) -> bool:
    """Whether it is the weight of a first convolution, of photos, for another number of channels."""
    is_first = tensor.ndim == like.ndim == 4 and like.shape[1] == 3
    return is_first and len(tensor) == len(like) and tensor.shape[2:] == like.shape[2:]


def difference(own: str, tensor: Tensor, like: Tensor) -> str:
    """How a tensor differs in shape, and what that means where it can be told."""
    text = f"{own} is {shape(tensor)} in the file and {shape(like)} in the network"
    if differs_in_channels(tensor, like):
        return f"{text}: it reads {tensor.shape[1]} channels, and a photo has 3 (or 1, its luminance)"
    if tensor.ndim == like.ndim == 4 and tensor.shape[1] == like.shape[1] == 3:
        return f"{text}: its first convolution is another"
    return text


def shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def notes_on_classes(head: Classifier, own_tensors: Mapping[str, Tensor]) -> list[str]:
    """Raises Misfit where the classifier's weight and bias are of different sizes."""
    classes = len(own_tensors[f"{head.layer}.weight"])
    bias = own_tensors.get(f"{head.layer}.bias")
    if bias is not None and len(bias) != classes:
        raise Misfit(f"its classifier has {classes} classes by its weight and {len(bias)} by its bias")
    if classes == head.classes:
        return []
    return [f"{classes} class{'es' * (classes != 1)} in place of {head.classes}"]


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    broken = [own for own, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise ValueError(
            f"{path} holds numbers that are not finite, as after a training that diverged, "
            f"in {counted(broken)} ({some(broken)}); give an earlier checkpoint"
        )


def is_finite(tensor: Tensor) -> bool:
    bytes_only = tensor.element_size() == 1  # of floats of 8 bits PyTorch cannot tell
    return bool((tensor.float() if bytes_only else tensor).isfinite().all())


# ---------------------------------------------------------------------------------------------------- words


def counted(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"


def mismatch(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Of a file in which nothing is the network's: other names, or other shapes under the same names."""
    for name, like in wanted.items():
        for full, tensor in tensors.items():
            if f".{full}".endswith(f".{name}") and tensor.shape != like.shape:
                return f"its {shown(name)} is {shape(like)}, the file's {shape(tensor)}"
    if list(tensors) == [""]:
        return f"it has {some(wanted)}, the file is one tensor without a name"
    return f"it has {some(wanted)}, the file has {some(tensors)}"


def some(names: Iterable[str]) -> str:
    """The first three of them, as one line can show them."""
    names = [shown(name) for name in names]
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= 200 else ascii(name)[1:200]


def advice(path: Path) -> str:
    """What to do about a file that does not fit."""
    if re.search(r"\d+-of-\d+", path.name):
        return "; it is one of several shards: give their .index.json"
    return "; give a file saved from this architecture"
