"""How far a run in shards is.  The same door as `attnvis status`."""

from attnvis.cli import main

if __name__ == "__main__":
    main("status")
