"""Explorers in Chromium: clicks, keys and links; Python's numbers and colours; frames, policies, damage."""

import html
import random
import re

import numpy as np
import pytest
import random_questions
import torch
from browsing import comes, ready, whole
from test_explorer_page import origin

from attnvis.attention.query.language import build_queries, parse
from attnvis.backbone.heads import Linear
from attnvis.explorer.modules import script
from attnvis.explorer.page import Origin, explorer, page_of, photo_data
from attnvis.render.overlays import Style, heatmap
from attnvis.types import Box, Features, Photo, Placement

pytestmark = pytest.mark.browser
GRID, D, C = (5, 7), 41, 9


def features(grid=GRID, seed=0) -> Features:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, grid[0] * grid[1], D, generator=draw).relu() * 3
    head = Linear(
        torch.randn(C, D, generator=draw) / 4, torch.zeros(C), tuple(f"class {n}" for n in range(C))
    )
    seen = Box(0.0, 0.0, 100.0, 140.0)
    placement = Placement(
        (100 / grid[0] / 2 - 3, 140 / grid[1] / 2 - 3),
        (100 / grid[0], 140 / grid[1]),
        grid=grid,
        size=(100, 140),
        seen=seen,
    )
    return Features(tokens, grid, (placement,), head=head, logits=head(tokens.mean(1)))


def photo() -> Photo:
    return Photo("cat.jpg", np.full((100, 140, 3), 90, np.uint8), (100, 140), "d")


def follow(page, link: str) -> None:
    """Another link in the address, until what it asks is drawn."""
    page.evaluate(
        """link => new Promise(drawn => {
            const next = () => requestAnimationFrame(() => requestAnimationFrame(drawn));
            addEventListener("hashchange", next, { once: true });
            location.hash = link;
        })""",
        link,
    )


@pytest.fixture
def page(visit, tmp_path):
    path = explorer(Origin(photo(), (features(),), "net")).save(tmp_path / "page.html")
    wrong, opened = visit(path, 1280)
    ready(opened)
    yield opened
    assert not wrong


def chips(page) -> list[str]:
    return [" ".join(text.split()) for text in page.locator("#chips li").all_inner_texts()]


def test_an_explorer_is_a_whole_page_wide_and_narrow(visit, tmp_path):
    whole(visit, explorer(origin("a" * 120, "word " * 30)).save(tmp_path / "page.html"), least=1)


def test_clicks_ask_add_and_subtract_and_a_drag_asks_a_box(page):
    stage = page.locator(".stage")
    box = stage.bounding_box()

    def place(x, y):
        return {"x": box["width"] * x / 140, "y": box["height"] * y / 100}

    stage.click(position=place(70, 50))
    middle = re.compile(r"\+ point (69\.\d|70|70\.\d),(49\.\d|50|50\.\d)")
    comes(lambda: [bool(middle.fullmatch(chip)) for chip in chips(page)], [True])
    stage.click(position=place(20, 20), modifiers=["Shift"])
    comes(lambda: [chip[:9] for chip in chips(page)], ["+ point 7", "− point 2"])
    stage.click(position=place(120, 80), modifiers=["Alt"])
    comes(lambda: [chip[0] for chip in chips(page)], ["+", "−", "+"])
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    comes(lambda: chips(page), ["+ box 35,25,70,25"])


def test_keys_move_ask_and_subtract(page):
    page.locator(".stage").focus()
    page.keyboard.press("ArrowRight")  # the middle patch: row 2, column 3
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+Enter")
    comes(lambda: chips(page), ["+ point 67,47 ×", "− point 67,27 ×"])
    assert page.locator(".said").inner_text()


def test_a_link_opens_the_view_that_it_was_copied_from(page):
    page.locator("#scaling").select_option("zscore")
    page.locator("#normalise").select_option("top_k")
    page.locator("[data-ask=rarity]").click()
    page.locator("#compare").click()
    page.locator("[data-ask=mean]").click()
    first, second = (
        "q=rarity&scaling=zscore:1&normalise=top_k:10",
        "q2=mean&scaling2=zscore:1&normalise2=top_k:10",
    )
    comes(lambda: page.evaluate("location.hash"), f"#{first}&{second}")
    page.reload()
    ready(page)
    comes(lambda: page.locator(".question").all_inner_texts(), ["rarity", "the mean patch"])


def test_a_link_is_followed_though_the_page_writes_its_address_meanwhile(page):
    page.evaluate("location.hash = 'q=norm'; history.replaceState(null, '', '#q=mean')")
    comes(page.locator(".question").inner_text, "norm")


@pytest.mark.parametrize(
    "link", ["#q=nosuch:1", "#q=point:1", "#scaling=nosuch", "#q=rarity;-norm", "#%%%", "#q=class:4e9"]
)
def test_a_link_that_means_nothing_still_opens(page, link):
    follow(page, "#q=mean")
    follow(page, link)
    assert page.locator(".question").inner_text()


