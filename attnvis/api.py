"""attnvis from Python: a photo and a question in, one frozen result out; or many of both, each photo once
through the network.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from attnvis import catalogue
from attnvis.asking import Asking, Checks, Named, explained_by, named_stage, network_text
from attnvis.attention.grammar import split_texts
from attnvis.attention.query.language import Question, as_query, is_vector
from attnvis.attention.spec import as_function, format_function
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.sources import load_backbone
from attnvis.comparison import Comparison
from attnvis.data.decoding import load
from attnvis.data.memory import is_several
from attnvis.data.paths import find
from attnvis.explanation import Explanation
from attnvis.files import unique
from attnvis.methods.attention import checked_count
from attnvis.types import Photo, PhotoError, Preprocessing, Source

__all__ = ["Comparison", "Explanation", "compare", "explain", "explain_all"]


def explain(
    photo: Any,
    query: Question = "mean",
    scaling: Any = None,
    normalise: Any = "softmax",
    backbone: str | Backbone = "efficientnet_lite0",
    fit: str = "resize",
    size: int | None = None,
    method: Any = None,
    keys: Any = "same",
    heads: Any = "one",
    fuse: str = "",
    stability: bool = False,
    random_classes: int = 0,
    attended: bool = False,
    **settings: Any,
) -> Explanation:
    """Ask one question of one photo.

    Raises ValueError for a question or a network that is not known, PhotoError for what is no photo.

    photo      a file, "samples/cat", bytes, an open file, a PIL picture, an array or a tensor: see
               docs/python.md
    query      what is typed at the command line: mean, class, "class:tabby", "point:120,80", "pca:2", or a
               class's name; or a class's index, (x, y), (x, y, width, height), a vector [D] as an array, a
               tensor or a list of floats, a function of Features
    scaling    likewise: "temperature:2", "perplexity:0.3"; or a function of Scores; normalise as well.
               None: inv_sqrt_d for the mean, which finds a sharpness of its own; for others perplexity,
               a tenth of the patches
    keys       what patches are compared by: same (as they are), centred, l2, "pca:8", "whitened:8",
               "linear:FILE", "layer:NAME", "shuffled:0"; or a function of Features
    heads      in how many groups of channels they are compared, the map the mean of all: 4 (neighbouring
               channels), "random:4,1", "pca:4"; or a function of Scores
    fuse       mixture, product or max: of several layers, as in layer=["stage3", "last"], the one map that is
               made of theirs; explain_all gives theirs too
    backbone   efficientnet_lite0, a torchvision name (its weights are downloaded once), or a loaded Backbone
    stability, random_classes, attended
               as `attnvis run` has them (docs/queries.md): whether the map holds still, three more passes;
               its p value beside so many random classes; what the classifier says of the attended patches.
               They are in `answer` of what this gives: stability, p_value, attended
    method     another way to a map, in the place of all of these: "gradcam", "gradcam:tabby", "centre", see
               docs/evaluate.md; or a function of `Inputs`
    settings   go to the backbone when it is given by name: layer, weights, device, precision, placement
    """
    if isinstance(photo, list | tuple):
        raise ValueError(
            f"explain() takes one photo, not a {type(photo).__name__} of {len(photo)}; "
            "attnvis.explain_all(photos, ...) takes several"
        )
    net = loaded(backbone, settings)
    how = net.preprocessing.changed(fit, size)
    pixels = load(single_file(photo) if isinstance(photo, str | os.PathLike) else photo, short=how.size)
    if method is not None:
        require_usual(
            query=(query, "mean"),
            scaling=(scaling, None),
            normalise=(normalise, "softmax"),
            keys=(keys, "same"),
            heads=(as_text(heads), "one"),
            fuse=(fuse, ""),
            stability=(stability, False),
            random_classes=(random_classes, 0),
            attended=(attended, False),
        )
        return explained_by(method, pixels, net, how)
    asking = Asking(
        net,
        how,
        questions=(as_query(single("query", query)),),
        scalings=None if scaling is None else (single("scaling", scaling),),
        normalisers=(single("normalise", normalise),),
        photos=(pixels,),
        named=words_of(backbone, settings),
        keys=single("keys", keys),
        heads=single("heads", as_text(heads)),
        fuse=fuse,
        checks=checks(stability, random_classes, attended),
    )
    explanations = asking.of(pixels)
    if fuse:
        explanations = [each for each in explanations if each.answer.attention is None]
    if len(explanations) != 1:
        raise ValueError(
            f"explain() answers one query and this makes {len(explanations)}; "
            "attnvis.explain_all(photo, query) gives all of them"
        )
    return explanations[0]


def explain_all(
    photos: Any,
    queries: Any = "mean",
    scalings: Any = None,
    normalisers: Any = "softmax",
    backbone: str | Backbone = "efficientnet_lite0",
    fit: str = "resize",
    size: int | None = None,
    keys: Any = "same",
    heads: Any = "one",
    fuse: str = "",
    stability: bool = False,
    random_classes: int = 0,
    attended: bool = False,
    **settings: Any,
) -> list[Explanation]:
    """Ask every photo every question under every scaling and normaliser; the network runs once a photo.

    Each of the first four is one, a list of several, or a text as at the command line: "class,mean",
    "none,temperature:2".  photos: also a folder, a pattern, "samples", or a batch, [B, 3, H, W].  The rest
    as in `explain`, whose errors this raises, before the network runs for whatever is no photo.

    Gives photo by photo, of each query by query, of each scaling by scaling.
    """
    net = loaded(backbone, settings)
    how = net.preprocessing.changed(fit, size)
    questions = tuple(listed("query", queries, as_query).values())
    scalings = None if scalings is None else scalings_of(scalings)
    pictures = tuple(load_all(photos, how))
    asking = Asking(
        net,
        how,
        questions=questions,
        scalings=scalings,
        normalisers=normalisers_of(normalisers),
        photos=pictures,
        named=words_of(backbone, settings),
        keys=single("keys", keys),
        heads=single("heads", as_text(heads)),
        fuse=fuse,
        checks=checks(stability, random_classes, attended),
    )
    return [explanation for photo in pictures for explanation in asking.of(photo)]


def compare(
    photos: Any,
    queries: Any = "mean",
    scalings: Any = None,
    normalisers: Any = "softmax",
    backbone: str | Backbone = "efficientnet_lite0",
    fit: str = "resize",
    size: int | None = None,
    keys: Any = "same",
    heads: Any = "one",
    fuse: str = "",
    **settings: Any,
) -> Comparison:
    """A figure of photos x queries x scalings on one colour bar.  Arguments and errors as in `explain_all`.

    Without scalings all queries have one: inv_sqrt_d for the mean alone, else perplexity.
    """
    net = loaded(backbone, settings)
    how = net.preprocessing.changed(fit, size)
    questions = listed("query", queries, as_query)
    if scalings is None:
        scalings = "inv_sqrt_d" if list(questions) == ["mean"] else "perplexity"
    pictures = tuple(load_all(photos, how))
    asking = Asking(
        net,
        how,
        questions=tuple(questions.values()),
        scalings=scalings_of(scalings),
        normalisers=normalisers_of(normalisers),
        photos=pictures,
        named=words_of(backbone, settings),
        keys=single("keys", keys),
        heads=single("heads", as_text(heads)),
        fuse=fuse,
    )
    explanations = [explanation for photo in pictures for explanation in asking.of(photo)]
    return Comparison(
        tuple(explanations),
        asking.settings,
        with_keys(network_text(net), asking.keys[0], asking.heads[0]),
        warnings=tuple(net.warnings_at(how)),
    )


# -------------------------------------------------------------------------------------------------- settings


def checks(stability: Any, random_classes: Any, attended: Any) -> Checks:
    """Raises ValueError for what is neither True nor False, and as `checked_count` does."""
    for name, value in (("stability", stability), ("attended", attended)):
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value!r}: give True or False")
    return Checks(stability, checked_count(random_classes), attended)


def require_usual(**given: tuple[Any, Any]) -> None:
    """Of settings what they are and what they are when nobody sets them.  Raises ValueError for others."""
    others = [
        name
        for name, (value, usual) in given.items()
        if value is not usual and not (type(value) is type(usual) and value == usual)
    ]
    if others:
        raise ValueError(
            f"a method asks a question of its own and has its own map: leave out {', '.join(others)}"
        )


def words_of(backbone: str | Backbone, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The network as it was asked for; None where it was given loaded."""
    return {"backbone": backbone, **settings} if isinstance(backbone, str) else None


