"""One grammar at every door: a text means the same at run, sweep, video and Python, or is refused alike.

What each text means stands here, by hand: a function's name and all of its settings.
"""

import inspect
import re
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from attnvis import api, catalogue
from attnvis.attention.query.language import as_query
from attnvis.attention.spec import as_function, format_function
from attnvis.backbone.class_files import class_names
from attnvis.class_names import find_class
from attnvis.cli import config
from attnvis.cli.axes import function_named
from attnvis.cli.commands.registry import COMMANDS
from attnvis.cli.words import to_overrides
from attnvis.pipeline.plan import setting_text

ROOT = Path(__file__).parents[2]
AXES = {"query": "queries", "scaling": "scalings", "normalise": "normalisers"}


def spellings(name, *settings):
    """The ways in which settings (their names and texts) are typed behind a stage's name."""
    keys, values = zip(*settings, strict=True)
    by_name = [f"{key}={value}" for key, value in settings]
    yield f"{name}:{','.join(values)}"
    yield f"{name}: {', '.join(values)} "
    yield f"{name}({', '.join(values)})"
    yield f"{name}:{','.join(by_name)}"
    yield f"{name}({', '.join(by_name)})"
    if len(keys) > 1:
        yield f"{name}:{','.join(reversed(by_name))}"
        yield f"{name}:{','.join([values[0], *by_name[1:]])}"


def table():
    """(group, text, the function's name, its settings)"""
    plain = {
        "query": {
            "mean": {}, "distance": {}, "norm": {}, "class": {"name": "predicted"},
            "pca": {"component": 1, "centred": True}, "random": {"seed": 0, "count": 1},
            "rarity": {"components": 16, "shrinkage": 0.01},
        },
        "scaling": {
            "none": {}, "inv_sqrt_d": {}, "inv_d": {}, "temperature": {"tau": 1.0}, "cosine": {"tau": 0.07},
            "zscore": {"tau": 1.0}, "robust_z": {"tau": 1.0}, "minmax": {"tau": 0.25},
            "log_n": {"base": 512.0}, "ssmax": {"s": 0.43}, "perplexity": {"target": 0.1},
        },
        "normalise": {
            "softmax": {}, "sparsemax": {}, "entmax15": {}, "relu": {}, "sigmoid": {"bias": None},
            "top_k": {"k": 10}, "power": {"p": 2.0},
        },
    }  # fmt: skip
    for group, stages in plain.items():
        for name, settings in stages.items():
            yield group, name, name, settings
            yield group, f"{name}()", name, settings
    numbers = {"0.953": 0.953, "2": 2.0, "1e-3": 0.001, ".25": 0.25}
    settings = {"log_n": "base", "ssmax": "s", "perplexity": "target"} | dict.fromkeys(
        ("temperature", "cosine", "zscore", "robust_z", "minmax"), "tau"
    )
    for (name, key), (text, number) in product(settings.items(), numbers.items()):
        if name != "log_n" or number > 1:
            for typed in spellings(name, (key, text)):
                yield "scaling", typed, name, {key: number}
    for name, key, text, value in (
        *(("top_k", "k", str(k), k) for k in (1, 5, 77)),
        *(("power", "p", text, value) for text, value in numbers.items()),
        *(("sigmoid", "bias", text, float(text)) for text in ("-4.5", "0")),
        *(("sigmoid", "bias", text, None) for text in ("None", "null")),
    ):
        for typed in spellings(name, (key, text)):
            yield "normalise", typed, name, {key: value}
    for x, y in (("120", "80"), ("0.5", "1234.25"), ("-1", "-2.5")):
        for typed in spellings("point", ("x", x), ("y", y)):
            yield "query", typed, "point", {"x": float(x), "y": float(y)}
    for typed in spellings("box", ("x", "230"), ("y", "60"), ("width", "250.5"), ("height", "180")):
        yield "query", typed, "box", {"x": 230.0, "y": 60.0, "width": 250.5, "height": 180.0}
    for text, centred in (("false", False), ("False", False), ("no", False), ("yes", True), ("1", True)):
        for typed in spellings("pca", ("component", "2"), ("centred", text)):
            yield "query", typed, "pca", {"component": 2, "centred": centred}
    for typed in spellings("random", ("seed", "3"), ("count", "2")):
        yield "query", typed, "random", {"seed": 3, "count": 2}
    for typed in spellings("rarity", ("components", "8"), ("shrinkage", "0.05")):
        yield "query", typed, "rarity", {"components": 8, "shrinkage": 0.05}
    names = (
        "tabby",
        "tiger cat",
        "Egyptian_cat",
        "281",
        "jack-o'-lantern",
        "teddy, teddy bear",
        "кот",
        "St. Bernard",
    )
    for name in names:
        for typed in (name, *spellings("class", ("name", name))):
            yield "query", typed, "class", {"name": name}


