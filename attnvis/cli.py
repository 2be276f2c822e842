"""The door: `attnvis VERB [overrides]`, the same as `python scripts/VERB.py [overrides]`.  Hydra lives here and nowhere else."""

import difflib
import inspect
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any

from attnvis import catalogue

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["main"]


def run(cfg: "DictConfig", folder: Path) -> int:
    """Photos in, heatmaps out."""
    import torch

    from attnvis.method import Method
    from attnvis.photo import find
    from attnvis.results import Folder
    from attnvis.stream import stream

    images = plain(cfg.images)
    paths = find([str(item) for item in images] if isinstance(images, list) else str(images))
    style = build(cfg, "render")
    method = Method(build(cfg, "query"), build(cfg, "scaling"), build(cfg, "normalise"))
    torch.manual_seed(cfg.seed)
    backbone = build(cfg, "backbone")
    preprocessing = backbone.preprocessing.changed(cfg.preprocess.fit, cfg.preprocess.size)
    facts = backbone.describe() | {"fit": preprocessing.fit, "size": str(preprocessing.size), "seed": str(cfg.seed)}
    facts["command"] = typed()
    for warning in backbone.warnings:
        print(f"attnvis: {warning.upper()}", file=sys.stderr)
    with Folder(folder, style, facts, plain(cfg), backbone.warnings, plain(cfg.logger), cfg.maps) as results:
        for outcome in progress(stream(paths, backbone, method, preprocessing, cfg.batch_size), len(paths)):
            results.add(outcome)
    return conclude(results.done, results.reasons, folder)


def redraw(cfg: "DictConfig", folder: Path) -> int:
    """The pictures of a finished run in another style, without the network."""
    from attnvis.results import redraw as again

    source = Path(cfg.run)
    if not (source / "records.csv").is_file():
        inner = sorted(source.glob("*/records.csv"))
        advice = (
            f"it is a sweep: give one of its runs, such as {inner[0].parent}" if inner else "give one such as outputs/run/<date>/<time>"
        )
        raise ValueError(f"{source} is not the folder of a run: it has no records.csv; {advice}")
    reasons = Counter(reason for _, reason in progress(again(source, folder, build(cfg, "render"), typed()), None))
    return conclude(reasons.pop("", 0), reasons, folder)


def typed() -> str:
    """The command line, to be typed again."""
    return shlex.join(TYPED)


TYPED: list[str] = []  # before it was spelled for Hydra
TAKE_A_WORD = {  # Hydra's flags
    *("-cd", "-cn", "-cp", "-c", "-p", "-i"),
    *("--config-dir", "--config-name", "--config-path", "--cfg", "--package", "--info"),
}
VERBS: dict[str, Callable[..., int]] = {"run": run, "redraw": redraw}
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    dict: "left as settings of its own",
    NoneType: "null",
}


# ----------------------------------------------------------------------------------------------------------------- the door


def main(verb: str | None = None) -> None:
    """`verb` None: the first word of the command line says it."""
    words = sys.argv[1:]
    if verb is None:
        if not words or words[0] in ("-h", "--help", "help"):
            print(overview())
            sys.exit(0 if words else 2)
        if words[0] == "--version":
            from importlib.metadata import version

            print(version("attnvis"))
            return
        verb, *words = words
    if verb not in VERBS:
        fail(f"unknown verb {verb!r}; {hint(verb, VERBS)}there are {', '.join(VERBS)}", code=2)
    if any(word in ("-h", "--help") for word in words):
        print(manual(verb))
        return
    TYPED[:] = ["attnvis", verb, *words]
    try:
        launch(verb, spelled(words, verb))
    except KeyboardInterrupt:
        fail("stopped; what was done is kept in the run's folder", code=130)


