"""The page as a browser and a stranger's file names see it."""

import base64
import hashlib
import io
import json
import math
import re
import tracemalloc
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import Page
from PIL import Image

from attnvis.methods.answer import FREE_SIGN
from attnvis.pipeline.drawing import HEATMAPS, PHOTOS
from attnvis.pipeline.run_page import CARDS, RunPage, write_page
from attnvis.render.thumbnail import LONGEST_SIDE

NASTY = [
    "<img src=x onerror=alert(1)>.jpg",
    '"><script>alert(1)<∕script>.jpg',
    "a'b\"c & d #1 100% ?.jpg",
    "照片 été.jpg",
    "javascript:alert(1).jpg",
    "{{ 7 * 7 }}.jpg",
]


def row(photo="cat.jpg", **more):
    usual = {
        "query": "mean",
        "label": "",
        "status": "done",
        "reason": "",
        "scaling": "inv_sqrt_d",
        "normalise": "softmax",
    }
    numbers = {
        "perplexity": 34.25,
        "max_times_uniform": 7.5,
        "patches": 49,
        "entropy_share": 0.9,
        "sigma_eff": 0.8,
    }
    return {"photo": photo, **usual, **numbers, "overlay": "", "panel": "", **more}


def picture(folder, name, height=120, width=500, colour=None):
    """Writes a picture as overlays/<name> and returns its relative path."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if colour:
        pixels[:] = colour
    (folder / "overlays").mkdir(exist_ok=True)
    with (folder / "overlays" / name).open("wb") as file:
        Image.fromarray(pixels).save(file, "JPEG")
    return f"overlays/{name}"


def write(folder, *rows, facts=None, **more):
    return Page(write_page(folder, more.pop("title", "a run"), rows, facts or {}, **more))


def test_strange_file_names_stay_text(tmp_path):
    rows = [
        row(name, label=name, scaling=name, overlay=picture(tmp_path, name), panel=f"overlays/{name}")
        for name in NASTY
    ]
    failed = [row(name, status="failed", reason=name) for name in NASTY]
    page = write(
        tmp_path, *rows, *failed, title=NASTY[0], facts={name: name for name in NASTY}, warnings=NASTY
    )
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert {attributes.get("src", "")[:11] for attributes in page.all("img", "src")} == {"data:image/"}
    for name in NASTY:
        assert page.texts["text"].count(name) >= 5  # title, facts, warnings, card, failure
    assert [attributes["data-photo"] for attributes in page.rows("article")] == NASTY


def test_links_lead_to_the_files(tmp_path):
    names = ["plain.jpg", *NASTY]
    page = write(
        tmp_path, *[row(name, overlay=picture(tmp_path, name), panel=f"overlays/{name}") for name in names]
    )
    links = [attributes["href"] for attributes in page.all("a", "href")]
    assert len(links) == 2 * len(names)
    for address in links:
        assert address.startswith("./overlays/")
        assert not set('#?"<> ') & set(address)
        assert (tmp_path / unquote(address)).is_file()


def test_the_page_asks_the_network_for_nothing(tmp_path):
    page = write(
        tmp_path,
        row(overlay=picture(tmp_path, "cat.jpg")),
        facts={"home": "https://example.org"},
        colour_bar=b"\x89PNG",
    )
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert not (attributes.get(name) or "").startswith(("http", "//"))
    assert "url(" not in page.texts["style"] and "@import" not in page.texts["style"]
    assert "fetch(" not in page.texts["script"]
    policy = page.all("meta", "http-equiv")[0]["content"]
    digest = base64.b64encode(hashlib.sha256(page.texts["script"].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_every_thumbnail_decodes_and_is_small(tmp_path):
    sizes = [(120, 500), (500, 120), (1200, 1600), (8, 8)]
    page = write(
        tmp_path, *[row(overlay=picture(tmp_path, f"{h}x{w}.jpg", h, w, (200, 30, 60))) for h, w in sizes]
    )
    images = page.all("img", "src")
    assert len(images) == len(sizes)
    for attributes, (height, width) in zip(images, sizes):
        thumbnail = Image.open(
            io.BytesIO(base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,")))
        )
        assert thumbnail.size == (int(attributes["width"]), int(attributes["height"]))
        assert max(thumbnail.size) == min(LONGEST_SIDE, max(height, width))
        assert thumbnail.width / thumbnail.height == pytest.approx(width / height, rel=0.02)
        assert np.abs(np.asarray(thumbnail)[1, 1].astype(int) - (200, 30, 60)).max() < 12  # red is still red


def test_a_missing_or_broken_overlay_does_not_stop_the_page(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    cut = picture(tmp_path, "cut.jpg")
    (tmp_path / cut).write_bytes((tmp_path / cut).read_bytes()[:2000])
    page = write(
        tmp_path,
        row(overlay="overlays/absent.jpg"),
        row(overlay="broken.jpg"),
        row(overlay=cut),
        row(overlay=""),
        row(overlay=None),
    )
    assert len(page.rows("article")) == 5
    assert page.texts["text"].count("no picture") == 5


def test_failed_photos_are_listed_with_their_reasons(tmp_path):
    page = write(
        tmp_path,
        row(),
        row("bad.jpg", status="failed", reason="the file holds 0 bytes"),
        row("odd.jpg", status="skipped"),
    )
    assert len(page.rows("article")) == 1
    assert "2 failed" in page.texts["text"]
    assert "the file holds 0 bytes" in page.texts["text"] and "skipped" in page.texts["text"]
    assert "failed" not in write(tmp_path, row()).texts["text"]


def test_facts_warnings_and_the_colour_bar_are_on_the_page(tmp_path):
    facts = {"backbone": "resnet50", "command": "attnvis run query=mean", "seed": "0"}
    page = write(tmp_path, row(), facts=facts, warnings=["RANDOM WEIGHTS"], colour_bar=b"\x89PNG bar")
    text = page.texts["text"]
    assert all(name in text and value in text for name, value in facts.items())
    assert text.index("RANDOM WEIGHTS") < text.index("cat.jpg")
    assert (
        page.all("img", "src")[0]["src"]
        == "data:image/png;base64," + base64.b64encode(b"\x89PNG bar").decode()
    )


def test_the_legend_tells_the_scale_that_was_used(tmp_path):
    assert "cannot be compared" in write(tmp_path, row(), scale="min_max").texts["text"]
    assert "cannot be compared" not in write(tmp_path, row()).texts["text"]


def test_rows_carry_what_the_buttons_sort_by(tmp_path):
    page = write(tmp_path, row("b.jpg", perplexity=1.5, max_times_uniform=30), row("a.jpg", perplexity=None))
    first, second = page.rows("article")
    assert (first["data-photo"], first["data-perplexity"], first["data-max"], first["data-order"]) == (
        "b.jpg",
        "1.5",
        "30",
        "0",
    )
    assert (second["data-perplexity"], second["data-order"]) == ("", "1")
    keys = {attributes["data-sort"] for attributes in page.all("button", "data-sort")}
    assert {"photo", "perplexity", "max"} <= keys
    assert all(f"data-{key}" in first for key in keys)


def test_a_row_that_names_neither_keys_nor_heads_says_nothing_of_them(tmp_path):
    page = write(tmp_path, row(overlay=picture(tmp_path, "cat.jpg")))
    assert page.rows("article")[0]["data-text"].split() == ["cat.jpg", "mean", "inv_sqrt_d", "softmax"]
    assert not {"keys", "heads", "built-in"} & set(page.texts["text"].split())


@pytest.mark.parametrize(
    "numbers, badge",
    [
        ({"perplexity": 47, "patches": 49}, "nearly uniform"),
        ({"perplexity": 46, "patches": 49}, ""),
        ({"saturated": 1.0}, "saturated"),
        ({"saturated": 0.0}, ""),
        ({"perplexity": math.nan, "patches": 0, "saturated": None}, ""),
        ({"class_probability": 0.0099, "class_rank": 41.0, "class_logit": 0.5}, "unlikely"),
        ({"class_probability": 0.011, "class_rank": 9.0, "class_logit": 0.5}, ""),
        ({"sign_margin": FREE_SIGN - 0.01}, "free sign"),
        ({"p_value": 0.051}, "chance"),
        ({"p_value": 0.05}, ""),
        ({"sign_margin": FREE_SIGN + 0.01}, ""),
    ],
)
def test_badges_warn_of_maps_that_say_little(tmp_path, numbers, badge):
    page = write(tmp_path, row(**numbers))
    known = ("nearly uniform", "saturated", "unlikely", "free sign", "chance")
    found = [words for words in known if words in page.rows("article")[0]["data-text"]]
    assert found == [badge] * bool(badge)
    assert [chip["data-find"] for chip in page.all("button", "data-find")] == found


def test_the_legend_explains_chance_and_the_outline_where_there_are_any(tmp_path):
    outline, chance = "Blue outline: patches hotter than", "the map may be any class's"
    page = write(tmp_path, row(p_value=0.2, beyond_chance=0))
    assert chance in page.words and outline not in page.words
    page = write(tmp_path, row(p_value=0.01, beyond_chance=3))
    assert chance not in page.words and outline in page.words
    assert outline not in write(tmp_path, row(p_value=0.01, beyond_chance=3), beyond=True).words


def test_a_card_says_what_was_predicted_and_how_likely_the_asked_class_is(tmp_path):
    likely = {
        "class_probability": 0.000163,
        "class_rank": 311.0,
        "class_logit": 0.1,
        "predicted": "macaw",
        "probability": 0.0246,
    }
    page = write(tmp_path, row(**likely))
    assert "this class: 0.016%, rank 311, logit 0.1" in page.words and "predicted: macaw 2.5%" in page.words
    assert "this class" not in write(tmp_path, row()).words


def test_further_numbers_are_shown_and_odd_ones_survive(tmp_path):
    page = write(
        tmp_path,
        row(gini=np.float32(0.123456), margin=math.inf, dead=math.nan, top=None, note="by hand", flag=True),
    )
    for words in ("gini", "0.12346", "margin", "inf", "by hand", "True"):
        assert words in page.texts["text"]


def test_a_long_run_streams_and_ends_in_a_table(tmp_path):
    overlay, rows = picture(tmp_path, "noise.jpg", 240, 320), CARDS + 100
    write_page(tmp_path, "warm up", [row(overlay=overlay)], {})
    tracemalloc.start()
    try:
        path = write_page(tmp_path, "long", (row(f"{i:04}.jpg", overlay=overlay) for i in range(rows)), {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 10e6
    assert peak < 4e6  # the page never was in memory
    page = Page(path)
    assert len(page.rows("article")) == len(page.all("img", "src")) == CARDS
    (data,) = re.findall(
        r'<script type="application/json" id="line-data">(.*?)</script>', page.source, re.DOTALL
    )
    *lines, end = json.loads(data)
    assert end is None and [line[2] for line in lines] == [f"{i:04}.jpg" for i in range(CARDS, rows)]
    assert lines[0][:2] == [CARDS, CARDS + 1] and lines[0][6:10] == [f"./{overlay}", 34.25, 49, 7.5]
    assert f"{rows} maps" in " ".join(page.texts["text"].split())


class Bomb(str):
    def __html__(self):
        raise RuntimeError("the run died")


@pytest.mark.parametrize(
    "photo, seed", [(Bomb("cat.jpg"), "0"), ("cat.jpg", Bomb("0"))], ids=["among the rows", "after them"]
)
def test_a_page_that_dies_half_way_leaves_the_old_one(tmp_path, photo, seed):
    old = write_page(tmp_path, "old", [row()], {}).read_bytes()
    with pytest.raises(RuntimeError):
        write_page(tmp_path, "new", [row(), row(photo)], {"seed": seed})
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_bytes() == old


def test_a_run_of_nothing_has_a_page(tmp_path):
    assert "nothing was run" in write(tmp_path).texts["text"]


def test_names_that_are_no_unicode_do_not_stop_the_page(tmp_path):
    page = write(
        tmp_path,
        row("\udcff.jpg", overlay="overlays/\udcff.jpg"),
        row("\udcff.jpg", status="failed", reason="\udcff"),
    )
    assert len(page.rows("article")) == 1
    page = write(tmp_path, row("\udcff.jpg", panel="panels/\udcff.jpg"))
    assert page.all("a", "href")[0]["href"] == "./panels/%FF.jpg"


def test_the_same_run_writes_the_same_page(tmp_path):
    rows = [row(overlay=picture(tmp_path, "cat.jpg")), row("dog.jpg", status="failed", reason="no")]
    assert (
        write_page(tmp_path, "run", rows, {"a": "b"}).read_bytes()
        == write_page(tmp_path, "run", rows, {"a": "b"}).read_bytes()
    )


def photo_row(index, query="mean", **more):
    return row(f"{index}.jpg", index=float(index), path=f"{index}.jpg", query=query, **more)


def test_the_maps_of_one_photo_stand_side_by_side_and_its_class_is_said_once(tmp_path):
    class_of = {"predicted": "macaw", "probability": 0.0246}
    rows = [photo_row(0, query, **class_of) for query in ("mean", "rarity", "norm")]
    page = write(tmp_path, *rows, photo_row(1, **class_of))
    assert [attributes["data-photo"] for attributes in page.all("section", "data-photo")] == ["0.jpg"]
    (together,) = re.findall(r'<section class="of-photo".*?</section>', page.source, re.DOTALL)
    assert together.count("<article") == 3 and together.count("predicted:") == 1
    assert page.words.count("predicted: macaw 2.5%") == 2  # that of the photo that stands alone too


def test_of_a_sharpness_that_was_asked_for_the_temperature_is_shown(tmp_path):
    """Scores that differ by 12 became logits that differ by 3: they were divided by 4."""
    asked = row(scaling="perplexity(target=0.1)", score_std=12.0, sigma_eff=3.0)
    words = write(tmp_path, asked).words
    assert "temperature4 scores ± 12" in words and "perplexity34.2 of 49" not in words
    assert "perplexity34.2 of 49" in write(tmp_path, row(score_std=12.0, sigma_eff=3.0)).words
    flat = row(scaling="perplexity(target=0.1)", score_std=0.0, sigma_eff=0.0)
    assert "temperature– scores ± 0" in write(tmp_path, flat).words


def run_page(folder, *rows, **about):
    """As a run writes it, which knows what its photos' files are called."""
    with RunPage(folder, stems=["zero", "one"]) as page:
        for each in rows:
            page.add(each)
        return Page(page.write("a run", about.pop("facts", {}), **about))


