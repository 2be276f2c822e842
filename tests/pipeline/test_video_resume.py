"""A video is written in one piece: what is whole is left alone, what was stopped or changed begins anew."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from attnvis.pipeline.video_run import VideoRun

WORDS = ("preprocess.size=96", "codec=mp4v", "batch_size=2", "query=pca")


def film(name, seed=0, frames=6):
    writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    dice = np.random.default_rng(seed)
    for _ in range(frames):
        writer.write(cv2.GaussianBlur(dice.integers(0, 255, (48, 64, 3), dtype=np.uint8), (9, 9), 3))
    writer.release()


@pytest.fixture
def whole(attnvis):
    """./out with a video of six frames, as an undisturbed command leaves it; gives its files."""
    film("clip.avi")
    assert attnvis("video", "clip.avi", *WORDS, "hydra.run.dir=out").code == 0
    return files()


def files(folder="out"):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def plan():
    return json.loads(Path("out/plan.json").read_text())


def test_a_videos_plan_names_the_clip_by_its_digest_and_what_is_to_be_there(whole):
    digest = hashlib.sha256(Path("clip.avi").read_bytes()).hexdigest()
    assert plan()["verb"] == "video" and plan()["photos"] == [{"path": "clip.avi", "digest": digest}]
    assert plan()["files"] == ["overlay.mp4", "numbers.csv", "legend.png"]
    digests = json.loads(whole["run.json"])["files"]
    assert digests == {name: hashlib.sha256(whole[name]).hexdigest() for name in plan()["files"]}


def test_a_video_that_is_whole_is_left_alone(attnvis, whole):
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir() if path.is_file()}
    ended = attnvis("video", "--resume", "out")
    assert ended.code == 0 and ended.err == "" and ended.out == "every frame was drawn: out/overlay.mp4\n"
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir() if path.is_file()} == before


def test_a_video_that_was_stopped_begins_anew_and_says_so(attnvis, whole, monkeypatch):
    add, calls = VideoRun.add, []

    def stop(self, frames):
        calls.append(frames)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(self, frames)

    with monkeypatch.context() as patch:
        patch.setattr(VideoRun, "add", stop)
        assert attnvis("video", "clip.avi", *WORDS, "hydra.run.dir=out").code == 130
    assert json.loads(files()["run.json"])["files"] == {}
    ended = attnvis("video", "--resume", "out")
    assert ended.code == 0 and ended.out.startswith("6 frames drawn")
    assert (
        ended.err
        == "attnvis: a video is written in one piece; what was stopped or has changed is drawn anew\n"
    )
    assert files() == whole


@pytest.mark.parametrize("name", ["overlay.mp4", "numbers.csv", "legend.png"])
def test_a_changed_bit_of_a_video_is_drawn_anew(attnvis, whole, name):
    content = bytearray(whole[name])
    content[len(content) // 2] ^= 1
    Path("out", name).write_bytes(content)
    ended = attnvis("video", "--resume", "out")
    assert ended.code == 0 and "drawn anew" in ended.err and files() == whole


def test_another_clip_under_the_name_is_drawn_anew(attnvis, whole):
    film("clip.avi", seed=1, frames=4)
    ended = attnvis("video", "--resume", "out")
    assert ended.code == 0 and "drawn anew" in ended.err and ended.out.startswith("4 frames drawn")
    Path("clip.avi").unlink()
    assert "clip.avi" in attnvis("video", "--resume", "out").complaint
