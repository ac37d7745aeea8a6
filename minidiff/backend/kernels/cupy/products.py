"""Products of matrices by the kernels of the convolution: a 1x1 convolution is one.

CuPy has cuBLAS for them, but refuses to call it while a graph is captured.
"""

from __future__ import annotations

import math
from typing import Any

from minidiff.backend.kernels.cupy.conv import conv2d, conv2d_dw, correlate
from minidiff.backend.kernels.reference import Array

NONE = ((0, 0), (0, 0))


def matmul(xp: Any, a: Array, b: Array) -> Array:
    """Of two matrices, a convolution of the rows; where the left factor lies in memory
    as its transpose, the gradient of a kernel, which sums over places. So is each of a stack.
    """
    (rows, depth), columns = a.shape[-2:], b.shape[-1]
    stacked = a.ndim > 2 or b.ndim > 2
    if not stacked and rows == 1 < columns and b.flags.c_contiguous:
        # a tile has more rows than columns, so a single row is better a column
        return matmul(xp, b.T, a.T).reshape(1, columns)
    if not stacked and not a.T.flags.c_contiguous:
        return conv2d(xp, _image(a), b[None, None], 1, NONE).reshape(rows, columns)
    shape = 1, 1, rows, columns
    if not stacked:
        return conv2d_dw(xp, _image(a.T), _image(b), shape, 1, NONE)[0, 0]
    lead = xp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    turned = xp.broadcast_to(a.swapaxes(-1, -2), (*lead, depth, rows))
    x, g = _image(turned), _image(xp.broadcast_to(b, (*lead, depth, columns)))
    return correlate(xp, x, g, shape, 1, NONE, depth).reshape(*lead, rows, columns)


def _image(a: Array) -> Array:
    """The rows of matrices as the places of one image."""
    return a.reshape(1, 1, math.prod(a.shape[:-1]), a.shape[-1])
