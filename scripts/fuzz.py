"""Damages what attnvis reads, and reads it: python scripts/fuzz.py --kind maps --kind run --inputs 1000

Photos, lists and files of weights of a person's; folders of attnvis' own: runs (gone on with, and drawn
again), sweeps, plans, maps, a cache, calibrations.  Each input is a number: `--kind run --only 1234` does
that one again and says what was done and what came of it.  A process of its own reads, so that a crash is
counted too, and its memory is bounded.

same      the answer of the undamaged one
said      one line, or a photo's own, says what is wrong
forged    another answer, without a word, to what was changed with its digest: whoever can write a folder can
          write it as another one
wrong     another answer without a word, or something outside of the folder was touched
crashes   any other exception, or the process died; hangs: longer than --patience seconds

The exit code is 0 where nothing crashed, hung or was wrong.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from mutations import damage, damage_bytes, damage_json, damage_json_text, damage_table, reseal_json
from PIL import Image

MEMORY = 6 << 30  # bytes of address space that the reading process may have
MINUTES = 10.0  # that a single kind may take, where nothing else is said
VERDICTS = ("same", "said", "forged", "wrong", "crash", "hang")


class Said(Exception):
    """What is wrong, in a line, as a command would say it."""


@dataclass
class Damage:
    """What was done to an input."""

    what: str = ""
    forged: bool = False  # its digests were made to fit


@dataclass(frozen=True)
class Kind:
    """A true thing, ways to damage it, and how it is read.

    make    writes it into the working directory, once a process; what it gives goes to the others
    spoil   damages a copy of it in the working directory
    read    the answer that a user gets.  Raises Said, ValueError or OSError with what is told instead
    folder  what is copied anew for each input; another place is outside, and must stay as it is
    exact   whether every change has to be noticed: of a person's own files who can tell?
    """

    make: Callable[[], Any]
    spoil: Callable[[Any, random.Random], Damage]
    read: Callable[[Any], Any]
    folder: str = "out"
    others: tuple[str, ...] = ()  # folders that reading may write
    exact: bool = True


# ---------------------------------------------------------------------------------------------- photos, files

FLAVOURS: list[tuple[str, str, dict[str, object]]] = [
    ("JPEG", "RGB", {"quality": 80}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("PNG", "I;16", {}),
    ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}), ("BMP", "RGB", {}),
    ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGBA", {"compression": "tiff_deflate"}),
]  # fmt: skip


@cache
def whole_photo(sample: str, kind: int) -> bytes:
    from attnvis.data.paths import find

    name, mode, options = FLAVOURS[kind]
    with Image.open(str(find(f"samples/{sample}")[0])) as picture:
        small = picture.convert("RGB").resize((61, 43))
    wide = (
        Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else small.convert(mode)
    )
    file = io.BytesIO()
    wide.save(file, name, **options)
    return file.getvalue()


def spoil_photo(_: Any, dice: random.Random) -> Damage:
    photo = whole_photo(dice.choice(["cat", "rocket"]), dice.randrange(len(FLAVOURS)))
    others = tuple(whole_photo("cat", kind) for kind in range(len(FLAVOURS)))
    Path("out/photo").write_bytes(damage_bytes(photo, dice, others))
    return Damage("bytes")


def read_photo(_: Any) -> Any:
    from attnvis.data.decoding import load

    return load(Path("out/photo")).size


def make_list() -> list[str]:
    names = ["a.jpg", "b c.png", "кот.jpg", "été.jpg", "sub/d.tif", "gone.jpg"]
    for name in names[:-1]:
        Path("out", name).parent.mkdir(exist_ok=True)
        Path("out", name).write_bytes(b"x")
    Path("out/list.txt").write_text("\n".join(names), "utf-8")
    return names


def spoil_list(names: list[str], dice: random.Random) -> Damage:
    lines = [*names, "# comment", "", '"b c.png"', "list.txt", "sub", " a.jpg "]
    dice.shuffle(lines)
    lines += dice.choices(
        ["http://x/a.jpg", "s3cret-word", "../../etc/passwd", "\x1b[31m.jpg", "a.jpg\0", "é" * 300],
        k=dice.randrange(3),
    )
    encoding = dice.choice(
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1251", "latin-1", "utf-32", "cp932"]
    )
    data = dice.choice(["\n", "\r\n", "\r"]).join(lines).encode(encoding, "replace")
    if dice.random() < 0.7:
        data = damage_bytes(data, dice)
    Path("out/list.txt").write_bytes(data)
    if dice.random() < 0.1:
        return Damage(damage(Path("out"), ["list.txt"], Path("outside/victim").absolute(), dice))
    return Damage(encoding)


def read_list(_: Any) -> Any:
    from attnvis.data.paths import find
    from attnvis.data.reading import SUFFIXES
    from attnvis.data.sources import Stored

    try:
        paths = find("out/list.txt")
    except ValueError as error:
        shown = [word for word in ("s3cret", "mine") if word in str(error)]
        if shown:
            raise AssertionError("it shows what is in the file") from error
        raise
    for path in paths:
        is_file = os.path.lexists(str(path)) or str(path).lower().endswith(SUFFIXES)
        assert is_file or isinstance(path, Stored), path  # what lies at an address is read in its turn
    return len(paths)


def make_weights() -> Any:
    import torch
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.zeros(3), "n": torch.tensor(3)}
    torch.save(state, "out/new.pth")
    torch.save({"state_dict": state}, "out/old.pth", _use_new_zipfile_serialization=False)
    save_file(state, "out/w.safetensors")
    return None


def spoil_weights(_: Any, dice: random.Random) -> Damage:
    names = ["new.pth", "old.pth", "w.safetensors"]
    name = dice.choice(names)
    path = Path("out", name)
    content = path.read_bytes()
    others = tuple(Path("out", other).read_bytes() for other in names)
    path.write_bytes(damage_bytes(content, dice, others))
    what = "bytes"
    if dice.random() < 0.1:
        what = damage(Path("out"), [name], Path("outside/victim").absolute(), dice)
    if path.name != name:
        return Damage(what)
    for other in names:
        if other != name:
            Path("out", other).unlink(missing_ok=True)
    return Damage(f"{what} {name}")


def read_weights_file(_: Any) -> Any:
    from attnvis.backbone.checkpoint_file import read_checkpoint

    path = next(
        (path for path in sorted(Path("out").iterdir()) if path.suffix in (".pth", ".safetensors")), None
    )
    return sorted(read_checkpoint(path or Path("out/gone.pth")))


# ----------------------------------------------------------------------------------------- files of attnvis'


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


def spoil_json(path: Path, dice: random.Random, kind: float, others: Any, names: list[str]) -> Damage:
    """A json file of ours, by its bytes, its values or what stands in its place."""
    if kind < 0.35:
        path.write_bytes(damage_bytes(path.read_bytes(), dice, others))
        return Damage("bytes")
    if kind < 0.45:
        return Damage(damage(Path("out"), names, Path("outside/victim").absolute(), dice))
    values = damage_json(json.loads(path.read_bytes()), dice)
    forged = dice.random() < 0.6
    if forged:
        values = reseal_json(values)
    text = json.dumps(values)
    if dice.random() < 0.1:
        text = damage_json_text(text, dice)
    path.write_text(text, errors="replace")
    unsealed = not isinstance(values, dict) or "seal" not in values
    return Damage(f"forged {path.name}" if forged else f"values {path.name}", forged or unsealed)


def read_calibrated(made: Any) -> Any:
    """As placement=calibrated does."""
    from attnvis.backbone.cells import known_shifts

    network, _ = made
    shifts = known_shifts(network, "5" * 64, "calibrated", {})
    assert all(np.isfinite(shift.pixels) for shift in shifts if shift)
    return [str(shift) for shift in shifts], [shift and asdict(shift) for shift in shifts]


# ------------------------------------------------------------------------------------------ runs and sweeps

SMALL = ["preprocess.size=64", "batch_size=1", "backbone.engine=eager", "backbone.precision=fp32"]
WORDS = {
    "run": ["album", *SMALL, "workers=1", "query=several", "query.of=[mean,class]", "hydra.run.dir=out"],
    "sweep": ["album", *SMALL, "query=mean,class", "scaling=none,inv_d", "sheets=1", "cache.use=false",
              "hydra.run.dir=out"],
}  # fmt: skip


def make_album() -> None:
    Path("album").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((56, 40)).save(f"album/{number}.png")


@cache
def prepared() -> None:
    """The network is loaded once; a sweep's page, which takes seconds to draw, is not drawn."""
    import torch

    from attnvis import backbone, catalogue
    from attnvis.experiments.sweep import page

    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "disabled"
    load = cache(backbone.efficientnet_lite)
    setattr(backbone, "efficientnet_lite", load)  # noqa: B010 - in the place of a function

    def write_comparison(sweep: Any) -> Path:
        return sweep.folder / "index.html"

    page.write_comparison = write_comparison
    from hydra import initialize_config_dir

    initialize_config_dir(str(catalogue.config_folder()), version_base="1.3")


