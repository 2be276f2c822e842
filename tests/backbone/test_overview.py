"""`attnvis backbones` beside what torchvision says of its own networks."""

import functools

import pytest
from torchvision import models

from attnvis import catalogue
from attnvis.backbone.overview import COLUMNS, families, members, summarise, table


@pytest.fixture(scope="module")
def surveyed():
    """name -> the rows of a network of torchvision at 224 pixels, surveyed once."""
    return functools.cache(lambda name: tuple(summarise([name], 224)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
@pytest.mark.slow
def test_multiply_adds_and_parameters_are_those_that_torchvision_tells(surveyed, name):
    """`_ops` are GMAC at the size that the weights were tested with, classifier included."""
    weights = models.get_model_weights(name)["DEFAULT"]
    assert weights.transforms().crop_size == [224]
    *_, last = surveyed(name)
    classifier = {
        "resnet18": 512 * 1000,
        "mobilenet_v3_small": 576 * 1024 + 1024 * 1000,
        "squeezenet1_1": 13 * 13 * 512 * 1000,
    }[name]
    assert last.parameters == weights.meta["num_params"]
    giga = (last.macs + classifier) / 1e9
    assert giga == pytest.approx(weights.meta["_ops"], abs=0.002)  # which is rounded


def test_every_stage_of_a_network_has_a_row_with_its_grid_and_its_cost(surveyed):
    rows = surveyed("resnet18")
    assert [(row.layer, row.node, row.channels, row.grid) for row in rows] == [
        ("stage1", "layer1", 64, (56, 56)),
        ("stage2", "layer2", 128, (28, 28)),
        ("stage3", "layer3", 256, (14, 14)),
        ("last", "layer4", 512, (7, 7)),
    ]
    stem = 112 * 112 * 64 * 3 * 7 * 7
    assert rows[0].macs == stem + 4 * 56 * 56 * 64 * 64 * 9  # cut at layer1: nothing behind it is counted
    assert [row.field.stride for row in rows] == [(4, 4), (8, 8), (16, 16), (32, 32)]
    assert [row.certificate.kind for row in rows] == ["gradient"] * 3 + ["linear"]
    assert rows[-1].certificate.exact


def test_stages_that_a_config_does_not_name_are_found_by_their_stride(surveyed):
    rows = surveyed("squeezenet1_1")
    assert [row.field.stride[0] for row in rows] == [4, 8, 16]
    assert rows[-1].node == "features" and rows[-1].certificate.kind == "conv_relu"


@pytest.mark.slow
def test_a_transformer_has_the_row_of_its_patches():
    """14 x 14 patches and a class token, 768 wide: 12 D^2 a token for what is linear, 2 N D to attend."""
    (row,) = summarise(["vit_b_16"])
    tokens, width = 14 * 14 + 1, 768
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    assert (row.grid, row.channels, row.node) == ((14, 14), width, "encoder.layers.encoder_layer_10")
    assert row.macs == pytest.approx(14 * 14 * width * 3 * 16**2 + 11 * block, rel=0.05)
    assert row.field.offset == (7.5, 7.5) and not row.certificate.exact


def test_members_are_all_the_classifiers_of_torchvision_but_one():
    assert set(members()) == set(models.list_models(module=models)) - {"maxvit_t"}
    assert (
        set(members().values()) | {"efficientnet_lite"}
        == set(families())
        == set(catalogue.options("backbone")) - {"own", "timm"}
    )


def test_the_table_says_a_network_once_and_its_layers_below(attnvis):
    ended = attnvis("backbones", "efficientnet_lite", "squeezenet1_1", "size=96")
    heads, rule, *rows = ended.out.splitlines()
    assert ended.code == 0 and len(rows) == 4 + 3
    widths = {len(line) for line in (heads, rule, *rows)}
    assert widths == {len(heads)}, "columns that stand below one another"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == ["efficientnet_lite0", "", "", "", "squeezenet1_1", "", ""]
    assert cells[3][list(COLUMNS).index("class scores")] == "linear, exact"
    assert cells[0][list(COLUMNS).index("class scores")] == "gradient, approximate"


def test_an_unknown_network_is_one_line(attnvis):
    ended = attnvis("backbones", "maxvit_t")
    assert ended.code == 1
    assert ended.err.startswith("attnvis: no backbone 'maxvit_t'; give a family (alexnet, ")


def test_the_table_comes_line_by_line():
    lines = table(summarise(["squeezenet1_1", "no_such_network"], 65))
    assert [next(lines) for _ in range(5)][-1].strip("| ").startswith("last")
    with pytest.raises(ValueError, match="no_such_network"):
        next(lines)