MEANINGS = list(table())

MISTAKES = [  # group, text, what the sentence says
    *(("query", text, "there are box, class, contrast") for text in ("", "points:1,2", "Mean:", "foo(1)")),
    ("query", "120,80", "a point is written point:120,80"),
    ("query", "1,2,3,4", "a box is written box:1,2,3,4"),
    ("query", "Point:1,2", "did you mean point?"),
    ("query", "xyzzy:3", "a class is written class:NAME"),
    *(("query", f"point{text}", "it is written point:x,y") for text in ("", ":", "()", ":3", ":y=3")),
    *(("query", f"box{text}", "written box:x,y,width,height") for text in ("", ":1,2,3", ":x=1,width=3")),
    ("query", "point:1,2,3", "y must be a number, not '2,3'"),
    ("query", "point:left,3", "x must be a number, not 'left'"),
    ("query", "point:1;2", "it is written point:x,y"),
    ("query", "point:x=1,x=2", "x is given twice"),
    ("query", "point:1,z=2", "y must be a number, not 'z=2'"),
    ("query", "mean:3", "mean takes no settings"),
    ("query", "distance(3)", "distance takes no settings"),
    ("query", "pca:first", "component must be a whole number, not 'first'"),
    ("query", "pca:1.5", "component must be a whole number, not '1.5'"),
    ("query", "pca:centred=maybe", "centred must be true or false, not 'maybe'"),
    ("query", "random:1.5", "seed must be a whole number, not '1.5'"),
    ("query", "rarity:many", "components must be a whole number, not 'many'"),
    *(("scaling", text, "there are cosine") for text in ("", "nosuch", "1", "query", "mean", "class:tabby")),
    ("scaling", "temprature:2", "did you mean temperature?"),
    ("scaling", "Temperature:2", "did you mean temperature?"),
    ("scaling", "inv-sqrt-d", "did you mean inv_sqrt_d?"),
    ("scaling", "perplexty", "did you mean perplexity?"),
    ("scaling", "softmax", "unknown scaling 'softmax'"),
    ("scaling", "0.5", "settings follow a colon"),
    *(("scaling", f"{name}:0", "must be above 0") for name in ("temperature", "zscore", "minmax", "cosine")),
    *(("scaling", f"temperature:{text}", "tau must be above 0") for text in ("-1", "nan", "-inf", "tau=-2")),
    *(("scaling", f"perplexity({text})", "target must be above 0") for text in ("0", "-3", "target=0")),
    ("scaling", "log_n:1", "base > 1, not 1"),
    ("scaling", "ssmax:-1", "s must be above 0"),
    ("scaling", "temperature:warm", "tau must be a number, not 'warm'"),
    ("scaling", "temperature:1,2", "tau must be a number, not '1,2'"),
    ("scaling", "temperature:taw=2", "tau must be a number, not 'taw=2'"),
    ("scaling", "none:3", "none takes no settings"),
    ("scaling", "inv_d(2)", "inv_d takes no settings"),
    *(("normalise", text, "there are entmax15") for text in ("", "nosuch", "none", "max", "softmax2:1")),
    ("normalise", "topk:5", "did you mean top_k?"),
    ("normalise", "top-k:5", "did you mean top_k?"),
    ("normalise", "Softmax", "did you mean softmax?"),
    ("normalise", "sparse_max", "did you mean sparsemax?"),
    *(("normalise", f"top_k:{k}", f"k of at least 1, not {k}") for k in (0, -3)),
    ("normalise", "top_k:2.5", "k must be a whole number, not '2.5'"),
    ("normalise", "top_k:many", "k must be a whole number, not 'many'"),
    *(("normalise", f"power:{p}", "p above 0") for p in (0, -1)),
    ("normalise", "sigmoid:low", "bias must be a number, not 'low'"),
    ("normalise", "softmax:1", "softmax takes no settings"),
]  # fmt: skip

