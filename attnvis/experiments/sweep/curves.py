"""What a job keeps of each query beside its rows: curves, added up over the photos or kept photo by photo."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file

from attnvis.methods.settings import PhotoResult

__all__ = ["KEPT", "QueryCurves", "read_curves"]

KEPT = 2_000  # photos whose curves are kept one by one
CURVES = ("ranks", "gaps", "perplexity", "gradient", "tau")


class QueryCurves:
    """The curves of one query under S settings, over all photos; of the first KEPT photo by photo."""

    def __init__(self, sharpness: Sequence[float]) -> None:
        self.sharpness = sharpness
        self.photos = 0
        self.ranks: np.ndarray | float = 0.0  # sums over photos
        self.gaps: np.ndarray | float = 0.0
        self.perplexity: list[np.ndarray] = []  # of each photo
        self.gradient: list[np.ndarray] = []
        self.tau: list[np.ndarray] = []

    def add(self, result: PhotoResult) -> None:
        batch, at = result.batch, result.at
        self.photos += 1
        self.ranks = self.ranks + batch.ranked[:, *at].numpy()
        self.gaps = self.gaps + batch.gaps[:, *at].numpy()
        if self.photos <= KEPT:
            perplexity, gradient = batch.heated
            self.perplexity.append(perplexity[at].float().numpy())
            self.gradient.append(gradient[at].float().numpy())
            self.tau.append(np.array([result.temperature_for(share) for share in self.sharpness]))

    def arrays(self) -> dict[str, np.ndarray]:
        """ranks [S, R], gaps [S+1, bins], perplexity and gradient [P, T], tau [P, shares]."""
        return {
            "ranks": np.asarray(self.ranks / self.photos),
            "gaps": np.asarray(self.gaps),
            "perplexity": np.stack(self.perplexity),
            "gradient": np.stack(self.gradient),
            "tau": np.stack(self.tau),
        }


def read_curves(path: Path, queries: Sequence[str]) -> dict[str, dict[str, Float[np.ndarray, "..."]]]:
    """query -> its `QueryCurves.arrays`."""
    arrays = load_file(path)
    return {
        query: {name: arrays[f"{number}/{name}"] for name in CURVES} for number, query in enumerate(queries)
    }
