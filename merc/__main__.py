"""``python -m merc``: the command line."""

import sys

from merc.cli import main

sys.exit(main())
