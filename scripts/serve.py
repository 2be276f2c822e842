"""A page in the browser on which photos are dropped, and an explorer of each.

The same door as `attnvis serve`.
"""

from attnvis.cli import main

if __name__ == "__main__":
    main("serve")
