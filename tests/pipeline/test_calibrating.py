"""A calibration is stored at its end or not at all, and no two of the same weights are made at once."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import LOADED, make_photo

from attnvis.backbone.calibration import calibration_file
from attnvis.pipeline import calibrating
from attnvis.pipeline.calibrating import held


@pytest.fixture
def own_cache(here, monkeypatch):
    monkeypatch.setenv("ATTNVIS_CACHE", str(here / "cache"))


def test_the_same_weights_are_calibrated_by_one_process_at_a_time(own_cache):
    backbone = LOADED()
    other = replace(backbone, digest="0" * 64)
    with (
        held(backbone),
        held(other),
        pytest.raises(ValueError, match="is being calibrated by another process"),
    ):
        held(backbone).__enter__()
    with held(backbone):
        pass
    assert not list(Path("cache/calibrations").iterdir())


def test_a_calibration_that_is_stopped_stores_nothing_and_says_so(attnvis, own_cache, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    make_photo(Path("a.png"))
    monkeypatch.setattr(calibrating, "flip_test_of_chance", stop)
    monkeypatch.setattr(calibrating, "flip_test", lambda *_, **__: ([], {}))
    ended = attnvis("calibrate", "a.png", "preprocess.size=96")
    assert ended.code == 130
    assert ended.err == "attnvis: stopped; stored is what was said to be, and nothing else\n"
    assert not [path for path in calibration_file("", "").parent.rglob("*") if path.is_file()]


def test_a_second_calibration_is_refused_before_it_reads_a_photo(attnvis, own_cache, monkeypatch):
    make_photo(Path("a.png"))
    monkeypatch.setattr(calibrating, "flip_test", None)  # nobody comes so far
    with held(LOADED(placement="rf")):
        complaint = attnvis("calibrate", "a.png", "preprocess.size=96").complaint
    assert "efficientnet_lite0 is being calibrated by another process; wait for it" in complaint
