"""Files of attnvis' that hold tensors: maps, a cache of features; and stored calibrations."""

import contextlib
import io
import json
import os
import random
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.common import Damage, Kind, spoil_json
from fuzzing.mutations import damage, damage_bytes, damage_json, damage_json_text


def make_maps() -> dict[str, bytes]:
    import torch

    from attnvis.attention.dot_product import weigh
    from attnvis.attention.normalise import softmax
    from attnvis.attention.scaling import inv_sqrt_d
    from attnvis.methods.answer import Answer
    from attnvis.pipeline.maps import write_maps
    from attnvis.types import Box, ClassScore, Photo, Placement, Scores

    placement = Placement(
        (10.0, 10.0),
        (20.0, 20.0),
        grid=(3, 4),
        size=(60, 80),
        seen=Box(0.0, 0.0, 60.0, 80.0),
        field=(30.0, 30.0),
    )
    files = {}
    for number in range(3):
        random_numbers = torch.Generator().manual_seed(number)
        query, keys = (torch.randn(1, count, 5, generator=random_numbers) for count in (1, 12))
        attention = weigh(Scores(query, keys), keys, scaling=inv_sqrt_d, normalise=softmax)
        answer = Answer(
            "class:cat", "cat", attention.weights[0, 0], placement, {}, attention, vector=query[0, 0],
            class_score=ClassScore(3, "cat", 0.5, 1.25, 1), sign_margin=0.5,
        )  # fmt: skip
        marked = replace(answer, query="point:1,2", label="1,2", mark=(1.0, 2.0), class_score=None)
        photo = Photo(f"{number}.png", np.zeros((60, 80, 3), np.uint8), (60, 80), str(number) * 64)
        files[f"{number}.safetensors"] = write_maps(photo, [answer, marked], "none")
        Path("out", f"{number}.safetensors").write_bytes(files[f"{number}.safetensors"])
    return files


def spoil_maps(files: dict[str, bytes], dice: random.Random) -> Damage:
    import torch
    from safetensors.torch import load, save

    from attnvis.pipeline.maps import content_digest

    path, whole = Path("out/0.safetensors"), files["0.safetensors"]
    kind = dice.random()
    if kind < 0.4:
        path.write_bytes(damage_bytes(whole, dice, tuple(files.values())))
        return Damage("bytes")
    if kind < 0.5:
        return Damage(damage(Path("out"), list(files)[:1], Path("outside/victim").absolute(), dice))
    metadata: Any = metadata_of(whole)
    tensors: dict[str, Any] = dict(sorted(load(whole).items()))
    if dice.random() < 0.7:
        metadata = damage_json(metadata, dice)
    if dice.random() < 0.5:
        tensors = damage_tensors(tensors, dice)
    forged = dice.random() < 0.7 and isinstance(metadata, dict)
    if forged:
        metadata.pop("digest", None)
        with contextlib.suppress(TypeError):  # of bfloat16 numpy knows nothing
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            metadata["digest"] = content_digest(metadata, arrays)
    text = json.dumps(metadata)
    if dice.random() < 0.1:
        text = damage_json_text(text, dice).replace("\ud83d", "")
    path.write_bytes(save({name: torch.clone(tensor) for name, tensor in tensors.items()}, {"attnvis": text}))
    without_seal = not isinstance(metadata, dict) or "digest" not in metadata
    return Damage("forged" if forged else "metadata", forged or without_seal)


def metadata_of(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["attnvis"])


