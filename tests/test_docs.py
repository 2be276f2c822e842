"""What the documents show works as written."""

import csv
import importlib
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Page, make_photo, records
from torch import nn

from attnvis import catalogue
from attnvis.backbone.class_files import class_names
from attnvis.cli.commands.registry import COMMANDS
from attnvis.data.preprocessing import collate
from attnvis.experiments.sweep import figures
from attnvis.experiments.sweep.page import write_comparison
from attnvis.types import Photo, Preprocessing

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples() -> dict[str, str]:
    """The files that CONTRIBUTING shows: name -> content."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return dict(re.findall(r"```(?:python|yaml|html)\n(?:#|{#) (\S+)(?: #})?\n(.*?)```", text, re.DOTALL))


def write_examples(folder: Path, *beginnings: str) -> None:
    """The files whose names begin so, as printed, below a folder."""
    for name, content in examples().items():
        if name.startswith(beginnings):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)


def imported(name: str):
    """An example as the module that it is."""
    names: dict = {"__name__": name}
    exec(examples()[name], names)
    return SimpleNamespace(**names)


@pytest.fixture
def forgotten(monkeypatch):
    """Modules that a test imports from its own folder are unknown again after it."""
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("number", "row"),
    [
        (0, {"query": "corner:1", "scaling": "root(power=0.5)", "normalise": "squares"}),
        (1, {"weights": "random", "layer": "last", "rows": "3", "columns": "4"}),
    ],
    ids=["query, scaling and normaliser", "family of networks"],
)
def test_the_examples_of_a_users_own_files_run_as_printed(attnvis, here, number, row):
    write_examples(here, "my_queries.py", "mine/")
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
    metric = imported("attnvis/metrics/inside.py")
    weights = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 0.125, 0.875]]])
    inside = torch.tensor([[True, False, True]])
    assert metric.weight_inside(weights, inside).tolist() == [[0.75, 0.875]]


def test_the_example_of_a_method_is_hot_where_the_network_looks():
    """A network of two classes that sees one of 7 x 7 squares and nothing else; most of it is white."""
    method = imported("my_methods.py")

    def network(images):
        seen = images[:, :, 32:48, 80:96].mean((1, 2, 3))
        return torch.stack([-seen, seen], 1)

    pixels = np.zeros((112, 112, 3), np.uint8)
    pixels[36:48, 80:96] = 255
    batch = collate(
        [Photo("square", pixels, (112, 112), "")],
        Preprocessing(112, "stretch", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    )
    ((answer,),) = method.Occlusion(network)(batch)
    assert answer.hottest == (2, 5)
    assert answer.weights[2 * 7 + 5] == pytest.approx(1) and answer.weights.sum() == pytest.approx(1)
    tile = answer.placement.tile(2, 5)
    assert (tile.top, tile.left, tile.height, tile.width) == pytest.approx((32, 80, 16, 16))


def test_the_example_of_a_method_leaves_a_runs_folder(here, forgotten, monkeypatch):
    write_examples(here, "my_methods.py", "occlude.py")
    monkeypatch.syspath_prepend(here)
    runpy.run_path("occlude.py")
    (record,) = records("occluded")
    assert record["status"] == "done" and record["query"] == "occlusion" and record["patches"] == "49"
    assert all((here / "occluded" / record[name]).is_file() for name in ("map", "overlay", "panel"))
    assert "likeliest class" in Page(here / "occluded" / "index.html").words


def test_the_example_of_a_figure_shows_up_on_the_page_of_a_sweep(tmp_path, monkeypatch):
    """The number in its caption by plain softmax: the mean patch asks, nothing is scaled."""
    figure = imported("attnvis/experiments/sweep/figures/hottest.py")
    monkeypatch.setattr(figures, "SECTIONS", (*figures.SECTIONS[-1:], figure.section))
    monkeypatch.syspath_prepend(ROOT / "tests" / "experiments")
    from measured_sweep import measured, noise

    tokens = noise(3, spread=0.2)
    sweep = measured(tmp_path / "sweep", photos=3, tokens=tokens, scalings=("none", "inv_sqrt_d"))
    page = Page(write_comparison(sweep))
    hottest = [float(torch.softmax(photo @ photo.mean(0), 0).max()) for photo in tokens]
    assert f"The highest: “mean” under none ({np.median(hottest):.3f})." in page.words
    assert page.words.index("Self-check: order") < page.words.index("The hottest patch")
    assert "The hottest patch of mean" in [attributes["alt"] for attributes in page.all("img", "alt")]
    assert (sweep.folder / "figures" / "hottest_mean.svg").is_file()


def test_the_example_of_a_command_runs_and_explains_itself(attnvis, here, monkeypatch, capsys):
    shutil.copytree(catalogue.config_folder(), here / "configs")
    write_examples(here, "configs/", "scripts/")
    monkeypatch.setattr(catalogue, "config_folder", lambda: here / "configs")
    monkeypatch.setitem(COMMANDS, "sizes", imported("attnvis/cli/commands/sizes.py").COMMAND)
    make_photo(here / "cat.jpg", (70, 90))
    result = attnvis("sizes", "cat.jpg")
    assert result.code == 0 and result.out == "90 x 70  cat.jpg\n"
    manual = attnvis("sizes", "--help").out
    assert "Photos in, their sizes out: attnvis sizes holiday/" in manual
    assert "attnvis sizes PHOTO ..." in manual and "a .txt with one path a line, or samples" in manual
    assert "attnvis sizes     Photos in, their sizes out" in attnvis("--help").out
    assert "no such photo" in attnvis("sizes", "dog.jpg").complaint
    monkeypatch.setattr(sys, "argv", ["sizes.py", "cat.jpg"])
    runpy.run_path("scripts/sizes.py", run_name="__main__")
    assert capsys.readouterr().out == "90 x 70  cat.jpg\n"


def test_the_example_of_a_page_lists_the_sharpest_maps_first(attnvis, here, forgotten, monkeypatch):
    write_examples(here, "my_pages/")
    monkeypatch.syspath_prepend(here)
    photos = [str(make_photo(here / f"<{number}>.png", seed=number)) for number in range(3)]
    (here / "broken.png").write_bytes(b"no photo")
    assert attnvis("run", *photos, "broken.png", "render.panel=false").code == 1
    page = Page(importlib.import_module("my_pages").write_sharpest(Path("out"), count=2))
    done = [record for record in records() if record["status"] == "done"]
    first, second, _ = sorted(done, key=lambda record: float(record["perplexity"]))
    listed = [words for words in page.words.split(" patches") if " of " in words]
    assert first["photo"] in listed[0] and second["photo"] in listed[1] and len(listed) == 2
    assert "The 2 sharpest maps" in page.words and page.words.endswith("How this was made runout")


class Net(nn.Module):
    """A network of one's own, as docs/python.md has it: `blocks`, their mean, `fc`."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(6)))
        self.fc = nn.Linear(3, 5)

    def forward(self, images):
        return self.fc(self.blocks(images).mean((2, 3)))


