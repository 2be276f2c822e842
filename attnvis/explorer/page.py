"""One photo and a network's features of it in, a page of one file out, in which one asks what one likes."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from attnvis import catalogue
from attnvis.data.decoding import full_pixels
from attnvis.explorer.encode import EncodedLayer, encode_layer
from attnvis.explorer.modules import script
from attnvis.files import write_bytes
from attnvis.render.html import data_uri, environment, page_pieces, read_template, script_data
from attnvis.render.overlays import Style, colour_table, encode, resize_longest_side
from attnvis.types import Features, Photo, PhotoError

__all__ = [
    "MOST_BYTES",
    "MOST_PHOTOS",
    "Explorer",
    "Origin",
    "PhotoData",
    "explorer",
    "page_of",
    "photo_data",
]

MOST_PHOTOS = 8  # of one page
MOST_BYTES = 1 << 24  # of one page of several
LONGEST = 960  # side of the photo in the page, in pixels
QUALITY = 82


@dataclass(frozen=True, eq=False)
class Origin:
    """What a network made of one photo, and the words by which to have it again.

    layers     of one photo: B = 1
    network    name, layer and weights, for readers
    command    settings as `attnvis run` takes them: preprocess.size=448; None: none gives this network
    python     arguments as `attnvis.explain` takes them: size=448
    """

    photo: Photo
    layers: tuple[Features, ...] = field(repr=False)
    network: str
    command: tuple[str, ...] | None = ()
    python: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explorer:
    """A page of one file: it needs no network, no server and no second file, and can be mailed."""

    name: str  # of the photo
    html: str = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Writes the page, whole or not at all, and makes its folder; gives its path.  Raises OSError."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, self.html.encode("utf-8", "replace"))
        return path

    def _repr_html_(self) -> str:
        """In a notebook: in a frame of its own, which may run scripts and nothing else."""
        return (
            f'<iframe sandbox="allow-scripts allow-downloads" srcdoc="{escape(self.html)}" '
            f'title="{escape(self.name)}" style="width: 100%; height: 860px; border: 0"></iframe>'
        )


@dataclass(frozen=True)
class PhotoData:
    """All that a page holds of one photo."""

    name: str
    network: str
    size: tuple[int, int]
    picture: str  # an address that is the picture itself
    facts: Markup  # JSON
    packed: dict[str, str]  # id -> base64
    warnings: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """How much of a page it is."""
        return len(self.picture) + len(self.facts) + sum(map(len, self.packed.values()))


def explorer(
    origin: Origin,
    start: str = "",
    classes: int | str | Sequence[int | str] = "auto",
    style: Style | None = None,
) -> Explorer:
    """The page of one photo.

    Raises PhotoError where the features are not finite or the photo's file changed, ValueError for classes
    that are none.

    start      the view that it opens with, as it stands behind the # of a link: q=point:120,80
    classes    auto: as many of the likeliest as stay small; all; how many; or which
    style      the colours and their scale
    """
    return page_of([photo_data(origin, start, classes=classes, style=style)])


def photo_data(
    origin: Origin,
    start: str = "",
    classes: int | str | Sequence[int | str] = "auto",
    style: Style | None = None,
) -> PhotoData:
    """What `page_of` makes a page of.  Arguments and errors as those of `explorer`."""
    style = style or Style()
    encoded = [encode_layer(layer, classes) for layer in origin.layers]
    photo = origin.photo
    facts = {
        "photo": {"name": photo.name, "path": typed_path(photo), "size": photo.size},
        "network": origin.network,
        "command": None
        if origin.command is None
        else without_layer(origin.command, "backbone.layer=", of_several=len(encoded) > 1),
        "python": without_layer(origin.python, "layer=", of_several=len(encoded) > 1),
        "start": start,
        "layers": [layer.facts for layer in encoded],
        "classes": class_facts(origin.layers),
        "sentences": {group: sentences(group) for group in ("scaling", "normalise")},
        "colours": colours(style),
    }
    return PhotoData(
        photo.name,
        origin.network,
        photo.size,
        data_uri(small_picture(photo)),
        facts=script_data(facts),
        packed=packed_of(encoded),
        warnings=tuple(origin.warnings),
    )


def page_of(photos: Sequence[PhotoData]) -> Explorer:
    """One page of one photo, or of several with a choice of them.  Raises ValueError for none or too many."""
    total = sum(photo.bytes for photo in photos)
    if not 1 <= len(photos) <= MOST_PHOTOS or (len(photos) > 1 and total > MOST_BYTES):
        raise ValueError(
            f"{len(photos)} photos of {total / 1e6:.0f} MB do not go into one page: "
            f"at most {MOST_PHOTOS} of {MOST_BYTES >> 20} MB do"
        )
    first, *others = photos
    page = environment("attnvis.explorer").get_template("explorer.html")
    pieces = page_pieces(
        page,
        style="".join(read_template("attnvis.explorer", name) for name in ("pane.css", "explorer.css")),
        script=script(),
        title=first.name,
        network=first.network,
        size=first.size,
        picture=first.picture,
        facts_json=first.facts,
        packed=first.packed,
        others=others,
        warnings=first.warnings,
    )
    name = first.name if not others else f"{first.name} and {len(others)} more"
    return Explorer(name, "".join(pieces))


def without_layer(words: Sequence[str], beginning: str, of_several: bool) -> list[str]:
    """Of several layers each view names its own."""
    return [word for word in words if not (of_several and word.startswith(beginning))]


def typed_path(photo: Photo) -> str:
    """The photo as one would name it here: no page tells where this machine keeps attnvis' samples."""
    if photo.path is None:
        return photo.name
    if isinstance(photo.path, Path) and photo.path.parent.parts[-2:] == ("skimage", "data"):
        return f"samples/{photo.path.stem}"
    return str(photo.path)


