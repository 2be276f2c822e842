"""List or clear the features that sweeps keep.  The same door as `attnvis cache`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("cache")
