"""The network that ships: what its file, its geometry and its classifier promise, and that it learned something.

Frozen numbers: python scripts/measure_embedded.py --freeze tests/embedded_frozen.json, after every change of the weights.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attnvis import embedded as shipped
from attnvis import query, scaling
from attnvis.api import explain, load_backbone
from attnvis.attention import attend
from attnvis.backbone import Backbone
from attnvis.photo import collate, find, fit, load
from attnvis.placement import probe
from attnvis.values import Photo, Preprocessing

FROZEN = json.loads(Path(__file__).with_name("embedded_frozen.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("embedded", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def photos() -> dict[str, Photo]:
    return {path.stem: load(path) for path in find("samples")}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_file_is_small_enough_to_ship():
    assert shipped.FILE.stat().st_size <= 5_000_000


def test_the_file_is_the_one_this_version_was_made_with():
    assert hashlib.sha256(shipped.FILE.read_bytes()).hexdigest() == shipped.SHA256


def test_a_changed_file_is_refused(monkeypatch, tmp_path):
    content = bytearray(shipped.FILE.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    changed = tmp_path / "weights.safetensors"
    changed.write_bytes(content)
    monkeypatch.setattr(shipped, "FILE", changed)
    with pytest.raises(ValueError, match=r"is not the file that attnvis was released with .* reinstall attnvis"):
        shipped.load_weights()


def test_the_weights_fit_the_architecture_and_are_finite():
    net, weights = shipped.EmbeddedNet(), shipped.load_weights()
    net.load_state_dict(weights, strict=True)
    assert {name for name, _ in net.named_parameters()} <= set(weights)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert all((tensor > 0).all() for name, tensor in weights.items() if name.endswith("running_var"))


def test_the_classes_are_imagenets_thousand_in_order():
    names = shipped.categories()
    assert len(names) == 1000
    assert (names[0], names[281], names[504], names[999]) == ("tench", "tabby", "coffee mug", "toilet tissue")


# A 3x3 convolution of stride 2 and padding 1 makes ceil(n / 2) of n; so does 7x7 with stride 4 and padding 3 (4, not 2).
@pytest.mark.parametrize("height, width", [(97, 97), (225, 225), (289, 225), (224, 224), (131, 250), (64, 75), (33, 1)])
def test_any_size_goes_in_and_every_sixteenth_pixel_has_a_cell(backbone, height, width):
    maps = backbone.encode(noise(1, 3, height, width))
    assert maps.shape == (1, 512, -(-height // 16), -(-width // 16))
    assert (maps >= 0).all() and torch.isfinite(maps).all()


@pytest.mark.parametrize("size", [(225, 225), (97, 385), (289, 225)])
def test_the_mean_class_score_and_the_bias_make_the_logit(backbone, size):
    net = shipped.EmbeddedNet().eval()
    net.load_state_dict(shipped.load_weights())
    images = noise(2, 3, *size)
    with torch.inference_mode():
        tokens, logits = backbone.encode(images).flatten(2).mT, net(images)
        for name in (0, 281, 999):
            scores = attend(net.head.weight[name].expand(2, 1, -1), tokens).scores
            found = scores.double().mean(-1)[:, 0] + net.head.bias[name]
            torch.testing.assert_close(found, logits[:, name].double(), rtol=1e-5, atol=1e-5)


def test_cell_i_looks_at_pixel_16_i(backbone):
    reach = probe(backbone.encode)
    assert reach.offset == pytest.approx((0, 0), abs=1e-3)
    assert reach.stride == pytest.approx((16, 16), abs=1e-3)


def test_the_frozen_numbers_are_of_these_weights():
    assert FROZEN["sha256"] == shipped.SHA256, "the weights changed: scripts/measure_embedded.py --freeze tests/embedded_frozen.json"


@pytest.mark.parametrize("name", FROZEN["samples"])
def test_the_sample_photos_are_seen_as_when_the_weights_were_made(backbone, photos, name):
    frozen = FROZEN["samples"][name]
    logits = backbone(collate([photos[name]], backbone.preprocessing)).logits[0]
    assert int(logits.argmax()) == frozen["top1"]
    assert float(logits.max()) == pytest.approx(frozen["logit"], rel=0.02)
    found = explain(photos[name].path, query="class", scaling="inv_sqrt_d", backbone=backbone)
    weights = found.weights.astype(float)
    assert np.exp(-(weights * np.log(weights)).sum()) == pytest.approx(frozen["perplexity"], rel=0.02)


def test_the_sample_photos_are_all_frozen(photos):
    assert set(FROZEN["samples"]) == set(photos)


def untrained() -> Backbone:
    """The same architecture with random weights; batch norm's statistics are those of the sample photos, else its maps would die out."""
    torch.manual_seed(0)
    control = load_backbone.__wrapped__("embedded", weights="random", device="cpu", precision="fp32")
    for module in control.encode.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    control(collate([load(path) for path in find("samples")], Preprocessing(225, "crop")))
    control.encode.eval()
    return control


def found_in_mosaics(backbone: Backbone, photos: list[Photo], mosaics: int = 48, side: int = 128) -> float:
    """How often the patch most like a part of one photo's left half lies on that photo, in a mosaic of the right halves of four.

    In grey, mirrored and differently lit: no pixel of the question is in the mosaic, and colour gives nothing away.
    """
    rng, hits = np.random.default_rng(0), 0
    grey = [fit(photo, Preprocessing(2 * side, "crop"))[0].mean(2).astype(np.uint8) for photo in photos]
    for _ in range(mosaics):
        chosen, place = rng.choice(len(grey), 4, replace=False), int(rng.integers(4))
        top = int(rng.integers(side + 1))
        asked = grey[chosen[place]][top : top + side, side - 1 :: -1] * rng.uniform(0.6, 1.4)
        tops = rng.integers(side + 1, size=4)
        tiles = [grey[number][top : top + side, side:] for number, top in zip(chosen, tops)]
        mosaic = load(np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])]))
        features = backbone(collate([mosaic], Preprocessing(2 * side + 1, "stretch")))
        exemplar = load(asked.clip(0, 255).astype(np.uint8))
        vector = query.mean(backbone(collate([exemplar], Preprocessing(side + 1, "stretch")))).vectors
        cell = int(attend(vector, features.tokens, scaling=scaling.cosine).logits.argmax())
        row, column = features.placements[0].centre(*divmod(cell, features.grid[1]))
        hits += (row >= side, column >= side) == (place >= 2, place % 2 == 1)
    return hits / mosaics


def test_it_knows_a_photo_by_its_other_half_better_than_with_random_weights(backbone, photos):
    """Random weights find about .4 of them (chance .25), a real MobileNetV2 about .8."""
    samples = list(photos.values())
    trained, random = found_in_mosaics(backbone, samples), found_in_mosaics(untrained(), samples)
    assert trained >= 0.6
    assert trained >= random + 0.15
