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

__all__ = ["chosen_method", "random_classes"]


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


def random_classes(cfg: "DictConfig") -> int:
    """How many each class map is compared with.  Raises ValueError for fewer than none."""
    if cfg.random_classes < 0:
        raise ValueError(f"random_classes={cfg.random_classes}: give 0 for no p value, or 1000 for one")
    return int(cfg.random_classes)
