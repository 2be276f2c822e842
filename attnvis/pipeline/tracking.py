"""One W&B run: numbers, pictures, tables, pages and files in.

What goes wrong with W&B is said in one line, and costs no result.
"""

import codecs
import contextlib
import glob
import locale
import logging
import netrc
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float, Int, UInt8

from attnvis.files import slug
from attnvis.pipeline.logger import new_id, read_logger, readable

__all__ = ["MOST_PICTURES", "MOST_ROWS", "Tile", "Tracker", "histogram", "printable"]

PATIENCE = 30  # seconds that W&B may take to answer at the start
LAST_PATIENCE = 20  # seconds that it may take to send the last at the end, when files are there already
FILES_PATIENCE = 60  # seconds that it may take to send files
PROBE = 3  # seconds in which a server that is there answers a call
MOST_PICTURES = 108  # of a list, at W&B
MOST_ROWS = 10_000  # of a table, at W&B
MOST_BYTES = 1 << 26  # of a page: a browser shows it inside W&B's


@dataclass(frozen=True)
class Tile:
    """A picture of a list, at a place that has the same size in every run; None: nothing is there."""

    pixels: UInt8[np.ndarray, "S S 3"]
    caption: str


class Tracker:
    """A W&B run, open from the start; leave the `with` block to end it.

    What is done with `run` belongs inside `with tracker.harmless()`.

    folder      where the results are; W&B's own files go to <folder>/wandb, or where logger.dir says
    logger      the settings of configs/logger
    config      what the run is: shown and searched at W&B
    job         the kind of run, by which W&B groups
    group       where neither the logger's settings nor the environment names one; so are `name` and `id`
    continues   whether the run has been begun before; None: it may have been, where its id was typed
    """

    def __init__(
        self,
        folder: Path,
        logger: Mapping[str, Any],
        config: Mapping[str, Any],
        job: str = "run",
        *,
        group: str | None = None,
        name: str | None = None,
        id: str | None = None,
        continues: bool | None = None,
    ) -> None:
        """Raises ValueError for settings that W&B would refuse."""
        settings = read_logger(logger, group=group, name=name, job_type=job, id=id)
        self.folder, self.settings = folder, settings
        self.place = settings.dir or folder.absolute()
        self.mode = settings.mode
        self.id = settings.id or new_id()
        self.continues = bool(settings.id) if continues is None else continues
        self.config = as_unicode({key: value for key, value in config.items() if key != "logger"})
        self.run: Any = None
        self.unsent: list[str] = []  # what is to be said at the end
        self.waiting: dict[str, Any] = {}  # artifacts that are being sent
        self.totals: list[Callable[[Tracker], None]] = []  # what is sent at the end
        self.ending = False  # with its server: what goes wrong now is done again without it
        self.silent = self.mode == "disabled"  # or where W&B has failed
        self.before: dict[str, str | None] = {}  # of the environment
        self.complains = logging.raiseExceptions
        if self.silent:
            return
        for remark in settings.remarks:
            tell(remark)
        # or tables and artifacts wait in the home folder, and are lost when outputs/ moves
        staged = str(self.place / "wandb")
        wishes = {"WANDB_DATA_DIR": staged, "WANDB_CACHE_DIR": staged, "WANDB_SILENT": "true"}
        self.lend({name: value for name, value in wishes.items() if name not in os.environ})
        if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
            logging.raiseExceptions = (
                False  # W&B writes its own notes in an encoding that may lack the letters
            )
        with self.harmless():
            require_unicode(self.place)
            (self.place / "wandb").mkdir(parents=True, exist_ok=True)
            self.begin()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends what is known only at the end; a run that left by an error has crashed."""
        exit_code = int(kind is not None)
        try:
            if not self.silent:
                with self.harmless():
                    self.end(exit_code)
            elif self.run is not None:
                with self.harmless():
                    self.run.finish(exit_code=exit_code)
        finally:
            self.give_back()
        for remark in [] if self.silent else self.unsent:
            tell(f"W&B: {remark}")

    # ------------------------------------------------------------------------------------- begin and end

    def begin(self) -> None:
        """Starts the run at W&B; where no server answers, offline."""
        self.hide_what_is_refused()
        if self.mode != "online":
            self.run = self.start("offline")
            return
        # of its own telemetry nobody has to be told
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        self.hide_damaged_netrc()
        try:
            # wandb.init would ask for a key at the terminal, in the midst of a run
            if not has_key():
                raise PermissionError("no API key is configured; run `wandb login` once")
            require_server()
            self.run = self.start("online")
        except Exception as error:  # no key, no server, a server that says no
            self.mode = "offline"
            self.run = self.start_anew()
            tell(f"W&B is out of reach ({first_line(error)}); logging offline{self.sending_later()}")

    def start(self, mode: str) -> Any:
        """A run of W&B's.  Raises what it raises."""
        import wandb

        settings = wandb.Settings(
            silent=os.environ.get("WANDB_SILENT", "true").lower() not in ("false", "0", "no", "off"),
            x_disable_stats=True,
            init_timeout=PATIENCE,
            finish_timeout=LAST_PATIENCE,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=1,
        )
        asked = self.settings
        chosen: dict[str, Any] = {
            "entity": asked.entity,
            "group": asked.group,
            "name": asked.name,
            "notes": asked.notes,
            "tags": list(asked.tags) or None,
        }
        options: dict[str, Any] = {
            "mode": mode,
            "dir": str(self.place),
            "config": self.config,
            "project": asked.project,
            "job_type": asked.job_type,
            "id": self.id,
            "resume": "allow" if self.continues else None,
            "reinit": "create_new",  # beside a run of the caller's own, which goes on
            "settings": settings,
            **{key: value for key, value in chosen.items() if value is not None},
        }
        with readable_words():  # which W&B takes down
            return wandb.init(**options)

    def start_anew(self) -> Any:
        """Offline, where online it could not begin; where W&B still holds the id for that, under another."""
        try:
            return self.start("offline")
        except Exception:
            self.id = new_id()
            return self.start("offline")

    def end(self, exit_code: int) -> None:
        """The last of the run; where its server has been lost meanwhile, offline.

        Raises what W&B raises offline.
        """
        self.ending = self.mode == "online"
        try:
            if self.ending:
                require_server()
            self.log_totals()
            self.await_files()
        except Exception as error:
            if not self.ending:
                raise
            self.ending = False
            self.go_on_offline(error)
            self.log_totals()
        self.ending = False
        self.run.finish(exit_code=exit_code)

    def go_on_offline(self, error: BaseException) -> None:
        """Ends the run with its server, and begins another part of it, which is to be sent later."""
        try:
            self.run.finish()
        except Exception as later:  # its log is whole, and can be sent
            error = error if isinstance(error, ConnectionError) else later
        self.mode, self.continues = "offline", True
        self.waiting.clear()
        self.unsent.clear()
        parts = [self.log_folder()]
        self.run = self.start_anew()
        tell(
            f"W&B stopped ({first_line(error)}); every result is in {self.folder}{self.sending_later(parts)}"
        )

    def await_files(self) -> None:
        """Until the files are sent; what the server refuses is remembered.

        Raises ConnectionError where it is lost.
        """
        deadline = time.monotonic() + FILES_PATIENCE
        for title, artifact in self.waiting.items():
            try:
                artifact.wait(timeout=max(1, round(deadline - time.monotonic())))
            except Exception as error:
                require_server()
                self.unsent.append(f"{title} were not taken ({first_line(error)}); they are in {self.folder}")
        self.waiting.clear()

    @contextlib.contextmanager
    def harmless(self) -> Iterator[None]:
        """What goes wrong with W&B inside the block is one line, and ends the logging but not the run."""
        try:
            yield
        except Exception as error:  # anything: W&B is a guest here
            if self.ending:
                raise
            if not self.silent:
                tell(
                    f"W&B stopped ({first_line(error)}); "
                    f"every result is in {self.folder}{self.sending_later()}"
                )
            self.silent = True

    def log_folder(self) -> Path | None:
        """Where W&B keeps the log of this run; None where it has begun none."""
        own = getattr(getattr(self.run, "settings", None), "sync_dir", None)
        named = (self.place / "wandb").glob(
            f"*run-*-{glob.escape(self.id)}*"
        )  # where a server renamed the run
        places = [*([Path(own)] if own else []), *sorted(named, reverse=True)]
        return next((place for place in places if self.run and any(place.glob("*.wandb"))), None)

    def sending_later(self, parts: Sequence[Path | None] = ()) -> str:
        """What to type to have the log sent, after earlier parts of it; nothing where W&B has begun none."""
        logs = [part for part in (*parts, self.log_folder()) if part]
        if not logs:
            return ""
        names = shlex.join(str(log) for log in dict.fromkeys(logs))
        return f", send its log later: wandb sync --no-skip-online {names}"

    # ------------------------------------------------------------------------------------ the environment

    def lend(self, changes: Mapping[str, str | None]) -> None:
        """To the environment, until `give_back`; None takes a variable away."""
        for name, value in changes.items():
            self.before.setdefault(name, os.environ.get(name))
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def give_back(self) -> None:
        """The environment, and whether logging complains of itself, as they were."""
        logging.raiseExceptions = self.complains
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def hide_what_is_refused(self) -> None:
        """W&B starts with no variable that it cannot read; those that attnvis reads itself it is given."""
        for name, reason in refused_variables().items():
            if name not in OURS:
                tell(f"{name}={os.environ[name]!r} is not what W&B takes ({reason}); it is left out")
            self.lend({name: None})

    def hide_damaged_netrc(self) -> None:
        """W&B, and what it builds on, look for a key in a file that they expect to be whole."""
        path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
        try:
            netrc.netrc(path)
        except FileNotFoundError:
            return
        except (netrc.NetrcParseError, OSError, UnicodeError) as error:
            tell(f"{path}, where W&B looks for a key, cannot be read ({first_line(error)}); it is left out")
            self.lend({"NETRC": os.devnull})

    # ------------------------------------------------------------------------------------ what is sent

    def log_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Numbers, each under its name; at W&B the last of a name stand for the run."""
        if not self.silent:
            with self.harmless():
                self.run.log(dict(numbers))

    def log_pictures(self, paths: Sequence[Path]) -> None:
        """Pictures that lie in files, each under its name."""
        if not self.silent:
            with self.harmless():
                pictures = {path.stem: picture for path in paths if (picture := self.picture(path))}
                if pictures:
                    self.run.log(pictures)

    def log_list(self, name: str, tiles: Sequence[Tile]) -> None:
        """Pictures of one size under one name: W&B compares them between runs, place by place."""
        if not self.silent and tiles:
            with self.harmless():
                from wandb import Image

                pictures = [
                    Image(tile.pixels, caption=readable(tile.caption), file_type="jpg")
                    for tile in tiles[:MOST_PICTURES]
                ]
                self.run.log({name: pictures})

    def log_places(self, name: str, pictures: Mapping[int, tuple[Path, str]]) -> None:
        """Pictures of any size under one name, a step each: place of the photo -> file and caption."""
        if self.silent or not pictures:
            return
        with self.harmless():
            from wandb import Image

            for place in sorted(pictures)[: self.settings.pictures]:
                path, caption = pictures[place]
                if picture := self.picture(path):
                    self.run.log({"index": place, name: Image(picture, caption=readable(caption))})
        if 0 < self.settings.pictures < len(pictures):
            self.unsent.append(
                f"the first {self.settings.pictures} of {len(pictures)} pictures {name} were sent "
                f"(logger.pictures={self.settings.pictures}); all are in {self.folder}"
            )

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]], total: int | None = None) -> None:
        """Columns of one length, the first of `total` rows; a path is the picture that lies there."""
        if self.silent:
            return
        with self.harmless():
            from wandb import Table

            rows = [list(row) for row in zip(*columns.values(), strict=True)]
            total = len(rows) if total is None else total
            if total > min(len(rows), MOST_ROWS):
                self.unsent.append(
                    f"the table {name} has the first {MOST_ROWS:,} of {total:,} rows; "
                    f"all are in {self.folder}"
                )
            cells = [[self.cell(value) for value in row] for row in rows[:MOST_ROWS]]
            self.run.log({name: Table(list(columns), cells, allow_mixed_types=True)})

    def cell(self, value: Any) -> Any:
        return self.picture(value) if isinstance(value, Path) else printable(value)

    def picture(self, path: Path) -> Any:
        """None, which is remembered, for a file that is no picture that W&B takes."""
        from wandb import Image

        try:
            return Image(str(path))
        except Exception as error:
            self.unsent.append(f"{path} was not taken ({first_line(error)})")
            return None

    def log_page(self, name: str, path: Path) -> None:
        """A page that needs no other file."""
        if self.silent or not path.is_file():
            return
        size = path.stat().st_size
        if size > MOST_BYTES:
            self.unsent.append(f"{path} was not sent: it has {size >> 20} MB, of at most {MOST_BYTES >> 20}")
            return
        with self.harmless():
            from wandb import Html

            self.run.log({name: Html(str(path), inject=False)})

    def log_files(self, kind: str, paths: Iterable[Path]) -> None:
        """Files, and folders with all that is in them, as one artifact; sent from where they lie."""
        paths = [path for path in paths if path.exists()]
        if self.silent or not paths:
            return
        with self.harmless():
            from wandb import Artifact

            artifact = Artifact(slug(f"{kind}-{self.id}"), type=kind)
            for path in paths:
                for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                    if file.is_file():
                        name = file.relative_to(path.parent).as_posix()
                        artifact.add_file(
                            str(file.absolute()), name=printable(name), skip_cache=True, policy="immutable"
                        )
            try:
                self.run.log_artifact(artifact)
            except Exception as error:
                if self.mode == "online":
                    require_server()
                self.unsent.append(f"{kind} were not taken ({first_line(error)}); they are in {self.folder}")
                return
            if self.mode == "online":
                self.waiting[kind] = artifact

    def summarise(self, numbers: Mapping[str, Any]) -> None:
        """What stands for the run in W&B's table of runs."""
        if not self.silent:
            with self.harmless():
                self.run.summary.update(dict(numbers))

    def at_end(self, send: "Callable[[Tracker], None]") -> None:
        """What sends it when all else has been done."""
        self.totals.append(send)

    def log_totals(self) -> None:
        """What is known only at the end."""
        for send in self.totals:
            send(self)


