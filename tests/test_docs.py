"""What the documents show works as written."""

import csv
import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import make_photo

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples() -> dict[str, str]:
    """The files that CONTRIBUTING shows: name -> content."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return dict(re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize(
    ("number", "row"),
    [
        (0, {"query": "corner:1", "scaling": "root(power=0.5)", "normalise": "squares"}),
        (1, {"weights": "random", "layer": "last", "rows": "3", "columns": "4"}),
    ],
    ids=["query, scaling and normaliser", "family of networks"],
)
def test_the_examples_of_a_users_own_files_run_as_printed(attnvis, here, number, row):
    for name, content in examples().items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    make_photo(here / "cat.jpg")
    text = (ROOT / "CONTRIBUTING.md").read_text()
    printed = re.findall(r"^    attnvis (run cat.jpg -cd mine .*)$", text, re.MULTILINE)
    assert len(printed) == 2
    assert attnvis(*shlex.split(printed[number])).code == 0
    with Path("out/records.csv").open(newline="") as file:
        (record,) = csv.DictReader(file)
    assert record["status"] == "done"
    assert {name: record[name] for name in row} == row


def test_the_example_of_a_metric_is_the_sum_by_hand():
    names: dict = {}
    exec(examples()["attnvis/metrics/inside.py"], names)
    weights = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 0.125, 0.875]]])
    inside = torch.tensor([[True, False, True]])
    assert names["weight_inside"](weights, inside).tolist() == [[0.75, 0.875]]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere_and_no_figure_is_missing(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    assert "MEASURE" not in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_that_a_document_names_exists(path):
    from attnvis import catalogue

    text = re.sub(r"```(?:python|yaml).*?```", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"^    attnvis run cat.jpg -cd mine .*$", "", text, flags=re.MULTILINE)  # are run above
    for group in catalogue.groups():
        for option in re.findall(rf"(?<![.\w]){group}=([a-z_0-9]+)", text):
            assert option in catalogue.options(group) or catalogue.family(option), f"{group}={option}"


def commands(path):
    """The `attnvis ...` commands of a document's code blocks, without their comments, as words."""
    lines = re.findall(r"^    (attnvis .*)$", path.read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


PRINTED = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}")
    for path in DOCUMENTS
    for words in commands(path)
    if not {"--help", "--resume", "-cd"} & set(words)  # of no settings, of a run's folder, and run above
]


@pytest.mark.parametrize("words", PRINTED)
def test_every_printed_command_composes(words):
    """The first job of it, where it has several axes."""
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from attnvis import catalogue
    from attnvis.cli.commands.registry import COMMANDS
    from attnvis.cli.words import to_overrides

    verb, *rest = words
    assert verb in COMMANDS
    overrides = []
    for text in to_overrides(rest, COMMANDS[verb]):
        if text.startswith("-"):  # a flag of Hydra's
            continue
        override = OverridesParser.create().parse_override(text)
        if override.is_sweep_override():
            text = f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        overrides.append(text)
    with initialize_config_dir(version_base="1.3", config_dir=str(catalogue.config_folder())):
        assert compose(config_name=verb, overrides=overrides)


def test_the_commands_of_the_readme_are_seen():
    assert len(commands(ROOT / "README.md")) == 6
    assert ["run", "cat.jpg"] in commands(ROOT / "README.md")
