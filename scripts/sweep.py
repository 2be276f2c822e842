"""Photos in, a comparison of scalings out.  The same door as `attnvis sweep`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("sweep")
