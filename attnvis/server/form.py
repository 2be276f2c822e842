"""The page with which one begins: a network is chosen, a photo dropped."""

from collections.abc import Sequence

from attnvis.explorer.modules import script
from attnvis.render.html import environment, page_pieces, read_template

__all__ = ["form_page"]


def form_page(networks: Sequence[str], most: int, warnings: Sequence[str] = ()) -> bytes:
    """The page; networks: names to choose from, the usual one first; most: bytes of a photo."""
    pieces = page_pieces(
        environment("attnvis.server").get_template("form.html"),
        style=read_template("attnvis.server", "form.css"),
        script=script("upload.js"),
        title="Where does a network look?",
        networks=networks,
        most=most,
        asks_server=True,
        warnings=warnings,
    )
    return "".join(pieces).encode()
