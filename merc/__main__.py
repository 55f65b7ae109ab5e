"""``python -m merc`` is the command ``merc``."""

import sys

from merc.cli import main

if __name__ == "__main__":
    sys.exit(main())
