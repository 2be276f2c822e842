"""Names of files and folders, typed: what arrives is what was typed, whatever it holds."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import make_photo, records
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from attnvis import catalogue
from attnvis.cli import config
from attnvis.cli.commands.registry import COMMANDS
from attnvis.cli.quoting import TEXTS as TEXT_SETTINGS
from attnvis.cli.quoting import quoted
from attnvis.cli.resuming import resumed
from attnvis.cli.words import to_overrides

NAMES = [
    "epoch=9-step=100.ckpt",
    "best (1).pth",
    "${b}",
    "${oc.env:HOME}",
    r"\${b}",
    r"a\\${oc.env:HOME}}",
    "[a,b]",
    "[1].png",
    "{a: 1}",
    "it's",
    "'",
    '"half',
    "a b  c ",
    "a,b",
    "#1 @home ~ 100%",
    "-dash",
    "кот",
    "e\u0301",
    "🐈",
    "new\nline",
    "tab\t",
    "back\\slash\\",
    "$(touch x) `y` $HOME",
    "null",
    "true",
    "1e3",
    "a: b",
    "<img>",
    "+x",
    "..",
]
WAYS = [  # a verb, and how a name is given to it; then the setting that receives it
    ("run", "backbone.weights={}", "backbone.weights"),
    ("run", "cache.folder={}", "cache.folder"),
    ("run", "hydra.run.dir={}", "hydra.run.dir"),
    ("run", "images={}", "images"),
    ("run", "query.name={}", "query.name"),
    ("run", "logger.project={}", "logger.project"),
    ("sweep", "hydra.sweep.dir={}", "hydra.sweep.dir"),
    ("sweep", "cache.folder={}", "cache.folder"),
    ("redraw", "run={}", "run"),
    ("redraw", "hydra.run.dir={}", "hydra.run.dir"),
    ("video", "clip={}", "clip"),
    ("video", "backbone.weights={}", "backbone.weights"),
    ("calibrate", "images={}", "images"),
    ("calibrate", "backbone.weights={}", "backbone.weights"),
    ("cache", "folder={}", "folder"),
]


def received(words, key, verb):
    """What the code gets of a setting, by Hydra's own reader and OmegaConf's."""
    (override,) = (word for word in to_overrides(words, COMMANDS[verb]) if word.startswith(f"{key}="))
    parsed = OverridesParser.create().parse_override(override)
    return config.plain(OmegaConf.create({"value": parsed.value()}))["value"]


def strange(text):
    """Not what has a meaning by itself: quotes from end to end, a list, a missing value, no name at all."""
    return not re.fullmatch(r"(['\"]).*\1|\[.*\]|\?\?\?|", text, re.DOTALL) and not os.path.exists(text)


TEXTS = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=("Cs",))).filter(strange)
SIGNS = st.text(alphabet=st.sampled_from("${}[]()'\"\\,=:a b.-~#@%\n")).filter(strange)


@pytest.mark.parametrize("verb, way, key", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_arrives_as_it_was_typed(here, verb, way, key, name):
    if name == "[a,b]" and key == "images":
        assert received(["images=[a,b]"], key, verb) == ["a", "b"]
    else:
        assert received([way.format(name)], key, verb) == name


@given(way=st.sampled_from(WAYS), text=TEXTS | SIGNS)
@example(way=WAYS[0], text="\\'")
@example(way=WAYS[0], text="\\\\${a}\\")
@settings(deadline=None, derandomize=True, max_examples=400)
def test_any_text_arrives_as_it_was_typed(way, text):
    verb, form, key = way
    assert received([form.format(text)], key, verb) == text
    assert received([form.format(f'"{escaped(text)}"')], key, verb) == text, "in quotes of Hydra's too"


def escaped(text):
    """As Hydra's double quotes want it."""
    text = re.sub(r"(\\+)\Z", r"\1\1", text)
    return re.sub(r'(\\*)"', r'\1\1\\"', text)


@given(texts=st.lists(TEXTS | SIGNS, min_size=1, max_size=3))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_bare_words_arrive_as_they_were_typed(texts):
    words = [text for text in texts if "=" not in text and not text.startswith("-")]
    if words:
        assert received(words, "images", "run") == words
        assert received(words[:1], "clip", "video") == words[0]


@given(texts=st.lists(SIGNS, min_size=1, max_size=3))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_a_list_in_quotes_arrives_as_it_was_typed(texts):
    typed = ",".join(f'"{escaped(text)}"' for text in texts)
    assert received([f"images=[{typed}]"], "images", "run") == texts


@given(text=TEXTS | SIGNS)
@example(text="${oc.env:HOME}")
@example(text="a\\${b} ${c}\\")
@settings(deadline=None, derandomize=True, max_examples=100)
def test_what_a_config_names_is_built_with_the_names_as_they_are(text):
    cfg = OmegaConf.create(
        {"query": {"_target_": "attnvis.attention.query.class_", "_partial_": True}, "trust": []}
    )
    cfg.query.name = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # as Hydra leaves it there
    assert config.build(cfg, "query").keywords == {"name": text}


