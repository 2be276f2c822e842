"""A W&B run from its beginning to its end, with something small in the place of W&B."""

import os
import sys
from types import SimpleNamespace

import pytest

from attnvis.pipeline.tracking import Tracker


class Run:
    """What W&B gives for a run: it writes down what it is told."""

    def __init__(self):
        self.logged, self.exit_codes = [], []

    def log(self, numbers):
        self.logged.append(numbers)

    def finish(self, exit_code):
        self.exit_codes.append(exit_code)


@pytest.fixture
def run(here, monkeypatch):
    run = Run()
    fake = SimpleNamespace(Settings=lambda **settings: settings, init=lambda **options: run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return run


def test_what_ends_well_has_the_exit_code_0(here, run):
    with Tracker(here, {"mode": "offline"}, config={}) as tracker:
        tracker.log_numbers({"loss": 0.5})
        assert "WANDB_DATA_DIR" in os.environ
    assert run.logged == [{"loss": 0.5}] and run.exit_codes == [0]
    assert "WANDB_DATA_DIR" not in os.environ, "what was set for one run must not change the next"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_is_left_by_an_error_has_crashed_and_the_error_goes_on(here, run, error):
    with pytest.raises(error), Tracker(here, {"mode": "offline"}, config={}):
        raise error
    assert run.exit_codes == [1] and "WANDB_DATA_DIR" not in os.environ


def test_what_fails_inside_wandb_ends_the_logging_but_not_the_run(here, run, monkeypatch, capsys):
    def broken(numbers):
        raise OSError("no room\nfor this")

    monkeypatch.setattr(run, "log", broken)
    with Tracker(here, {"mode": "offline"}, config={}) as tracker:
        tracker.log_numbers({"loss": 0.5})
        tracker.log_numbers({"loss": 0.4})
    assert capsys.readouterr().err.count("W&B stopped (no room)") == 1 and run.exit_codes == [0]


def test_where_wandb_is_off_it_is_not_even_imported(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    with Tracker(here, {"mode": "disabled"}, config={}) as tracker:
        tracker.log_numbers({"loss": 0.5})
    assert not list(here.iterdir())


def test_an_unknown_mode_is_refused(here):
    with pytest.raises(ValueError, match="choose offline, online or disabled"):
        Tracker(here, {"mode": "loud"}, config={})