def with_keys(network: str, keys: str, heads: str) -> str:
    """What a figure says of its network, and of keys that are not the patches with all channels."""
    of_keys = "" if keys == "same" else f", keys {keys}"
    return network + of_keys + ("" if heads == "one" else f", heads {heads}")


def as_text(heads: Any) -> Any:
    """4 is typed as 4, and 1 is one."""
    if isinstance(heads, int) and not isinstance(heads, bool):
        heads = str(heads)
    return "one" if heads == "1" else heads


def loaded(backbone: Any, settings: Mapping[str, Any]) -> Backbone:
    """The backbone, by name with these settings.

    Raises ValueError for settings of one that is loaded, and for what is no backbone.
    """
    if isinstance(backbone, str):
        try:
            return load_backbone(backbone, **settings)
        except TypeError as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if not unknown or unknown[1] not in settings:
                raise
            near = get_close_matches(unknown[1], inspect.signature(explain).parameters, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"neither explain nor {backbone} takes {unknown[1]}={guess}") from None
    if isinstance(backbone, nn.Module):
        raise ValueError(
            f"a {type(backbone).__name__} is a network, and backbone= takes one that is cut at a layer: "
            "backbone=attnvis.build_backbone(net), made once"
        )
    if settings:
        raise ValueError(
            f"{', '.join(settings)} would be ignored: the backbone is loaded already; "
            "give its name, or leave them out"
        )
    return backbone


