"""attnvis from Python: one photo and one question in, one frozen result out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attnvis.attention.query.language import as_query
from attnvis.attention.spec import as_function
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.host import undisturbed
from attnvis.backbone.sources import load_backbone
from attnvis.data.decoding import full_pixels, load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.files import write_bytes
from attnvis.methods.answer import Answer
from attnvis.methods.attention import AttentionMethod
from attnvis.pipeline import drawing
from attnvis.pipeline.maps import write_maps
from attnvis.render import overlays, panels
from attnvis.types import Attention, ClassScore, Photo

__all__ = ["Explanation", "explain"]


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

    def save(self, path: str | Path, **style: Any) -> Path:
        """A picture for .jpg, .png and .webp (the overlay),
        raw numbers for .safetensors (`attnvis.pipeline.maps.read_maps`).
        """
        path = Path(path)
        if path.suffix == ".safetensors":
            write_bytes(path, write_maps(self.photo, [self.answer], self.backbone))
        else:
            overlays.write(path, self.overlay(**style))
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
    query: str | Callable = "mean",
    scaling: str | Callable | None = None,
    normalise: str | Callable = "softmax",
    backbone: str | Backbone = "efficientnet_lite0",
    fit: str = "resize",
    size: int | None = None,
    **settings: Any,
) -> Explanation:
    """Ask one question of one photo.

    Raises ValueError for a question or a network that is not known, PhotoError for what is no photo.

    photo      a file, "samples/cat", bytes, or an RGB array [H, W, 3]
    query      mean, class, "class:tabby", "point:120,80", "box:10,20,100,50", distance, norm, rarity, pca,
               or a class's name; or a function of Features
    scaling    a name of attnvis.attention.scaling ("temperature:2" sets its first argument),
               or a function of Scores; normalise likewise.
               None: inv_sqrt_d for the mean, which finds a sharpness of its own; for others perplexity,
               a tenth of the patches
    backbone   efficientnet_lite0, a torchvision name (its weights are downloaded once), or a loaded Backbone
    settings   go to the backbone when it is given by name: layer, weights, device, precision, placement
    """
    if settings and not isinstance(backbone, str):
        raise ValueError(
            f"{', '.join(settings)} would be ignored: the backbone is loaded already; "
            "give its name, or leave them out"
        )
    net = load_backbone(backbone, **settings) if isinstance(backbone, str) else backbone
    how = net.preprocessing.changed(fit, size)
    loaded = load(single_file(photo) if isinstance(photo, str | Path) else photo, short=how.size)
    if scaling is None:
        scaling = "inv_sqrt_d" if query == "mean" else "perplexity"
    method = AttentionMethod(
        net, as_query(query), as_function("scaling", scaling), as_function("normalise", normalise)
    )
    with undisturbed():
        (answers,) = method(collate([loaded], how))
    if len(answers) != 1:
        raise ValueError(
            f"explain() answers one query and this makes {len(answers)}; call it once for each, "
            "or use attnvis.methods.attention.AttentionMethod"
        )
    (answer,) = answers
    caution = net.class_caution(how) if answer.class_score else ""
    return Explanation(
        photo=loaded,
        answer=answer,
        scaling=scaling if isinstance(scaling, str) else getattr(scaling, "__name__", "own function"),
        backbone=f"{net.name}, layer {net.layer}, weights {net.weights}",
        warnings=(*net.warnings_at(how), *([caution] if caution else []), *answer.warnings),
    )


def single_file(photo: str | Path) -> Path:
    """The one file that a path, a pattern or a sample's name stands for.  Raises ValueError for several."""
    paths = find(photo)
    if len(paths) > 1:
        raise ValueError(
            f"explain() takes one photo and {photo} stands for {len(paths)}; call it once for each, "
            f"or use: attnvis run {photo}"
        )
    return paths[0]
