"""How large explorers are, how quick, and how near to Python: one line for each network and size.

    python scripts/measure_explorer.py [PHOTO] [--questions 1000] [--quick] [--firefox] [--picture FILE]

It opens each page in Chromium and measures, over 100 clicks and slider steps, the time from the event until
the picture is painted; then it asks random questions there and in Python.
"""

import argparse
import json
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from attnvis.backbone.sources import load_backbone
from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.explorer.page import Origin, explorer
from attnvis.types import Features

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explorer"))
import random_questions  # type: ignore[import-not-found]

PAGES = (
    ("efficientnet_lite0", "DEFAULT", 224),
    ("efficientnet_lite0", "DEFAULT", 448),
    ("efficientnet_lite0", "DEFAULT", 896),
    ("convnext_tiny", "random", 224),
    ("convnext_tiny", "random", 448),
)
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

COLUMNS = (
    *("network", "px", "grid", "kB", "ready ms", "click ms", "slider ms"),
    *("questions", "off: median", "99 % below", "worst", "within the bound"),
)

# Of an event, in milliseconds: what is computed for it, and the time until its frame is painted.
CLICKS = """async count => {
  const stage = document.querySelector('.stage'), box = stage.getBoundingClientRect(), times = [];
  for (let i = 0; i < count; i++) {
    const at = {clientX: box.left + box.width * Math.random(), clientY: box.top + box.height * Math.random(),
      button: 0, pointerId: 1, bubbles: true};
    await new Promise(requestAnimationFrame);
    await new Promise(done => setTimeout(done, 4));
    const start = performance.now();
    stage.dispatchEvent(new PointerEvent('pointerdown', at));
    stage.dispatchEvent(new PointerEvent('pointerup', at));
    const handled = performance.now();
    const begun = await new Promise(requestAnimationFrame);
    const framed = performance.now();
    times.push([handled - start + framed - begun, framed - start]);
  }
  return times;
}"""
STEPS = """async count => {
  const slider = document.getElementById('sharp'), times = [];
  for (let i = 0; i < count; i++) {
    slider.value = 200 + 600 * Math.random();
    await new Promise(requestAnimationFrame);
    await new Promise(done => setTimeout(done, 4));
    const start = performance.now();
    slider.dispatchEvent(new Event('input'));
    const handled = performance.now();
    const begun = await new Promise(requestAnimationFrame);
    const framed = performance.now();
    times.push([handled - start + framed - begun, framed - start]);
  }
  return times;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", default="samples/coffee")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="lite0 at 448 px only")
    parser.add_argument("--firefox", action="store_true", help="the questions in Firefox, and nothing else")
    parser.add_argument("--picture", type=Path, help="where a picture of the page at 448 px goes, a jpg")
    arguments = parser.parse_args()
    if arguments.firefox:
        measure_in_firefox(arguments.photo, arguments.questions)
        return
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, CHROMIUMS)))
    print("|" + "|".join(f" {column} " for column in COLUMNS) + "|")
    print("|" + "---|" * len(COLUMNS))
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, weights, size in PAGES[1:2] if arguments.quick else PAGES:
            path = Path(folder) / f"{name}-{size}.html"
            features = write_page(arguments.photo, name, weights, size, path)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            print(row(page, features, path, size, name, arguments.questions), flush=True)
            if arguments.picture and size == 448 and weights == "DEFAULT":
                page.evaluate("location.hash = 'q=class:967;-class:968'")
                page.wait_for_timeout(600)
                page.screenshot(path=arguments.picture, type="jpeg", quality=82)
            page.close()
        browser.close()


@torch.inference_mode()
def write_page(photo: str, name: str, weights: str, size: int, path: Path) -> Features:
    """Writes the explorer; gives the features that it holds."""
    torch.manual_seed(0)
    backbone = load_backbone(name, weights=weights)
    preprocessing = backbone.preprocessing.changed("resize", size)
    loaded = load(find(photo)[0], short=size)
    layers = backbone(collate([loaded], preprocessing))
    explorer(Origin(loaded, layers, name)).save(path)
    return layers[0]


def measure_in_firefox(photo: str, questions: int) -> None:
    """The same questions, on lite0 at 448 px, in Firefox under its own protocol."""
    from test_explorer_firefox import FIREFOXES, Marionette  # type: ignore[import-not-found]

    name, weights, size = PAGES[1]
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        path = Path(folder) / "page.html"
        features = write_page(photo, name, weights, size, path)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        (Path(folder) / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
        program = next(filter(None, map(shutil.which, FIREFOXES)))
        words = [program, "--headless", "--marionette", "--no-remote", "--profile", folder, "about:blank"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            page = FirefoxPage(Marionette(port), path)
            off, held = agreement(page, features, path, questions)
        finally:
            process.terminate()
            process.wait(30)
    print(f"Firefox, {name}, {size} px: {agreement_words(off, held)}")


class FirefoxPage:
    """An explorer in Firefox, asked as a page of Playwright is."""

    def __init__(self, line, path: Path) -> None:  # type: ignore[no-untyped-def]
        self.line = line
        line.call("WebDriver:NewSession", capabilities={"alwaysMatch": {}})
        line.call("WebDriver:Navigate", url=path.resolve().as_uri())
        while not line.run("return document.documentElement.dataset.ready"):
            time.sleep(0.1)

    def evaluate(self, script: str, text: str) -> dict:
        return self.line.run(f"return ({script})(arguments[0])", text)


def agreement_words(off: list[float], held: int) -> str:
    """median | 99 % below | worst | within the bound"""
    ordered, questions = sorted(off), len(off)
    below = ordered[round(0.99 * (questions - 1))]
    return f"{statistics.median(ordered):.1e} | {below:.1e} | {ordered[-1]:.1e} | {held} of {questions}"


def row(page, features: Features, path: Path, size: int, name: str, questions: int) -> str:  # type: ignore[no-untyped-def]
    """The line of a table."""
    ready = []
    for _ in range(5):
        page.goto("about:blank")
        page.goto(path.resolve().as_uri())
        page.locator("html[data-ready]").wait_for(state="attached")
        ready.append(page.evaluate("attnvisExplorer.ready"))
    clicks = page.evaluate(CLICKS, 100)
    steps = page.evaluate(STEPS, 100)
    off, held = agreement(page, features, path, questions)
    grid = "x".join(map(str, features.grid))
    return (
        f"| {name} | {size} | {grid}x{features.tokens.shape[2]} | {path.stat().st_size / 1000:.0f} "
        f"| {statistics.median(ready):.0f} | {quantiles(clicks)} | {quantiles(steps)} | {questions} "
        f"| {agreement_words(off, held)} |"
    )


def agreement(page, features: Features, path: Path, count: int) -> tuple[list[float], int]:  # type: ignore[no-untyped-def]
    """(how far the weights of each question are from Python's, how often within what the page says)."""
    facts = json.loads(re.search(r'id="facts">([^<]*)', path.read_text())[1])  # type: ignore[index]
    known = facts["layers"][0]["classes"][: facts["layers"][0]["gram"]]
    draw, held = random.Random(0), 0
    off: list[float] = []
    told: list[tuple[float, float, list[str], str, str]] = []
    while len(off) < count:
        terms, scale, normal = random_questions.question(draw, features, known)
        expected = random_questions.weights(features, terms, scale, normal)
        try:
            answer = page.evaluate(
                "text => attnvisExplorer.answer(text)", random_questions.link(terms, scale, normal)
            )
        except Exception as error:  # a length that is not in the file: the page says so
            if "cosine needs the length" not in str(error):
                raise
            continue
        distance = random_questions.distance(answer["weights"], expected)
        off.append(distance)
        held += distance <= answer["bound"]
        told.append((distance, answer["bound"], terms, scale, normal))
    for distance, bound, *asked in sorted(told, reverse=True)[:3]:
        print("off the most:", *asked, f"{distance:.1e}, the page says {bound:.1e}", file=sys.stderr)
    return off, held


def quantiles(times: list[list[float]]) -> str:
    """Computing alone, and with the wait for the frame: median and 95th percentile each."""
    own, whole = (sorted(values) for values in zip(*times, strict=True))
    at = round(0.95 * (len(own) - 1))
    return f"{statistics.median(own):.1f}, {own[at]:.1f} ({statistics.median(whole):.0f}, {whole[at]:.0f})"


if __name__ == "__main__":
    main()