@cache
def composed(verb: str, words: tuple[str, ...]) -> Any:
    from hydra import compose

    from attnvis.cli.commands.registry import COMMANDS
    from attnvis.cli.words import to_overrides

    overrides = [word for word in to_overrides(words, COMMANDS[verb]) if word not in ("-m", "--multirun")]
    return compose(verb, overrides, return_hydra_config=True)


def command(verb: str, words: list[str]) -> int:
    """What `attnvis VERB WORDS` does, but for composing its config each time.

    Raises Said for what ends it with a line.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from attnvis.cli import callbacks, hydra_jobs
    from attnvis.cli.commands.registry import COMMANDS
    from attnvis.cli.resuming import resumed

    prepared()
    chosen = COMMANDS[verb]
    os.environ["ATTNVIS_COMMAND"] = f"attnvis {verb} {' '.join(words)}"
    try:
        config = composed(verb, tuple(resumed(words, chosen))).copy()
        OmegaConf.set_readonly(config.hydra, False)
        config.hydra.runtime.output_dir = str(config.hydra.run.dir)
        config.hydra.job.num = 0
        HydraConfig.instance().set_config(config)
        task_config = config.copy()
        OmegaConf.set_readonly(task_config, False)
        with_flags = OmegaConf.create({key: value for key, value in task_config.items() if key != "hydra"})
        OmegaConf.set_struct(with_flags, True)
        callbacks.PHOTOS[:] = [chosen.comparison.photos] if chosen.comparison else []
        for name in config.hydra.callbacks or {}:
            target = config.hydra.callbacks[name]["_target_"].rpartition(".")[2]
            getattr(callbacks, target)().on_run_start(config=config)
        task = hydra_jobs.Task(chosen, debugging=False)
        status = task(with_flags)
        if chosen.comparison:
            status = chosen.comparison.compare(Path(str(config.hydra.run.dir)))
        return status
    except SystemExit as ended:
        raise Said(f"exit code {ended.code}") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise Said(str(error)) from None
    finally:
        while callbacks.HELD:
            callbacks.HELD.popitem()[1].close()


def files_below(folder: Path, but: tuple[str, ...] = ()) -> list[str]:
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name for name in names if not name.endswith(but)]


def make_run() -> Any:
    make_album()
    command("run", WORDS["run"])
    command("redraw", ["out", "render.panel=false", "render.colours=jet", "hydra.run.dir=again"])
    shutil.rmtree("again")
    return files_below(Path("out"))


def spoil_run(names: list[str], dice: random.Random) -> Damage:
    from attnvis.pipeline.records import row_seal

    kind = dice.random()
    if kind < 0.15:
        return Damage(damage(Path("out"), names, Path("outside/victim").absolute(), dice))
    of_kind = [
        name for name in names if name.endswith(dice.choice([".json", ".csv", ".safetensors", ".jpg"]))
    ]
    path = Path("out", dice.choice(of_kind or names))
    if path.suffix == ".json":
        return spoil_json(path, dice, 0.35 * dice.random() + 0.65 * (dice.random() < 0.7), (), names)
    if path.suffix == ".csv" and dice.random() < 0.7:
        forged = dice.random() < 0.3
        seal = (lambda row: row_seal(Path("out"), row)) if forged else None
        text = path.read_text("utf-8")
        path.write_text(damage_table(text, dice, seal), "utf-8", errors="replace")
        return Damage("forged rows" if seal else "rows", bool(seal))
    others = tuple(Path("out", name).read_bytes() for name in names if name.endswith(path.suffix))
    path.write_bytes(damage_bytes(path.read_bytes(), dice, others))
    return Damage(f"bytes {path.name}")


def read_run(_: Any) -> Any:
    """What a redraw of the damaged run leaves, and what --resume: an answer each, or a complaint."""
    redrawn = answer_of(
        lambda: command("redraw", ["out", "render.panel=false", "hydra.run.dir=again"]), "again"
    )
    resumed = answer_of(lambda: command("run", ["--resume", "out"]), "out")
    if isinstance(redrawn, str) and isinstance(resumed, str):
        raise Said(redrawn)
    return redrawn, resumed


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def answer_of(call: Callable[[], int], folder: str) -> Any:
    """What a command left in a folder; a text, where it ended with a line instead."""
    try:
        status = call()
    except (Said, ValueError, OSError) as error:
        return one_line(error)
    with Path(folder, "records.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (int(row["index"]), row["label"]))
    left: list[Any] = []
    for row in rows:
        pictures = [file_digest(Path(folder, row[name])) for name in ("map", "overlay", "panel") if row[name]]
        left.append(({name: value for name, value in row.items() if name != "seal"}, pictures))
    assert status or Path(folder, "index.html").is_file(), "it left no page"
    return left


def make_plan() -> list[str]:
    from attnvis.pipeline.plan import RunPlan
    from attnvis.render import Style
    from attnvis.types import Provenance

    make_album()
    paths = sorted(Path("album").iterdir())
    config = {"scaling": {"_target_": "x.inv_d"}, "seed": 0}
    plan = RunPlan(tuple(paths), Style(), Provenance(), config=config).for_folder()
    plan.expecting(0, 2).expecting(1, 3).write(Path("out"))
    return ["plan.json"]


def spoil_plan(names: list[str], dice: random.Random) -> Damage:
    return spoil_json(Path("out/plan.json"), dice, dice.random(), (), names)


def read_plan(_: Any) -> Any:
    from attnvis.pipeline.resume import FolderPlan, differing, renewed

    plan = FolderPlan.read(Path("out"), "run")
    if plan is None:
        raise Said("there is no plan")  # as the command says it
    _, remarks = renewed(plan.photos, sorted(Path("album").iterdir()))
    differing(plan.settings, {"seed": 0})
    return plan, remarks


def make_sweep() -> list[str]:
    make_album()
    command("sweep", WORDS["sweep"])
    return files_below(Path("out"))


def spoil_sweep(names: list[str], dice: random.Random) -> Damage:
    kind = dice.random()
    if kind < 0.2:
        return Damage(damage(Path("out"), names, Path("outside/victim").absolute(), dice))
    ours = [name for name in names if name.endswith((".json", ".parquet", ".safetensors"))]
    path = Path("out", dice.choice(ours if kind < 0.9 else names))
    if path.suffix == ".json":
        return spoil_json(path, dice, dice.random(), (), names)
    if path.suffix == ".parquet" and dice.random() < 0.6:
        return Damage(damage_parquet(path, dice))
    others = tuple(Path("out", name).read_bytes() for name in names if name.endswith(path.suffix))
    path.write_bytes(damage_bytes(path.read_bytes(), dice, others))
    return Damage(f"bytes {path.name}")


def damage_parquet(path: Path, dice: random.Random) -> str:
    """A table that is one, with other values, types, columns or rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    number = dice.randrange(table.num_columns)
    name, column = table.column_names[number], table.column(number)
    what = dice.choice(["gone", "text", "twice", "fewer", "more", "nulls", "value", "value", "value"])
    match what:
        case "gone":
            table = table.remove_column(number)
        case "text":
            table = table.set_column(number, name, column.cast(pa.string()))
        case "twice":
            table = table.append_column(name, column)
        case "fewer":
            table = table.slice(1)
        case "more":
            table = pa.concat_tables([table, table])
        case "nulls":
            table = table.set_column(number, name, pa.nulls(table.num_rows, column.type))
        case _:
            values = column.to_pylist()
            strange: list[Any] = (
                ["x", "../x", "\x1b[31m"] if pa.types.is_string(column.type) else [0, -1, 10**6]
            )
            if pa.types.is_floating(column.type):
                strange += [float("nan"), float("inf"), 1e300, values[0] + 1 if values[0] else 1.0]
            values[dice.randrange(len(values))] = dice.choice(strange)
            table = table.set_column(number, name, pa.array(values, column.type))
    pq.write_table(table, path)
    return f"{what} {name}"


