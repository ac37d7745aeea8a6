"""Fast kernels for NumPy; each overrides the definition of the same name in `reference`.

One idea serves all: work on a few images (or a stretch of a vector) at a time, so that what is
read and written between two passes is still in the processor's cache, and reuse the scratch.
"""

from __future__ import annotations

import math

import numpy as np

from minidiff.backend.kernels.reference import Array, Pads

SCRATCH = 1 << 20
"""Bytes that a kernel works in at a time: of the order of a core's share of the caches. Smaller
blocks pay more for each call, larger ones go to memory between two passes.
"""


def _blocks(n: int, bytes_each: int) -> list[slice]:
    """0..n-1 (images, or numbers of a vector) in blocks that fit the scratch, one or more each."""
    size = max(1, SCRATCH // max(1, bytes_each))
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


class _Columns:
    """im2col for blocks of images: the windows of a block as the rows of a matrix.

    In NHWC the kw pixels of a window's row lie side by side: a window is kh runs of kw C numbers.
    """

    def __init__(self, x: Array, size: tuple[int, int], stride: int, pads: Pads) -> None:
        (n, h, w, c), (kh, kw), ((top, bottom), (left, right)) = x.shape, size, pads
        self.x, self.inside = x, (slice(top, top + h), slice(left, left + w))
        self.padded = any((top, bottom, left, right))
        height, width = h + top + bottom, w + left + right
        self.out = ((height - kh) // stride + 1, (width - kw) // stride + 1)
        rows = self.out[0] * self.out[1]
        self.blocks = _blocks(n, rows * kh * kw * c * x.itemsize)
        largest = self.blocks[0].stop if self.blocks else 0
        self.image = np.zeros((largest, height, width, c), x.dtype) if self.padded else None
        self.columns = np.empty((largest * rows, kh * kw * c), x.dtype)
        self.run = (kh, kw * c)
        self.stride = stride

    def of(self, block: slice) -> Array:
        """The matrix (windows of the block, kh kw C); overwritten by the next call."""
        image = np.ascontiguousarray(self.x[block])
        if self.image is not None:
            self.image[: len(image), self.inside[0], self.inside[1]] = image
            image = self.image[: len(image)]
        n, s = len(image), image.strides
        windows = np.lib.stride_tricks.as_strided(
            image,
            (n, *self.out, *self.run),
            # not s[3]: the stride of an axis of length 1 (one channel) may be anything
            (s[0], s[1] * self.stride, s[2] * self.stride, s[1], image.itemsize),
            writeable=False,
        )
        columns = self.columns[: n * self.out[0] * self.out[1]]
        columns.reshape(windows.shape)[...] = windows
        return columns


def conv2d(xp: object, x: Array, w: Array, stride: int, pads: Pads) -> Array:
    """Windows of a few images at a time as a matrix, times the kernel as a matrix."""
    columns = _Columns(x, w.shape[:2], stride, pads)
    y = np.empty((len(x), *columns.out, w.shape[3]), np.result_type(x, w))
    matrix = w.reshape(-1, w.shape[3])
    for block in columns.blocks:
        np.matmul(columns.of(block), matrix, out=y[block].reshape(-1, w.shape[3]))
    return y


def conv2d_dx(
    xp: object, g: Array, w: Array, x_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """At stride 1, a convolution of g with the kernel turned by 180 degrees and transposed."""
    kh, kw = w.shape[:2]
    (top, bottom), (left, right) = pads
    if stride > 1 or max(top, bottom) >= kh or max(left, right) >= kw:
        return _conv2d_dx_strided(g, w, x_shape, stride, pads)
    turned = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))
    pads = ((kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right))
    return conv2d(xp, g, turned, 1, pads)


def _conv2d_dx_strided(
    g: Array, w: Array, x_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """Scatter the gradient of each window, all from one product a block."""
    (n, h, width, c), (kh, kw), ((top, bottom), (left, right)) = x_shape, w.shape[:2], pads
    out_h, out_w = g.shape[1:3]
    matrix = w.reshape(-1, w.shape[3]).T
    dx = np.zeros((n, h + top + bottom, width + left + right, c), g.dtype)
    for block in _blocks(n, out_h * out_w * kh * kw * c * g.itemsize):
        part = (g[block].reshape(-1, g.shape[3]) @ matrix).reshape(-1, out_h, out_w, kh, kw, c)
        for a in range(kh):
            for b in range(kw):
                rows = slice(a, a + stride * out_h, stride)
                cols = slice(b, b + stride * out_w, stride)
                dx[block, rows, cols] += part[:, :, :, a, b]
    return dx[:, top : top + h, left : left + width]


def conv2d_dw(
    xp: object, x: Array, g: Array, w_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """Windows transposed times g, summed over the blocks."""
    columns = _Columns(x, (w_shape[0], w_shape[1]), stride, pads)
    dw = np.zeros((math.prod(w_shape[:3]), w_shape[3]), g.dtype)
    for block in columns.blocks:
        dw += columns.of(block).T @ g[block].reshape(-1, w_shape[3])
    return dw.reshape(w_shape)


class _Groups:
    """An image batch (N, ..., C) for group norm, seen as rows of several positions side by side.

    NumPy pays for each inner loop that it starts, and C numbers are few: a row of k positions,
    k C numbers, starts k times fewer.
    """

    def __init__(self, shape: tuple[int, ...], groups: int) -> None:
        self.n, self.c, self.groups = shape[0], shape[-1], groups
        self.positions = math.prod(shape[1:-1])
        self.width = self.c // groups
        divisors = (k for k in range(1, self.positions + 1) if self.positions % k == 0)
        self.k = max(
            (k for k in divisors if k * self.c <= 1024 and 4 * k <= self.positions), default=1
        )

    def rows(self, x: Array) -> Array:
        """(N, ..., C) as (N, positions / k, k C)."""
        return np.ascontiguousarray(x).reshape(self.n, -1, self.k * self.c)

    def wide(self, per_channel: Array) -> Array:
        """(n, C) repeated for the k positions of a row, (n, 1, k C)."""
        return np.tile(per_channel, (1, self.k))[:, None]

    def to_channels(self, per_group: Array) -> Array:
        """(n, G) repeated for the channels of each group, (n, C)."""
        return np.repeat(per_group, self.width, axis=1)

    def sums(self, rows: Array) -> Array:
        """Sums over the positions, (n, C); a product with ones is the fastest such sum."""
        ones = np.ones((1, rows.shape[1]), rows.dtype)
        return np.matmul(ones, rows).reshape(len(rows), self.k, self.c).sum(axis=1)

    def mean(self, sums: Array) -> Array:
        """The means over the groups, (n, G), from sums over the positions, (n, C)."""
        parts = sums.reshape(len(sums), self.groups, self.width)
        return parts.sum(axis=2) * (1 / max(1, self.positions * self.width))


def group_norm(
    xp: object, x: Array, gamma: Array, beta: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """y = x a + b with a and b for each sample and channel, after one pass for each moment."""
    view = _Groups(x.shape, groups)
    z = view.rows(x)
    y = np.empty_like(z)
    m, r = np.empty((2, len(x), groups), x.dtype)
    for block in _blocks(view.n, 2 * view.positions * view.c * x.itemsize):
        zb, yb = z[block], y[block]
        m[block] = view.mean(view.sums(zb))
        centre = view.to_channels(m[block])
        # centred before it is squared: E x^2 - m^2 would lose the variance of a large mean
        np.subtract(zb, view.wide(centre), out=yb)
        np.multiply(yb, yb, out=yb)
        r[block] = 1 / np.sqrt(view.mean(view.sums(yb)) + eps)
        a = gamma * view.to_channels(r[block])
        np.multiply(zb, view.wide(a), out=yb)
        yb += view.wide(beta - centre * a)
    return y.reshape(x.shape), m, r


def group_norm_grad(
    xp: object, g: Array, x: Array, m: Array, r: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """x_bar = a g + b x + c with a, b, c for each sample and channel, from two sums."""
    view = _Groups(x.shape, r.shape[1])
    gz, z = view.rows(g), view.rows(x)
    dx, dgamma, dbeta = np.empty_like(gz), np.zeros_like(gamma), np.zeros_like(gamma)
    for block in _blocks(view.n, 3 * view.positions * view.c * g.itemsize):
        gb, zb, db = gz[block], z[block], dx[block]
        mb, rb = view.to_channels(m[block]), view.to_channels(r[block])
        sum_g = view.sums(gb)
        sum_gx = rb * (view.sums(np.multiply(gb, zb, out=db)) - mb * sum_g)  # of g x_hat
        dgamma += sum_gx.sum(axis=0)
        dbeta += sum_g.sum(axis=0)
        mean_h = view.to_channels(view.mean(gamma * sum_g))
        b = -rb * rb * view.to_channels(view.mean(gamma * sum_gx))
        c = -rb * mean_h - mb * b
        np.multiply(zb, view.wide(b), out=db)
        db += view.wide(c)
        db += gb * view.wide(gamma * rb)
    return dx.reshape(x.shape), dgamma, dbeta


def silu(xp: object, x: Array) -> tuple[Array, Array]:
    """Block by block without temporaries; e^-x may overflow to infinity, which makes y 0."""
    flat = np.ascontiguousarray(x).reshape(-1)
    y, s = np.empty_like(flat), np.empty_like(flat)
    with np.errstate(over="ignore"):
        for part in _blocks(flat.size, 3 * x.itemsize):
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
    for part in _blocks(gf.size, 4 * g.itemsize):
        d = np.subtract(1, sf[part], out=dx[part])
        d *= yf[part]
        d += sf[part]
        d *= gf[part]
    return dx.reshape(g.shape)


def adam(
    xp: object, p: Array, g: Array, m: Array, v: Array, step: int, lr: float,
    beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """Block by block, with the bias corrections moved onto the step size and eps."""
    root = math.sqrt(1 - beta2**step)
    rate, eps = lr * root / (1 - beta1**step), eps * root
    blocks = _blocks(p.size, 6 * p.itemsize)
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
