"""A photo's answers -> one safetensors file, and back: enough to draw again, or to think again, without the network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from attnvis.geometry import as_placement
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Attention, Box, ClassScore, Photo

__all__ = ["read_maps", "write_maps"]

STAGES = ("scores", "logits", "weights")


def write_maps(photo: Photo, answers: Sequence[Answer], weights: str = "") -> bytes:
    """Every answer's raw numbers as safetensors: scores.0, logits.0, weights.0 [h, w], query.0 [K], and so on; places as metadata."""
    arrays = {
        f"{stage}.{number}": getattr(answer.attention, stage)
        .reshape(answer.placement.grid)
        .float()
        .cpu()
        .numpy()
        .copy()
        for number, answer in enumerate(answers)
        for stage in STAGES
    }
    arrays |= {
        f"query.{number}": answer.vector.float().cpu().numpy().copy() for number, answer in enumerate(answers)
    }
    about = {
        "weights": weights,  # of the network, in words: "random" must not be forgotten
        "photo": {"name": photo.name, "digest": photo.digest},
        "answers": [
            {
                "query": answer.query,
                "label": answer.label,
                "layer": answer.layer,
                "mark": asdict(answer.mark) if isinstance(answer.mark, Box) else answer.mark,
                "placement": asdict(answer.placement),
                "class_score": answer.class_score and asdict(answer.class_score),
                "sign_margin": answer.sign_margin,
            }
            for answer in answers
        ],
    }
    return save(arrays, {"attnvis": json.dumps(about)})


def read_maps(path: Path) -> list[Answer]:
    """What `write_maps` kept, as answers; they have no values (those are the photo's features), so no context."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["attnvis"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return [
            restored(entry, *(tensors[f"{name}.{number}"] for name in (*STAGES, "query")))
            for number, entry in enumerate(about["answers"])
        ]
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} holds no maps of attnvis or is damaged ({error}); run again to make it"
        ) from None


def restored(
    entry: Mapping[str, Any], scores: Tensor, logits: Tensor, weights: Tensor, vector: Tensor
) -> Answer:
    flat = [stage.reshape(1, 1, -1) for stage in (scores, logits, weights)]
    attention = Attention(
        flat[0], flat[1], flat[2], values=torch.empty(1, scores.numel(), 0), dim=len(vector)
    )
    mark = Box(**entry["mark"]) if isinstance(entry["mark"], dict) else entry["mark"] and tuple(entry["mark"])
    numbers = {name: float(value) for name, value in diagnose(attention).items()}
    score = entry.get("class_score")  # maps of before version 0.2 have none
    return Answer(
        query=entry["query"],
        label=entry["label"],
        attention=attention,
        placement=as_placement(entry["placement"]),
        diagnostics=numbers,
        vector=vector,
        mark=mark,
        layer=entry["layer"],
        class_score=ClassScore(**score) if score else None,
        sign_margin=entry.get("sign_margin"),
    )