OURS = (  # given to wandb.init, made fit where they were not
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_NOTES"),
    *("WANDB_TAGS", "WANDB_JOB_TYPE", "WANDB_RUN_ID", "WANDB_DIR"),
)


def histogram(counts: Int[np.ndarray, " n"], edges: Float[np.ndarray, " n+1"]) -> Any:
    """As W&B shows it."""
    from wandb import Histogram

    return Histogram(np_histogram=(counts, edges))


def tell(text: str) -> None:
    """One line on stderr, whatever its encoding."""
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in f"attnvis: {text}")
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def refused_variables() -> dict[str, str]:
    """The variables of the environment that W&B cannot read, and why."""
    import wandb

    if not hasattr(wandb.Settings, "update_from_env_vars"):
        return {}
    refused = {}
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        try:
            wandb.Settings().update_from_env_vars({name: os.environ[name]})
        except Exception as error:
            lines = str(error).splitlines()
            refused[name] = lines[2].strip() if len(lines) > 2 else first_line(error)
    return refused


@contextlib.contextmanager
def readable_words() -> Iterator[None]:
    """The words of the command line as UTF-8 has them, in a locale that could not read them too."""
    typed = sys.argv
    sys.argv = [readable(word) for word in typed]
    try:
        yield
    finally:
        sys.argv = typed


