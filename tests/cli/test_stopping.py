"""Every long stage of every command ends at a signal, says what is true, and goes on as it says."""

import importlib
import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo, records

from attnvis.cli.stopping import Stopped, check_stop, ended_in_order
from attnvis.methods import answer, attention

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the signals are Unix'")

SMALL = ("logger.mode=disabled", "hydra.run.dir=out")
RUN = ("run", "album", "preprocess.size=96", *SMALL)
SWEEP = ("sweep", "album", "preprocess.size=96", "cache.use=false", *SMALL)
VIDEO = ("video", "clip.avi", "preprocess.size=96", "batch_size=4", *SMALL)
GO_ON = "; what was done is kept, go on with attnvis {} --resume out"


def stop_in(monkeypatch, address, sign, calls=1):
    """The signal comes when this function is called for the so-manyth time."""
    place, name = address.rsplit(":", 1)
    module, _, owner = place.partition("/")
    home = importlib.import_module(f"attnvis.{module}")
    home = getattr(home, owner) if owner else home
    real, count = getattr(home, name), []

    def stopped(*arguments, **settings):
        count.append(1)
        if len(count) == calls:
            signal.raise_signal(sign)  # at this moment; os.kill may wake another thread, and that one later
        return real(*arguments, **settings)

    monkeypatch.setattr(home, name, stopped)


@pytest.fixture
def material(here):
    for number in range(3):
        make_photo(here / "album" / f"{number}.jpg", seed=number)
    writer = cv2.VideoWriter("clip.avi", cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()


STAGES = {
    "run, loading": (RUN, "cli.common:build", 1, "; nothing was done yet"),
    "run, a photo": (RUN, "methods.attention:predictions", 1, GO_ON.format("run")),
    "run, its page": (RUN, "pipeline.run_page:badges_of", 2, GO_ON.format("run")),
    "sweep, loading": (SWEEP, "cli.common:build", 1, GO_ON.format("sweep")),
    "sweep, its plots": (SWEEP, "experiments.sweep.figures.gaps:draw", 1, GO_ON.format("sweep")),
    "sweep, its page": (SWEEP, "experiments.sweep.page:facts", 1, GO_ON.format("sweep")),
    "calibrate": (("calibrate", "album"), "pipeline.calibrating:flip_test", 1, "; stored is what was said"),
    "backbones": (("backbones", "resnet18"), "backbone.overview:stages_of", 1, ""),
    "video, loading": (VIDEO, "cli.common:build", 1, "; nothing was done yet"),
    "video, a frame": (VIDEO, "pipeline.video/Follower:answers", 3, ""),
}


FAST = ("run, a photo", "run, its page", "calibrate", "backbones", "video, a frame")
SIGNS = {"run, a photo": signal.SIGHUP, "backbones": signal.SIGINT, "sweep, its page": signal.SIGINT}


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[pytest.mark.slow] * (stage not in FAST)) for stage in STAGES]
)
def test_a_signal_ends_every_stage_in_order(attnvis, material, monkeypatch, stage):
    words, address, calls, ending = STAGES[stage]
    sign = SIGNS.get(stage, signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_in(patch, address, sign, calls=calls)
        ended = attnvis(*words)
    line = ended.err.splitlines()[-1]
    how = "stopped" if sign == signal.SIGINT else f"stopped by {sign.name}"
    assert ended.code == 128 + sign and line.startswith(f"attnvis: {how}{ending}"), ended.err
    if stage == "run, its page":  # the signal comes between a record and its card
        page, done = Path("out/index.html").read_text(), records()
        assert len(done) >= 2 and all(row["photo"] in page for row in done)
    if "--resume" in ending:
        again = line.partition("attnvis: ")[2].partition("go on with attnvis ")[2].split()
        assert attnvis(*again).code == 0
        assert Path("out/index.html").read_text().rstrip().endswith("</html>")
    if stage == "video, a frame":
        assert "8 frames, kept and playable: out/overlay.mp4" in ended.err.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("swallowed", [ImportError("half imported"), None])
def test_a_stop_that_a_library_catches_is_not_lost(attnvis, material, monkeypatch, swallowed):
    """Extension modules make an ImportError of what is raised while they are loaded."""
    predictions = answer.predictions

    def catching(*arguments):
        if not Path("caught").exists():
            Path("caught").touch()
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            except KeyboardInterrupt:
                if swallowed:
                    raise swallowed from None
        return predictions(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(attention, "predictions", catching)
        ended = attnvis(*RUN, "batch_size=1", "workers=1")
    assert ended.code == 143 and ended.complaint.startswith("attnvis: stopped by SIGTERM; "), ended.err
    assert attnvis("run", "--resume", "out").code == 0
    assert len(records()) == 3


def test_signals_are_as_they_were_afterwards_and_a_second_one_is_not_heard():
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def stopped_again_and_again():
        with ended_in_order():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Stopped:
                signal.raise_signal(signal.SIGTERM)  # while the page is written
                signal.raise_signal(signal.SIGHUP)
                check_stop()

    with pytest.raises(Stopped, match="SIGTERM"):
        stopped_again_and_again()
    assert {sign: signal.getsignal(sign) for sign in before} == before
    check_stop()
