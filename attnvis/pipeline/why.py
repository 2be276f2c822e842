"""Why did this patch light up?  One weight as |q| |k| cos and as channels, and where else those channels are
large, in this photo and in others: numbers, a table, a picture.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from attnvis.attention import channels as channels_
from attnvis.data.decoding import full_pixels
from attnvis.files import naming
from attnvis.methods.answer import Answer
from attnvis.render.lettering import INK, QUIET, Font, blank, draw_text
from attnvis.types import Features, Photo, PhotoError, Placement, Source

__all__ = [
    "Channel",
    "CropFile",
    "Patch",
    "Why",
    "add_favourites",
    "draw_why",
    "identity",
    "loaded",
    "stored",
    "why",
    "why_table",
]

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, eq=False)
class Patch:
    """A cell of a photo, and what a channel adds there."""

    photo: str
    row: int
    column: int
    place: tuple[float, float]  # its centre: row, column in pixels of the photo
    product: float  # q_c k_ic
    picture: Picture | None = None  # the cell outlined in its surroundings
    stored_at: int | None = None  # where its picture waits in a CropFile

    def __str__(self) -> str:
        return f"{self.row},{self.column}"


@dataclass(frozen=True, eq=False)
class Channel:
    """What one channel adds to the score, and where else it adds as much."""

    index: int
    query: float  # q_c
    key: float  # k_ic
    product: float  # q_c k_ic
    share: float  # of the score; NaN where the score is 0
    above_mean: float  # q_c (k_ic - mean k_c)
    here: tuple[Patch, ...] = ()  # in this photo
    elsewhere: tuple[Patch, ...] = ()  # in the others


@dataclass(frozen=True, eq=False)
class Why:
    """One patch of one answer."""

    photo: str
    query: str
    label: str
    layer: str
    cell: Patch
    weight: float
    times_uniform: float
    score: float
    mean_score: float  # over the patches: softmax sees the difference alone
    query_norm: float
    key_norm: float
    cosine: float
    channels: tuple[Channel, ...]  # the largest |q_c k_ic| first
    width: int  # K, of all channels
    positive: float  # the sum of what adds
    negative: float  # the sum of what takes away
    others: int = 0  # photos among which `elsewhere` was sought
    path: str = ""  # of the photo; "" of one from memory
    digest: str = ""  # of the photo

    @property
    def explained(self) -> float:
        """The sum of the channels that are shown."""
        return sum(channel.product for channel in self.channels)

    def __str__(self) -> str:
        return why_table(self)

    def to_json(self) -> str:
        return json.dumps(as_entry(self), indent=1)

    def picture(self) -> Picture:
        """RGB uint8: the patch, and a row for each channel."""
        return draw_why(self)


def keys_of(answer: Answer, keys: str = "same") -> tuple[Tensor, Tensor]:
    """The query [K] and the keys [N, K] of an answer; keys: the choice of them as it is typed.

    Raises ValueError where its keys are not the patches themselves, where it has several heads, and for what
    is no attention.
    """
    attention = answer.attention
    if attention is None and "+" in answer.layer:
        raise ValueError(
            f"{answer.label} is a map joined of the layers {', '.join(answer.layer.split('+'))}, "
            "and no channels of one layer add up to it; ask why of one layer"
        )
    if answer.heads is not None:
        raise ValueError(
            f"{answer.label} has {len(answer.heads)} heads: its weight is the mean of their softmaxes, "
            "and no channels add up to one score; ask why with heads=1"
        )
    if keys != "same":
        raise ValueError(
            f"{answer.label} was compared with keys={keys}, which are not the patches' channels; "
            "ask why with keys=same"
        )
    if attention is None or answer.vector is None or attention.values is None:
        raise ValueError(f"{answer.query} has no channels here: it is no attention, or was read from a file")
    query, patches = answer.vector.double().cpu(), attention.values[0].double().cpu()
    scores = attention.scores[0, 0].double()
    fits = len(query) == patches.shape[1]
    size = float(query.norm() * patches.norm(dim=1).max()) if fits else 0.0
    if not fits or not torch.allclose(patches @ query, scores, rtol=1e-4, atol=1e-5 * size):
        raise ValueError(
            f"the query {answer.query} has keys of its own, which are not the patches' channels; "
            "ask why of mean, class, point, pca or another query that is a vector"
        )
    return query, patches


def why(
    photo: Photo,
    answer: Answer,
    cell: tuple[int, int] | None = None,
    channels: int = 6,
    favourites: int = 3,
    keys: str = "same",
) -> Why:
    """Why the cell (row, column) of an answer has its weight; None: the hottest.

    channels: how many are named; favourites: of each so many patches; keys: the answer's.  Raises PhotoError
    for a cell that is not on the grid, ValueError for counts below 1 and 0, and as `keys_of` does.
    """
    query, patches = keys_of(answer, keys)
    placement = answer.placement
    rows, columns = placement.grid
    row, column = answer.hottest if cell is None else cell
    if not (0 <= row < rows and 0 <= column < columns):
        raise PhotoError(
            f"patch {row},{column} is not on the grid of {photo.name}: "
            f"rows are 0 ... {rows - 1}, columns 0 ... {columns - 1}"
        )
    if channels < 1 or favourites < 0:
        raise ValueError(f"channels={channels}, favourites={favourites}: give 1 or more, and 0 or more")
    index = row * columns + column
    parts = channels_.parts(query, patches, index)
    order = torch.sort(parts.products.abs(), descending=True, stable=True).indices[:channels].tolist()
    pixels = full_pixels(photo)
    found = []
    for number in order:
        product = float(parts.products[number])
        places = channels_.favourites(
            query[number] * patches[:, number], sign=product, count=favourites, without=index
        )
        here = tuple(
            patch_of(photo, pixels, placement, divmod(place, columns), value) for place, value in places
        )
        found.append(
            Channel(
                number,
                float(parts.query[number]),
                key=float(parts.key[number]),
                product=product,
                share=product / parts.score if parts.score else math.nan,
                above_mean=float(parts.above_mean[number]),
                here=here,
            )
        )
    weight = float(answer.weights[index])
    return Why(
        photo.name,
        answer.query,
        label=answer.label,
        layer=answer.layer,
        cell=patch_of(photo, pixels, placement, (row, column), parts.score),
        weight=weight,
        times_uniform=weight * answer.patches,
        score=parts.score,
        mean_score=float((patches @ query).mean()),
        query_norm=parts.query_norm,
        key_norm=parts.key_norm,
        cosine=parts.cosine,
        channels=tuple(found),
        width=len(query),
        positive=float(parts.products.clamp_min(0).sum()),
        negative=float(parts.products.clamp_max(0).sum()),
        path=str(photo.path or ""),
        digest=photo.digest,
    )


def identity(path: Source | str | None, digest: str) -> tuple[str, str]:
    """What tells a photo from others: two folders may hold files of one name."""
    return os.path.abspath(str(path)) if path else "", digest


def add_favourites(
    reason: Why,
    others: Iterable[tuple[Photo, Sequence[Features]]],
    favourites: int = 3,
    crops: "CropFile | None" = None,
) -> Why:
    """The same, with the patches of other photos to which its channels add most, one of a photo: of so many
    photos, the one at a time.

    others: photos with what the same network makes of each (B = 1); the photo itself, the same file with the
    same content, is passed over.  crops: where their pictures wait.  Raises ValueError where a photo has no
    such layer.
    """
    best: list[list[Patch]] = [list(channel.elsewhere) for channel in reason.channels]
    count = reason.others
    for photo, layers in others:
        if identity(photo.path, photo.digest) == identity(reason.path, reason.digest):
            continue
        features = next((layer for layer in layers if layer.layer == reason.layer), None)
        if features is None or features.tokens.shape[2] != reason.width:
            raise ValueError(f"{photo.name} has no features of layer {reason.layer} from the same network")
        count += 1
        columns = features.grid[1]
        for number, channel in enumerate(reason.channels):
            keys = features.tokens[0, :, channel.index].double().cpu()
            places = channels_.favourites(channel.query * keys, sign=channel.product, count=1)
            full = len(best[number]) >= favourites
            least = abs(best[number][-1].product) if full and best[number] else 0.0
            for place, value in places:
                if abs(value) > least and favourites:
                    cell = divmod(place, columns)
                    patch = patch_of(photo, full_pixels(photo), features.placements[0], cell, value)
                    best[number].append(patch if crops is None else crops.store(patch))
            best[number].sort(key=lambda patch: -abs(patch.product))
            for patch in best[number][favourites:]:
                if crops is not None:
                    crops.free(patch)
            del best[number][favourites:]
    pairs = zip(reason.channels, best, strict=True)
    named = tuple(replace(channel, elsewhere=tuple(patches)) for channel, patches in pairs)
    return replace(reason, channels=named, others=count)


# --------------------------------------------------------------------------------------- pictures that wait


class CropFile:
    """The pictures of patches in a file without a name in `folder`, gone with the process: what waits for
    other photos takes no memory.

    Raises OSError with the folder's name where there is no room.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = 0
        self.unused: list[int] = []

    def __enter__(self) -> "CropFile":
        with naming(self.folder):
            self.file = tempfile.TemporaryFile(dir=self.folder, buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()

    def store(self, patch: Patch) -> Patch:
        """The patch, its picture in the file."""
        if patch.picture is None:
            return patch
        place = self.unused.pop() if self.unused else self.places
        self.places = max(self.places, place + 1)
        content = patch.picture.tobytes()
        with naming(self.folder):
            self.file.seek(place * len(content))
            while content:  # a disk that fills up takes a part
                content = content[self.file.write(content) :]
        return replace(patch, picture=None, stored_at=place)

    def load(self, patch: Patch) -> Patch:
        """The patch with its picture; the file keeps it."""
        if patch.stored_at is None:
            return patch
        size = SIDE * SIDE * 3
        self.file.seek(patch.stored_at * size)
        pixels = np.frombuffer(self.file.read(size), np.uint8).reshape(SIDE, SIDE, 3)
        return replace(patch, picture=pixels, stored_at=None)

    def free(self, patch: Patch) -> None:
        """Another picture may take its place."""
        if patch.stored_at is not None:
            self.unused.append(patch.stored_at)


def stored(reason: Why, crops: CropFile) -> Why:
    """The same, its pictures in the file."""
    return with_patches(reason, crops.store)


def loaded(reason: Why, crops: CropFile) -> Why:
    """The same with its pictures."""
    return with_patches(reason, crops.load)


def with_patches(reason: Why, change: Callable[[Patch], Patch]) -> Why:
    """The same, each of its patches changed."""
    channels = tuple(
        replace(
            channel,
            here=tuple(change(patch) for patch in channel.here),
            elsewhere=tuple(change(patch) for patch in channel.elsewhere),
        )
        for channel in reason.channels
    )
    return replace(reason, cell=change(reason.cell), channels=channels)


# ---------------------------------------------------------------------------------------------------- words


def why_table(reason: Why) -> str:
    """For a terminal."""
    down, across = reason.cell.place
    lines = [
        f"{reason.photo}: {reason.label}, patch {reason.cell} (x {across:.0f}, y {down:.0f}): "
        f"weight {reason.weight:.3g}, {reason.times_uniform:.3g} x uniform",
        f"score {reason.score:.4g} = |q| {reason.query_norm:.4g} x |k| {reason.key_norm:.4g} x "
        f"cos {reason.cosine:.3f}; the mean over the patches is {reason.mean_score:.4g}",
        f"{reason.width} channels add {reason.positive:.4g} and take {abs(reason.negative):.4g}; "
        f"the {len(reason.channels)} largest come to {reason.explained:+.4g}",
        "",
        f"{'channel':>7} {'q':>9} {'k':>9} {'q k':>9} {'share':>7} {'above mean':>10}  also in (row,column)",
    ]
    for channel in reason.channels:
        share = "" if math.isnan(channel.share) else f"{100 * channel.share:.1f}%"
        here = " ".join(map(str, channel.here)) or "nowhere else here"
        elsewhere = "".join(f"; {patch.photo} {patch}" for patch in channel.elsewhere)
        lines.append(
            f"{channel.index:>7} {channel.query:>9.3g} {channel.key:>9.3g} {channel.product:>+9.3g} "
            f"{share:>7} {channel.above_mean:>+10.3g}  {here}{elsewhere}"
        )
    return "\n".join(lines)


PICTURES = ("picture", "stored_at")


def as_entry(value: Any) -> Any:
    """Dataclasses, tuples and numbers as JSON has them: NaN is null, pictures are left out."""
    if isinstance(value, Why | Channel | Patch):
        return {name: as_entry(item) for name, item in vars(value).items() if name not in PICTURES}
    if isinstance(value, tuple):
        return [as_entry(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -------------------------------------------------------------------------------------------------- pictures

SIDE = 92  # pixels of a patch's picture
AROUND = 3.0  # cells that it shows across
MARGIN, GAP = 24, 10
TEXT = 236  # pixels of the words of a channel
TITLE, NAME, PLAIN = Font(22, 600), Font(16, 600), Font(14)
FAINT = Font(13, ink=QUIET)
ADDS, TAKES = (196, 70, 20), (40, 95, 170)  # RGB
BEYOND = (238, 238, 235)  # where no photo is


def patch_of(
    photo: Photo, pixels: Picture, placement: Placement, cell: tuple[int, int], product: float
) -> Patch:
    return Patch(
        photo.name, *cell, placement.centre(*cell), product=product, picture=crop(pixels, placement, cell)
    )


def crop(pixels: Picture, placement: Placement, cell: tuple[int, int]) -> Picture:
    """A cell and its surroundings, SIDE x SIDE, the cell outlined; beyond the photo lies paper."""
    zoom = np.array(pixels.shape[:2]) / np.array(placement.size)
    centre = np.array(placement.centre(*cell)) * zoom
    half = AROUND / 2 * np.array(placement.step) * zoom
    top, left = np.floor(centre - half).astype(int)
    bottom, right = np.ceil(centre + half).astype(int).clip([top + 1, left + 1])
    height, width = pixels.shape[:2]
    beyond = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    inside = pixels[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if inside.size == 0:  # the cell looks beyond the photo
        whole = np.full((bottom - top, right - left, 3), BEYOND, np.uint8)
    else:
        whole = cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_CONSTANT, value=BEYOND)
    is_larger = min(whole.shape[:2]) > SIDE
    shrunk = cv2.resize(whole, (SIDE, SIDE), interpolation=cv2.INTER_AREA if is_larger else cv2.INTER_CUBIC)
    reach = SIDE / AROUND / 2
    corners = (round(SIDE / 2 - reach), round(SIDE / 2 + reach))
    for thickness, colour in ((3, INK), (1, (255, 255, 255))):
        cv2.rectangle(shrunk, (corners[0],) * 2, (corners[1],) * 2, colour, thickness)
    return shrunk


def draw_why(reason: Why) -> Picture:
    """The patch with its numbers; a row for each channel: its words, the patches here, those elsewhere."""
    most_here = max((len(channel.here) for channel in reason.channels), default=0)
    most_elsewhere = max((len(channel.elsewhere) for channel in reason.channels), default=0)
    here = MARGIN + TEXT
    elsewhere = here + max(1, most_here) * (SIDE + GAP) + GAP
    width = max(760, elsewhere + most_elsewhere * (SIDE + GAP) + MARGIN)
    head = blank(MARGIN + 150, width)
    title = f"why {reason.photo}, patch {reason.cell}: {reason.label}"
    draw_text(head, title, x=MARGIN, baseline=MARGIN + 16, font=TITLE, room=width - 2 * MARGIN)
    paste(head, reason.cell.picture, MARGIN, MARGIN + 34)
    lines = why_table(reason).splitlines()
    sentences = [
        f"weight {reason.weight:.3g}, {reason.times_uniform:.3g} × uniform",
        lines[1].replace(" x ", " × "),
        lines[2],
        "a channel's patches are those to which it adds most, or takes most from; the outline is one cell,",
        "and the network saw more than that",
    ]
    for number, text in enumerate(sentences):
        font = PLAIN if number < 3 else FAINT
        left = MARGIN + SIDE + 18
        draw_text(
            head, text, x=left, baseline=MARGIN + 50 + 20 * number, font=font, room=width - left - MARGIN
        )
    headings = blank(24, width)
    draw_text(headings, "in this photo", x=here, baseline=14, font=FAINT)
    if most_elsewhere:
        draw_text(headings, f"in {reason.others} other photos", x=elsewhere, baseline=14, font=FAINT)
    rows = [channel_row(channel, width, here, elsewhere) for channel in reason.channels]
    return np.vstack([head, headings, *rows, blank(MARGIN, width)])


def channel_row(channel: Channel, width: int, here: int, elsewhere: int) -> Picture:
    strip = blank(SIDE + 30, width)
    colour = ADDS if channel.product >= 0 else TAKES
    draw_text(strip, f"channel {channel.index}", x=MARGIN, baseline=20, font=NAME)
    share = "" if math.isnan(channel.share) else f"  {100 * channel.share:.1f}% of the score"
    draw_text(strip, f"{channel.product:+.3g}{share}", x=MARGIN, baseline=42, font=Font(15, 600, ink=colour))
    draw_text(strip, f"q {channel.query:.3g} × k {channel.key:.3g}", x=MARGIN, baseline=62, font=PLAIN)
    draw_text(strip, f"above the mean patch {channel.above_mean:+.3g}", x=MARGIN, baseline=81, font=FAINT)
    if not channel.here:
        draw_text(strip, "nowhere else", x=here, baseline=48, font=FAINT, room=SIDE)
    for left, patches in ((here, channel.here), (elsewhere, channel.elsewhere)):
        for number, patch in enumerate(patches):
            x = left + number * (SIDE + GAP)
            paste(strip, patch.picture, x, 4)
            name = f"{patch}  {patch.product:+.3g}" if patches is channel.here else elsewhere_name(patch)
            draw_text(strip, name, x=x, baseline=SIDE + 20, font=FAINT, room=SIDE)
    return strip


def elsewhere_name(patch: Patch) -> str:
    return f"{patch.photo.rpartition('.')[0] or patch.photo} {patch.product:+.2g}"


def paste(canvas: Picture, picture: Picture | None, left: int, top: int) -> None:
    if picture is not None:
        height, width = picture.shape[:2]
        canvas[top : top + height, left : left + width] = picture
