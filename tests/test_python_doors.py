"""What `explain` takes, and that the network runs once a photo.  Maps are held against those of the file."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fake_backbone, make_photo
from PIL import Image
from torch import nn

import attnvis as package
from attnvis import api
from attnvis.attention import query
from attnvis.backbone.heads import Linear
from attnvis.types import PhotoError, Preprocessing

CHANNELS, CLASSES = 5, 7


class Counting(nn.Module):
    """Maps of patches, and how many photos passed."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, 16, 16)
        self.passes = 0

    def forward(self, images):
        self.passes += len(images)
        return self.patches(images).relu()


@pytest.fixture
def net():
    torch.manual_seed(0)
    names = tuple(f"thing {number}" for number in range(CLASSES))
    head = Linear(torch.randn(CLASSES, CHANNELS), torch.randn(CLASSES), names)
    backbone = fake_backbone(Counting(), Preprocessing(96), head)
    backbone.network.trunk.maps.passes = 0
    return backbone


def passes(net) -> int:
    return net.network.trunk.maps.passes


def held(path: Path) -> dict[str, object]:
    """A photo in the ways that a program may hold it."""
    pixels = np.asarray(Image.open(path))
    tensor = torch.from_numpy(pixels.copy())
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "buffer": io.BytesIO(path.read_bytes()),
        "picture": Image.open(path),
        "rgba": Image.open(path).convert("RGBA"),
        "array": pixels,
        "floats": pixels / 255,
        "channels first": np.moveaxis(pixels, 2, 0),
        "HWC": tensor,
        "CHW": tensor.permute(2, 0, 1) / 255,
        "leaf": (tensor.permute(2, 0, 1) / 255).requires_grad_(),
        "batch of one": (tensor.permute(2, 0, 1) / 255)[None],
    }


def test_every_door_gives_the_map_of_the_file_bit_for_bit(cat, net):
    expected = package.explain(cat, "thing 3", backbone=net)
    for door, photo in held(cat).items():
        found = package.explain(photo, "thing 3", backbone=net)
        np.testing.assert_array_equal(found.weights, expected.weights, err_msg=door)
        np.testing.assert_array_equal(found.overlay(), expected.overlay(), err_msg=door)


def test_what_was_done_to_a_picture_stands_on_its_panel(cat, net):
    found = package.explain(np.asarray(Image.open(cat))[None], backbone=net)
    assert ("photo", "a batch of one") in list(found.lines())


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda v: torch.tensor(v).double()])
def test_a_vector_may_be_a_list_of_floats(cat, net, kind):
    """Scores are its products with the patches, by hand."""
    vector = [0.5, -1.0, 2.0, 0.25, 3.0]
    found = package.explain(cat, kind(vector), "none", backbone=net)
    tokens = found.attention.known_values[0].double().numpy()
    np.testing.assert_allclose(found.scores.ravel(), tokens @ np.array(vector), rtol=1e-5, atol=1e-5)
    assert found.query == "vector"
    (same,) = package.explain_all(cat, kind(vector), "none", backbone=net)
    np.testing.assert_array_equal(same.weights, found.weights)


def test_a_list_of_whole_numbers_is_several_classes(cat, net):
    assert [found.label for found in package.explain_all(cat, [2, 5], backbone=net)] == ["thing 2", "thing 5"]
    with pytest.raises(ValueError, match=r"explain\(\) takes one query .* names 2; attnvis\.explain_all"):
        package.explain(cat, [2, 5], backbone=net)


QUESTIONS = ["mean", 3, (20, 30), "class", [0.5, -1.0, 2.0, 0.25, 3.0], query.pca]
SCALINGS = ["none", "temperature:4"]


def test_the_network_sees_a_photo_once_however_much_is_asked(cat, here, net):
    photos = [cat, make_photo(here / "dog.png", seed=1), np.asarray(Image.open(cat))]
    found = package.explain_all(photos, QUESTIONS, SCALINGS, "softmax,sparsemax", backbone=net)
    assert passes(net) == 3 and len(found) == 3 * len(QUESTIONS) * 2 * 2
    package.explain(cat, backbone=net)
    assert passes(net) == 4
    package.compare(photos, QUESTIONS, SCALINGS, backbone=net)
    assert passes(net) == 7


def test_many_answers_are_those_of_one_at_a_time_in_order(cat, here, net):
    photos = [cat, make_photo(here / "dog.png", seed=1)]
    found = iter(package.explain_all(photos, QUESTIONS, SCALINGS, backbone=net))
    for photo in photos:
        for question in QUESTIONS:
            for scaling in SCALINGS:
                one, many = package.explain(photo, question, scaling, backbone=net), next(found)
                np.testing.assert_array_equal(many.weights, one.weights)
                assert repr(many) == repr(one) and (many.query, many.scaling) == (one.query, scaling)
    assert next(found, None) is None


def test_who_names_no_scaling_gets_for_each_question_what_one_call_gives(cat, net):
    for found in package.explain_all(cat, ["mean", 3], backbone=net):
        question = "mean" if found.query == "mean" else 3
        assert found.scaling == package.explain(cat, question, backbone=net).scaling


def test_a_batch_is_its_photos(net):
    batch = torch.rand(3, 3, 40, 50)
    found = package.explain_all(batch, backbone=net)
    for one, photo in zip(found, batch, strict=True):
        np.testing.assert_array_equal(one.weights, package.explain(photo, backbone=net).weights)
    with pytest.raises(
        PhotoError, match=r"is a batch of 3 photos; give one of them, or all to .*explain_all"
    ):
        package.explain(batch, backbone=net)


def test_what_is_no_photo_among_several_is_told_before_the_network_runs(cat, net):
    with pytest.raises(PhotoError, match=r"\Aphoto 2 of 2: a tensor .* as after Normalize"):
        package.explain_all([cat, torch.randn(3, 40, 50)], backbone=net)
    assert passes(net) == 0
    with pytest.raises(ValueError, match="no photo was given"):
        package.explain_all([], backbone=net)
    with pytest.raises(ValueError, match=r"takes one photo, not a list of 2; attnvis\.explain_all"):
        package.explain([cat, cat], backbone=net)


def test_a_module_is_told_how_it_becomes_a_backbone():
    with pytest.raises(ValueError, match=r"a Conv2d is a network, .*attnvis\.build_backbone\(net\)"):
        api.loaded(nn.Conv2d(3, 5, 3), {})


def test_a_comparison_is_of_explanations_and_has_one_range(cat, net):
    compared = package.compare(cat, QUESTIONS[:3], SCALINGS, backbone=net)
    assert [found.scaling for found in compared] == SCALINGS * 3
    assert [row["query"] for row in compared.rows()][::2] == ["mean", "class:3", "point:20,30"]
    with pytest.raises(ValueError, match="one colour range, and min_max stretches each map"):
        compared.figure(scale="min_max")
    text = Path(compared.save("new/figure.svg")).read_text()
    assert text.count("times uniform, log scale") == 1 and text.count("<image") == 3 * 3
    assert "temperature:4" in text and "point:20,30" in text
