"""A run at W&B from its start to its end, whatever becomes of W&B: then offline, and then without it.

What goes wrong with W&B is said in one line, and costs no result.
"""

import contextlib
import glob
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from attnvis.errors import first_line
from attnvis.pipeline.logger import new_id, read_logger, readable
from attnvis.pipeline.wandb_environment import LentEnvironment, tell
from attnvis.pipeline.wandb_library import has_key, require_server, start_run

__all__ = ["LoggedRun"]

FILES_PATIENCE = 60  # seconds that W&B may take to send files

Run = TypeVar("Run", bound="LoggedRun")


class LoggedRun:
    """A W&B run, open from the start; leave the `with` block to end it.

    What is done with `run` belongs inside `with logged_run.harmless()`.

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
        self.totals: list[Callable[[Any], None]] = []  # what sends, at the end, what is known only then
        self.ending = False  # with its server: what goes wrong now is done again without it
        self.silent = self.mode == "disabled"  # or where W&B has failed
        self.environment = LentEnvironment()
        if self.silent:
            return
        for remark in settings.remarks:
            tell(remark)
        self.environment.keep_files_in(self.place / "wandb")
        with self.harmless():
            require_unicode(self.place)
            (self.place / "wandb").mkdir(parents=True, exist_ok=True)
            self.begin()

    def __enter__(self: Run) -> Run:
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
            self.environment.give_back()
        for remark in [] if self.silent else self.unsent:
            tell(f"W&B: {remark}")

    # --------------------------------------------------------------------------------------------- the start

    def begin(self) -> None:
        """Starts the run at W&B; where no server answers, offline."""
        self.environment.hide_what_is_refused()
        if self.mode != "online":
            self.run = self.start("offline")
            return
        # of its own telemetry nobody has to be told
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        self.environment.hide_damaged_netrc()
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
        return start_run(
            self.settings,
            mode=mode,
            place=self.place,
            config=self.config,
            id=self.id,
            continues=self.continues,
        )

    def start_anew(self) -> Any:
        """Offline, where online it could not begin; where W&B still holds the id for that, under another."""
        try:
            return self.start("offline")
        except Exception:
            self.id = new_id()
            return self.start("offline")

    # ----------------------------------------------------------------------------------------------- the end

    def at_end(self, send: Callable[[Any], None]) -> None:
        """`send` is given this run when all else has been done; once more where its server was lost."""
        self.totals.append(send)

    def log_totals(self) -> None:
        """What is known only at the end."""
        for send in self.totals:
            send(self)

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
                self.remember_refusal(title, error)
        self.waiting.clear()

    def remember_refusal(self, title: str, error: Exception) -> None:
        self.unsent.append(f"{title} were not taken ({first_line(error)}); they are in {self.folder}")

    # --------------------------------------------------------------------------------------- when W&B is lost

    @contextlib.contextmanager
    def harmless(self) -> Iterator[None]:
        """What goes wrong with W&B inside the block is one line, and ends the logging but not the run."""
        try:
            yield
        except Exception as error:  # anything: W&B is a guest here
            if self.ending:
                raise
            if not self.silent:
                self.tell_that_it_stopped(error)
            self.silent = True

    def go_on_offline(self, error: BaseException) -> None:
        """Ends the run with its server, and begins another part of it, which is to be sent later."""
        try:
            self.run.finish()
        except Exception as later:  # its log is whole, and can be sent
            error = error if isinstance(error, ConnectionError) else later
        self.mode, self.continues = "offline", True
        self.waiting.clear()
        self.unsent.clear()
        earlier = self.log_folder()
        self.run = self.start_anew()
        self.tell_that_it_stopped(error, earlier)

    def tell_that_it_stopped(self, error: BaseException, *earlier: Path | None) -> None:
        later = self.sending_later(earlier)
        tell(f"W&B stopped ({first_line(error)}); every result is in {self.folder}{later}")

    def sending_later(self, earlier: Sequence[Path | None] = ()) -> str:
        """What to type to have the log sent, after earlier parts of it; nothing where W&B has begun none."""
        logs = [log for log in (*earlier, self.log_folder()) if log]
        if not logs:
            return ""
        names = shlex.join(str(log) for log in dict.fromkeys(logs))
        return f", send its log later: wandb sync --no-skip-online {names}"

    def log_folder(self) -> Path | None:
        """Where W&B keeps the log of this run; None where it has begun none."""
        own = getattr(getattr(self.run, "settings", None), "sync_dir", None)
        # where a server renamed the run
        renamed = (self.place / "wandb").glob(f"*run-*-{glob.escape(self.id)}*")
        folders = [*([Path(own)] if own else []), *sorted(renamed, reverse=True)]
        return next((folder for folder in folders if self.run and any(folder.glob("*.wandb"))), None)


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
