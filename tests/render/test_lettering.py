"""Words on pictures, by OpenCV where it writes and by Pillow where it does not."""

import cv2
import numpy as np
import pytest

from attnvis.render import lettering
from attnvis.render.lettering import Font, blank, draw_text, text_width

WRITERS = [
    pytest.param(
        True, marks=pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4"), id="opencv"
    ),
    pytest.param(False, id="pillow"),
]


@pytest.fixture(params=WRITERS, autouse=True)
def writer(request, monkeypatch):
    monkeypatch.setattr(lettering, "OPENCV_WRITES", request.param)


PLAIN = Font(30)


def inked(text, x=50, baseline=60, font=PLAIN, **more):
    """(rows, columns) where the paper is darkened."""
    paper = blank(100, 400)
    draw_text(paper, text, x=x, baseline=baseline, font=font, **more)
    dark = (paper.astype(int) < 128).all(-1)
    return np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))


def test_capitals_stand_on_the_baseline_and_take_the_width_that_is_told():
    rows, columns = inked("HHHH")
    assert abs(rows[-1] + 1 - 60) <= 1 and 18 <= len(rows) <= 25  # 0.6 ... 0.85 of 30 pixels
    width = text_width("HHHH", Font(30))
    assert 50 <= columns[0] <= 55 and 50 + width - 6 <= columns[-1] < 50 + width


@pytest.mark.parametrize("align, left", [(0.0, 200), (0.5, 150), (1.0, 100)])
def test_words_stand_from_x_around_it_or_up_to_it(align, left):
    columns = inked("H" * 5, x=200, align=align)[1]
    width = text_width("H" * 5, Font(30))
    start = 200 - align * width
    assert start - 1 <= columns[0] <= start + 5 and start + width - 6 <= columns[-1] <= start + width


def test_what_does_not_fit_loses_its_middle():
    columns = inked("a name that is much too long", x=10, room=150)[1]
    assert columns[0] >= 10 and columns[-1] < 160


@pytest.mark.parametrize(
    "x, baseline", [(-20, 60), (390, 60), (50, 5), (50, 115), (50, -300), (50, 900), (900, 60)]
)
def test_what_lies_beyond_the_canvas_is_cut_off(x, baseline):
    rows, columns = inked("Words", x=x, baseline=baseline)
    is_seen = x < 400 and 0 < baseline < 150
    assert (len(rows) > 0) == (len(columns) > 0) == is_seen


def test_a_part_of_a_picture_is_written_on_in_place():
    picture = blank(100, 400)
    draw_text(picture[20:80, 100:300], "Words", x=10, baseline=40, font=Font(30))
    dark = (picture < 128).all(-1)
    assert dark[20:80, 100:300].any() and dark.sum() == dark[20:80, 100:300].sum()


def test_words_of_every_colour_and_weight_have_it():
    paper = blank(100, 400, paper=(0, 0, 0))
    draw_text(paper, "HH", x=10, baseline=60, font=Font(40, 400, ink=(200, 100, 50)))
    assert (paper == (200, 100, 50)).all(-1).sum() > 50
    regular, bold = (inked("HHHH", font=Font(30, weight)) for weight in (400, 600))
    assert sum(map(len, bold)) > sum(map(len, regular))


def test_words_are_written_without_matplotlibs_typeface(monkeypatch):
    lettering.typeface.cache_clear()
    monkeypatch.setattr(lettering, "find_spec", lambda name: None)
    rows, _ = inked("HHHH")
    lettering.typeface.cache_clear()
    assert len(rows) > 10
