"""configs/ and the code agree: every yaml makes what it names, and every public function has one."""

import copy
import functools
import inspect
import re
from functools import partial
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from attnvis import backbone, catalogue, methods, render
from attnvis.attention import heads, keys, normalise, query, scaling
from attnvis.cli import config
from attnvis.cli.commands import registry
from attnvis.metrics.metric import facts
from attnvis.metrics.registry import METRICS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(file.relative_to(CONFIGS).with_suffix("").as_posix() for file in CONFIGS.rglob("*.yaml"))
OPTIONS = [name for name in FILES if "/" in name and not name.rpartition("/")[2].startswith("_")]
CHOICES = [name for name in OPTIONS if not name.startswith("metric/")]  # evaluate takes metrics as texts
GIVEN = {
    **{"query.x": 10, "query.y": 20, "query.width": 30, "query.height": 40},
    **{"query.text": "mean", "query.photo": "cat.jpg", "query.shape": "'0,0,9,0,9,9'", "query.file": "v.npy"},
    **{"keys.file": "w.npy", "keys.name": "stage3"},
}


@functools.cache
def composed_once(*overrides: str, verb: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(verb, list(overrides))


def composed(*overrides: str, verb: str = "run"):
    return copy.deepcopy(composed_once(*overrides, verb=verb))


@pytest.mark.parametrize("name", FILES)
def test_every_config_opens_with_its_sentence(name):
    assert len(catalogue.sentence(name)) >= 10, "a `# sentence` that says what it is for"


# The tests of the families make one network of each; of all the configs here only slowly.
QUICK = ("efficientnet_lite", "squeezenet", "own")


def slow_if_heavy(name):
    group, option = name.split("/")
    heavy = group == "backbone" and option not in QUICK
    return pytest.param(name, marks=pytest.mark.slow if heavy else ())


@pytest.mark.parametrize("name", [slow_if_heavy(name) for name in CHOICES])
def test_every_choice_composes_and_makes_what_it_names(name, here):
    group, option = name.split("/")
    needs = [
        f"{key}={value}"
        for key, value in GIVEN.items()
        if key.startswith(f"{group}.") and catalogue.settings(name).get(key.partition(".")[2]) == "???"
    ]
    network = (
        ["backbone.weights=random", "backbone.placement=stretch", "backbone.precision=fp32"]
        if group == "backbone"
        else []
    )
    if option == "own":
        network += [
            "backbone.net._target_=torchvision.models.resnet18",
            "backbone.layer=layer4",
            "backbone.head=linear:fc",
            "trust=[torchvision]",
        ]
    verb = "run"
    if group == "experiment":  # each says in its sentence which command it is for
        (verb,) = re.findall(r"attnvis (\w+) ", catalogue.sentence(name))
    given = {"sweep": ["images=samples"], "evaluate": ["data=generated:scenes"]}.get(verb, [])
    cfg = composed(f"{group}={option}", *needs, *network, *given, verb=verb)
    config.require(cfg, verb)
    if group in ("logger", "experiment", "launcher", "preprocess", "cache"):
        return
    made = config.build(cfg, group)
    if group == "backbone":
        assert isinstance(made, backbone.Backbone) and made.digest == "random" and made.head is not None
    elif group == "render":
        assert isinstance(made, render.Style)
    else:
        module = {
            "query": query,
            "scaling": scaling,
            "normalise": normalise,
            "keys": keys,
            "heads": heads,
            "method": methods,
        }[group]
        function = {"class": "class_", "attention": "AttentionMethod"}.get(option, option)
        assert isinstance(made, partial) and made.func is getattr(module, function)


def test_evaluate_takes_null_for_its_longest_side_and_no_word():
    config.require(composed("data=somewhere", "longest=null", verb="evaluate"), "evaluate")
    with pytest.raises(ValueError, match="longest must be a whole number or null, not 'all'"):
        config.require(composed("data=somewhere", "longest=all", verb="evaluate"), "evaluate")


@pytest.mark.parametrize("verb", registry.COMMANDS)
def test_every_verb_has_a_config_and_a_script(verb):
    given = {
        "redraw": ["run=somewhere"],
        "export": ["run=somewhere"],
        "calibrate": ["images=somewhere"],
        "video": ["clip=somewhere"],
        "status": ["folder=somewhere"],
        "evaluate": ["data=somewhere"],
    }
    cfg = composed(*given.get(verb, []), verb=verb)
    config.require(cfg, verb)
    assert "name" in cfg and "trust" in cfg
    assert f'console("{verb}")' in (CONFIGS.parent / "scripts" / f"{verb}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("group, module", [("query", query), ("scaling", scaling), ("normalise", normalise)])
def test_public_functions_and_configs_have_the_same_names(group, module):
    helpers = {"UnknownName", "parse", "read"}
    functions = {
        name.rstrip("_") for name in module.__all__ if inspect.isfunction(getattr(module, name))
    } - helpers
    assert functions == {name.partition("/")[2] for name in CHOICES if name.startswith(f"{group}/")}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in CHOICES
        if name.split("/")[0] in ("query", "scaling", "normalise", "backbone", "method")
        and name != "method/attention"  # its settings are groups of their own
    ],
)
def test_the_defaults_of_a_config_are_those_of_its_function(name):
    group, option = name.split("/")
    merged = OmegaConf.to_container(composed(f"{group}={option}"), resolve=False)[group]
    module = {
        "query": query,
        "scaling": scaling,
        "normalise": normalise,
        "backbone": backbone,
        "method": methods,
    }[group]
    parameters = inspect.signature(getattr(module, merged["_target_"].rpartition(".")[2])).parameters
    settings = {key: value for key, value in merged.items() if not key.startswith("_")}
    first = [] if group == "backbone" else list(parameters)[:1]  # Features, Scores, or the logits
    # what only a known network can say of itself
    assert set(settings) == set(parameters) - set(first) - {"cut", "shifts", "step", "twin"}
    for key, value in settings.items():
        default = parameters[key].default
        if default is inspect.Parameter.empty:
            assert value == "???" or group == "backbone" or name == "query/several", key
        else:
            alike = list(value) == list(default or ()) if isinstance(value, list | dict) else value == default
            # the run's own, 0 too
            assert alike or (name.startswith("query/random") and (key, value) == ("seed", "${seed}")), key


