"""W&B's library in a few functions: a run of its own, its key and its server, and what it takes of ours.

No other file imports it, and this one only when it is called: where W&B is off it is not even loaded.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float, Int, UInt8

from attnvis.errors import first_line
from attnvis.pipeline.logger import LoggerSettings, readable
from attnvis.pipeline.records import as_written

__all__ = [
    "as_artifact",
    "as_histogram",
    "as_image",
    "as_page",
    "as_table",
    "has_key",
    "refused_variables",
    "require_server",
    "start_run",
]

PATIENCE = 30  # seconds that W&B may take to answer at the start
LAST_PATIENCE = 20  # seconds that it may take to send the last at the end, when files are there already
PROBE = 3  # seconds in which a server that is there answers a call


def start_run(
    settings: LoggerSettings,
    *,
    mode: str,
    place: Path,
    config: Mapping[str, Any],
    id: str,
    continues: bool,
) -> Any:
    """A run of W&B's, online or offline, whose own files go to <place>/wandb.  Raises what W&B raises."""
    import wandb

    own_settings = wandb.Settings(
        silent=os.environ.get("WANDB_SILENT", "true").lower() not in ("false", "0", "no", "off"),
        x_disable_stats=True,
        init_timeout=PATIENCE,
        finish_timeout=LAST_PATIENCE,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=1,
    )
    chosen: dict[str, Any] = {
        "entity": settings.entity,
        "group": settings.group,
        "name": settings.name,
        "notes": settings.notes,
        "tags": list(settings.tags) or None,
    }
    options: dict[str, Any] = {
        "mode": mode,
        "dir": str(place),
        "config": config,
        "project": settings.project,
        "job_type": settings.job_type,
        "id": id,
        "resume": "allow" if continues else None,
        "reinit": "create_new",  # beside a run of the caller's own, which goes on
        "settings": own_settings,
        **{key: value for key, value in chosen.items() if value is not None},
    }
    with readable_words(), nothing_staged():  # words, which W&B takes down
        return wandb.init(**options)


@contextlib.contextmanager
def readable_words() -> Iterator[None]:
    """The words of the command line as UTF-8 has them, in a locale that could not read them too."""
    typed = sys.argv
    sys.argv = [readable(word) for word in typed]
    try:
        yield
    finally:
        sys.argv = typed


@contextlib.contextmanager
def nothing_staged() -> Iterator[None]:
    """Inside the block a run of W&B's does not ask its launch agents for inputs that were staged for it.

    Whoever stages some has imported them: asked by a run, that is .5 s for an empty list.
    """
    import wandb

    name = "_detect_and_apply_job_inputs"  # of W&B 0.31
    ask = getattr(getattr(wandb, "Run", None), name, None)
    if ask is None or "wandb.sdk.launch.inputs.internal" in sys.modules:
        yield
        return
    setattr(wandb.Run, name, lambda run: None)
    try:
        yield
    finally:
        setattr(wandb.Run, name, ask)


def has_key() -> bool:
    """Whether W&B knows a key, without asking for one; the caller's own run, and its mode, do not count."""
    import wandb

    session = wandb.setup().settings
    own, mode = wandb.run, session.mode
    try:
        wandb.run, session.mode = None, "online"
        return bool(wandb.login(prompt=False, verify=False))
    finally:
        wandb.run, session.mode = own, mode


def require_server() -> None:
    """Raises ConnectionError where W&B's server cannot be called."""
    import wandb

    url = urlsplit(str(wandb.setup().settings.base_url))
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return  # the way to it is not ours to try
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=PROBE).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ConnectionError(f"its server {url.netloc} does not answer: {reason}") from None


def refused_variables() -> dict[str, str]:
    """The variables of the environment that W&B cannot read, and why."""
    import wandb

    if not hasattr(wandb.Settings, "update_from_env_vars"):
        return {}
    refused = {}
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        try:
            wandb.Settings().update_from_env_vars({name: os.environ[name]})
        except Exception as error:
            lines = str(error).splitlines()
            refused[name] = lines[2].strip() if len(lines) > 2 else first_line(error)
    return refused


# -------------------------------------------------------------------------------------- ours, as W&B takes it


def as_image(picture: Path | UInt8[np.ndarray, "H W 3"], caption: str | None = None) -> Any:
    """A picture that lies in a file, or pixels, which become a JPEG."""
    from wandb import Image

    text = None if caption is None else readable(caption)
    if isinstance(picture, Path):
        return Image(str(picture), caption=text)
    return Image(picture, caption=text, file_type="jpg")


def as_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """Cells are texts, numbers, None or images."""
    from wandb import Table

    cells = [[as_written(value) if isinstance(value, str) else value for value in row] for row in rows]
    return Table(list(columns), cells, allow_mixed_types=True)


def as_page(path: Path) -> Any:
    """A page that needs no other file."""
    from wandb import Html

    return Html(str(path), inject=False)


def as_artifact(name: str, kind: str, files: Mapping[str, Path]) -> Any:
    """Files under their names in it, sent from where they lie."""
    from wandb import Artifact

    artifact = Artifact(name, type=kind)
    for file_name, path in files.items():
        artifact.add_file(
            str(path.absolute()), name=as_written(file_name), skip_cache=True, policy="immutable"
        )
    return artifact


def as_histogram(counts: Int[np.ndarray, " n"], edges: Float[np.ndarray, " n+1"]) -> Any:
    """Counts that are known already, as W&B draws them."""
    from wandb import Histogram

    return Histogram(np_histogram=(counts, edges))
