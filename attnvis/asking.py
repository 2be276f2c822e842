"""A network and what it is to be asked in, what photos answer out; each goes through the network once."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from typing import Any

from attnvis.attention import heads as head_functions
from attnvis.attention import keys as key_functions
from attnvis.attention.query.language import build_queries
from attnvis.attention.spec import as_function, format_function
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.host import undisturbed
from attnvis.data.preprocessing import collate
from attnvis.explanation import Explanation
from attnvis.explorer.page import Origin
from attnvis.methods.answer import Answer
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.baselines import parse_method
from attnvis.methods.saliency import SaliencyMethod
from attnvis.pipeline.preparing import prepared, prepared_keys
from attnvis.pipeline.stability import StableMethod
from attnvis.types import Features, Photo, Preprocessing, Query

__all__ = ["Asking", "Checks", "Named", "explained_by", "named_stage", "network_text"]

Named = tuple[str, Callable]  # a stage under the text that it goes by


@dataclass(frozen=True)
class Checks:
    """What else is asked of every map; each costs time."""

    stability: bool = False
    random_classes: int = 0
    attended: bool = False


@dataclass(frozen=True)
class Asking:
    """A network and all that it is to be asked; None for the scaling that suits each question."""

    net: Backbone
    how: Preprocessing
    questions: tuple[Callable, ...]
    scalings: tuple[Named, ...] | None
    normalisers: tuple[Named, ...]
    photos: tuple[Photo, ...] = ()  # all that are asked, for exemplar:run
    named: Mapping[str, Any] | None = None  # the network as it was asked for; None: it was given loaded
    keys: Named = ("same", key_functions.same)
    heads: Named = ("one", head_functions.one)
    fuse: str = ""
    checks: Checks = Checks()

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """(scaling, normaliser), as they are typed."""
        return tuple((scaling, normalise) for (scaling, _), (normalise, _) in self.stages(self.questions[0]))

    def stages(self, question: Callable) -> list[tuple[Named, Named]]:
        """(scaling, normaliser) of one question."""
        usual = usual_scaling(question)
        scalings = self.scalings or ((usual, named_stage("scaling", usual)),)
        return list(product(scalings, self.normalisers))

    def of(self, photo: Photo) -> list[Explanation]:
        """What the photo answers; the network sees it once, however much it is asked."""
        with undisturbed():
            return list(self.answers(photo))

    @cached_property
    def prepared(self) -> list[tuple[Callable, Callable]]:
        """Every question as it was asked, and once its exemplars have been looked at."""
        return [
            (question, prepared(question, self.net, self.how, photos=self.photos))
            for question in self.questions
        ]

    def answers(self, photo: Photo) -> Iterator[Explanation]:
        """One question after the other, each under every setting."""
        batch = collate([photo], self.how)
        layers = self.net(batch)
        changed = None
        if self.checks.stability:  # the network sees each change of the photo once, however much is asked
            changed = StableMethod(AttentionMethod(self.net), self.how).changed(batch)
        origin = self.origin(photo, layers)
        keys = prepared_keys(self.keys[1])
        for question, function in self.prepared:
            queries = lru_cache(partial(asked_of, function, {layer.layer: layer for layer in layers}))
            for scaling, normalise in self.stages(question):
                method = AttentionMethod(
                    self.net,
                    query=lambda features, queries=queries: queries(features.layer),  # type: ignore[misc]
                    scaling=scaling[1],
                    normalise=normalise[1],
                    keys=keys,
                    heads=self.heads[1],
                    fuse=self.fuse,
                    random_classes=self.checks.random_classes,
                    attended=self.checks.attended,
                )
                (answers,) = method.answer(layers)
                if changed is not None:
                    stable = StableMethod(replace(method, query=function), self.how)
                    (answers,) = stable.judged([answers], changed)
                for answer in answers:
                    yield self.explanation(origin, answer, scaling[0], normalise[0])

    def origin(self, photo: Photo, layers: tuple[Features, ...]) -> Origin:
        """What an explorer of this photo starts from, and the settings that give it again.

        A network that was loaded by the caller has no words at the command line.
        """
        prepared_as = {"size": self.how.size, "fit": self.how.fit}
        command, arguments = None, {"layer": self.net.layer} | prepared_as
        if self.named is not None:
            named = {"backbone": "", "layer": self.net.layer} | dict(self.named)
            keys = {name: name if name == "backbone" else f"backbone.{name}" for name in named}
            command = (
                *(f"{keys[name]}={value}" for name, value in named.items()),
                *(f"preprocess.{name}={value}" for name, value in prepared_as.items()),
            )
            arguments = named | prepared_as
        words = tuple(f"{name}={json.dumps(value, default=str)}" for name, value in arguments.items())
        return Origin(
            photo,
            tuple(replace(layer) for layer in layers),  # without the pass that it could be asked by
            network_text(self.net),
            command=command,
            python=words if command else ("backbone=net", *words),
            warnings=tuple(self.net.warnings_at(self.how)),
        )

    def explanation(self, origin: Origin, answer: Answer, scaling: str, normalise: str) -> Explanation:
        """An answer, and what must be said beside it of the network and of class scores."""
        caution = self.net.class_caution(self.how) if answer.class_score else ""
        of_network = (*self.net.warnings_at(self.how), *([caution] if caution else []))
        return Explanation(
            origin.photo,
            answer,
            scaling=scaling,
            backbone=network_text(self.net),
            warnings=(*of_network, *answer.warnings),
            notes=self.net.remarks,
            normalise=normalise,
            keys=self.keys[0],
            heads=self.heads[0],
            origin=origin,
        )


def asked_of(question: Callable, layers: Mapping[str, Features], name: str) -> list[Query]:
    """The queries of one layer: they are made once, for all scalings."""
    return build_queries(question, layers[name])


def explained_by(method: Any, photo: Photo, net: Backbone, how: Preprocessing) -> Explanation:
    """What a method that is no attention says of a photo.

    Raises UnknownName for a method that is not known, ValueError where it gives a map of every layer.
    """
    function = parse_method(method) if isinstance(method, str) else method
    with undisturbed():
        ((answer, *others),) = SaliencyMethod(net, net, function)(collate([photo], how))
    if others:
        raise ValueError(f"explain() gives one map and {answer.query} has one of every layer; name one layer")
    caution = net.class_caution(how) if answer.class_score else ""
    return Explanation(
        photo,
        answer,
        scaling="",
        backbone=network_text(net),
        warnings=(*net.warnings_at(how), *([caution] if caution else []), *answer.warnings),
        notes=net.remarks,
        normalise="",
    )


def usual_scaling(question: Callable) -> str:
    """The scaling of who names none: the mean patch finds a sharpness of its own."""
    return "inv_sqrt_d" if format_function(question) == "mean" else "perplexity"


@lru_cache
def named_stage(group: str, text: str) -> Callable:
    """As `as_function`, which tries a text out before it believes it: once in a process."""
    return as_function(group, text)


def network_text(net: Backbone) -> str:
    """efficientnet_lite0, layer last, weights DEFAULT"""
    return f"{net.name}, layer {net.layer}, weights {net.weights}"
