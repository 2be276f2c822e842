"""What people mistype: said in one line, and nothing is left behind."""

import json
from pathlib import Path

import pytest

from attnvis.cli import entry
from attnvis.cli.commands.registry import COMMANDS
from attnvis.cli.config import fitted
from attnvis.cli.words import to_overrides


def complaint_of(words, capsys, verb="run"):
    with pytest.raises(SystemExit) as ended:
        to_overrides(words, COMMANDS[verb])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "word, said",
    [
        ("++queri=mean", "there is no setting 'queri'; did you mean query"),
        ("+preprocess.sise=64", "did you mean preprocess.size"),
        ("+logger.foo=1", "there is no setting 'logger.foo'"),
        ("hydra.run.dir=", "hydra.run.dir= names no folder"),
        ("=", "'=' names no setting"),
    ],
)
def test_what_nothing_would_read_is_refused(here, capsys, word, said):
    assert said in complaint_of(["cat.png", word], capsys)


@pytest.mark.parametrize(
    "word", ["+logger.entity=me", "+seed=3", "+experiment=queries", "+hydra.verbose=true"]
)
def test_what_is_added_and_read_is_taken(here, word):
    assert any(
        word.lstrip("+") in override.replace("'", "") for override in to_overrides([word], COMMANDS["run"])
    )


def test_a_variable_that_another_word_reads_may_be_added(here):
    assert "+mine=3" in to_overrides(["+mine=3", "seed=${mine}"], COMMANDS["run"])


def test_of_a_setting_that_is_typed_twice_the_last_counts_and_it_is_said(here, capsys):
    overrides = to_overrides(["seed=1", "query=point:3,4", "query=mean", "seed=2"], COMMANDS["run"])
    assert overrides == ["query=mean", "seed=2"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "attnvis: seed=1 and seed=2 were both given, and the last counts",
        "attnvis: query=point:3,4 and query=mean were both given, and the last counts; "
        "several go in one, with commas",
    ]


@pytest.mark.parametrize("name, other", [("run", "sweep"), ("sweep", "run")])
def test_a_folder_is_the_folder_of_one_job_and_of_several(here, name, other):
    overrides = to_overrides([f"hydra.{name}.dir=my out"], COMMANDS["sweep"])
    assert overrides == [f"hydra.{name}.dir='my out'", f"hydra.{other}.dir='my out'"]
    assert to_overrides([f"+hydra.{name}.dir=x"], COMMANDS["sweep"]) == [
        f"+hydra.{name}.dir='x'",
        f"hydra.{other}.dir='x'",
    ]


@pytest.mark.parametrize("verb", ["cache", "serve"])
def test_a_word_for_a_command_that_takes_none_is_said_to_be_one(here, capsys, verb):
    assert f"attnvis {verb} takes settings, name=value, and no 'foo'" in complaint_of(["foo"], capsys, verb)


@pytest.mark.parametrize(
    "words", [["redraw", "nosuch"], ["redraw"], ["run", "nosuch.png", "hydra.run.dir=x/y"]]
)
def test_a_command_that_does_nothing_leaves_no_folder(attnvis, here, words):
    assert attnvis(*words).complaint
    assert list(here.iterdir()) == []


def test_a_folder_that_was_there_stays(attnvis, here):
    Path("mine").mkdir()
    assert attnvis("run", "nosuch.png", "hydra.run.dir=mine").complaint
    assert Path("mine").is_dir()


@pytest.mark.parametrize("verb, noun", [("redraw", "FOLDER"), ("evaluate", "DATA"), ("calibrate", "PHOTO")])
def test_a_command_without_its_word_says_which(attnvis, here, verb, noun):
    assert attnvis(verb).complaint.startswith(f"attnvis: attnvis {verb} was given no {noun}; type attnvis")


def test_a_comma_where_one_value_is_wanted(attnvis, cat):
    assert "seed=1,2: seed takes one value" in attnvis("why", "cat.png", "seed=1,2").complaint
    assert "there is no setting 'at'" in attnvis("why", "cat.png", "at=1,2").complaint


def test_a_setting_that_a_function_lacks_is_named_with_its_neighbours(attnvis, cat):
    complaint = attnvis("run", "cat.png", "+render.hihg=3").complaint
    assert "there is no setting render.hihg here; did you mean render.high" in complaint


@pytest.mark.parametrize(
    "word, said",
    [
        ("launcher=local,ray", "launcher=local,ray: launcher takes one value; give one of them, or -m for"),
        ("experiment=a,b", "experiment=a,b: experiment takes one value; give one of them, or -m for"),
        ("backbone=resnet18,resnet50", "backbone takes one value; give one of them, or -m for a job of each"),
        ("++seed=1,2", "++seed=1,2: seed takes one value; give a list as 'seed=[1,2]' where it is one"),
        ("metrc=auc", "there is no setting 'metrc'; see attnvis run --help"),
        ("metric=auc", "there is no setting 'metric'; see attnvis run --help"),
        (f"seed={2**64}", f"seed={2**64} has more than 64 bits; give one of -2^63 ... 2^64 - 1"),
    ],
)
def test_what_is_said_of_a_word_is_true_of_it(attnvis, cat, word, said):
    complaint = attnvis("run", "cat.png", word).complaint
    assert said in complaint and "=[resnet18" not in complaint


def test_no_argument_is_suggested_that_nobody_can_set():
    tau = {"_target_": "attnvis.attention.scaling.temperature", "_partial_": True}
    with pytest.raises(ValueError, match=r"no setting scaling\.tao here; did you mean scaling\.tau\?$"):
        fitted("scaling", {**tau, "tao": 2})
    with pytest.raises(ValueError, match=r"there is no setting scaling\.scores here"):
        fitted("scaling", {**tau, "scores": 1})


def test_a_seed_may_be_as_large_as_torch_takes_it(attnvis, cat):
    words = ("query=random", f"query.seed={2**64 - 1}", f"seed={2**64 - 1}", "render.panel=false")
    assert attnvis("run", "cat.png", *words).code == 0


@pytest.mark.parametrize("first, last", [("seed=1", "+seed=2"), ("++seed=1", "seed=2")])
def test_a_plus_makes_no_other_setting_of_it(here, capsys, first, last):
    assert to_overrides([first, last], COMMANDS["run"]) == [last]
    assert f"{first} and {last} were both given" in capsys.readouterr().err


def test_words_of_a_folder_that_goes_on_are_not_held_against_the_person(attnvis, here, monkeypatch):
    launched = []
    monkeypatch.setattr(entry, "launch", lambda _, overrides: launched.extend(overrides))
    Path("done").mkdir()
    Path("done/run.json").write_text(json.dumps({"command": "attnvis run a.png +mine=3 seed=1 seed=2"}))
    ended = attnvis("run", "--resume", "done", "+mine=3")
    assert (ended.code, ended.err) == (0, "")
    assert launched[:3] == ["images=['a.png']", "+mine=3", "seed=2"]


def test_help_and_version_stand_where_people_put_them(attnvis, here):
    assert attnvis("help", "run").out == attnvis("run", "--help").out
    assert attnvis("run", "--version").out == attnvis("--version").out


def test_what_is_piped_in_is_said_not_to_be_read(here, capsys):
    assert "what is piped in is not read; save it to a file" in complaint_of(["-"], capsys)
