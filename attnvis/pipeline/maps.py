"""A photo's answers -> one safetensors file, and back: enough to draw again, or to think again,
without the network.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from attnvis.geometry import as_placement
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Attention, Box, ClassScore, Photo

__all__ = ["map_photo", "read_maps", "write_maps"]

STAGES = ("scores", "logits", "weights")  # of an attention; another method has weights alone


def write_maps(photo: Photo, answers: Sequence[Answer], weights: str = "") -> bytes:
    """Every answer's raw numbers as safetensors: scores.0, logits.0, weights.0 [h, w], query.0 [K],
    and so on.

    What has no shape of numbers - labels, marks, placements - is metadata.
    `weights` are those of the network, in words.
    """
    arrays = {}
    for number, answer in enumerate(answers):
        stages = {"weights": answer.weights}
        if answer.attention is not None:
            stages = {stage: getattr(answer.attention, stage) for stage in STAGES}
        for stage, tensor in stages.items():
            arrays[f"{stage}.{number}"] = as_array(tensor.reshape(answer.placement.grid))
        if answer.vector is not None:
            arrays[f"query.{number}"] = as_array(answer.vector)
    metadata = {
        "weights": weights,  # "random" must not be forgotten
        "photo": {"name": photo.name, "digest": photo.digest},
        "answers": [described(answer) for answer in answers],
    }
    return save(arrays, {"attnvis": json.dumps(metadata)})


def as_array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy().copy()


def described(answer: Answer) -> dict[str, Any]:
    """What is known of an answer beside its numbers."""
    return {
        "query": answer.query,
        "label": answer.label,
        "layer": answer.layer,
        "mark": asdict(answer.mark) if isinstance(answer.mark, Box) else answer.mark,
        "placement": asdict(answer.placement),
        "class_score": answer.class_score and asdict(answer.class_score),
        "sign_margin": answer.sign_margin,
    }


def read_maps(path: Path) -> list[Answer]:
    """What `write_maps` kept, as answers; they have no values (those are the photo's features),
    so no context.

    Raises FileNotFoundError, and ValueError for a file that is damaged or holds something else.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})["attnvis"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        entries = metadata["answers"]
        return [restored(entry, tensors, number) for number, entry in enumerate(entries)]
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = f"{path} holds no maps of attnvis or is damaged ({error}); run again to make it"
        raise ValueError(reason) from None


def map_photo(path: Path) -> tuple[str, int] | None:
    """Whose maps a file holds - the digest of the photo - and of how many answers; None for a damaged one."""
    try:
        answers = read_maps(path)
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["attnvis"])
        return metadata["photo"]["digest"], len(answers)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        return None


def restored(entry: Mapping[str, Any], tensors: Mapping[str, Tensor], number: int) -> Answer:
    """One answer of a file, its diagnostics computed again."""
    weights = tensors[f"weights.{number}"].flatten()
    attention, vector = None, None
    diagnostics = diagnose(weights)
    if f"scores.{number}" in tensors:
        vector = tensors[f"query.{number}"]
        scores, logits = tensors[f"scores.{number}"].flatten(), tensors[f"logits.{number}"].flatten()
        attention = Attention(
            scores=scores.view(1, 1, -1),
            logits=logits.view(1, 1, -1),
            weights=weights.view(1, 1, -1),
            dim=len(vector),
        )
        diagnostics = diagnose(weights, logits, scores, dim=len(vector))
    mark = entry["mark"]
    class_score = entry.get("class_score")  # maps of before version 0.2 have none
    return Answer(
        query=entry["query"],
        label=entry["label"],
        weights=weights,
        placement=as_placement(entry["placement"]),
        diagnostics={name: float(value) for name, value in diagnostics.items()},
        attention=attention,
        vector=vector,
        mark=Box(**mark) if isinstance(mark, dict) else mark and tuple(mark),
        layer=entry["layer"],
        class_score=ClassScore(**class_score) if class_score else None,
        sign_margin=entry.get("sign_margin"),
    )
