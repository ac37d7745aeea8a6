"""What every chapter uses: predictions, verification labels, exercises that diagnose, figures.

A chapter begins with ``from chapterlib import ...`` and needs to know no more than these names.
Everything here prints plain text that depends on nothing but the chapter, so that a second run
of a notebook gives the same output.
"""

from chapterlib.checker import check
from chapterlib.labels import exact, for_all, ledger, monte_carlo, symbolic
from chapterlib.predictions import predict, reveal, score

__all__ = [
    "check", "exact", "for_all", "ledger", "monte_carlo", "predict", "reveal", "score", "symbolic",
]  # fmt: skip
