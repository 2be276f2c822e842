"""What every network offers, as a table.  The same door as `attnvis backbones`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("backbones")