def test_a_card_names_the_heatmap_photo_and_explorer_that_lie_beside_it(tmp_path):
    for name in (f"{PHOTOS}/zero.jpg", f"{HEATMAPS}/zero.mean.jpg", "explorers/zero.html", "run.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    overlay = {"overlay": picture(tmp_path, "zero.mean.jpg"), "layer": "last"}
    asked = photo_row(0, "class", **overlay, class_index=281.0, scaling="perplexity(target=0.1)")
    other = photo_row(1, overlay=picture(tmp_path, "one.mean.jpg"))
    page = run_page(
        tmp_path, asked, other, facts={"backbone": "net", "layer": "last"}, date="3 May 2026, 14:05"
    )
    first, second = page.all("a", "data-group")
    assert (
        first["data-heatmap"] == f"./{HEATMAPS}/zero.mean.jpg"
        and first["data-bare"] == f"./{PHOTOS}/zero.jpg"
    )
    assert not {"data-heatmap", "data-bare"} & second.keys()
    links = [attributes["href"] for attributes in page.all("a", "href")]
    question = "q=class:281&scaling=perplexity:0.1&normalise=softmax&layer=last"
    assert f"./explorers/zero.html#{question}" in links and "./run.json" in links
    assert not any(address.startswith(("./explorers/one", "./records")) for address in links)
    assert "net, layer last · 3 May 2026, 14:05" in page.words


def test_a_planted_link_is_no_view_of_a_photo(tmp_path):
    (tmp_path / "explorers").mkdir()
    (tmp_path / "elsewhere").write_text("another's")
    (tmp_path / "explorers/zero.html").symlink_to(tmp_path / "elsewhere")
    page = run_page(tmp_path, photo_row(0, overlay=picture(tmp_path, "zero.mean.jpg")))
    assert not [each for each in page.all("a", "href") if "explorers" in each["href"]]


def test_the_lines_of_a_long_run_are_data_that_no_name_can_break(tmp_path, monkeypatch):
    monkeypatch.setattr("attnvis.pipeline.run_page.CARDS", 1)
    names = [*NASTY, "</script><img src=x onerror=alert(1)>"]
    page = write(tmp_path, row(), *[row(name, query=name, perplexity=math.nan) for name in names])
    assert [tag for tag, _ in page.tags].count("script") == 2 and "img" not in [tag for tag, _ in page.tags]
    (data,) = re.findall(r'id="line-data">(.*?)</script>', page.source, re.DOTALL)
    assert [line[2:4] + line[7:8] for line in json.loads(data)[:-1]] == [[name, name, None] for name in names]
