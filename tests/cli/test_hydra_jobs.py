"""Several jobs of one command."""

import pytest
from conftest import records
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra

from attnvis import catalogue
from attnvis.cli import hydra_jobs
from attnvis.cli.commands.registry import COMMANDS


def test_a_sweep_has_a_folder_for_each_choice_and_outlives_one_that_fails(attnvis, cat):
    ended = attnvis(
        "run",
        "-m",
        "cat.png",
        "query=class",
        "query.name=tabby,nosuchclass",
        "scaling=none,cosine",
        "render.panel=false",
    )
    assert ended.code == 1 and ended.err.count("unknown class 'nosuchclass'") == 2
    done = {(row["label"], row["scaling"]) for number in (0, 1) for row in records(f"out/{number}")}
    assert done == {("tabby", "none"), ("tabby", "cosine(tau=0.07)")}


def test_a_help_that_is_made_when_shown_is_let_be_inside_the_block_only(monkeypatch):
    """As argparse of Python 3.14 checks: what is no text is badly formed, and texts stay checked."""
    import argparse

    def strict(parser, action):
        if not isinstance(action.help, str) or "%(" in action.help:
            raise ValueError("badly formed help string")

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", strict, raising=False)
    parser = argparse.ArgumentParser()
    lazy, bad = (argparse.Action([], "x", help=text) for text in (object(), "%(nothing"))
    with hydra_jobs.help_made_when_shown():
        parser._check_help(lazy)
        with pytest.raises(ValueError, match="badly formed"):
            parser._check_help(bad)
    with pytest.raises(ValueError, match="badly formed"):
        parser._check_help(lazy)


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_config_of_ours_is_not_asked_for_a_mode_it_does_not_have(verb):
    """The oracle is the config as Hydra composes it: it names none."""
    with initialize_config_dir(str(catalogue.config_folder()), version_base="1.3"):
        assert compose(verb, return_hydra_config=True).hydra.mode is None


@pytest.mark.parametrize(
    "words",
    [["experiment=equal_sharpness"], ["+experiment=mine"], ["hydra.mode=MULTIRUN"], ["-m"], ["-cd", "mine"]],
)
def test_words_that_may_ask_for_several_jobs_are_asked(words):
    usual = Hydra.get_mode
    with hydra_jobs.composed_once(["images=a.jpg", *words]):
        assert Hydra.get_mode is usual
    with hydra_jobs.composed_once(["images=experiment.jpg", "hydra.run.dir=out"]):
        assert Hydra.get_mode is not usual
    assert Hydra.get_mode is usual
