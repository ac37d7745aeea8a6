"""Adam, clipping and averaging, in stretches of the flat vectors."""

from __future__ import annotations

import math

import numpy as np

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.reference import Array


def adam(
    xp: object, p: Array, g: Array, m: Array, v: Array, step: float, lr: float,
    beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """Block by block, with the bias corrections moved onto the step size and eps."""
    root = math.sqrt(1 - beta2**step)
    rate, eps = lr * root / (1 - beta1**step), eps * root
    blocks = memory.blocks(p.size, 6 * p.itemsize)
    for part in blocks:
        gp, mp, vp = g[part], m[part], v[part]
        t = memory.scratch("optimizer", gp.shape, p.dtype)
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


def clip_norm(xp: object, g: Array, max_norm: float) -> Array:
    """The gradient is written only where it has to be."""
    norm = np.sqrt(g @ g)
    if not norm <= max_norm:  # so put, a NaN spreads as in the definition
        g *= max_norm / float(norm)
    return norm


def moving_average(xp: object, average: Array, p: Array, decay: float) -> None:
    """Block by block, without temporaries of the size of the model."""
    for part in memory.blocks(p.size, 3 * p.itemsize):
        t = memory.scratch("optimizer", p[part].shape, p.dtype)
        np.subtract(p[part], average[part], out=t)
        t *= 1 - decay
        average[part] += t


def update(
    xp: object, p: Array, g: Array, m: Array, v: Array, average: Array | None,
    clock: tuple[float, float, float], max_norm: float,
    beta1: float, beta2: float, eps: float, weight_decay: float,
) -> Array:  # fmt: skip
    """The kernels above, one after the other: all in one stretch took no less time."""
    step, lr, decay = clock
    norm = clip_norm(xp, g, max_norm)
    if weight_decay:
        p *= 1 - lr * weight_decay
    adam(xp, p, g, m, v, step, lr, beta1, beta2, eps)
    if average is not None:
        moving_average(xp, average, p, decay)
    return norm
