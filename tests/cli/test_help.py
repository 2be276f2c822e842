"""What --help shows, and what it does not need."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import attnvis as package

ROOT = Path(package.__file__).resolve().parents[1]


LIGHT = (["--help"], ["run", "--help"], ["redraw", "-h"], ["--version"], [])


def test_help_needs_no_torch_and_no_hydra():
    code = f"""
import sys
from attnvis.cli import main
for words in {LIGHT!r}:
    sys.argv = ["attnvis", *words]
    try:
        main()
    except SystemExit:
        pass
    heavy = {{"torch", "hydra", "wandb", "cv2", "numpy"}} & set(sys.modules)
    print("LOADED", *sorted(heavy), "BY", *words)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [line.split() for line in ended.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == [["LOADED", "BY", *words] for words in LIGHT]
    assert all(f"attnvis {verb} " in ended.stdout for verb in ("run", "redraw"))


def test_help_names_every_group_option_and_setting_with_its_meaning(attnvis):
    text = attnvis("run", "--help").out
    measured = attnvis("evaluate", "--help").out
    assert "the mean z-score of the map at the fixations; 0 is chance; needs fixations" in measured
    anatomy = {"backbone.stages", "backbone.head", "backbone.net"}
    for folder in (ROOT / "configs").iterdir():
        if not folder.is_dir():
            continue
        if folder.name in ("preprocess", "cache"):
            assert f"{folder.name}=..." not in text, "there is nothing to choose"
            continue
        if folder.name == "metric":
            assert "metric=..." in measured and "metric=..." not in text
            continue
        assert f"{folder.name}=..." in text
        for file in folder.glob("*.yaml"):
            lines = file.read_text().splitlines()
            if folder.name == "experiment" and not any("attnvis run " in line for line in lines):
                continue  # another verb's
            if not file.name.startswith("_"):
                sentence = next(
                    line[2:] for line in lines if line.startswith("# ") and "@package" not in line
                )
                assert re.search(rf"^  {file.stem} +{re.escape(sentence)}$", text, re.MULTILINE), file
            if folder.name != "experiment":
                for key in yaml.safe_load("\n".join(lines)).keys() - {
                    "defaults",
                    "hydra",
                    "_target_",
                    "_partial_",
                }:
                    short = folder.name in ("query", "scaling", "normalise", "keys", "heads", "method")
                    assert f"{folder.name}.{key}" in anatomy or re.search(
                        rf"[ ,]{key}=" if short else rf"{folder.name}\.{key}=", text
                    ), (
                        file,
                        key,
                    )
    settings = yaml.safe_load((ROOT / "configs" / "run.yaml").read_text())
    own = settings.keys() - {"defaults", "hydra", "shards"}
    shared = [
        "preprocess.fit",
        "preprocess.size",
        *(f"cache.{key}" for key in ("use", "folder", "storage", "limit")),
        *(f"shards.{key}" for key in settings["shards"]),
    ]
    for key in [*own, *shared]:
        assert re.search(rf"^  {re.escape(key)}=\S+  +\S", text, re.MULTILINE), key


def test_the_words_alone_say_what_verbs_there_are(attnvis):
    lines = attnvis("--help").out.splitlines()
    verbs = (
        "run",
        "sweep",
        "evaluate",
        "explore",
        "why",
        "serve",
        "redraw",
        "export",
        "status",
        "cache",
        "backbones",
        "calibrate",
        "video",
    )
    for verb in verbs:
        (line,) = (line for line in lines if line.startswith(f"  attnvis {verb} "))
        first = (ROOT / "configs" / f"{verb}.yaml").read_text().splitlines()[0]
        assert line.endswith(first.removeprefix("# ")) and len(first) > 20


@pytest.mark.parametrize(
    "verb, words",
    [
        ("run", "PHOTO ..."),
        ("sweep", "PHOTO ..."),
        ("explore", "PHOTO ..."),
        ("why", "PHOTO ..."),
        ("redraw", "FOLDER"),
        ("backbones", "NETWORK ..."),
        ("calibrate", "PHOTO ..."),
        ("video", "FILE"),
    ],
)
def test_help_says_what_bare_words_are(attnvis, verb, words):
    assert attnvis(verb, "--help").out.splitlines()[2].startswith(f"  attnvis {verb} {words} [group=option]")


def test_a_setting_that_a_verb_shares_is_shown_as_the_verb_has_it(attnvis):
    """Sweeps keep features on disk, runs do not; the other settings of the cache are the same."""
    run, sweep = (attnvis(verb, "--help").out.splitlines() for verb in ("run", "sweep"))
    assert sum(line.startswith("  cache.use=") for line in sweep) == 1
    assert any(line.startswith("  cache.use=true ") for line in sweep)
    assert any(line.startswith("  cache.use=false ") for line in run)
    assert {line for line in run if "cache.limit=" in line} == {
        line for line in sweep if "cache.limit=" in line
    }


def test_help_says_whose_a_setting_is(attnvis):
    """By the configs themselves: what is shown as an option's stands in its file."""
    lines = attnvis("run", "--help").out.splitlines()
    first, last = lines.index("  some also take:"), lines.index("query=...  (default mean)")
    options = {
        file.stem: yaml.safe_load(file.read_text())
        for file in (ROOT / "configs/backbone").glob("[a-z]*.yaml")
    }
    shown = 0
    for line in filter(None, lines[first + 1 : last]):
        key, value, owners = re.fullmatch(r" +backbone\.(\w+)=(.*?)  .*\((.*)\)", line).groups()
        named = owners.removeprefix("all but ").split(", ")
        having = named if named[0] == owners.split(", ")[0] else options.keys() - set(named)
        for option in having:
            assert options[option][key] == yaml.safe_load(value), (line, option)
            shown += 1
    weighted = [option for option, settings in options.items() if "weights" in settings]
    assert shown >= len(weighted) and sum("backbone.weights=" in line for line in lines) == 4


def test_help_shows_how_a_stage_is_typed_in_one_word(attnvis):
    for verb in ("run", "sweep", "video"):
        text = attnvis(verb, "--help").out
        for typed in (
            "query=class:tabby",
            "query=point:120,80",
            "scaling=temperature:2",
            "normalise=top_k:5",
        ):
            assert typed in text, (verb, typed)
        assert ("query=class,mean" in text.partition("settings:")[0]) == (verb != "video")


def test_only_a_run_offers_the_launchers_of_shards(attnvis):
    offered = {
        verb: re.findall(r"^  (local|ray) +\S", attnvis(verb, "--help").out, re.M)
        for verb in ("run", "sweep")
    }
    assert offered == {"run": ["local", "ray"], "sweep": []}
