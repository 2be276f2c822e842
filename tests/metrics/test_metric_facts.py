"""What holds for every metric: it says what it needs, has a config, and knows what was never seen."""

import inspect
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from attnvis.metrics.faithfulness import Evidence, Examined
from attnvis.metrics.metric import facts, filled, metric
from attnvis.metrics.registry import METRICS
from attnvis.types import Truth

CONFIGS = Path(__file__).parents[2] / "configs" / "metric"
M, H, W = 3, 13, 17
every = pytest.mark.parametrize("name", METRICS)
of_truth = pytest.mark.parametrize(
    "name", [name for name in METRICS if not {"network", "evidence"} & set(facts(METRICS[name]).needs)]
)


def truth():
    chance = np.random.default_rng(0)
    mask = np.zeros((H, W), bool)
    mask[3:9, 4:11] = True
    return Truth(
        (H, W),
        fixations=chance.uniform(0, (H, W), (12, 2)),
        others=chance.uniform(0, (H, W), (30, 2)),
        mask=mask,
        distractors=np.roll(mask, 4, axis=0) & ~mask,
    )


def beside(name):
    """What the metric takes beside the maps."""
    chance = torch.Generator().manual_seed(1)
    if "network" in facts(METRICS[name]).needs:
        image = torch.randn(3, H, W, generator=chance)
        return Examined(image, logits=lambda images: images.mean((2, 3)), target=0)
    if "evidence" in facts(METRICS[name]).needs:
        return Evidence(torch.randn(4, H, W, generator=chance), torch.zeros(4), target=0)
    return truth()


def random_maps():
    return torch.rand(M, H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_every_metric_has_a_config_of_its_name_with_its_defaults():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(METRICS)
    for name, function in METRICS.items():
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        assert config.pop("_target_") == f"{function.__module__}.{name}" and config.pop("_partial_") is True
        settings = list(inspect.signature(function).parameters.values())[2:]
        defaults = {each.name: each.default for each in settings}
        assert config == {
            key: list(each) if isinstance(each, tuple) else each for key, each in defaults.items()
        }


@every
def test_numbers_lie_in_the_range_that_the_metric_tells(name):
    told = facts(partial(METRICS[name]))
    values = METRICS[name](random_maps(), beside(name))
    numbers = told.finish(values) if told.finish else values
    assert numbers.shape == (M,) and numbers.dtype == torch.float64
    assert (
        (told.low <= numbers) & (numbers <= told.high + 0.01)
    ).all()  # E-measure divides by one pixel less
    assert told.better in ("higher", "lower") and told.name == name


@pytest.mark.parametrize("name", [name for name in METRICS if not math.isnan(facts(METRICS[name]).uniform)])
def test_a_map_that_is_the_same_everywhere_has_what_the_metric_tells(name):
    told = facts(METRICS[name])
    values = METRICS[name](torch.full((1, H, W), 1 / (H * W), dtype=torch.float64), beside(name))
    assert values.item() == pytest.approx(told.uniform, abs=1e-9)


@of_truth
def test_metrics_of_ranks_do_not_move_with_the_temperature_others_do(name):
    told, scores = facts(METRICS[name]), 4 * random_maps()[:1]
    maps = torch.cat([(scores / tau).flatten(1).softmax(1).view(1, H, W) for tau in (0.5, 1, 5)])
    values = METRICS[name](maps, truth())
    numbers = told.finish(values) if told.finish else values
    is_flat = bool((numbers - numbers[0]).abs().max() < 1e-12)
    if told.ranks:
        assert is_flat
    elif name not in (
        "pxap",
        "iou",
        "f_max",
        "max_box_acc",
        "max_box_acc_v2",
    ):  # a threshold of their own undoes much
        assert not is_flat


@of_truth
def test_a_number_does_not_depend_on_the_other_maps_nor_on_precision(name):
    maps = random_maps().float()
    together = METRICS[name](maps, truth())
    alone = torch.cat([METRICS[name](each[None], truth()) for each in maps])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)
    before = maps.clone()
    torch.testing.assert_close(METRICS[name](maps.double(), truth()), together, rtol=0, atol=0)
    assert torch.equal(maps, before)


@of_truth
def test_what_was_never_seen_has_no_mass(name):
    """A crop's map: NaN is the same as a density of 0."""
    cropped = random_maps()
    cropped[:, :2], cropped[:, :, 15:] = math.nan, math.nan
    torch.testing.assert_close(
        METRICS[name](cropped, truth()), METRICS[name](cropped.nan_to_num(0), truth()), rtol=0, atol=0
    )


@every
def test_a_map_that_was_seen_nowhere_or_is_infinite_is_undefined_alone(name):
    maps = random_maps()
    maps[0], maps[2, 3, 4] = math.nan, math.inf
    told = facts(METRICS[name])
    values = METRICS[name](maps, beside(name))
    numbers = told.finish(values) if told.finish else values
    assert numbers.isnan().tolist() == [True, False, True]


def test_where_a_signed_map_was_never_seen_it_has_its_least():
    maps = torch.tensor([[[math.nan, -3.0], [2.0, 0.0]], [[math.nan, 3.0], [2.0, 5.0]]])
    assert filled(maps)[:, 0, 0].tolist() == [-3, 0]


def test_a_metric_of_ones_own_is_described_as_the_others_are():
    @metric("mask|boxes fixations", better="lower", high=9.0)
    def own(maps, truth, strength=1.0):
        return maps.sum((1, 2)) * strength

    told = facts(partial(partial(own), strength=2.0))
    assert (told.name, told.better, told.high, told.needs) == (
        "own",
        "lower",
        9.0,
        ("mask|boxes", "fixations"),
    )
    assert told.missing(Truth((2, 2), boxes=())) == ["fixations"]
    assert told.missing(Truth((2, 2))) == ["mask|boxes", "fixations"]
    with pytest.raises(TypeError, match="sum is no metric"):
        facts(torch.sum)


def test_the_page_of_metrics_lists_them_all_and_its_example_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.startswith("tensor([")
    assert all(f"| `{name}` |" in page for name in METRICS)
