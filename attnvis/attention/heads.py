"""One product of query and keys in several.  Every function: Scores -> the Scores of H heads.

Each head sees a group of channels, is scaled with its own d_k and normalised by itself; the map is the mean
of the heads' weights.  The heads' raw scores add up to the whole product.  A CNN's channels have no groups:
what differs between contiguous groups and random ones is the order in which channels happen to be stored.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.query.kinds import principal_directions
from attnvis.types import Features, PhotoError, Scores

__all__ = ["contiguous", "one", "pca", "random"]

HeadFunction = Callable[[Scores], Sequence[Scores]]


def one(scores: Scores) -> list[Scores]:
    """All channels together."""
    return [scores]


def contiguous(scores: Scores, count: int = 4) -> list[Scores]:
    """Neighbouring channels: 0 ... D/H - 1, and so on; where H does not divide D the first have one more.

    Raises ValueError for fewer than 1 head, and for more than the keys have channels.
    """
    require_count(scores, count, "contiguous")
    return grouped(scores.query, scores.keys, count)


def random(scores: Scores, count: int = 4, seed: int = 0) -> list[Scores]:
    """Groups of channels drawn from the seed, for every photo the same: the control of `contiguous`."""
    require_count(scores, count, "random")
    order = torch.randperm(scores.dim, generator=torch.Generator().manual_seed(seed)).to(scores.keys.device)
    return grouped(scores.query[..., order], scores.keys[..., order], count)


def pca(scores: Scores, count: int = 4) -> list[Scores]:
    """Groups of the photo's principal directions (uncentred), the largest in the first head.

    The keys lie in the span of min(N, D) directions, so that no score is lost; each head counts as D/H
    channels.  Raises ValueError as `contiguous` does, PhotoError for more heads than directions.
    """
    require_count(scores, count, "pca")
    available = min(scores.patches, scores.dim)
    if count > available:
        raise PhotoError(
            f"heads=pca:{count}: the patches of this photo have {available} directions; give fewer heads"
        )
    directions, _, _ = principal_directions(scores.keys, available, centred=False)
    heads = grouped(scores.query @ directions, scores.keys @ directions, count)
    sizes = [len(group) for group in torch.arange(scores.dim).tensor_split(count)]
    return [
        Scores(padded(head.query, size), padded(head.keys, size))
        for head, size in zip(heads, sizes, strict=True)
    ]


def split(function: HeadFunction, scores: Scores, features: Features) -> Sequence[Scores]:
    """The scores of each head.  Raises PhotoError with the photo's name where its patches make too few."""
    try:
        return function(scores)
    except PhotoError as error:
        raise PhotoError(f"{', '.join(features.names) or 'photo 0'}: {error}") from None


def require_count(scores: Scores, count: int, name: str) -> None:
    if count < 1:
        raise ValueError(f"heads {name} needs at least 1 head, not {count}")
    if count > scores.dim:
        noun = "number" if scores.dim == 1 else "numbers"
        raise ValueError(
            f"heads {name}:{count}: the keys of this query have {scores.dim} {noun} a patch; "
            "give fewer heads, or heads=1"
        )


def grouped(query: Float[Tensor, "B Q K"], keys: Float[Tensor, "B N K"], count: int) -> list[Scores]:
    parts = zip(query.tensor_split(count, -1), keys.tensor_split(count, -1), strict=True)
    return [Scores(of_query, of_keys) for of_query, of_keys in parts]


def padded(vectors: Float[Tensor, "B M K"], size: int) -> Float[Tensor, "B M S"]:
    """With zeros behind: they change no product and no angle."""
    return torch.nn.functional.pad(vectors, (0, size - vectors.shape[-1]))
