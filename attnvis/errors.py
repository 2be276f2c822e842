"""An error in, what it says on one line out."""

__all__ = ["first_line", "in_one_line"]


def in_one_line(error: BaseException, most: int | None = None) -> str:
    """What an error says, white space folded, in at most so many characters; its type if it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type if it says nothing."""
    lines = str(error).splitlines() or [""]
    return lines[0] or type(error).__name__
