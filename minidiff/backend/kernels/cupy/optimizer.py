"""Adam, clipping and averaging of the flat vectors; nothing waits for the device."""

from __future__ import annotations

from typing import Any

from minidiff.backend.kernels.cupy.launch import THREADS, blocks, launch
from minidiff.backend.kernels.reference import Array

PARTS = 512
"""The most partial sums of a norm: a constant, so that every device adds in the same order."""


def adam(
    xp: Any, p: Array, g: Array, m: Array, v: Array, step: Any, lr: Any,
    beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """One pass. In a captured graph `step` is (step, lr) in float64 on the device, `lr` is None."""
    memory = not isinstance(step, float | int)
    doubles = [xp.float64(x) for x in (0 if memory else step, 0 if memory else lr)]
    doubles += [xp.float64(x) for x in (beta1, beta2, eps)]
    place = step if memory else xp.empty(2, xp.float64)
    launch(
        xp, "optimizer", "adam", (blocks(p.size),),
        (p, g, m, v, xp.int64(p.size), place, *doubles, int(memory)),
    )  # fmt: skip


def moving_average(xp: Any, average: Array, p: Array, decay: Any) -> None:
    """One pass. In a captured graph `decay` is an array of one float64 on the device."""
    memory = not isinstance(decay, float | int)
    place = decay if memory else xp.empty(1, xp.float64)
    launch(
        xp, "optimizer", "moving_average", (blocks(p.size),),
        (
            average, p, xp.int64(p.size), place, xp.float64(0 if memory else decay), int(memory)
        ),
    )  # fmt: skip


def clip_norm(xp: Any, g: Array, max_norm: float) -> Array:
    """A pass for the norm, and one that is left at once where nothing is to be clipped."""
    count = blocks(g.size, THREADS, PARTS)
    parts, norm, n = xp.empty(count, g.dtype), xp.empty((), g.dtype), xp.int64(g.size)
    launch(xp, "optimizer", "square_sums", (count,), (g, parts, n))
    launch(
        xp, "optimizer", "clip", (blocks(g.size, THREADS, 1024),),
        (g, parts, norm, n, count, float(max_norm)),
    )  # fmt: skip
    return norm