def test_python_is_as_printed(here):
    printed = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    blocks = [block for block in printed if "lightning" not in block]  # backbone/test_training_loops.py
    names: dict = {"net": Net().eval()}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5 and (here / "out/epoch-1.jpg").is_file()
    assert (here / "out/coffee.png").is_file() and (here / "out/compared.png").is_file()
    assert names["result"].weights.sum() == pytest.approx(1, abs=1e-5)
    assert names["network"].layer == "blocks.5" and names["network"].certificates[0] is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_address_in_attnvis_and_every_file_that_a_document_names_exists(path):
    text = path.read_text()
    for address in re.findall(r"(?<![\w/])attnvis(?:\.\w+)+", text):
        assert resolve_name(address) is not None
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    below = (ROOT, ROOT / "attnvis", path.parent)
    for name in re.findall(r"[\w.-]+(?:/[\w.-]+)+\.(?:py|yaml|html)\b", text):
        if name not in examples() and not re.search("NAME|VERB", name):
            assert any((folder / name).exists() for folder in below), name
    for name in re.findall(r"`([\w-]+(?:/[\w-]+)+/)`", text):
        assert any((folder / name).is_dir() for folder in below), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(path):
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    files = {file.name for file in (ROOT / "tests").rglob("*.py")}
    for name in re.findall(r"`(test_\w+(?:\.py)?)", path.read_text()):
        assert name in files if name.endswith(".py") else f"def {name}(" in tests, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere_and_no_figure_is_missing(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    assert "MEASURE" not in text


def test_every_module_has_its_place_on_the_map_of_files():
    links = re.findall(r"\]\(\.\./(attnvis/[^)]+)\)", (ROOT / "docs/files.md").read_text())
    for module in sorted((ROOT / "attnvis").rglob("*.py")):
        path = module.relative_to(ROOT)
        places = {place.as_posix() for place in (path, *path.parents)}
        assert module.name == "__init__.py" or places & set(links), path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_that_a_document_names_exists(path):
    text = re.sub(r"```(?:python|yaml|html).*?```", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"^    attnvis run cat.jpg -cd mine .*$", "", text, flags=re.MULTILINE)  # are run above
    for group in catalogue.groups():
        for option in re.findall(rf"(?<![.\w]){group}=([a-z_0-9]+)", text):
            is_class = group == "query" and (option.isdecimal() or option in class_names("imagenet"))
            is_number = group == "heads" and option.isdecimal()
            assert option in catalogue.options(group) or catalogue.family(option) or is_class or is_number, (
                f"{group}={option}"
            )


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
    assert len(commands(ROOT / "README.md")) == 15
    assert ["run", "cat.jpg"] in commands(ROOT / "README.md")
