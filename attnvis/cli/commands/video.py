"""The verb `video`: its config in, a run's folder with the drawn video out; what the terminal is told of it."""

import contextlib
import math
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.commands.common import provenance, shout
from attnvis.cli.config import build, plain
from attnvis.cli.messages import note, short_path, visible

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.data.video import Clip
    from attnvis.pipeline.video import VideoRun

__all__ = ["COMMAND", "video"]


def video(cfg: "DictConfig", folder: Path) -> int:
    """A video in, the same video with the attention drawn over it out.  1 where fewer frames could be read than the file promises."""
    import torch
    from tqdm import tqdm

    from attnvis.data.video import examine, frames
    from attnvis.methods.attention import AttentionMethod, steady
    from attnvis.pipeline.plan import RunPlan
    from attnvis.pipeline.tracking import Tracker
    from attnvis.pipeline.video import VideoRun, as_batch, attend_frames

    start, stop = float(cfg.start), float(cfg.stop) or math.inf
    if not 0 <= start < stop:  # NaN fails too
        raise ValueError(
            f"start={start:g} and stop={stop:g} leave nothing of a video; give seconds, the first below the second"
        )
    clip = examine(Path(str(cfg.clip)))
    style = build(cfg, "render")
    query, scaling, normalise = (build(cfg, group) for group in ("query", "scaling", "normalise"))
    torch.manual_seed(cfg.seed)
    backbone = build(cfg, "backbone")
    method = steady(AttentionMethod(backbone, query, scaling, normalise))
    count = max(1, round((min(stop, clip.promised / clip.rate) - start) * clip.rate))
    how = backbone.preprocessing.changed(cfg.preprocess.fit, cfg.preprocess.size)
    backbone.prepare(
        max(1, count // max(1, cfg.every)),
        torch.get_num_threads(),
        as_batch(islice(frames(clip), 1), how, clip.path.name),
    )
    plan = RunPlan(
        paths=(clip.path,),
        style=style,
        provenance=provenance(backbone, how, seed=cfg.seed),
        config=plain(cfg),
        warnings=backbone.warnings_at(how),
        logger=plain(cfg.logger),
    )
    shout(plan.warnings)
    film = VideoRun(folder, clip, plan, codec=cfg.codec)
    try:
        with (
            Tracker(folder, plan.logger, config=film.told, job="video") as tracker,
            film,
            tqdm(total=count, unit="frame", disable=not sys.stderr.isatty(), leave=False) as bar,
        ):
            reel = frames(clip, start, stop)
            shots = attend_frames(
                reel,
                method,
                how,
                cfg.batch_size,
                cfg.every,
                float(cfg.smooth),
                film.add,
                clip.path.name,
            )
            with contextlib.closing(shots):
                for chunk in shots:
                    bar.update(len(chunk))
            tracker.log_numbers({"frames": film.movie.count} | film.means)
    except KeyboardInterrupt:
        if film.movie.path.exists():
            note(f"stopped after {film.movie.count} frames, which are kept: {short_path(film.movie.path)}")
        raise
    return print_summary(film, clip, start, stop)


def print_summary(film: "VideoRun", clip: "Clip", start: float, stop: float) -> int:
    """The last words; the exit code."""
    drawn = film.movie.count
    if not drawn:
        lasts = clip.promised / clip.rate
        raise ValueError(
            f"no frame of {clip.path} lies between start={start:g} and stop={stop:g}; it lasts {lasts:.2f} s"
        )
    if film.uneven:
        note(visible(film.uneven))
    cut = math.isinf(stop) and clip.promised - film.last - 1 > max(
        2, clip.promised // 100
    )  # what some containers promise is an estimate
    if cut:
        note(
            visible(
                f"{film.last + 1} of the {clip.promised} frames that {clip.path} promises could be read; it is cut off or damaged"
            )
        )
    print(f"{drawn} frame{'s' * (drawn != 1)} drawn: {short_path(film.movie.path)}")
    return int(cut)


COMMAND = Command("video", video, argument="FILE", key="clip", single="one file", takes_query=True)
