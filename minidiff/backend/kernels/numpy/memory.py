"""How much the fast kernels touch at a time."""

from __future__ import annotations

SCRATCH = 1 << 20
"""Bytes that a kernel works in at a time: of the order of a core's share of the caches. Smaller
blocks pay more for each call, larger ones go to memory between two passes.
"""


def blocks(n: int, bytes_each: int) -> list[slice]:
    """0..n-1 (images, or numbers of a vector) in blocks that fit the scratch, one or more each."""
    size = max(1, SCRATCH // max(1, bytes_each))
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