def test_every_method_has_a_config():
    functions = set(methods.__all__) - {"AttentionMethod"} | {"attention"}
    assert functions == {name.partition("/")[2] for name in CHOICES if name.startswith("method/")}


@pytest.mark.parametrize("option", [name.partition("/")[2] for name in OPTIONS if name.startswith("metric/")])
def test_a_metrics_config_says_its_settings_and_what_it_needs(option):
    settings = catalogue.settings(f"metric/{option}")
    function = METRICS[option]
    parameters = list(inspect.signature(function).parameters.values())[2:]  # maps, truth
    own = {key: value for key, value in settings.items() if not key.startswith("_")}
    assert own.keys() == {parameter.name for parameter in parameters}
    for parameter in parameters:
        value = own[parameter.name]
        assert (tuple(value) if isinstance(value, list) else value) == parameter.default
    of_evidence = "a classifier that reads the mean patch"
    needs = " and ".join(need.replace("|", " or ") for need in facts(function).needs)
    assert catalogue.needs(f"metric/{option}") == needs.replace("evidence", of_evidence)


def test_the_defaults_of_the_overlay_are_those_of_the_style():
    own = yaml.safe_load((CONFIGS / "render" / "overlay.yaml").read_text())
    del own["_target_"]
    style = render.Style()
    assert own == {key: getattr(style, key) for key in own} and set(own) == set(style.__dataclass_fields__)


def test_the_catalogue_reads_what_hydra_composes():
    for name in CHOICES:
        group, option = name.split("/")
        if group not in ("experiment", "logger", "launcher"):
            assert (
                catalogue.settings(name)
                == OmegaConf.to_container(composed(f"{group}={option}"), resolve=False)[group]
            ), name


@pytest.mark.parametrize("verb", registry.COMMANDS)
def test_the_catalogue_reads_the_settings_of_a_verb_as_hydra_does(verb):
    settings = catalogue.settings(verb)
    del settings["hydra"]
    assert settings == OmegaConf.to_container(composed(verb=verb), resolve=False)


@pytest.mark.parametrize(
    "group, old, new",
    [
        ("query", "attnvis.query.mean", "attnvis.attention.query.mean"),
        ("scaling", "attnvis.scaling.cosine", "attnvis.attention.scaling.cosine"),
        ("normalise", "attnvis.normalise.softmax", "attnvis.attention.normalise.softmax"),
    ],
)
def test_an_address_of_before_the_rooms_says_the_new_one(group, old, new):
    with pytest.raises(ValueError, match=re.escape(f"{old} is now {new}")):
        config.vet(old, group, [])
    config.vet(new, group, [])
    with pytest.raises(ValueError, match="is not attnvis' own"):
        config.vet(f"attnvis.{group}.resolve_name", group, [])


def test_numbers_become_what_the_function_asks_for():
    made = config.build(composed("scaling=temperature", "scaling.tau=2"), "scaling")
    assert type(made.keywords["tau"]) is float
    made = config.build(composed("query=class", "query.name=281"), "query")
    assert made.keywords == {"name": 281}


def test_a_family_is_found_by_the_longest_name():
    assert [
        catalogue.family(name)
        for name in (
            "resnet18",
            "resnext50_32x4d",
            "wide_resnet50_2",
            "vgg16",
            "vit_b_16",
            "maxvit_t",
            "embedded",
        )
    ] == [
        "resnet",
        "resnext",
        "wide_resnet",
        "vgg",
        "vit",
        None,
        None,
    ]
    assert backbone.torchvision.__name__ == "torchvision"
