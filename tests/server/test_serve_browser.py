"""The page of `attnvis serve` in Chromium: photos are dropped, places said, explorers opened."""

import threading

import pytest
from browsing import PATIENCE, fits, ready
from test_serve import NOISE, encoded, explorer_of, serving, tiles_network

from attnvis.server.jobs import Upload
from attnvis.types import PhotoError

pytestmark = pytest.mark.browser
NASTY = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def html() -> bytes:
    return explorer_of(Upload("cat.jpg", "fake", encoded(".jpg", NOISE)), tiles_network())


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (400, "dark")])
def test_photos_are_given_refused_and_opened(window, html, width, scheme):
    let = threading.Event()

    def make(upload: Upload) -> bytes:
        assert let.wait(PATIENCE)
        if upload.name == NASTY:
            raise PhotoError(f"{NASTY} is no photo")
        return html

    files = [{"name": name, "mimeType": "image/png", "buffer": b"x"} for name in ("a.png", NASTY)]
    huge = {"name": "huge.png", "mimeType": "image/png", "buffer": b"x" * 200_001}
    with serving(make) as server:
        viewport = {"width": width, "height": 800}
        wrong, page = window(
            lambda url: url.startswith((server.url, "data:", f"blob:{server.url}")),
            viewport=viewport,
            color_scheme=scheme,
        )
        page.goto(server.url)
        ready(page)
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "photo"  # the network, then the photo
        page.locator("#photo").set_input_files([*files, huge])
        page.get_by_text("waits: 1 photo before it (fake)").wait_for()
        assert "at most 0.2 MB are taken" in page.locator("#list .failed").inner_text()
        let.set()
        page.locator("a.open").wait_for()
        page.locator("#list").get_by_text(f"{NASTY} is no photo").wait_for()
        fits(page)
        assert page.locator("img[src=x]").count() == 0
        with page.expect_download() as download:
            page.get_by_label("Save the explorer of a.png as a file").click()
        assert download.value.suggested_filename == "a.html"
        page.locator("#photo").set_input_files([files[0]])  # a single one is opened
        page.wait_for_url("**/explorer/*")
        ready(page)
        assert page.locator("h1").inner_text() == "cat.jpg"
    assert not wrong


def test_a_server_that_was_stopped_is_said_to_be(window, html):
    with serving(lambda upload: html) as server:
        _, page = window(lambda url: True)
        page.goto(server.url)
        ready(page)
    page.locator("#photo").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": b"x"}])
    page.get_by_text("is attnvis serve still running?").first.wait_for()
