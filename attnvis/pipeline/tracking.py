"""What is sent to a W&B run: numbers, pictures, tables, pages and files in; what was not sent is said."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from attnvis.errors import first_line
from attnvis.files import slug
from attnvis.pipeline.logged_run import LoggedRun
from attnvis.pipeline.wandb_library import (
    as_artifact,
    as_histogram,
    as_image,
    as_page,
    as_table,
    require_server,
)

__all__ = ["MOST_PICTURES", "MOST_ROWS", "Tile", "Tracker"]

MOST_PICTURES = 108  # of a list, at W&B
MOST_ROWS = 10_000  # of a table, at W&B
MOST_PAGES = 16  # of a list of pages
MOST_BYTES = 1 << 26  # of a page: a browser shows it inside W&B's


@dataclass(frozen=True)
class Tile:
    """A picture of a list, at a place that has the same size in every run; None: nothing is there."""

    pixels: UInt8[np.ndarray, "S S 3"]
    caption: str


class Tracker(LoggedRun):
    """A W&B run that is told of numbers, pictures and files; each of these costs at most a line."""

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
                pictures = [as_image(tile.pixels, tile.caption) for tile in tiles[:MOST_PICTURES]]
                self.run.log({name: pictures})

    def log_places(self, name: str, pictures: Mapping[int, tuple[Path, str]]) -> None:
        """Pictures of any size under one name, a step each: place of the photo -> file and caption."""
        if self.silent or not pictures:
            return
        with self.harmless():
            for place in sorted(pictures)[: self.settings.pictures]:
                path, caption = pictures[place]
                if picture := self.picture(path, caption):
                    self.run.log({"index": place, name: picture})
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
            rows = list(zip(*columns.values(), strict=True))
            total = len(rows) if total is None else total
            if total > min(len(rows), MOST_ROWS):
                self.unsent.append(
                    f"the table {name} has the first {MOST_ROWS:,} of {total:,} rows; "
                    f"all are in {self.folder}"
                )
            cells = [[self.cell(value) for value in row] for row in rows[:MOST_ROWS]]
            self.run.log({name: as_table(list(columns), cells)})

    def cell(self, value: Any) -> Any:
        return self.picture(value) if isinstance(value, Path) else value

    def picture(self, path: Path, caption: str | None = None) -> Any:
        """None, which is remembered, for a file that is no picture that W&B takes."""
        try:
            return as_image(path, caption)
        except Exception as error:
            self.unsent.append(f"{path} was not taken ({first_line(error)})")
            return None

    def log_histogram(
        self, name: str, counts: Int[np.ndarray, " n"], edges: Float[np.ndarray, " n+1"]
    ) -> None:
        """How often something fell between one edge and the next."""
        if not self.silent:
            with self.harmless():
                self.run.log({name: as_histogram(counts, edges)})

    def log_page(self, name: str, path: Path) -> None:
        """A page that needs no other file."""
        if self.silent or not path.is_file():
            return
        size = path.stat().st_size
        if size > MOST_BYTES:
            self.unsent.append(f"{path} was not sent: it has {size >> 20} MB, of at most {MOST_BYTES >> 20}")
            return
        with self.harmless():
            self.run.log({name: as_page(path)})

    def log_pages(self, name: str, pages: Mapping[int, Path]) -> None:
        """Pages that need no other file under one name, a step each: place of the photo -> file."""
        if self.silent or not pages:
            return
        places = sorted(pages)[:MOST_PAGES]
        for place in places:
            with self.harmless():
                self.run.log({"index": place, name: as_page(pages[place])})
        if len(pages) > len(places):
            self.unsent.append(
                f"the first {MOST_PAGES} of {len(pages)} pages {name} were sent; all are in {self.folder}"
            )

    def log_files(self, kind: str, paths: Iterable[Path]) -> None:
        """Files, and folders with all that is in them, as one artifact; sent from where they lie."""
        paths = [path for path in paths if path.exists()]
        if self.silent or not paths:
            return
        with self.harmless():
            artifact = as_artifact(slug(f"{kind}-{self.id}"), kind, files=dict(named_files(paths)))
            try:
                self.run.log_artifact(artifact)
            except Exception as error:
                if self.mode == "online":
                    require_server()
                self.remember_refusal(kind, error)
                return
            if self.mode == "online":
                self.waiting[kind] = artifact

    def summarise(self, numbers: Mapping[str, Any]) -> None:
        """What stands for the run in W&B's table of runs."""
        if not self.silent:
            with self.harmless():
                self.run.summary.update(dict(numbers))


def named_files(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Files, and those of folders with the folder's name before theirs."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield file.relative_to(path.parent).as_posix(), file
