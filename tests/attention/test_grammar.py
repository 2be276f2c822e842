"""Several texts typed as one, taken apart; the expected ones by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnvis.attention.grammar import divide, split_texts, unquoted

NAMES = ("box", "class", "mean", "pca", "point")


@pytest.mark.parametrize(
    "typed, texts",
    [
        ("mean", ["mean"]),
        ("class,mean", ["class", "mean"]),
        ("class, mean", ["class", "mean"]),
        ("class:tabby,point:120,80,mean", ["class:tabby", "point:120,80", "mean"]),
        ("pca:1,false,mean", ["pca:1,false", "mean"]),
        ("pca:component=2,centred=no,mean", ["pca:component=2,centred=no", "mean"]),
        ("pca(component=2, centred=false),mean", ["pca(component=2, centred=false)", "mean"]),
        ("class:teddy, teddy bear,mean", ["class:teddy, teddy bear", "mean"]),
        ("tabby,tiger cat", ["tabby", "tiger cat"]),
        ("jack-o'-lantern,mean", ["jack-o'-lantern", "mean"]),
        ("кот,собака", ["кот", "собака"]),
        ('["class:teddy,bear",mean]', ["class:teddy,bear", "mean"]),
        ("[class, 'point:1,2' ,\"it's\"]", ["class", "point:1,2", "it's"]),
        ("[mean]", ["mean"]),
        ("point:-1,-2", ["point:-1,-2"]),
        ("", [""]),
    ],
)
def test_commas_separate_where_a_name_begins(typed, texts):
    assert split_texts(typed, NAMES) == texts


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_what_is_in_quotes_stays_whole(texts):
    typed = ",".join('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    whole = [text for text in texts if "\\" not in text]
    assert [text for text in split_texts(f"[{typed}]", NAMES) if "\\" not in text] == whole


@pytest.mark.parametrize(
    "text, name, settings",
    [
        ("mean", "mean", None),
        (" point: 1,2", "point", " 1,2"),
        ("pca(2)", "pca", "2"),
        ("softmax()", "softmax", ""),
        ("tiger cat", "tiger cat", None),
        ("class:a:b(c)", "class", "a:b(c)"),
        ("class:name (old)", "class", "name (old)"),
        ("my_module.mine:3", "my_module.mine", "3"),
    ],
)
def test_a_text_is_a_name_and_its_settings(text, name, settings):
    assert divide(text) == (name, settings)


@pytest.mark.parametrize(
    "typed, text",
    [
        ("'a b'", "a b"),
        ('"a"', "a"),
        (r"'it\'s'", "it's"),
        ("it's", "it's"),
        ("'a' b", "'a' b"),
        ("'", "'"),
        ("''", ""),
    ],
)
def test_quotes_from_end_to_end_are_taken_off(typed, text):
    assert unquoted(typed) == text
