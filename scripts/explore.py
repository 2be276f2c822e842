"""One page a photo, in which one clicks a patch and sees its attention.

The same door as `attnvis explore`.
"""

from attnvis.cli import console

if __name__ == "__main__":
    console("explore")
