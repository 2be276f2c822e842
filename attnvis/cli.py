"""The door: `attnvis VERB [overrides]`, the same as `python scripts/VERB.py [overrides]`.  Hydra lives here and nowhere else."""

import json
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attnvis import catalogue, filming, sweeping, verbs
from attnvis.assemble import hint, leaves, plain, require, settings_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["main"]


TAKE_A_WORD = {  # Hydra's flags
    *("-cd", "-cn", "-cp", "-c", "-p", "-i"),
    *("--config-dir", "--config-name", "--config-path", "--cfg", "--package", "--info"),
}
VERBS: dict[str, Callable[..., int]] = {
    "run": verbs.run, "sweep": sweeping.sweep, "redraw": verbs.redraw, "cache": verbs.cache,
    "backbones": verbs.backbones, "calibrate": verbs.calibrate, "video": filming.video,
}  # fmt: skip
BARE = {  # what bare words are
    "run": "PHOTO ...", "sweep": "PHOTO ...", "redraw": "FOLDER", "cache": "", "backbones": "NETWORK ...",
    "calibrate": "PHOTO ...", "video": "FILE",
}  # fmt: skip
KEYS = {"redraw": "run", "backbones": "names", "video": "clip"}  # where bare words go, if not to images
ALONE = {"redraw": "the folder of one run", "video": "one file"}  # verbs of one bare word


# ----------------------------------------------------------------------------------------------------------------- the door


