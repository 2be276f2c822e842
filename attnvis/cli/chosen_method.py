"""A command's settings in, the saliency method that they mean out."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attnvis.cli.config import build, plain
from attnvis.cli.stages import ATTENTION

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.methods.answer import Method
    from attnvis.methods.attention import Encoder
    from attnvis.types import Preprocessing, Source

    MakeMethod = Callable[[Encoder, Backbone, Preprocessing, Sequence[Source] | None], Method]

__all__ = ["chosen_method", "class_name_files", "inputs_of", "random_classes"]


def chosen_method(cfg: "DictConfig") -> "tuple[MakeMethod, dict[str, Any]]":
    """What makes the method of an encoder, its network, a preprocessing and the run's photos (None: too many
    to be read first); and the settings of the run that concern it.
    """
    from attnvis.methods.attention import AttentionMethod
    from attnvis.methods.saliency import SaliencyMethod
    from attnvis.pipeline.preparing import prepared, prepared_keys
    from attnvis.pipeline.stability import StableMethod

    config: dict[str, Any] = plain(cfg)
    function = build(cfg, "method")
    if getattr(function, "func", None) is not AttentionMethod:
        if cfg.stability or cfg.attended or random_classes(cfg) or cfg.fuse:
            raise ValueError(
                "stability, attended, random_classes and fuse are asked of method=attention; leave one out"
            )
        settings = {key: value for key, value in config.items() if key not in ATTENTION}
        return lambda encoder, network, *others: SaliencyMethod(encoder, network, function), settings
    stages = {group: build(cfg, group) for group in ATTENTION}
    stages["keys"] = prepared_keys(stages["keys"])
    count = random_classes(cfg)

    def make(
        encoder: "Encoder", network: "Backbone", how: "Preprocessing", photos: "Sequence[Source] | None"
    ) -> "Method":
        query = prepared(stages["query"], encoder, how, photos=photos)
        method = AttentionMethod(
            encoder,
            **stages | {"query": query},
            random_classes=count,
            attended=cfg.attended,
            fuse=str(cfg.fuse or ""),
        )
        return StableMethod(method, how) if cfg.stability else method

    return make, config


def inputs_of(cfg: "DictConfig", photos: "Sequence[Source] | None" = ()) -> dict[str, str]:
    """The files that the question is read from, by the digests of what they hold: two runs of the same words
    ask the same where these are the same.

    photos: the run's own.  Raises ValueError for an exemplar that is no photo.
    """
    from attnvis.methods.attention import AttentionMethod
    from attnvis.pipeline.question_files import query_files, setting_files

    config: dict[str, Any] = plain(cfg)
    digests = class_name_files(config)
    function = build(cfg, "method") if "method" in config else None
    if function is not None and getattr(function, "func", None) is not AttentionMethod:
        return digests | setting_files(config["method"])
    for group in ATTENTION:
        is_query = group == "query"
        digests |= query_files(build(cfg, group), photos) if is_query else setting_files(config[group])
    return digests


def class_name_files(config: dict[str, Any]) -> dict[str, str]:
    """The file that names the network's classes, if any, by their digest: a class is asked by its name.

    Raises ValueError where it names none.
    """
    from attnvis.backbone.class_files import CLASS_NAMES, class_names
    from attnvis.json_files import json_digest

    names = config["backbone"].get("categories")
    if isinstance(names, str) and names and names not in CLASS_NAMES:
        return {names: json_digest(class_names(names))}
    return {}


def random_classes(cfg: "DictConfig") -> int:
    """How many each class map is compared with.  Raises ValueError as `checked_count` does."""
    from attnvis.methods.attention import checked_count

    return checked_count(cfg.random_classes)
