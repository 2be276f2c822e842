"""What a job keeps of each query beside its rows: curves, added up over the photos or kept photo by photo."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file

from attnvis.methods.settings import PhotoResult

__all__ = ["KEPT", "KeptCurves", "PhotoCurves", "QueryCurves", "curves_of", "kept_curves", "read_curves"]

KEPT = 2_000  # photos whose curves are kept one by one
CURVES = ("ranks", "gaps", "perplexity", "gradient", "tau")


@dataclass(frozen=True, eq=False)
class KeptCurves:
    """One photo's and one query's curves against temperature."""

    perplexity: Float[np.ndarray, " T"]
    gradient: Float[np.ndarray, " T"]
    tau: Float[np.ndarray, " shares"]


@dataclass(frozen=True, eq=False)
class PhotoCurves:
    """What one photo adds to the curves of one query under S settings."""

    ranks: Float[np.ndarray, "S R"]
    gaps: Float[np.ndarray, "S+1 bins"]
    kept: KeptCurves | None  # None: only needed where photos before it failed


def curves_of(result: PhotoResult, sharpness: Sequence[float], index: int) -> PhotoCurves:
    """Of the photo with this number; `sharpness`: shares of the patches for which a temperature is found."""
    ranks, gaps = result.batch.ranked[:, *result.at], result.batch.gaps[:, *result.at]
    kept = kept_curves(result, sharpness) if index < KEPT else None
    return PhotoCurves(ranks.numpy(), gaps.numpy(), kept)


def kept_curves(result: PhotoResult, sharpness: Sequence[float]) -> KeptCurves:
    """The part that costs time and room, and of which the first KEPT photos are enough."""
    perplexity, gradient = result.batch.heated
    return KeptCurves(
        perplexity[result.at].float().numpy(),
        gradient=gradient[result.at].float().numpy(),
        tau=np.array([result.temperature_for(share) for share in sharpness]),
    )


class QueryCurves:
    """The curves of one query under S settings, over all photos; of the first KEPT photo by photo."""

    def __init__(self) -> None:
        self.photos = 0
        self.ranks: np.ndarray | float = 0.0  # sums over photos
        self.gaps: np.ndarray | float = 0.0
        self.kept: list[KeptCurves] = []  # of each photo

    @property
    def keeps_more(self) -> bool:
        return len(self.kept) < KEPT

    def add(self, curves: PhotoCurves) -> None:
        """In the order of the photos: sums depend on it in their last digits."""
        self.photos += 1
        self.ranks = self.ranks + curves.ranks
        self.gaps = self.gaps + curves.gaps
        if curves.kept is not None and self.keeps_more:
            self.kept.append(curves.kept)

    def arrays(self) -> dict[str, np.ndarray]:
        """ranks [S, R], gaps [S+1, bins], perplexity and gradient [P, T], tau [P, shares]."""
        return {
            "ranks": np.asarray(self.ranks / self.photos),
            "gaps": np.asarray(self.gaps),
            "perplexity": np.stack([curves.perplexity for curves in self.kept]),
            "gradient": np.stack([curves.gradient for curves in self.kept]),
            "tau": np.stack([curves.tau for curves in self.kept]),
        }


def read_curves(path: Path, queries: Sequence[str]) -> dict[str, dict[str, Float[np.ndarray, "..."]]]:
    """query -> its `QueryCurves.arrays`."""
    arrays = load_file(path)
    return {
        query: {name: arrays[f"{number}/{name}"] for name in CURVES} for number, query in enumerate(queries)
    }
