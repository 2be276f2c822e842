"""A page in the browser on which photos are dropped, and an explorer of each.

The same door as `attnvis serve`.
"""

from attnvis.cli import console

if __name__ == "__main__":
    console("serve")
