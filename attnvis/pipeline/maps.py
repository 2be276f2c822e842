"""A photo's answers -> one safetensors file, and back: enough to draw again, or to think again,
without the network.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from attnvis.backbone.tensor_file import UNREADABLE, read_tensors, tensors_digest
from attnvis.data.reading import MOST_PIXELS
from attnvis.errors import in_one_line
from attnvis.geometry import as_placement, visible_cells
from attnvis.methods.answer import AlongCells, Answer, Attended, Pooled, Stability
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Attention, Box, ClassScore, Photo, Placement

__all__ = ["map_photo", "read_maps", "read_photo_maps", "write_maps"]

FARTHEST = 1e7  # pixels, of anything that is placed on a photo
SMALLEST = 1e-3  # pixels, of a step between cells
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
        if answer.heads is not None:
            arrays[f"heads.{number}"] = as_array(answer.heads.unflatten(1, answer.placement.grid))
        if answer.vector is not None:
            arrays[f"query.{number}"] = as_array(answer.vector)
        if answer.attended is not None:
            arrays |= attended_arrays(answer.attended, number)
    metadata: dict[str, Any] = {
        "weights": weights,  # "random" must not be forgotten
        "photo": {"name": photo.name, "digest": photo.digest},
        "answers": [described(answer) for answer in answers],
    }
    metadata["digest"] = content_digest(metadata, arrays)
    return save(arrays, {"attnvis": json.dumps(metadata)})  # one entry: of several the order is random


def content_digest(metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Of all that a file holds."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return tensors_digest(json.dumps(metadata), tensors)


def as_array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy().copy()


def described(answer: Answer) -> dict[str, Any]:
    """What is known of an answer beside its numbers."""
    attended = {} if answer.attended is None else {"attended": attended_entry(answer.attended)}
    more: dict[str, Any] = {}  # what most answers have not
    if answer.critical is not None and math.isfinite(answer.critical):
        more["critical"] = answer.critical
    if answer.remarks:
        more["remarks"] = list(answer.remarks)
    entry = {
        "query": answer.query,
        "label": answer.label,
        "layer": answer.layer,
        "mark": asdict(answer.mark) if isinstance(answer.mark, Box) else answer.mark,
        "placement": asdict(answer.placement),
        "class_score": answer.class_score and asdict(answer.class_score),
        "sign_margin": answer.sign_margin,
        "p_value": answer.p_value,
        "stability": stability_entry(answer.stability),
        "predicted": [[name, probability] for name, probability in answer.predicted],
    }
    return attended | entry | more


def read_maps(path: Path) -> list[Answer]:
    """What `write_maps` kept, as answers; they have no values (those are the photo's features),
    so no context.  Raises as `read_photo_maps` does.
    """
    return read_photo_maps(path)[1]


def read_photo_maps(path: Path) -> tuple[str, list[Answer]]:
    """The digest of the photo whose maps a file holds, and the answers.

    Raises FileNotFoundError, and ValueError for a file that is damaged or holds something else.
    """
    try:
        return read_file(path)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        what = in_one_line(error, most=200)
        reason = f"{path} holds no maps of attnvis or is damaged ({what}); run again to make it"
        raise ValueError(reason) from None


def read_file(path: Path) -> tuple[str, list[Answer]]:
    """As `read_photo_maps`.

    Raises FileNotFoundError, and one of UNREADABLE for a file that is not as it was made.
    """
    metadata, tensors = read_tensors(path)
    written = metadata.pop("digest", None)  # maps of earlier versions have none
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise ValueError("its numbers are not float32")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if written is not None and written != content_digest(metadata, arrays):
        raise ValueError("its content is not what was written")
    answers = [restored(entry, tensors, number) for number, entry in enumerate(metadata["answers"])]
    return str(metadata["photo"]["digest"]), answers


def map_photo(path: Path) -> tuple[str, int] | None:
    """Whose maps a file holds - the digest of the photo - and of how many answers; None for a damaged one."""
    try:
        digest, answers = read_file(path)
        return digest, len(answers)
    except UNREADABLE:
        return None


def checked_placement(record: Mapping[str, Any], cells: int) -> Placement:
    """A placement of so many cells that can be drawn.

    Raises ValueError, TypeError or KeyError for another.
    """
    placement = as_placement(record)
    seen = placement.seen
    places = (*placement.first, *placement.step, seen.top, seen.left, seen.height, seen.width)
    lengths = (*placement.step, *(placement.field or ()))
    sizes = (*placement.grid, *placement.size)
    pairs: tuple[Sequence[float], ...] = (placement.first, placement.step, placement.grid, placement.size)
    if (
        any(len(pair) != 2 for pair in pairs)
        or len(lengths) not in (2, 4)
        or not all(type(number) in (int, float) and math.isfinite(number) for number in (*places, *lengths))
        or not all(type(number) is int and number > 0 for number in sizes)
        or not all(number >= SMALLEST for number in lengths)
        or not all(abs(number) <= FARTHEST for number in places)
        or not (seen.height > 0 and seen.width > 0)
        or math.prod(placement.grid) != cells
        or math.prod(placement.size) > MOST_PIXELS
    ):
        raise ValueError("its cells lie nowhere")
    visible_cells(placement)  # raises IndexError where none of them touches the photo
    return replace(placement, source=str(placement.source))


def checked_mark(mark: Any) -> Box | tuple[float, float] | None:
    """What is drawn on the photo.  Raises ValueError or TypeError for what is neither a box nor a point."""
    if mark is None:
        return None
    place = Box(**mark) if isinstance(mark, dict) else tuple(mark)
    numbers = astuple(place) if isinstance(place, Box) else place
    if len(numbers) not in (2, 4) or not all(
        type(number) in (int, float) and abs(number) <= FARTHEST for number in numbers
    ):
        raise ValueError("its mark lies nowhere")
    return place


def checked_margin(margin: Any) -> float | None:
    """How surely a sign is chosen.  Raises ValueError for what is no share."""
    if margin is not None and not (type(margin) in (int, float) and 0 <= margin <= 1):
        raise ValueError("its margin is no share")
    return margin


def checked_critical(value: Any) -> float | None:
    """A score that chance reaches.  Raises ValueError for what is no number."""
    if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
        raise ValueError("its critical score is none")
    return value


def stability_entry(stability: Stability | None) -> dict[str, Any] | None:
    """Its numbers; NaN, which JSON does not have, is null."""
    if stability is None:
        return None
    worst = None if math.isnan(stability.worst) else stability.worst
    return {"worst": worst, "change": stability.change, "spread": stability.spread}


def checked_stability(entry: Mapping[str, Any] | None) -> Stability | None:
    """Raises ValueError for what are no such numbers."""
    if entry is None:
        return None
    worst = math.nan if entry["worst"] is None else float(entry["worst"])
    spread, change = float(entry["spread"]), str(entry["change"])
    if not (-1.001 < worst < 1.001 or math.isnan(worst)) or not 0 <= spread < math.inf:
        raise ValueError("its stability is none")
    return Stability(worst, change, spread)


CELLS = ("insertion", "deletion")
HEATED = ("temperatures", "probabilities", "logits", "margins")
MEANS = ("whole", "inside", "outside")
PARTS = ("probability", "logit", "margin")


def attended_arrays(attended: Attended, number: int) -> dict[str, np.ndarray]:
    """Its curves: over the cells [2, N], along the temperature [4, T]."""
    if attended.reason:
        return {}
    cells = np.stack([getattr(attended, name).curve for name in CELLS])
    heated = np.stack([np.asarray(getattr(attended, name), np.float32) for name in HEATED])
    return {f"cells.{number}": cells, f"heated.{number}": heated}


def attended_entry(attended: Attended) -> dict[str, Any]:
    """Its names and numbers; NaN, which JSON does not have, is null."""
    means = {name: known(asdict(getattr(attended, name))) for name in MEANS}
    areas = known({name: getattr(attended, name).area for name in CELLS})
    return {"name": attended.name, "reason": attended.reason, **means, **areas}


def known(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in entry.items()}


def checked_attended(
    entry: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], number: int
) -> Attended | None:
    """Raises ValueError, TypeError or KeyError for what is none."""
    if entry is None:
        return None
    texts = (entry["name"], entry["reason"], *(entry[name]["name"] for name in MEANS))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its attended classes have no names")
    if entry["reason"]:
        return Attended(reason=entry["reason"])
    cells, heated = (tensors[f"{name}.{number}"].numpy() for name in ("cells", "heated"))
    if cells.ndim != 2 or heated.ndim != 2 or (len(cells), len(heated)) != (len(CELLS), len(HEATED)):
        raise ValueError("its curves are none")

    def as_number(value: Any) -> float:
        return math.nan if value is None else float(value)

    means: dict[str, Any] = {
        name: Pooled(entry[name]["name"], *(as_number(entry[name][key]) for key in PARTS)) for name in MEANS
    }
    curves: dict[str, Any] = {
        name: AlongCells(as_number(entry[name]), curve) for name, curve in zip(CELLS, cells, strict=True)
    }
    along: dict[str, Any] = dict(zip(HEATED, heated, strict=True))
    along["temperatures"] = tuple(heated[0].tolist())
    return Attended(entry["name"], **means, **curves, **along)


def checked_score(record: Mapping[str, Any] | None) -> ClassScore | None:
    """What an answer says of its class; maps of before version 0.2 say nothing.

    Raises ValueError or TypeError for what is none of ours.
    """
    if record is None:
        return None
    score: Any = ClassScore(**record)
    counts_and_numbers = (score.index, score.rank, score.probability, score.logit)
    if (
        not isinstance(score.name, str)
        or not all(type(count) is int and count >= 0 for count in counts_and_numbers[:2])
        or not all(type(number) in (int, float) for number in counts_and_numbers)
        or not (0 <= score.probability <= 1 and math.isfinite(score.logit))
    ):
        raise ValueError("its class has no score")
    return score


def restored(entry: Mapping[str, Any], tensors: Mapping[str, Tensor], number: int) -> Answer:
    """One answer of a file, its diagnostics computed again.

    The gradient's are left out: they depend on the scaling and the normaliser, which the file does not know.
    """
    weights = tensors[f"weights.{number}"].flatten()
    placement = checked_placement(entry["placement"], cells=len(weights))
    texts = (entry["query"], entry["label"], entry["layer"])
    if not weights.isfinite().all() or not all(isinstance(text, str) for text in texts):
        raise ValueError("its weights are not finite, or its names are none")
    attention, vector = None, None
    diagnostics = diagnose(weights)
    if f"scores.{number}" in tensors:
        vector = tensors[f"query.{number}"]
        scores, logits = tensors[f"scores.{number}"].flatten(), tensors[f"logits.{number}"].flatten()
        if (
            not scores.isfinite().all()
            or logits.isnan().any()
            or len({len(scores), len(logits), len(weights)}) > 1
        ):
            raise ValueError("its scores are not finite, or of another grid")
        attention = Attention(
            scores=scores.view(1, 1, -1),
            logits=logits.view(1, 1, -1),
            weights=weights.view(1, 1, -1),
            dim=len(vector),
        )
        diagnostics = diagnose(weights, logits, scores, dim=len(vector))
    heads = tensors[f"heads.{number}"].flatten(1) if f"heads.{number}" in tensors else None
    if heads is not None and (heads.shape[1] != len(weights) or not heads.isfinite().all()):
        raise ValueError("its heads are not finite, or of another grid")
    return Answer(
        query=entry["query"],
        label=entry["label"],
        weights=weights,
        placement=placement,
        diagnostics={name: float(value) for name, value in diagnostics.items()},
        attention=attention,
        vector=vector,
        mark=checked_mark(entry["mark"]),
        layer=entry["layer"],
        class_score=checked_score(entry.get("class_score")),
        sign_margin=checked_margin(entry.get("sign_margin")),
        p_value=checked_margin(entry.get("p_value")),
        critical=checked_critical(entry.get("critical")),
        stability=checked_stability(entry.get("stability")),
        heads=heads,
        remarks=tuple(map(str, entry.get("remarks", ()))),
        attended=checked_attended(entry.get("attended"), tensors, number),
        predicted=tuple((str(name), float(chance)) for name, chance in entry.get("predicted", ())),
    )
