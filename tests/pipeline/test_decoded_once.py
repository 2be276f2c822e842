"""Every photo is decoded once: those that engines are compared on are the first of the run itself."""

import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import make_photo

from attnvis.backbone import agreement, engines
from attnvis.data import decoding, video
from attnvis.pipeline import streaming
from attnvis.types import PhotoError, Preprocessing

PHOTOS = tuple(f"{number}.png" for number in range(10))
HOW = Preprocessing(64)


@pytest.fixture
def photos(here):
    """Ten, two of them upright; the second is none."""
    for number, name in enumerate(PHOTOS):
        make_photo(here / name, (90, 70) if number % 4 == 3 else (70, 90), seed=number)
    Path(PHOTOS[1]).write_bytes(b"nothing")


@pytest.fixture
def decoded(monkeypatch):
    """File -> how often it was decoded; what attnvis drew itself is none of them."""
    counts = Counter()
    decode = decoding.decode

    def counted(data, title, request):
        if Path(title).parent == Path():
            counts[title] += 1
        return decode(data, title, request)

    monkeypatch.setattr(decoding, "decode", counted)
    return counts


def test_a_run_decodes_every_photo_once_the_damaged_one_too(attnvis, photos, decoded):
    assert attnvis("run", *PHOTOS, "workers=2", "batch_size=2").code == 1
    assert decoded == dict.fromkeys(PHOTOS, 1)


@pytest.mark.parametrize("word", ["cache.use=false", "cache.use=true"])
def test_a_run_that_goes_on_decodes_only_what_is_left(attnvis, photos, here, decoded, monkeypatch, word):
    monkeypatch.setenv("ATTNVIS_CACHE", str(here / "cache"))
    assert attnvis("run", *PHOTOS, "batch_size=2", word).code == 1
    begun = json.loads(Path("out/run.json").read_text())
    for name in ("0", "4", "8"):
        next(Path("out/overlays").glob(f"{name}.*")).unlink()
    decoded.clear()
    monkeypatch.setattr(engines, "compare_with_float32", lambda *_, **__: pytest.fail("it was compared"))
    assert attnvis("run", "--resume", "out").code == 1
    assert decoded == {"0.png": 1, "4.png": 1, "8.png": 1, "1.png": 1}  # the damaged one is tried again
    assert json.loads(Path("out/run.json").read_text())["engine"] == begun["engine"]


def test_a_run_keeps_the_precision_it_was_begun_with(attnvis, photos, monkeypatch):
    """Its first photos allow bf16; of those that are left none does."""
    from attnvis.backbone import build

    monkeypatch.setattr(build, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr(engines, "ENOUGH", 5)
    monkeypatch.setattr(agreement, "CLOSE", -1.0)
    monkeypatch.setattr(agreement.Agreement, "is_close", property(lambda found: True))
    words = (
        *PHOTOS,
        "backbone=own",
        "backbone.net._target_=torchvision.models.resnet18",
        "trust=[torchvision]",
    )
    words += (
        "backbone.layer=layer4",
        "backbone.weights=random",
        "backbone.placement=stretch",
        "render.panel=false",
    )
    assert attnvis("run", *words).code == 1
    begun = json.loads(Path("out/run.json").read_text())
    assert begun["precision"] == "bfloat16"
    monkeypatch.setattr(agreement.Agreement, "is_close", property(lambda found: False))
    next(Path("out/overlays").glob("0.*")).unlink()
    assert attnvis("run", *words, "resume=true").code == 1
    record = json.loads(Path("out/run.json").read_text())
    assert (record["precision"], record["engine"]) == (begun["precision"], begun["engine"])


def test_a_sweep_decodes_every_photo_once(attnvis, photos, decoded):
    words = ("scaling=none", "query=mean", "preprocess.size=96", "sheets=0", "cache.use=false")
    attnvis("sweep", *PHOTOS, *words, "hydra.run.dir=out")
    assert decoded == dict.fromkeys(PHOTOS, 1)


def test_the_study_of_recognition_decodes_every_photo_once(attnvis, here, decoded):
    names = [f"{number}_{number}.png" for number in range(10)]  # of class `number`
    for number, name in enumerate(names):
        make_photo(here / name, seed=number)
    words = ("study=recognition", "preprocess.size=64", "cache.use=false", "hydra.run.dir=out")
    assert attnvis("sweep", *names, *words).code == 0
    assert decoded == dict.fromkeys(names, 1)


def test_a_video_decodes_every_frame_once(attnvis, here, monkeypatch):
    from test_video import make_clip

    make_clip(here / "clip.avi", count=12)
    resample, frames = video.resample, []

    def counted(pixels, size):
        frames.append(size)
        return resample(pixels, size)

    monkeypatch.setattr(video, "resample", counted)
    ended = attnvis("video", "clip.avi", "preprocess.size=64", "hydra.run.dir=out")
    assert ended.code == 0 and "12 frames drawn" in ended.out
    assert len(frames) == 12


def test_first_photos_are_taken_from_where_they_lie_and_let_go(photos):
    paths = [Path(name) for name in PHOTOS]
    first = streaming.first_photos([*paths[:3], paths[0], *paths[3:]], HOW)
    assert list(first) == paths[:7] and isinstance(first[paths[1]], PhotoError)
    assert streaming.first_photos(paths[:1], HOW) == {}
    kept = dict(first)
    outcomes = list(
        streaming.stream(paths, lambda batch: [[] for _ in batch.photos], HOW, workers=2, decoded=first)
    )
    assert first == {}, "nothing is held that was used"
    for outcome, path in zip(outcomes, paths, strict=True):
        if path == paths[1]:
            assert outcome.error == str(kept[path])
        elif path in kept:
            assert outcome.photo is kept[path]
        assert outcome.path == path
