"""A finished run's folder in, the same photos drawn in another style out, without the network.

What it leaves is a run's folder like any other, with copies of the maps: it can be gone on with, and drawn
again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attnvis.data.decoding import load
from attnvis.data.paths import source_of
from attnvis.errors import in_one_line
from attnvis.files import file_digest, is_whole, read_bytes, save
from attnvis.json_files import read_json
from attnvis.methods.answer import Answer
from attnvis.pipeline.maps import read_photo_maps
from attnvis.pipeline.plan import RunPlan, setting_text
from attnvis.pipeline.position_prior import FILE, Prior, prior_for
from attnvis.pipeline.records import as_written, row_seal, rows_by_photo, says_what_was_written
from attnvis.pipeline.resume import NAME, FolderPlan, photos_of, planned_photos, renewed
from attnvis.pipeline.run_folder import RunWriter
from attnvis.pipeline.streaming import Outcome
from attnvis.render import overlays
from attnvis.types import PhotoError, Provenance, Source

__all__ = ["SourceRun", "redraw_plan", "redraw_run", "style_settings"]

Record = dict[str, str]


@dataclass(frozen=True, eq=False)
class SourceRun:
    """A run that is to be drawn again: what its run.json says, and the rows of each of its photos."""

    folder: Path
    record: Mapping[str, Any]
    photos: tuple[tuple[Record, ...], ...]  # in the order of the run

    @classmethod
    def read(cls, folder: Path) -> "SourceRun":
        """Raises ValueError for a folder that is damaged, is no run's, or kept no maps."""
        record = read_record(folder)
        rows = rows_by_photo(folder / "records.csv")
        photos = tuple(tuple(rows[index]) for index in sorted(rows))
        if not any(row["map"] for of_photo in photos for row in of_photo):
            raise ValueError(f"{folder} kept no maps to draw from; run again with maps=true")
        return cls(folder, record, photos)

    def reading(self) -> dict[str, Any]:
        """How the run read its photos, as `load` takes it."""
        preprocess = self.record["config"].get("preprocess", {})
        return {key: preprocess[key] for key in ("depth", "truncated") if key in preprocess}

    def paths(self) -> tuple[Source, ...]:
        return tuple(source_of(rows[0]["path"]) for rows in self.photos)

    def maps(self) -> tuple[Path, ...]:
        """Of every photo."""
        return tuple(self.map(index) for index in range(len(self.photos)))

    def map(self, index: int) -> Path:
        """Of one photo; of one that failed then a file that is not there."""
        return self.folder / (self.photos[index][0]["map"] or "maps")


