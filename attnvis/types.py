"""The values that travel between the stages.  Axes: B images, N = h*w patches, D channels, Q queries,
C classes, H x W pixels.

Two coordinate systems, named wherever they are used:
*photo* coordinates run over the upright original, (row, column), a pixel k covering [k, k + 1);
*input* coordinates run over the tensor that the network sees, with the same convention.
"""

import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from attnvis.lazy import kept_property

__all__ = [
    "Ask",
    "Attention",
    "Batch",
    "Box",
    "ClassScore",
    "Features",
    "Head",
    "Photo",
    "PhotoError",
    "Placement",
    "Preprocessing",
    "Provenance",
    "Query",
    "Scores",
    "Source",
    "Truth",
    "UnavailableError",
    "View",
    "percent",
]


class PhotoError(ValueError):
    """What is wrong with one photo, in one line: it is recorded and skipped, the others go on.

    Any other ValueError ends the run.
    """


class UnavailableError(ValueError):
    """What lacks outside of the settings - a file, a download, a package: the same words may work later."""


@dataclass(frozen=True)
class Box:
    """A rectangle in photo coordinates; the far edges are exclusive."""

    top: float
    left: float
    height: float
    width: float

    def holds(self, row: float, column: float) -> bool:
        return self.top <= row < self.top + self.height and self.left <= column < self.left + self.width


