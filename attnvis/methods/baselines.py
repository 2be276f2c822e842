"""Saliency methods that are not attention: what a network or a photo holds in, raw maps out.

Every function: (inputs, settings) -> RawMaps, one of each layer that was asked for; photos alone give one.
Those of a class take its name or index as `category`; predicted: the network's own answer, photo by photo.
"""

from functools import lru_cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attnvis.attention.query import kinds
from attnvis.attention.spec import parse_function
from attnvis.backbone.heads import Gated, Gradient
from attnvis.geometry import ReceptiveField, crop_grid, place_grid, visible_cells
from attnvis.methods.answer import require_finite, require_finite_classes
from attnvis.methods.saliency import Inputs, MapFunction, Network, RawMaps
from attnvis.types import Batch, Box, ClassScore, Features, Photo, Placement, Query

__all__ = [
    "METHODS",
    "cam",
    "centre",
    "eigencam",
    "feature_norm",
    "gradcam",
    "gradcam_plus",
    "integrated_gradients",
    "layercam",
    "occlusion",
    "parse_method",
    "random_query",
    "random_weights",
    "scorecam",
    "spectral_residual",
    "uniform",
]


# -------------------------------------------------------------------------------- of a class, on the cells


def cam(inputs: Inputs, category: str = "predicted") -> list[RawMaps]:
    """Class activation map (Zhou et al. 2016): what each patch adds to the class's logit, w_c . v_i.

    Of a classifier that gates its patches (SqueezeNet) relu(w_c . v_i + b_c).  Raises ValueError where the
    classifier is not exact in its patches: there gradcam is the nearest.
    """
    maps = []
    for features in inputs.layers:
        if features.head is None or isinstance(features.head, Gradient):
            raise ValueError(
                f"cam needs a classifier that reads the mean patch, and layer {features.layer} is read "
                "otherwise; take method=gradcam, or backbone.layer=last"
            )
        query = asked(features, category)
        scores = (query.vectors @ features.tokens.mT).squeeze(1)
        if isinstance(features.head, Gated):
            index = [of_photo[0].index for of_photo in query.classes]
            scores = (scores + features.head.bias[index].unsqueeze(-1)).relu()
        maps.append(on_cells(features, scores, tuple(of_photo[0] for of_photo in query.classes)))
    return maps


def gradcam(inputs: Inputs, category: str = "predicted") -> list[RawMaps]:
    """Grad-CAM (Selvaraju et al. 2017): relu(sum_k mean_ij(dy / dA_k) A_k)."""
    maps = []
    for features in inputs.layers:
        slopes, classes = class_slopes(features, category)
        channels = slopes.mean((2, 3), keepdim=True)
        maps.append(on_cells(features, (channels * features.maps).sum(1).relu().flatten(1), classes))
    return maps


def gradcam_plus(inputs: Inputs, category: str = "predicted") -> list[RawMaps]:
    """Grad-CAM++ (Chattopadhay et al. 2018): channels weighted by sum_ij alpha relu(g), with
    alpha = g^2 / (2 g^2 + g^3 sum_ab A_ab) where g = dy / dA_ij is not 0; then relu.
    """
    maps = []
    for features in inputs.layers:
        slopes, classes = class_slopes(features, category)
        slopes = slopes.double()  # of g^3 little is left in single precision
        activations = features.maps.double()
        squares = slopes**2
        below = 2 * squares + slopes**3 * activations.sum((2, 3), keepdim=True)
        alpha = torch.where(squares > 0, squares / torch.where(below == 0, 1.0, below), 0.0)
        channels = (alpha * slopes.relu()).sum((2, 3), keepdim=True)
        values = (channels * activations).sum(1).relu().flatten(1)
        maps.append(on_cells(features, values.float(), classes))
    return maps


def layercam(inputs: Inputs, category: str = "predicted") -> list[RawMaps]:
    """LayerCAM (Jiang et al. 2021): relu(sum_k relu(dy / dA_k) A_k), cell by cell."""
    maps = []
    for features in inputs.layers:
        slopes, classes = class_slopes(features, category)
        values = (slopes.relu() * features.maps).sum(1).relu().flatten(1)
        maps.append(on_cells(features, values, classes))
    return maps


