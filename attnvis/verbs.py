"""What each verb does with its config: a function (config, folder) -> exit code.  Heavy imports wait until a verb is called."""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.assemble import build, plain

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from omegaconf import DictConfig

    from attnvis.backbone import Backbone
    from attnvis.cache import Cached
    from attnvis.calibration import Calibration
    from attnvis.values import Batch, Photo, Preprocessing

__all__ = [
    "backbones", "cache", "calibrate", "command", "complain", "described", "flip_test", "flip_test_of_chance", "listed", "photos",
    "progress", "redraw", "remembered", "run", "store", "visible",
]  # fmt: skip


def run(cfg: "DictConfig", folder: Path) -> int:
    """Photos in, heatmaps out."""
    import torch

    from attnvis.method import Method
    from attnvis.results import Folder
    from attnvis.stream import stream

    paths = photos(plain(cfg.images))
    style = build(cfg, "render")
    method = Method(build(cfg, "query"), build(cfg, "scaling"), build(cfg, "normalise"))
    torch.manual_seed(cfg.seed)
    backbone = remembered(build(cfg, "backbone"), plain(cfg.cache))
    preprocessing = backbone.preprocessing.changed(cfg.preprocess.fit, cfg.preprocess.size)
    workers = crew_of(cfg.workers, len(paths))
    backbone.prepare(len(paths), workers, sample(paths, preprocessing))
    facts = backbone.describe() | {"fit": preprocessing.fit, "size": str(preprocessing.size), "seed": str(cfg.seed)}
    facts |= backbone.cautions(preprocessing)
    facts["command"] = command()
    warnings = backbone.warnings_at(preprocessing)
    for warning in warnings:
        print(f"attnvis: {warning.upper()}", file=sys.stderr)
    with Folder(folder, paths, style, facts, plain(cfg), warnings, plain(cfg.logger), cfg.maps, cfg.resume) as results:
        left = [paths[index] for index in results.left]
        found = stream(left, backbone, method, preprocessing, cfg.batch_size, None, workers, results.make, note)
        for outcome in progress(found, len(left)):
            results.add(outcome)
    return conclude(results.done, results.reasons, folder)


def crew_of(workers: int | str, photos: int) -> int:
    """How many threads `auto` stands for: one a core, none for one photo."""
    import torch

    if not (workers == "auto" or (isinstance(workers, int) and workers > 0)):
        raise ValueError(f"workers={workers}: give auto (one a core) or a number from 1 on")
    return max(1, min(torch.get_num_threads() if workers == "auto" else int(workers), photos))


def sample(paths: list[Path], preprocessing: "Preprocessing", count: int = 2) -> "Batch | None":
    """Photos of one shape among the first, by which engines are compared; none where there is but one photo."""
    from attnvis.photo import PhotoError, collate, load, shape_key

    found: list[Photo] = []
    for path in paths[:8] if len(paths) > 1 else []:
        if len(found) == count:
            break
        with contextlib.suppress(PhotoError):
            photo = load(path, short=preprocessing.size)
            if not found or shape_key(photo, preprocessing) == shape_key(found[0], preprocessing):
                found.append(photo)
    return collate(found, preprocessing) if found else None


def note(text: str) -> None:
    print(f"attnvis: {text}", file=sys.stderr)


def redraw(cfg: "DictConfig", folder: Path) -> int:
    """The pictures of a finished run in another style, without the network."""
    from attnvis.results import redraw as again

    source = Path(cfg.run)
    if not (source / "records.csv").is_file():
        inner = sorted(source.glob("*/records.csv"))
        advice = (
            f"it is a sweep: give one of its runs, such as {inner[0].parent}" if inner else "give one such as outputs/run/<date>/<time>"
        )
        raise ValueError(f"{source} is not the folder of a run: it has no records.csv; {advice}")
    reasons = Counter(reason for _, reason in progress(again(source, folder, build(cfg, "render"), command()), None))
    return conclude(reasons.pop("", 0), reasons, folder)


def remembered(backbone: "Backbone", settings: dict[str, Any]) -> "Backbone | Cached":
    from attnvis.cache import Cached

    if not settings["use"]:
        return backbone
    return Cached(backbone, place_of(settings["folder"]), settings["storage"], float(settings["limit"]))