@runtime_checkable
class Source(Protocol):
    """Where a photo comes from: a Path, or one of attnvis.data.sources.  Its `str` is the photo's id."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def stem(self) -> str:
        """For the names of output files."""


@dataclass(frozen=True)
class Photo:
    """An upright RGB picture.  `pixels` may be smaller than `size` where a huge file was decoded reduced."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    size: tuple[int, int]  # (height, width) of the upright original
    digest: str  # of the file's bytes, or of the pixels where there is no file
    path: Source | None = None  # where to read it again
    notes: tuple[str, ...] = ()  # what was done to the file's own picture: "kind", or "kind: details"


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one photo: where people looked, where things are, what it shows.

    Everything in photo coordinates, on a grid of `size`; None where it is not known, empty where it is known
    that there is nothing.
    """

    size: tuple[int, int]  # (height, width)
    fixations: Float[np.ndarray, "F 2"] | None = None  # (row, column); one that came twice stands twice
    observers: Int[np.ndarray, " F"] | None = None  # who looked
    # the fixations of the other photos of the data set, brought to this photo's size
    others: Float[np.ndarray, "K 2"] | None = None
    looks: Float[np.ndarray, "H W"] | None = None  # a data set's own map of where people looked, not negative
    degree: float | None = None  # pixels to one degree of the viewers' sight
    mask: Bool[np.ndarray, "H W"] | None = None  # what was to be found
    distractors: Bool[np.ndarray, "H W"] | None = None  # what was not: the other items of a pop-out array
    boxes: tuple[Box, ...] | None = None
    names: tuple[str, ...] = ()  # of the boxes
    category: str = ""  # of the whole photo: a class's name or index
    zoom: float = 1.0  # pixels of this grid to one of the photo

    @kept_property
    def region(self) -> Bool[np.ndarray, "H W"] | None:
        """The mask, or else the pixels that are centred in a box; None where neither is known."""
        if self.mask is not None or self.boxes is None:
            return self.mask
        region = np.zeros(self.size, bool)
        for box in self.boxes:
            rows = slice(max(0, math.ceil(box.top - 0.5)), max(0, math.ceil(box.top + box.height - 0.5)))
            columns = slice(max(0, math.ceil(box.left - 0.5)), max(0, math.ceil(box.left + box.width - 0.5)))
            region[rows, columns] = True
        return region

    @property
    def known(self) -> frozenset[str]:
        """The names of what is known: fixations, others, looks, mask, distractors, boxes, category."""
        names = ("fixations", "others", "looks", "mask", "distractors", "boxes")
        return frozenset(
            [name for name in names if getattr(self, name) is not None] + ["category"] * bool(self.category)
        )


@dataclass(frozen=True)
class Preprocessing:
    """How photos become network inputs; backbones bring the classifier's own numbers,
    the user may change fit and size.
    """

    size: int  # the short side of the input in pixels (the side, for square fits)
    fit: str = "resize"  # resize | crop | letterbox | stretch
    resize: int | None = None  # fit=crop: the short side before the centre crop; None: the same as size
    # fit=resize: the long side is size plus a multiple of this, so that the grid ends where it should
    multiple: int = 32
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    # what the network takes.  any: any size; multiples: sides of `multiple`; fixed: `size` x `size` alone
    sides: str = "any"
    # of photos of more than 8 bits.  file: black and white are those of the file's type; a number of bits:
    # white is 2^depth - 1; used: the photo's smallest value is black, its largest white
    depth: int | str = "file"
    truncated: str = "refuse"  # refuse | take: what a file without its end still holds, the rest grey

    def __post_init__(self) -> None:
        """Raises ValueError for a depth or a way with truncated files that is none."""
        is_number = isinstance(self.depth, int) and not isinstance(self.depth, bool)
        if not (self.depth in ("file", "used") or (is_number and 8 <= int(self.depth) <= 32)):
            raise ValueError(f"depth {self.depth!r}; give file, used, or a number of bits from 8 to 32")
        if self.truncated not in ("refuse", "take"):
            raise ValueError(f"truncated {self.truncated!r}; give refuse or take")

    def changed(
        self, fit: str, size: int | None, depth: int | str = "file", truncated: str = "refuse"
    ) -> "Preprocessing":
        """With the user's fit and ways of reading, and the user's size if there is one.

        Raises ValueError for a size or a fit that the network does not take.
        """
        size = self.size if size is None else size
        if self.sides == "fixed" and (size != self.size or fit == "resize"):
            raise ValueError(
                f"this network takes {self.size} x {self.size} px alone, and fit={fit}, size={size} make "
                f"others; use preprocess.fit=crop, letterbox or stretch with preprocess.size={self.size}"
            )
        if self.sides == "multiples" and size % self.multiple:
            near = max(1, round(size / self.multiple)) * self.multiple
            raise ValueError(
                f"this network's patches are of {self.multiple} px, and a size of {size} px is no multiple; "
                f"give preprocess.size={near}"
            )
        return replace(self, fit=fit, size=size, depth=depth, truncated=truncated)


@dataclass(frozen=True)
class Provenance:
    """Which network looked, through which settings: what numbers need beside them to be had again.
    "" where it does not apply.
    """

    backbone: str = ""
    weights: str = ""
    weights_digest: str = ""  # sha256 over the values
    layer: str = ""
    precision: str = ""
    engine: str = ""
    device: str = ""
    placement: str = ""
    class_scores: str = ""  # the certificate of every layer's head
    fit: str = ""
    size: str = ""  # short side of the input in pixels
    seed: str = ""
    class_size: str = ""  # what is to be said of class scores at this size
    command: str = ""
    passed_over: str = ""  # what the folders held that is no photo, by kind
    redrawn_from: str = ""

    def entries(self) -> dict[str, str]:
        """What applies, under the names of run.json: weights_digest is "weights digest"."""
        return {field.replace("_", " "): value for field, value in vars(self).items() if value}

    @classmethod
    def from_entries(cls, entries: Mapping[str, object]) -> "Provenance":
        """Of run.json or another mapping that holds such entries among others; what is absent is ""."""
        names = [each.name for each in fields(cls)]
        return cls(**{name: str(entries.get(name.replace("_", " "), "")) for name in names})


@dataclass(frozen=True)
class View:
    """How a photo became a network input: input = photo * scale + shift, per axis (rows, columns)."""

    scale: tuple[float, float]
    shift: tuple[float, float]
    seen: Box  # the part of the photo that the network saw, in photo coordinates
    size: tuple[int, int]  # (height, width) of the input

    def to_photo(self, row: float, column: float) -> tuple[float, float]:
        return (row - self.shift[0]) / self.scale[0], (column - self.shift[1]) / self.scale[1]

    def to_input(self, row: float, column: float) -> tuple[float, float]:
        return row * self.scale[0] + self.shift[0], column * self.scale[1] + self.shift[1]


@dataclass(frozen=True)
class Batch:
    """Photos of one shape, ready for a network."""

    images: Float[Tensor, "B 3 H W"]
    views: tuple[View, ...]
    photos: tuple[Photo, ...]


@dataclass(frozen=True)
class Placement:
    """Where the cells of a grid lie on the photo: cell (i, j) is centred at (first + step * (i, j)),
    in photo coordinates.
    """

    first: tuple[float, float]
    step: tuple[float, float]
    grid: tuple[int, int]  # cells per column, cells per row
    size: tuple[int, int]  # (height, width) of the photo
    seen: Box
    # what one cell can see of the photo: height, width; None: not known
    field: tuple[float, float] | None = None
    # how the cells' place is known: rf, stretch, or a shift in pixels of the input and who measured it
    source: str = ""

    def centre(self, row: int, column: int) -> tuple[float, float]:
        return self.first[0] + self.step[0] * row, self.first[1] + self.step[1] * column

    def tile(self, row: int, column: int) -> Box:
        """The step-sized rectangle about a cell's centre; what the network saw of the photo for this cell
        reaches far beyond it.
        """
        middle = self.centre(row, column)
        return Box(middle[0] - self.step[0] / 2, middle[1] - self.step[1] / 2, *self.step)

    def nearest(self, down: float, across: float) -> tuple[int, int]:
        """The cell (row, column) whose centre is next to a place on the photo."""
        row, column = (
            min(max(round((place - first) / step), 0), cells - 1)
            for place, first, step, cells in zip(
                (down, across), self.first, self.step, self.grid, strict=True
            )
        )
        return row, column

    def sees(self, row: int, column: int) -> Box | None:
        """The receptive field of a cell, as far as it lies on what the network saw;
        the middle counts for more than the rim.
        """
        if self.field is None:
            return None
        (down, across), (high, wide) = self.centre(row, column), self.field
        top, left = max(self.seen.top, down - high / 2), max(self.seen.left, across - wide / 2)
        bottom = min(self.seen.top + self.seen.height, down + high / 2)
        right = min(self.seen.left + self.seen.width, across + wide / 2)
        return Box(top, left, bottom - top, right - left)


class Head:
    """How a classifier reads the patches.  `attnvis.backbone.heads` has one for every way that is known.

    `ask` gives the query vector of one class per photo, or of shares of all classes, [B, C], and what no
    patch changes: logit_c = mean_i s_i + constant_c.
    """

    kind: str
    categories: tuple[str, ...]

    def logits(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C"]:
        raise NotImplementedError

    def ask(
        self, maps: Float[Tensor, "B D h w"], classes: Int[Tensor, " B"] | Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        raise NotImplementedError

    def beside(self, prefix: Float[Tensor, "B P D"]) -> "Head":
        """The head of photos that have these class and register tokens; itself if it reads patches alone."""
        return self

    def rows(self, maps: Float[Tensor, "1 D h w"]) -> Float[Tensor, "C D"] | None:
        """What every class asks of one photo; None where one class at a time can be asked."""
        return None

    def read(self, maps: Float[Tensor, "B D h w"]) -> tuple[Float[Tensor, "B C"], "Ask | None"]:
        """The logits; and where these took layers of the network, what asks that same pass of classes."""
        return self.logits(maps), None

    def evidence(self, scores: Float[Tensor, "B N"], constants: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The logits that these scores stand for."""
        return scores.mean(1) + constants

    def before_mean(self, tokens: Float[Tensor, "*any N D"]) -> Float[Tensor, "*any N P"] | None:
        """What the classifier takes the mean of, of each patch: logits = after_mean(mean_i before_mean(v_i)).

        None where it takes no mean.
        """
        return None

    def after_mean(self, means: Float[Tensor, "*any P"]) -> Float[Tensor, "*any C"]:
        """The logits of such a mean, or of another one: a weighted mean, that of some of the patches."""
        return means

    def category(self, index: int) -> str:
        return self.categories[index] if index < len(self.categories) else f"class {index}"


