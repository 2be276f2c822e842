"""An explorer's page: one file, strangers' words escaped, nothing from outside; the doors that write it."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Page, make_photo

import attnvis as package
from attnvis.backbone.heads import Linear
from attnvis.cli.commands.explore import is_together
from attnvis.cli.exploring import explored_count, python_words
from attnvis.explorer.page import Origin, explorer, page_of, photo_data
from attnvis.types import Box, Features, Photo, Placement

AS_A_RUN = {
    "method": {"_target_": "attnvis.methods.AttentionMethod"},
    "keys": {"_target_": "attnvis.attention.keys.same"},
    "heads": {"_target_": "attnvis.attention.heads.one"},
    "fuse": "",
}
NASTY = "</script><img src=x onerror=alert(1)>&\u2028.jpg"


def origin(name=NASTY, category=NASTY) -> Origin:
    photo = Photo(name, np.zeros((60, 80, 3), np.uint8), (60, 80), "d")
    placement = Placement(
        (10.0, 10.0), (20.0, 20.0), grid=(3, 4), size=(60, 80), seen=Box(0.0, 0.0, 60.0, 80.0)
    )
    tokens = torch.randn(1, 12, 7, generator=torch.Generator().manual_seed(0))
    head = Linear(torch.eye(7)[:2], torch.zeros(2), (category, "b"))
    layer = Features(tokens, (3, 4), (placement,), head=head, logits=head(tokens.mean(1)), layer=category)
    return Origin(photo, (layer,), network=category, command=(f"backbone.layer={category}",))


def facts_of(html: str) -> dict:
    return json.loads(re.search(r'id="facts">(.*?)</script>', html, re.DOTALL)[1])


def test_names_of_photos_classes_and_layers_are_never_tags(tmp_path):
    page = Page(explorer(origin()).save(tmp_path / "page.html"))
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    facts = facts_of(page.source)
    assert facts["photo"]["name"] == facts["classes"]["names"][0] == facts["layers"][0]["name"] == NASTY


def test_a_page_asks_for_nothing_from_outside(tmp_path):
    page = Page(explorer(origin("a", "b")).save(tmp_path / "page.html"))
    policy = next(attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv"))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "http" not in policy
    addresses = [attributes.get("src") or attributes.get("href") for _, attributes in page.tags]
    assert all(address.startswith("data:") for address in addresses if address)


def test_a_notebook_shows_a_page_in_a_frame_that_may_only_run_scripts():
    frame = explorer(origin())._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts allow-downloads" srcdoc="&lt;!doctype')
    assert frame.count("<") == 2 and "allow-same-origin" not in frame


def test_the_command_writes_a_page_a_photo_and_passes_over_what_is_none(attnvis, here):
    make_photo(here / "cat & co.png")
    (here / "text.jpg").write_text("hello, this is no photo")
    make_photo(here / "dog.png", seed=1)
    words = ["explore", "cat & co.png", "text.jpg", "dog.png", "preprocess.size=96", "hydra.run.dir=out"]
    ended = attnvis(*words, "classes=3")
    assert ended.code == 1 and "text.jpg" in ended.err and ended.out == "out/explorer.html\n"
    both = Path("out/explorer.html").read_text()
    second = json.loads(re.search(r'id="facts.1">(.*?)</script>', both, re.DOTALL)[1])
    assert facts_of(both)["photo"]["name"] == "cat & co.png" and second["photo"]["name"] == "dog.png"
    ended = attnvis(*words, "classes=3", "together=false")
    assert ended.code == 1 and "text.jpg" in ended.err and ended.out == "out/cat-co.html\nout/dog.html\n"
    facts = facts_of(Path("out/cat-co.html").read_text())
    assert len(facts["layers"][0]["classes"]) == 3 and facts["command"] == ["preprocess.size=96"]
    assert facts["python"] == ["size=96"]
    assert facts["photo"]["path"] == facts["photo"]["name"] == "cat & co.png"


def test_classes_that_mean_nothing_end_the_command_in_one_line(attnvis, here):
    make_photo(here / "cat.png")
    words = ["explore", "cat.png", "preprocess.size=96", "hydra.run.dir=out", "classes=every"]
    assert "give auto, all, or how many of the likeliest" in attnvis(*words).complaint


def test_an_explanation_opens_its_page_with_its_own_question(here):
    make_photo(here / "cat.png")
    explanation = package.explain("cat.png", "tabby", scaling="temperature:2", size=96)
    page = explanation.explore("pages/cat.html", classes=2)
    facts = facts_of(Path("pages/cat.html").read_text())
    assert facts["start"].startswith("q=class:281&scaling=temperature:2&normalise=softmax")
    assert page.html == Path("pages/cat.html").read_text() and "size=96" in facts["python"]


def test_the_words_for_python_and_shell_name_the_network_that_was_asked(here):
    make_photo(here / "cat.png")
    typed = facts_of(
        package.explain("cat.png", backbone="resnet18", weights="random", size=96).explore(classes=1).html
    )
    assert {"backbone=resnet18", "backbone.weights=random", "preprocess.size=96"} <= set(typed["command"])
    assert {'backbone="resnet18"', 'weights="random"', "size=96"} <= set(typed["python"])
    net = package.load_backbone("resnet18", weights="random")
    given = facts_of(package.explain("cat.png", backbone=net, size=96).explore(classes=1).html)
    assert given["command"] is None and given["python"][0] == "backbone=net"


def test_overrides_become_arguments_that_python_reads():
    words = [
        "backbone=timm",
        "backbone.name=vit_tiny",
        "+backbone.layer=[last,stage3]",
        "preprocess.size=448",
        "backbone.head=null",
    ]
    call = ast.parse(f"explain({', '.join(python_words(words))})").body[0].value
    arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert arguments == {"backbone": "vit_tiny", "layer": ["last", "stage3"], "size": 448, "head": None}


def test_a_page_does_not_tell_where_the_samples_lie(here):
    facts = facts_of(package.explain("samples/coffee", size=96).explore(classes=1).html)
    assert facts["photo"]["path"] == "samples/coffee"


def test_of_several_layers_each_view_names_its_own(attnvis, here):
    make_photo(here / "cat.png")
    words = ["preprocess.size=96", "hydra.run.dir=out", "backbone.layer=[stage3,last]", "classes=1"]
    assert attnvis("explore", "cat.png", *words).code == 0
    facts = facts_of(Path("out/cat.html").read_text())
    assert [layer["name"] for layer in facts["layers"]] == ["stage3", "last"]
    assert facts["command"] == ["preprocess.size=96"] and facts["python"] == ["size=96"]


def test_several_photos_share_a_page_and_each_keeps_its_own_numbers(tmp_path):
    names = ["a.jpg", NASTY, "c.jpg"]
    data = [photo_data(origin(name, "b"), classes=2) for name in names]
    page = Page(page_of(data).save(tmp_path / "page.html"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {f"tokens-0{end}" for end in ("", ".1", ".2")} | {
        f"photo{end}" for end in ("", ".1", ".2")
    } <= set(ids)
    packed = re.findall(r'id="rows-0(?:\.\d)?">(.*?)</script>', page.source)
    assert packed == [each.packed["rows-0"] for each in data]
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    assert "photos" not in [
        attributes.get("id") for _, attributes in Page(page_of(data[:1]).save(tmp_path / "one.html")).tags
    ]


def test_a_page_holds_so_many_photos_and_no_more(monkeypatch):
    data = photo_data(origin("a", "b"), classes=2)
    with pytest.raises(ValueError, match=r"9 photos of 0 MB do not go into one page: at most 8 of 16 MB do"):
        page_of([data] * 9)
    monkeypatch.setattr("attnvis.explorer.page.MOST_BYTES", 2 * data.bytes - 1)
    with pytest.raises(ValueError, match="2 photos"):
        page_of([data] * 2)
    assert page_of([data]).name == "a"  # one photo may be as large as it is


@pytest.mark.parametrize(
    "setting, count, expected",
    [("auto", 1, False), ("auto", 8, True), ("auto", 9, False), (False, 3, False), (True, 3, True)],
)
def test_a_few_photos_go_into_one_page_unless_it_is_said_otherwise(setting, count, expected):
    assert is_together(setting, count) is expected


def test_more_photos_than_a_page_holds_and_words_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="at most 8 photos, not 9; give fewer, or together=false"):
        is_together(True, 9)
    with pytest.raises(ValueError, match="together=yes: give auto, true"):
        is_together("yes", 2)


@pytest.mark.parametrize("setting, count", [(True, 16), ("none", 0), (False, 0), (None, 0), (40, 40)])
def test_a_run_makes_as_many_explorers_as_it_is_told(setting, count):
    assert explored_count(AS_A_RUN | {"explore": setting}) == count


def test_maps_of_joined_layers_have_no_explorers():
    with pytest.raises(ValueError, match="fuse=max: it shows one layer at a time; leave explore or fuse out"):
        explored_count(AS_A_RUN | {"explore": 2, "fuse": "max"})
    assert explored_count(AS_A_RUN | {"explore": "none", "fuse": "max"}) == 0


@pytest.mark.parametrize("setting", ["all", -1, 1.5])
def test_a_number_of_explorers_that_is_none_is_refused(setting):
    with pytest.raises(ValueError, match=f"explore={setting}: give true"):
        explored_count(AS_A_RUN | {"explore": setting})
