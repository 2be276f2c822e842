"""A photo's path in, the class that its name or its folder tells out."""

import re
from collections.abc import Sequence
from pathlib import Path

from attnvis.types import PhotoError, find_class

__all__ = ["read_truth"]


def read_truth(path: Path, categories: Sequence[str], classes: int) -> int:
    """The class that a photo's name tells: tabby/1.jpg, 281/1.jpg, 281_tabby/1.jpg or 281_1.jpg; PhotoError where it tells none, or two."""
    folder = path.absolute().parent.name
    name = re.sub(r"^n\d{8}[_ ]", "", folder)  # n02123045_tabby
    if not name.isdigit():
        try:
            return find_class(name, categories, classes)
        except ValueError:
            pass  # a folder may be called anything
    found = {re.match(r"(\d+)_", path.name), re.match(r"(\d+)(_|$)", folder)} - {None}
    told = {int(match[1]) for match in found if match}
    if len(told) == 1:
        try:
            return find_class(str(*told), categories, classes)
        except ValueError as error:
            raise PhotoError(f"{path}: {error}") from None
    wanted = "call the file 281_anything, or its folder by index or name: 281, tabby"
    if told:
        raise PhotoError(
            f"{path} names two classes, {' and '.join(map(str, sorted(told)))}, by its file and by its folder; {wanted}"
        )
    raise PhotoError(f"{path} does not say its class; {wanted}")
