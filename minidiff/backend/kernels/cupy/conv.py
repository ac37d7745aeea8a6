"""Convolution as a matrix product whose left factor is gathered on the way (see conv.cu)."""

from __future__ import annotations

import math
from typing import Any

from minidiff import backend
from minidiff.backend.kernels.cupy.launch import aligned, launch
from minidiff.backend.kernels.reference import Array, Pads

BUSY = 264
"""Blocks that keep a large GPU busy: two for each of its multiprocessors."""
STRETCH = 128
"""The fewest places that a block sums over in the gradient of a kernel."""


def _tile(rows: int, columns: int) -> tuple[int, int]:
    """The largest tile (rows, columns) that still makes enough blocks."""
    wide = 64 if columns > 32 else 32
    blocks = -(-rows // 128) * -(-columns // wide)
    return (128, wide) if blocks >= BUSY else (64, wide)


def _defines(x: Array) -> tuple[str, ...]:
    return ("TF32",) if backend.precision == "tf32" and x.dtype.name == "float32" else ()


def _convolve(
    xp: Any, x: Array, w: Array, b: Array | None, out: tuple[int, int], stride: int, dilation: int,
    corner: tuple[int, int],
) -> Array:  # fmt: skip
    """The convolution of x, spread out by `dilation`, with its first `corner` places padding."""
    x, w = xp.ascontiguousarray(x), xp.ascontiguousarray(w)
    bias = w if b is None else xp.ascontiguousarray(b)  # not read where there is none
    (n, h, width, c), (kh, kw, _, o) = x.shape, w.shape
    y = xp.empty((n, *out, o), x.dtype)
    places = n * out[0] * out[1]
    tile = _tile(places, o)
    launch(
        xp, "conv", "convolve_{}x{}".format(*tile), (-(-places // tile[0]), -(-o // tile[1])),
        (
            x, w, bias, y, places,
            h, width, c, kh, kw, *out, o, stride, dilation, *corner,
            int(b is not None), int(c % 4 == 0 and aligned(x)), int(o % 4 == 0 and aligned(w)),
        ),
        defines=_defines(x),
    )  # fmt: skip
    return y


def conv2d(xp: Any, x: Array, w: Array, stride: int, pads: Pads, b: Array | None = None) -> Array:
    """y = A w + b; no column matrix is written."""
    (top, bottom), (left, right) = pads
    (h, width), (kh, kw) = x.shape[1:3], w.shape[:2]
    out = (h + top + bottom - kh) // stride + 1, (width + left + right - kw) // stride + 1
    return _convolve(xp, x, w, b, out, stride, 1, (top, left))


def conv2d_dx(
    xp: Any, g: Array, w: Array, x_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """The convolution of g, with zeros between for a stride, with the kernel turned around."""
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    corner = w.shape[0] - 1 - pads[0][0], w.shape[1] - 1 - pads[1][0]
    return _convolve(xp, g, turned, None, (x_shape[1], x_shape[2]), 1, stride, corner)


def conv2d_dw(
    xp: Any, x: Array, g: Array, w_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """A^T g, cut into stretches of places that are summed in the same order at every run."""
    depth, o, places = math.prod(w_shape[:3]), w_shape[3], math.prod(g.shape[:3])
    tile = _tall_tile(depth, o)
    blocks = -(-depth // tile[0]) * -(-o // tile[1])
    parts = max(1, min(2 * BUSY // blocks, -(-places // STRETCH)))
    sums = correlate(xp, x, g, w_shape, stride, pads, -(-places // parts))
    return sums[0] if len(sums) == 1 else sums.sum(axis=0)


def correlate(
    xp: Any, x: Array, g: Array, w_shape: tuple[int, ...], stride: int, pads: Pads, stretch: int
) -> Array:
    """A^T g over each `stretch` of places by itself: (parts, *w_shape)."""
    x, g = xp.ascontiguousarray(x), xp.ascontiguousarray(g)
    (_, h, width, c), (n, *out, o) = x.shape, g.shape
    kh, kw = w_shape[:2]
    places, tile = n * out[0] * out[1], _tall_tile(kh * kw * c, o)
    grid = -(-(kh * kw * c) // tile[0]), -(-o // tile[1]), -(-places // stretch)
    sums = xp.empty((grid[2], *w_shape), x.dtype)
    launch(
        xp, "conv", "correlate_{}x{}".format(*tile), grid,
        (
            x, g, sums, places, stretch,
            h, width, c, kh, kw, *out, o, stride, 1, pads[0][0], pads[1][0],
            int(c % 4 == 0 and aligned(x)), int(o % 4 == 0 and aligned(g)),
        ),
        defines=_defines(x),
    )  # fmt: skip
    return sums


def _tall_tile(depth: int, o: int) -> tuple[int, int]:
    """The tile (rows, columns) for a kernel of `depth` rows and `o` columns."""
    return (128 if depth % 128 == 0 or depth >= 512 else 64), (64 if o > 32 else 32)
