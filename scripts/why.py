"""Why a patch lit up, channel by channel.  The same door as `attnvis why`."""

from attnvis.cli import console

if __name__ == "__main__":
    console("why")
