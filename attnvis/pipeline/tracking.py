"""One W&B run: numbers and pictures in; what goes wrong with W&B is said in one line and costs no result."""

import contextlib
import os
import shlex
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from attnvis.files import slug
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import DESCRIPTIONS

__all__ = ["Tracker", "printable"]

PATIENCE = 30  # seconds that W&B may take to answer at the start, and twice that to send the last at the end


class Tracker:
    """A W&B run, open from the start; leave the `with` block to end it.

    What is done with `run` belongs inside `with tracker.harmless()`.

    folder    where W&B's own files go: <folder>/wandb
    logger    the settings of configs/logger: mode, project, group, tags
    config    what the run is: shown and searched at W&B
    job       the kind of run, by which W&B groups
    """

    def __init__(
        self, folder: Path, logger: Mapping[str, Any], config: Mapping[str, Any], job: str = "run"
    ) -> None:
        """Raises ValueError for a mode that W&B does not know."""
        self.folder, self.job = folder, job
        self.mode: Any = logger.get("mode") or "offline"
        if self.mode not in ("offline", "online", "disabled"):
            raise ValueError(
                f"logger.mode {self.mode!r} is not known to W&B; choose offline, online or disabled"
            )
        self.run: Any = None
        self.silent = self.mode == "disabled"  # or where W&B has failed
        self.borrowed: dict[str, str] = {}
        if self.silent:
            return
        # or tables and artifacts wait in the home folder, and are lost when outputs/ moves
        staged = str(folder.absolute() / "wandb")
        wishes = {"WANDB_DATA_DIR": staged, "WANDB_CACHE_DIR": staged, "WANDB_SILENT": "true"}
        self.borrowed = {name: value for name, value in wishes.items() if name not in os.environ}
        os.environ.update(self.borrowed)
        with self.harmless():
            (folder / "wandb").mkdir(parents=True, exist_ok=True)
            self.begin(logger, config)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends what is known only at the end; a run that left by an error has crashed."""
        if not self.silent:
            with self.harmless():
                self.log_totals()
        if self.run is not None:
            with self.harmless():
                self.run.finish(exit_code=int(kind is not None))
        for name in self.borrowed:
            os.environ.pop(name, None)

    def begin(self, logger: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Starts the run at W&B; where no server answers, offline."""
        import wandb

        settings = wandb.Settings(
            silent=True,
            x_disable_stats=True,
            init_timeout=PATIENCE,
            finish_timeout=2 * PATIENCE,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=1,
        )
        chosen = {key: logger[key] for key in ("project", "group", "tags") if key in logger}
        options = {
            "dir": self.folder,
            "config": dict(config),
            "job_type": self.job,
            "reinit": "create_new",  # beside a run of the caller's own, which goes on
            "settings": settings,
            **chosen,
        }
        try:
            # wandb.init would ask for a key at the terminal, in the midst of a run
            if self.mode == "online" and not wandb.login(prompt=False, verify=False):
                raise wandb.errors.UsageError("no API key is configured; run `wandb login` once")
            self.run = wandb.init(mode=self.mode, **options)
        except Exception as error:  # no key, no server, a server that says no
            if self.mode != "online":
                raise
            self.run = wandb.init(mode="offline", **options)
            print(
                f"attnvis: W&B is out of reach ({first_line(error)}); logging offline{self.sending_later()}",
                file=sys.stderr,
            )

    @contextlib.contextmanager
    def harmless(self) -> Iterator[None]:
        """What goes wrong with W&B inside the block is one line, and ends the logging but not the run."""
        try:
            yield
        except Exception as error:  # anything: W&B is a guest here
            if not self.silent:
                print(
                    f"attnvis: W&B stopped ({first_line(error)}); "
                    f"every result is in {self.folder}{self.sending_later()}",
                    file=sys.stderr,
                )
            self.silent = True

    def sending_later(self) -> str:
        """What to type to have the log sent; nothing where W&B had not begun one."""
        logs = sorted((self.folder / "wandb").glob("*run-*/*.wandb"), key=lambda log: log.stat().st_mtime)
        if not logs:
            return ""
        return f", send its log later: wandb sync --no-skip-online {shlex.quote(str(logs[-1].parent))}"

    def log_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Numbers, each under its name."""
        if not self.silent:
            with self.harmless():
                self.run.log(dict(numbers))

    def log_pictures(self, paths: Sequence[Path]) -> None:
        """Pictures that lie in files, each under its name."""
        if not self.silent:
            with self.harmless():
                from wandb import Image

                self.run.log({path.stem: Image(str(path)) for path in paths})

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """A table of columns of one length."""
        if not self.silent:
            with self.harmless():
                from wandb import Table

                rows = [[printable(value) for value in row] for row in zip(*columns.values(), strict=True)]
                self.run.log({name: Table(list(columns), rows)})

    def log_totals(self) -> None:
        """What is known only at the end."""


def printable(value: Any) -> Any:
    """A file name that is no Unicode, as W&B can take it; what is no text, as it is."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def first_line(error: BaseException) -> str:
    """Of what an error says; its name where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class PhotoTracker(Tracker):
    """Photos: diagnostics and pictures as they come; distributions, a table and the maps at the end."""

    EDGES = np.linspace(-10, 10, 65)  # of the histogram: log2 of N a
    TABLE = ("photo", "query", "label", "scaling", *DESCRIPTIONS)

    def __init__(self, folder: Path, logger: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self.pictures = logger.get("pictures", 64)
        self.counts: dict[str, np.ndarray] = {}  # query -> its histogram
        self.perplexities: dict[str, array[float]] = {}  # query -> of its maps, in order
        self.rows: list[list[Any]] = []  # of the table: the first 10,000
        super().__init__(folder, logger, config)

    def log(self, row: Mapping[str, Any], answer: Answer) -> None:
        """One answer about one photo; row: its record, as it stands in records.csv."""
        if self.silent:
            return
        with self.harmless():
            from wandb import Image

            query = slug(answer.query)
            numbers = {f"{query}/{name}": row[name] for name in DESCRIPTIONS if name in row}
            if len(self.rows) < self.pictures:
                perplexity = f"perplexity {row['perplexity']:.1f} of {row['patches']}"
                caption = f"{printable(row['photo'])}: {answer.label}, {perplexity}"
                numbers[f"{query}/overlay"] = Image(str(self.folder / row["overlay"]), caption=caption)
            self.run.log(numbers)
            if len(self.rows) < 10_000:
                self.rows.append([printable(row.get(name, "")) for name in self.TABLE])
            self.perplexities.setdefault(answer.query, array("d")).append(row["perplexity"])
            logs = np.log2(np.maximum(answer.cells, 2.0**-10)).clip(-10, 10)
            counts = np.histogram(logs, self.EDGES)[0]
            self.counts[answer.query] = self.counts.get(answer.query, 0) + counts

    def log_totals(self) -> None:
        """Distributions, the table, the means, and the maps as an artifact."""
        import wandb

        for query, counts in self.counts.items():
            histogram = wandb.Histogram(np_histogram=(counts, self.EDGES))
            self.run.log({f"{slug(query)}/log2_times_uniform": histogram})
        if self.rows:
            self.run.log({"photos": wandb.Table(list(self.TABLE), self.rows)})
            means = {query: float(np.mean(values)) for query, values in self.perplexities.items()}
            self.run.summary.update({f"{slug(query)}/mean_perplexity": mean for query, mean in means.items()})
        maps = self.folder / "maps"
        if maps.is_dir():
            artifact = wandb.Artifact(f"maps-{self.run.id}", type="attention-maps")
            # sent from where they lie, not copied
            artifact.add_dir(str(maps), skip_cache=True, policy="immutable")
            artifact.add_file(str(self.folder / "records.csv"))
            self.run.log_artifact(artifact)
