"""attnvis from Python: one photo and one question in, one frozen result out; or several, side by side."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attnvis import catalogue
from attnvis.attention.grammar import split_texts
from attnvis.attention.query.language import Question, as_query
from attnvis.attention.spec import as_function, format_function
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.host import undisturbed
from attnvis.backbone.sources import load_backbone
from attnvis.data.decoding import full_pixels, load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.files import unique, write_bytes
from attnvis.methods.answer import Answer
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import PhotoResult, SettingGrid
from attnvis.pipeline import drawing
from attnvis.pipeline.maps import write_maps
from attnvis.render import overlays, panels
from attnvis.types import Attention, ClassScore, Photo

__all__ = ["Comparison", "Explanation", "compare", "explain"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where the network looks on one photo when asked one thing.

    Everything is raw; only pictures are scaled for the eye.
    """

    photo: Photo
    answer: Answer
    scaling: str
    backbone: str
    warnings: tuple[str, ...] = ()  # of the backbone and of this attention

    @property
    def predicted(self) -> tuple[tuple[str, float], ...]:
        """The network's likeliest classes on this photo, with their probabilities."""
        return self.answer.predicted

    @property
    def label(self) -> str:
        return self.answer.label

    @property
    def scores(self) -> np.ndarray:
        """q . k_i on the grid [h, w]."""
        return self.on_grid("scores")

    @property
    def logits(self) -> np.ndarray:
        return self.on_grid("logits")

    @property
    def weights(self) -> np.ndarray:
        """a_i on the grid [h, w]; they sum to 1."""
        return self.on_grid("weights")

    @property
    def attention(self) -> Attention:
        """All stages, B = Q = 1."""
        assert self.answer.attention is not None  # explain() asks an AttentionMethod
        return self.answer.attention

    @property
    def context(self) -> np.ndarray:
        """sum_i a_i v_i, [D]."""
        return self.attention.context[0, 0].float().cpu().numpy()

    @property
    def class_score(self) -> ClassScore | None:
        """Of a class query: the class's probability, logit and rank on this photo."""
        return self.answer.class_score

    @property
    def diagnostics(self) -> dict[str, float]:
        return self.answer.diagnostics

    @cached_property
    def map(self) -> np.ndarray:
        """Times uniform over the photo's pixels [H, W], read-only; NaN where the network never looked."""
        values = self.answer.map()
        values.setflags(write=False)
        return values

    def on_grid(self, stage: str) -> np.ndarray:
        return getattr(self.attention, stage).reshape(self.answer.placement.grid).float().cpu().numpy().copy()

    def heatmap(self, **style: Any) -> np.ndarray:
        """The map alone, on the photo's pixels, RGB uint8 [H, W, 3]."""
        return overlays.heatmap(
            self.answer.cells,
            overlays.Style(**style),
            placement=self.answer.placement,
            size=full_pixels(self.photo).shape[:2],
        )

    def colour_bar(self, width: int = 440, **style: Any) -> np.ndarray:
        """What the colours mean, RGB uint8, `width` pixels wide and a margin."""
        cells = self.answer.cells
        extremes = float(np.fmin.reduce(cells, None)), float(np.fmax.reduce(cells, None))
        return panels.colour_bar(overlays.Style(**style), width=width, seen=extremes, margin=16)

    def overlay(self, **style: Any) -> np.ndarray:
        """The photo with the map over it, RGB uint8 [H, W, 3]; settings as in attnvis.render.Style."""
        return overlays.overlay(
            full_pixels(self.photo),
            self.answer.cells,
            style=overlays.Style(**style),
            mark=self.answer.mark,
            field=self.answer.field,
            placement=self.answer.placement,
        )

    def panel(self, **style: Any) -> np.ndarray:
        """Photo, heatmap, overlay and the numbers, RGB uint8."""
        return panels.panel(
            full_pixels(self.photo),
            self.answer.cells,
            style=overlays.Style(**style),
            title=f"{self.photo.name}: {self.label}",
            lines=self.lines(),
            mark=self.answer.mark,
            placement=self.answer.placement,
        )

    def lines(self) -> Iterator[tuple[str, object]]:
        """What stands beside the pictures of a panel: (name, value)."""
        yield "query", self.answer.query
        if self.answer.class_score:
            yield "this class", self.answer.class_score
        yield from drawing.class_lines(self.predicted)
        yield "scaling", drawing.scaling_text(self.scaling)
        yield "backbone", self.backbone
        yield from drawing.number_lines(self.answer)
        for text in self.warnings:
            yield "warning", text

    def save(self, path: str | Path, picture: str = "overlay", **style: Any) -> Path:
        """A picture for .jpg, .png and .webp: overlay, panel, heatmap or colour_bar; its folder is made.

        .npy holds the map, times uniform over the photo's pixels [H, W]; .safetensors all stages
        (`attnvis.pipeline.maps.read_maps`).  Raises ValueError for another picture or suffix.
        """
        path, pictures = Path(path), ("overlay", "panel", "heatmap", "colour_bar")
        suffix = path.suffix.lower()
        if picture not in pictures:
            raise ValueError(f"there is no picture {picture!r}; there are {', '.join(pictures)}")
        if suffix == ".safetensors":
            content = write_maps(self.photo, [self.answer], self.backbone)
        elif suffix == ".npy":
            content = as_npy(self.map)
        else:
            format = suffix.lstrip(".").replace("jpeg", "jpg")
            content = overlays.encode(getattr(self, picture)(**style), format)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        return path

    def _repr_png_(self) -> bytes:
        return overlays.encode(self.panel(longest=960), "png")

    def __repr__(self) -> str:
        numbers, patches = self.diagnostics, self.answer.patches
        warnings = "".join(f"; {warning}" for warning in self.warnings)
        return (
            f"<{self.photo.name}: {self.label}, {self.scaling}: "
            f"spread over {numbers['perplexity']:.1f} of {patches} patches, "
            f"hottest {numbers['max_times_uniform']:.1f} x uniform{warnings}>"
        )


