"""Group norm in blocks of images."""

from __future__ import annotations

import math

import numpy as np

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.reference import Array


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
    for block in memory.blocks(view.n, 2 * view.positions * view.c * x.itemsize):
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
    for block in memory.blocks(view.n, 3 * view.positions * view.c * g.itemsize):
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
