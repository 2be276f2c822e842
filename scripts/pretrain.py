"""Distil a torchvision network into the embedded one.  The same door as `attnvis pretrain`."""

from attnvis.cli import main

if __name__ == "__main__":
    main("pretrain")
