"""What is typed for W&B is refused in one line or taken by W&B itself, which is the oracle."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnvis.pipeline.logger import NAMES, VARIABLES, read_logger

FIELDS = {  # ours -> W&B's
    "project": "project",
    "entity": "entity",
    "group": "run_group",
    "name": "run_name",
    "job_type": "run_job_type",
    "id": "run_id",
    "notes": "run_notes",
}
ODD = (
    *("", " ", "a b", "a/b", "a\\b", "#1", "50%", "a:b", "why?", "a;b", "a,b", "it's", "x" * 64, "x" * 65),
    *("x" * 128, "x" * 129, "ü" * 128, "😀" * 40, "👩‍🔬", "line\nend", "nul\0", "tab\t", " edges ", "\u2028"),
    *("${name}", "..", ".", "-", "---", "null", "é", "caf\udcc3\udca9", "\udcff", "\ud83d", "\u200b", "日本"),
)
TEXTS = st.one_of(st.sampled_from(ODD), st.text(st.characters(), max_size=140))
VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
MANY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """None of W&B's variables."""
    for name in (*VARIABLES.values(), "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def taken_by_wandb(asked):
    """What W&B makes of settings, down to the bytes that it sends.  Raises where it refuses them."""
    import wandb

    given = {theirs: getattr(asked, ours) for ours, theirs in FIELDS.items()}
    given |= {"run_tags": asked.tags, "mode": asked.mode}
    made = wandb.Settings(**{key: value for key, value in given.items() if value is not None})
    made.to_proto().SerializeToString()
    return made


@MANY
@given(st.dictionaries(st.sampled_from([*FIELDS, "tags", "mode", "pictures"]), VALUES, max_size=4))
def test_every_value_is_refused_in_a_line_or_taken_by_wandb(logger):
    asked, refusal = None, ""
    try:
        asked = read_logger(logger)
    except ValueError as error:
        refusal = str(error)
    if asked is None:
        assert "logger." in refusal and "\n" not in refusal
        return
    made = taken_by_wandb(asked)
    for ours, theirs in FIELDS.items():
        assert getattr(made, theirs) == getattr(asked, ours)


@MANY
@given(st.sampled_from(NAMES), TEXTS)
def test_what_wandb_refuses_of_a_typed_name_is_refused(key, text):
    import wandb

    try:
        wandb.Settings(**{FIELDS[key]: text}).to_proto().SerializeToString()
    except Exception:
        if text and all(sign < "\ud800" for sign in text):
            with pytest.raises(ValueError, match=f"logger.{key}"):
                read_logger({key: text})


@MANY
@given(st.dictionaries(st.sampled_from([*FIELDS, "tags"]), TEXTS, max_size=4))
def test_every_variable_is_made_fit(variables):
    variables = {key: text for key, text in variables.items() if "\0" not in text}
    with pytest.MonkeyPatch.context() as patch:
        for key, text in variables.items():
            patch.setitem(os.environ, VARIABLES[key], os.fsdecode(text.encode("utf-8", "replace")))
        asked = read_logger({})
    taken_by_wandb(asked)


@MANY
@given(TEXTS)
def test_a_default_is_made_fit(name):
    taken_by_wandb(read_logger({}, group=name, name=name, id=name))


@pytest.mark.parametrize(
    "logger, reason",
    [
        ({"project": "a/b"}, "it holds /"),
        ({"project": "x" * 129}, "129 letters, of at most 128"),
        ({"tags": ["x" * 70]}, "70 letters, of at most 64"),
        ({"tags": [""]}, "it is empty"),
        ({"tags": [["nested"]]}, "each is a word"),
        ({"tags": [None]}, "each is a word"),
        ({"group": ["a"]}, "must be a word"),
        ({"group": "two\nlines"}, "a line end"),
        ({"id": "a:b"}, "it holds :"),
        ({"pictures": -1}, "a whole number from 0 on"),
        ({"pictures": True}, "a whole number from 0 on"),
        ({"mode": "loud"}, "choose offline, online or disabled"),
        ({"enity": "me"}, "did you mean entity?"),
    ],
)
def test_what_is_wrong_is_said(logger, reason):
    with pytest.raises(ValueError, match="logger") as refusal:
        read_logger(logger)
    assert reason in str(refusal.value)


def test_numbers_are_names_too():
    asked = read_logger({"project": 42, "group": 2024, "tags": [1, 2.5], "name": 1e-3})
    assert (asked.project, asked.group, asked.tags, asked.name) == ("42", "2024", ("1", "2.5"), "0.001")


def test_bytes_that_the_locale_could_not_read_are_read_as_utf8():
    typed = "😀".encode().decode("ascii", "surrogateescape")  # what LC_ALL=C makes of it
    assert read_logger({"group": typed}).group == "😀"


def test_a_folder_that_cannot_be_is_refused_or_said(here, monkeypatch):
    (here / "file").write_text("")
    with pytest.raises(ValueError, match=r"logger\.dir"):
        read_logger({"dir": "file/below", "mode": "offline"})
    monkeypatch.setenv("WANDB_DIR", "file/below")
    asked = read_logger({"mode": "offline"})
    assert asked.dir is None and "WANDB_DIR" in asked.remarks[0]


@pytest.mark.parametrize(
    "typed, variables, mode",
    [
        ("", {}, "offline"),
        ("", {"WANDB_MODE": "online"}, "online"),
        ("", {"WANDB_MODE": "dryrun"}, "offline"),
        ("", {"WANDB_MODE": "shared"}, "offline"),
        ("", {"WANDB_MODE": "online", "WANDB_DISABLED": "true"}, "disabled"),
        ("", {"WANDB_DISABLED": "false"}, "offline"),
        ("offline", {"WANDB_MODE": "online", "WANDB_DISABLED": "1"}, "offline"),
    ],
)
def test_which_mode_is_meant(monkeypatch, typed, variables, mode):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked = read_logger({"mode": typed})
    assert asked.mode == mode and bool(asked.remarks) == (variables.get("WANDB_MODE") == "shared")


def test_every_setting_of_the_config_is_known():
    from attnvis import catalogue

    config = catalogue.settings("logger/wandb")
    assert set(config) == {*VARIABLES, "pictures"} and read_logger(config) == read_logger({})
