"""What is asked of the patches.

Every function: Features -> Query, or a list of them, or bare vectors [B, Q, D]; settings are arguments.
Scores are linear in the query: scores(k * q1 + q2) = k * scores(q1) + scores(q2).
"""

import difflib
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnvis.geometry import extent_along
from attnvis.types import Box, ClassScore, Features, Head, PhotoError, Placement, Query, find_class

__all__ = ["KINDS", "box", "class_", "distance", "mean", "norm", "pca", "point", "random", "rarity"]

QueryFunction = Callable[[Features], Query | Tensor | list[Query]]


def mean(features: Features) -> Query:
    """q = the mean patch: what is typical of this photo.

    It marks objects only as far as the network has learned to silence background.  Under 1/sqrt(d) this is
    SimPool (Psomas et al. 2023) without its learned matrices.
    """
    return Query(features.mean.unsqueeze(1), labels(features, "mean"))


def class_(features: Features, name: str | int = "predicted") -> Query:
    """q = what the classifier asks of the patches for this class.

    Its certificate says whether mean s_i + constant is the class's logit; if so the scores are a class
    activation map (Zhou et al. 2016), else the query is Grad-CAM's and the map an approximation.

    `name` is a category, its index, or "predicted": the network's own answer, photo by photo.  Raises
    ValueError where there is no classifier, or no such class.
    """
    head, logits, ask = features.head, features.logits, features.ask
    if head is None:
        raise ValueError(
            "a class query needs a classifier, and this backbone has none: "
            f"give it a head, or ask another query{or_a_kind(name)}"
        )
    if logits is None:  # of an earlier layer: what follows in the network is run only now
        logits, ask = head.read(features.maps)
        logits = logits.float()
    if name == "predicted":
        classes = logits.argmax(-1)
    else:
        try:
            index = find_class(name, head.categories, count=logits.shape[1])
        except ValueError as error:
            raise ValueError(f"{error}{or_a_kind(name)}") from None
        classes = torch.full((len(logits),), index, device=logits.device)
    scores = class_scores(head, logits, classes=classes)
    vectors = ask(classes) if ask else head.ask(features.maps, classes)[0]
    return Query(
        vectors.unsqueeze(1),
        labels=tuple((score.name,) for score in scores),
        classes=tuple((score,) for score in scores),
    )


def or_a_kind(name: str | int) -> str:
    """The kind of query that may have been meant by what was taken for a class; "" for none."""
    near = difflib.get_close_matches(str(name).lower(), KINDS, n=1, cutoff=0.7)
    return f" Or the query {near[0]}?" if near else ""


def class_scores(head: Head, logits: Float[Tensor, "B C"], classes: Int[Tensor, " B"]) -> list[ClassScore]:
    """What the network says of one class per photo."""
    logits = logits.double()
    chosen = logits.gather(1, classes.unsqueeze(1))  # [B, 1]
    probabilities = (chosen - logits.logsumexp(1, keepdim=True)).exp().flatten()
    ranks = 1 + (logits > chosen).sum(1)
    columns = (classes, probabilities, chosen.flatten(), ranks)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        ClassScore(index, head.category(index), probability=probability, logit=logit, rank=rank)
        for index, probability, logit, rank in rows
    ]


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
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"query random needs a seed of at most 64 bits, -2^63 ... 2^64 - 1, not {seed}")
    if count < 1:
        raise ValueError(f"query random needs a count of at least 1, not {count}")
    photos, _, channels = features.tokens.shape
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    vectors = draws.to(features.tokens).expand(photos, -1, -1)
    return Query(vectors, (numbered(f"random {seed}", count),) * photos, marks=(None,) * count)


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
    "distance": distance,
    "mean": mean,
    "norm": norm,
    "pca": pca,
    "point": point,
    "random": random,
    "rarity": rarity,
}


def labels(features: Features, text: str) -> tuple[tuple[str, ...], ...]:
    """One query with the same label on every photo: [B][1]."""
    return ((text,),) * len(features.tokens)


def numbered(text: str, count: int) -> tuple[str, ...]:
    """One label per query of a photo: the text, and where there are several their numbers from 1."""
    if count == 1:
        return (text,)
    return tuple(f"{text} #{number}" for number in range(1, count + 1))


def named_placements(features: Features) -> list[tuple[str, Placement]]:
    """Each photo's name and placement; features that were not made of files have no names."""
    names = features.names or ("",) * len(features.placements)
    return list(zip(names, features.placements, strict=True))


def weighted_mean(features: Features, shares: list[Float[Tensor, " N"]]) -> Float[Tensor, "B 1 D"]:
    """The mean patch of each photo, its patches weighted by the photo's shares (>= 0, of any sum)."""
    weights = torch.stack(shares).to(features.tokens)
    return (weights / weights.sum(-1, keepdim=True)).unsqueeze(1) @ features.tokens


def outer_product(rows: Sequence[float], columns: Sequence[float]) -> Float[Tensor, " N"]:
    """Weights of rows and columns -> weights of patches, i = row * w + column."""
    down, across = (torch.tensor(weights, dtype=torch.float64) for weights in (rows, columns))
    return torch.outer(down, across).flatten()


def cell_centres(placement: Placement, axis: int) -> list[float]:
    """Along the rows (axis 0) or columns (1) of the photo, in its pixels."""
    return [placement.first[axis] + placement.step[axis] * cell for cell in range(placement.grid[axis])]


def interpolation_weights(placement: Placement, axis: int, position: float) -> list[float]:
    """Of the cells along an axis: linear interpolation between their centres at a position of the photo,
    summing to 1.

    Beyond the outer centres the outer cell has all the weight.
    """
    centres = cell_centres(placement, axis)
    inside = min(max(position, centres[0]), centres[-1])
    return [max(0.0, 1 - abs(centre - inside) / placement.step[axis]) for centre in centres]


def overlap_lengths(placement: Placement, axis: int, low: float, high: float) -> list[float]:
    """The length that each cell along an axis shares with [low, high), in pixels of the photo.

    Cells reach half-way to their neighbours, the outer ones to the edge of what was seen.
    """
    between = [(before + after) / 2 for before, after in pairwise(cell_centres(placement, axis))]
    start, length = extent_along(placement.seen, axis)
    edges = [float(start), *between, float(start + length)]
    # NaN stands first, and stays: min and max give the first of two that do not compare
    return [max(min(high, end) - max(low, begin), 0.0) for begin, end in pairwise(edges)]


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
