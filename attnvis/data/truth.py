"""A photo's path in, the class that its name or its folder tells out."""

import re
from collections.abc import Sequence
from pathlib import Path

from attnvis.types import PhotoError, Source, find_class

__all__ = ["read_truth"]


def read_truth(path: Source, categories: Sequence[str], classes: int) -> int:
    """The index of the class that a photo's path tells: tabby/1.jpg, 281/1.jpg, 281_tabby/1.jpg or 281_1.jpg.

    `categories` are the names of the first of `classes` classes.  Raises PhotoError where the path tells no
    class, two, or one that there is not.
    """
    place = Path(str(path).replace("::", "/"))  # of an archive, the folder in it
    folder = place.absolute().parent.name
    name = re.sub(r"^n\d{8}[_ ]", "", folder)  # n02123045_tabby
    if not name.isdigit():
        try:
            return find_class(name, categories, count=classes)
        except ValueError:
            pass  # a folder may be called anything
    matches = (re.match(r"(\d+)_", place.name), re.match(r"(\d+)(_|$)", folder))
    indices = {int(match[1]) for match in matches if match}
    if len(indices) == 1:
        try:
            return find_class(str(*indices), categories, count=classes)
        except ValueError as error:
            raise PhotoError(f"{path}: {error}") from None
    advice = "call the file 281_anything, or its folder by index or name: 281, tabby"
    if indices:
        numbers = " and ".join(map(str, sorted(indices)))
        raise PhotoError(f"{path} names two classes, {numbers}, by its file and by its folder; {advice}")
    raise PhotoError(f"{path} does not say its class; {advice}")