def place_of(folder: str) -> Path:
    from attnvis.cache import default_folder

    return default_folder() if folder == "default" else Path(folder)


def cache(cfg: "DictConfig", folder: Path) -> int:
    """What sweeps have kept, network by network."""
    from attnvis.cache import clear, entries

    settings = plain(cfg)
    place, total = place_of(settings["folder"]), 0
    for entry in entries(place):
        network = ", ".join(entry.about[name] for name in ("backbone", "layer", "precision", "storage"))
        print(f"{entry.size / 1e6:10.1f} MB  {entry.photos:7} photos  {network}")
        total += entry.size
    if settings["clear"]:
        print(f"{clear(place) / 1e6:.1f} MB freed in {place}")
    else:
        print(f"{total / 1e6:10.1f} MB in {place}" + ("; attnvis cache clear=true frees them" if total else ""))
    return 0


def backbones(cfg: "DictConfig", folder: Path) -> int:
    """What every network offers, as a table."""
    import torch

    from attnvis.survey import survey, table

    torch.manual_seed(0)  # random weights give the same certificates every time
    for line in table(survey(listed(plain(cfg.names)), int(cfg.size), str(cfg.weights))):
        print(line, flush=True)
    return 0


def calibrate(cfg: "DictConfig", folder: Path) -> int:
    """Where the cells of each layer look, by the flip test, beside where those of random weights do; stored for every later run."""
    import numpy as np
    import torch

    paths = photos(plain(cfg.images))
    if len(paths) > cfg.most:
        paths = [paths[index] for index in sorted(np.random.default_rng(cfg.seed).choice(len(paths), cfg.most, replace=False))]
    if "placement" in cfg.backbone:
        cfg.backbone.placement = "rf"  # what the shift is counted from
    torch.manual_seed(cfg.seed)
    backbone = build(cfg, "backbone")
    preprocessing = backbone.preprocessing.changed("resize", cfg.preprocess.size)
    found, reasons = flip_test(backbone, paths, preprocessing, cfg.batch_size, cfg.seed)
    controls, kept = flip_test_of_chance(backbone, paths, preprocessing, cfg.controls, cfg.batch_size, cfg.seed)
    complain(reasons)
    for layer, calibration, shifts in zip(backbone.layers, found, controls, strict=True):
        calibration = replace(calibration, controls=shifts)
        for line in described(calibration, layer, cfg.controls, kept):
            print(line)
        print(f"  stored in {store(calibration)}; placement=auto and placement=calibrated draw these weights' cells there from now on")
    return 1 if reasons else 0


def described(calibration: "Calibration", layer: str, copies: int, kept: list[str]) -> Iterator[str]:
    """What a calibration says, in lines for a terminal.  `kept`: parameters that the copies with random weights share."""
    (low, high), (first, second) = calibration.interval, calibration.halves
    yield (
        f"{calibration.backbone}, layer {layer}: cells look {calibration.shift:.2f} [{low:.2f}, {high:.2f}] px from where geometry centres "
        f"them (negative: up and left; {calibration.photos} photos of {calibration.size} px)"
    )
    yield (
        f"  held out: maps of photos and of their mirror images correlate by {calibration.before:.3f} before and {calibration.after:.3f} "
        f"after (the halves gave {first:.2f} and {second:.2f} px)"
    )
    if not copies:
        return
    shifts = ", ".join(f"{shift:.2f}" for shift in calibration.controls)
    silent = copies - len(calibration.controls)
    yield (
        f"  with random weights, {copies} cop{'ies' if copies > 1 else 'y'}: "
        + (f"{shifts} px" if shifts else "none says where its cells look")
        + (f" ({silent} said nothing)" if shifts and silent else "")
        + ("; the learned shift lies among these: it is no more than chance" if calibration.by_chance else "")
    )
    if kept:
        more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
        yield f"  the copies keep what was learned in {', '.join(kept[:3])}{more}: no reset_parameters"


