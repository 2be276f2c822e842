"""Queries that see other photos, on a network whose features are the photo's own colours."""

from functools import partial

import cv2
import pytest
import torch
from conftest import fake_backbone, make_photo
from torch import nn

from attnvis import api
from attnvis.attention.query import several
from attnvis.attention.query.language import build_queries, parse
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.pipeline.preparing import prepared
from attnvis.types import Preprocessing

HOW = Preprocessing(size=64, fit="stretch", mean=(0.5, 0.4, 0.3), std=(1.0, 1.0, 1.0))
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)


class Colours(nn.Module):
    """Patches of 16 x 16 pixels, their mean colour; counts its passes."""

    passes = 0

    def forward(self, images):
        self.passes += 1
        return nn.functional.avg_pool2d(images, 16)


@pytest.fixture
def net():
    return fake_backbone(Colours(), HOW)


@pytest.fixture
def photos(here):
    return [make_photo(here / "shots" / f"{number}.png", (80, 96), seed=number) for number in range(3)]


def features_of(net, path):
    (layer,) = net(collate([load(path, short=64)], HOW))
    return layer


def vector(text, net, asked, photos=()):
    function = prepared(parse(text), net, HOW, photos)
    (result,) = build_queries(function, asked)
    assert result.text == text
    return result.vectors[0, 0]


def test_an_exemplar_is_the_mean_patch_the_box_or_the_point_of_another_photo(net, photos):
    first, second = (features_of(net, path) for path in photos[:2])
    whole = second.tokens[0].mean(0)
    close(vector(f"exemplar:{photos[1]}", net, first), whole)
    (box,) = build_queries(parse("box:10,5,40,30"), second)
    close(vector(f"exemplar:{photos[1]},10,5,40,30", net, first), box.vectors[0, 0])
    (point,) = build_queries(parse("point:48,40"), second)
    close(vector(f"exemplar:{photos[1]},48,40", net, first), point.vectors[0, 0])


def test_a_folder_and_the_run_itself_are_means_over_their_photos(net, photos):
    first = features_of(net, photos[0])
    mean = torch.stack([features_of(net, path).tokens[0].mean(0) for path in photos]).mean(0)
    close(vector("exemplar:shots", net, first), mean)
    close(vector("exemplar:run", net, first, photos), mean)
    close(vector("exemplar:run", net, first, [load(path, short=64) for path in photos]), mean)


def test_exemplars_are_seen_wherever_they_stand_and_once(net, photos):
    first = features_of(net, photos[0])
    whole = features_of(net, photos[1]).tokens[0].mean(0)
    text = f"mean - 0.5*exemplar:{photos[1]}"
    close(vector(text, net, first), first.tokens[0].mean(0) - 0.5 * whole)
    maps = net.network.trunk.maps
    before = maps.passes
    function = prepared(partial(several, of=["mean", text]), net, HOW)
    assert maps.passes == before + 1
    assert [result.text for result in build_queries(function, first)] == ["mean", text]
    build_queries(function, first)
    assert maps.passes == before + 1


def test_a_query_without_exemplars_reads_nothing(net):
    for function in (parse("mean"), parse("mean - norm"), lambda features: features.mean.unsqueeze(1)):
        prepared(function, lambda batch: pytest.fail("a photo was seen"), HOW)


def test_a_file_whose_name_ends_in_numbers_is_itself(net, here, photos):
    odd = here / "a,1,2"
    odd.write_bytes(photos[2].read_bytes())
    first = features_of(net, photos[0])
    close(vector("exemplar:a,1,2", net, first), features_of(net, photos[2]).tokens[0].mean(0))


@pytest.mark.parametrize("name", ["nothing.png", "broken.png", "run"])
def test_an_exemplar_that_is_no_photo_ends_the_run_with_its_name(net, here, name):
    (here / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=f"exemplar:{name}") as caught:
        prepared(parse(f"exemplar:{name}"), net, HOW)
    assert type(caught.value) is ValueError


def test_one_broken_photo_of_the_run_is_passed_over(net, here, photos):
    broken = here / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    first = features_of(net, photos[0])
    close(
        vector("exemplar:run", net, first, [broken, *photos[:2]]),
        vector("exemplar:run", net, first, photos[:2]),
    )


def test_python_asks_of_another_photo_and_of_all_that_are_given(net, photos):
    answers = api.explain_all(list(photos), ["exemplar:run", f"exemplar:{photos[1]}"], backbone=net)
    mean = torch.stack([features_of(net, path).tokens[0].mean(0) for path in photos]).mean(0)
    close(answers[0].answer.vector, mean)
    assert [answer.answer.query for answer in answers[:2]] == ["exemplar:run", f"exemplar:{photos[1]}"]
    alone = api.explain(photos[0], f"exemplar:{photos[1]}", backbone=net)
    close(alone.answer.vector, answers[1].answer.vector)


def test_at_the_command_line_an_exemplar_finds_its_own_colour(attnvis, here):
    picture = torch.zeros(96, 96, 3, dtype=torch.uint8).numpy()
    picture[:, :48] = (0, 0, 255)
    picture[:, 48:] = (255, 0, 0)
    cv2.imwrite(str(here / "both.png"), picture)
    cv2.imwrite(str(here / "red.png"), picture[:, :48])
    ended = attnvis("run", "both.png", "query=exemplar:red.png - exemplar:run", "scaling=zscore")
    assert ended.code == 0, ended
    ended = attnvis("run", "both.png", "query=exemplar:rod.png")
    assert "query exemplar:rod.png: no such photo: rod.png" in ended.complaint
