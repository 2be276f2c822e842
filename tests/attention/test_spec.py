"""Texts and the functions they mean: each read, spelled and read again, its settings known by hand."""

import math
import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from fake_features import close, complaint, point_at, quick, two_photos
from hypothesis import given
from hypothesis import strategies as st

from attnvis.attention import normalise, query, scaling
from attnvis.attention.query.language import build_queries, parse
from attnvis.attention.spec import UnknownName, format_function, functions, parse_function

# Reading and spelling


@pytest.mark.parametrize(
    "text",
    [
        *("mean", "class", "class:tabby", "class:teddy, teddy bear", "class:281", "random:3", "random:3,2"),
        *("point:120,80", "point:0.5,1234.25", "point:123456.5,1000000", "box:10,20,100,50"),
        *("rarity", "rarity:8,0.05", "pca", "pca:2", "pca:1,False", "distance", "norm"),
    ],
)
def test_a_query_is_spelled_as_it_was_read(text):
    assert format_function(parse(text)) == text


@given(x=st.floats(0, 99_999).map(lambda n: round(n, 3)), y=st.floats(0, 99_999).map(lambda n: round(n, 3)))
@quick
def test_a_point_survives_spelling_to_a_thousandth_of_a_pixel(x, y):
    assert parse(format_function(point_at(x, y))).keywords == {"x": x, "y": y}


@pytest.mark.parametrize(
    "function, text",
    [
        (partial(query.point, y=8.5, x=12.0), "point:12,8.5"),
        (partial(query.random, count=2), "random:0,2"),
        (partial(query.pca, centred=False), "pca:1,False"),
        (partial(query.pca, component=1, centred=True), "pca"),
        (partial(query.class_, name="predicted"), "class"),
        (partial(query.box, height=4.0, width=3.0, y=2.0, x=1.0), "box:1,2,3,4"),
        (query.class_, "class"),
        (partial(query.class_, name=3), "class:3"),
    ],
)
def test_settings_are_spelled_in_the_order_in_which_they_are_read(function, text):
    assert format_function(function) == text
    same, other = build_queries(function, two_photos()), build_queries(parse(text), two_photos())
    assert [built.text for built in same] == [built.text for built in other] == [text]
    assert torch.equal(same[0].vectors, other[0].vectors)


def test_blanks_around_a_name_and_its_settings_do_not_matter():
    assert parse("  point: 120 , 80 ").keywords == {"x": 120.0, "y": 80.0}
    assert parse("class: tiger cat ").keywords == {"name": "tiger cat"}
    assert parse("mean:").keywords == {}


@pytest.mark.parametrize(
    "text, meant",
    [("true", True), ("True", True), ("1", True), ("false", False), ("False", False), ("no", False)],
)
def test_a_yes_or_no_is_read_in_words_or_digits(text, meant):
    assert parse(f"pca:2,{text}").keywords == {"component": 2, "centred": meant}


def test_settings_take_the_types_of_the_signature():
    functions = {name: getattr(normalise, name) for name in normalise.__all__} | {
        "temperature": scaling.temperature
    }
    assert parse_function("temperature:2", functions, "scaling").keywords == {"tau": 2.0}
    assert parse_function("top_k:3", functions, "normalise").keywords == {"k": 3}
    assert parse_function("sigmoid:-2.5", functions, "normalise").keywords == {"bias": -2.5}  # float | None
    gates = [1 / (1 + math.exp(2.5 - z)) for z in (0.0, 1.0)]
    close(
        parse_function("sigmoid:-2.5", functions, "normalise")(torch.tensor([[[0.0, 1.0]]]).double())[0, 0],
        torch.tensor(gates, dtype=torch.float64) / sum(gates),
    )


