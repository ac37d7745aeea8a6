"""The update of the flat vectors; nothing waits for the device.

It is one kernel, after the partial sums of the norm. Its pieces alone (Adam, clipping, averaging)
run on a GPU as they are defined.
"""

from __future__ import annotations

from typing import Any

from minidiff.backend.kernels.cupy.launch import THREADS, blocks, launch, packs
from minidiff.backend.kernels.reference import Array

PARTS = 512
"""The most partial sums of a norm: a constant, so that every device adds in the same order."""


def update(
    xp: Any, p: Array, g: Array, m: Array, v: Array, average: Array | None, clock: Any,
    max_norm: float, beta1: float, beta2: float, eps: float, weight_decay: float,
) -> Array:  # fmt: skip
    """Reads each vector once, and the gradient once more for its norm."""
    averaged = average is not None
    vectors, n = (p, g, m, v, average if averaged else p), xp.int64(p.size)
    fours, count = packs(xp, p.size, *vectors), blocks(p.size, 4 * THREADS, PARTS)
    parts, norm = xp.empty(count, p.dtype), xp.empty((), p.dtype)
    launch(xp, "optimizer", "square_sums", (count,), (g, parts, n, fours))
    doubles = (xp.float64(x) for x in (max_norm, beta1, beta2, eps, weight_decay))
    clock = xp.asarray(clock, dtype=xp.float64)
    launch(
        xp, "optimizer", "update", (count,),
        (*vectors, int(averaged), n, fours, parts, count, norm, clock, *doubles),
    )  # fmt: skip
    return norm