SEVERAL = [  # group, text, the texts that it names
    ("query", "class,mean", ["class", "mean"]),
    ("query", "class, mean", ["class", "mean"]),
    ("query", "[class,mean]", ["class", "mean"]),
    ("query", '["class:tabby","point:120,80"]', ["class:tabby", "point:120,80"]),
    ("query", "class:espresso,class:cup,mean,rarity,box:230,60,250,180",
     ["class:espresso", "class:cup", "mean", "rarity", "box:230,60,250,180"]),
    ("query", "tabby,espresso,281", ["class:tabby", "class:espresso,281"]),
    ("query", "pca:2,false,pca(1),random:3,2", ["pca:2,False", "pca", "random:3,2"]),
    ("query", "class:teddy, teddy bear,norm", ["class:teddy, teddy bear", "norm"]),
    ("query", "point:120,80,point:1,2", ["point:120,80", "point:1,2"]),
    ("scaling", "none,inv_sqrt_d,cosine", ["none", "inv_sqrt_d", "cosine"]),
    ("scaling", "none,temperature:2,perplexity(target=0.3)", ["none", "temperature:2", "perplexity:0.3"]),
    ("scaling", "[temperature:2,none]", ["temperature:2", "none"]),
    ("normalise", "softmax,top_k:5,sparsemax", ["softmax", "top_k:5", "sparsemax"]),
    ("normalise", "sigmoid:null,power:3", ["sigmoid", "power:3"]),
]  # fmt: skip


def effective(function):
    """A stage's name and all of its settings, those that were left out too."""
    inner = function.func if isinstance(function, partial) else function
    keywords = function.keywords if isinstance(function, partial) else {}
    parameters = list(inspect.signature(inner).parameters.values())[1:]
    return inner.__name__.rstrip("_"), {
        entry.name: keywords.get(entry.name, entry.default) for entry in parameters
    }


def at_run(group, text, verb="run"):
    """What `attnvis run` builds of it, without its photos and its network."""
    words = to_overrides([f"{group}={text}"], COMMANDS[verb])
    overrides = [OverridesParser.create().parse_override(word) for word in words]
    values = {override.key_or_group: override.value() for override in overrides}
    settings = catalogue.settings(f"{group}/{values.pop(group)}")
    if "seed" in settings:
        settings["seed"] = 0  # the run's own
    for key, value in values.items():
        if key.startswith(f"{group}."):
            settings[key.removeprefix(f"{group}.")] = value
    return config.build(OmegaConf.create({group: settings, "trust": []}), group)


def at_sweep(group, text):
    """What a job of `attnvis sweep` makes of it."""
    (override,) = to_overrides([f"{group}={text}"], COMMANDS["sweep"])
    parsed = OverridesParser.create().parse_override(override)
    assert parsed.key_or_group == AXES[group]
    functions = [function_named(group, entry, []) for entry in config.plain(OmegaConf.create(parsed.value()))]
    return functions[0] if len(functions) == 1 else functions


def at_video(group, text):
    return at_run(group, text, verb="video")


def in_python(group, text):
    stage = api.single(group, text)
    return as_query(stage) if group == "query" else stage[1]


DOORS = (at_run, at_sweep, at_video, in_python)


def sentence(door, group, text, capsys):
    """What a door says of a mistake."""
    capsys.readouterr()
    try:
        made = door(group, text)
    except SystemExit:
        return capsys.readouterr().err.removeprefix("attnvis: ").removesuffix("\n")
    except ValueError as error:
        return str(error)
    raise AssertionError((door, text, made))


def test_there_are_hundreds_of_texts():
    texts = {(group, text) for group, text, *_ in (*MEANINGS, *MISTAKES, *SEVERAL)}
    assert len(texts) >= 300, len(texts)


@pytest.mark.parametrize("group", AXES)
def test_a_text_means_the_same_at_every_door(group):
    for _, text, name, settings in (row for row in MEANINGS if row[0] == group):
        for door in DOORS:
            found, values = effective(door(group, text))
            if name == "class":  # its index may be typed as a number
                values["name"] = str(values["name"])
            assert (found, values) == (name, settings), (door.__name__, text)


