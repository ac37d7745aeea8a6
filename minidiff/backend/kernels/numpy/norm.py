"""Group norm, alone and with SiLU, in blocks that stay in the cache.

What is computed for each channel is computed for a block of images at once, and what is computed
for each number for a part of a block: the passes of a chain of operations find it in the cache.
Nothing of the size of the batch is made but the results.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.reference import Array

_ROW = 1024
"""Numbers in a row, at most."""
_CHAIN = 4
"""Arrays that a chain of operations works on at a time; a part of each fits the cache."""


class _Groups:
    """An image batch (N, ..., C) for group norm, seen as rows of several positions side by side.

    NumPy pays for each inner loop that it starts, and C numbers are few: a row of k positions,
    k C numbers, starts k times fewer. What is for each channel has the shape (n, G, C / G) here,
    for each group (n, G, 1), and n is 1 for what all samples share. It depends on shapes alone.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, groups: int, room: int) -> None:
        self.n, self.c, self.groups, self.dtype = shape[0], shape[-1], groups, dtype
        self.positions = math.prod(shape[1:-1])
        self.width = self.c // groups
        most = min(_ROW // max(1, self.c), self.positions // 4)
        self.k = max((k for k in range(1, most + 1) if self.positions % k == 0), default=1)
        rows, image = self.positions // self.k, self.positions * self.c * dtype.itemsize
        self.ones = np.ones((1, rows), dtype)
        self.ones_k, self.ones_width = np.ones((1, self.k), dtype), np.ones(self.width, dtype)
        self.blocks = memory.blocks(self.n, image, room)
        self.some_images = memory.blocks(self.n, _CHAIN * image, room)
        self.some_rows = memory.blocks(rows, _CHAIN * image // max(1, rows), room)

    def rows(self, x: Array) -> Array:
        """(N, ..., C) as (N, positions / k, k C)."""
        return np.ascontiguousarray(x).reshape(self.n, self.ones.size, self.k * self.c)

    def parts(self, block: slice) -> list[tuple[slice, slice]]:
        """A block in parts: a few of its images, or a few rows of one that is large."""
        n = min(block.stop, self.n) - block.start
        return [(i, rows) for i in self.some_images if i.start < n for rows in self.some_rows]

    def scratch(self, part: Array) -> Array:
        """Memory of the shape of a part."""
        return memory.scratch("norm", part.shape, self.dtype)

    def of(self, block: slice, p: Array | None) -> Array:
        """The numbers for the images of a block, from (N, C) or (C,)."""
        if p is None:
            return np.zeros((1, 1, 1), self.dtype)
        return (p[block] if p.ndim == 2 else p).reshape(-1, self.groups, self.width)

    def wide(self, p: Array) -> Array:
        """A number for each channel, repeated for the k positions of a row: (n, 1, k C)."""
        if p.shape[2] < self.width:  # one for each group: NumPy is slow to broadcast it
            p = p.repeat(self.width, axis=2)
        return p.reshape(-1, 1, self.c).repeat(self.k, axis=1).reshape(len(p), 1, -1)

    def sums(self, rows: Array) -> Array:
        """Sums over the positions; products with ones are the fastest such sums."""
        total = np.matmul(self.ones[:, : rows.shape[1]], rows)
        total = np.matmul(self.ones_k, total.reshape(len(rows), self.k, self.c))
        return total.reshape(len(rows), self.groups, self.width)

    def mean(self, sums: Array) -> Array:
        """The means over the groups, from sums over the positions."""
        total = sums.reshape(-1, self.width) @ self.ones_width
        return total.reshape(len(sums), self.groups, 1) * (1 / max(1, self.positions * self.width))

    def moments(self, zb: Array, parts: list, shift: Array, eps: float) -> tuple[Array, Array]:
        """m and r of the images of a block, in one pass for each."""
        m = self.mean(self.sums(zb) + self.positions * shift)
        # centred before it is squared: E x^2 - m^2 would lose the variance of a large mean
        centre, squares = (
            self.wide(m - shift),
            np.zeros((len(zb), self.groups, self.width), self.dtype),
        )
        for part in parts:
            t = np.subtract(zb[part], centre[part[0]], out=self.scratch(zb[part]))
            squares[part[0]] += self.sums(np.multiply(t, t, out=t))
        return m, 1 / np.sqrt(self.mean(squares) + eps)

    def backward(
        self, du: Array, zb: Array, parts: list, m: Array, r: Array, gamma: Array
    ) -> tuple[Array, Array]:
        """From u_bar to x_bar, in place; the sums of u_bar x_hat and of u_bar, for each channel.

        x_bar = a u_bar + b x + c with a, b, c for each sample and channel, from two sums.
        """
        sum_g = np.zeros((len(zb), self.groups, self.width), self.dtype)
        sum_gx = np.zeros_like(sum_g)
        for part in parts:
            sum_g[part[0]] += self.sums(du[part])
            t = np.multiply(du[part], zb[part], out=self.scratch(du[part]))
            sum_gx[part[0]] += self.sums(t)
        sum_gx = r * (sum_gx - m * sum_g)  # of u_bar x_hat
        b = -r * r * self.mean(gamma * sum_gx)
        c = -r * self.mean(gamma * sum_g) - m * b
        a, b, c = self.wide(gamma * r), self.wide(b), self.wide(c)
        for part in parts:
            d, i = du[part], part[0]
            t = np.multiply(zb[part], b[i], out=self.scratch(d))
            t += c[i]
            d *= a[i]
            d += t
        return sum_gx, sum_g


@functools.lru_cache(maxsize=128)
def _layout(shape: tuple[int, ...], dtype: np.dtype, groups: int, room: int) -> _Groups:
    """The same for each call: for small images it takes as long as a pass over them."""
    return _Groups(shape, dtype, groups, room)


def _groups_of(x: Array, groups: int) -> _Groups:
    return _layout(x.shape, x.dtype, groups, memory.SCRATCH)


def _share(total: Array, block: slice, per_sample: Array) -> None:
    """Put the gradients of a block where they belong, or add them up if all samples share p."""
    if total.ndim == 2:
        total[block] = per_sample.reshape(-1, total.shape[1])
    else:
        total += per_sample.sum(axis=0).reshape(-1)


def _forward(
    x: Array, gamma: Array, beta: Array, shift: Array | None, groups: int, eps: float, silu: bool
) -> tuple[Array, Array, Array]:
    """y = a x + b with a and b for each sample and channel, or the silu of it."""
    view = _groups_of(x, groups)
    z = view.rows(x)
    y, (m, r) = np.empty_like(z), np.empty((2, len(x), groups, 1), x.dtype)
    sign = -1 if silu else 1
    with np.errstate(over="ignore"):  # e^-u may be infinite, which makes y 0
        for block in view.blocks:
            zb, yb, s, parts = z[block], y[block], view.of(block, shift), view.parts(block)
            m[block], r[block] = view.moments(zb, parts, s, eps)
            a = sign * view.of(block, gamma) * r[block]
            b = view.wide(sign * view.of(block, beta) - (m[block] - s) * a)
            a = view.wide(a)
            for part in parts:
                u = np.multiply(zb[part], a[part[0]], out=yb[part])
                u += b[part[0]]
                if silu:  # of -u: y = -u / (-1 - e^-u) spares the pass that would negate u
                    e = np.exp(u, out=view.scratch(u))
                    np.subtract(-1, e, out=e)
                    u /= e
    return y.reshape(x.shape), m[..., 0], r[..., 0]


def group_norm(
    xp: object, x: Array, gamma: Array, beta: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Two passes for the moments, one for y."""
    return _forward(x, gamma, beta, None, groups, eps, silu=False)


def group_norm_silu(
    xp: object, x: Array, gamma: Array, beta: Array, shift: Array | None, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """The same passes: a shift only moves the mean, and the silu is taken in the last."""
    return _forward(x, gamma, beta, shift, groups, eps, silu=True)


def group_norm_grad(
    xp: object, g: Array, x: Array, m: Array, r: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """Two passes, one for the sums."""
    view = _groups_of(x, r.shape[1])
    gz, z, m, r = view.rows(g), view.rows(x), m[..., None], r[..., None]
    dx, dgamma, dbeta = np.empty_like(gz), np.zeros_like(gamma), np.zeros_like(gamma)
    for block in view.blocks:
        dx[block] = gz[block]
        sums = view.backward(
            dx[block], z[block], view.parts(block), m[block], r[block], view.of(block, gamma)
        )
        _share(dgamma, block, sums[0])
        _share(dbeta, block, sums[1])
    return dx.reshape(x.shape), dgamma, dbeta


def group_norm_silu_grad(
    xp: object, g: Array, x: Array, y: Array, m: Array, r: Array, gamma: Array, beta: Array,
    shift: Array | None,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    """u anew, s = y / u, u_bar = g (s + y (1 - s)), and on as in group_norm_grad."""
    view = _groups_of(x, r.shape[1])
    gz, z, yz, m, r = view.rows(g), view.rows(x), view.rows(y), m[..., None], r[..., None]
    dx, dgamma, dbeta = np.empty_like(gz), np.zeros_like(gamma), np.zeros_like(beta)
    dshift = None if shift is None else np.zeros_like(shift)
    for block in view.blocks:
        zb, db, yb, gb = z[block], dx[block], yz[block], gz[block]
        parts = view.parts(block)
        centre, gb_ = m[block] - view.of(block, shift), view.of(block, gamma)
        a = gb_ * r[block]
        # as in the forward pass, to the bit: s is y / u
        b = view.wide(view.of(block, beta) - centre * a)
        a = view.wide(a)
        for part in parts:
            d, yp = db[part], yb[part]
            u = np.multiply(zb[part], a[part[0]], out=view.scratch(d))
            u += b[part[0]]
            s = _ratio(yp, u, d)
            np.subtract(1, s, out=d)
            d *= yp
            d += s
            d *= gb[part]
        sums = view.backward(db, zb, parts, centre, r[block], gb_)
        _share(dgamma, block, sums[0])
        _share(dbeta, block, sums[1])
        if dshift is not None:
            _share(dshift, block, view.sums(db))
    return dx.reshape(x.shape), dgamma, dbeta, dshift


def _ratio(y: Array, u: Array, t: Array) -> Array:
    """The sigmoid s = y / u in place of u, with t to work in.

    It is 1/2 where u is 0, or so near to it that y has lost digits.
    """
    small = np.abs(u, out=t) < np.finfo(u.dtype).tiny
    if small.any():
        np.copyto(u, 1, where=small)
        np.divide(y, u, out=u)
        np.copyto(u, 0.5, where=small)
        return u
    return np.divide(y, u, out=u)
