"""attnvis: where a CNN looks, and why.

import attnvis
result = attnvis.explain("cat.jpg", query="tabby", scaling="inv_sqrt_d")
"""

from typing import Any

__all__ = ["Backbone", "Explanation", "explain"]


def __getattr__(name: str) -> Any:
    """torch is imported when work starts, so that --help and completion answer at once."""
    if name in __all__:
        from attnvis import api

        return getattr(api, name)
    raise AttributeError(f"module 'attnvis' has no attribute {name!r}")
