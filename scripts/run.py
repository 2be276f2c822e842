"""Photos in, heatmaps out.  The same door as `attnvis run`."""

from attnvis.cli import main

if __name__ == "__main__":
    main("run")
