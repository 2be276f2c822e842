"""A run's maps for benchmark sites.  The same door as `attnvis export`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("export")
