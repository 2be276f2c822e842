"""Methods and settings against what is known of photos.  The same door as `attnvis evaluate`."""

from attnvis.cli import main

if __name__ == "__main__":
    main("evaluate")
