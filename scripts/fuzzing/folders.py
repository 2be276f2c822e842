"""Folders of attnvis': runs, their plans, sweeps; read by the commands that go on with them."""

import csv
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.common import Damage, Kind, Said, one_line, spoil_json
from fuzzing.mutations import damage, damage_bytes, damage_table

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
    "plan": Kind(make_plan, spoil_plan, read_plan),
    "run": Kind(make_run, spoil_run, read_run, others=("again",)),
    "sweep": Kind(make_sweep, spoil_sweep, read_sweep),
}
