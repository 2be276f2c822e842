"""What is asked of the patches.

Every function: Features -> Query, or a list of them, or bare vectors [B, Q, D]; settings are arguments.
Scores are linear in the query: scores(k * q1 + q2) = k * scores(q1) + scores(q2).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.dot_product import gamma_pooled
from attnvis.attention.query.classes import class_, contrast, finer, log_odds, read_classes, rest
from attnvis.attention.query.given import exemplar, mask, vector
from attnvis.attention.query.patches import (
    interpolation_weights,
    labels,
    named_placements,
    numbered,
    outer_product,
    overlap_lengths,
    weighted_mean,
)
from attnvis.types import Box, Features, PhotoError, Query

__all__ = [
    "KINDS",
    "box",
    "class_",
    "contrast",
    "distance",
    "exemplar",
    "finer",
    "gem",
    "iterated",
    "log_odds",
    "mask",
    "mean",
    "norm",
    "pca",
    "point",
    "random",
    "random_class",
    "random_patch",
    "rarity",
    "rest",
    "simpool",
    "vector",
]

QueryFunction = Callable[[Features], Query | Tensor | list[Query]]


def mean(features: Features) -> Query:
    """q = the mean patch: what is typical of this photo.

    It marks objects only as far as the network has learned to silence background.  Under 1/sqrt(d) this is
    SimPool (Psomas et al. 2023) without its learned matrices.
    """
    return Query(features.mean.unsqueeze(1), labels(features, "mean"))


def point(features: Features, x: float, y: float) -> Query:
    """q = the features at one spot, bilinear between the four cells around it: where is more of this?

    x, y in pixels of the original.  Raises PhotoError where the spot lies outside a photo, or on a part of it
    that was cropped away.
    """
    for name, placement in named_placements(features):
        height, width = placement.size
        if not (0 <= x < width and 0 <= y < height):  # NaN fails too
            raise PhotoError(
                f"point {x:g},{y:g} lies outside the {width}x{height} photo {name}; "
                "points are x,y in pixels of the original"
            )
        if not placement.seen.holds(y, x):
            raise PhotoError(
                f"point {x:g},{y:g} of {name} was cropped away before the network saw it; "
                "use preprocess.fit=resize"
            )
    shares = []
    for placement in features.placements:
        rows = interpolation_weights(placement, 0, position=y)
        columns = interpolation_weights(placement, 1, position=x)
        shares.append(outer_product(rows, columns))
    return Query(weighted_mean(features, shares), labels(features, f"point {x:g},{y:g}"), marks=((y, x),))


def box(features: Features, x: float, y: float, width: float, height: float) -> Query:
    """q = the mean patch of a rectangle, cells weighted by the area they share with it.

    x, y: its top left, width and height, in pixels of the original.  Raises ValueError where the rectangle is
    empty, PhotoError where it touches no part of a photo that was seen.
    """
    if not (width > 0 and height > 0):  # NaN fails too
        raise ValueError(f"box needs a width and a height above 0, not {width:g}x{height:g}")
    shares = []
    for name, placement in named_placements(features):
        rows = overlap_lengths(placement, 0, low=y, high=y + height)
        columns = overlap_lengths(placement, 1, low=x, high=x + width)
        if not (sum(rows) > 0 and sum(columns) > 0):
            photo_height, photo_width = placement.size
            raise PhotoError(
                f"box {x:g},{y:g},{width:g},{height:g} (x,y,width,height) touches no part of the "
                f"{photo_width}x{photo_height} photo {name} that was seen"
            )
        shares.append(outer_product(rows, columns))
    text = f"box {x:g},{y:g},{width:g},{height:g}"
    mark = Box(top=y, left=x, height=height, width=width)
    return Query(weighted_mean(features, shares), labels(features, text), marks=(mark,))


def random(features: Features, seed: int = 0, count: int = 1) -> Query:
    """q ~ N(0, I), `count` of them, the same for every photo: the control.

    A map that looks like this one's says nothing about its query.  Raises ValueError for a count below 1, and
    for a seed of more than 64 bits.
    """
    photos, _, channels = features.tokens.shape
    vectors = normal_draws(seed, count, channels).to(features.tokens).expand(photos, -1, -1)
    return Query(vectors, (numbered(f"random {seed}", count),) * photos, marks=(None,) * count)


def random_class(features: Features, seed: int = 0, count: int = 1) -> Query:
    """q ~ N(mean, covariance) of what the classifier asks for its classes: what one more class might ask.

    Raises as `random` does, and ValueError without a classifier.
    """
    reading = read_classes(features, "random_class")
    photos, classes = reading.logits.shape
    shares = matched_shares(normal_draws(seed, count, classes)).to(reading.logits)
    vectors = torch.stack([reading.ask(row.expand(photos, -1)) for row in shares], 1)
    labels_of_photo = numbered(f"random class {seed}", count)
    return Query(vectors, (labels_of_photo,) * photos, marks=(None,) * count, ranks=(0,) * count)


def random_patch(features: Features, seed: int = 0, count: int = 1) -> Query:
    """q ~ N(mean, covariance) of this photo's patches.  Raises as `random` does."""
    photos, patches, _ = features.tokens.shape
    vectors = matched_shares(normal_draws(seed, count, patches)).to(features.tokens) @ features.tokens
    return Query(vectors, (numbered(f"random patch {seed}", count),) * photos, marks=(None,) * count)


