"""Every verb and the function behind it: (config, folder) -> exit code."""

from collections.abc import Callable

from attnvis.cli.commands import backbones, cache, calibrate, redraw, run, sweep, video

__all__ = ["VERBS"]

VERBS: dict[str, Callable[..., int]] = {
    "run": run.run, "sweep": sweep.sweep, "redraw": redraw.redraw, "cache": cache.cache,
    "backbones": backbones.backbones, "calibrate": calibrate.calibrate, "video": video.video,
}  # fmt: skip
