"""``python -m flopcount`` is the command ``flopcount``."""

import sys

from flopcount.cli import main

if __name__ == "__main__":
    sys.exit(main())