def test_the_command_is_what_was_asked(page):
    page.locator("[data-ask=norm]").click()
    page.locator("#scaling").select_option("inv_sqrt_d")
    command = page.locator("#command")
    comes(command.inner_text, "attnvis run cat.jpg query=norm scaling=inv_sqrt_d")
    follow(page, "#q=point:10,20;-class:3&scaling=cosine:0.1")
    assert command.inner_text() == "attnvis run cat.jpg 'query=point:10,20 - class:3' scaling=cosine:0.1"
    (query,) = build_queries(parse("point:10,20 - class:3"), features())
    weights = page.evaluate("attnvisExplorer.answer('q=point:10,20;-class:3&scaling=none').weights")
    expected = (features().tokens[0] @ query.vectors[0, 0]).softmax(0)
    assert random_questions.distance(weights, expected) < 1e-3


def compare(page, layer: Features, count: int, seed: int = 0) -> list[float]:
    """How far the weights of random questions are from Python's; none farther than the page says."""
    draw, off = random.Random(seed), []
    for _ in range(count):
        terms, scale, normal = random_questions.question(draw, layer, list(range(C)))
        kinds = {text.removeprefix("-").partition(":")[0] for text in terms}
        if scale.startswith("cosine") and {"class", "random"} <= kinds:
            continue  # the length of such a sum is not in the file
        try:
            expected = random_questions.weights(layer, terms, scale, normal)
        except ValueError:  # one patch has no principal direction
            continue
        answer = page.evaluate(
            "link => attnvisExplorer.answer(link)", random_questions.link(terms, scale, normal)
        )
        distance = random_questions.distance(answer["weights"], expected)
        assert distance <= answer["bound"], (terms, scale, normal, distance, answer["bound"])
        off.append(distance)
    return off


def test_random_questions_have_pythons_answers_within_the_bound_that_is_shown(page):
    off = compare(page, features(), 150)
    assert np.median(off) < 1e-4 and np.mean(np.array(off) > 1e-3) < 0.05


@pytest.mark.slow
def test_thousands_of_random_questions_have_pythons_answers(page):
    off = compare(page, features(), 3000, seed=1)
    assert np.median(off) < 1e-4 and max(off) < 2e-2


def test_a_point_that_python_would_refuse_is_refused(page):
    follow(page, "#q=point:200,20")
    assert "outside of what the network saw" in page.locator(".question").inner_text()


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (4, 1)])
def test_a_grid_of_one_cell_or_one_row_is_shown(visit, tmp_path, grid):
    path = explorer(Origin(photo(), (features(grid),), "net")).save(tmp_path / "page.html")
    wrong, opened = visit(path, 1280)
    ready(opened)
    opened.locator(".stage").click()
    compare(opened, features(grid), 20)
    assert not wrong and f"of {grid[0] * grid[1]} patches" in opened.locator(".spread").inner_text()


def test_the_heatmap_has_the_colours_of_render(page):
    follow(page, "#q=point:40,60&scaling=zscore:0.7&as=heatmap")
    width, height, data = page.evaluate(
        """() => { const map = document.querySelector('canvas.map');
        const { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height);
        return [map.width, map.height, Array.from(data)] }"""
    )
    drawn = np.array(data, np.uint8).reshape(height, width, 4)
    layer = features()
    cells = (
        random_questions.weights(layer, ["point:40,60"], "zscore:0.7", "softmax").numpy().reshape(GRID) * 35
    )
    expected = heatmap(cells, Style(), placement=layer.placements[0], size=(height, width))
    assert np.abs(drawn[..., :3].astype(int) - expected).max() <= 4  # neighbours among 256 colours
    assert (drawn[..., 3] == 255).all() and np.ptp(expected, (0, 1)).max() > 60


def test_words_of_strangers_are_shown_as_they_are(visit, tmp_path):
    wrong, opened = visit(explorer(origin()).save(tmp_path / "page.html"), 400)
    ready(opened)
    opened.locator("#found .pick").first.click()
    assert "<img src=x onerror=alert(1)>" in opened.locator("h1").inner_text()
    assert not wrong and opened.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8, 0.99])
def test_a_file_that_was_cut_says_so(visit, tmp_path, keep):
    source = explorer(Origin(photo(), (features(),), "net")).html
    (tmp_path / "cut.html").write_text(source[: int(len(source) * keep)])
    _, opened = visit(tmp_path / "cut.html", 1280)
    opened.locator("#trouble").wait_for(state="visible")
    assert "not whole" in opened.locator("#trouble").inner_text()


def test_a_piece_that_is_missing_is_told(visit, tmp_path):
    source = explorer(Origin(photo(), (features(),), "net")).html
    (tmp_path / "cut.html").write_text(source.replace('id="rows-0"', 'id="other"'))
    _, opened = visit(tmp_path / "cut.html", 1280)
    opened.locator("#trouble").wait_for(state="visible")
    assert "a part of it is missing" in opened.locator("#trouble").inner_text()