def explain(
    photo: str | Path | bytes | np.ndarray,
    query: Question = "mean",
    scaling: Any = None,
    normalise: Any = "softmax",
    backbone: str | Backbone = "efficientnet_lite0",
    fit: str = "resize",
    size: int | None = None,
    **settings: Any,
) -> Explanation:
    """Ask one question of one photo.

    Raises ValueError for a question or a network that is not known, PhotoError for what is no photo.

    photo      a file, "samples/cat", bytes, or an RGB array [H, W, 3]
    query      what is typed at the command line: mean, class, "class:tabby", "point:120,80", "pca:2", or a
               class's name; or a class's index, (x, y), (x, y, width, height), a vector [D],
               a function of Features
    scaling    likewise: "temperature:2", "perplexity:0.3"; or a function of Scores; normalise as well.
               None: inv_sqrt_d for the mean, which finds a sharpness of its own; for others perplexity,
               a tenth of the patches
    backbone   efficientnet_lite0, a torchvision name (its weights are downloaded once), or a loaded Backbone
    settings   go to the backbone when it is given by name: layer, weights, device, precision, placement
    """
    net = loaded(backbone, settings)
    how = net.preprocessing.changed(fit, size)
    pixels = load(single_file(photo) if isinstance(photo, str | Path) else photo, short=how.size)
    question = as_query(single_text("query", query))
    if scaling is None:
        scaling = usual_scaling(question)
    method = AttentionMethod(
        net,
        query=question,
        scaling=as_function("scaling", single_text("scaling", scaling)),
        normalise=as_function("normalise", single_text("normalise", normalise)),
    )
    with undisturbed():
        (answers,) = method(collate([pixels], how))
    if len(answers) != 1:
        raise ValueError(
            f"explain() answers one query and this makes {len(answers)}; "
            "attnvis.compare(photo, query) answers all of them"
        )
    (answer,) = answers
    caution = net.class_caution(how) if answer.class_score else ""
    return Explanation(
        photo=pixels,
        answer=answer,
        scaling=scaling.strip() if isinstance(scaling, str) else format_function(scaling),
        backbone=f"{net.name}, layer {net.layer}, weights {net.weights}",
        warnings=(*net.warnings_at(how), *([caution] if caution else []), *answer.warnings),
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Photos asked one or more questions under one or more settings, side by side."""

    photos: tuple[Photo, ...]
    results: tuple[tuple[PhotoResult, ...], ...]  # of each photo, query by query; weights are [S, N]
    settings: tuple[tuple[str, str], ...]  # (scaling, normaliser), S of them
    backbone: str
    warnings: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """The diagnostics of every photo, query and setting, as a data frame takes them."""
        return [
            {"photo": photo.name, "query": result.query, "label": result.label}
            | {"scaling": scaling, "normalise": normalise}
            | {name: values[number] for name, values in result.numbers.items()}
            for photo, results in zip(self.photos, self.results, strict=True)
            for result in results
            for number, (scaling, normalise) in enumerate(self.settings)
        ]

    def figure(self, side: int = 220, **style: Any) -> np.ndarray:
        """One sheet on one colour scale, RGB uint8: in each row a photo and its maps.

        Settings go across; of one setting, queries do.  side: of each picture, in pixels at most; style as in
        attnvis.render.Style.
        """
        look = overlays.Style(**style)
        tiles: list[tuple[np.ndarray, str]] = []
        headings: list[str] = []
        for photo, results in zip(self.photos, self.results, strict=True):
            pixels = overlays.resize_longest_side(full_pixels(photo), side)
            rows = [results] if len(self.settings) == 1 else [(result,) for result in results]
            for row in rows:
                headings.append(photo.name if len(row) > 1 else f"{photo.name}: {heading_of(row[0])}")
                tiles.append((pixels, "photo"))
                for result in row:
                    tiles += self.tiles_of(photo, result, pixels, look, by_query=len(row) > 1)
        columns = len(tiles) // len(headings)
        title = f"{self.backbone}" + "".join(f"; {warning}" for warning in self.warnings)
        return panels.contact_sheet(tiles, columns, side, title, look, headings=headings)

    def tiles_of(
        self, photo: Photo, result: PhotoResult, pixels: np.ndarray, style: overlays.Style, by_query: bool
    ) -> Iterator[tuple[np.ndarray, str]]:
        """(picture, caption) of one photo and query, setting by setting."""
        patches = result.weights.shape[-1]
        for setting, weights, spread in zip(
            self.settings, result.weights.numpy(), result.numbers["perplexity"], strict=True
        ):
            picture = overlays.overlay(
                pixels,
                (weights * patches).reshape(result.placement.grid),
                style,
                result.mark,
                photo.size,
                placement=result.placement,
            )
            name = heading_of(result) if by_query else " ".join(setting).removesuffix(" softmax")
            yield picture, f"{name}: {spread:.3g} of {patches} patches"

    def save(self, path: str | Path, **style: Any) -> Path:
        """The figure as .jpg, .png or .webp; its folder is made.  Raises ValueError for another suffix."""
        path = Path(path)
        format = path.suffix.lower().lstrip(".").replace("jpeg", "jpg")
        content = overlays.encode(self.figure(**style), format)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        return path

    def _repr_png_(self) -> bytes:
        return overlays.encode(self.figure(), "png")

    def __repr__(self) -> str:
        queries = len(self.results[0])
        return (
            f"<{len(self.photos)} photos, {queries} queries, {len(self.settings)} settings; {self.backbone}>"
        )


def heading_of(result: PhotoResult) -> str:
    """The query, and its label where that says more."""
    same = result.label in (result.query, result.query.replace(":", " "))
    return result.query if same else f"{result.query} ({result.label})"


def compare(
    photos: Any,
    queries: Question = "mean",
    scalings: Any = None,
    normalisers: Any = "softmax",
    backbone: str | Backbone = "efficientnet_lite0",
    fit: str = "resize",
    size: int | None = None,
    **settings: Any,
) -> Comparison:
    """Several questions, scalings or photos side by side: each photo passes the network once.

    Each of the first four is one, a list of several, or a text as at the command line: "class,mean",
    "none,temperature:2".  photos: also a folder, a pattern or "samples".  The rest as in `explain`, whose
    errors this raises.
    """
    net = loaded(backbone, settings)
    how = net.preprocessing.changed(fit, size)
    questions = named("query", queries, as_query)
    if scalings is None:
        scalings = "inv_sqrt_d" if list(questions) == ["mean"] else "perplexity"
    grid = SettingGrid(
        net,
        queries=questions,
        scalings=named("scaling", scalings, lambda text: as_function("scaling", text)),
        normalisers=named("normalise", normalisers, lambda text: as_function("normalise", text)),
    )
    several = photos if isinstance(photos, list | tuple) else [photos]
    files: list[Any] = []
    for photo in several:
        files += find(photo) if isinstance(photo, str | Path) else [photo]
    if not files:
        raise ValueError("compare() needs a photo; the list is empty")
    pictures = [load(file, short=how.size) for file in files]
    with undisturbed():
        results = [grid(collate([picture], how))[0] for picture in pictures]
    return Comparison(
        photos=tuple(pictures),
        results=tuple(map(tuple, results)),
        settings=grid.settings,
        backbone=f"{net.name}, layer {net.layer}, weights {net.weights}",
        warnings=tuple(net.warnings_at(how)),
    )


def named(group: str, stages: Any, make: Callable[[Any], Callable]) -> dict[str, Callable]:
    """Stages, one or several, under the texts that they go by.  Raises ValueError for none."""
    if isinstance(stages, str):
        stages = split_texts(stages, catalogue.options(group))
    functions = [make(stage) for stage in (stages if isinstance(stages, list) else [stages])]
    if not functions:
        raise ValueError(f"compare() needs a {group}; the list is empty")
    taken: dict[str, int] = {}
    return {unique(format_function(function), taken): function for function in functions}


def loaded(backbone: str | Backbone, settings: dict[str, Any]) -> Backbone:
    """The backbone, by name with these settings.  Raises ValueError for settings of one that is loaded."""
    if isinstance(backbone, str):
        return load_backbone(backbone, **settings)
    if settings:
        raise ValueError(
            f"{', '.join(settings)} would be ignored: the backbone is loaded already; "
            "give its name, or leave them out"
        )
    return backbone


def single_text(group: str, stage: Any) -> Any:
    """A stage as it is.  Raises ValueError for several: a list, or a text that names more than one."""
    texts = split_texts(stage, catalogue.options(group)) if isinstance(stage, str) else []
    if len(texts) > 1 or isinstance(stage, list):
        several = texts or stage
        raise ValueError(
            f"explain() takes one {group} and {stage!r} names {len(several)}; "
            f"attnvis.compare(photo, ...) takes several"
        )
    return texts[0] if texts else stage


def usual_scaling(question: Callable) -> str:
    """The scaling of who names none: the mean patch finds a sharpness of its own."""
    return "inv_sqrt_d" if format_function(question) == "mean" else "perplexity"


def as_npy(values: np.ndarray) -> bytes:
    """What a .npy file of them holds."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def single_file(photo: str | Path) -> Path:
    """The one file that a path, a pattern or a sample's name stands for.  Raises ValueError for several."""
    paths = find(photo)
    if len(paths) > 1:
        raise ValueError(
            f"explain() takes one photo and {photo} stands for {len(paths)}; call it once for each, "
            f"or use: attnvis run {photo}"
        )
    return paths[0]
