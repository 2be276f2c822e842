"""A run's maps for benchmark sites.  The same door as `attnvis export`."""

from attnvis.cli import main

if __name__ == "__main__":
    main("export")
