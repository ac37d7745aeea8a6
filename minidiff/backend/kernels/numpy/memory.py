"""How much the fast kernels touch at a time, and the memory that they work in."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

SCRATCH = 1 << 20
"""Bytes that a kernel works in at a time: of the order of a core's share of the caches. Smaller
blocks pay more for each call, larger ones go to memory between two passes.
"""

_LINE = 64  # bytes of a cache line
_arena = threading.local()


def blocks(n: int, bytes_each: int, room: int | None = None) -> list[slice]:
    """0..n-1 (images, or numbers of a vector) in blocks of `room` bytes, one or more each.

    `room` None means SCRATCH.
    """
    size = max(1, (SCRATCH if room is None else room) // max(1, bytes_each))
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory to work in, with anything in it: the same for each call with this name and thread.

    It is kept, because the first touch of fresh memory costs more than arithmetic. A kernel must
    not return it, nor hold it across a call of another kernel that uses the name.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffers = vars(_arena)  # of this thread
    if name not in buffers or len(buffers[name]) < size:
        fresh = np.empty(size + _LINE, np.uint8)
        buffers[name] = fresh[-fresh.ctypes.data % _LINE :]
    return buffers[name][:size].view(dtype).reshape(shape)
