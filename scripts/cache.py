"""List or clear the features that sweeps keep.  The same door as `attnvis cache`."""

from attnvis.cli import main

if __name__ == "__main__":
    main("cache")
