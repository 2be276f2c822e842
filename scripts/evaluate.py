"""Methods and settings against what is known of photos.  The same door as `attnvis evaluate`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("evaluate")
