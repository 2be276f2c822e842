"""`attnvis video`: a video in, the same video with the attention drawn over it out."""

import contextlib
import math
import sys
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.chosen_method import inputs_of
from attnvis.cli.commands.command import Command
from attnvis.cli.common import build_network, check_logger, provenance, shout
from attnvis.cli.config import build, plain
from attnvis.cli.messages import note, short_path
from attnvis.cli.stages import ATTENTION
from attnvis.cli.stopping import check_stop

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.data.video import Clip, Frame
    from attnvis.methods.attention import AttentionMethod
    from attnvis.pipeline.plan import RunPlan
    from attnvis.pipeline.video_run import VideoRun
    from attnvis.render import Style
    from attnvis.types import Preprocessing

__all__ = ["COMMAND", "video"]


def video(cfg: "DictConfig", folder: Path) -> int:
    """A video in, the same video with the attention drawn over it out.

    Gives 1 where the file is cut off or damaged.  Raises ValueError for times that leave nothing, OSError
    where there is no room; the frames that had room are kept.
    """
    from tqdm import tqdm

    from attnvis.data.video import examine, frames
    from attnvis.pipeline.tracking import Tracker
    from attnvis.pipeline.video import attend_frames
    from attnvis.pipeline.video_run import VideoRun, is_drawn

    check_logger(plain(cfg.logger), cfg.name)
    start, stop = times_of(cfg)
    clip = examine(Path(str(cfg.clip)))
    style = build(cfg, "render")
    backbone, preprocessing, method = build_method(cfg)
    shown = (min(stop, clip.lasts) - start) / clip.lasts if clip.lasts else 0.0  # the share of the clip
    count = max(1, round(shown * clip.stored))
    supply = frames(clip, start, stop)
    first = list(islice(supply, 1))
    choose_engine(cfg, backbone, preprocessing, clip, first=first, count=count)
    plan = plan_of(cfg, clip, style, backbone, preprocessing)
    shout(plan.warnings)
    if cfg.resume and is_drawn(folder, plan):
        print(f"every frame was drawn: {short_path(folder / 'overlay.mp4')}")
        return 0
    if cfg.resume:
        note("a video is written in one piece; what was stopped or has changed is drawn anew")
    run = VideoRun(folder, clip, plan, codec=cfg.codec)
    try:
        with (
            Tracker(folder, plan.logger, run.settings, job="video", group=plan.name) as tracker,
            run,
            tqdm(total=count, unit="frame", disable=not sys.stderr.isatty(), leave=False) as bar,
        ):
            chunks = attend_frames(
                chain(first, supply),
                method,
                preprocessing,
                batch_size=cfg.batch_size,
                every=cfg.every,
                smooth=float(cfg.smooth),
                after=run.add,
                name=clip.path.name,
            )
            with contextlib.closing(chunks):
                for chunk in chunks:
                    check_stop()
                    bar.update(len(chunk))
            tracker.log_numbers({"frames": run.drawn} | run.means)
    except (KeyboardInterrupt, OSError):
        if run.writer.path.exists():
            note(f"stopped after {count_frames(run.drawn)}, kept and playable: {short_path(run.writer.path)}")
        raise
    return print_summary(run, clip, start, stop)


def build_method(cfg: "DictConfig") -> "tuple[Backbone, Preprocessing, AttentionMethod]":
    """The network, how frames are prepared for it, and the method, its signs held from frame to frame."""
    from attnvis.methods.attention import AttentionMethod, steady
    from attnvis.pipeline.preparing import prepared, prepared_keys

    query, scaling, normalise, keys, heads = (build(cfg, group) for group in ATTENTION)
    backbone = build_network(cfg)
    preprocessing = backbone.preprocessing.changed(cfg.preprocess.fit, cfg.preprocess.size)
    query = prepared(query, backbone, preprocessing)
    method = AttentionMethod(backbone, query, scaling, normalise, keys=prepared_keys(keys), heads=heads)
    return backbone, preprocessing, steady(method)


def choose_engine(
    cfg: "DictConfig",
    backbone: "Backbone",
    preprocessing: "Preprocessing",
    clip: "Clip",
    first: "list[Frame]",
    count: int,
) -> None:
    """On the first frame, for `count` frames of which every n-th goes through the network."""
    from attnvis.backbone.cache import pace_book
    from attnvis.pipeline.video import as_batch

    backbone.prepare(
        max(1, count // max(1, cfg.every)),
        workers=1,
        sample=as_batch(first, preprocessing, clip.path.name) if first else None,
        batch_size=max(1, cfg.batch_size // max(1, cfg.every)),
        book=pace_book(plain(cfg.cache), say=note),
    )


def plan_of(
    cfg: "DictConfig", clip: "Clip", style: "Style", backbone: "Backbone", preprocessing: "Preprocessing"
) -> "RunPlan":
    """Of a run over the frames of one clip."""
    from attnvis.pipeline.plan import RunPlan, setting_text
    from attnvis.pipeline.resume import PlannedPhoto

    keys_text = setting_text(plain(cfg["keys"]))
    return RunPlan(
        paths=(clip.path,),
        style=style,
        provenance=provenance(backbone, preprocessing, seed=cfg.seed, keys=keys_text),
        config=plain(cfg),
        warnings=backbone.warnings_at(preprocessing),
        logger=plain(cfg.logger),
        photos=(PlannedPhoto(str(clip.path), clip.digest),),
        verb="video",
        inputs=inputs_of(cfg),
    )


def times_of(cfg: "DictConfig") -> tuple[float, float]:
    """(start, stop) in seconds; infinity: to the end.  Raises ValueError for times that leave nothing."""
    start, stop = float(cfg.start), float(cfg.stop) or math.inf
    if not 0 <= start < stop:  # NaN fails too
        raise ValueError(
            f"start={start:g} and stop={stop:g} leave nothing of a video; "
            "give seconds, the first below the second"
        )
    return start, stop


def print_summary(run: "VideoRun", clip: "Clip", start: float, stop: float) -> int:
    """Says how many frames were drawn, what is odd about them, where the video is.  Gives the exit code.

    Raises ValueError where not one frame lies between the times that were asked for.
    """
    from attnvis.data.video import missing_part

    if not run.drawn:
        times = f"start={start:g} and stop={stop:g}"
        raise ValueError(f"no frame of {clip.path} lies between {times}; it lasts {clip.lasts:.2f} s")
    if run.uneven:
        note(run.uneven)
    lacking, empty = "", 0
    if math.isinf(stop):
        lacking = missing_part(clip, run.last + 1, run.reached)
        empty = clip.stored - run.last - 1
    if lacking:
        note(lacking)
    elif empty > 0:
        text = f"{empty} of the {clip.stored} frames that {clip.path} holds gave no picture"
        note(f"{text}; the file hides them, or they are damaged")
    print(f"{count_frames(run.drawn)} drawn: {short_path(run.writer.path)}")
    return int(bool(lacking))


def count_frames(frames: int) -> str:
    return f"{frames} frame{'s' * (frames != 1)}"


COMMAND = Command(
    "video",
    video,
    argument="FILE",
    key="clip",
    single="one file",
    record="run.json",
    resuming=("resume=true",),
    takes_query=True,
)
