"""Maps of a data set's photos, measured where the network's cells lie."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_photo
from torch import nn

from attnvis.attention import normalise, scaling
from attnvis.attention.query import mean
from attnvis.backbone import build_backbone
from attnvis.data.datasets import open_dataset
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.data.samples import Dataset, Sample
from attnvis.experiments.evaluate.maps import MapMaker, PlacedMap, Row, backbone_placements
from attnvis.experiments.evaluate.measure import (
    Measuring,
    measure_photo,
    photo_file,
    read_evaluation,
    read_measured,
    require_settings,
    size_within,
    usual_metrics,
)
from attnvis.experiments.evaluate.naming import parse_methods, parse_metric, parse_metrics
from attnvis.methods.attention import AttentionMethod
from attnvis.metrics.registry import METRICS
from attnvis.types import Box, Placement, Truth


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(1)
    return build_backbone(Tiny(), layer="body", head="linear:fc", size=64, placement="stretch", device="cpu")


def maker(backbone, *methods, temperatures=(), **stages):
    stages = {
        "queries": {"mean": mean},
        "scalings": {"none": scaling.none, "zscore": scaling.zscore},
        "normalisers": {"softmax": normalise.softmax},
    } | stages
    return MapMaker(backbone, backbone, **stages, methods=parse_methods(methods), temperatures=temperatures)


@pytest.fixture
def photos(tmp_path):
    return [make_photo(tmp_path / f"{number}.png", (80, 120), number) for number in range(3)]


def boxed(photos, sizes=((80, 120),) * 3):
    def read(index):
        truth = Truth(sizes[index], boxes=(Box(10.0, 20.0, height=30.0, width=40.0),))
        return Sample(photos[index].name, truth, path=photos[index])

    return Dataset("test", tuple(path.name for path in photos), frozenset({"boxes"}), read)


def test_attention_in_the_table_is_the_attention_of_a_run(backbone, photos):
    batch = collate([load(path, short=64) for path in photos], backbone.preprocessing)
    answers = AttentionMethod(backbone, mean, scaling.zscore)(batch)
    for (maps,), (answer,) in zip(maker(backbone)(batch), answers, strict=True):
        by_row = {each.row.name: each for each in maps.maps}
        assert set(by_row) == {"mean none", "mean zscore"}
        torch.testing.assert_close(by_row["mean zscore"].weights, answer.weights)
        assert by_row["mean zscore"].placement == answer.placement


def test_the_temperature_of_one_standard_deviation_is_the_zscore(backbone, photos):
    batch = collate([load(path, short=64) for path in photos], backbone.preprocessing)
    for (maps,) in maker(backbone, temperatures=(1.0, 4.0))(batch):
        by_row = {each.row.name: each.weights for each in maps.maps}
        torch.testing.assert_close(by_row["mean at 1"], by_row["mean zscore"], rtol=1e-4, atol=1e-7)
        assert by_row["mean at 4"].max() < by_row["mean at 1"].max()


def test_what_this_network_cannot_make_is_left_out_with_its_reason(backbone, photos):
    batch = collate([load(photos[0], short=64)], backbone.preprocessing)
    making = maker(backbone, "gradcam:yak", "centre")
    (maps,) = making(batch)[0]
    assert [each.row.name for each in maps.maps][2:] == ["centre"]
    assert "have no names" in making.refused["gradcam:yak"]


def test_a_placement_that_there_is_not_is_told(backbone):
    assert list(backbone_placements(["rf", "auto:nearest"], backbone.cells)) == ["rf", "auto:nearest"]
    with pytest.raises(ValueError, match="unknown placement 'middle'; placements= takes auto, rf, stretch"):
        backbone_placements(["middle"], backbone.cells)


def test_a_map_of_nothing_but_ones_stays_so_wherever_its_cells_lie():
    place = Placement((1.0, 3.0), (8.0, 9.0), (4, 5), (40, 50), Box(0.0, 0.0, 40.0, 50.0))
    density = PlacedMap(Row("x", "x"), torch.full((20,), 0.05), place).density((40, 50))
    torch.testing.assert_close(density, torch.full((40, 50), 1 / 2000, dtype=torch.float64))


def test_nearest_gives_each_pixel_its_own_cells_weight():
    place = Placement((5.0, 5.0), (10.0, 10.0), (2, 3), (20, 30), Box(0.0, 0.0, 20.0, 30.0))
    weights = torch.tensor([1.0, 2, 3, 4, 5, 6]) / 21
    density = PlacedMap(Row("x", "x"), weights, place).density((20, 30), "nearest")
    expected = weights.view(2, 3).repeat_interleave(10, 0).repeat_interleave(10, 1).double() / 100
    torch.testing.assert_close(density, expected, rtol=1e-6, atol=0)


def test_what_was_never_seen_has_no_mass():
    seen = Box(0.0, 10.0, height=20.0, width=10.0)
    place = Placement((5.0, 15.0), (10.0, 10.0), (2, 1), (20, 30), seen)
    for between in ("linear", "nearest"):
        density = PlacedMap(Row("x", "x"), torch.tensor([0.5, 0.5]), place).density((20, 30), between)
        assert density.nansum() == pytest.approx(1) and density[:, :10].isnan().all()


def test_no_temperature_changes_ranks_on_the_cells(backbone, photos):
    batch = collate([load(photos[0], short=64)], backbone.preprocessing)
    ((maps,),) = maker(backbone, scalings={}, temperatures=(0.5, 1.0, 4.0, 16.0))(batch)
    truth = boxed(photos)[0].truth
    metrics = parse_metrics(["mask_auc", "energy"])
    flat = measure_photo(maps, truth, metrics, between="nearest")
    assert np.ptp(flat["mask_auc"]) < 1e-9 < 0.001 < np.ptp(flat["energy"])
    assert flat["mask_auc"].shape == (4,)


def test_numbers_are_the_metrics_own_on_the_photos_pixels(backbone, photos):
    batch = collate([load(photos[0], short=64)], backbone.preprocessing)
    ((maps,),) = maker(backbone, "centre")(batch)
    truth = boxed(photos)[0].truth
    values = measure_photo(maps, truth, parse_metrics(["energy"]))["energy"]
    for each, value in zip(maps.maps, values, strict=True):
        density = each.density((80, 120))
        assert value == pytest.approx(float(density[10:40, 20:60].sum()), rel=1e-6)
    half = measure_photo(maps, truth, parse_metrics(["energy"]), longest=60)["energy"]
    assert half == pytest.approx(values, rel=0.05) and size_within((80, 120), 60) == (40, 60)


def test_the_network_is_asked_where_the_metric_needs_it(backbone, photos):
    batch = collate([load(photos[0], short=64)], backbone.preprocessing)
    making = replace(maker(backbone, "uniform"), wants_cells=True)
    ((maps,),) = making(batch)
    truth = Truth((80, 120))
    metrics = parse_metrics(["insertion", "latent_insertion", "nss"])
    values = measure_photo(maps, truth, metrics, logits=backbone.network.net)
    assert np.isfinite(values["insertion"]).all()
    assert np.isfinite(values["latent_insertion"][:2]).all() and np.isnan(values["latent_insertion"][2])
    assert np.isnan(values["nss"]).all(), "nobody looked"


def test_a_stopped_evaluation_goes_on_with_the_photos_that_lack(backbone, photos, tmp_path):
    folder = tmp_path / "out"
    metrics = parse_metrics(["energy", "max_box_acc_v2"])
    seen = []

    def measuring(left, making):
        return Measuring(
            boxed(photos),
            making,
            metrics,
            backbone.preprocessing,
            folder,
            longest=None,
            between="linear",
            left=left,
        )

    measuring([0, 1, 2], maker(backbone, "centre")).run(2, 1, say=seen.append)
    whole = read_evaluation(folder, boxed(photos).names, list(metrics), {})
    (folder / photo_file(1)).write_bytes(b"half of it")
    assert read_measured(folder, 1, metrics) is None
    measuring([1], maker(backbone, "centre")).run(2, 1, say=seen.append)
    again = read_evaluation(folder, boxed(photos).names, list(metrics), {})
    assert again.rows == whole.rows and again.photos == ("0.png", "1.png", "2.png")
    for name in metrics:
        assert np.allclose(again.values[name], whole.values[name], rtol=1e-5)
    assert whole.values["max_box_acc_v2"].ndim == 3 and not seen


def test_pictures_that_are_no_files_are_measured_too(backbone, tmp_path):
    data = open_dataset("generated:colour:90:3")
    measuring = Measuring(
        data,
        maker(backbone),
        parse_metrics(["energy"]),
        backbone.preprocessing,
        tmp_path / "out",
        longest=None,
        between="linear",
        left=[0, 1, 2],
    )
    measuring.run(2, 1, say=lambda text: None)
    values = read_evaluation(tmp_path / "out", data.names, ["energy"], measuring.failures).values["energy"]
    assert not measuring.failures and values.shape == (3, 2) and np.isfinite(values).all()


def test_a_photo_whose_truth_is_of_another_size_fails_alone(backbone, photos, tmp_path):
    data = boxed(photos, sizes=((80, 120), (120, 80), (80, 120)))
    measuring = Measuring(
        data, maker(backbone), parse_metrics(["energy"]), backbone.preprocessing, tmp_path / "out",
        longest=None, between="linear", left=[0, 1, 2],
    )  # fmt: skip
    measuring.run(8, 1, say=lambda text: None)
    assert list(measuring.failures) == [1]
    assert "1.png is 120x80, and what is known of it is 80x120" in measuring.failures[1]
    evaluation = read_evaluation(tmp_path / "out", data.names, ["energy"], measuring.failures)
    assert evaluation.photos == ("0.png", "2.png") and evaluation.failures[0][0] == "1.png"


def test_metrics_take_their_settings_behind_a_colon():
    metric = parse_metric("pointing_game:3")
    assert metric.keywords == {"tolerance": 3.0}
    with pytest.raises(ValueError, match=r"unknown metric 'nsss'.*did you mean nss"):
        parse_metric("nsss")


def test_the_usual_metrics_are_those_of_what_is_known():
    assert usual_metrics(frozenset({"boxes"}))[0] == "pointing_game"
    assert "sauc" in usual_metrics(frozenset({"fixations", "others"}))
    with pytest.raises(ValueError, match="metric=insertion,deletion"):
        usual_metrics(frozenset({"category"}))


def test_black_is_what_a_black_pixel_is_to_the_network(backbone, photos, tmp_path):
    """Of a map that is hot everywhere at once the curve goes from the photo to black in one step."""
    metrics = parse_metrics(["deletion:steps=1,substitute=black"])
    data = boxed(photos)
    measuring = Measuring(
        data, maker(backbone, "uniform"), metrics, backbone.preprocessing, tmp_path / "out",
        longest=None, between="linear", left=[0],
    )  # fmt: skip
    measuring.run(1, 1, say=lambda text: None)
    assert not measuring.failures
    batch = collate([load(photos[0], short=64)], backbone.preprocessing)
    how = backbone.preprocessing
    black = ((torch.zeros(3) - torch.tensor(how.mean)) / torch.tensor(how.std)).view(1, 3, 1, 1)
    with torch.inference_mode():
        ends = [backbone.network.net(images) for images in (batch.images, black.expand_as(batch.images))]
    likely = [logits.softmax(1)[0, ends[0].argmax()] for logits in ends]
    (found,) = unpacked_values(tmp_path / "out", metrics)
    assert found[-1] == pytest.approx(float(sum(likely)) / 2, rel=1e-5)


def unpacked_values(folder, metrics):
    _, values = read_measured(folder, 0, metrics)
    return [values[name] for name in metrics]


def test_a_truth_is_read_once_for_its_place_and_once_for_its_numbers(backbone, photos, tmp_path):
    asked = []
    data = boxed(photos)

    def read(index):
        asked.append(index)
        return data[index]

    measuring = Measuring(
        replace(data, read=read), maker(backbone), parse_metrics(["energy"]), backbone.preprocessing,
        tmp_path / "out", longest=None, between="linear", left=[0, 1, 2],
    )  # fmt: skip
    paths, _, _ = measuring.places
    measuring.run(8, 1, say=lambda text: None)
    assert paths == photos and sorted(asked) == [0, 0, 1, 1, 2, 2]


def test_a_row_to_compare_with_that_there_is_not_ends_at_the_first_photo(backbone, photos, tmp_path):
    measuring = Measuring(
        boxed(photos), maker(backbone, "centre"), parse_metrics(["energy"]), backbone.preprocessing,
        tmp_path / "out", longest=None, between="linear", left=[0, 1, 2], against="mean zscor",
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"there are mean none, mean zscore, centre; did you mean mean zscore"
    ):
        measuring.run(8, 1, say=lambda text: None)
    assert not list((tmp_path / "out").glob("photos/*"))


def test_a_table_of_which_no_row_can_be_made_says_why(backbone, photos):
    batch = collate([load(photos[0], short=64)], backbone.preprocessing)
    making = maker(backbone, "gradcam:yak", scalings={})
    with pytest.raises(ValueError, match=r"no row of the table can be made; gradcam:yak: .*have no names"):
        making(batch)
    with pytest.raises(ValueError, match="the table has no row; give query="):
        maker(backbone, scalings={})(batch)


@pytest.mark.parametrize("text", ["deletion:substitute=blck", "ig:baseline=center", "deletion:steps=0"])
def test_a_metrics_settings_are_tried_before_the_first_photo(text):
    with pytest.raises(ValueError, match=f"metric {text} cannot be measured") as told:
        require_settings(parse_metrics([text]))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_tried_with_its_usual_settings(name):
    require_settings(parse_metrics([name]))