def flip_test(
    backbone: "Backbone", paths: list[Path], preprocessing: "Preprocessing", batch_size: int = 8, seed: int = 0
) -> "tuple[list[Calibration], Counter[str]]":
    """What the photos say of every layer of a backbone whose placement is rf, and why some of them said nothing."""
    from attnvis import calibration

    strides = backbone.calibratable((preprocessing.size, preprocessing.size))
    tables, reasons = agreements(backbone, paths, preprocessing, batch_size)
    found = []
    for node, stride, table in zip(backbone.nodes, strides, tables, strict=True):
        settled = calibration.settle(table, stride, seed)
        found.append(replace(settled, backbone=backbone.name, digest=backbone.digest, layer=node, size=preprocessing.size))
    return found, reasons


def flip_test_of_chance(
    backbone: "Backbone", paths: list[Path], preprocessing: "Preprocessing", copies: int, batch_size: int = 8, seed: int = 0
) -> tuple[list[tuple[float, ...]], list[str]]:
    """Per layer the shifts of copies of the network with random weights, and the names of the parameters that stayed learned.

    A copy whose photos do not say where its cells look gives no shift.
    """
    from attnvis import calibration

    strides = backbone.calibratable((preprocessing.size, preprocessing.size))
    shifts: list[list[float]] = [[] for _ in strides]
    kept: list[str] = []
    batch = sample(paths, preprocessing, count=8)
    if batch is None:  # no photo, no copy
        return [() for _ in strides], kept
    for number in range(copies):
        control, kept = backbone.with_random_weights(seed + number, batch.images)
        tables, _ = agreements(control, paths, preprocessing, batch_size)
        for layer_shifts, stride, table in zip(shifts, strides, tables, strict=True):
            with contextlib.suppress(ValueError):
                layer_shifts.append(calibration.settle(table, stride, seed).shift)
    return [tuple(layer_shifts) for layer_shifts in shifts], kept


def agreements(
    backbone: "Backbone", paths: list[Path], preprocessing: "Preprocessing", batch_size: int
) -> "tuple[list[Float[np.ndarray, 'P S']], Counter[str]]":
    """Per layer, how well maps of photos and of mirrored photos agree under every shift; and why some photos said nothing."""
    import numpy as np

    from attnvis import calibration
    from attnvis.stream import stream

    answers, reasons = [], Counter[str]()
    both_ways = calibration.both_ways(backbone)
    for outcome in progress(stream(paths, both_ways, calibration.compare, preprocessing, batch_size), len(paths)):
        if outcome.error:
            reasons[outcome.error] += 1
        else:
            answers.append(outcome.answers)
    return [np.array([tables[number] for tables in answers]) for number in range(len(backbone.nodes))], reasons


def store(found: "Calibration") -> Path:
    """Where `Backbone(placement="calibrated")` looks for it."""
    from attnvis import calibration
    from attnvis.render import write_bytes

    path = calibration.address(found.digest, found.layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, found.text)
    return path


def photos(images: Any) -> list[Path]:
    from attnvis.photo import find

    return find([str(item) for item in images] if isinstance(images, list) else str(images))


def listed(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def command() -> str:
    """The command line, to be typed again; processes that a launcher starts inherit it."""
    return os.environ.get("ATTNVIS_COMMAND", "")


def progress(items: Iterable[Any], total: int | None) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, total=total, unit="photo", disable=not sys.stderr.isatty(), leave=False)


def visible(text: str) -> str:
    """As it may be shown in one line of a terminal: a file's name can hold line ends, and characters that a terminal obeys."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def complain(reasons: Mapping[str, int]) -> None:
    """Why photos failed, the commonest reasons first."""
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:10]:
        print(f"attnvis: {visible(reason)}" + (f" ({count} photos)" if count > 1 else ""), file=sys.stderr)


def conclude(done: int, reasons: dict[str, int], folder: Path) -> int:
    """The last words of a run; its exit code."""
    short = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    shown = Path(visible(str(short)))
    failed = sum(reasons.values())
    complain(reasons)
    if done + failed > 1 and failed:
        print(f"attnvis: {done} done, {failed} failed; every reason is in {shown / 'records.csv'}", file=sys.stderr)
    print(f"{done} photo{'s' * (done != 1)} done: {shown / 'index.html'}")
    return 1 if failed else 0
