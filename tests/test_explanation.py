"""An explanation's pictures and files."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from conftest import fake_backbone, make_photo
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import attnvis as package
from attnvis.types import Preprocessing

matplotlib.use("agg")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    torch.manual_seed(0)
    cat = make_photo(tmp_path_factory.mktemp("photos") / "cat <1>.png")
    net = fake_backbone(nn.Sequential(nn.Conv2d(3, 5, 16, 16), nn.ReLU()), Preprocessing(96))
    return package.explain(cat, "point:20,30", backbone=net)


@pytest.mark.parametrize("picture", ["overlay", "panel", "heatmap", "colour_bar"])
@pytest.mark.parametrize("kind", ["jpg", "jpeg", "png", "webp"])
def test_a_picture_is_saved_as_its_method_gives_it(found, here, picture, kind):
    path = found.save(f"new/folder/it.{kind}", picture)
    written = np.asarray(Image.open(path).convert("RGB")).astype(int)
    expected = getattr(found, picture)().astype(int)
    assert written.shape == expected.shape and np.abs(written - expected).mean() < (
        0.01 if kind == "png" else 9
    )


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_the_quality_that_is_asked_for_is_taken(found, here, kind):
    sizes = [found.save(f"{quality}.{kind}", quality=quality).stat().st_size for quality in (20, 95)]
    assert 2 * sizes[0] < sizes[1]


def images_in(svg: str) -> list[np.ndarray]:
    import base64

    codes = re.findall(r'xlink:href="data:image/png;base64,([^"]+)"', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB")) for code in codes]


def test_an_svg_has_words_and_a_bar_as_vectors_and_the_map_as_pixels(found, here):
    svg = found.save("new/it.svg").read_text()
    words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert "cat &lt;1&gt;.png: point 20,30" in words and "1×" in words and "≥ 64×" in words
    overlay = images_in(svg)[0]
    np.testing.assert_array_equal(overlay, found.overlay())
    panel = found.save("panel.svg", "panel").read_text()
    np.testing.assert_array_equal(images_in(panel)[1], found.heatmap())
    assert all(name in panel for name in ("query: point:20,30", "spread over", "heatmap"))
    assert "1×" in found.save("bar.svg", "colour_bar").read_text()


def test_a_pdf_is_one_whose_words_can_be_searched(found, here):
    data = found.save("new/it.pdf", "panel").read_bytes()
    assert data.startswith(b"%PDF") and data.rstrip().endswith(b"%%EOF")
    assert data.count(b"/Subtype /Image") == 3 and b"/FontFile2" in data


@pytest.mark.parametrize("kind", ["pdf", "svg"])
@pytest.mark.parametrize("scale", ["times_uniform", "min_max"])
def test_the_same_explanation_gives_the_same_file(found, here, kind, scale):
    first, second = (found.save(f"{name}.{kind}", scale=scale).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("name", ["it.gif", "it", "it.PNG.txt", "it.pdf.gz"])
def test_a_suffix_that_is_not_known_is_told_with_those_that_are(found, here, name):
    with pytest.raises(
        ValueError, match=r"which says no kind of file; there are \.jpg, \.jpeg, .*\.svg, \.npy"
    ):
        found.save(f"new/{name}")
    assert not Path("new").exists()
    assert found.save("IT.PNG").is_file()


def test_a_file_that_cannot_be_drawn_leaves_the_old_one(found, here, monkeypatch):
    path = found.save("it.svg")
    before = path.read_bytes()
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found.save("it.svg")
    assert path.read_bytes() == before and [each.name for each in here.iterdir()] == ["it.svg"]


def test_a_notebook_gets_the_panel_with_words_for_who_cannot_see_it(found):
    (tag,) = tags(found._repr_html_())
    assert tag["alt"] == repr(found) and tag["src"].startswith("data:image/png;base64,")
    assert Image.open(io.BytesIO(found._repr_png_())).size == Image.fromarray(found.panel(longest=960)).size


def tags(text: str) -> list[dict]:
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append(dict(attributes))
    parser.feed(text)
    return found


def test_a_plot_goes_on_axes_that_are_given_and_its_bar_has_the_maps_units(found):
    figure = Figure()
    axes = figure.subplots()
    assert found.plot(axes, opacity=0.5) is axes and axes.get_title() == found.title
    np.testing.assert_array_equal(axes.images[0].get_array(), found.overlay(opacity=0.5))
    bar = figure.axes[1]
    assert [tick.get_text() for tick in bar.get_yticklabels()][:3] == ["≤ 1/4×", "1/2×", "1×"]
    assert bar.get_ylim() == pytest.approx((0.25, 64.0))


def test_a_plot_without_axes_makes_a_figure(found):
    from matplotlib import pyplot

    axes = found.plot(scale="min_max")
    assert axes.figure.number in pyplot.get_fignums()
    np.testing.assert_allclose(axes.figure.axes[1].get_ylim(), found.extremes)
    pyplot.close(axes.figure)
