"""A network of tokens in, the grid that its patch tokens make out; class and register tokens lie in no grid.

Nothing is taken from a table of names: a patch of a picture is changed, and the token that changes is its.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from attnvis.backbone.cutting import Cut, Hooked, Rest, divide
from attnvis.types import Preprocessing

__all__ = ["PatchCells", "TokenGrid", "TokenRest", "find_grid", "gives_tokens", "patch_size", "token_cut"]

MOST = 64  # tokens before the patches; networks have a class token and up to 16 registers


@dataclass(frozen=True)
class TokenGrid:
    """How tokens [B, P + N, D] are a grid: N patches, row by row, after P tokens of no place.

    patch     height and width of a patch in pixels
    prefix    P: class and register tokens
    fixed     whether the network takes pictures of one size only
    size      of the pictures that it was measured on, their height and width
    layers    those that give the tokens, in the order in which they are done
    blocks    of these the ones that follow one another, each as the one before
    last      the last layer of which the classifier reads the patches; without a classifier, the last
    classifies  whether it gives logits [B, C] that depend on patches
    """

    patch: int
    prefix: int
    fixed: bool
    size: int
    layers: tuple[str, ...]
    blocks: tuple[str, ...]
    last: str
    classifies: bool

    def is_unread(self, layer: str) -> bool:
        """Whether the classifier reads no patch of a layer."""
        return layer in self.layers and self.layers.index(layer) > self.layers.index(self.last)

    def fitted(self, how: Preprocessing) -> Preprocessing:
        """Of photos that become whole patches, and pictures of the one size where there is but one."""
        return replace(how, multiple=self.patch, sides="fixed" if self.fixed else "multiples")

    def notes(self) -> tuple[str, ...]:
        """What is to be said of the cells."""
        cells = (
            f"a cell is a patch of {self.patch} x {self.patch} px, which by attention sees the whole photo"
        )
        if self.prefix:
            many = self.prefix > 1
            cells += (
                f"; {self.prefix} token{'s' * many} before the patches (class token{', registers' * many}) "
                f"{'are' if many else 'is'} left out"
            )
        if self.last == self.layers[-1]:
            return (cells,)
        read = (
            f"its classifier reads no patch of {self.layers[-1]}: the last layer that it reads is {self.last}"
        )
        return (cells, read)


# ---------------------------------------------------------------------------------------------- what it finds


def find_grid(net: nn.Module, size: int, classifies: bool = True) -> TokenGrid:
    """The grid of a network of patches, on pictures of `size` x `size` pixels.

    classifies: whether what it gives, [B, C], are logits.  Raises ValueError where no grid is certain.
    """
    name = type(net).__name__
    patch = patch_size(net)
    if patch == 0:
        raise ValueError(f"{name}: its first convolution does not make patches that lie side by side")
    if size % patch or size < 3 * patch:
        raise ValueError(
            f"{name}: its patches are of {patch} px, and a size of {size} px is no 3 or more of them; "
            f"give size={max(3, round(size / patch)) * patch}"
        )
    across = size // patch
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    layers, first, outputs = token_layers(net, images, least=across**2)
    if not layers:
        raise ValueError(
            f"{name}: no part of it gives a token [B, N, D] for each of {across} x {across} patches"
        )
    count = layers[-1][1]
    prefix = count - across**2
    other = images.clone()
    other[:, :, patch : 2 * patch, 2 * patch : 3 * patch] += 1  # row 1, column 2
    _, changed_first, _ = token_layers(net, other, least=across**2)
    differences = (first[count] - changed_first[count]).abs().amax((0, 2))
    changed = (differences > 1e-7 * differences.max()).nonzero().flatten().tolist()  # of rounding
    if prefix > MOST or changed != [prefix + across + 2]:
        raise ValueError(
            f"{name}: its {count} tokens are no certain grid of {across} x {across} patches: "
            f"a change of one patch changed {len(changed)} of the first tokens"
        )
    names = [layer for layer, tokens in layers if tokens == count]
    blocks = blocks_among(net, names)
    while blocks and not holds(names[-1].rpartition(".")[0], blocks[-1]):
        names.pop()  # of a head that pools by attention
    read = None
    if classifies and isinstance(outputs, Tensor) and outputs.ndim == 2:
        candidates = [names[-1], *reversed(blocks)]
        read = next((layer for layer in candidates if reads_patches(net, layer, prefix, images)), None)
    return TokenGrid(
        patch,
        prefix,
        fixed=not takes(net, 2 * patch, 3 * patch),
        size=size,
        layers=tuple(names),
        blocks=tuple(blocks),
        last=read or names[-1],
        classifies=read is not None,
    )


def patch_size(net: nn.Module) -> int:
    """The side of the squares that the first convolution makes of a picture; 0: it makes none."""
    convolution: Any = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is None or convolution.kernel_size != convolution.stride:
        return 0
    height, width = convolution.stride
    is_plain = convolution.padding in ((0, 0), "valid") and convolution.dilation == (1, 1)
    return height if height == width > 1 and is_plain else 0


def gives_tokens(net: nn.Module, layers: Sequence[str], size: int) -> bool:
    """Whether a layer of these gives tokens [B, N, D]."""
    if patch_size(net) == 0:
        return False
    giving, _, _ = token_layers(net, torch.zeros(2, 3, size, size), least=1)
    return any(name in layers for name, _ in giving)


@torch.no_grad()
def token_layers(
    net: nn.Module, images: Float[Tensor, "B 3 H W"], least: int
) -> tuple[list[tuple[str, int]], dict[int, Tensor], Any]:
    """The submodules that give tokens [B, N, D], `least` or more, as they are done, each with its N.

    And for every N the first such tokens that went into a submodule or came out of it; and what the network
    gives.
    """
    layers: dict[str, int] = {}
    first: dict[int, Tensor] = {}

    def is_tokens(value: Any) -> bool:
        return (
            isinstance(value, Tensor)
            and value.ndim == 3
            and len(value) == len(images)
            and value.shape[1] >= least
        )

    def before(_: nn.Module, inputs: Any) -> None:
        for value in filter(is_tokens, inputs):
            first.setdefault(value.shape[1], value)

    def after(name: str, output: Any) -> None:
        if is_tokens(output):
            first.setdefault(output.shape[1], output)
            layers.pop(name, None)
            layers[name] = output.shape[1]

    handles = []
    for name, module in net.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: after(name, output)))
    try:
        outputs = net.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(layers.items()), first, outputs


def holds(name: str, inner: str) -> bool:
    """Whether a module lies inside another; the network's own name is ""."""
    return not name or inner.startswith(f"{name}.")


