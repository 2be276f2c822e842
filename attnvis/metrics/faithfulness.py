"""Maps over what a network saw -> how much its answer hangs on the pixels, or cells, that they mark.

Maps lie on the pixels of the network's input, or on its cells.  Where values tie, the pixel that comes first,
row by row, counts as the hotter one.  The maps of one photo share their forward passes: `batch` perturbed
images at a time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

from attnvis.metrics.fixations import unit_range
from attnvis.metrics.metric import filled, metric

__all__ = [
    "Evidence",
    "Examined",
    "average_drop",
    "confidence_increase",
    "deletion",
    "insertion",
    "latent_deletion",
    "latent_insertion",
    "road",
]

Images = Float[Tensor, "B 3 H W"]
SUBSTITUTES = ("mean", "black", "blur")
BLUR_PIXELS, BLUR_SIGMA = 11, 5.0  # of RISE
STRAIGHT, DIAGONAL = 1 / 6, 1 / 12  # a neighbour's share in an imputed pixel
CLOSE = 1e-8  # of the imputed pixels' equations, relative
MOST_ROUNDS = 500


@dataclass(frozen=True, eq=False)
class Examined:
    """A network's input and the class whose probability is watched."""

    image: Float[Tensor, "3 H W"]  # as the network takes it: mean and standard deviation are 0 and 1
    logits: Callable[[Images], Float[Tensor, "B C"]]
    target: int
    black: tuple[float, float, float] | None = None  # what a black pixel is to the network


@dataclass(frozen=True, eq=False)
class Evidence:
    """What each cell says for each class, of a network that averages its cells: logit = mean + constant."""

    scores: Float[Tensor, "C h w"]
    constants: Float[Tensor, " C"]
    target: int


# --------------------------------------------------------------------------------------------- in the image


@metric("network", better="lower")
def deletion(
    maps: Float[Tensor, "M H W"],
    examined: Examined,
    steps: int = 32,
    substitute: str = "mean",
    batch: int = 32,
) -> Float[Tensor, " M"]:
    """The area under the probability of the class while pixels are taken away, the hottest first (RISE,
    Petsiuk et al. 2018).

    steps        in which all pixels go; RISE's own takes 224 pixels in each
    substitute   what stands in their place: mean (0 to the network, RISE's), black, or blur
    """
    blank = substituted(examined, substitute)
    return curve_area(maps, examined, start=examined.image, end=blank, steps=steps, batch=batch)


@metric("network")
def insertion(
    maps: Float[Tensor, "M H W"],
    examined: Examined,
    steps: int = 32,
    substitute: str = "blur",
    batch: int = 32,
) -> Float[Tensor, " M"]:
    """The area under the probability of the class while pixels are put in, the hottest first (RISE, Petsiuk
    et al. 2018).

    steps        in which all pixels come; RISE's own takes 224 pixels in each
    substitute   what stands there before: blur (RISE's: 11 pixels, sigma 5), mean (0 to the network), or
    black
    """
    blank = substituted(examined, substitute)
    return curve_area(maps, examined, start=blank, end=examined.image, steps=steps, batch=batch)


@metric("network", low=-0.5, high=0.5, uniform=math.nan)
def road(
    maps: Float[Tensor, "M H W"],
    examined: Examined,
    percents: Sequence[float] = (20.0, 40.0, 60.0, 80.0),
    noise: float = 0.01,
    seed: int = 0,
    batch: int = 32,
) -> Float[Tensor, " M"]:
    """Remove and debias (Rong et al. 2022): half of how much likelier the class is without the coolest pixels
    than without the hottest, mean over the shares removed.

    percents   of the pixels that go; exactly so many, ties or not
    noise      the standard deviation of what is added to the pixels that stand in for them, each a weighted
               mean of its neighbours
    """
    values = filled(maps).flatten(1)
    pixels = values.shape[1]
    ranks = descending_ranks(values)
    counts = torch.tensor([round(pixels * percent / 100) for percent in percents], device=values.device)
    hot = ranks[:, None] < counts[:, None]  # [M, percents, P]
    cool = ranks[:, None] >= pixels - counts[:, None]
    removed = torch.stack([cool, hot], 1).view(-1, *maps.shape[1:])
    chance = torch.Generator().manual_seed(seed)
    grain = noise * torch.randn(examined.image.shape, generator=chance).to(examined.image)

    def images() -> Iterator[Images]:
        for masks in removed.split(batch):
            filling = imputed(examined.image, masks) + grain
            yield torch.where(masks[:, None], filling, examined.image)

    scores = probabilities(images(), examined).view(len(maps), 2, len(counts)).mean(2)
    return ((scores[:, 0] - scores[:, 1]) / 2).where(~values.isnan().any(1), math.nan)


@metric("network", better="lower")
def average_drop(maps: Float[Tensor, "M H W"], examined: Examined, batch: int = 32) -> Float[Tensor, " M"]:
    """The share of the class's probability that is lost when the image is dimmed to its hot parts
    (Chattopadhay et al. 2018); what is gained counts as 0.

    Dimmed: multiplied by the map, stretched to 0 ... 1.
    """
    whole, dimmed = with_and_without(maps, examined, batch)
    return ((whole - dimmed) / whole).clamp_min(0)


