"""How quick the page of a long run is in a browser: python scripts/measure_pages.py 10000

A page of so many maps over attnvis' samples is written and opened in Chromium; printed are its size, how long
it takes to load, and how long until a filter, an order or an opened picture is painted (medians of 5).
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.files import save
from attnvis.pipeline.run_page import RunPage
from attnvis.render import overlays

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
ACTS = {
    "filter": "find.value = 'cat'; find.dispatchEvent(new Event('input'))",
    "no filter": "find.value = ''; find.dispatchEvent(new Event('input'))",
    "sort by number": "document.querySelector('[data-sort=perplexity]').click()",
    "sort by name": "document.querySelector('[data-sort=photo]').click()",
    "open large": "document.querySelector('a.thumb').click()",
    "close": "document.querySelector('#large-close').click()",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("maps", nargs="?", type=int, default=10_000)
    maps = parser.parse_args().maps
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, CHROMIUMS)))
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder:
        path = write_page(Path(folder), maps)
        print(f"{maps} maps: {path.stat().st_size / 1e6:.1f} MB")
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        times: dict[str, list[float]] = {name: [] for name in ("load", *ACTS)}
        for _ in range(5):
            page.goto("about:blank")
            page.goto(path.resolve().as_uri())
            times["load"].append(page.evaluate(LOADED))
            for name, act in ACTS.items():
                times[name].append(page.evaluate(until_painted(act)))
        for name, milliseconds in times.items():
            print(f"{name}: {statistics.median(milliseconds):.0f} ms")
        browser.close()


def until_painted(act: str) -> str:
    """Milliseconds until the frame after an act has been handed on."""
    return (
        "async () => { const find = document.getElementById('find'), start = performance.now(); "
        f"{act}; await new Promise(done => requestAnimationFrame(() => setTimeout(done))); "
        "return performance.now() - start; }"
    )


def write_page(folder: Path, maps: int) -> Path:
    """The page of a run of so many photos: samples, again and again, under names and numbers of their own."""
    photos = [load(path) for path in find("samples")]
    for photo in photos:
        pixels = overlays.resize_longest_side(photo.pixels, 640)
        save(folder, f"overlays/{photo.name}.jpg", overlays.encode(pixels, "jpg", 90))
    with RunPage(folder) as page:
        for index in range(maps):
            photo = photos[index % len(photos)]
            page.add(
                {
                    "index": float(index),
                    "photo": f"{index:05}_{photo.name}",
                    "path": str(index),
                    "query": "mean",
                    "label": "mean",
                    "status": "done",
                    "scaling": "inv_sqrt_d",
                    "normalise": "softmax",
                    "overlay": f"overlays/{photo.name}.jpg",
                    "patches": 77.0,
                    "perplexity": 1 + 7.3 * index % 76,
                    "max_times_uniform": 1 + 3.1 * index % 60,
                }
            )
        return page.write("attnvis run", {"backbone": "none: the samples as they are"})


if __name__ == "__main__":
    main()