def blocks_among(net: nn.Module, names: Sequence[str]) -> list[str]:
    """Of the layers that give tokens those that follow one another in a list of layers, the outermost."""
    lists = (nn.Sequential, nn.ModuleList)
    parents = [name.rpartition(".")[0] for name in names]
    rows = [
        name
        for name, parent in zip(names, parents, strict=True)
        if parents.count(parent) > 1 and isinstance(net.get_submodule(parent), lists)
    ]
    return [name for name in rows if not any(holds(other, name) for other in rows)]


@torch.enable_grad()
def reads_patches(net: nn.Module, layer: str, prefix: int, images: Float[Tensor, "B 3 H W"]) -> bool:
    """Whether what the network gives depends on the patches of this layer, whatever it learns.

    Parameters that are all 0, as a classifier's before it learns, are drawn at random.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(parameter.shape, generator=generator)
        for name, parameter in net.named_parameters()
        if not parameter.any()
    }
    tokens: list[Tensor] = []

    def begin(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        tokens.append(output.detach().requires_grad_())
        return tokens[0]

    handle = net.get_submodule(layer).register_forward_hook(begin)
    try:
        logits = torch.func.functional_call(net, drawn, (images,))
    finally:
        handle.remove()
    weights = torch.randn(logits.shape, generator=generator)
    if not logits.requires_grad:
        return False
    slopes: tuple[Tensor | None, ...] = torch.autograd.grad(
        (logits * weights).sum(), tokens[0], allow_unused=True
    )
    return slopes[0] is not None and bool(slopes[0][:, prefix:].any())


@torch.no_grad()
def takes(net: nn.Module, height: int, width: int) -> bool:
    """Whether the network takes pictures of another size."""
    try:
        net(torch.zeros(1, 3, height, width))
    except Exception:  # a network's own code raises what it likes
        return False
    return True


# ---------------------------------------------------------------------------------------------------- the cut


class TokenTrunk(nn.Module):
    """Images -> the tokens before the patches [B, P, D], if any, and then the maps [B, D, h, w], by layer."""

    gives_maps = True

    def __init__(self, trunk: nn.Module, grid: TokenGrid) -> None:
        super().__init__()
        self.trunk, self.patch, self.prefix = trunk, grid.patch, grid.prefix

    @no_type_check
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        rows, columns = images.shape[2] // self.patch, images.shape[3] // self.patch
        layers = self.trunk(images)
        maps = tuple(tokens[:, self.prefix :].mT.unflatten(2, (rows, columns)) for tokens in layers)
        return (*(tokens[:, : self.prefix] for tokens in layers), *maps) if self.prefix else maps


class TokenRest:
    """Maps [B, D, h, w] -> logits [B, C], by the layers after the cut.

    These read the tokens before the patches too: a photo's own after `beside`, else tokens that are all 0.
    """

    def __init__(self, rest: Any, count: int, prefix: Float[Tensor, "B P D"] | None = None) -> None:
        self.rest, self.count, self.prefix = rest, count, prefix

    def beside(self, prefix: Float[Tensor, "B P D"]) -> "TokenRest":
        return TokenRest(self.rest, self.count, prefix)

    def __call__(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        tokens = maps.flatten(2).mT  # [B, D, h, w] -> [B, N, D]
        if self.count:
            absent = maps.new_zeros(len(maps), self.count, maps.shape[1])
            prefix = absent if self.prefix is None else self.prefix.to(maps)
            tokens = torch.cat([prefix, tokens], 1)
        return self.rest(tokens, (maps.shape[2], maps.shape[3]))


def token_cut(grid: TokenGrid) -> Cut:
    """How a network of this grid is cut."""
    return partial(divide_tokens, grid=grid)


def divide_tokens(net: nn.Module, nodes: Sequence[str], grid: TokenGrid) -> tuple[nn.Module, list[Rest]]:
    """As `divide`; its parts take and give maps."""
    trunk, rests = divide(net, nodes)
    if isinstance(trunk, Hooked) or any(reads_images(rest) for rest in rests):
        by_hand = [partial(run_after, net, node, grid) for node in nodes]
        return TokenTrunk(trunk, grid), [TokenRest(rest, grid.prefix) for rest in by_hand]
    return TokenTrunk(trunk, grid), [TokenRest(partial(run_graph, rest), grid.prefix) for rest in rests]


def reads_images(rest: Rest) -> bool:
    """Whether traced layers after the cut want the images too, of which they count the patches."""
    if not isinstance(rest, fx.GraphModule):
        return False
    return sum(node.op == "placeholder" for node in rest.graph.nodes) > 1


def run_graph(rest: Rest, tokens: Float[Tensor, "B N D"], shape: tuple[int, int]) -> Float[Tensor, "B C"]:
    """The layers after the cut, as traced."""
    return rest(tokens)


def run_after(
    net: nn.Module, node: str, grid: TokenGrid, tokens: Float[Tensor, "B N D"], shape: tuple[int, int]
) -> Float[Tensor, "B C"]:
    """The layers after the cut of a network that cannot be traced there: all of it on one empty picture.

    Of `shape` patches, for what counts them; the node's answer is put in its place, and no block before it
    runs.
    """
    done = grid.layers[: grid.layers.index(node)] if node in grid.layers else ()
    answers: dict[str, Any] = {block: first_argument for block in grid.blocks if block in done}
    answers = {block: answer for block, answer in answers.items() if not holds(node, block)}
    sides = (grid.size,) * 2 if grid.fixed else (shape[0] * grid.patch, shape[1] * grid.patch)
    answers[node] = lambda *_, **__: tokens
    return answering(net, answers)(tokens.new_zeros(1, 3, *sides))


def first_argument(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
    """The answer of a layer that does nothing."""
    return tokens


def answering(net: nn.Module, answers: Mapping[str, Callable[..., Tensor]]) -> Any:
    """The same network, with its own parameters, some of whose parts answer as told; `net` stays as it is."""
    twin: Any = copy.copy(net)
    twin._modules = dict(net._modules)
    for child in {name.partition(".")[0] for name in answers}:
        if child in answers:
            twin._modules[child] = copy.copy(net._modules[child])
            twin._modules[child].forward = answers[child]
            continue
        below = {name.partition(".")[2]: answers[name] for name in answers if holds(child, name)}
        twin._modules[child] = answering(net.get_submodule(child), below)
    return twin


class PatchCells(nn.Module):
    """The first convolution alone, layer by layer: where patches lie on the picture is where its cells do."""

    def __init__(self, net: nn.Module, layers: int) -> None:
        super().__init__()
        self.convolution = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
        self.layers = layers

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.convolution(images),) * self.layers