Ask = Callable[[Tensor], Float[Tensor, "B D"]]  # one class per photo, or shares [B, C] -> their query vectors


@dataclass(frozen=True)
class Features:
    """What one layer of a backbone makes of a batch.

    The tokens serve as keys and as values (K = V), patch i = row * w + column.
    """

    tokens: Float[Tensor, "B N D"]
    grid: tuple[int, int]
    placements: tuple[Placement, ...]
    head: Head | None = None  # None where there is no classifier
    logits: Float[Tensor, "B C"] | None = None
    names: tuple[str, ...] = ()  # of the photos, for messages
    layer: str = "last"
    # class and register tokens, which are no patches: what follows the layer reads them too
    prefix: Float[Tensor, "B P D"] | None = None
    # of the pass that gave the logits (Head.read); of other tokens it would be false: `replace` leaves it out
    ask: Ask | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def mean(self) -> Float[Tensor, "B D"]:
        return self.tokens.mean(1)

    @property
    def maps(self) -> Float[Tensor, "B D h w"]:
        return self.tokens.mT.unflatten(2, self.grid)


@dataclass(frozen=True)
class ClassScore:
    """How likely one class is on one photo, says the network."""

    index: int
    name: str
    probability: float  # softmax over all classes
    logit: float
    rank: int  # 1: no class is likelier

    def __str__(self) -> str:
        return f"{self.name}: {percent(self.probability)} (rank {self.rank}, logit {self.logit:.1f})"