def has_key() -> bool:
    """Whether W&B knows a key, without asking for one; the caller's own run, and its mode, do not count."""
    import wandb

    session = wandb.setup().settings
    own, mode = wandb.run, session.mode
    try:
        wandb.run, session.mode = None, "online"
        return bool(wandb.login(prompt=False, verify=False))
    finally:
        wandb.run, session.mode = own, mode


def require_server() -> None:
    """Raises ConnectionError where W&B's server cannot be called."""
    import wandb

    url = urlsplit(str(wandb.setup().settings.base_url))
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return  # the way to it is not ours to try
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=PROBE).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ConnectionError(f"its server {url.netloc} does not answer: {reason}") from None


def require_unicode(folder: Path) -> None:
    """Raises ValueError for a folder whose name W&B could not be told."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"it cannot be told of a folder whose name is not text here: {folder}; "
            "give logger.dir=FOLDER, or set PYTHONUTF8=1"
        ) from None


def as_unicode(value: Any) -> Any:
    """A config all of whose texts W&B can be told."""
    if isinstance(value, Mapping):
        return {as_unicode(key): as_unicode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_unicode(entry) for entry in value]
    return readable(value) if isinstance(value, str) else value


def printable(value: Any) -> Any:
    """A file name that is no Unicode, as W&B can take it; what is no text, as it is."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def first_line(error: BaseException) -> str:
    """Of what an error says; its name where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
