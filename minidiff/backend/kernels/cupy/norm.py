"""Group norm, with SiLU or without: a block of threads for each group of each sample."""

from __future__ import annotations

import math
from typing import Any

from minidiff.backend.kernels.cupy.launch import THREADS, aligned, contiguous, launch
from minidiff.backend.kernels.reference import Array


def _step(p: Array | None) -> int:
    """From one sample's numbers to the next one's in (C,) or (N, C)."""
    return 0 if p is None or p.ndim == 1 else p.shape[1]


def _packed(x: Array, groups: int, *others: Array) -> int:
    return int(x.shape[-1] // groups % 4 == 0 and aligned(x, *others))


def _threads(x: Array, groups: int, packed: int) -> int:
    """Of a block: warps in which a thread has about four loads; small groups need few."""
    loads = math.prod(x.shape[1:]) // groups // (4 if packed else 1)
    return min(THREADS, 32 * max(1, -(-loads // 128)))


def _forward(
    xp: Any, x: Array, gamma: Array, beta: Array, shift: Array | None, groups: int, eps: float,
    with_silu: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    x, gamma, beta, shift = contiguous(xp, x, gamma, beta, shift)
    n, c = len(x), x.shape[-1]
    y = xp.empty_like(x)
    m, r = xp.empty((n, groups), x.dtype), xp.empty((n, groups), x.dtype)
    packed = _packed(x, groups, y)
    launch(
        xp, "norm", "group_norm", (n * groups,),
        (
            x, gamma, beta, gamma if shift is None else shift, y, m, r,
            math.prod(x.shape[1:-1]), c, groups, _step(gamma), _step(beta), _step(shift),
            int(shift is not None), int(with_silu), float(eps), packed,
        ),
        threads=_threads(x, groups, packed),
    )  # fmt: skip
    return y, m, r


def _backward(
    xp: Any, g: Array, x: Array, m: Array, r: Array, gamma: Array, beta: Array | None,
    shift: Array | None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """dx, and for each sample the sums for gamma, beta and shift; `beta` where SiLU follows."""
    g, x, m, r, gamma, beta, shift = contiguous(xp, g, x, m, r, gamma, beta, shift)
    (n, groups), c = r.shape, x.shape[-1]
    dx = xp.empty_like(x)
    sums = [xp.empty((n, c), x.dtype) for _ in range(3)]
    packed = _packed(x, groups, g, dx)
    launch(
        xp, "norm", "group_norm_grad", (n * groups,),
        (
            g, x, m, r, gamma, gamma if beta is None else beta, gamma if shift is None else shift,
            dx, *sums,
            math.prod(x.shape[1:-1]), c, groups, _step(gamma), _step(beta), _step(shift),
            int(shift is not None), int(beta is not None), packed,
        ),
        threads=_threads(x, groups, packed),
    )  # fmt: skip
    return dx, *sums


def _like(sums: Array, p: Array) -> Array:
    """Sums for each sample, (N, C), in the shape of p."""
    return sums.sum(axis=0) if p.ndim == 1 else sums


def group_norm(
    xp: Any, x: Array, gamma: Array, beta: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Mean, then the mean of squares of what is centred, then the result: three passes."""
    return _forward(xp, x, gamma, beta, None, groups, eps, with_silu=False)


def group_norm_grad(
    xp: Any, g: Array, x: Array, m: Array, r: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """Sums for each channel of a sample, then dx: two passes."""
    dx, dgamma, dbeta, _ = _backward(xp, g, x, m, r, gamma, None, None)
    return dx, _like(dgamma, gamma), _like(dbeta, gamma)


def group_norm_silu(
    xp: Any, x: Array, gamma: Array, beta: Array, shift: Array | None, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """The same three passes; neither x + shift nor u is ever in memory."""
    return _forward(xp, x, gamma, beta, shift, groups, eps, with_silu=True)


def group_norm_silu_grad(
    xp: Any, g: Array, x: Array, y: Array, m: Array, r: Array, gamma: Array, beta: Array,
    shift: Array | None,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    """The same two passes; u and its sigmoid are computed anew, which is cheaper than reading y."""
    dx, dgamma, dbeta, dshift = _backward(xp, g, x, m, r, gamma, beta, shift)
    return (
        dx,
        _like(dgamma, gamma),
        _like(dbeta, beta),
        None if shift is None else _like(dshift, shift),
    )