def main(verb: str | None = None) -> None:
    """`verb` None: the first word of the command line says it."""
    try:
        enter(verb, sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `attnvis backbones | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def enter(verb: str | None, words: list[str]) -> None:
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
    os.environ["ATTNVIS_COMMAND"] = shlex.join(["attnvis", verb, *words])  # before it is spelled for Hydra
    try:
        with ended_in_order():
            status = launch(verb, spelled(resumed(words, verb), verb))
        if status:
            sys.exit(status)
    except Stopped as stop:
        fail(f"stopped by {stop.sign.name}; what was done is kept in the run's folder", code=128 + stop.sign)
    except KeyboardInterrupt:
        fail("stopped; what was done is kept in the run's folder", code=130)
    finally:
        os.environ.pop("ATTNVIS_COMMAND", None)


class Stopped(KeyboardInterrupt):
    """Ctrl-C by other means."""

    def __init__(self, sign: signal.Signals) -> None:
        super().__init__(sign.name)
        self.sign = sign


@contextmanager
def ended_in_order() -> Iterator[None]:
    """A kill, or a terminal that is closed, ends a run as Ctrl-C does: with its page.  What is ignored (nohup) stays ignored."""

    def stop(number: int, frame: object) -> None:
        for sign in changed:
            signal.signal(sign, signal.SIG_IGN)  # a second one would cut the page short
        raise Stopped(signal.Signals(number))

    signs = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    here = threading.current_thread() is threading.main_thread()
    changed = [sign for sign in signs if here and signal.getsignal(sign) is signal.SIG_DFL]
    for sign in changed:
        signal.signal(sign, stop)
    try:
        yield
    finally:
        for sign in changed:
            signal.signal(sign, signal.SIG_DFL)


def launch(verb: str, overrides: list[str]) -> int:
    """Hand over to Hydra; a mistake of the user's becomes one line, and does not end the other jobs.  Gives the exit code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    debugging = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints every exception itself, with a traceback
    try:
        return compared(overrides, bool(debugging)) if verb == "sweep" else hand_over(verb, overrides, bool(debugging))
    except RecursionError:
        if debugging:
            raise
        fail("the settings are nested deeper than can be read; give them flatter")
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if debugging or isinstance(error, BrokenPipeError):
            raise
        fail(mistake(error, verb) if isinstance(error, HydraException | OmegaConfBaseException) else sentence_of(error))
    finally:
        if not debugging:
            del os.environ["HYDRA_FULL_ERROR"]


def hand_over(verb: str, overrides: list[str], debugging: bool, only: Container[int] | None = None) -> int:
    import hydra

    job = Task(verb, debugging, only)
    sys.argv = [f"attnvis {verb}", *overrides]
    hydra.main(version_base="1.3", config_path=str(catalogue.config_folder()), config_name=verb)(job)()
    return max(job.statuses, default=0)


@dataclass
class Task:
    """One job, as Hydra calls it: here, or in a process that a launcher started."""

    verb: str
    debugging: bool
    only: Container[int] | None = None  # the numbers of the jobs to do; None: all
    statuses: list[int] = field(default_factory=list)

    def __call__(self, cfg: "DictConfig") -> int:
        from hydra.core.hydra_config import HydraConfig

        if self.only is not None and HydraConfig.get().job.num not in self.only:
            return 0
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            require(cfg, self.verb)
            status = VERBS[self.verb](cfg, folder)
        except Exception as error:
            if (
                self.debugging
                or isinstance(error, BrokenPipeError)
                or not (self.verb == "sweep" or isinstance(error, ValueError | OSError))
            ):
                raise
            if self.verb == "sweep":
                sweeping.unmeasured(folder, sentence_of(error))  # what is wrong is said at the end, for all jobs
            else:
                print(f"attnvis: {verbs.visible(sentence_of(error))}", file=sys.stderr)
            status = 1
        self.statuses.append(status)
        return status


# ---------------------------------------------------------------------------------------------------------------- sweeps


def compared(overrides: list[str], debugging: bool) -> int:
    """All jobs of a sweep, then their comparison.  What a launcher loses with a killed process is tried a second time."""
    from concurrent.futures import BrokenExecutor

    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # joblib's helper mourns the semaphores of killed workers
    PLANNED.clear()
    error = attempt(overrides, debugging)
    if not PLANNED:
        return 1
    if error and lost():
        print("attnvis: the jobs that were lost are tried once more", file=sys.stderr)
        overrides = [word for word in overrides if not word.startswith("hydra.sweep.dir=")] + [f"hydra.sweep.dir={quoted(str(PLANNED[0]))}"]
        if isinstance(error, BrokenExecutor):  # took its neighbours along: nobody knows which job it was
            while fresh := lost(begun=False):
                attempt(overrides, debugging, fresh)
                if lost(begun=False) == fresh:
                    break  # no process of this launcher lives long enough
            for number in sorted(lost()):
                attempt(overrides, debugging, {number})
        else:
            attempt(overrides, debugging, lost())
    return sweeping.compare(PLANNED[0])


def attempt(overrides: list[str], debugging: bool, only: Container[int] | None = None) -> Exception | None:
    """The jobs, or `only` some of them; gives what went wrong with the launcher rather than with a job."""
    import hydra.errors
    from omegaconf.errors import OmegaConfBaseException

    try:
        hand_over("sweep", overrides, debugging, only)
    except (hydra.errors.HydraException, OmegaConfBaseException):
        raise  # nothing was started
    except Exception as error:
        if debugging:
            raise
        if only is None:
            said = " ".join(str(error).partition("Error stream")[0].split())  # what follows is submitit's copy of a log
            print(f"attnvis: {said or type(error).__name__}", file=sys.stderr)
        return error
    return None


def lost(begun: bool = True) -> set[int]:
    """The jobs of which nothing came back; not `begun`: those among them that were never started."""
    from attnvis.lab import read_sweep

    parts = [part for part in read_sweep(PLANNED[0]).parts if part.status == "missing"]
    return {part.number for part in parts if begun or not (part.folder / ".rows.part").exists()}


PLANNED: list[Path] = []  # the folder of the sweep that this process started


class Plan:
    """A Hydra callback: before the first job it writes down which there will be, so that those that never end are known too."""

    def on_run_start(self, config: "DictConfig", **_: Any) -> None:
        self.write(config, Path(config.hydra.run.dir), [""], many=False)

    def on_multirun_start(self, config: "DictConfig", **_: Any) -> None:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
        jobs = BasicSweeper.split_arguments(parsed, None)[0]
        same = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
        self.write(config, Path(config.hydra.sweep.dir), [", ".join(word for word in job if word not in same) for job in jobs], many=True)

    def write(self, config: "DictConfig", folder: Path, jobs: list[str], many: bool) -> None:
        PLANNED[:] = [folder]
        folder.mkdir(parents=True, exist_ok=True)
        told = {"command": verbs.command(), "jobs": jobs, "many": many, "logger": plain(config.logger)}
        (folder / "plan.json").write_text(json.dumps(told, indent=1), encoding="utf-8")

    def __getattr__(self, name: str) -> Any:
        """Hydra calls every callback for every event."""
        if name.startswith("on_"):
            return lambda *_, **__: None
        raise AttributeError(name)


def resumed(words: list[str], verb: str) -> list[str]:
    """--resume FOLDER -> what was typed when that sweep or run was started, to go on in its folder."""
    if words[:1] != ["--resume"] or verb not in ("run", "sweep"):
        return words
    example = f"outputs/{verb}/<date>/<time>"
    if len(words) != 2:
        fail(f"--resume takes the folder of a {verb} and nothing else: attnvis {verb} --resume {example}", code=2)
    file = {"run": "run.json", "sweep": "plan.json"}[verb]
    try:
        told = json.loads((Path(words[1]) / file).read_text(encoding="utf-8"))
        typed = shlex.split(told["command"])[2:]
    except (OSError, ValueError, KeyError):
        fail(f"{words[1]} is not the folder of a {verb}: it has no {file}; give one such as {example}")
    os.environ["ATTNVIS_COMMAND"] = told["command"]  # it stays the command of this run
    typed = [word for word in typed if not word.startswith(("hydra.sweep.dir=", "hydra.run.dir=", "resume="))]
    many = verb == "sweep" and told["many"]
    return [*typed, f"hydra.{'sweep' if many else 'run'}.dir={quoted(words[1])}", *(["resume=true"] if verb == "run" else [])]


def axis(value: str) -> str:
    """class,point:120,80 -> ['class','point:120,80']: a comma before a letter separates, one before a number does not."""
    return f"[{','.join(quoted(part) for part in re.split(r',(?=[A-Za-z_])', value))}]"


def spelled(words: Iterable[str], verb: str) -> list[str]:
    """What a person types -> Hydra's grammar: bare photos, a photo's name with spaces or brackets, a network instead of its family."""
    bare, flags, overrides = [], [], []
    words = list(words)
    sweeps = "-m" in words or "--multirun" in words
    theirs = (os.path.join(word.rpartition("=")[2], "backbone") for word in words)  # -cd FOLDER: networks of the user's
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
        elif verb == "sweep" and key in {*sweeping.AXES, *sweeping.AXES.values()}:
            overrides.append(f"{sweeping.AXES.get(key, key)}={value if value[:1] == '[' else axis(value)}")
        elif key in ("images", "query.name", "run", "clip") and value[:1] not in ("[", "'", '"') and not (sweeps and "," in value):
            overrides.append(f"{key}={quoted(value)}")
        elif key.lstrip("+") == "name" and ".." in re.split(r"[^\w.-]", value):
            fail(f"name={value} leads out of outputs/; give a name without .., or choose any folder with hydra.run.dir=FOLDER", code=2)
        elif key == "backbone":
            offer([name for name in value.split(",") if name not in offered])
            overrides.append(word)
        else:
            overrides.append(word)
    key = KEYS.get(verb, "images")
    if bare and any(override.startswith(f"{key}=") for override in overrides):
        fail(f"{', '.join(bare)} and {key}=... were both given; give one of them", code=2)
    if len(bare) > 1 and verb in ALONE:
        fail(f"{verb} takes {ALONE[verb]}, not {len(bare)}: {', '.join(bare)}", code=2)
    value = "".join(bare) if verb in ALONE else f"[{','.join(bare)}]"
    if verb == "sweep" and not sweeps and any("," in re.sub(r"\[.*\]|\{.*\}|'.*'|\".*\"", "", override) for override in overrides):
        flags.append("--multirun")
    return [*flags, *([f"{key}={value}"] if bare else []), *overrides, *usual_scaling(overrides, verb)]  # Hydra wants its flags together


def usual_scaling(overrides: Iterable[str], verb: str) -> list[str]:
    """Who names a question and no scaling gets a tenth of the patches: 1/sqrt(d) suits the mean patch, and leaves most others flat."""
    given = dict(override.partition("=")[::2] for override in overrides)
    asks = verb in ("run", "video") and given.get("query", "mean") != "mean"
    return ["scaling=perplexity"] if asks and not {"scaling", "experiment"} & given.keys() else []


def offer(names: Iterable[str]) -> None:
    """resnet18 becomes an option of the group `backbone`: its family's config with that name."""
    from hydra.core.config_store import ConfigStore

    for name in names:
        if family := catalogue.family(name):
            ConfigStore.instance().store(group="backbone", name=name, node=catalogue.settings(f"backbone/{family}") | {"name": name})


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
        return f"cannot read {str(error.override)[:200]!r}: {text[:300]}"
    return text


# --------------------------------------------------------------------------------------------------------- what a person reads


def overview() -> str:
    lines = [f"  attnvis {verb:9} {catalogue.sentence(verb)}" for verb in VERBS]
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
    if verb == "sweep":
        chosen = dict.fromkeys(sweeping.AXES, "null") | chosen
    out = [
        catalogue.sentence(verb),
        "",
        f"  attnvis {verb} {BARE[verb]} [group=option] [setting=value] [group.setting=value]",
        "",
    ]
    for group, default in chosen.items():
        options = catalogue.options(group)
        if group == "experiment":  # each says in its sentence which verb it is for
            options = [option for option in options if f"attnvis {verb} " in catalogue.sentence(f"experiment/{option}")]
        if verb == "sweep" and group in sweeping.AXES:
            options = [option for option in options if option != "several"]
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


def sentence_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename}" if error.filename else ""
        return f"could not write or read{where}: {error.strerror}; choose another place with hydra.run.dir=FOLDER, or make room"
    return " ".join(str(error).split()) or type(error).__name__


def fail(message: str, code: int = 1) -> NoReturn:
    print(f"attnvis: {verbs.visible(message)}", file=sys.stderr)
    sys.exit(code)
