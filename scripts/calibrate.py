"""Find where a network's cells really look, from photos and their mirror images.

The same door as `attnvis calibrate`.
"""

from attnvis.cli import console

if __name__ == "__main__":
    console("calibrate")
