"""An error in, what it says on one line out."""

__all__ = ["in_one_line"]


def in_one_line(error: BaseException, most: int | None = None) -> str:
    """What an error says, white space folded, in at most so many characters; its type if it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
