"""`attnvis calibrate`: where the cells of each layer look."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.common import announced_photos, build_network
from attnvis.cli.config import plain
from attnvis.cli.messages import complain, progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.calibration import Calibration

__all__ = ["COMMAND", "calibrate", "described"]


def calibrate(cfg: "DictConfig", folder: Path) -> int:
    """Where the cells of each layer look, by the flip test, beside where those of random weights do.

    It is stored for every later run, at the end: one that is stopped begins anew.  Gives 1 where photos could
    not be read.
    """
    import numpy as np

    from attnvis.backbone.calibration import store_calibration
    from attnvis.pipeline.calibrating import flip_test, flip_test_of_chance, held

    paths = announced_photos(plain(cfg.images)).paths
    if len(paths) > cfg.most:
        indices = np.random.default_rng(cfg.seed).choice(len(paths), cfg.most, replace=False)
        paths = [paths[index] for index in sorted(indices)]
    if "placement" in cfg.backbone:
        cfg.backbone.placement = "rf"  # what the shift is counted from
    backbone = build_network(cfg)
    preprocessing = backbone.preprocessing.changed("resize", cfg.preprocess.size)
    how = {"batch_size": cfg.batch_size, "seed": cfg.seed, "watch": progress}
    with held(backbone):
        calibrations, reasons = flip_test(backbone, paths, preprocessing, **how)
        controls, shared = flip_test_of_chance(backbone, paths, preprocessing, copies=cfg.controls, **how)
        complain(reasons)
        for layer, calibration, shifts in zip(backbone.layers, calibrations, controls, strict=True):
            calibration = replace(calibration, controls=shifts)
            for line in described(calibration, layer, copies=cfg.controls, shared=shared):
                print(line)
            print(
                f"  stored in {store_calibration(calibration)}; "
                "placement=auto and placement=calibrated draw these weights' cells there from now on"
            )
    return 1 if reasons else 0


def described(calibration: "Calibration", layer: str, copies: int, shared: list[str]) -> Iterator[str]:
    """What a calibration says, in lines for a terminal.

    copies    how many copies with random weights were tested
    shared    the parameters that those copies could not forget
    """
    low, high = calibration.interval
    first, second = calibration.halves
    yield (
        f"{calibration.backbone}, layer {layer}: "
        f"cells look {calibration.shift:.2f} [{low:.2f}, {high:.2f}] px from where geometry centres them "
        f"(negative: up and left; {calibration.photos} photos of {calibration.size} px)"
    )
    yield (
        "  held out: maps of photos and of their mirror images correlate "
        f"by {calibration.before:.3f} before and {calibration.after:.3f} after "
        f"(the halves gave {first:.2f} and {second:.2f} px)"
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
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        yield f"  the copies keep what was learned in {', '.join(shared[:3])}{more}: no reset_parameters"


COMMAND = Command(
    "calibrate", calibrate, argument="PHOTO ...", kept="stored is what was said to be, and nothing else"
)
