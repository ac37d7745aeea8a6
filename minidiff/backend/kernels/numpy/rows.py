"""Sums over equal indices."""

from __future__ import annotations

import numpy as np

from minidiff.backend.kernels.reference import Array


def sum_rows(xp: object, g: Array, rows: Array, count: int) -> Array:
    """Sorted, so that what belongs together is neighbours: no work for a k that does not occur."""
    s = np.zeros((count, g.shape[1]), g.dtype)
    if len(rows):
        order = np.argsort(rows, kind="stable")
        k = rows[order]
        first = np.flatnonzero(np.concatenate([[True], k[1:] != k[:-1]]))
        s[k[first]] = np.add.reduceat(g[order], first, axis=0)
    return s
