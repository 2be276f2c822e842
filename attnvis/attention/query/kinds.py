"""What is asked of the patches.  Every function: Features -> Query, or a list of them, or bare vectors [B, Q, D]; settings are arguments.

Scores are linear in the query: scores(k * q1 + q2) = k * scores(q1) + scores(q2).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnvis.types import Box, ClassScore, Features, Head, PhotoError, Placement, Query, find_class

__all__ = ["box", "class_", "distance", "mean", "norm", "pca", "point", "random", "rarity"]

QueryFunction = Callable[[Features], Query | Tensor | list[Query]]


def mean(features: Features) -> Query:
    """q = the mean patch: what is typical of this photo.  It marks objects only as far as the network has learned to silence background.

    Under 1/sqrt(d) this is SimPool (Psomas et al. 2023) without its learned matrices.
    """
    return Query(features.mean.unsqueeze(1), labels(features, "mean"))


def class_(features: Features, name: str | int = "predicted") -> Query:
    """q = what the classifier asks of the patches for this class.  Its certificate says whether mean s_i + constant is the class's logit;
    if so the scores are a class activation map (Zhou et al. 2016), else the query is Grad-CAM's and the map an approximation.

    `name` is a category, its index, or "predicted": the network's own answer, photo by photo.
    """
    head, logits = features.head, features.logits
    if head is None:
        raise ValueError(
            "a class query needs a classifier, and this backbone has none: give it a head, or ask another query"
        )
    if logits is None:  # of an earlier layer: the rest of the network is asked only now
        logits = head.logits(features.maps).float()
    if name == "predicted":
        chosen = logits.argmax(-1)
    else:
        chosen = torch.full(
            (len(logits),), find_class(name, head.categories, logits.shape[1]), device=logits.device
        )
    scores = class_scores(head, logits, chosen)
    names = tuple((score.name,) for score in scores)
    return Query(
        head.ask(features.maps, chosen)[0].unsqueeze(1), names, classes=tuple((score,) for score in scores)
    )


def class_scores(head: Head, logits: Float[Tensor, "B C"], classes: Int[Tensor, " B"]) -> list[ClassScore]:
    """What the network says of one class per photo."""
    chosen = logits.double().gather(1, classes.unsqueeze(1))  # [B, 1]
    probabilities = (chosen - logits.double().logsumexp(1, keepdim=True)).exp().flatten()
    ranks = 1 + (logits > chosen).sum(1)
    rows = zip(
        classes.tolist(), probabilities.tolist(), chosen.flatten().tolist(), ranks.tolist(), strict=True
    )
    return [
        ClassScore(index, head.category(index), probability, logit, rank)
        for index, probability, logit, rank in rows
    ]


def point(features: Features, x: float, y: float) -> Query:
    """q = the features at one spot, bilinear between the four cells around it: where is more of this?  x, y in pixels of the original."""
    for name, placement in named(features):
        height, width = placement.size
        if not (0 <= x < width and 0 <= y < height):
            raise PhotoError(
                f"point {x:g},{y:g} lies outside the {width}x{height} photo {name}; points are x,y in pixels of the original"
            )
        if not placement.seen.holds(y, x):
            raise PhotoError(
                f"point {x:g},{y:g} of {name} was cropped away before the network saw it; use preprocess.fit=resize"
            )
    shares = [outer(hat(placement, 0, y), hat(placement, 1, x)) for placement in features.placements]
    return Query(pooled(features, shares), labels(features, f"point {x:g},{y:g}"), marks=((y, x),))


def box(features: Features, x: float, y: float, width: float, height: float) -> Query:
    """q = the mean patch of a rectangle, cells weighted by the area they share with it.  x, y: its top left, in pixels of the original."""
    if not (width > 0 and height > 0):  # NaN fails too
        raise ValueError(f"box needs a width and a height above 0, not {width:g}x{height:g}")
    area = Box(y, x, height, width)
    shares = []
    for name, placement in named(features):
        rows, columns = overlap(placement, 0, y, y + height), overlap(placement, 1, x, x + width)
        if not (rows.sum() > 0 and columns.sum() > 0):
            across = f"{placement.size[1]}x{placement.size[0]}"
            raise PhotoError(
                f"box {x:g},{y:g},{width:g},{height:g} (x,y,width,height) touches no part of the {across} photo {name} that was seen"
            )
        shares.append(outer(rows, columns))
    return Query(
        pooled(features, shares), labels(features, f"box {x:g},{y:g},{width:g},{height:g}"), marks=(area,)
    )


def random(features: Features, seed: int = 0, count: int = 1) -> Query:
    """q ~ N(0, I), the same for every photo: the control.  A map that looks like this one's says nothing about its query."""
    if count < 1:
        raise ValueError(f"query random needs a count of at least 1, not {count}")
    draws = torch.randn(
        count, features.tokens.shape[-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    vectors = draws.to(features.tokens).expand(len(features.tokens), -1, -1)
    said = tuple(f"random {seed}" + (f" #{number + 1}" if count > 1 else "") for number in range(count))
    return Query(vectors, (said,) * len(features.tokens), marks=(None,) * count)


def distance(features: Features) -> Query:
    """How far a patch lies from the mean patch: s_i = ||v_i - g||.  K != V: the key is that one number, the query is 1."""
    return one_number(features, (features.tokens - features.mean.unsqueeze(1)).norm(dim=-1), "distance")


def norm(features: Features) -> Query:
    """How strongly the network answers at a patch: s_i = ||v_i||.  K != V: the key is that one number, the query is 1."""
    return one_number(features, features.tokens.norm(dim=-1), "norm")


def one_number(features: Features, scores: Float[Tensor, "B N"], text: str) -> Query:
    """A query of which the scores are known: d_k = 1, so that 1/sqrt(d_k) and 1/d_k leave them as they are."""
    keys = scores.unsqueeze(-1)
    return Query(torch.ones_like(keys[:, :1]), labels(features, text), keys=keys)


def pca(features: Features, component: int = 1, centred: bool = True) -> Query:
    """q = a principal direction of the photo's patches (EigenCAM takes the first); its free sign points to the patches of larger norm.

    `sign_margin` is how clearly it does: |correlation| of scores and norms.  Where it is small, the mirror image or another size of the
    input may get the opposite sign (docs/question.md).
    """
    patches, channels = features.tokens.shape[1:]
    available = min(patches - centred, channels)  # centred patches sum to zero: one direction less
    if not 1 <= component <= available:
        shape = f"{patches} patches of {channels} channels"
        raise ValueError(
            f"pca component {component} does not exist: {shape} have components 1 ... {available}"
        )
    directions, _, _ = principal(features.tokens, component, centred)
    direction = directions[..., component - 1]  # [B, D]
    scores = (features.tokens @ direction.unsqueeze(-1)).squeeze(-1)
    norms = features.tokens.norm(dim=-1)
    scores, norms = (values - values.mean(1, keepdim=True) for values in (scores, norms))
    agreement = (scores * norms).sum(1)
    signed = direction * torch.where(agreement < 0, -1.0, 1.0).unsqueeze(-1)
    margin = (agreement.abs() / (scores.norm(dim=1) * norms.norm(dim=1)).clamp_min(1e-30)).unsqueeze(1)
    return Query(signed.unsqueeze(1), labels(features, f"pca {component}"), sign_margin=margin)


def rarity(features: Features, components: int = 16, shrinkage: float = 0.01) -> Query:
    """How unlike the rest a patch is: squared Mahalanobis distance from the mean patch in the leading principal components (RX).

    Quadratic in the patch, and still a dot product: the keys are the squared whitened coordinates, the query is all ones.
    """
    if components < 1:
        raise ValueError(f"rarity needs at least 1 component, not {components}")
    components = min(components, *features.tokens.shape[1:])
    directions, variances, centred = principal(features.tokens, components, centred=True)
    total = variances.sum(-1, keepdim=True)
    floor = (shrinkage * total / variances.shape[-1]).clamp_min(torch.finfo(variances.dtype).tiny)
    keys = (centred @ directions) ** 2 / (variances + floor).unsqueeze(1)  # [B, N, components]
    return Query(torch.ones_like(keys[:, :1]), labels(features, "rarity"), keys=keys)


def labels(features: Features, text: str) -> tuple[tuple[str, ...], ...]:
    return ((text,),) * len(features.tokens)


def named(features: Features) -> list[tuple[str, Placement]]:
    names = features.names or ("",) * len(features.placements)
    return list(zip(names, features.placements, strict=True))


def pooled(features: Features, shares: list[Float[Tensor, " N"]]) -> Float[Tensor, "B 1 D"]:
    """The weighted mean patch of each photo."""
    weights = torch.stack(shares).to(features.tokens)
    return (weights / weights.sum(-1, keepdim=True)).unsqueeze(1) @ features.tokens


def outer(rows: Float[Tensor, " h"], columns: Float[Tensor, " w"]) -> Float[Tensor, " N"]:
    return (rows.unsqueeze(1) * columns).flatten()


def centres(placement: Placement, axis: int) -> Float[Tensor, " cells"]:
    return placement.first[axis] + placement.step[axis] * torch.arange(
        placement.grid[axis], dtype=torch.float64
    )


def hat(placement: Placement, axis: int, position: float) -> Float[Tensor, " cells"]:
    """Linear interpolation weights at a position; beyond the outer centres the outer cell."""
    where = centres(placement, axis)
    inside = min(max(position, float(where[0])), float(where[-1]))
    return (1 - (where - inside).abs() / placement.step[axis]).clamp_min(0)


def overlap(placement: Placement, axis: int, low: float, high: float) -> Float[Tensor, " cells"]:
    """The length that each cell shares with [low, high): cells reach half-way to their neighbours, the outer ones to the view's edge."""
    where = centres(placement, axis)
    between = (where[1:] + where[:-1]) / 2
    start, length = (
        (placement.seen.top, placement.seen.height)
        if axis == 0
        else (placement.seen.left, placement.seen.width)
    )
    edges = torch.cat(
        [torch.tensor([float(start)]).double(), between, torch.tensor([float(start + length)]).double()]
    )
    return (edges[1:].clamp_max(high) - edges[:-1].clamp_min(low)).clamp_min(0)


def principal(
    tokens: Float[Tensor, "B N D"], count: int, centred: bool
) -> tuple[Float[Tensor, "B D K"], Float[Tensor, "B K"], Float[Tensor, "B N D"]]:
    """Leading principal directions, the variances along them, and the tokens they were taken of; by the N x N Gram matrix in float64."""
    wide = tokens.double()
    if centred:
        wide = wide - wide.mean(1, keepdim=True)
    squares, mixtures = torch.linalg.eigh(wide @ wide.mT)  # ascending
    squares, mixtures = squares.flip(-1)[..., :count].clamp_min(0), mixtures.flip(-1)[..., :count]
    directions = torch.nn.functional.normalize(wide.mT @ mixtures, dim=1)
    return directions.to(tokens), (squares / tokens.shape[1]).to(tokens), wide.to(tokens)