def test_numbers_that_were_changed_are_not_shown_as_a_map(visit, tmp_path):
    source = explorer(Origin(photo(), (features(),), "net")).html
    start = source.index('id="tokens-0">') + len('id="tokens-0">')
    (tmp_path / "bad.html").write_text(source[: start + 40] + "AAAA" + source[start + 44 :])
    _, opened = visit(tmp_path / "bad.html", 1280)
    opened.locator("#trouble").wait_for(state="visible")
    assert "This page cannot be shown" in opened.locator("#trouble").inner_text()


def test_it_runs_in_a_sandboxed_frame_under_a_policy_that_allows_nothing_from_outside(visit, tmp_path):
    inner = explorer(Origin(photo(), (features(),), "net")).html
    inline = "script-src 'unsafe-inline'; style-src 'unsafe-inline'"
    policy = f"default-src 'none'; {inline}; img-src data:; frame-src 'self'"
    (tmp_path / "frame.html").write_text(
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}"><title>t</title>'
        f'<h1>t</h1><iframe sandbox="allow-scripts" srcdoc="{html.escape(inner)}" '
        "width=1000 height=800></iframe>"
    )
    wrong, opened = visit(tmp_path / "frame.html", 1280)
    frame = opened.frames[1]
    ready(frame)
    frame.locator(".stage").click()
    comes(lambda: frame.locator(".question").inner_text()[:6], "point ")
    frame.locator("#save").click()
    comes(lambda: (frame.locator("#saved").get_attribute("src") or "")[:14], "data:image/png")
    assert not [text for text in wrong if "download" not in text.lower() and "clipboard" not in text.lower()]


def test_the_notes_slider_divides_both_pairs_by_hand(visit, tmp_path):
    """The page of a note is of a sweep; here its slider alone, with the script that it has."""
    body = '<div id="lab" hidden><p id="lab-says"></p>'
    body += '<input type="range" id="lab-dim" min="0" max="1000" value="0">'
    body += '<button data-dim="64">64</button><button id="lab-play"></button>'
    body += '<div id="lab-pairs"></div></div>'
    (tmp_path / "note.html").write_text(
        f"<!doctype html><title>t</title><h1>t</h1>{body}<script>{script('note.js')}</script>"
    )
    wrong, opened = visit(tmp_path / "note.html", 1280)
    assert "88.1% and 11.9%" in opened.locator("#lab-pairs").inner_text()  # 1 / (1 + e^-2)
    opened.locator("[data-dim]").click()
    assert not wrong and "divided by √64 = 8.00" in opened.locator("#lab-says").inner_text()
    words = opened.locator("#lab-pairs").inner_text()
    # the note's table: 1 / (1 + e^-.25) and 1 / (1 + e^-7.5)
    assert "56.2% and 43.8%" in words and "99.9% and 0.0553%" in words


def test_another_photo_is_asked_the_same_and_a_link_names_it(visit, tmp_path):
    """Two photos whose features differ: the second shows its own numbers, those of a page of its own."""
    other = Photo("dog.jpg", np.full((120, 90, 3), 60, np.uint8), (120, 90), "d")
    origins = [Origin(photo(), (features(),), "net"), Origin(other, (features(seed=3),), "net")]
    both = page_of([photo_data(each) for each in origins]).save(tmp_path / "both.html")
    alone = explorer(origins[1]).save(tmp_path / "alone.html")
    asked = "q=class:4&scaling=zscore:2&normalise=softmax"
    wrong, page = visit(both, 1280)
    ready(page)
    follow(page, f"#{asked}")
    page.get_by_role("button", name="dog.jpg").click()
    comes(page.title, "dog.jpg")
    assert page.locator("h1").inner_text() == "dog.jpg"
    comes(lambda: page.evaluate("location.hash"), f"#photo=2&{asked}")
    assert page.locator("#lead-size").inner_text() == "90 × 120"
    ask = f"attnvisExplorer.answer('{asked}').weights"
    weights = page.evaluate(ask)
    _, single = visit(alone, 1280)
    ready(single)
    assert weights == single.evaluate(ask)
    page.locator("#photos button").first.click()  # a place of one photo is none of another
    comes(page.title, "cat.jpg")
    follow(page, "#q=point:20,20")
    page.locator("#photos button").nth(1).click()
    comes(page.title, "dog.jpg")
    comes(lambda: [chip[:7] for chip in chips(page)], ["+ class"])
    _, linked = visit(both, 1280)
    linked.goto(f"{both.resolve().as_uri()}#photo=2&{asked}")
    linked.reload()
    ready(linked)
    comes(linked.title, "dog.jpg")
    comes(lambda: chips(linked), ["+ class 4"])
    assert not wrong