def launch(verb: str, overrides: list[str]) -> None:
    """Hand over to Hydra, which reads sys.argv; a mistake of the user's becomes one line, and does not end a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    def task(cfg: "DictConfig") -> None:
        try:
            require(cfg, verb)
            statuses.append(VERBS[verb](cfg, Path(HydraConfig.get().runtime.output_dir)))
        except (ValueError, OSError) as error:
            if debugging:
                raise
            print(f"attnvis: {sentence_of(error)}", file=sys.stderr)
            statuses.append(1)

    statuses: list[int] = []
    debugging = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints every exception itself, with a traceback
    sys.argv = [f"attnvis {verb}", *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(catalogue.config_folder()), config_name=verb)(task)()
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if debugging:
            raise
        fail(mistake(error, verb) if isinstance(error, HydraException | OmegaConfBaseException) else sentence_of(error))
    finally:
        if not debugging:
            del os.environ["HYDRA_FULL_ERROR"]
    if any(statuses):
        sys.exit(max(statuses))


def spelled(words: Iterable[str], verb: str) -> list[str]:
    """What a person types -> Hydra's grammar: bare photos, a photo's name with spaces or brackets, a network instead of its family."""
    bare, flags, overrides = [], [], []
    words = list(words)
    sweeps = "-m" in words or "--multirun" in words
    theirs = (Path(word.rpartition("=")[2]) / "backbone" for word in words)  # -cd FOLDER: networks of the user's
    offered = {*catalogue.options("backbone"), *(path.stem for folder in theirs for path in folder.glob("*.yaml"))}
    for word, before in zip(words, ["", *words], strict=False):
        key, equals, value = word.partition("=")
        if word.startswith("-") or before in TAKE_A_WORD:
            flags.append(word)
        elif not equals or os.path.exists(word):
            bare.append(quoted(word))
        elif key in ("images", "query.name", "run") and value[:1] not in ("[", "'", '"') and not (sweeps and "," in value):
            overrides.append(f"{key}={quoted(value)}")
        elif key == "backbone" and "," not in value and value not in offered and catalogue.family(value):
            overrides += [f"backbone={catalogue.family(value)}", f"backbone.name={value}"]
        else:
            overrides.append(word)
    key = {"run": "images", "redraw": "run"}[verb]  # what bare words are
    if bare and any(override.startswith(f"{key}=") for override in overrides):
        fail(f"{', '.join(bare)} and {key}=... were both given; give one of them", code=2)
    if len(bare) > 1 and verb == "redraw":
        fail(f"redraw takes the folder of one run, not {len(bare)}: {', '.join(bare)}", code=2)
    value = f"[{','.join(bare)}]" if verb == "run" else "".join(bare)
    return [*flags, *([f"{key}={value}"] if bare else []), *overrides]  # Hydra wants its flags together


def quoted(text: str) -> str:
    """As one string of Hydra's grammar, whatever it holds."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"


def mistake(error: Exception, verb: str) -> str:
    """What Hydra found wrong with the command line, in one line with near matches."""
    from hydra.errors import OverrideParseException

    text = " ".join(str(error).split())
    if unknown := re.search(r"Could not override '([^']+)'", text):
        known = {key for key, _ in leaves(catalogue.settings(verb))} | set(catalogue.groups())
        owners: dict[str, list[str]] = {}
        for option in (f"{group}={option}" for group in catalogue.groups() for option in catalogue.options(group)):
            for key in settings_of(*option.split("=")):
                owners.setdefault(f"{option.split('=')[0]}.{key}", []).append(option)
        if unknown[1] in owners:
            return f"{unknown[1]} is a setting of {', '.join(owners[unknown[1]])}; choose one of them too"
        known |= owners.keys()
        return f"there is no setting {unknown[1]!r}; {hint(unknown[1], known)}see attnvis {verb} --help"
    if unknown := re.search(r"Could not find '(\w+)/([^']+)'", text):
        group, option = unknown.groups()
        offered = catalogue.options(group) if group in catalogue.groups() else []
        return f"{group} has no option {option!r}; {hint(option, offered)}there are {', '.join(offered)}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: {text}"
    return text


def settings_of(group: str, option: str) -> dict[str, Any]:
    return {} if group == "experiment" else {key: value for key, value in catalogue.settings(f"{group}/{option}").items() if key[0] != "_"}


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


def require(cfg: "DictConfig", verb: str) -> None:
    """Settings that have no default must be given; the others be of their default's kind."""
    from omegaconf import OmegaConf

    lacking = sorted(OmegaConf.missing_keys(cfg))
    if lacking:
        raise ValueError(f"{' and '.join(lacking)} {'needs' if len(lacking) == 1 else 'need'} a value, as in {lacking[0]}=...")
    defaults = catalogue.settings(verb) | {"logger": catalogue.settings("logger/wandb")}
    given = dict(leaves(plain(cfg)))
    for key, default in leaves(defaults):
        if key in given and type(default) in (bool, int, dict, NoneType):
            agree(key, given[key], {int, NoneType} if default is None else {type(default)})


def agree(key: str, value: object, kinds: set[Any]) -> None:
    if type(value) not in kinds | ({int} if float in kinds else set()):
        raise ValueError(f"{key} must be {' or '.join(KINDS[kind] for kind in KINDS if kind in kinds)}, not {value!r}")


def build(cfg: "DictConfig", group: str) -> Any:
    """What a config names, made.  A `_target_` is code: called are public functions of the group's own module, and modules in `trust`."""
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    settings, trusted = plain(cfg[group]), plain(cfg.trust) or []
    for target in targets(settings):
        vet(target, group, [trusted] if isinstance(trusted, str) else trusted)
    try:
        return instantiate(fitted(group, settings), _convert_="all")
    except HydraException as error:  # wraps what the function raised
        cause = error.__cause__ or error
        raise ValueError(str(cause) if isinstance(cause, ValueError) else f"{group}: {cause}") from error


def vet(target: str, group: str, trusted: Iterable[str]) -> None:
    module, _, name = target.rpartition(".")
    if any(f"{module}.".startswith(f"{own}.") for own in trusted):
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # a user's own file lies where the user is
    elif module != f"attnvis.{group}" or name not in resolve_name(module).__all__:
        raise ValueError(
            f"{group}: {target} is not attnvis' own; a config can run any code, so if you trust it add trust=[{module.split('.')[0]}]"
        )


