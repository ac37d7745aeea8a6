"""Attention: products of matrices, and one kernel that makes the softmax in place."""

from __future__ import annotations

import math
from typing import Any

from minidiff.backend.kernels.cupy.launch import contiguous, launch
from minidiff.backend.kernels.cupy.products import matmul
from minidiff.backend.kernels.reference import Array


def _by_rows(xp: Any, kernel: str, matrix: Array, args: tuple[Any, ...]) -> None:
    columns = matrix.shape[-1]
    threads = 32 * min(8, -(-columns // 256))  # a warp alone needs no barrier to add up
    launch(xp, "softmax", kernel, (matrix.size // columns,), args, threads=threads)


def attention(xp: Any, q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, Array]:
    """Scores, softmax in their place, and their product with v."""
    s = matmul(xp, q, k.swapaxes(-1, -2))
    masked = mask is not None
    hidden = xp.empty(1, bool)  # not read
    if masked:
        hidden = xp.ascontiguousarray(xp.broadcast_to(mask, s.shape), bool)
    scale = 1 / math.sqrt(q.shape[-1])
    _by_rows(xp, "softmax", s, (s, hidden, s.shape[-1], scale, int(masked)))
    return matmul(xp, s, v), s


def attention_grad(
    xp: Any, g: Array, q: Array, k: Array, v: Array, p: Array
) -> tuple[Array, Array, Array]:
    """The gradient of the probabilities becomes that of the scores in place."""
    ds, p = contiguous(xp, matmul(xp, g, v.swapaxes(-1, -2)), p)
    _by_rows(xp, "softmax_grad", ds, (p, ds, ds.shape[-1], 1 / math.sqrt(q.shape[-1])))
    turned = ds.swapaxes(-1, -2), p.swapaxes(-1, -2)
    return matmul(xp, ds, k), matmul(xp, turned[0], q), matmul(xp, turned[1], g)