def read_sweep(_: Any) -> Any:
    from attnvis.experiments.sweep.folder import read_sweep as read

    command("sweep", ["--resume", "out"])
    sweep = read(Path("out"))
    curves = [
        {
            query: {name: array.tolist() for name, array in arrays.items()}
            for query, arrays in part.curves().items()
        }
        for part in sweep.done
    ]
    tiles = [file_digest(Path("out", tile.file)) for part in sweep.done for tile in part.record.tiles]
    return sweep.table.to_pylist(), curves, tiles, [part.status for part in sweep.parts]


KINDS = {
    "photos": Kind(lambda: None, spoil_photo, read_photo, exact=False),
    "lists": Kind(make_list, spoil_list, read_list, exact=False),
    "weights": Kind(make_weights, spoil_weights, read_weights_file, exact=False),
    "maps": Kind(make_maps, spoil_maps, read_maps_file),
    "cache": Kind(make_cache, spoil_cache, read_cache),
    "calibration": Kind(make_calibration, spoil_calibration, read_calibrated),
    "plan": Kind(make_plan, spoil_plan, read_plan),
    "run": Kind(make_run, spoil_run, read_run, others=("again",)),
    "sweep": Kind(make_sweep, spoil_sweep, read_sweep),
}


# -------------------------------------------------------------------------------------------------- the judge