@torch.no_grad()
def scorecam(inputs: Inputs, category: str = "predicted", channels: int = 0) -> list[RawMaps]:
    """Score-CAM (Wang et al. 2020): relu(sum_k softmax_k(y of the photo seen through A_k) A_k).

    One pass of the network for every channel.  channels: only so many, those that answer most strongly; 0:
    all of them, as published.
    """
    trunk = inputs.backbone.network.trunk(inputs.images)
    maps = []
    for features, activations in zip(inputs.layers, trunk, strict=True):
        classes = classes_of(features, category)
        weights = torch.stack(
            [
                seen_through(inputs, image, maps_of_photo, index=score.index, count=channels)
                for image, maps_of_photo, score in zip(inputs.images, activations, classes, strict=True)
            ]
        )
        values = torch.einsum("bd,bdhw->bhw", weights, features.maps).relu().flatten(1)
        maps.append(on_cells(features, values, classes))
    return maps


def seen_through(
    inputs: Inputs, image: Float[Tensor, "3 H W"], maps: Float[Tensor, "D h w"], index: int, count: int
) -> Float[Tensor, " D"]:
    """softmax over the channels of the class's logit of an image seen through each of them.

    A channel as a mask: min-max over its cells, then drawn over the whole image.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    masks = (maps - low) / (high - low).clamp_min(1e-12)
    chosen = torch.arange(len(maps), device=maps.device)
    if 0 < count < len(maps):
        chosen = high.flatten().topk(count).indices
    logits = []
    for some in masks[chosen].split(16):
        drawn = functional.interpolate(some.unsqueeze(1), image.shape[1:], mode="bilinear")
        logits.append(inputs.network(drawn * image)[:, index])
    weights = maps.new_zeros(len(maps))
    weights[chosen] = torch.cat(logits).softmax(0)
    return weights


# -------------------------------------------------------------------------------- of a class, on the pixels


@torch.inference_mode(False)
def integrated_gradients(inputs: Inputs, category: str = "predicted", steps: int = 16) -> list[RawMaps]:
    """Integrated gradients (Sundararajan et al. 2017) from the mean colour, by the midpoint rule.

    Of every pixel of the input the sum of the three channels' magnitudes.  Raises ValueError for fewer than 1
    step.
    """
    if steps < 1:
        raise ValueError(f"integrated_gradients needs at least 1 step, not {steps}")
    classes = classes_of(inputs.layers[-1], category)
    index = torch.tensor([score.index for score in classes], device=inputs.images.device)
    images = inputs.images.clone()
    slopes = torch.zeros_like(images)
    for step in range(steps):
        with torch.enable_grad():
            between = (images * ((step + 0.5) / steps)).requires_grad_()
            logits = inputs.network(between).gather(1, index.unsqueeze(1)).sum()
        slopes += torch.autograd.grad(logits, between)[0] / steps
    values = (slopes * images).abs().sum(1)
    return [on_input(inputs.batch, values, ReceptiveField((0.0, 0.0), (1.0, 1.0)), classes)]


@torch.inference_mode()
def occlusion(
    inputs: Inputs, category: str = "predicted", window: int = 64, stride: int = 32
) -> list[RawMaps]:
    """How much of the class's logit is lost where a square of the input is hidden (Zeiler and Fergus 2014).

    window, stride: in pixels of the input; hidden is what becomes the mean colour.  What raises the logit
    when hidden counts as 0.  Raises ValueError for a window or a stride below 1.
    """
    if window < 1 or stride < 1:
        raise ValueError(f"occlusion needs a window and a stride of at least 1 px, not {window} and {stride}")
    classes = classes_of(inputs.layers[-1], category)
    index = torch.tensor([score.index for score in classes], device=inputs.images.device).unsqueeze(1)
    whole = inputs.network(inputs.images).gather(1, index)
    height, width = inputs.images.shape[2:]
    tops, lefts = ([*range(0, max(side - window, 0) + 1, stride)] for side in (height, width))
    losses = []
    for top in tops:
        for left in lefts:
            hidden = inputs.images.clone()
            hidden[:, :, top : top + window, left : left + window] = 0
            losses.append(whole - inputs.network(hidden).gather(1, index))
    values = torch.cat(losses, 1).relu().unflatten(1, (len(tops), len(lefts)))
    middle = ((min(window, height) - 1) / 2, (min(window, width) - 1) / 2)
    cells = ReceptiveField(middle, (float(stride), float(stride)))
    return [on_input(inputs.batch, values, cells, classes)]


# -------------------------------------------------------------------------------- of the network, no class


def eigencam(inputs: Inputs) -> list[RawMaps]:
    """EigenCAM (Muhammad and Yeasin 2020): the patches along their first principal direction, not centred."""
    maps = []
    for features in inputs.layers:
        direction = kinds.pca(finite(features), component=1, centred=False).vectors
        scores = (direction @ features.tokens.mT).squeeze(1)
        scores = torch.where(scores.sum(1, keepdim=True) < 0, -scores, scores)  # its sign is free
        maps.append(on_cells(features, scores.relu(), label="eigencam"))
    return maps


def feature_norm(inputs: Inputs) -> list[RawMaps]:
    """How strongly the network answers: ||v_i||."""
    return [
        on_cells(features, finite(features).tokens.norm(dim=-1), label="feature norm")
        for features in inputs.layers
    ]


def random_query(inputs: Inputs, seed: int = 0) -> list[RawMaps]:
    """A control: the scores of a query from N(0, I), the same for every photo."""
    maps = []
    for features in inputs.layers:
        query = kinds.random(finite(features), seed)
        maps.append(on_cells(features, (query.vectors @ features.tokens.mT).squeeze(1), label="random query"))
    return maps


def random_weights(inputs: Inputs, seed: int = 0) -> list[RawMaps]:
    """A control: the feature norm of the same network with its weights drawn anew (Adebayo et al. 2018)."""
    layers = untrained(inputs.backbone, seed)(inputs.batch)
    return [
        on_cells(features, finite(features).tokens.norm(dim=-1), label="random weights")
        for features in layers
    ]


@lru_cache(maxsize=4)
def untrained(backbone: Network, seed: int) -> Network:
    """The network with random weights, whose batch norms have seen noise with a photo's spectrum."""
    images = noise_like_photos(backbone.preprocessing.size, seed)
    return backbone.with_random_weights(seed, images)[0]


