"""Pages in a browser: no complaint, nothing fetched, every picture there, no sideways scrolling."""

from pathlib import Path

import pyarrow as pa
import pytest
from browsing import comes, whole
from conftest import make_photo

from attnvis.experiments.recognition.measure import Findings, SettingResult
from attnvis.experiments.recognition.page import write_recognition
from attnvis.metrics.intervals import Interval

pytestmark = pytest.mark.browser


def test_the_page_of_a_run(attnvis, visit):
    assert attnvis("run", "samples/cat", "samples/rocket", "query=mean").code == 0
    whole(visit, Path("out/index.html"), least=2)


def test_the_page_of_a_run_with_a_bad_photo_and_names_that_look_like_code(attnvis, visit, here):
    name = (
        "<img src=x onerror=alert(1)> & a name that is so long that no telephone has room for it "
        + "x" * 90
        + ".png"
    )
    make_photo(here / name)
    (here / "text.jpg").write_text("hello, this is no photo")
    assert attnvis("run", name, "text.jpg", "query=mean").code == 1
    whole(visit, Path("out/index.html"), least=1)


def test_the_page_of_a_sweep(attnvis, visit):
    words = [
        "query=class,mean",
        "scaling=none,inv_sqrt_d,cosine:0.07",
        "preprocess.size=96",
        "hydra.run.dir=out",
        "cache.folder=cache",
    ]
    assert attnvis("sweep", "samples/cat", "samples/rocket", *words).code == 0
    whole(visit, Path("out/index.html"), least=2)
    wrong, page = visit(Path("out/index.html"), 1280)
    page.locator("#photo-choice").select_option("1")
    page.locator(".matrix:visible a").first.click()
    assert "rocket" in page.locator("#large-title").inner_text()
    widths = "images => images.map(image => image.naturalWidth)"
    comes(lambda: page.locator("#large-pictures img").evaluate_all(widths), [480])
    assert not wrong


def test_the_page_of_a_sweep_of_which_a_job_failed(attnvis, visit, here):
    make_photo(here / "cat.png")
    words = [
        "query=class",
        "scaling=none,inv_sqrt_d",
        "preprocess.size=96",
        "hydra.sweep.dir=out",
        "cache.folder=cache",
    ]
    assert attnvis("sweep", "cat.png", "backbone.layer=stage9,last", *words).code == 1
    whole(visit, Path("out/index.html"), least=1)


def test_the_page_of_accuracies_hints_at_columns_that_a_telephone_cuts(visit, tmp_path):
    measured = ("top1", "top5", "nll", "rescaled", "delta_top1", "delta_top5", "delta_nll", "delta_rescaled")
    long = dict.fromkeys(measured, Interval(0.99999, -10.28888, 11.39999, 40))
    rows = [
        SettingResult(name=name, tau=35.8, divisor=0.5, **long)
        for name in ("GAP", "inv_sqrt_d", "temperature:0.25", "none")
    ]
    page = write_recognition(Findings(rows, pa.table({}), 9, []), tmp_path, {"command": "attnvis sweep"})
    tables = """tables => tables.map(table =>
        [table.scrollWidth - table.clientWidth, getComputedStyle(table).backgroundAttachment])"""
    whole(visit, page, least=2)
    hidden = [pixels for pixels, _ in visit(page, 1280)[1].locator(".wide").evaluate_all(tables)]
    assert hidden == [0, 0]
    for pixels, shadows in visit(page, 400)[1].locator(".wide").evaluate_all(tables):
        # shadows stay, and the table's ends cover them
        assert pixels == 0 or shadows == "local, local, scroll, scroll"


# A page that is wrong in each of these ways, so that what stands above cannot pass for want of looking.
@pytest.mark.parametrize(
    "body, found",
    [
        ("<script>console.error('an error')</script>", "an error"),
        ("<script>nosuch()</script>", "nosuch is not defined"),
        ("<link rel=stylesheet href='http://127.0.0.1:9/far.css'>", "http://127.0.0.1:9/far.css"),
        ("<img src=nosuch.png>", "nosuch.png"),
        ("<img src='data:image/png;base64,AAAA' width=5 height=5>", "data:image/png"),
        ("<div style='width:500px'>wide</div>", "is 508 px wide in a window of 400"),
        ("<img hidden>", "(1280, [])"),
    ],
)
def test_a_page_that_is_wrong_does_not_pass(visit, tmp_path, body, found):
    svg = "<svg xmlns=%22http://www.w3.org/2000/svg%22 width=%229%22 height=%229%22/>"
    image = f'<img src="data:image/svg+xml,{svg}">'
    good = "" if "hidden" in body else image
    (tmp_path / "page.html").write_text(f"<!doctype html><title>t</title><h1>t</h1>{good}{body}")
    with pytest.raises(AssertionError) as error:
        whole(visit, tmp_path / "page.html", least=1)
    assert found in str(error.value)
