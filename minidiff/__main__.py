"""``python -m minidiff``: the command line."""

import sys

from minidiff.cli import main

sys.exit(main())
