"""A query that sees other photos, prepared: they go through the network once, before the first photo."""

from collections.abc import Iterator, Sequence

from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import prepare
from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.data.preprocessing import collate
from attnvis.methods.attention import Encoder
from attnvis.types import Features, Photo, PhotoError, Preprocessing, Source

__all__ = ["prepared"]


def prepared(
    query: QueryFunction, backbone: Encoder, how: Preprocessing, photos: Sequence[Source | Photo] = ()
) -> QueryFunction:
    """The query with its exemplars looked at; one without any is itself, and nothing is read.

    photos: the run's own, for exemplar:run; files, or what was decoded.  Raises ValueError for an exemplar
    that is no photo.
    """

    def encode(name: str) -> Iterator[Sequence[Features]]:
        for source in photos if name == "run" else found(name):
            try:
                photo = (
                    source
                    if isinstance(source, Photo)
                    else load(source, short=how.size, depth=how.depth, truncated=how.truncated)
                )
                layers = backbone(collate([photo], how))
            except PhotoError as error:
                if name == "run":
                    continue  # the run says what is wrong with it
                raise ValueError(f"query exemplar:{name}: {error}") from None
            yield layers

    return prepare(query, encode)


def found(name: str) -> list[Source]:
    """Raises ValueError, for without an exemplar no photo can be asked."""
    try:
        return find(name)
    except PhotoError as error:
        raise ValueError(f"query exemplar:{name}: {error}") from None
