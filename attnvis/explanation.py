"""Where a network looks on one photo when asked one thing: a frozen value, its pictures, its files."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from attnvis.attention.dot_product import gamma_pooled
from attnvis.data.decoding import full_pixels
from attnvis.explorer.link import as_terms
from attnvis.explorer.page import Explorer, Origin, explorer
from attnvis.files import write_bytes
from attnvis.methods.answer import Answer
from attnvis.pipeline import drawing
from attnvis.pipeline.maps import write_maps
from attnvis.pipeline.why import Why, add_favourites, identity, why
from attnvis.render import overlays, panels, prints
from attnvis.render.html import data_uri
from attnvis.types import Attention, ClassScore, Photo

__all__ = ["Explanation", "as_image_tag", "save_picture"]

PICTURES = ("overlay", "panel", "heatmap", "colour_bar")
RASTERS = ("jpg", "jpeg", "png", "webp")
PAPERS = ("pdf", "svg")
NUMBERS = ("npy", "safetensors")

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where the network looks on one photo when asked one thing.

    Everything is raw; only pictures are scaled for the eye.
    """

    photo: Photo
    answer: Answer
    scaling: str  # "" where the method is no attention
    backbone: str
    warnings: tuple[str, ...] = ()  # of the backbone and of this attention
    normalise: str = "softmax"
    keys: str = "same"
    heads: str = "one"
    notes: tuple[str, ...] = ()  # of the network: what was taken off its file, which tokens were left out
    origin: Origin | None = field(default=None, repr=False)  # what the network made of the photo

    @property
    def predicted(self) -> tuple[tuple[str, float], ...]:
        """The network's likeliest classes on this photo, with their probabilities."""
        return self.answer.predicted

    @property
    def query(self) -> str:
        """The question as it is typed: class:tabby."""
        return self.answer.query

    @property
    def label(self) -> str:
        """What that is on this photo: tabby."""
        return self.answer.label

    @property
    def scores(self) -> Float[np.ndarray, "h w"]:
        """q . k_i on the grid."""
        return self.on_grid("scores")

    @property
    def logits(self) -> Float[np.ndarray, "h w"]:
        return self.on_grid("logits")

    @property
    def weights(self) -> Float[np.ndarray, "h w"]:
        """a_i on the grid; they sum to 1."""
        return self.answer.weights.reshape(self.answer.placement.grid).float().cpu().numpy().copy()

    @property
    def attention(self) -> Attention:
        """All stages, B = Q = 1.

        Raises ValueError where there are none: of a map made of several layers, of gradcam, centre, ...
        """
        if self.answer.attention is None:
            made_of = f"the layers {self.answer.layer}" if self.scaling else f"{self.query}, no attention"
            raise ValueError(
                f"this map is made of {made_of}: it has weights, and no scores, logits or context"
            )
        return self.answer.attention

    @property
    def context(self) -> Float[np.ndarray, " D"]:
        """sum_i a_i v_i."""
        return self.attention.context[0, 0].float().cpu().numpy()

    def pooled(self, gamma: float = 2.0) -> Float[np.ndarray, " D"]:
        """SimPool's (sum_i a_i (v_i - min v + eps)^gamma)^(1/gamma) in place of the context; min over the
        photo.  Raises ValueError unless gamma is above 0.
        """
        attention = self.attention
        return gamma_pooled(attention.weights, attention.known_values.cpu(), gamma)[0, 0].float().numpy()

    @property
    def class_score(self) -> ClassScore | None:
        """Of a class query: the class's probability, logit and rank on this photo."""
        return self.answer.class_score

    @property
    def diagnostics(self) -> dict[str, float]:
        return self.answer.diagnostics

    @cached_property
    def map(self) -> Float[np.ndarray, "H W"]:
        """Times uniform over the photo's pixels, read-only; NaN where the network never looked."""
        values = self.answer.map()
        values.setflags(write=False)
        return values

    def on_grid(self, stage: str) -> Float[np.ndarray, "h w"]:
        return getattr(self.attention, stage).reshape(self.answer.placement.grid).float().cpu().numpy().copy()

    @property
    def extremes(self) -> tuple[float, float]:
        """The (lowest, highest) cell, in times uniform."""
        cells = self.answer.cells
        return float(np.fmin.reduce(cells, None)), float(np.fmax.reduce(cells, None))

    def why(
        self,
        row: int | None = None,
        column: int | None = None,
        channels: int = 6,
        among: Sequence["Explanation"] = (),
        favourites: int = 3,
    ) -> Why:
        """Why a patch has its weight: |q| |k| cos, and what each channel adds; the hottest without a place.

        `print` it, `.picture()` it, `.to_json()` it.  among: other photos' explanations by the same network,
        in which the channels' other patches are sought.  Raises ValueError for a place that is not on the
        grid, for half of one, where keys are not the patches themselves, and for a map of several heads or
        layers.
        """
        if (row is None) != (column is None):
            raise ValueError("a patch has a row and a column; give both, or none for the hottest patch")
        cell = None if row is None or column is None else (row, column)
        reason = why(self.photo, self.answer, cell, channels=channels, favourites=favourites, keys=self.keys)
        encoded = {
            identity(other.photo.path, other.photo.digest): other
            for other in among
            if other.origin is not None
        }
        others = [(other.photo, other.origin.layers) for other in encoded.values() if other.origin]
        return add_favourites(reason, others, favourites=favourites)

    # Pictures

    def heatmap(self, **style: Any) -> Picture:
        """The map alone, on the photo's pixels, RGB uint8 [H, W, 3]."""
        return overlays.heatmap(
            self.answer.cells,
            overlays.Style(**style),
            placement=self.answer.placement,
            size=full_pixels(self.photo).shape[:2],
        )

    def colour_bar(self, width: int = 440, **style: Any) -> Picture:
        """What the colours mean, RGB uint8, `width` pixels wide and a margin."""
        return panels.colour_bar(overlays.Style(**style), width=width, seen=self.extremes, margin=16)

    def overlay(self, **style: Any) -> Picture:
        """The photo with the map over it, RGB uint8 [H, W, 3]; settings as in attnvis.Style."""
        return overlays.overlay(
            full_pixels(self.photo),
            self.answer.cells,
            style=overlays.Style(**style),
            mark=self.answer.mark,
            field=self.answer.field,
            placement=self.answer.placement,
            excess=self.answer.beyond_chance,
        )

    def panel(self, **style: Any) -> Picture:
        """Photo, heatmap, overlay and the numbers, RGB uint8."""
        return panels.panel(
            full_pixels(self.photo),
            self.answer.cells,
            style=overlays.Style(**style),
            title=self.title,
            lines=self.lines(),
            mark=self.answer.mark,
            placement=self.answer.placement,
            plots=drawing.attended_plots(self.answer),
            parts=drawing.head_maps(self.answer),
            excess=self.answer.beyond_chance,
        )

    @property
    def title(self) -> str:
        return drawing.title(self.photo, self.answer)

    def lines(self) -> Iterator[tuple[str, object]]:
        """What stands beside the pictures of a panel: (name, value)."""
        yield "query", self.answer.query
        if self.answer.class_score:
            yield "this class", self.answer.class_score
        yield from drawing.doubt_lines(self.answer)
        yield from drawing.class_lines(self.predicted)
        yield from drawing.attended_lines(self.answer.attended)
        if self.scaling:
            yield (
                "scaling",
                drawing.scaling_text(self.scaling, "head" if self.answer.heads is not None else ""),
            )
        if self.answer.heads is not None:
            yield "heads", drawing.heads_text(self.heads, self.answer)
        if self.keys != "same":
            yield "keys", self.keys
        yield "backbone", self.backbone
        yield from drawing.number_lines(self.answer)
        for note in self.photo.notes:
            yield "photo", note
        for note in self.notes:
            yield "network", note
        for text in self.warnings:
            yield "warning", text

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """The overlay on matplotlib axes with its colour bar beside it, a figure of its own without `ax`.

        Gives the axes.
        """
        return prints.plot(
            self.overlay(**style), overlays.Style(**style), title=self.title, seen=self.extremes, axes=ax
        )

    # Files

    def save(self, path: str | Path, picture: str = "overlay", **style: Any) -> Path:
        """Writes a file, whole or not at all, and makes its folder; gives its path.

        .jpg, .png, .webp: overlay, panel, heatmap or colour_bar, as those methods give it.  .pdf, .svg: the
        same for paper, words and colour bar as vectors.  .npy: the map, times uniform over the photo's
        pixels [H, W].  .safetensors: all stages (`attnvis.read_maps`).  Raises ValueError for another picture
        or suffix, OSError where it cannot be written.
        """
        path = Path(path)
        if picture not in PICTURES:
            raise ValueError(f"there is no picture {picture!r}; there are {', '.join(PICTURES)}")
        suffix = known_suffix(path, (*RASTERS, *PAPERS, *NUMBERS))
        if suffix == "safetensors":
            content = write_maps(self.photo, [self.answer], self.backbone)
        elif suffix == "npy":
            content = as_npy(self.map)
        elif suffix in PAPERS:
            content = self.on_paper(picture, suffix, **style)
        else:
            return save_picture(path, getattr(self, picture)(**style), **style)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        return path

    def explore(self, path: str | Path | None = None, **settings: Any) -> Explorer:
        """A page in which one clicks a patch and sees its attention, opened with this question.

        It shows itself in a notebook, and goes to a file where a path is given.  settings: `classes` and
        `style` of attnvis.explorer.explorer.  Raises ValueError for an explanation that keeps no features,
        and as that does.
        """
        link = self.link
        if self.origin is None:
            raise ValueError("this explanation keeps no features; ask attnvis.explain(photo, ...) for one")
        page = explorer(self.origin, start=link, **settings)
        if path is not None:
            page.save(path)
        return page

    @property
    def link(self) -> str:
        """The question and its stages as an explorer's link has them behind the #.

        Raises ValueError for a question that no explorer asks.
        """
        if not self.scaling:
            raise ValueError(f"{self.query} is no attention, and an explorer asks for attention only")
        if self.keys != "same" or self.answer.heads is not None or self.answer.attention is None:
            raise ValueError(
                "an explorer asks one layer's patches as they are, with all channels together, and this map "
                f"has keys={self.keys}, heads={self.heads}, layer={self.answer.layer}; explain with "
                "keys=same, heads=1 and one layer to explore"
            )
        query = self.query if self.class_score is None else f"class:{self.class_score.index}"
        terms = as_terms(query, self.origin.layers[0] if self.origin else None)
        return f"q={terms}&scaling={self.scaling}&normalise={self.normalise}&layer={self.answer.layer}"

    def on_paper(self, picture: str, kind: str, **style: Any) -> bytes:
        """One of the pictures as a pdf or svg."""
        names = {"panel": ("photo", "heatmap", "overlay"), "colour_bar": ()}.get(picture, (picture,))
        pictures = {
            name: full_pixels(self.photo) if name == "photo" else getattr(self, name)(**style)
            for name in names
        }
        is_panel = picture == "panel"
        sheet = prints.Sheet(
            tiles=[(pixels, name if is_panel else "") for name, pixels in pictures.items()],
            columns=max(1, len(names)),
            title=self.title,
            lines=[f"{name}: {value}" for name, value in self.lines()] if is_panel else [],
            style=overlays.Style(**style),
            seen=self.extremes,
        )
        return prints.draw_sheet(sheet, kind)

    def _repr_png_(self) -> bytes:
        return overlays.encode(self.panel(longest=960), "png")

    def _repr_html_(self) -> str:
        notes = "".join(f"<br>{escape(note)}" for note in self.notes)
        return as_image_tag(self._repr_png_(), repr(self)) + notes

    def __repr__(self) -> str:
        numbers, patches = self.diagnostics, self.answer.patches
        warnings = "".join(f"; {warning}" for warning in self.warnings)
        return (
            f"<{self.photo.name}: {self.label}, {self.scaling or self.query}: "
            f"spread over {numbers['perplexity']:.1f} of {patches} patches, "
            f"hottest {numbers['max_times_uniform']:.1f} x uniform{warnings}>"
        )


def known_suffix(path: Path, known: tuple[str, ...]) -> str:
    """Of a file's name, without its dot, in small letters.  Raises ValueError for one that is not known."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in known:
        given = f"{path.name} ends in .{suffix}" if suffix else f"{path.name} has no suffix"
        raise ValueError(f"{given}, which says no kind of file; there are .{', .'.join(known)}")
    return suffix


def save_picture(path: Path, pixels: Picture, quality: int = 92, **_: Any) -> Path:
    """Writes a picture, whole or not at all, and makes its folder.  Raises OSError, and as `encode` does."""
    content = overlays.encode(pixels, known_suffix(path, RASTERS).replace("jpeg", "jpg"), quality=quality)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)
    return path


def as_image_tag(picture: bytes, text: str) -> str:
    """A picture in HTML, as wide as there is room; `text` for who cannot see it."""
    return f'<img src="{data_uri(picture)}" alt="{escape(text)}" style="max-width: 100%">'


def as_npy(values: np.ndarray) -> bytes:
    """What a .npy file of them holds."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
