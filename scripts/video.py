"""A video in, the same video with the attention drawn over it out.  The same door as `attnvis video`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("video")