def percent(share: float) -> str:
    """Two significant digits, so that an unlikely class does not read as 0 %: 0.0163 -> 1.6%;
    below a millionth as a power of ten.
    """
    if 0 < share < 1e-6:
        return f"{100 * share:.0e}%"
    value = float(f"{100 * share:.2g}")
    return f"{value:.6f}".rstrip("0").rstrip(".") + "%"


@dataclass(frozen=True)
class Query:
    """What is asked of the patches: vectors, one label per photo and query, and what to draw on the photo.

    `keys` replaces the tokens where the question needs keys of its own (K != V), as rarity,
    distance and norm do.
    """

    vectors: Float[Tensor, "B Q K"]
    labels: tuple[tuple[str, ...], ...]  # [B][Q]
    keys: Float[Tensor, "B N K"] | None = None
    text: str = ""  # as `language.parse` reads it: class:tabby, point:120,80
    marks: tuple[Box | tuple[float, float] | None, ...] = ()  # [Q]: a box, a (row, column), or nothing
    classes: tuple[tuple[ClassScore, ...], ...] = ()  # [B][Q], of a class query: how likely each class is
    # [Q], of what asks a class: 1 for the likeliest of the photo, 2 for the next; 0: it was named
    ranks: tuple[int, ...] = ()
    # [Q], of what adds classes up: (factor, class) of each, a class that was named by its index, the k-th
    # likeliest of the photo by -k; () where it is no such sum
    mixtures: tuple[tuple[tuple[float, int], ...], ...] = ()
    # of a query whose sign is free, 0 ... 1: how clearly it was chosen
    sign_margin: Float[Tensor, "B Q"] | None = None


@dataclass(frozen=True)
class Scores:
    """The dot products s_i = q . k_i of one query set with the keys: all that any scaling needs."""

    query: Float[Tensor, "B Q K"]
    keys: Float[Tensor, "B N K"]

    @kept_property
    def products(self) -> Float[Tensor, "B Q N"]:
        with torch.autocast(self.keys.device.type, enabled=False):  # a caller's: it would halve the precision
            return self.query @ self.keys.mT

    @property
    def values(self) -> NoReturn:
        """What `products` was called once.  Raises AttributeError."""
        raise AttributeError(
            "Scores.values is now Scores.products (q . k_i); the values of an Attention are V"
        )

    @property
    def dim(self) -> int:
        """d_k."""
        return self.keys.shape[-1]

    @property
    def patches(self) -> int:
        """N."""
        return self.keys.shape[-2]


