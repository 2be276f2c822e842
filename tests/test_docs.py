"""What the documents show works as written."""

import csv
import re
import shlex
from pathlib import Path

import pytest
from conftest import make_photo

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/design.md",
        "docs/backbones.md",
        "docs/placement.md",
        "docs/faults.md",
        "docs/performance.md",
    )
]


def test_the_example_of_a_users_own_query_and_scaling_runs_as_printed(attnvis, here):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == [
        "my_queries.py",
        "mine/query/corner.yaml",
        "mine/scaling/root.yaml",
    ]
    for name, content in blocks:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    make_photo(here / "cat.jpg")
    command = shlex.split(re.search(r"^    attnvis (run cat.jpg -cd mine .*)$", text, re.MULTILINE)[1])
    assert attnvis(*command).code == 0
    with Path("out/records.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["status"], row["query"], row["scaling"]) == ("done", "corner:1", "root(power=0.5)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere_and_no_figure_is_missing(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    assert "MEASURE" not in text


def test_every_option_that_the_readme_names_exists():
    from attnvis import catalogue

    text = re.sub(r"```python.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    for group in catalogue.groups():
        for option in re.findall(rf"(?<![.\w]){group}=([a-z_0-9]+)", text):
            assert option in catalogue.options(group) or catalogue.family(option), f"{group}={option}"
