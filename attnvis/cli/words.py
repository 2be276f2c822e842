"""What a person types in, Hydra's grammar out."""

import json
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from attnvis import catalogue
from attnvis.cli.commands import sweep
from attnvis.cli.messages import fail

__all__ = ["quoted", "resumed", "to_overrides"]

TAKE_A_WORD = {  # Hydra's flags
    *("-cd", "-cn", "-cp", "-c", "-p", "-i"),
    *("--config-dir", "--config-name", "--config-path", "--cfg", "--package", "--info"),
}

KEYS = {"redraw": "run", "backbones": "names", "video": "clip"}  # where bare words go, if not to images
ALONE = {"redraw": "the folder of one run", "video": "one file"}  # verbs of one bare word


def resumed(words: list[str], verb: str) -> list[str]:
    """--resume FOLDER -> what was typed when that sweep or run was started, to go on in its folder."""
    if words[:1] != ["--resume"] or verb not in ("run", "sweep"):
        return words
    example = f"outputs/{verb}/<date>/<time>"
    if len(words) != 2:
        fail(
            f"--resume takes the folder of a {verb} and nothing else: attnvis {verb} --resume {example}",
            code=2,
        )
    file = {"run": "run.json", "sweep": "plan.json"}[verb]
    try:
        told = json.loads((Path(words[1]) / file).read_text(encoding="utf-8"))
        typed = shlex.split(told["command"])[2:]
    except (OSError, ValueError, KeyError):
        fail(f"{words[1]} is not the folder of a {verb}: it has no {file}; give one such as {example}")
    os.environ["ATTNVIS_COMMAND"] = told["command"]  # it stays the command of this run
    typed = [word for word in typed if not word.startswith(("hydra.sweep.dir=", "hydra.run.dir=", "resume="))]
    many = verb == "sweep" and told["many"]
    return [
        *typed,
        f"hydra.{'sweep' if many else 'run'}.dir={quoted(words[1])}",
        *(["resume=true"] if verb == "run" else []),
    ]


def axis(value: str) -> str:
    """class,point:120,80 -> ['class','point:120,80']: a comma before a letter separates, one before a number does not."""
    return f"[{','.join(quoted(part) for part in re.split(r',(?=[A-Za-z_])', value))}]"


def to_overrides(words: Iterable[str], verb: str) -> list[str]:
    """What a person types -> Hydra's grammar: bare photos, a photo's name with spaces or brackets, a network instead of its family."""
    bare, flags, overrides = [], [], []
    words = list(words)
    sweeps = "-m" in words or "--multirun" in words
    theirs = (
        os.path.join(word.rpartition("=")[2], "backbone") for word in words
    )  # -cd FOLDER: networks of the user's
    offered = {
        *catalogue.options("backbone"),
        *(path.stem for folder in theirs if os.path.isdir(folder) for path in Path(folder).glob("*.yaml")),
    }
    for word, before in zip(words, ["", *words], strict=False):
        key, equals, value = word.partition("=")
        if word.startswith("-") or before in TAKE_A_WORD:
            flags.append(word)
        elif not equals or os.path.exists(word):
            bare.append(quoted(word))
        elif verb == "sweep" and key in {*sweep.AXES, *sweep.AXES.values()}:
            overrides.append(f"{sweep.AXES.get(key, key)}={value if value[:1] == '[' else axis(value)}")
        elif (
            key in ("images", "query.name", "run", "clip")
            and value[:1] not in ("[", "'", '"')
            and not (sweeps and "," in value)
        ):
            overrides.append(f"{key}={quoted(value)}")
        elif key.lstrip("+") == "name" and ".." in re.split(r"[^\w.-]", value):
            fail(
                f"name={value} leads out of outputs/; give a name without .., or choose any folder with hydra.run.dir=FOLDER",
                code=2,
            )
        elif key == "backbone":
            register_backbone([name for name in value.split(",") if name not in offered])
            overrides.append(word)
        else:
            overrides.append(word)
    key = KEYS.get(verb, "images")
    if bare and any(override.startswith(f"{key}=") for override in overrides):
        fail(f"{', '.join(bare)} and {key}=... were both given; give one of them", code=2)
    if len(bare) > 1 and verb in ALONE:
        fail(f"{verb} takes {ALONE[verb]}, not {len(bare)}: {', '.join(bare)}", code=2)
    value = "".join(bare) if verb in ALONE else f"[{','.join(bare)}]"
    if (
        verb == "sweep"
        and not sweeps
        and any("," in re.sub(r"\[.*\]|\{.*\}|'.*'|\".*\"", "", override) for override in overrides)
    ):
        flags.append("--multirun")
    return [
        *flags,
        *([f"{key}={value}"] if bare else []),
        *overrides,
        *usual_scaling(overrides, verb),
    ]  # Hydra wants its flags together


def usual_scaling(overrides: Iterable[str], verb: str) -> list[str]:
    """Who names a question and no scaling gets a tenth of the patches: 1/sqrt(d) suits the mean patch, and leaves most others flat."""
    given = dict(override.partition("=")[::2] for override in overrides)
    asks = verb in ("run", "video") and given.get("query", "mean") != "mean"
    return ["scaling=perplexity"] if asks and not {"scaling", "experiment"} & given.keys() else []


def register_backbone(names: Iterable[str]) -> None:
    """resnet18 becomes an option of the group `backbone`: its family's config with that name."""
    from hydra.core.config_store import ConfigStore

    for name in names:
        if family := catalogue.family(name):
            ConfigStore.instance().store(
                group="backbone", name=name, node=catalogue.settings(f"backbone/{family}") | {"name": name}
            )


def quoted(text: str) -> str:
    """As one string of Hydra's grammar, whatever it holds."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"
