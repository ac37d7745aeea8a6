"""Sums of rows that belong together: the gradient of an embedding."""

from __future__ import annotations

from typing import Any

from minidiff.backend.kernels.cupy.launch import launch
from minidiff.backend.kernels.reference import Array


def sum_rows(xp: Any, g: Array, rows: Array, count: int) -> Array:
    """Each row of the result looks for its own: nothing is sorted, and no product is taken."""
    n, columns = g.shape
    g, s = xp.ascontiguousarray(g), xp.empty((count, columns), g.dtype)
    rows = xp.ascontiguousarray(rows.astype(xp.int64))
    launch(xp, "rows", "sum_rows", (count,), (g, rows, s, n, columns))
    return s
