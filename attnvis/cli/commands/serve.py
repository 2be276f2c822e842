"""`attnvis serve`: a page in the browser on which photos are dropped, and an explorer of each."""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from attnvis.cli.commands.command import Command
from attnvis.cli.common import build_network, listed, overrides, shout
from attnvis.cli.config import build, plain
from attnvis.cli.exploring import is_of_network, python_words
from attnvis.cli.messages import note

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.render.overlays import Style
    from attnvis.server.jobs import Upload
    from attnvis.server.web import PhotoServer

__all__ = ["COMMAND", "serve"]

LOOPBACK = ("127.", "localhost")
SHARED = (
    "device",
    "precision",
    "engine",
    "placement",
)  # settings that every network takes, as they are typed


def serve(cfg: "DictConfig", folder: Path) -> int:
    """Answers browsers until it is stopped.  Raises ValueError for a port or a network that cannot be had."""
    from attnvis.server.form import form_page
    from attnvis.server.jobs import JobQueue
    from attnvis.server.web import EVERYWHERE, HERE

    terminal = sys.stderr
    words = [word for word in overrides() if is_of_network(word)]
    style = build(cfg, "render")
    first = build_network(cfg)
    others = [name for name in other_networks(plain(cfg.networks)) if name != first.name]
    networks = Networks(first, words, others)
    preprocessing = first.preprocessing.changed(**plain(cfg.preprocess))
    warnings = first.warnings_at(preprocessing)
    shout(warnings)
    settings = {"preprocess": plain(cfg.preprocess), "classes": plain(cfg.classes), "style": style}

    def make(upload: "Upload") -> bytes:
        return explorer_of(upload, *networks.find(upload.network), **settings)

    jobs = JobQueue(make, waiting=at_least(cfg, "waiting", 0), kept=at_least(cfg, "kept", 1))
    server = bind(cfg, jobs, networks.names)
    with server:
        server.form = form_page(networks.names, most=server.limits.upload, warnings=warnings)
        try:
            print(f"open {server.url} in a browser; Ctrl-C ends it", flush=True)
            if not str(cfg.host).startswith(LOOPBACK):
                note("whoever reaches this machine may give photos: there is no password".upper())
                if not server.names - {*HERE, *EVERYWHERE}:
                    note("from other machines only names that names=[...] lists are answered; it lists none")
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt as stop:
            leave_at_once(stop, terminal)
    return 0


def leave_at_once(stop: KeyboardInterrupt, terminal: TextIO) -> NoReturn:
    """Ends the process in the middle of a job or not: torch works on in a thread, on which Python aborts.

    terminal: stderr, which the job may have turned elsewhere
    """
    from attnvis.cli.stopping import Stopped

    words, sign = (stop.words, stop.sign) if isinstance(stop, Stopped) else ("stopped", signal.SIGINT)
    print(f"attnvis: {words}; {COMMAND.kept}", file=terminal, flush=True)
    os._exit(128 + sign)


def at_least(cfg: "DictConfig", key: str, least: int) -> int:
    """A whole number among the settings.  Raises ValueError for a smaller one."""
    if cfg[key] < least:
        raise ValueError(f"{key}={cfg[key]}: give {least} or more")
    return int(cfg[key])


def bind(cfg: "DictConfig", jobs: Any, networks: Sequence[str]) -> "PhotoServer":
    """The server, which listens already.  Raises ValueError where it cannot."""
    from attnvis.server.web import Limits, PhotoServer

    host, port = str(cfg.host), int(cfg.port)
    if not 0 <= port <= 65535:
        raise ValueError(f"port={port}: give 1 to 65535, or 0 for any that is free")
    limits = Limits(at_least(cfg, "upload", 1) * 1_000_000, seconds=float(at_least(cfg, "seconds", 1)))
    names = [host, *listed(plain(cfg.names))]
    try:
        return PhotoServer((host, port), jobs, form=b"", networks=networks, limits=limits, names=names)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} is taken; choose another with port=..., or port=0 for any that is free"
        elif error.errno in (errno.EACCES, errno.EPERM):
            why = f"port {port} may not be used by you; choose one above 1023 with port=..."
        else:
            why = f"host={host} is no address of this machine ({error.strerror}); 127.0.0.1 always is"
        raise ValueError(why) from None


def other_networks(networks: Any) -> list[str]:
    """The names that `networks` gives; of `auto` those whose weights are here.

    Raises ValueError for a name that no config knows.
    """
    from attnvis import catalogue
    from attnvis.backbone.overview import with_weights_here
    from attnvis.backbone.sources import config_of

    if networks == "auto":
        return with_weights_here()
    names = listed(networks)
    for name in names:
        if config_of(name) is None:
            raise ValueError(f"networks: {catalogue.unknown_backbone(name)}")
    return names


class Networks:
    """What may be chosen: the network of the settings, and others by name, loaded when they are asked for."""

    def __init__(self, first: "Backbone", words: Sequence[str], others: Sequence[str]) -> None:
        self.first = first
        self.words = tuple(words)  # the settings that give the first one
        self.names = (first.name, *others)

    def find(self, name: str) -> "tuple[Backbone, tuple[str, ...]]":
        """(the network, the settings that give it).  Raises ValueError where it cannot be loaded."""
        from attnvis.backbone.sources import load_backbone

        if name == self.first.name:
            return self.first, self.words
        shared = {key: word for word in self.words if (key := shared_key(word))}
        settings = {key: word.partition("=")[2] for key, word in shared.items()}
        of_photos = [word for word in self.words if word.startswith("preprocess")]
        return load_backbone(name, **settings), (f"backbone={name}", *shared.values(), *of_photos)


def shared_key(word: str) -> str:
    """backbone.device=cpu -> device; "" for a setting that is the first network's own."""
    group, _, key = word.partition("=")[0].lstrip("+").partition(".")
    return key if group == "backbone" and key in SHARED else ""


def explorer_of(
    upload: "Upload",
    backbone: "Backbone",
    words: Sequence[str],
    preprocess: dict[str, Any],
    classes: Any,
    style: "Style",
) -> bytes:
    """The page of one photo.  Raises PhotoError where it is none, ValueError for classes that are none."""
    from attnvis.data.decoding import load
    from attnvis.data.preprocessing import collate
    from attnvis.explorer.page import Origin, explorer

    preprocessing = backbone.preprocessing.changed(**preprocess)
    photo = load(upload.data, name=upload.name, depth=preprocessing.depth, truncated=preprocessing.truncated)
    origin = Origin(
        photo,
        backbone(collate([photo], preprocessing)),
        f"{backbone.name}, layer {backbone.layer}, weights {backbone.weights}",
        command=tuple(words),
        python=tuple(python_words(list(words))),
        warnings=backbone.warnings_at(preprocessing),
    )
    return explorer(origin, classes=classes, style=style).html.encode("utf-8", "replace")


COMMAND = Command("serve", serve, kept="explorers that were not saved are gone")