def read_record(folder: Path) -> dict[str, Any]:
    """What run.json says of a run.  Raises ValueError for one that is damaged."""
    try:
        record = read_json(folder / "run.json")
        if not isinstance(record["config"]["name"], str) or not isinstance(record["warnings"], list):
            raise ValueError
        setting_text(record["config"].get("scaling", {}))
        setting_text(record["config"].get("normalise", {}))
        dict(record["versions"])
        record["warnings"] = [str(warning) for warning in record["warnings"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{folder / 'run.json'} is damaged or no run's; redraw another run") from None
    return record


def style_settings(folder: Path) -> dict[str, Any]:
    """The settings of the style in which a run was drawn, as its record has them: they are to be checked.

    Raises ValueError where run.json is damaged.  A run of before it had them has none.
    """
    settings = read_record(folder)["config"].get("render", {})
    if not isinstance(settings, dict):
        raise ValueError(f"{folder / 'run.json'} is damaged or no run's; redraw another run")
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def redraw_plan(
    source: SourceRun,
    target: Path,
    style: overlays.Style,
    command: str,
    logger: Mapping[str, Any],
    resume: bool = False,
    beyond_prior: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> RunPlan:
    """What the folder of a redraw is to hold; `say` hears what changed since a redraw that goes on began.

    beyond_prior: maps are to be drawn as they differ from the source's position prior.

    Raises ValueError where source and target are the same, and where the run has other photos by now.
    """
    if target.resolve() == source.folder.resolve():
        raise ValueError(
            f"{target} is the run itself; redraw into another folder, its own pictures stay as they are"
        )
    if lacking := unrecorded(source):
        noun = "photos have" if len(lacking) > 1 else "photo has"
        say(
            f"{len(lacking)} {noun} no row in {source.folder / 'records.csv'} ({', '.join(lacking[:5])}); "
            f"attnvis run --resume {source.folder} does the rest"
        )
    photos, sources = planned_photos(source.paths()), planned_photos(source.maps())
    begun = FolderPlan.read(target, "redraw") if resume else None
    if begun is not None:
        if [photo.path for photo in begun.photos] != [photo.path for photo in photos]:
            raise ValueError(
                f"{source.folder} has other photos than when {target} was begun; redraw into another folder"
            )
        photos, remarks = renewed(begun.photos, source.paths())
        sources, of_maps = renewed(begun.sources, source.maps(), noun="map")
        for remark in (*remarks, *of_maps):
            say(remark)
    provenance = replace(
        Provenance.from_entries(source.record), command=command, redrawn_from=str(source.folder)
    )
    config = {
        **source.record["config"],
        "render": {"_target_": "attnvis.render.Style", **asdict(style)},
        "logger": dict(logger),
        "beyond_prior": beyond_prior,
    }
    inputs = {name: digest for name, digest in source.record.get("inputs", {}).items() if name != FILE}
    if beyond_prior:
        inputs[FILE] = file_digest(source.folder / FILE)
    return RunPlan(
        paths=source.paths(),
        style=style,
        provenance=provenance,
        config=config,
        warnings=tuple(source.record["warnings"]),
        logger=logger,
        photos=photos,
        verb="redraw",
        rows=tuple(len(rows) for rows in source.photos),
        sources=sources,
        origin=source.record,
        inputs=inputs,
    )


def unrecorded(source: SourceRun) -> list[str]:
    """The photos of the run's plan of which records.csv knows nothing: stopped before, or lost."""
    recorded = {row["path"] for rows in source.photos for row in rows}
    try:
        planned = photos_of(read_json(source.folder / NAME)["photos"])
    except (OSError, ValueError, LookupError, TypeError):  # a redraw needs no plan
        return []
    return [photo.path for photo in planned if as_written(photo.path) not in recorded]


def redraw_run(
    source: SourceRun, results: RunWriter, priors: Sequence[Prior] = ()
) -> Iterator[Outcome[Answer]]:
    """Every photo that is still to be drawn, drawn from its maps; what went wrong is its outcome's error.

    priors: the maps are drawn as they differ from these.
    """
    results.drawer = replace(results.drawer, beyond=bool(priors))
    for number, index in enumerate(results.left):
        path = results.plan.paths[index]
        try:
            answers, rows = redraw_photo(source, number, results, priors)
        except (ValueError, FileNotFoundError, PhotoError) as error:
            yield Outcome(number, path, error=in_one_line(error))
            continue
        yield Outcome(number, path, answers=answers, made=rows)


def redraw_photo(
    source: SourceRun, number: int, results: RunWriter, priors: Sequence[Prior] = ()
) -> tuple[list[Answer], list[dict[str, Any]]]:
    """The answers of one photo, by its number among those that are left, and its new rows.

    Raises ValueError, or FileNotFoundError, where its maps or its pixels are not what they were.
    """
    index = results.left[number]
    before, maps = source.photos[index], source.map(index)
    if not all(map(says_what_was_written, before)):
        records = source.folder / "records.csv"
        raise ValueError(
            f"{before[0]['path']}: its rows in {records} are not what was written; run again to make them"
        )
    if not before[0]["map"]:
        raise ValueError(before[0]["reason"] or f"{before[0]['path']} has no maps")  # it failed then
    if not is_whole(source.folder, before[0]["map"]):
        raise ValueError(f"{maps} is gone, empty or no file; run again to make it")
    answers = read_answers(maps, before)
    photo = load(source_of(before[0]["path"]), name=before[0]["photo"], **source.reading())
    if photo.digest != before[0]["digest"]:
        raise ValueError(f"{photo.name} is not the photo that {maps} was made from; its bytes have changed")
    if any(answer.placement.size != photo.size for answer in answers):
        raise ValueError(f"{maps} lies on a photo of another size; run again to make it")
    drawn = [prior_for(priors, answer).without(answer) for answer in answers] if priors else answers
    pictures = results.draw(number, photo, drawn)
    copy = f"maps/{results.stems[index]}.safetensors"
    save(results.folder, copy, read_bytes(maps))
    if results.promise.sources[index].digest not in ("", file_digest(results.folder / copy)):
        raise ValueError(f"{maps} changed since the redraw began; --resume draws it again")
    rows = []
    for row, picture in zip(before, pictures, strict=True):
        new = row | {"index": str(index), "map": copy, "panel": ""} | dict(picture.paths)
        rows.append(new | {"seal": row_seal(results.folder, new, picture.digests)})
    return answers, rows


def read_answers(maps: Path, rows: tuple[Record, ...]) -> list[Answer]:
    """The answers of one photo.  Raises ValueError where they are another's or damaged, FileNotFoundError."""
    digest, answers = read_photo_maps(maps)
    if len(answers) != len(rows):
        raise ValueError(f"{maps} holds {len(answers)} maps for {len(rows)} rows; run again to make it")
    if digest != rows[0]["digest"]:
        raise ValueError(f"{maps} holds another photo's maps; run again to make it")
    return [
        answer if answer.predicted or not row["predicted"] else replace(answer, predicted=predicted_of(row))
        for answer, row in zip(answers, rows, strict=True)
    ]


def predicted_of(row: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    """The likeliest class, as the record has it: maps of earlier versions have none."""
    return ((row["predicted"], float(row["probability"] or "nan")),)
