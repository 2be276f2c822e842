"""Photos in, heatmaps out.  The same door as `attnvis run`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("run")
