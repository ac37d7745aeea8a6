"""Convolution, upsampling and pooling of images (N, H, W, C)."""

from __future__ import annotations

from operator import index
from typing import Any

from minidiff.autograd import VJP, Array, op
from minidiff.backend import kernels
from minidiff.errors import InputError, check_count
from minidiff.ops.checks import check_floats
from minidiff.ops.linalg import column_sums

Result = tuple[Array, VJP]
Padding = int | tuple[tuple[int, int], tuple[int, int]]


def _pads(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
    """`padding` as ((top, bottom), (left, right))."""
    sides = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    try:
        (top, bottom), (left, right) = ((index(a), index(b)) for a, b in sides)
        if min(top, bottom, left, right) >= 0:
            return (top, bottom), (left, right)
    except (TypeError, ValueError):
        pass
    raise InputError(
        "conv2d: padding is one number, or ((top, bottom), (left, right)), and not negative; "
        f"got {padding!r}"
    )


@op
def conv2d(
    xp: Any, x: Array, w: Array, b: Array | None = None, *, stride: int = 1, padding: Padding = 0
) -> Result:
    """y = x * w + b (cross-correlation): x (N, H, W, C), w (kh, kw, C, O), b (O,).

    `padding` is one number for all sides, or ((top, bottom), (left, right)), of zeros.
    y has H' = (H + top + bottom - kh) // stride + 1 rows, and columns likewise.
    """
    check_floats("conv2d", x=x, w=w, **({} if b is None else {"b": b}))
    pads = _pads(padding)
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise InputError(
            f"conv2d wants x (N, H, W, C) and w (kh, kw, C, O), got {x.shape} and {w.shape}"
        )
    if 0 in w.shape:
        raise InputError(f"conv2d: w of shape {w.shape} has nothing in it")
    if b is not None and b.shape != w.shape[3:]:
        raise InputError(f"conv2d wants b of shape {w.shape[3:]}, got {b.shape}")
    stride = check_count("conv2d: stride", stride)
    room = [n + sum(p) - k for n, p, k in zip(x.shape[1:3], pads, w.shape, strict=False)]
    if min(room) < 0:
        raise InputError(f"conv2d: a kernel of {w.shape[:2]} does not fit {x.shape} padded {pads}")
    k = kernels.of(xp)
    y = k.conv2d(xp, x, w, stride, pads, b)  # eq. (2.3)

    def vjp(g: Array) -> tuple[Any, ...]:
        return (  # eq. (2.5)
            lambda: k.conv2d_dx(xp, g, w, x.shape, stride, pads),
            lambda: k.conv2d_dw(xp, x, g, w.shape, stride, pads),
            lambda: column_sums(xp, g),
        )

    return y, vjp


@op
def upsample_nearest(xp: Any, x: Array, *, factor: int = 2) -> Result:
    """y[n, i, j] = x[n, i // f, j // f];  x_bar = the sum over each f x f block of g."""
    factor = check_count("upsample_nearest: factor", factor)
    n, h, w, c = _image_shape("upsample_nearest", x)
    blocks = xp.broadcast_to(x[:, :, None, :, None], (n, h, factor, w, factor, c))
    return blocks.reshape(n, h * factor, w * factor, c), lambda g: (_block_sum(g, factor),)


def _image_shape(name: str, x: Array) -> tuple[int, ...]:
    shape = getattr(x, "shape", ())
    if len(shape) != 4:
        raise InputError(f"{name} wants images (N, H, W, C), got shape {shape}")
    return shape


def _block_sum(g: Array, f: int) -> Array:
    total = g[:, ::f, ::f].copy()  # eq. (2.6)
    for i in range(f * f):
        if i:
            total += g[:, i // f :: f, i % f :: f]
    return total


def _window_slices(x: Array, size: int, stride: int | None) -> list[Any]:
    """The index of x for each place in a window; `stride` is `size` when None."""
    size = check_count("pooling: size", size)
    stride = size if stride is None else check_count("pooling: stride", stride)
    rows, cols = ((n - size) // stride + 1 for n in _image_shape("pooling", x)[1:3])
    if rows < 1 or cols < 1:
        raise InputError(f"a pooling window of {size} does not fit images of shape {x.shape}")
    return [
        (slice(None), slice(a, a + stride * rows, stride), slice(b, b + stride * cols, stride))
        for a in range(size)
        for b in range(size)
    ]


@op
def avg_pool(xp: Any, x: Array, *, size: int = 2, stride: int | None = None) -> Result:
    """y = the mean of each size x size window; `stride` is `size` when None."""
    shape, places = x.shape, _window_slices(x, size, stride)
    y = x[places[0]] / len(places)
    for place in places[1:]:
        y += x[place] / len(places)

    def vjp(g: Array) -> tuple[Array]:
        dx = xp.zeros(shape, g.dtype)
        share = g / len(places)
        for place in places:
            dx[place] += share
        return (dx,)

    return y, vjp


@op
def max_pool(xp: Any, x: Array, *, size: int = 2, stride: int | None = None) -> Result:
    """y = the maximum of each size x size window; the first of those that tie gets the gradient."""
    places = _window_slices(x, size, stride)
    y = x[places[0]]
    for place in places[1:]:
        y = xp.maximum(y, x[place])

    def vjp(g: Array) -> tuple[Array]:
        dx = xp.zeros(x.shape, g.dtype)
        taken = xp.zeros(y.shape, bool)
        for place in places:
            winner = (x[place] == y) & ~taken
            dx[place] += g * winner
            taken |= winner
        return (dx,)

    return y, vjp
