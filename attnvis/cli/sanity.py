"""`attnvis evaluate PHOTOS experiment=sanity`: whether maps hang on what was learned and asked."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.axes import functions_of
from attnvis.cli.common import (
    build_network,
    command_line,
    draw_numbers,
    listed,
    photos,
    shout,
    thread_count,
)
from attnvis.cli.config import build
from attnvis.cli.messages import complain, note, progress, short_path
from attnvis.cli.studies import study_tracker

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.experiments.evaluate.maps import MapMaker
    from attnvis.experiments.sanity.checks import Sanity
    from attnvis.experiments.sanity.page import Findings

__all__ = ["check_sanity"]

OWN_FILES = ("index.html", "sanity.csv", "cascade.csv")


def check_sanity(cfg: "DictConfig", settings: dict[str, Any], folder: Path) -> int:
    """Every map under every check: terminal, csv, page, W&B.  Gives 1 where a photo failed.

    Raises ValueError for methods and queries that there are not, and for a network that cannot be drawn anew.
    """
    from attnvis.experiments.sanity.measure import measure
    from attnvis.experiments.sanity.page import as_text, findings_of, sentences, write_sanity
    from attnvis.pipeline.resume import require_own_files

    require_own_files(folder, files=OWN_FILES, folders=("figures", "wandb"))
    paths = photos(settings["data"])
    paths = [paths[number] for number in draw_numbers(len(paths), settings["most"], settings["seed"])]
    network = build_network(cfg)
    how = network.preprocessing.changed(**settings["preprocess"])
    warnings = network.warnings_at(how)
    shout(warnings)
    maker = maker_of(settings, network)
    maker = maker.prepared(how, paths)
    style = build(cfg, "render")
    measured = measure(
        paths,
        sanity_of(network, maker, settings["seed"]),
        how,
        batch_size=cfg.batch_size,
        workers=thread_count(cfg.workers, len(paths)),
        say=note,
        watch=progress,
    )
    for row, reason in maker.refused.items():
        note(f"{row} is left out: {reason}")
    findings = findings_of(measured, settings["seed"])
    print(as_text(findings))
    print()
    for sentence in sentences(findings):
        print(sentence)
    facts = {"photos": str(settings["data"]), "seed of the weights that are drawn": str(settings["seed"])}
    facts |= replace(network.describe(how), command=command_line()).entries()
    page = write_sanity(findings, folder, facts, style, warnings=warnings, refused=maker.refused)
    log(findings, settings, folder, page)
    complain(Counter(reason for _, reason in measured.failures))
    print(f"{len(measured.photos)} photos checked: {short_path(page)}")
    return 1 if measured.failures else 0


def maker_of(settings: dict[str, Any], network: Any) -> "MapMaker":
    """The maps that are checked.  Raises ValueError where there is none."""
    from attnvis.experiments.evaluate.maps import MapMaker
    from attnvis.experiments.evaluate.naming import ATTENTION, parse_methods
    from attnvis.experiments.sanity.measure import WITHOUT_NETWORK

    texts = listed(settings["methods"])
    methods = parse_methods(texts)
    for text in [text for text in methods if text.partition(":")[0] in WITHOUT_NETWORK]:
        note(f"{text} is left out: it looks at no weight that was learned")
        del methods[text]
    stages = functions_of(settings)
    if ATTENTION not in texts:
        stages["queries"] = {}
    if not methods and not all(stages.values()):
        raise ValueError(
            "there is no map to check; give method=attention with query= and scaling=, or a method"
        )
    return MapMaker(network, network, **stages, methods=methods, temperatures=(), wants_cells=False)


def sanity_of(network: Any, maker: "MapMaker", seed: int) -> "Sanity":
    """The network in both precisions, and drawn anew step by step."""
    import torch

    from attnvis.backbone.randomising import cascade, in_precision
    from attnvis.experiments.sanity.checks import Sanity
    from attnvis.methods.baselines import noise_like_photos

    plain, half = (in_precision(network, dtype) for dtype in (torch.float32, torch.bfloat16))
    stages = cascade(plain, seed, noise_like_photos(network.preprocessing.size, seed))
    return Sanity(plain, half, stages, maker, seed)


def log(findings: "Findings", settings: dict[str, Any], folder: Path, page: Path) -> None:
    """At W&B every figure under map and check, the page and the files."""
    numbers = {f"{each.check}/{each.map}": each.figure.value for each in findings.verdicts if each.verdict}
    with study_tracker(settings, folder, job="sanity") as tracker:
        tracker.log_numbers(numbers)
        tracker.log_page("page", page)
        tracker.log_files("sanity", [folder / name for name in ("sanity.csv", "cascade.csv")])