def noise_like_photos(side: int, seed: int, count: int = 8) -> Float[Tensor, "B 3 H W"]:
    """Inputs of noise with a photo's spectrum, 1/f, each of mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, side, side, generator=generator))
    rows, columns = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    frequency = torch.hypot(rows.unsqueeze(1), columns.unsqueeze(0)).clamp_min(1 / side)
    noise = torch.fft.irfft2(spectrum / frequency, s=(side, side))
    return (noise - noise.mean((2, 3), keepdim=True)) / noise.std((2, 3), keepdim=True)


# -------------------------------------------------------------------------------- of the photo alone


def spectral_residual(inputs: Inputs, side: int = 64, blur: float = 2.5) -> list[RawMaps]:
    """Spectral residual (Hou and Zhang 2007): what a photo's log amplitudes have beyond their own average.

    side    columns of the grey picture that it is computed on
    blur    standard deviation of the Gaussian at the end, in its pixels; the authors' code has 2.5
    """
    maps = []
    for photo in inputs.batch.photos:
        grey = grey_picture(photo, side)
        spectrum = torch.fft.fft2(grey)
        logarithm = spectrum.abs().clamp_min(1e-12).log()
        average = functional.avg_pool2d(padded(logarithm, 1), 3, stride=1)[0, 0]
        phases = torch.polar(torch.exp(logarithm - average), spectrum.angle())
        maps.append(blurred(torch.fft.ifft2(phases).abs() ** 2, blur))
    shapes = {tuple(each.shape) for each in maps}
    if len(shapes) > 1:  # photos of one input size may differ by a row
        rows = min(height for height, _ in shapes)
        maps = [functional.interpolate(each[None, None], (rows, side), mode="area")[0, 0] for each in maps]
    return [on_photos(inputs.batch, torch.stack(maps).float(), label="spectral residual")]


def grey_picture(photo: Photo, side: int) -> Float[Tensor, "h w"]:
    """The mean of its colours, in shares of white, `side` columns wide and as many rows as the photo's shape
    has.
    """
    pixels = torch.tensor(photo.pixels).double().mean(-1) / 255  # a copy: a photo cannot be written to
    height, width = photo.size
    rows = max(3, round(side * height / width))
    return functional.interpolate(pixels[None, None], (rows, side), mode="area")[0, 0]


def padded(values: Float[Tensor, "h w"], by: int) -> Float[Tensor, "1 1 H W"]:
    """With its outer rows and columns repeated."""
    return functional.pad(values[None, None], (by, by, by, by), mode="replicate")


def blurred(values: Float[Tensor, "h w"], sigma: float) -> Float[Tensor, "h w"]:
    """By a Gaussian that ends at four standard deviations; the outer rows and columns go on for ever."""
    reach = max(1, round(4 * sigma))
    distances = torch.arange(-reach, reach + 1, dtype=values.dtype)
    kernel = torch.exp(-(distances**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    wide = padded(values, reach)
    down = functional.conv2d(wide, kernel.view(1, 1, -1, 1))
    return functional.conv2d(down, kernel.view(1, 1, 1, -1))[0, 0]


CELLS = 64  # rows and columns of the grids of what knows no network


def centre(inputs: Inputs, width: float = 0.25) -> list[RawMaps]:
    """A Gaussian in the middle of the photo: where people point cameras, and look.

    width: its standard deviation, as a share of the photo's height down and of its width across.  Raises
    ValueError for one that is not above 0.
    """
    if not width > 0:
        raise ValueError(f"centre needs a width above 0, not {width}")
    places = (torch.arange(CELLS) + 0.5) / CELLS - 0.5
    along = torch.exp(-(places**2) / (2 * width**2))
    values = torch.outer(along, along).expand(len(inputs.batch.photos), -1, -1)
    return [on_photos(inputs.batch, values, label="centre")]


def uniform(inputs: Inputs) -> list[RawMaps]:
    """The same everywhere: what chance alone reaches."""
    values = torch.ones(len(inputs.batch.photos), CELLS, CELLS)
    return [on_photos(inputs.batch, values, label="uniform")]


# -------------------------------------------------------------------------------- what several of them need


def finite(features: Features) -> Features:
    """The same.  Raises PhotoError where a patch is not finite."""
    require_finite(features.tokens, features, "features")
    return features


def asked(features: Features, category: str) -> Query:
    """The class query.  Raises ValueError where there is no classifier, or no such class."""
    require_finite_classes(finite(features))
    return kinds.class_(features, category)


def classes_of(features: Features, category: str) -> tuple[ClassScore, ...]:
    """Which class each photo is asked for."""
    return tuple(of_photo[0] for of_photo in asked(features, category).classes)


@torch.inference_mode(False)
def class_slopes(
    features: Features, category: str
) -> tuple[Float[Tensor, "B D h w"], tuple[ClassScore, ...]]:
    """dy / dA: the gradient of the class's logit with respect to the layer's maps."""
    classes = classes_of(features, category)
    head = features.head
    assert head is not None
    rest = head.rest if isinstance(head, Gradient) else head.logits
    index = torch.tensor([score.index for score in classes], device=features.tokens.device)
    with torch.enable_grad():
        maps = features.maps.clone().requires_grad_()
        logits = rest(maps).gather(1, index.unsqueeze(1)).sum()
    return torch.autograd.grad(logits, maps)[0], classes


def on_cells(
    features: Features,
    values: Float[Tensor, "B N"],
    classes: tuple[ClassScore, ...] = (),
    label: str = "",
) -> RawMaps:
    """Maps on the layer's own cells."""
    labels = tuple(score.name for score in classes) or (label,) * len(values)
    return RawMaps(values, features.placements, labels, features.layer, classes)


