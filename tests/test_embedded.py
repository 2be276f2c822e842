"""The network that ships: what its file, its geometry and its classifier promise, and that it learned something.

Frozen numbers: python scripts/measure_embedded.py --freeze tests/embedded_frozen.json, after every change of the weights.
"""

import hashlib
import importlib.util
import json
from dataclasses import replace
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
from attnvis.values import Photo, Preprocessing

SPEC = importlib.util.spec_from_file_location("measure_embedded", Path(__file__).parents[1] / "scripts" / "measure_embedded.py")
measure = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(measure)

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
    reach = backbone.reach_on((225, 225))
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


RATES = {"rarity on the object": 1 / 50, "pca on the object": 1 / 50, "colour pop-out": 1 / 15}  # one scene of 50, one array of 15


def as_frozen(found: dict[str, float]) -> dict[str, bool]:
    """Rates may differ by one picture, means by 2 %."""
    assert set(found) == set(FROZEN["generated"])
    return {
        name: abs(found[name] - frozen) <= (RATES[name] + 1e-3 if name in RATES else 0.02 * frozen)
        for name, frozen in FROZEN["generated"].items()
    }


@pytest.fixture(scope="module")
def early() -> Backbone:
    return load_backbone("embedded", layer="stage2", device="cpu", precision="fp32")


def test_generated_pictures_are_seen_as_when_the_weights_were_made(backbone, early):
    assert all(as_frozen(measure.on_generated(backbone, early)).values())


def test_another_preprocessing_would_be_noticed(backbone, early, monkeypatch):
    usual, make = measure.WHOLE, measure.scene
    monkeypatch.setattr(measure, "WHOLE", replace(usual, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    assert not all(as_frozen(measure.on_generated(backbone, early)).values())
    monkeypatch.setattr(measure, "WHOLE", usual)
    monkeypatch.setattr(measure, "scene", lambda seed: (make(seed)[0][..., ::-1], *make(seed)[1:]))  # BGR
    assert not all(as_frozen(measure.on_generated(backbone, early)).values())


def test_auc_counts_pairs():
    draws = np.random.default_rng(0)
    positives, negatives = draws.integers(0, 9, 31) / 8, draws.integers(0, 7, 47) / 8  # with many ties
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives]
    assert measure.auc(positives, negatives) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert measure.auc(np.ones(3), np.ones(5)) == 0.5


def test_auc_and_shuffled_auc_of_a_toy_are_those_of_pysaliency():
    x, y = np.meshgrid(np.arange(8), np.arange(6))
    values = 10 - abs(x - 5) - 2 * abs(y - 2) + 0.5 * (x * y % 3)
    own, others = ([(5, 2), (4, 2), (6, 3), (1, 5), (5, 2)], [(4, 3), (4, 2), (3, 3), (4, 2), (0, 0), (7, 5)])  # x, y
    gaze = measure.Gaze([], [np.array([((row + 0.5) / 6, (column + 0.5) / 8) for column, row in places]) for places in (own, others)])
    assert gaze.shuffled_auc(0, values) == pytest.approx(0.7, abs=1e-9)
    assert measure.auc(np.array([values[row, column] for column, row in own]), values.ravel()) == pytest.approx(0.7520833333, abs=1e-9)


def test_shuffled_auc_takes_the_fixations_of_the_other_photos_to_this_one():
    """Photos of two shapes; every other photo's fixation lands on the cell at the same share of height and width."""
    rng, (height, width) = np.random.default_rng(1), (6, 8)
    shapes = [(height, width), (3, 4), (12, 24)]
    spots = [
        np.stack([rng.uniform(0, rows, 5 + number), rng.uniform(0, columns, 5 + number)], 1)
        for number, (rows, columns) in enumerate(shapes)
    ]
    values = rng.permutation(height * width).reshape(height, width).astype(np.float32)
    gaze = measure.Gaze([], [places / shape for places, shape in zip(spots, shapes)])
    read = [
        [values[int(row * height / rows), int(column * width / columns)] for row, column in places]
        for places, (rows, columns) in zip(spots, shapes)
    ]
    pairs = [(own > other) + 0.5 * (own == other) for own in read[0] for other in read[1] + read[2]]
    assert gaze.shuffled_auc(0, values) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_a_linear_probe_reads_what_is_there_and_nothing_else():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(300, 40, generator=rng) * torch.logspace(-3, 3, 40)  # of very different sizes
    kinds = (features[:, 3] / features[:, 3].std() > 0).tolist()
    truth, noise = [f"{kind}" for kind in kinds], [f"{number}" for number in torch.randint(4, (300,), generator=rng).tolist()]
    for labels, low, high in ((truth, 0.9, 1), (noise, 0.15, 0.35)):
        found = measure.linear_probe(features[:200], labels[:200], features[200:])
        assert low <= np.mean([one == other for one, other in zip(found, labels[200:])]) <= high


def untrained() -> Backbone:
    """The same architecture with random weights; batch norm's statistics are those of the sample photos, else its maps would die out."""
    torch.manual_seed(0)
    control = load_backbone("embedded", weights="random", device="cpu", precision="fp32")
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