@pytest.mark.parametrize(
    "text, hints",
    [
        ("points:1,2", ["'points:1,2'", "did you mean point?"]),
        ("Point:1,2", ["'Point:1,2'", "did you mean point?"]),
        ("xyzzy:3", ["'xyzzy:3'", "class:NAME"]),
        ("120,80", ["'120,80'", "point:120,80"]),
        ("1,2,3,4", ["box:1,2,3,4"]),
        ("several", ["class,mean"]),
        ("several:mean", ["several"]),  # a list cannot be written in one text
        ("", ["''"]),
    ],
)
def test_an_unknown_query_is_told_with_those_that_there_are(text, hints):
    message = complaint(UnknownName, parse, text)
    assert all(hint in message for hint in [*hints, "mean", "rarity", "box, class, contrast, distance"]), (
        message
    )


@pytest.mark.parametrize(
    "group, text, hint",
    [
        ("scaling", "temprature:2", "did you mean temperature?"),
        ("scaling", "inv-sqrt-d", "did you mean inv_sqrt_d?"),
        ("scaling", "temperature:-1", "tau must be above 0, not -1"),
        ("scaling", "temperature:nan", "tau must be above 0, not nan"),
        ("scaling", "perplexity:0", "target must be above 0, not 0"),
        ("scaling", "log_n:1", "base > 1, not 1"),
        ("scaling", "none:3", "none takes no settings"),
        ("scaling", "cosine:warm", "tau must be a number, not 'warm'"),
        ("normalise", "topk:3", "did you mean top_k?"),
        ("normalise", "top_k:0", "k of at least 1, not 0"),
        ("normalise", "top_k:2.5", "k must be a whole number, not '2.5'"),
        ("normalise", "top_k:1_0", "k must be a whole number, not '1_0'"),
        ("scaling", "temperature:１０", "tau must be a number, not '１０'"),
        ("normalise", "power:0", "p above 0, not 0"),
    ],
)
def test_what_suits_no_photo_is_said_before_the_first(group, text, hint):
    with pytest.raises(ValueError, match=re.escape(hint)) as caught:
        functions(group, [text])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, same",
    [
        ("temperature(tau=2)", "temperature:2"),
        ("temperature(2)", "temperature:2"),
        ("temperature:tau=2", "temperature:2"),
        (" perplexity( target = 0.3 ) ", "perplexity:0.3"),
        ("sigmoid(bias=None)", "sigmoid"),
        ("sigmoid:null", "sigmoid"),
        ("softmax()", "softmax"),
    ],
)
def test_what_records_write_is_read(text, same):
    group = "scaling" if text.strip()[0] in "tp" else "normalise"
    (function,) = functions(group, [text]).values()
    assert format_function(function) == same


@pytest.mark.parametrize(
    "text, hint",
    [
        ("point", "point:x,y"),
        ("point:3", "point:x,y"),
        ("point:1,2,3", "2,3"),
        ("point:left,top", "left"),
        ("box:1,2,3", "box:x,y,width,height"),
        ("box:1,2,3,4,5", "4,5"),
        ("mean:3", "no settings"),
        ("pca:first", "first"),
        ("pca:1,centred", "centred"),
        ("random:1.5", "1.5"),
        ("random:1,2,3", "2,3"),
        ("point:x=1,x=2", "x is given twice"),
        ("point:1,x=2", "x is given twice"),
        ("box:x=1,y=2,width=3", "box:x,y,width,height"),
    ],
)
def test_settings_that_do_not_fit_are_one_line_with_the_given_text(text, hint):
    message = complaint(ValueError, parse, text)
    assert repr(text) in message and hint in message.replace(repr(text), ""), message


def test_a_function_without_a_hash_is_written_with_its_settings():
    @dataclass
    class Shift:  # compares by value, and so has no hash
        by: float = 0.0

        def __call__(self, logits, times: int = 1):
            return logits + self.by * times

    with pytest.raises(TypeError, match="unhashable"):
        hash(Shift())
    assert format_function(partial(Shift(2.0), times=3)) == "Shift:3"