def normal_draws(seed: int, count: int, size: int) -> Float[Tensor, "Q M"]:
    """Raises ValueError for a count below 1, and for a seed of more than 64 bits."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"query random needs a seed of at most 64 bits, -2^63 ... 2^64 - 1, not {seed}")
    if count < 1:
        raise ValueError(f"query random needs a count of at least 1, not {count}")
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def matched_shares(draws: Float[Tensor, "Q M"]) -> Float[Tensor, "Q M"]:
    """N(0, I) -> shares of M vectors: over the draws their sum has the vectors' mean and covariance."""
    centred = draws - draws.mean(1, keepdim=True)
    return 1 / draws.shape[1] + centred / max(draws.shape[1] - 1, 1) ** 0.5


def gem(features: Features, p: float = 3.0) -> Query:
    """q = (mean of v^p)^(1/p), channel by channel: typical of strong patches (GeM, Radenovic et al. 2018).

    p = 1 is the mean, large p the maximum; below 0 the features count as 0.  Raises ValueError for p <= 0.
    """
    if not 0 < p < math.inf:  # NaN fails too
        raise ValueError(f"gem needs a power above 0, not {p:g}")
    positive = features.tokens.double().clamp_min(0)
    largest = positive.amax(1, keepdim=True).clamp_min(1e-30)  # or a high power would overflow
    pooled = largest * (positive / largest).pow(p).mean(1, keepdim=True).pow(1 / p)
    return Query(pooled.to(features.tokens), labels(features, f"gem {p:g}"))


def iterated(features: Features, steps: int = 3, beta: float | None = None) -> Query:
    """q = the mean patch, then `steps` times the context of its attention.

    q <- sum_i softmax(beta q . v_i) v_i is the update of a modern Hopfield network (Ramsauer et al. 2021): it
    finds a mode of the patches' density.  Its energy, |q|^2 / 2 - log sum_i exp(beta q . v_i) / beta, never
    rises; the label says from where to where.
    `beta` None: 1/sqrt(d).  Raises ValueError for fewer than 1 step, and a beta of 0 or below.
    """
    if steps < 1:
        raise ValueError(f"iterated needs at least 1 step, not {steps}")
    beta = features.tokens.shape[2] ** -0.5 if beta is None else beta
    if not 0 < beta < math.inf:  # NaN fails too
        raise ValueError(f"iterated needs a beta above 0, not {beta:g}")
    tokens = features.tokens.double()
    query = tokens.mean(1, keepdim=True)
    energies = [energy(query, tokens, beta)]
    for _ in range(steps):
        query = (beta * query @ tokens.mT).softmax(-1) @ tokens
    energies.append(energy(query, tokens, beta))
    texts = tuple(
        (f"mean, iterated {steps} (energy {first:.4g} to {last:.4g})",)
        for first, last in zip(*energies, strict=True)
    )
    return Query(query.to(features.tokens), texts)


