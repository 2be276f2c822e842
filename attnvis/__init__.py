"""attnvis: where a CNN looks, and why.

    import attnvis
    result = attnvis.explain("cat.jpg", query="tabby")

explain         one photo and one question -> an Explanation
Explanation     scores, logits, weights, context, diagnostics and pictures of one answer
explain_all     photos x questions x scalings -> a list of them; each photo passes the network once
compare         the same side by side -> a Comparison, which is a figure
Backbone        a network cut at layers
build_backbone  of any torch.nn.Module;  load_backbone, by name, with its weights
AttentionMethod a network, a query, a scaling and a normaliser: a batch of photos -> answers
Style           how maps are drawn;  read_maps: a run's raw numbers, back from their file
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from attnvis.lazy import lazily

if TYPE_CHECKING:
    from attnvis.api import compare, explain, explain_all
    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.build import build_backbone
    from attnvis.backbone.sources import load_backbone
    from attnvis.comparison import Comparison
    from attnvis.explanation import Explanation
    from attnvis.methods.attention import AttentionMethod
    from attnvis.pipeline.maps import read_maps
    from attnvis.render.overlays import Style

__all__ = [
    "AttentionMethod",
    "Backbone",
    "Comparison",
    "Explanation",
    "Style",
    "build_backbone",
    "compare",
    "explain",
    "explain_all",
    "load_backbone",
    "read_maps",
]

__version__ = version("attnvis")

HOMES = {
    "AttentionMethod": "attnvis.methods.attention",
    "Backbone": "attnvis.backbone.backbone",
    "Comparison": "attnvis.comparison",
    "Explanation": "attnvis.explanation",
    "Style": "attnvis.render.overlays",
    "build_backbone": "attnvis.backbone.build",
    "compare": "attnvis.api",
    "explain": "attnvis.api",
    "explain_all": "attnvis.api",
    "load_backbone": "attnvis.backbone.sources",
    "read_maps": "attnvis.pipeline.maps",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, HOMES)
