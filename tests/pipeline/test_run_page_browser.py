"""A run's page in Chromium: tiles open large, as heatmap, as photo, side by side; rows crows come late."""

import numpy as np
import pytest
from browsing import comes, whole
from PIL import Image
from test_run_page import row

from attnvis.pipeline.drawing import HEATMAPS, PHOTOS
from attnvis.pipeline.run_page import CARDS, RunPage

pytestmark = pytest.mark.browser
COLOURS = {"overlays": (200, 30, 60), HEATMAPS: (240, 220, 40), PHOTOS: (30, 80, 200)}
QUERIES = ("mean", "rarity")


def paint(path, colour) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((90, 160, 3), colour, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two photos with two maps each, a third with one; the third has neither heatmap nor photo beside it."""
    for photo in ("zero", "one"):
        paint(tmp_path / f"{PHOTOS}/{photo}.jpg", COLOURS[PHOTOS])
        for query in QUERIES:
            paint(tmp_path / f"{HEATMAPS}/{photo}.{query}.jpg", COLOURS[HEATMAPS])
    with RunPage(tmp_path, stems=["zero", "one", "two"]) as page:
        for index, photo in enumerate(("zero", "one", "two")):
            for query in QUERIES[: 2 if index < 2 else 1]:
                overlay = f"overlays/{photo}.{query}.jpg"
                paint(tmp_path / overlay, COLOURS["overlays"])
                numbers = {"index": float(index), "perplexity": 10.0 + (7 * index) % 10}
                page.add(row(f"{photo}.jpg", query=query, path=photo, overlay=overlay, **numbers))
        page.write("a run", {"backbone": "net"})
    return tmp_path


def shown(page) -> list[tuple[str, int]]:
    """(kind of picture, its width) of what the dialog shows."""
    sources = "images => images.map(image => [image.src, image.naturalWidth])"
    kinds = {"overlays": "overlay", HEATMAPS: "heatmap", PHOTOS: "photo"}
    found = page.locator("#large-pictures img").evaluate_all(sources)
    return [
        (next((kinds[part] for part in kinds if part in source), source[:16]), wide) for source, wide in found
    ]


def test_the_page_is_whole_wide_and_narrow(visit, folder):
    whole(visit, folder / "index.html", least=5)


def test_a_tile_opens_large_and_the_keys_change_what_is_seen(visit, folder):
    wrong, page = visit(folder / "index.html", 1280)
    page.locator("a.thumb").first.click()
    assert page.locator("#large").evaluate("dialog => dialog.open")
    comes(lambda: shown(page), [("overlay", 160)])
    page.keyboard.press("2")
    comes(lambda: shown(page), [("heatmap", 160)])
    page.keyboard.press("3")
    comes(lambda: shown(page), [("photo", 160)])
    page.keyboard.press("a")
    comes(lambda: shown(page), [("photo", 160)] * 2)  # the maps of one photo, and of no other
    page.keyboard.press("1")
    comes(lambda: shown(page), [("overlay", 160)] * 2)
    page.locator("#large-next").click()
    assert page.locator("#large-title").inner_text() == "one.jpg" and len(shown(page)) == 2
    page.locator("#large-next").click()
    assert page.locator("#large-title").inner_text() == "two.jpg"
    comes(lambda: shown(page), [("overlay", 160)])
    assert not page.locator("#large-all").is_visible() and not page.locator("#large-look").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#large").evaluate("dialog => dialog.open")
    assert page.evaluate("document.activeElement.className") == "thumb", "the keyboard is where it was"
    assert not wrong


def test_an_enlarged_picture_scrolls_and_its_neighbour_with_it(visit, folder):
    _, page = visit(folder / "index.html", 1280)
    page.locator("a.thumb").first.click()
    page.keyboard.press("a")
    for _ in range(3):
        page.keyboard.press("+")
    assert page.locator("#large-zoom").inner_text() == "3×"
    comes(
        lambda: shown(page), [("overlay", 160)] * 2
    )  # a picture that is not there yet has no place to scroll to
    page.locator(".pan").first.evaluate("pan => { pan.scrollLeft = 37; pan.scrollTop = 11 }")

    def places():
        """The second's is the first's, to the pixel and a half."""
        scrolled = "pans => pans.map(pan => [pan.scrollLeft, pan.scrollTop])"
        first, second = page.locator(".pan").evaluate_all(scrolled)
        return first[0] > 30 and second == pytest.approx(first, abs=1.5)

    comes(places)


def test_all_cards_become_heatmaps_but_for_those_that_have_none(visit, folder):
    wrong, page = visit(folder / "index.html", 1280)
    page.locator("input[name=look][value=heatmap]").check(force=True)
    kinds = "images => images.map(image => image.complete && image.naturalWidth ? image.src : '')"
    tiles = page.locator("a.thumb img")
    comes(lambda: [HEATMAPS in source for source in tiles.evaluate_all(kinds)], [True] * 4 + [False])
    page.locator("input[name=look][value=overlay]").check(force=True)
    comes(lambda: {source[:5] for source in tiles.evaluate_all(kinds)}, {"data:"})
    assert not wrong


def test_a_page_without_its_folder_shows_what_it_holds_and_says_so(visit, folder, tmp_path_factory):
    alone = tmp_path_factory.mktemp("mailed") / "index.html"
    alone.write_bytes((folder / "index.html").read_bytes())
    _, page = visit(alone, 1280)
    page.locator("input[name=look][value=photo]").check(force=True)
    page.locator("#looks-say", has_text="not beside this page").wait_for()
    page.locator("a.thumb").first.click()
    comes(lambda: shown(page), [("data:image/jpeg;", 160)])
    assert "not beside this page" in page.locator("#large-pictures figcaption").inner_text()


def test_photos_sort_by_the_best_of_their_maps_and_groups_stay_together(visit, folder):
    _, page = visit(folder / "index.html", 1280)
    names = "items => items.map(item => item.dataset.photo)"
    page.locator("[data-sort=perplexity]").click()  # 10, 17, 14
    assert page.locator(".cards > *").evaluate_all(names) == ["zero.jpg", "two.jpg", "one.jpg"]
    page.locator("[data-sort=perplexity]").click()
    assert page.locator(".cards > *").evaluate_all(names) == ["one.jpg", "two.jpg", "zero.jpg"]
    page.locator("#find").fill("rarity")
    assert page.locator(".cards > *:visible").evaluate_all(names) == ["one.jpg", "zero.jpg"]
    assert page.locator("#shown").inner_text() == "2 of 5"


def test_rows_beyond_the_cards_come_as_one_scrolls_and_sort_and_filter_as_all(visit, tmp_path):
    count = CARDS + 750
    with RunPage(tmp_path) as page_of_run:
        for index in range(count):
            spread = (7 * index) % 1000 + 1.0 if index % 10 else float("nan")
            page_of_run.add(row(f"{index:04}.jpg", path=str(index), index=float(index), perplexity=spread))
        page_of_run.write("a long run", {})
    wrong, page = visit(tmp_path / "index.html", 1280)
    assert page.locator("#lines tr").count() < 400
    page.locator("#find").fill("09")
    expected = sum("09" in f"{index:04}" for index in range(count))
    assert page.locator("#shown").inner_text() == f"{expected} of {count}"
    page.locator("#find").fill("")
    page.locator("[data-sort=perplexity]").click()
    spreads = {index: (7 * index) % 1000 + 1 for index in range(CARDS, count) if index % 10}
    least = sorted(spreads, key=lambda index: (spreads[index], index))
    first = page.locator("#lines tr").evaluate_all(
        "rows => rows.slice(0, 5).map(one => one.cells[0].innerText)"
    )
    assert first == [f"{index:04}.jpg" for index in least[:5]]

    def is_at_its_end():
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        return page.locator("#more").is_hidden()

    comes(is_at_its_end)
    texts = page.locator("#lines tr").evaluate_all("rows => rows.map(one => one.cells[3].innerText)")
    assert len(texts) == 750 and texts[-75:] == ["–"] * 75, "what has no number is last"
    assert not wrong
