"""Functions of each number, each a pass over memory."""

from __future__ import annotations

from typing import Any

from minidiff.backend.kernels.cupy.launch import THREADS, blocks, contiguous, launch, packs
from minidiff.backend.kernels.reference import Array


def _grid(n: int) -> tuple[int]:
    return (blocks(n, 4 * THREADS),)


def silu(xp: Any, x: Array) -> tuple[Array, Array]:
    """Both results in one pass; e^-x may overflow to infinity, which makes y 0."""
    (x,) = contiguous(xp, x)
    y, s = xp.empty_like(x), xp.empty_like(x)
    n, fours = xp.int64(x.size), packs(xp, x.size, x, y, s)
    launch(xp, "elementwise", "silu", _grid(x.size), (x, y, s, n, fours))
    return y, s


def silu_grad(xp: Any, g: Array, y: Array, s: Array) -> Array:
    """One pass."""
    g, y, s = contiguous(xp, g, y, s)
    dx = xp.empty_like(g)
    n, fours = xp.int64(g.size), packs(xp, g.size, g, y, s, dx)
    launch(xp, "elementwise", "silu_grad", _grid(g.size), (g, y, s, dx, n, fours))
    return dx
