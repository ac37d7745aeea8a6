"""Adam in stretches of the flat vectors."""

from __future__ import annotations

import math

import numpy as np

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.reference import Array


def adam(
    xp: object, p: Array, g: Array, m: Array, v: Array, step: int, lr: float,
    beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """Block by block, with the bias corrections moved onto the step size and eps."""
    root = math.sqrt(1 - beta2**step)
    rate, eps = lr * root / (1 - beta1**step), eps * root
    blocks = memory.blocks(p.size, 6 * p.itemsize)
    scratch = np.empty(blocks[0].stop, p.dtype)
    for part in blocks:
        gp, mp, vp = g[part], m[part], v[part]
        t = scratch[: gp.size]
        mp *= beta1
        mp += np.multiply(gp, 1 - beta1, out=t)
        vp *= beta2
        np.multiply(gp, gp, out=t)
        vp += np.multiply(t, 1 - beta2, out=t)
        np.sqrt(vp, out=t)
        t += eps
        np.divide(mp, t, out=t)
        t *= rate
        p[part] -= t