@pytest.mark.parametrize("group", AXES)
def test_a_mistake_is_told_in_the_same_sentence_at_every_door(group, capsys):
    for _, text, told in (row for row in MISTAKES if row[0] == group):
        sentences = {sentence(door, group, text, capsys) for door in DOORS}
        assert len(sentences) == 1 and told in sentences.pop(), (text, sentences)


def test_several_is_no_text_where_several_are_taken_anyway(capsys):
    for door in (at_sweep, in_python):
        assert "several are written with commas: query=class,mean" in sentence(
            door, "query", "several", capsys
        )


@pytest.mark.parametrize("group, text, texts", SEVERAL)
def test_several_are_the_same_at_every_door(group, text, texts, capsys):
    assert [format_function(function) for function in at_sweep(group, text)] == texts
    make = as_query if group == "query" else partial(as_function, group)
    assert list(api.listed(group, text, make)) == texts
    if group == "query":
        words = to_overrides([f"query={text}"], COMMANDS["run"])
        listed = OverridesParser.create().parse_override(words[1])
        assert words[0] == "query=several" and listed.key_or_group == "query.of"
        assert [format_function(as_query(entry)) for entry in listed.value()] == texts
    for door in (at_video, in_python) if group == "query" else (at_run, at_video, in_python):
        assert re.search(r"names \d", sentence(door, group, text, capsys))


@pytest.mark.slow
def test_what_records_and_pages_write_is_read_at_every_door():
    """run.json, records.csv and panels write temperature(tau=2), pages and queries temperature:2."""
    for group, text, *_ in MEANINGS:
        function = in_python(group, text)
        name, values = effective(function)
        target = {"_target_": f"attnvis.attention.{group}.{name}", "_partial_": True}
        as_in_records = setting_text(target | (function.keywords if isinstance(function, partial) else {}))
        for written in (format_function(function), as_in_records):
            for door in DOORS:
                found, same = effective(door(group, written))
                assert (found, {key: str(value) for key, value in same.items()}) == (
                    name,
                    {key: str(value) for key, value in values.items()},
                ), (door.__name__, text, written)


def test_every_stage_that_a_document_shows_is_read_at_every_door():
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    shown = {
        (group, text.strip("'\".`;"))
        for document in documents
        for group, text in re.findall(r"\b(query|scaling|normalise)=([^\s`;]+)", document.read_text())
        if "..." not in text and '"' not in text and text.count("(") == text.count(")")
    }
    assert len(shown) >= 20
    for group, text in shown - {
        ("query", "several"),
        ("query", "mine"),
        ("query", "corner"),
        ("scaling", "temperature:-1"),
    }:
        if text not in ("point", "box"):  # their settings follow as words
            functions = at_sweep(group, text)
            for function in functions if isinstance(functions, list) else [functions]:
                assert effective(function)[0] in catalogue.options(group), (group, text)


@pytest.mark.parametrize(
    "name, index",
    [
        ("tabby", 281), ("Tabby", 281), ("TABBY ", 281), ("tiger cat", 282), ("tiger_cat", 282),
        ("tiger-cat", 282), ("egyptian-cat", 285), ("Egyptian cat", 285), ("jack-o'-lantern", 607),
        ("jack o lantern", 607), ("281", 281), ("0", 0), ("999", 999), ("crane", 517), ("espresso", 967),
    ],
)  # fmt: skip
def test_a_class_is_found_as_people_write_it(name, index):
    assert find_class(name, class_names("imagenet"), 1000) == index


@pytest.mark.parametrize(
    "name, told",
    [
        ("tabby cat", "did you mean tabby, "), ("tabbby", "did you mean tabby"), ("egyptian", "Egyptian cat"),
        ("teddybear", "teddy"), ("dog", "Eskimo dog"), ("1000", "0 ... 999"), ("-1", "0 ... 999"),
        ("xyzzyx", "nothing is spelled nearly so"), ("espreso", "did you mean espresso"),
    ],
)  # fmt: skip
def test_a_class_that_there_is_not_is_told_with_its_neighbours(name, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        find_class(name, class_names("imagenet"), 1000)