def fitted(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose settings are those of its function, in name and kind: 2 becomes 2.0 where that asks for a float."""
    given = {key: value for key, value in settings.items() if not key.startswith("_")}
    try:
        signature = inspect.signature(resolve_name(str(settings.get("_target_"))))
        signature.bind(*[None] * bool(settings.get("_partial_")), **given)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"{group}: {settings.get('_target_')} cannot be called with {given}: {error}") from error
    for name, value in list(given.items()):
        kind = signature.parameters[name].annotation if name in signature.parameters else None
        kinds = set(kind.__args__) if isinstance(kind, UnionType) else {kind}
        if kinds <= KINDS.keys():
            agree(f"{group}.{name}", value, kinds)
            given[name] = float(value) if type(value) is int and float in kinds and int not in kinds else value
    return {**settings, **given}


def targets(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield str(tree["_target_"])
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from targets(branch)


def plain(cfg: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


# --------------------------------------------------------------------------------------------------------- what a person reads


def overview() -> str:
    lines = [f"  attnvis {verb:8} {catalogue.sentence(verb)}" for verb in VERBS]
    return "\n".join(
        [
            "attnvis: where a CNN looks, and why",
            "",
            *lines,
            "",
            "  attnvis VERB --help  lists what can be set; try: attnvis run images=samples/cat",
        ]
    )


def manual(verb: str) -> str:
    """Every group with its options, every setting with its meaning: the configs' own comments."""
    text = (catalogue.config_folder() / f"{verb}.yaml").read_text(encoding="utf-8")
    chosen = dict(re.findall(r"^  - (\w+): (\w+)$", text, re.MULTILINE))
    out = [
        catalogue.sentence(verb),
        "",
        f"  attnvis {verb} {'PHOTO ...' if verb == 'run' else 'FOLDER'} [group=option] [setting=value] [group.setting=value]",
        "",
    ]
    for group, default in chosen.items():
        options = catalogue.options(group)
        if not options:
            continue
        out.append(f"{group}=..." + ("" if default == "null" else f"  (default {default})"))
        width = max(map(len, options)) + 2
        for option in options:
            out.append(f"  {option:{width}}{catalogue.sentence(f'{group}/{option}')}")
            if group in ("query", "scaling", "normalise"):
                said = ", ".join(f"{key}={show(value)}" for key, value in settings_of(group, option).items())
                out += [f"  {'':{width}}  {said}"] if said else []
        if group == "backbone":
            out.append("  a network's name will do: backbone=resnet18 is backbone=resnet backbone.name=resnet18")
        shared = {"backbone": ["_common", *options], "render": [default], "logger": [default]}.get(group, [])
        lines = dict.fromkeys(line for name in shared for line in commented(f"{group}/{name}", f"{group}."))
        out += [f"  every {group} also takes:", *(f"    {line}" for line in lines)] if lines else []
        out.append("")
    out += ["settings:", *(f"  {line}" for line in commented(verb))]
    out += ["", "your own configs: -cd FOLDER (query/mine.yaml there is query=mine); -m sweeps over a,b,c; --cfg job shows the result"]
    return "\n".join(out)


def commented(name: str, prefix: str = "") -> Iterator[str]:
    """The plain settings of a config: `key: value  # meaning`, but of a backbone only those with a meaning, not its anatomy."""
    section = ""
    for line in (catalogue.config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"^( *)(\w+): ?([^#]*?)\s*(?:# (.*))?$", line):
            indent, key, value, meaning = found.groups()
            section = section if indent else (f"{key}." if not value else "")
            if key in ("defaults", "hydra") or section == "hydra." or key.startswith("_"):
                section = "hydra." if key == "hydra" else section
            elif value and value[0] != "{" and (meaning or not (indent or prefix == "backbone.")):
                setting = f"{prefix}{section if indent else ''}{key}={value}"
                yield f"{setting:30}  {meaning or ''}".rstrip()


def show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def progress(items: Iterable[Any], total: int | None) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, total=total, unit="photo", disable=not sys.stderr.isatty(), leave=False)


def conclude(done: int, reasons: dict[str, int], folder: Path) -> int:
    """The last words of a run; its exit code."""
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    failed = sum(reasons.values())
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:10]:
        print(f"attnvis: {reason}" + (f" ({count} photos)" if count > 1 else ""), file=sys.stderr)
    if done + failed > 1 and failed:
        print(f"attnvis: {done} done, {failed} failed; every reason is in {shown / 'records.csv'}", file=sys.stderr)
    print(f"{done} photo{'s' * (done != 1)} done: {shown / 'index.html'}")
    return 1 if failed else 0


def sentence_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename}" if error.filename else ""
        return f"could not write or read{where}: {error.strerror}; choose another place with hydra.run.dir=FOLDER, or make room"
    return " ".join(str(error).split()) or type(error).__name__


def hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=3)
    return f"did you mean {', '.join(near)}? " if near else ""


def fail(message: str, code: int = 1) -> None:
    print(f"attnvis: {message}", file=sys.stderr)
    sys.exit(code)