@metric("network")
def confidence_increase(
    maps: Float[Tensor, "M H W"], examined: Examined, batch: int = 32
) -> Float[Tensor, " M"]:
    """1 where the class becomes likelier when the image is dimmed to its hot parts, else 0 (Chattopadhay et
    al. 2018).
    """
    whole, dimmed = with_and_without(maps, examined, batch)
    return (dimmed > whole).double().where(~dimmed.isnan(), math.nan)


# -------------------------------------------------------------------------------------------- in the cells


@metric("evidence", better="lower", ranks=True)
def latent_deletion(maps: Float[Tensor, "M h w"], evidence: Evidence) -> Float[Tensor, " M"]:
    """The area under the probability of the class while cells are taken out of the mean, the hottest first;
    the last one stays.  Exact: nothing is put in their place.
    """
    values = filled(maps).flatten(1)
    kept = cells_in_order(values, evidence).flip(1).cumsum(1).flip(1)  # [M, N, C] from the k-th hottest on
    counts = torch.arange(values.shape[1], 0, -1, device=values.device)
    return mean_probability(kept / counts[:, None], values, evidence)


@metric("evidence", ranks=True)
def latent_insertion(maps: Float[Tensor, "M h w"], evidence: Evidence) -> Float[Tensor, " M"]:
    """The area under the probability of the class while cells come into the mean, the hottest first, from the
    first one on.  Exact: nothing stands in their place before.
    """
    values = filled(maps).flatten(1)
    kept = cells_in_order(values, evidence).cumsum(1)
    counts = torch.arange(1, values.shape[1] + 1, device=values.device)
    return mean_probability(kept / counts[:, None], values, evidence)


def cells_in_order(values: Float[Tensor, "M N"], evidence: Evidence) -> Float[Tensor, "M N C"]:
    """What the cells say, the hottest first."""
    order = values.sort(dim=1, descending=True, stable=True).indices
    return evidence.scores.flatten(1).T.double()[order]


def mean_probability(
    means: Float[Tensor, "M N C"], values: Float[Tensor, "M N"], evidence: Evidence
) -> Float[Tensor, " M"]:
    """The area under the probability, over the share of cells."""
    likely = (means + evidence.constants.double()).softmax(-1)[..., evidence.target]
    return area_over_cells(likely).where(~values.isnan().any(1), math.nan)


def area_over_cells(likely: Float[Tensor, "*any N"]) -> Float[Tensor, "*any"]:
    """The trapezoid's area under a curve with a value for each number of cells; of one cell that value."""
    if likely.shape[-1] == 1:
        return likely[..., 0]
    return torch.trapezoid(likely) / (likely.shape[-1] - 1)


# ------------------------------------------------------------------------------------------ perturbed images


def curve_area(
    maps: Float[Tensor, "M H W"],
    examined: Examined,
    *,
    start: Float[Tensor, "3 H W"],
    end: Float[Tensor, "3 H W"],
    steps: int,
    batch: int,
) -> Float[Tensor, " M"]:
    """The area under the class's probability as pixels of `start` become those of `end`, hottest first."""
    values = filled(maps).flatten(1)
    pixels = values.shape[1]
    steps = min(steps, pixels)
    ranks = descending_ranks(values).view(maps.shape)
    counts = torch.tensor([round(step * pixels / steps) for step in range(steps + 1)], device=maps.device)

    def images() -> Iterator[Images]:
        for points in torch.cartesian_prod(torch.arange(len(maps)), torch.arange(steps + 1)).split(batch):
            taken = ranks[points[:, 0]] < counts[points[:, 1], None, None]
            yield torch.where(taken[:, None], end, start)

    scores = probabilities(images(), examined).view(len(maps), steps + 1)
    shares = counts.double() / pixels
    return torch.trapezoid(scores, shares).where(~values.isnan().any(1), math.nan)


def descending_ranks(values: Float[Tensor, "M P"]) -> Int[Tensor, "M P"]:
    """0 for the hottest; where values tie, by position."""
    order = values.sort(dim=1, descending=True, stable=True).indices
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(values.shape[1], device=values.device).expand_as(order)
    )


@torch.inference_mode()
def probabilities(images: Iterator[Images], examined: Examined) -> Float[Tensor, " B"]:
    """Of the class, for all images."""
    batches = [examined.logits(each).double().softmax(1)[:, examined.target] for each in images]
    return torch.cat(batches)


def with_and_without(
    maps: Float[Tensor, "M H W"], examined: Examined, batch: int
) -> tuple[Float[Tensor, ""], Float[Tensor, " M"]]:
    """The probability of the class on the image, and on the image times each map."""
    values = filled(maps)
    shares = unit_range(values).to(examined.image)
    whole = probabilities(iter([examined.image[None]]), examined)[0]
    dimmed = probabilities((part[:, None] * examined.image for part in shares.split(batch)), examined)
    return whole, dimmed.where(~values.flatten(1).isnan().any(1), math.nan)


