"""Metrics that ask the network again, as torchcam, Quantus and plain loops compute them."""

import contextlib
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnvis.metrics import faithfulness
from metric_oracles.common import (
    SIZE,
    Row,
)


def faithfulness_rows() -> list[Row]:
    """On a network of one layer and an image of noise."""
    torchcam = importlib.import_module("torchcam.metrics")
    perturbing = importlib.import_module("quantus.functions.perturb_func")
    chance = torch.Generator().manual_seed(3)
    image = torch.randn(3, *SIZE, generator=chance, dtype=torch.float64)
    weights = torch.randn(5, 3 * SIZE[0] * SIZE[1], generator=chance, dtype=torch.float64) / 20
    layer = torch.nn.Linear(weights.shape[1], 5, bias=False).double()
    layer.weight.data.copy_(weights)
    net = torch.nn.Sequential(torch.nn.Flatten(), layer).eval()
    target = int(net(image[None]).argmax())
    examined = faithfulness.Examined(image, logits=net, target=target)
    steps = SIZE[0] * SIZE[1] // 90  # which divides the pixels: theirs takes whole steps

    def extractor(values: np.ndarray) -> Any:
        shares = (values - values.min()) / max(np.ptp(values), 1e-300)
        shown = torch.from_numpy(shares if np.ptp(values) else np.zeros(SIZE))[None]

        def extract(*_: Any, **__: Any) -> list[Tensor]:
            return [shown]

        extract.model = net  # type: ignore[attr-defined]
        extract.fuse_cams = lambda cams: cams[0]  # type: ignore[attr-defined]
        extract._hooks_off = contextlib.nullcontext  # type: ignore[attr-defined]
        return extract

    def by_torchcam(kind: str, result: str, **settings: Any) -> Callable[[np.ndarray], float]:
        def value(values: np.ndarray) -> float:
            measure = getattr(torchcam, kind)(extractor(values), partial(torch.softmax, dim=-1), **settings)
            measure.update(image[None], class_idx=target)
            return measure.summary()[result]

        return value

    def road_by_quantus(values: np.ndarray) -> float:
        order = np.argsort(-values.ravel(), kind="stable")
        scores = []
        for chosen in (order[::-1], order):
            for percent in (20, 40, 60, 80):
                removed = np.sort(chosen[: round(values.size * percent / 100)])
                filled = perturbing.noisy_linear_imputation(image.numpy().copy(), removed, noise=0.0)
                with torch.no_grad():
                    scores.append(net(torch.from_numpy(filled)[None]).softmax(1)[0, target].item())
        return (np.mean(scores[:4]) - np.mean(scores[4:])) / 2

    return [
        Row(
            partial(faithfulness.deletion, steps=steps),
            "torchcam DeletionInsertionMetric",
            by_torchcam("DeletionInsertionMetric", "deletion_auc", steps=steps),
            examined,
            name="deletion",
        ),
        Row(
            partial(faithfulness.insertion, steps=steps, substitute="mean"),
            "torchcam DeletionInsertionMetric",
            by_torchcam("DeletionInsertionMetric", "insertion_auc", steps=steps),
            examined,
            name="insertion",
        ),
        Row(
            partial(faithfulness.road, noise=0.0),
            "Quantus noisy_linear_imputation",
            road_by_quantus,
            examined,
            name="road",
        ),
        Row(
            faithfulness.average_drop,
            "torchcam ClassificationMetric",
            by_torchcam("ClassificationMetric", "avg_drop"),
            examined,
        ),
        Row(
            faithfulness.confidence_increase,
            "torchcam ClassificationMetric",
            by_torchcam("ClassificationMetric", "conf_increase"),
            examined,
        ),
        *latent_rows(chance),
    ]


def latent_rows(chance: torch.Generator) -> list[Row]:
    scores = torch.randn(7, *SIZE, generator=chance, dtype=torch.float64)
    evidence = faithfulness.Evidence(scores, constants=torch.randn(7, generator=chance).double(), target=4)

    def by_loop(values: np.ndarray, inserts: bool) -> float:
        order = np.argsort(-values.ravel(), kind="stable")
        kept = [order[: count + 1] if inserts else order[count:] for count in range(len(order))]
        cells = scores.flatten(1)
        curve = [
            (cells[:, chosen].mean(1) + evidence.constants).softmax(0)[4].item()
            for chosen in map(torch.from_numpy, kept)
        ]
        return float(np.trapezoid(curve) / (len(curve) - 1))

    return [
        Row(
            getattr(faithfulness, name),
            "the head on the mean of the kept cells",
            partial(by_loop, inserts=name == "latent_insertion"),
            evidence,
        )
        for name in ("latent_deletion", "latent_insertion")
    ]
