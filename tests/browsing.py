"""Pages in Chromium: who opens them, what every page holds to, looks that last until something is there."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 90.0  # seconds after which a test gives up; no machine is busy for so long
WIDTHS = (1280, 400)
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WHOLE = "images => images.every(image => image.complete || !image.checkVisibility())"


def comes(look: Callable[[], Any], expected: Any = True) -> None:
    """Looks again and again until it sees what is expected; a page on a busy machine may take its time."""
    until = time.monotonic() + PATIENCE
    while (seen := look()) != expected:
        assert time.monotonic() < until, f"it shows {seen!r}, and {expected!r} never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright here: pip install playwright"
    )
    program = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if program is None:
        pytest.skip(f"no browser here; looked for {', '.join(CHROMIUMS)}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"], timeout=1000 * PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def window(chromium):
    """Opens an empty page; (what went wrong in it, the page)."""
    contexts = []

    def call(is_own: Callable[[str], bool], **settings):
        context = chromium.new_context(**settings)
        contexts.append(context)
        context.set_default_timeout(1000 * PATIENCE)
        page, wrong = context.new_page(), []
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if is_own(request.url) else wrong.append(request.url))
        page.on("requestfailed", lambda request: wrong.extend(failure(request)))
        return wrong, page

    yield call
    for context in contexts:
        context.close()


def failure(request) -> list[str]:
    """Why a request failed; nothing where the page gave it up for another picture."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"failed: {request.url[:200]}"]


@pytest.fixture
def visit(window):
    """Opens a file and scrolls through it; (what went wrong, the page)."""

    def call(path: Path, width: int, height: int = 900):
        wrong, page = window(
            lambda url: url.startswith(("file:", "data:", "blob:")),
            viewport={"width": width, "height": height},
        )
        page.goto(path.resolve().as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        for image in page.locator("img").all():
            if image.is_visible():
                image.scroll_into_view_if_needed()  # those that load when they are looked at
        page.wait_for_load_state("networkidle")
        comes(lambda: page.locator("img").evaluate_all(WHOLE))
        return wrong, page

    return call


def ready(page) -> None:
    """A page whose policy forbids eval: no predicate can be waited for."""
    page.locator("html[data-ready]").wait_for(state="attached")


def pictures(page) -> list[tuple[str, int]]:
    """(where from, how wide it really is) of every picture that is shown."""
    shown = """images => images.filter(image => image.checkVisibility())
        .map(image => [(image.currentSrc || image.src).slice(0, 80), image.naturalWidth])"""
    return [(source, width) for source, width in page.locator("img").evaluate_all(shown)]


def fits(page) -> None:
    """Nothing is wider than the window."""
    across = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert across[0] <= across[1], f"{page.url} is {across[0]} px wide in a window of {across[1]}"


def whole(visit, path: Path, least: int) -> None:
    """What every page has to hold to, wide and narrow."""
    for width in WIDTHS:
        wrong, page = visit(path, width)
        assert not wrong, (width, wrong)
        shown = pictures(page)
        assert len(shown) >= least and all(natural > 0 for _, natural in shown), (width, shown)
        fits(page)
        assert page.title() and page.locator("h1").count() == 1
