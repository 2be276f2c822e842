"""A photo's features in, what the note's page needs out to put them under its slider.

The job of a sweep writes it, while the network is there; the page is made later.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attnvis.data.preprocessing import collate
from attnvis.experiments.sweep.job import LAB
from attnvis.explorer.encode import encode_layer
from attnvis.explorer.page import class_facts, colours, packed_of, small_picture
from attnvis.pipeline.streaming import read_photo
from attnvis.render.html import data_uri
from attnvis.render.overlays import Style
from attnvis.types import Features, Photo, PhotoError, Preprocessing, Source

__all__ = ["lab_of", "read_lab"]

CLASSES = 5  # the likeliest, of which the page asks the first


def lab_of(
    paths: Iterable[Source], backbone: Any, preprocessing: Preprocessing, style: Style
) -> bytes | None:
    """JSON of the first of the photos that has features; None where none has.

    backbone: Batch -> Features of each layer
    """
    for path in paths:
        try:
            photo = read_photo(path, preprocessing)
            (features,) = backbone(collate([photo], preprocessing))
            return json.dumps(lab_facts(photo, features, style)).encode()
        except PhotoError:  # the job says so
            continue
    return None


def lab_facts(photo: Photo, features: Features, style: Style) -> dict[str, Any]:
    """What the page's script reads, as JSON takes it.  Raises PhotoError."""
    layer = encode_layer(features, CLASSES if features.head else "auto")
    facts = {
        "photo": {"name": photo.name, "path": photo.name, "size": photo.size},
        "layers": [layer.facts],
        "classes": class_facts([features]),
        "colours": colours(style),
    }
    return {"facts": facts, "packed": packed_of([layer]), "picture": data_uri(small_picture(photo))}


def read_lab(folder: Path) -> dict[str, Any] | None:
    """What the job in this folder left; None where it left nothing that can be read."""
    try:
        return json.loads((folder / LAB).read_text("utf-8"))
    except (OSError, ValueError):
        return None