def simpool(features: Features, gamma: float = 2.0) -> Query:
    """q = (sum_i a_i (v_i - min v + eps)^gamma)^(1/gamma), a the mean patch's attention under 1/sqrt(d).

    What SimPool (Psomas et al. 2023) makes of a photo, its matrices left out: gamma 2 for ResNet-50.  The
    minimum is the photo's own.  Raises ValueError unless gamma is above 0.
    """
    tokens = features.tokens.double()
    weights = (tokens.mean(1, keepdim=True) @ tokens.mT * tokens.shape[2] ** -0.5).softmax(-1)
    return Query(
        gamma_pooled(weights, tokens, gamma).to(features.tokens), labels(features, f"simpool {gamma:g}")
    )


def energy(query: Float[Tensor, "B 1 D"], tokens: Float[Tensor, "B N D"], beta: float) -> list[float]:
    """Of a modern Hopfield network that stores the patches."""
    overlap = (beta * query @ tokens.mT).logsumexp(-1) / beta
    return (query.square().sum(-1) / 2 - overlap).flatten().tolist()


def distance(features: Features) -> Query:
    """How far a patch lies from the mean patch: s_i = ||v_i - g||.

    K != V: the key is that one number, the query is 1.
    """
    distances = (features.tokens - features.mean.unsqueeze(1)).norm(dim=-1)
    return query_of_scores(features, distances, text="distance")


def norm(features: Features) -> Query:
    """How strongly the network answers at a patch: s_i = ||v_i||.

    K != V: the key is that one number, the query is 1.
    """
    return query_of_scores(features, features.tokens.norm(dim=-1), text="norm")


def query_of_scores(features: Features, scores: Float[Tensor, "B N"], text: str) -> Query:
    """A query whose scores are known: d_k = 1, so that 1/sqrt(d_k) and 1/d_k leave them as they are."""
    keys = scores.unsqueeze(-1)
    return Query(torch.ones_like(keys[:, :1]), labels(features, text), keys=keys)


def pca(features: Features, component: int = 1, centred: bool = True) -> Query:
    """q = a principal direction of the photo's patches (EigenCAM takes the first), of length 1.

    Its free sign points to the patches of larger norm.  `sign_margin`, 0 ... 1, is how clearly it does:
    |correlation| of scores and norms.  Where it is small, the mirror image or another size of the input may
    get the opposite sign (docs/question.md).  Raises ValueError for a component that does not exist.
    """
    patches, channels = features.tokens.shape[1:]
    available = min(patches - centred, channels)  # centred patches sum to zero: one direction less
    if not 1 <= component <= available:
        raise ValueError(
            f"pca component {component} does not exist: "
            f"{patches} patches of {channels} channels have components 1 ... {available}"
        )
    directions, _, _ = principal_directions(features.tokens, component, centred=centred)
    direction = directions[..., component - 1]  # [B, D]
    scores = (features.tokens @ direction.unsqueeze(-1)).squeeze(-1)
    norms = features.tokens.norm(dim=-1)
    scores = scores - scores.mean(1, keepdim=True)
    norms = norms - norms.mean(1, keepdim=True)
    products = (scores * norms).sum(1)  # N times their covariance
    sign = torch.where(products < 0, -1.0, 1.0)
    lengths = scores.norm(dim=1) * norms.norm(dim=1)
    margin = products.abs() / lengths.clamp_min(1e-30)
    return Query(
        (direction * sign.unsqueeze(-1)).unsqueeze(1),
        labels(features, f"pca {component}"),
        sign_margin=margin.unsqueeze(1),
    )


def rarity(features: Features, components: int = 16, shrinkage: float = 0.01) -> Query:
    """How unlike the others a patch is: squared Mahalanobis distance from the mean patch (RX).

    Taken in the leading principal components, with a share `shrinkage` of their mean variance added to each.
    Quadratic in the patch, and still a dot product: the keys are the squared whitened coordinates, the query
    is all ones.  Raises ValueError for fewer than 1 component; more than there are count as all.
    """
    if components < 1:
        raise ValueError(f"rarity needs at least 1 component, not {components}")
    components = min(components, *features.tokens.shape[1:])
    directions, variances, patches = principal_directions(features.tokens, components, centred=True)
    total = variances.sum(-1, keepdim=True)
    floor = (shrinkage * total / variances.shape[-1]).clamp_min(torch.finfo(variances.dtype).tiny)
    keys = (patches @ directions) ** 2 / (variances + floor).unsqueeze(1)  # [B, N, components]
    return Query(torch.ones_like(keys[:, :1]), labels(features, "rarity"), keys=keys)


MOST_SOLVED = (
    1024  # eigenvalue problems up to this size take half a second; twice the size takes eight times as long
)

