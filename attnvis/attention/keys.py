"""What the patches are compared by.  Every function: Features -> keys [B, N, K] and what becomes of a query.

The values stay: weights say which patches, the context is of what the network made of them.  A matrix that
makes the keys makes the query too (W_Q = W_K), so that scores stay linear in the query; what is subtracted
from keys is not subtracted from the query, for a query is a direction and no patch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnvis.attention.dot_product import at_least_float32
from attnvis.attention.query.kinds import principal_directions
from attnvis.attention.query.patches import shares_along
from attnvis.types import Features

__all__ = ["centred", "l2", "layer", "linear", "pca", "same", "shuffled", "whitened"]

NEGLIGIBLE = 1e-12  # of the largest variance: less is rounding, and no direction


def unchanged(vectors: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q D"]:
    return vectors


@dataclass(frozen=True, eq=False)
class KeySpace:
    """The keys, and how a query comes to them.

    order   of keys that are only in another order: key i is patch order[i]; then any query can meet them
    notes   of each photo, what is to be known of its keys; () where there is nothing
    """

    keys: Float[Tensor, "B N K"]
    project: Callable[[Float[Tensor, "B Q D"]], Float[Tensor, "B Q K"]] = unchanged
    order: Int[Tensor, " N"] | None = None
    notes: tuple[tuple[str, ...], ...] = ()


KeyFunction = Callable[[Features], KeySpace | Tensor]


def same(features: Features) -> KeySpace:
    """K = V."""
    return KeySpace(at_least_float32(features.tokens))


def centred(features: Features) -> KeySpace:
    """k_i = v_i - g, g the photo's mean patch.

    All scores of a query move by the same -q.g: softmax, and whatever sees only differences, gives the same
    map.  What sees angles (cosine) or signs (relu, power, sigmoid) gives another.
    """
    tokens = at_least_float32(features.tokens)
    return KeySpace(tokens - tokens.mean(1, keepdim=True))


def l2(features: Features) -> KeySpace:
    """k_i = v_i / |v_i|: a patch is compared by its direction, whatever its norm; a patch of 0 stays 0.

    normalise(q) with it has cosines as scores.
    """
    return KeySpace(torch.nn.functional.normalize(at_least_float32(features.tokens), dim=-1))


def pca(features: Features, components: int = 16) -> KeySpace:
    """k_i = P'(v_i - g), q -> P'q: the photo's leading principal directions P alone, D x r.

    With all directions it is `centred`.  Raises ValueError for fewer than 1 component; more than the photo's
    patches have count as all, which is said.
    """
    directions, _, patches, notes = leading(features, components, "pca")
    return KeySpace(patches @ directions, lambda vectors: vectors @ directions, notes=notes)


def whitened(features: Features, components: int = 16) -> KeySpace:
    """k_i = A(v_i - g), q -> Aq with A = S^-1/2 P': the leading directions, each made of variance 1.

    s_i = q' P S^-1 P' (v_i - g): what is frequent in the photo counts for less, as in a matched filter or
    Fisher's discriminant.  Errors and notes as `pca`.
    """
    directions, variances, patches, notes = leading(features, components, "whitened")
    lengths = variances.sqrt()
    divisors = torch.where(lengths > 0, lengths, 1.0).unsqueeze(1)  # [B, 1, r]
    matrix = torch.where(lengths.unsqueeze(1) > 0, directions / divisors, 0.0)
    return KeySpace(patches @ matrix, lambda vectors: vectors @ matrix, notes=notes)


def leading(
    features: Features, components: int, name: str
) -> tuple[Float[Tensor, "B D r"], Float[Tensor, "B r"], Float[Tensor, "B N D"], tuple[tuple[str, ...], ...]]:
    """Directions, variances along them and centred patches; where a photo has fewer, the rest is 0."""
    if components < 1:
        raise ValueError(f"keys {name} needs at least 1 component, not {components}")
    _, patches, channels = features.tokens.shape
    most = max(1, min(patches - 1, channels))
    directions, variances, centred_patches = principal_directions(
        at_least_float32(features.tokens), min(components, most), centred=True
    )
    largest = variances[:, :1]
    is_there = (variances > NEGLIGIBLE * largest) & (variances > 0)
    notes = tuple(
        (f"keys {name}:{components}: the patches of this photo have {count} directions, all are taken",)
        if count < components
        else ()
        for count in is_there.sum(1).tolist()
    )
    directions = torch.where(is_there.unsqueeze(1), directions, 0.0)
    return directions, torch.where(is_there, variances, 0.0), centred_patches, notes


def linear(features: Features, file: str) -> KeySpace:
    """k_i = W v_i, q -> W q, W [K, D] from a .npy or .safetensors (of one tensor).

    It is read before the first photo, by `pipeline.preparing.prepared_keys`.  Raises ValueError where that
    was not done.
    """
    raise ValueError(
        f"keys linear:{file} sees a file, and nobody read it; attnvis.explain does, and so does "
        "attnvis.pipeline.preparing.prepared_keys(keys)"
    )


@dataclass(frozen=True, eq=False)
class Linear:
    """A matrix that was read from a file: a function of keys."""

    file: str
    matrix: Float[Tensor, "K D"]

    def __call__(self, features: Features) -> KeySpace:
        """Raises ValueError for a matrix that does not fit the patches."""
        tokens = at_least_float32(features.tokens)
        rows, columns = self.matrix.shape
        channels = tokens.shape[2]
        if columns != channels:
            advice = "it fits transposed" if rows == channels else f"give [K, {channels}]"
            raise ValueError(
                f"keys linear:{self.file}: the matrix is [{rows}, {columns}] and the patches of layer "
                f"{features.layer} have {channels} numbers; {advice}"
            )
        matrix = self.matrix.to(tokens)
        return KeySpace(tokens @ matrix.mT, lambda vectors: vectors @ matrix.mT)


def layer(features: Features, name: str) -> KeySpace:
    """The patches of another layer of the same pass, brought to this one's cells.

    The question is made of that layer too: its patches, its classifier's reading.  Raises ValueError: it
    needs both layers, and `key_space.asked_layers` has them.
    """
    raise ValueError(f"keys layer:{name} needs two layers of one pass; give backbone.layer=[{name},last]")


def shuffled(features: Features, seed: int = 0) -> KeySpace:
    """The patches in an order drawn from the seed, the same for every query: the control.

    Its map has the same weights at other places.  One that still points at something says nothing.
    """
    order = torch.randperm(features.tokens.shape[1], generator=torch.Generator().manual_seed(seed))
    order = order.to(features.tokens.device)
    return KeySpace(at_least_float32(features.tokens)[:, order], order=order)


# --------------------------------------------------------------------------------------- from grid to grid


def on_grid_of(values: Features, source: Features) -> Float[Tensor, "B N D"]:
    """The source's patches at the cells of another layer of the same photos.

    Of finer cells the mean over each coarse cell, by the area that they share with it; of coarser ones linear
    interpolation at the cell's centre.
    """
    tokens = at_least_float32(source.tokens)
    photos = []
    for photo, (to, of) in enumerate(zip(values.placements, source.placements, strict=True)):
        rows, columns = (shares_along(to, of, axis).to(tokens) for axis in (0, 1))
        maps = tokens[photo].unflatten(0, source.grid)  # [h, w, D]
        photos.append(torch.einsum("ih,jw,hwd->ijd", rows, columns, maps).flatten(0, 1))
    return torch.stack(photos)
