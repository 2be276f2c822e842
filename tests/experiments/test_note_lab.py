"""The slider of the note's page: its pairs against the goldens in Node, its photo against Python."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from browsing import fits, ready
from conftest import Page, fake_backbone, make_photo
from test_seed_note import GOLDEN, HOW, Tiles, short_head, spread_over, swept

from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.experiments.note_lab import lab_of, read_lab
from attnvis.experiments.seed_note import write_note
from attnvis.experiments.sweep.folder import read_sweep
from attnvis.render.overlays import Style

MODULES = Path(__file__).parents[2] / "attnvis" / "explorer" / "js"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_the_sliders_pairs_are_the_goldens():
    questions = [(row["pair"], math.sqrt(row["dim"])) for row in GOLDEN]
    program = (
        f"import {{ divided }} from {json.dumps((MODULES / 'pairs.js').as_uri())};"
        f"const asked = {json.dumps(questions)};"
        "console.log(JSON.stringify(asked.map(([pair, divisor]) => divided(pair, divisor))));"
    )
    words = ["node", "--input-type=module", "-e", program]
    answers = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert len(answers) == 8
    for row, answer in zip(GOLDEN, answers):
        assert answer["weights"] == pytest.approx([row["first"], row["second"]], rel=1e-9, abs=0), row
        assert answer["perplexity"] == pytest.approx(row["perplexity"], rel=1e-6), row


def write_lab(folder: Path, photos: list[Path], net=None) -> bytes | None:
    """What the job of experiment=note does with its first photo."""
    backbone = net or fake_backbone(Tiles(), HOW, short_head())
    lab = lab_of(photos, backbone, preprocessing=HOW, style=Style())
    if lab is not None:
        (folder / "lab.json").write_bytes(lab)
    return lab


@pytest.fixture
def folder(tmp_path):
    return swept(tmp_path / "sweep", ("none", "inv_sqrt_d"), [make_photo(tmp_path / "cat.png", (60, 75))])


def test_the_page_holds_the_first_photo_that_can_be_read(folder, tmp_path):
    (tmp_path / "text.jpg").write_text("hello, this is no photo")
    photos = [tmp_path / "text.jpg", tmp_path / "cat.png"]
    assert write_lab(folder, photos)
    page = Page(write_note(read_sweep(folder), tmp_path / "out"))
    facts = read_lab(folder)["facts"]
    assert facts["photo"]["name"] == "cat.png" and facts["layers"][0]["grid"] == [4, 5]
    assert [tags["id"] for tags in page.all("script", "id")] == ["facts", "tokens-0", "rows-0", "scales-0"]
    assert [tags["data-dim"] for tags in page.all("button", "data-dim")] == ["1", "64", "100", "512", "2048"]
    assert "<b>ant" not in page.source and "http" not in page.source.replace("http-equiv", "").replace(
        "http://www.w3.org/2000/svg", ""
    )


def test_features_that_are_not_numbers_leave_the_pairs_alone(folder, tmp_path):
    class Broken(Tiles):
        def forward(self, images):
            return super().forward(images) * torch.nan

    assert write_lab(folder, [tmp_path / "cat.png"], fake_backbone(Broken(), HOW)) is None
    page = Page(write_note(read_sweep(folder), tmp_path / "out"))
    assert not page.all("script", "id") and "attnvis explore samples/coffee" in page.words


def test_a_lab_that_was_cut_is_none(tmp_path):
    whole = write_lab(tmp_path, [make_photo(tmp_path / "cat.png", (60, 75))])
    assert read_lab(tmp_path) == json.loads(whole)
    (tmp_path / "lab.json").write_bytes(whole[: len(whole) // 2])
    assert read_lab(tmp_path) is None


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_one_slider_moves_the_pairs_and_the_photo(folder, tmp_path, visit, width):
    write_lab(folder, [tmp_path / "cat.png"])
    wrong, page = visit(write_note(read_sweep(folder), tmp_path / "out"), width)
    ready(page)
    maps = Tiles()(collate([load(tmp_path / "cat.png")], HOW).images)[0].flatten(1).T.double()
    scores = maps @ maps.mean(0)
    for dim, words in ((1, "88.1% and 11.9%"), (2048, "51.1% and 48.9%")):
        page.locator(f"[data-dim='{dim}']").click()
        said = page.locator("#lab-says").inner_text()
        assert said.startswith(f"d = {dim}: ") and words in page.locator("#lab-pairs").inner_text()
        expected = spread_over((scores / math.sqrt(dim)).softmax(0).numpy())
        spread = page.locator("#lab-photo .spread").inner_text()
        assert float(spread.split()[2]) == pytest.approx(expected, rel=0.01) and "of 20 patches" in spread
    page.locator("#lab-asks button").nth(1).click()
    assert page.locator("#lab-photo .question").inner_text() != "the mean patch"
    page.locator("#lab-photo .stage").click()
    assert page.locator("#lab-photo .question").inner_text().startswith("point ")
    pressed_twice = (
        "play => [1, 2].map(() => { play.click(); return play.textContent })"  # before it has played
    )
    assert page.locator("#lab-play").evaluate(pressed_twice) == ["Stop", "Play"]
    fits(page)
    assert not wrong
