"""Convolution as a matrix product whose left factor is gathered on the way (see conv.cu)."""

from __future__ import annotations

import math
from typing import Any

from minidiff import backend
from minidiff.backend.kernels.cupy.launch import aligned, contiguous, launch
from minidiff.backend.kernels.reference import Array, Pads

BUSY = 256
"""Blocks that keep a large GPU busy: two for each of its multiprocessors."""
STRETCH = 128
"""The fewest places that a block sums over in the gradient of a kernel."""
ANY = 128, 32
"""The tile of the kernels that take any number of channels, wherever they begin in memory: narrow,
since most of these have one or three.
"""


def _tiles(rows: int, columns: int) -> list[tuple[int, int]]:
    """The tiles (rows, columns) that suit a result of this size, the largest first: it reads each
    number from memory, and from shared memory, the fewest times.
    """
    if rows <= 64:
        return [(64, 64)]
    if columns <= 32:
        return [(128, 32)]
    return [(128, 128)] * (columns > 64) + [(128, 64), (64, 64)]


def _grid(rows: int, columns: int, tile: tuple[int, int]) -> tuple[int, int]:
    return -(-rows // tile[0]), -(-columns // tile[1])


def _name(tile: tuple[int, int], packed: list[int]) -> str:
    """Which of the kernels of conv.cu."""
    return "{}x{}".format(*tile) if all(packed) else "any"


def _packed(*arrays: Array) -> list[int]:
    """For each array, whether four neighbouring channels can be moved at once, anywhere in it."""
    return [int(a.shape[-1] % 4 == 0 and aligned(a)) for a in arrays]


def _defines(x: Array) -> tuple[str, ...]:
    return ("TF32",) if backend.precision == "tf32" and x.dtype.name == "float32" else ()


def _convolve(
    xp: Any, x: Array, w: Array, b: Array | None, out: tuple[int, int], stride: int, dilation: int,
    corner: tuple[int, int],
) -> Array:  # fmt: skip
    """The convolution of x, spread out by `dilation`, with its first `corner` places padding."""
    x, w, b = contiguous(xp, x, w, b)
    (n, h, width, c), (kh, kw, _, o) = x.shape, w.shape
    y = xp.empty((n, *out, o), x.dtype)
    places, packed = n * out[0] * out[1], _packed(x, w)
    tiles = _tiles(places, o) if all(packed) else [ANY]
    tile = next((t for t in tiles if math.prod(_grid(places, o, t)) >= BUSY), tiles[-1])
    launch(
        xp, "conv", f"convolve_{_name(tile, packed)}", _grid(places, o, tile),
        (
            x, w, w if b is None else b, y, places,
            h, width, c, kh, kw, *out, o, stride, *corner, dilation, int(b is not None), *packed,
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
    blocks = math.prod(_grid(depth, o, _tiles(depth, o)[0]))
    parts = max(1, min(BUSY // blocks, -(-places // STRETCH)))
    sums = correlate(xp, x, g, w_shape, stride, pads, max(1, -(-places // parts)))
    return sums[0] if len(sums) == 1 else sums.sum(axis=0)


def correlate(
    xp: Any, x: Array, g: Array, w_shape: tuple[int, ...], stride: int, pads: Pads, stretch: int
) -> Array:
    """A^T g over each `stretch` of places by itself: (parts, *w_shape)."""
    x, g = contiguous(xp, x, g)
    (_, h, width, c), (n, *out, o) = x.shape, g.shape
    kh, kw = w_shape[:2]
    places, depth, packed = n * out[0] * out[1], kh * kw * c, _packed(x, g)
    tile = _tiles(depth, o)[0] if all(packed) else ANY
    parts = max(1, -(-places // stretch))  # no places: sums of nothing
    sums = xp.empty((parts, *w_shape), x.dtype)
    launch(
        xp, "conv", f"correlate_{_name(tile, packed)}", (parts, *_grid(depth, o, tile)),
        (
            x, g, sums, places, stretch,
            h, width, c, kh, kw, *out, o, stride, pads[0][0], pads[1][0], *packed,
        ),
        defines=_defines(x),
    )  # fmt: skip
    return sums