@dataclass(frozen=True)
class Attention:
    """Every stage of one attention: scores -> logits -> weights,
    and the two things that weights make of values.

    The seed note writes both V' = (a_1 v_1, ..., a_N v_N) and its sum as one thing;
    here they are `weighted` and `context`.
    """

    scores: Float[Tensor, "B Q N"]
    logits: Float[Tensor, "B Q N"]
    weights: Float[Tensor, "B Q N"]
    values: Float[Tensor, "B N E"] | None = None  # None: read from a file, which does not keep them
    dim: int | None = None  # d_k of the keys that gave the scores

    @property
    def known_values(self) -> Float[Tensor, "B N E"]:
        """V.  Raises ValueError for an attention that was read from a file."""
        if self.values is None:
            raise ValueError(
                "this attention was read from a file, which keeps no values; ask the network again"
            )
        return self.values

    @property
    def weighted(self) -> Float[Tensor, "B Q N E"]:
        """V': row i is a_i v_i; keeps the position of each patch."""
        return self.weights.to(self.known_values.device).unsqueeze(-1) * self.known_values.unsqueeze(1)

    @property
    def context(self) -> Float[Tensor, "B Q E"]:
        """c = sum_i a_i v_i, under autocast too in the precision of the weights."""
        values = self.known_values
        with torch.autocast(values.device.type, enabled=False):
            return self.weights.to(values.device) @ values

    @property
    def reinjected(self) -> Float[Tensor, "B Q N E"]:
        """N a_i v_i: V' in place of V with the mean kept, so that uniform attention changes nothing (literal
        a_i v_i shrinks V by N).
        """
        return self.weights.shape[-1] * self.weighted

    @property
    def times_uniform(self) -> Float[Tensor, "B Q N"]:
        """N a_i: 1 = no preference."""
        return self.weights.shape[-1] * self.weights


def find_class(name: str | int, categories: Sequence[str], count: int) -> int:
    """A category by its index, or by its name or one of its synonyms (tabby, tabby cat).

    Case, blanks, hyphens, underscores and apostrophes do not matter.  Raises ValueError
    with near matches where no class is called so, with their indices where several are (torchvision has two
    cranes), and with the range for an index outside of it.
    """
    return find_text(str(name).strip(), tuple(categories), count)


@lru_cache(maxsize=1024)
def find_text(text: str, categories: tuple[str, ...], count: int) -> int:
    """`find_class`, remembered: every batch of photos is asked of the same class."""
    if numbered := re.fullmatch(r"class ([0-9]+)", text):  # as a class without a name is called
        text = numbered[1] if int(numbered[1]) >= len(categories) else text
    if re.fullmatch(r"[+-]?[0-9]+", text):
        if not 0 <= int(text) < count:
            raise ValueError(
                f"class index {text} is not among the {count} classes of this backbone: 0 ... {count - 1}"
            )
        return int(text)
    if not categories:
        raise ValueError(
            f"the classes of this backbone have no names, so that {text!r} is none; "
            f"give an index, 0 ... {count - 1}"
        )
    wanted = plain_name(text)
    names = [plain_name(category) for category in categories]
    matches = [index for index, plain in enumerate(names) if plain == wanted]
    if not matches:
        synonyms = [set(map(plain_name, category.split(","))) for category in categories]
        matches = [index for index, plain in enumerate(synonyms) if wanted in plain]
    if len(matches) > 1:
        indices = " or ".join(map(str, matches[:6]))
        raise ValueError(
            f"{len(matches)} classes of this backbone are called {text!r}; give an index, {indices}"
        )
    if matches:
        return matches[0]
    near = [categories[names.index(plain)] for plain in near_names(wanted, names)]
    hint = f"did you mean {', '.join(near)}?" if near else "nothing is spelled nearly so"
    raise ValueError(f"unknown class {text!r} among the {count} of this backbone; {hint}")


@lru_cache(maxsize=1 << 14)  # a query by name compares with the thousand names of a network
def plain_name(text: str) -> str:
    """A name without what people write differently: case, hyphens, underscores, apostrophes, blanks."""
    letters = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[-_\s]+", " ", re.sub(r"['’`]", "", letters)).split())


def near_names(wanted: str, names: Sequence[str]) -> list[str]:
    """At most six of the names: with the whole text as a word, sharing its words, nearly spelled so."""
    words = {name: set(name.replace(",", "").split()) for name in names}
    # cat: tiger cat before crate
    whole = [name for name in names if wanted in words[name]]
    shared = {name: len(words[name] & set(wanted.split())) for name in names}
    sharing = sorted(filter(shared.get, names), key=lambda name: (-shared[name], len(words[name])))
    spelled = difflib.get_close_matches(wanted, names, n=5)
    inside = [name for name in names if wanted in name]
    return list(dict.fromkeys([*whole, *spelled[:3], *sharing[:3], *spelled, *inside]))[:6]
