"""The chapters import what stands beside them: `chapterlib`, `exercises`, `solutions`, `build`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "chapters"))
