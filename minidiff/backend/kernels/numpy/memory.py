"""How much the fast kernels touch at a time, and the memory that they work in."""

from __future__ import annotations

import ctypes
import math
import os
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


def items(
    x: np.ndarray, shape: tuple[int, ...], size: int, strides: tuple[int, ...] | None = None
) -> np.ndarray:
    """`shape` runs of `size` numbers of the contiguous `x`, each as one item, to be copied.

    NumPy starts a loop for each run of numbers, and copies items in one loop: two to three times
    faster where the numbers of a run are few. `strides` in bytes; None means one after another.
    """
    return np.ndarray(shape, np.dtype((np.void, size * x.itemsize)), x, strides=strides)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's names for its settings, malloc.h
_GROWTH = 64 << 20  # bytes that the heap grows by at a time


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next arrays; whether it does.

    As it starts, glibc gives large arrays back to the system when they are freed and fetches them
    anew, page by page and zeroed, for the next step: that costs more than the arithmetic on them.
    This holds for the whole process from the first operation on. Other C libraries, and a glibc
    that the user has set up by its own variables, stay as they are: MALLOC_TRIM_THRESHOLD_=131072
    in the environment, which is glibc's own beginning, turns it off.
    """
    own = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (an AttributeError where the library is another)
        if any(name in os.environ for name in own):
            return False
        settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _GROWTH))
        return all([libc.mallopt(name, value) == 1 for name, value in settings])
    except (OSError, AttributeError, TypeError):
        return False