@dataclass
class Bench:
    """A working directory in which inputs of one kind are made and read."""

    name: str
    seed: int
    kind: Kind = field(init=False)
    made: Any = field(init=False)
    expected: Any = field(init=False)
    before: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.kind = KINDS[self.name]
        for folder in ("out", "outside"):
            Path(folder).mkdir()
        Path("outside/victim").write_bytes(b"mine")
        self.expected = None
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.made = self.kind.make()
            shutil.copytree("out", "true")
            if self.kind.exact:
                self.expected = comparable(self.kind.read(self.made))
        self.tidy()
        self.before = self.outside()

    def outside(self) -> dict[str, Any]:
        """What must stay as it is, whatever is read."""
        own = ("out", "true", *self.kind.others)
        return {
            str(path): path.read_bytes() if path.is_file() else ""
            for top in sorted(Path().iterdir())
            if top.name not in own
            for path in [top, *sorted(top.rglob("*"))]
        }

    def tidy(self) -> None:
        for folder in ("out", *self.kind.others):
            if Path(folder).is_symlink():
                Path(folder).unlink()
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree("true", "out")

    def judge(self, number: int) -> tuple[str, str]:
        """A verdict on one input, and what was done and came of it."""
        dice = random.Random(f"{self.name} {self.seed} {number}")
        self.tidy()
        damaged = self.kind.spoil(self.made, dice)
        stdout, stderr = io.StringIO(), io.StringIO()
        before = self.outside()
        try:
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                answer = comparable(self.kind.read(self.made))
        except (Said, ValueError, OSError) as error:
            verdict, text = "said", one_line(error)
            if "\n" in str(error) and isinstance(error, ValueError):
                verdict = "crash"  # not a line
        except Exception:
            verdict, text = "crash", traceback.format_exc()
        else:
            text = stderr.getvalue()
            verdict = "same" if answer == self.expected or not self.kind.exact else ""
            if not verdict:
                verdict = "said" if text or complains(answer) else "forged" if damaged.forged else "wrong"
                text = text or difference(answer, self.expected)
        if self.outside() != before:
            verdict, text = "wrong", f"something outside was touched; {text}"
            self.restore()
        return verdict, f"{damaged.what}: {text}"

    def restore(self) -> None:
        for name, content in self.before.items():
            if isinstance(content, bytes):
                Path(name).write_bytes(content)