# ---------------------------------------------------------------------------------------------------- stages


def single(group: str, stage: Any) -> Any:
    """The one stage that is meant: a query as it is, a scaling or a normaliser with its text.

    Raises ValueError for several: a list, or a text that names more than one.
    """
    texts = split_texts(stage, option_names(group)) if isinstance(stage, str) else []
    if len(texts) > 1 or (isinstance(stage, list) and not is_vector(stage)):
        several = texts or stage
        if group in ("keys", "heads"):
            raise ValueError(
                f"one call takes one {group}=, and {stage!r} names {len(several)}; call it for each"
            )
        raise ValueError(
            f"explain() takes one {group} and {stage!r} names {len(several)}; "
            f"attnvis.explain_all(photo, ...) takes several"
        )
    one = texts[0] if texts else stage
    if group == "query":
        return one
    function = named_stage(group, one) if isinstance(one, str) else as_function(group, one)
    return stage.strip() if isinstance(stage, str) else format_function(function), function


@lru_cache
def option_names(group: str) -> frozenset[str]:
    """What the folders of configs name: read once in a process."""
    return frozenset(catalogue.options(group))


def listed(group: str, stages: Any, make: Callable[[Any], Callable]) -> dict[str, Callable]:
    """Stages, one or several, under the texts that they go by.  Raises ValueError for none."""
    if isinstance(stages, str):
        stages = split_texts(stages, option_names(group))
    is_one = not isinstance(stages, list) or is_vector(stages)
    functions = [make(stage) for stage in ([stages] if is_one else stages)]
    if not functions:
        raise ValueError(f"no {group} was given: the list is empty; leave it out, or name one")
    taken: dict[str, int] = {}
    return {unique(format_function(function), taken): function for function in functions}


def scalings_of(scalings: Any) -> tuple[Named, ...]:
    return tuple(listed("scaling", scalings, lambda stage: as_function("scaling", stage)).items())


def normalisers_of(normalisers: Any) -> tuple[Named, ...]:
    return tuple(listed("normalise", normalisers, lambda stage: as_function("normalise", stage)).items())


# ---------------------------------------------------------------------------------------------------- photos


def single_file(photo: str | os.PathLike) -> Source:
    """The one file that a path, a pattern or a sample's name stands for.  Raises ValueError for several."""
    paths = find(photo if isinstance(photo, str) else Path(photo))
    if len(paths) > 1:
        raise ValueError(
            f"explain() takes one photo and {photo} stands for {len(paths)}; "
            f"attnvis.explain_all({str(photo)!r}, ...) takes all, and so does: attnvis run {photo}"
        )
    return paths[0]


def load_all(photos: Any, how: Preprocessing) -> list[Photo]:
    """Every photo that is meant.  Raises ValueError without any, PhotoError for what is none."""
    several = list(photos) if isinstance(photos, list | tuple) or is_several(photos) else [photos]
    sources: list[Any] = []
    for photo in several:
        is_name = isinstance(photo, str | os.PathLike)
        sources += find(photo if isinstance(photo, str) else Path(photo)) if is_name else [photo]
    if not sources:
        raise ValueError("no photo was given: the list is empty")
    loaded_photos = []
    for number, source in enumerate(sources, start=1):
        try:
            loaded_photos.append(load(source, short=how.size))
        except PhotoError as error:
            which = f"photo {number} of {len(sources)}: " if len(sources) > 1 else ""
            raise PhotoError(f"{which}{error}") from None
    return loaded_photos