KINDS: dict[str, Callable] = {  # what a query's text may begin with, in the order in which messages list it
    "box": box,
    "class": class_,
    "contrast": contrast,
    "distance": distance,
    "exemplar": exemplar,
    "finer": finer,
    "gem": gem,
    "iterated": iterated,
    "log_odds": log_odds,
    "mask": mask,
    "mean": mean,
    "norm": norm,
    "pca": pca,
    "point": point,
    "random": random,
    "random_class": random_class,
    "random_patch": random_patch,
    "rarity": rarity,
    "rest": rest,
    "simpool": simpool,
    "vector": vector,
}


def principal_directions(
    tokens: Float[Tensor, "B N D"], count: int, centred: bool
) -> tuple[Float[Tensor, "B D K"], Float[Tensor, "B K"], Float[Tensor, "B N D"]]:
    """Leading principal directions, the variances along them, and the patches that they were taken of.

    K = `count` directions of length 1, largest variance first; computed in float64, photo by photo: a signal
    is heard between two.  Patches without any variance have directions of 0.
    """
    patches = tokens.double()
    if centred:
        patches = patches - patches.mean(1, keepdim=True)
    solutions = [singular_vectors(matrix, count) for matrix in patches]
    directions = torch.stack([vectors for vectors, _ in solutions])
    variances = torch.stack([squares for _, squares in solutions]) / tokens.shape[1]
    return directions.to(tokens), variances.to(tokens), patches.to(tokens)


def singular_vectors(
    matrix: Float[Tensor, "N D"], count: int
) -> tuple[Float[Tensor, "D K"], Float[Tensor, " K"]]:
    """The leading right singular vectors and the squares of their singular values.

    From the smaller of the two Gram matrices, N x N and D x D: cubic in the smaller side.
    """
    patches, channels = matrix.shape
    side = matrix if channels <= patches else matrix.mT  # [long, short]
    gram = side.new_zeros(side.shape[1], side.shape[1])
    for rows in side.split(MOST_SOLVED):
        gram += rows.mT @ rows
    vectors, squares = leading_eigenvectors(gram, count)
    squares = squares.clamp_min(0)
    if channels <= patches:  # no variance, no direction: one of length 1 would be made of rounding
        return vectors * (squares.sqrt() / 1e-12).clamp_max(1), squares
    return torch.nn.functional.normalize(side @ vectors, dim=0), squares


def leading_eigenvectors(
    matrix: Float[Tensor, "S S"], count: int
) -> tuple[Float[Tensor, "S K"], Float[Tensor, " K"]]:
    """Of a symmetric matrix without negative eigenvalues, the largest first.

    Beyond MOST_SOLVED in a block Krylov space (Golub & Underwood 1977), which grows until the residuals are
    rounding: no step of it takes long.  A spectrum so flat that half of the whole space does not do, and more
    vectors than an eighth, are left to `solve`.
    """
    size, width = len(matrix), count + 8
    if size <= MOST_SOLVED or 8 * width > size:
        return solve(matrix, count)
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(size, width, generator=generator, dtype=matrix.dtype).to(matrix.device)
    basis, images = matrix.new_zeros(size, 0), matrix.new_zeros(size, 0)
    checked = 4 * width
    while 2 * basis.shape[1] <= size:
        for _ in range(2):  # once would leave what rounding mixes in
            block = torch.linalg.qr(block - basis @ (basis.mT @ block))[0]
        image = matrix @ block
        basis, images = torch.cat([basis, block], 1), torch.cat([images, image], 1)
        block = image
        if basis.shape[1] < checked:
            continue
        checked = int(1.3 * checked)
        mixtures, squares = solve(basis.mT @ images, count)
        vectors = basis @ mixtures
        residuals = (images @ mixtures - vectors * squares).norm(dim=0)
        if bool((residuals <= 1e-12 * squares[0]).all()):
            return vectors, squares
    return solve(matrix, count)


def solve(matrix: Float[Tensor, "S S"], count: int) -> tuple[Float[Tensor, "S K"], Float[Tensor, " K"]]:
    """All eigenvectors of a symmetric matrix are computed, the first are given."""
    squares, vectors = torch.linalg.eigh(matrix)  # ascending
    return vectors.flip(-1)[:, :count], squares.flip(-1)[:count]
