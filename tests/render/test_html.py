"""The shell of every page: what it lets run and through, and that a page is there whole or not at all."""

import base64
import hashlib
import math

import pytest
from conftest import Page
from jinja2 import DictLoader

from attnvis.render.html import data_uri, environment, format_number, write_page

SCRIPT = "document.title = '<ready> & waiting'"


@pytest.fixture
def template():
    """A page that says little: a title and a picture's address."""
    pages = environment("attnvis.pipeline", shout=str.upper)
    pages.loader = DictLoader(
        {
            "shell.html": pages.loader.get_source(pages, "shell.html")[0],
            "little.html": "{% extends 'shell.html' %}{% block body %}<p>{{ words|shout }}</p>{% endblock %}",
        }
    )
    return pages.get_template("little.html")


def test_only_the_pages_own_script_may_run(template, tmp_path):
    page = Page(write_page(tmp_path / "a.html", template, script=SCRIPT, title="a", words="hello"))
    assert page.texts["script"] == SCRIPT and "HELLO" in page.words
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.all("meta", "http-equiv")[0]["content"]


def test_a_page_without_a_script_lets_none_run(template, tmp_path):
    page = Page(write_page(tmp_path / "a.html", template, title="a", words=""))
    assert "script-src" not in page.source and "script" not in [tag for tag, _ in page.tags]
    assert "default-src 'none'" in page.all("meta", "http-equiv")[0]["content"]


def test_strangers_words_stay_text_and_facts_without_a_value_are_left_out(template, tmp_path):
    facts = {"command": "<b>run</b>", "trust": ""}
    page = Page(
        write_page(
            tmp_path / "a.html", template, title="<i>", words="\udcff", warnings=["1 < 2"], facts=facts
        )
    )
    assert "<i>" in page.words and "1 < 2" in page.words and "<b>run</b>" in page.words
    assert [tag for tag, _ in page.tags].count("dt") == 1 and "i" not in [tag for tag, _ in page.tags]


def test_a_page_that_dies_leaves_the_one_before(template, tmp_path):
    path = write_page(tmp_path / "a.html", template, title="before", words="")
    whole = path.read_bytes()
    with pytest.raises(TypeError):
        write_page(path, template, title="after", words=3)
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_a_page_that_cannot_be_written_names_its_file(template, tmp_path):
    with pytest.raises(OSError, match=r"nosuch/a\.html"):
        write_page(tmp_path / "nosuch" / "a.html", template, title="a", words="")


@pytest.mark.parametrize(
    "value, text",
    [(0.0123, "0.0123"), (34.25, "34.2"), (1204.4, "1204"), (math.nan, "–"), (None, "–"), ("cat", "cat")],
)
def test_numbers_are_written_to_be_read(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    "head, kind", [(b"\x89PNG...", "png"), (b"RIFF....WEBP", "webp"), (b"\xff\xd8\xff", "jpeg")]
)
def test_a_picture_is_an_address(head, kind):
    assert data_uri(head) == f"data:image/{kind};base64," + base64.b64encode(head).decode()