def damage_tensors(tensors: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Of other shapes, types and values; more, fewer, exchanged."""
    import torch

    changed = dict(tensors)
    name, other = dice.choice(list(changed)), dice.choice(list(changed))
    tensor = changed[name].clone()
    match dice.randrange(9):
        case 0:
            del changed[name]
        case 1:
            changed[name], changed[other] = changed[other].clone(), tensor
        case 2:
            changed[name] = tensor[:1].clone()
        case 3:
            changed[name] = tensor.flatten()[:-1].clone()
        case 4:
            changed[name] = tensor.to(dice.choice([torch.float64, torch.int32, torch.bool, torch.bfloat16]))
        case 5:
            changed[name] = torch.full_like(tensor, dice.choice([torch.nan, torch.inf, -1.0, 0.0, 1e38]))
        case 6:
            changed[name] = torch.zeros(dice.choice([(0,), (), (1, 1, 1, 1), (100_000,), (3, 1)]))
        case 7:
            changed[dice.choice(["x", "weights.7", "tokens.9", ""])] = tensor
        case _:
            tensor.view(-1)[dice.randrange(tensor.numel())] = dice.choice([torch.nan, torch.inf, -5.0, 0.0])
            changed[name] = tensor
    return changed


def read_maps_file(_: Any) -> Any:
    import attnvis
    from attnvis.pipeline.drawing import number_lines
    from attnvis.pipeline.maps import map_photo

    path = Path("out/0.safetensors")
    owner = map_photo(path)
    try:
        answers = attnvis.read_maps(path)
    except (ValueError, FileNotFoundError):
        assert owner is None, "whose maps they are is known, and not what they are"
        raise
    for answer in answers:  # what a redraw does with them
        assert answer.map((30, 40)).shape == (30, 40)
        list(number_lines(answer)), answer.warnings, answer.field, answer.top(), str(answer.class_score)
    keep = ("query", "label", "mark", "layer", "class_score", "sign_margin", "placement")
    return owner, [[getattr(answer, name) for name in keep] + [answer.weights.tolist()] for answer in answers]


def small_network() -> Any:
    """A backbone of 5 channels and 3 classes, whose maps have the stride 16."""
    import torch

    from attnvis.backbone.build import build_backbone

    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 17, stride=16)
    net = torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(5, 3))
    engine: dict[str, Any] = {"device": "cpu", "precision": "fp32", "engine": "eager"}
    return build_backbone(net, stages={"last": "0"}, head="linear:3", size=65, name="small", **engine)


def make_cache() -> Any:
    """A network of four patches, a cache of its features, and a batch that is asked again."""
    from attnvis.backbone.cache import Cached
    from attnvis.data.decoding import load
    from attnvis.data.preprocessing import collate
    from attnvis.types import Preprocessing

    backbone = small_network()
    how = Preprocessing(65, "stretch")
    noise = [np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8) for seed in range(2)]
    batch = collate([load(pixels, name=f"{seed}.png") for seed, pixels in enumerate(noise)], how)
    network = Cached(backbone, Path("out"))
    network(batch)
    paths = [str(path.relative_to("out")) for path in sorted(Path("out").rglob("*.*"))]
    return backbone, batch, paths


def spoil_cache(made: Any, dice: random.Random) -> Damage:
    import torch
    from safetensors.torch import load, save

    from attnvis.backbone.cache import content_digest

    _, _, names = made
    path = Path("out", dice.choice(names))
    kind = dice.random()
    if path.suffix == ".json" and kind < 0.8:
        record = json.loads(path.read_bytes())
        text = json.dumps(damage_json(record, dice))
        path.write_text(damage_json_text(text, dice) if dice.random() < 0.2 else text, errors="replace")
        return Damage("about")
    if path.suffix == ".json" or kind < 0.4:
        others = tuple(Path("out", name).read_bytes() for name in names)
        path.write_bytes(damage_bytes(path.read_bytes(), dice, others))
        return Damage("bytes")
    if kind < 0.5:
        return Damage(damage(Path("out"), names, Path("outside/victim").absolute(), dice))
    metadata, tensors = metadata_of(path.read_bytes()), dict(sorted(load(path.read_bytes()).items()))
    layers = damage_json(metadata["layers"], dice) if dice.random() < 0.7 else metadata["layers"]
    if dice.random() < 0.5:
        tensors = damage_tensors(tensors, dice)
    forged = dice.random() < 0.7
    if forged:
        with contextlib.suppress(TypeError, RuntimeError):
            metadata["digest"] = content_digest(path, layers, tensors)
    text = json.dumps({**metadata, "layers": layers})
    path.write_bytes(save({name: torch.clone(tensor) for name, tensor in tensors.items()}, {"attnvis": text}))
    return Damage("forged" if forged else "metadata", forged)


def read_cache(made: Any) -> Any:
    from attnvis.backbone.cache import Cached
    from attnvis.cli.commands.cache import cache as show

    backbone, batch, _ = made
    complaints: list[str] = []
    features = Cached(backbone, Path("out"), say=complaints.append)(batch)
    from omegaconf import OmegaConf

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        show(OmegaConf.create({"folder": "out", "clear": False}), Path())
    assert shown.getvalue().replace("\n", "").isprintable(), "it shows what a terminal obeys"
    for complaint in complaints:
        print(f"attnvis: {complaint}", file=sys.stderr)
    return [
        (layer.grid, layer.placements, layer.names, layer.tokens.tolist(), str(layer.logits))
        for layer in features
    ]


def make_calibration() -> Any:
    from attnvis.backbone.calibration import Calibration, store_calibration

    os.environ["ATTNVIS_CACHE"] = os.path.abspath("out")
    calibrations = [
        Calibration(
            -8.75, (-9.5, -8.0), photos=100, before=0.81, after=0.93, halves=(-8.5, -9.0), backbone="net",
            digest="5" * 64, layer=layer, size=224, controls=(-1.5, 0.25),
        )
        for layer in ("0", "last")
    ]  # fmt: skip
    stored = [store_calibration(calibration) for calibration in calibrations]
    return small_network().network, [path.relative_to(Path("out").absolute()) for path in stored]


def spoil_calibration(made: Any, dice: random.Random) -> Damage:
    _, paths = made
    path, kind = Path("out", paths[0]), dice.random()
    others = tuple(Path("out", name).read_bytes() for name in paths)
    return spoil_json(path, dice, kind, others, [str(name) for name in paths])


def read_calibrated(made: Any) -> Any:
    """As placement=calibrated does."""
    from attnvis.backbone.cells import known_shifts

    network, _ = made
    shifts = known_shifts(network, "5" * 64, "calibrated", {})
    assert all(np.isfinite(shift.pixels) for shift in shifts if shift)
    return [str(shift) for shift in shifts], [shift and asdict(shift) for shift in shifts]


KINDS = {
    "maps": Kind(make_maps, spoil_maps, read_maps_file),
    "cache": Kind(make_cache, spoil_cache, read_cache),
    "calibration": Kind(make_calibration, spoil_calibration, read_calibrated),
}
