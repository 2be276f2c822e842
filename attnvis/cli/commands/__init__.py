"""One file per command: its config and a folder in, files and an exit code out."""