def on_input(
    batch: Batch, values: Float[Tensor, "B h w"], cells: ReceptiveField, classes: tuple[ClassScore, ...]
) -> RawMaps:
    """Maps whose cells lie on the input, as far as these touch the photo."""
    grid = (values.shape[1], values.shape[2])
    placements = [
        place_grid(view, cells, grid, photo.size, source="pixels of the input")
        for view, photo in zip(batch.views, batch.photos, strict=True)
    ]
    rows, columns = visible_cells(placements[0])
    return RawMaps(
        values[:, rows, columns].flatten(1),
        tuple(crop_grid(placement, rows, columns) for placement in placements),
        labels=tuple(score.name for score in classes),
        classes=classes,
    )


def on_photos(batch: Batch, values: Float[Tensor, "B h w"], label: str) -> RawMaps:
    """Maps over whole photos."""
    grid = (values.shape[1], values.shape[2])
    placements = tuple(over_whole(photo.size, grid) for photo in batch.photos)
    return RawMaps(values.flatten(1), placements, labels=(label,) * len(values))


def over_whole(size: tuple[int, int], grid: tuple[int, int]) -> Placement:
    """A grid over all of a photo of `size`."""
    step = (size[0] / grid[0], size[1] / grid[1])
    seen = Box(0.0, 0.0, height=float(size[0]), width=float(size[1]))
    first = (step[0] / 2, step[1] / 2)
    return Placement(first, step, grid=grid, size=size, seen=seen, source="the whole photo")


# -------------------------------------------------------------------------------- by name


METHODS: dict[str, MapFunction] = {
    function.__name__: function
    for function in (
        cam,
        centre,
        eigencam,
        feature_norm,
        gradcam,
        gradcam_plus,
        integrated_gradients,
        layercam,
        occlusion,
        random_query,
        random_weights,
        scorecam,
        spectral_residual,
        uniform,
    )
}


def parse_method(text: str) -> partial:
    """gradcam:tabby -> partial(gradcam, category="tabby").

    Raises UnknownName where the text names no method of this file, ValueError where its settings do not fit.
    """
    method = parse_function(text, METHODS, group="method")
    assert isinstance(method, partial)  # as it makes every function of a text
    return method
