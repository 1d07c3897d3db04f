"""One way of the demo in an interpreter of its own: see `ways.py`."""

import sys

from .ways import main

if __name__ == "__main__":
    main(sys.argv[1:])
