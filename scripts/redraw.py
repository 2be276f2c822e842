"""The pictures of a run drawn again.  The same door as `attnvis redraw`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("redraw")
