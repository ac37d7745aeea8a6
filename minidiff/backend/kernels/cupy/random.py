"""Random numbers from a counter: no state, and nothing waits for the device."""

from __future__ import annotations

import math
from typing import Any

from minidiff.backend.kernels.cupy.launch import THREADS, blocks, launch
from minidiff.backend.kernels.reference import Array


def uniform(xp: Any, key: Array, draw: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """Written once; no other memory is touched."""
    return _draw(xp, "uniform", key, draw, shape, dtype)


def normal(xp: Any, key: Array, draw: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """The same, with a logarithm, a root, a sine and a cosine for each two numbers."""
    return _draw(xp, "normal", key, draw, shape, dtype)


def _draw(
    xp: Any, kernel: str, key: Array, draw: int, shape: tuple[int, ...], dtype: Any
) -> Array:
    out, n = xp.empty(shape, dtype), math.prod(shape)
    grid = (blocks(n, 4 * THREADS),)
    launch(xp, "random", kernel, grid, (key, xp.uint32(draw), out, xp.int64(n)))
    return out
