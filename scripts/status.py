"""How far a run in shards is.  The same door as `attnvis status`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("status")