def test_a_name_reads_no_environment_and_no_setting(attnvis, here):
    names = ["${oc.env:HOME}.png", "${name}.png", "a${b}=[1] (2),{3}.png"]
    for number, name in enumerate(names):
        make_photo(here / name, seed=number)
    assert attnvis("run", *names, "render.panel=false").code == 0
    assert [row["photo"] for row in records()] == names
    assert attnvis("run", "--resume", "out").code == 0
    assert [row["photo"] for row in records()] == names
    assert attnvis("redraw", "out", "hydra.run.dir=again ${b} [1]").code == 0
    assert [row["photo"] for row in records("again ${b} [1]")] == names


def test_a_sweep_of_several_jobs_reads_no_variable_in_a_name(attnvis, here, monkeypatch):
    from attnvis.experiments.sweep import page

    monkeypatch.setattr(page, "write_comparison", lambda sweep: sweep.folder / "index.html")
    name = "${b} ${oc.env:HOME}, [1]=2.png"
    make_photo(here / name)
    small = (
        "sheets=0",
        "scaling=none",
        "query=tabby",
        "seed=0,1",
        "preprocess.size=96",
        "cache.folder=c${x}",
    )
    assert attnvis("sweep", name, *small, "hydra.sweep.dir=out ${b}").code == 0
    assert {
        part["path"]
        for part in json.loads(Path("out ${b}/plan.json").read_text())["photos"][json.dumps([name])]
    } == {name}
    assert attnvis("sweep", "--resume", "out ${b}", "cache.folder=c${x}").code == 0
    assert [path.name for path in here.glob("c*")] == ["c${x}"]


def test_weights_of_any_name_are_found(attnvis, cat):
    """The names of case T11: the file is asked for, whatever it is called; what it holds does not fit."""
    for name in (
        "epoch=9-step=100.ckpt",
        "best (1).pth",
        "${oc.env:HOME}.pth",
        "it's, [the] {best}.pth",
        "-x.pth",
    ):
        complaint = attnvis("run", "cat.png", f"backbone.weights={name}").complaint
        assert f"no weights file {name};" in complaint
        torch.save({"features.0.0.weight": torch.zeros(3)}, name)
        assert f"{name} do not fit" in attnvis("run", "cat.png", f"backbone.weights={name}").complaint


@pytest.mark.parametrize("folder", ["out/a=b [1] {c}, (d)", "out/${oc.env:HOME}", 'out/кот\'s "x"', "out/ x"])
def test_an_output_folder_of_any_name_is_written_and_gone_on_with(attnvis, cat, folder):
    assert attnvis("run", "cat.png", "render.panel=false", f"hydra.run.dir={folder}").code == 0
    (map_file,) = Path(folder, "maps").iterdir()
    before = map_file.stat().st_mtime_ns
    assert attnvis("run", "--resume", folder).code == 0 and map_file.stat().st_mtime_ns == before
    assert len(records(folder)) == 1


def test_a_working_folder_called_like_a_variable_is_no_variable(attnvis, cat, monkeypatch):
    Path("${b}").mkdir()
    monkeypatch.chdir("${b}")
    assert attnvis("run", "../cat.png", "render.panel=false").code == 0 and len(records()) == 1


@pytest.mark.parametrize("folder", ["a=b", "${b}", "[x] (y)", "-dash", "it's", "кот"])
def test_a_folder_of_configs_of_any_name_is_read(attnvis, cat, folder):
    Path(folder, "query").mkdir(parents=True)
    Path(folder, "query", "mine.yaml").write_text(
        "# mine\n_target_: attnvis.attention.query.pca\n_partial_: true\ncomponent: 2\ncentred: true\n"
    )
    for words in (["-cd", folder], [f"--config-dir={folder}"]):
        ended = attnvis("run", "cat.png", *words, "query=mine:3", "--cfg", "job")
        assert ended.code == 0 and "component: 3" in ended.out, ended


@pytest.mark.parametrize("name", NAMES)
def test_resume_goes_on_with_names_as_they_were(here, name):
    Path("done").mkdir()
    words = [f"images={name}", f"query.name={name}"]
    Path("done", "run.json").write_text(json.dumps({"command": shlex.join(["attnvis", "run", *words])}))
    assert resumed(["--resume", "done"], COMMANDS["run"])[: len(words)] == words


def test_every_setting_that_names_a_file_is_in_the_table():
    """By what the configs' own comments say of them."""
    lines = [
        (path.stem if path.parent.name == "configs" else path.parent.name, line)
        for path in catalogue.config_folder().rglob("*.yaml")
        for line in path.read_text().splitlines()
    ]
    pattern = r"^(\w+): [^#]*# .*(\bfiles?\b|\bfolder\b)"
    named = {(group, match[1]) for group, line in lines if (match := re.match(pattern, line))}
    verbs = {"run", "sweep", "evaluate", "explore", "redraw", "export", "video", "calibrate", "why"}
    keys = {key if group in verbs else f"{group}.{key}" for group, key in named}
    assert (
        keys - {"resume", "maps", "layout", "preprocess.depth", "preprocess.truncated"} <= TEXT_SETTINGS
        and {"images", "backbone.weights", "clip", "run"} <= keys
    ), keys - TEXT_SETTINGS


def test_hydra_reads_a_quoted_text_as_that_text():
    for name in NAMES:
        parsed = OverridesParser.create().parse_override(f"x={quoted(name)}").value()
        assert config.plain(OmegaConf.create({"x": parsed}))["x"] == name
