"""Elementwise kernels in stretches of a vector."""

from __future__ import annotations

import numpy as np

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.reference import Array


def silu(xp: object, x: Array) -> tuple[Array, Array]:
    """Block by block without temporaries; e^-x may overflow to infinity, which makes y 0."""
    flat = np.ascontiguousarray(x).reshape(-1)
    y, s = np.empty_like(flat), np.empty_like(flat)
    with np.errstate(over="ignore"):
        for part in memory.blocks(flat.size, 3 * x.itemsize):
            sp = np.negative(flat[part], out=s[part])
            np.exp(sp, out=sp)
            sp += 1
            np.reciprocal(sp, out=sp)
            np.multiply(flat[part], sp, out=y[part])
    return y.reshape(x.shape), s.reshape(x.shape)


def silu_grad(xp: object, g: Array, y: Array, s: Array) -> Array:
    """Block by block, in place of the result."""
    gf, yf, sf = (np.ascontiguousarray(a).reshape(-1) for a in (g, y, s))
    dx = np.empty_like(gf)
    for part in memory.blocks(gf.size, 4 * g.itemsize):
        d = np.subtract(1, sf[part], out=dx[part])
        d *= yf[part]
        d += sf[part]
        d *= gf[part]
    return dx.reshape(g.shape)