def small_picture(photo: Photo) -> bytes:
    """The photo as it is shown, a jpg of at most LONGEST pixels a side.  Raises PhotoError."""
    pixels = photo.pixels if max(photo.pixels.shape[:2]) >= LONGEST else full_pixels(photo)
    if max(pixels.shape[:2]) > LONGEST:
        pixels = resize_longest_side(pixels, LONGEST)
    try:
        return encode(np.ascontiguousarray(pixels), "jpg", quality=QUALITY)
    except ValueError as error:
        raise PhotoError(f"{photo.name}: {error}") from None


def packed_of(layers: Sequence[EncodedLayer]) -> dict[str, str]:
    """Every packed piece in base64 under the id by which the script finds it."""
    return {
        f"{name}-{number}": base64.b64encode(content).decode()
        for number, layer in enumerate(layers)
        for name, content in layer.packed.items()
    }


def class_facts(layers: Sequence[Features]) -> dict[str, object]:
    """All names that the network knows, and the logits of the layer that its classifier reads."""
    for layer in reversed(layers):
        if layer.head and layer.logits is not None:
            logits = layer.logits[0].double().cpu()
            names = [layer.head.category(index) for index in range(len(logits))]
            probabilities = logits.softmax(0).numpy()
            return {"names": names, "probabilities": [float(f"{share:.3g}") for share in probabilities]}
    return {"names": [], "probabilities": []}


def sentences(group: str) -> dict[str, str]:
    """What each of attnvis' own scalings or normalisers does: the first line of its config."""
    return {option: catalogue.sentence(f"{group}/{option}") for option in catalogue.options(group)}


def colours(style: Style) -> dict[str, object]:
    """By what `render` colours, for the script: 256 levels of RGB, and the scale."""
    table: UInt8[np.ndarray, "256 3"] = colour_table(style.colours)[:, 0]
    return {
        "table": base64.b64encode(table.tobytes()).decode(),
        "low": style.low,
        "high": style.high,
        "most": style.opacity,
        "follow": style.follow,
        "contours": style.contours,
    }
