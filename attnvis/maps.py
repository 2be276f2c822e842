"""A photo's answers -> one safetensors file, and back: enough to draw again, or to think again, without the network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from attnvis.diagnostics import diagnose
from attnvis.method import Answer
from attnvis.values import Attention, Box, Photo, Placement

__all__ = ["as_placement", "read_maps", "write_maps"]


def write_maps(photo: Photo, answers: Sequence[Answer], weights: str = "") -> bytes:
    """Every answer's raw numbers as safetensors: scores, logits and weights [Q, h, w], the query vectors, and the placement as metadata."""
    grid = answers[0].placement.grid
    arrays = {
        stage: np.stack([getattr(answer.attention, stage).reshape(grid).float().cpu().numpy() for answer in answers])
        for stage in ("scores", "logits", "weights")
    }
    arrays |= {f"query.{number}": answer.vector.float().cpu().numpy().copy() for number, answer in enumerate(answers)}
    about = {
        "weights": weights,  # of the network, in words: "random" must not be forgotten
        "photo": {"name": photo.name, "digest": photo.digest},
        "placement": asdict(answers[0].placement),
        "answers": [
            {"query": answer.query, "label": answer.label, "mark": asdict(answer.mark) if isinstance(answer.mark, Box) else answer.mark}
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
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} holds no maps of attnvis or is damaged ({error}); run again to make it") from None
    placement = as_placement(about["placement"])
    answers = []
    for number, entry in enumerate(about["answers"]):
        scores, logits, weights = (tensors[stage][number].reshape(1, 1, -1) for stage in ("scores", "logits", "weights"))
        vector = tensors[f"query.{number}"]
        attention = Attention(scores, logits, weights, values=torch.empty(1, scores.shape[-1], 0), dim=len(vector))
        mark = Box(**entry["mark"]) if isinstance(entry["mark"], dict) else entry["mark"] and tuple(entry["mark"])
        numbers = {name: float(value) for name, value in diagnose(attention).items()}
        answers.append(Answer(entry["query"], entry["label"], attention, placement, numbers, vector, mark))
    return answers


def as_placement(told: Mapping[str, Any]) -> Placement:
    """What `dataclasses.asdict` made of it, and JSON of that."""
    return Placement(**{key: tuple(value) for key, value in told.items() if key != "seen"}, seen=Box(**told["seen"]))