def substituted(examined: Examined, substitute: str) -> Float[Tensor, "3 H W"]:
    """What stands in a pixel's place.  Raises ValueError for another substitute or an unknown black."""
    if substitute not in SUBSTITUTES:
        raise ValueError(f"substitute {substitute!r}; give {', '.join(SUBSTITUTES)}")
    image = examined.image
    if substitute == "mean":
        return torch.zeros_like(image)
    if substitute == "blur":
        return window_blurred(image)
    if examined.black is None:
        raise ValueError("substitute 'black': what black is to this network is not known; give mean or blur")
    return torch.tensor(examined.black).to(image)[:, None, None].expand_as(image)


def window_blurred(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """By RISE's Gaussian, 11 pixels wide; beyond the edge lies what is at the edge."""
    reach = BLUR_PIXELS // 2
    offsets = torch.arange(-reach, reach + 1)
    line = torch.exp(-(offsets.to(image) ** 2) / (2 * BLUR_SIGMA**2))
    line = line / line.sum()
    wide = pad(image[:, None], (reach,) * 4, mode="replicate")
    return conv2d(conv2d(wide, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))[:, 0]


def imputed(image: Float[Tensor, "3 H W"], masks: Bool[Tensor, "B H W"]) -> Float[Tensor, "B 3 H W"]:
    """The image with the masked pixels replaced by weighted means of their eight neighbours, all at once.

    Neighbours beyond the edge do not count.  An image that is masked as a whole becomes 0.  The equations are
    symmetric and positive: conjugate gradients in float64, over several scales at once (Bramble, Pasciak and
    Xu 1990), so that a large hole takes no more rounds than a small one.
    """
    window = [[DIAGONAL, STRAIGHT, DIAGONAL], [STRAIGHT, 0, STRAIGHT], [DIAGONAL, STRAIGHT, DIAGONAL]]
    kernel = torch.tensor(window, dtype=torch.float64, device=image.device)[None, None]
    unknown = masks.double()[:, None].expand(-1, 3, -1, -1).flatten(0, 1)[:, None]  # [B * 3, 1, H, W]
    known = image.double().repeat(len(masks), 1, 1)[:, None] * (1 - unknown)
    degree = conv2d(torch.ones_like(unknown[:1]), kernel, padding=1)
    coarser = coarser_masks(unknown)

    residual = conv2d(known, kernel, padding=1) * unknown
    target = residual.flatten(1).norm(dim=1)
    solution = torch.zeros_like(known)
    scaled = over_scales(residual, coarser)
    direction = scaled
    energy = (residual * scaled).flatten(1).sum(1)
    for _ in range(MOST_ROUNDS):
        if (residual.flatten(1).norm(dim=1) <= CLOSE * target).all():
            break
        image_of = (degree * direction - conv2d(direction, kernel, padding=1)) * unknown
        curvature = (direction * image_of).flatten(1).sum(1)
        length = torch.where(curvature > 0, energy / curvature, 0.0).view(-1, 1, 1, 1)
        solution = solution + length * direction
        residual = residual - length * image_of
        scaled = over_scales(residual, coarser)
        grown = (residual * scaled).flatten(1).sum(1)
        direction = scaled + torch.where(energy > 0, grown / energy, 0.0).view(-1, 1, 1, 1) * direction
        energy = grown
    return (known + solution).to(image).view(len(masks), *image.shape)


def hat(like: Tensor) -> Float[Tensor, "1 1 3 3"]:
    """A grid point's share in its neighbours of the next finer grid."""
    line = torch.tensor([0.5, 1, 0.5]).to(like)
    return torch.outer(line, line)[None, None]


def coarser_masks(unknown: Float[Tensor, "B 1 H W"]) -> list[Float[Tensor, "B 1 _ _"]]:
    """On every second point, every fourth ...: 1 where all that the point reaches is unknown."""
    masks = []
    while min(unknown.shape[2:]) > 2 and unknown.any():
        reached = torch.nn.functional.max_pool2d(1 - unknown, 3, stride=2, padding=1)
        unknown = 1 - reached
        masks.append(unknown)
    return masks


def over_scales(
    residual: Float[Tensor, "B 1 H W"], coarser: list[Float[Tensor, "B 1 _ _"]]
) -> Float[Tensor, "B 1 H W"]:
    """The residual and its sums over ever wider neighbourhoods, each spread over where they came from."""
    kernel = hat(residual)
    scales = [residual]
    for mask in coarser:
        scales.append(conv2d(scales[-1], kernel, stride=2, padding=1) * mask)
    total = scales.pop()
    for scale in reversed(scales):
        room = [size - 2 * points + 1 for size, points in zip(scale.shape[2:], total.shape[2:], strict=True)]
        total = scale + conv_transpose2d(total, kernel, stride=2, padding=1, output_padding=room)
    return total