def comparable(value: Any) -> Any:
    """NaN is NaN here."""
    return repr(value)


def complains(answer: str) -> bool:
    """Whether a photo's own row says what is wrong, or a command among several ended with a line."""
    return "'status': 'failed'" in answer or "'missing'" in answer


def difference(answer: str, expected: str) -> str:
    at = next((at for at, (a, b) in enumerate(zip(answer, expected, strict=False)) if a != b), 0)
    return f"{expected[max(0, at - 80) : at + 80]!r} became {answer[max(0, at - 80) : at + 80]!r}"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def work(name: str, seed: int, numbers: list[int], pipe: Connection) -> None:
    """Judges one input after another, and sends what it found."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        bench = Bench(name, seed)
        if sys.platform == "linux":
            import resource

            used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        pipe.send(("ready", 0, ""))
        for number in numbers:
            pipe.send(("begins", number, ""))
            verdict, text = bench.judge(number)
            pipe.send((verdict, number, text))
        pipe.send(("ends", 0, ""))
        os.chdir("/")


def fuzz(name: str, seed: int, numbers: list[int], patience: float, minutes: float) -> dict[str, Any]:
    """Verdict -> the numbers of the inputs; "texts": number -> what came of those that failed."""
    found: dict[str, Any] = {verdict: [] for verdict in VERDICTS} | {"texts": {}}
    end, left = time.monotonic() + 60 * minutes, list(numbers)
    while left and time.monotonic() < end:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.Process(target=work, args=(name, seed, left, theirs), daemon=True)
        worker.start()
        theirs.close()
        current, begun = None, False
        while True:
            limit = patience if begun else 10 * patience
            try:
                message = ours.recv() if ours.poll(limit) else ("hang", current, f"more than {patience:g} s")
            except EOFError:
                message = ("crash", current, "the process died")
            verdict, number, text = message
            if verdict == "ready":
                begun = True
            elif verdict == "begins":
                current = number
            elif verdict == "ends":
                left = []
            elif current is None or number is None:
                raise RuntimeError(f"{name}: the true one could not be made or read: {text}")
            else:
                found[verdict].append(number)
                found["texts"][number] = f"{verdict}: {text}"
                left = [later for later in left if later > number]
            lost = verdict in ("hang", "crash") and text in (f"more than {patience:g} s", "the process died")
            if lost or verdict == "ends" or time.monotonic() > end:
                break
        worker.kill()
        worker.join()
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A line a kind, and their sum."""
    heads = ("inputs", "same", "said", "forged", "crashes", "hangs", "wrong")
    lines = [f"{'kind':12}" + "".join(f"{head:>9}" for head in heads)]
    sums = [0] * len(heads)
    for name, found in rows.items():
        counts = [len(found[verdict]) for verdict in ("same", "said", "forged", "crash", "hang", "wrong")]
        counts = [sum(counts), *counts]
        sums = [total + count for total, count in zip(sums, counts, strict=True)]
        lines.append(f"{name:12}" + "".join(f"{count:9,}" for count in counts))
    lines.append(f"{'all':12}" + "".join(f"{count:9,}" for count in sums))
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append", choices=KINDS, help="may be given several times; else all")
    parser.add_argument("--inputs", type=int, default=500, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that a kind may take")
    parser.add_argument("--only", type=int, help="do this input and say what came of it")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds that one input may take")
    asked = parser.parse_args(words)
    rows, broken = {}, 0
    for name in asked.kind or KINDS:
        numbers = [asked.only] if asked.only is not None else range(asked.first, asked.first + asked.inputs)
        found = rows[name] = fuzz(name, asked.seed, list(numbers), asked.patience, asked.minutes)
        for verdict in ("crash", "hang", "wrong"):
            for number in found[verdict]:
                broken += 1
                print(f"--kind {name} --seed {asked.seed} --only {number}: {found['texts'][number][:3000]}")
        if asked.only is not None:
            print(*found["texts"].values())
    print(table(rows))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
