r"""Convolution with 3x3 kernels by Winograd's minimal filtering, F(4x4, 3x3).

Lavin & Gray, "Fast algorithms for convolutional neural networks" (2015); the transforms are
Toom and Cook's.

One axis first. Four outputs y_i = sum_k w_k d_{i+k} of three taps read six inputs d_l and take
twelve products. Let a(x) = sum_i a_i x^i and w(x) = sum_k w_k x^k, of degree 3 and 2. Their product
s(x) has six coefficients, and <s, d> = sum_i a_i y_i: whatever gives s gives y by transposing.
Lagrange gives s from five points p_j and its leading coefficient, the "point at infinity":

    s(x) = sum_j a(p_j) w(p_j) / N_j M_j(x) + a_3 w_2 M(x),
    M(x) = prod_j (x - p_j),   M_j = M / (x - p_j),   N_j = M_j(p_j).

Reading off what multiplies a_i:

    y = A^T [(G w) * (B^T d)],   A^T_ij = p_j^i,   G_jk = p_j^k / N_j,   B^T_jl = [x^l] M_j,

and at infinity A^T_i = [i = 3], G_k = [k = 2], B^T_l = [x^l] M: six products in place of twelve.

Two axes nest. A tile of 6x6 inputs is transformed by B^T down and by B^T across, for all tiles and
channels at once. What is left of the convolution is, for each of the 36 places, a product
(tiles, C) x (C, O): 36 multiplications for 16 outputs, where the definition takes 144. The way back
is one product with the Kronecker product of A^T with itself, (16, 36) x (36, tiles O), and so is
the transform of the kernel with G.

The map x, w -> y is linear in each, so its adjoint in w is the same three steps transposed:
w_bar = G^T [sum over tiles (B^T d)(A g)] with A g from the 4x4 tiles of the cotangent. The
gradient of x is a convolution of g with the kernel turned around.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.numpy.padding import Padded
from minidiff.backend.kernels.reference import Array, Pads

M, R = 4, 3
N = M + R - 1
"""Results, taps and inputs of a tile along one axis."""
POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-1, 2))
"""Of the choices tried, these lose the fewest digits: a third of the error of 0, 1, -1, 2, -2."""
ONE = POINTS.index(Fraction(1)) * (N + 1)
"""The place of the point (1, 1): all powers of 1 are 1, so A^T spreads what is added there evenly
over the 4x4 results of a tile.
"""
BLOCK = 4
"""A block takes this many times `memory.SCRATCH`, as products with few rows are slow, and more
where the transformed kernel, which each block reads, is large itself.
"""

Matrix = list[list[Fraction]]


def transforms(points: Sequence[Fraction], m: int, r: int) -> tuple[Matrix, Matrix, Matrix]:
    """(B^T, G, A^T) of F(m, r) from m + r - 2 points, exact."""

    def polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
        c = [Fraction(1)]
        for p in roots:
            c = [a - p * b for a, b in zip([Fraction(0), *c], [*c, Fraction(0)], strict=True)]
        return c

    others = [[q for q in points if q != p] for p in points]
    bt = [[*polynomial(rest), Fraction(0)] for rest in others] + [polynomial(points)]
    g = []
    for p, rest in zip(points, others, strict=True):
        norm = Fraction(1)
        for q in rest:
            norm *= p - q
        g.append([p**k / norm for k in range(r)])
    g.append([Fraction(int(k == r - 1)) for k in range(r)])
    at = [[*(p**i for p in points), Fraction(int(i == m - 1))] for i in range(m)]
    return bt, g, at


@functools.cache
def _matrices(dtype: np.dtype) -> tuple[Array, Array, Array, Array, Array]:
    """B^T and A for one axis; G, the G of a kernel turned by 180 degrees, and A^T for two."""
    bt, g, at = (np.array(t, np.float64) for t in transforms(POINTS, M, R))
    both = (np.kron(t, t) for t in (g, g[:, ::-1], at))
    bt, a, g, g_turned, at = (t.astype(dtype) for t in (bt, at.T, *both))
    return bt, a, g, g_turned, at


class _Tiling:
    """The tiles of the results (n, rows, columns, o) of x; the last ones may stick out."""

    def __init__(self, x: Array, o: int, pads: Pads) -> None:
        self.n, *sides, c = x.shape
        self.sides = [side + sum(p) - R + 1 for side, p in zip(sides, pads, strict=True)]
        self.tiles = [-(-side // M) for side in self.sides]
        down, across = (M * k - side for k, side in zip(self.tiles, self.sides, strict=True))
        self.beyond = (0, down), (0, across)
        each, kernel = math.prod(self.tiles) * (c + max(c, o)), c * o
        room = max(BLOCK * memory.SCRATCH, 2 * N * N * kernel * x.itemsize)
        self.blocks = memory.blocks(self.n, N * N * each * x.itemsize, room)
        (top, bottom), (left, right) = pads
        frame = (top, bottom + down), (left, right + across)
        self.images = Padded("images", x, frame, self.blocks)

    def put_together(self, results: Array, y: Array) -> None:
        """Put the results (4, 4, tiles, o) of a block where they belong in its images y."""
        (n, *sides, o), (down, across) = y.shape, self.tiles
        fits = sides == [M * down, M * across]
        frame = y if fits else memory.scratch("half", (n, M * down, M * across, o), y.dtype)
        image, row, pixel = frame.strides[:3]
        np.copyto(
            memory.items(
                frame, (M, M, n, down, across), o, (row, pixel, image, M * row, M * pixel)
            ),
            memory.items(results, (M, M, n, down, across), o),
        )
        if not fits:
            y[...] = frame[:, : sides[0], : sides[1]]


def _multiply(a: Array, b: Array, name: str) -> Array:
    """The product of two matrices, or two stacks of them, in the scratch of that name."""
    shape = (*b.shape[:-2], a.shape[-2], b.shape[-1])
    return np.matmul(a, b, out=memory.scratch(name, shape, b.dtype))


def _transform(matrix: Array, images: Array, name: str) -> Array:
    """The matrix applied to both axes of the tiles, which lie M apart: (36, tiles, channels).

    Down first, for which the rows of an image need no copy; then across.
    """
    (n, height, width, c), size, s = images.shape, matrix.shape[1], images.strides
    down = (height - size) // M + 1
    rows = np.lib.stride_tricks.as_strided(
        images, (n, down, size, width * c), (s[0], M * s[1], s[1], images.itemsize), writeable=False
    )
    half = memory.scratch("half", (N, n, down, width * c), images.dtype)
    np.matmul(matrix, rows, out=half.transpose(1, 2, 0, 3))
    across, s = (width - size) // M + 1, half.strides
    pixel = c * images.itemsize
    tiles = memory.scratch("tiles", (N, size, n, down, across, c), images.dtype)
    np.copyto(
        memory.items(tiles, tiles.shape[:-1], c),
        memory.items(half, tiles.shape[:-1], c, (s[0], pixel, s[1], s[2], M * pixel)),
    )
    return _multiply(matrix, tiles.reshape(N, size, -1), name).reshape(N * N, -1, c)


def conv2d(x: Array, w: Array, pads: Pads, b: Array | None = None, *, turn: bool = False) -> Array:
    """y = A^T [(G w) * (B^T x)] + b; `turn` the kernel by 180 degrees, exchanging C and O."""
    bt, _, g, g_turned, at = _matrices(x.dtype)
    u = _multiply(g_turned if turn else g, w.reshape(R * R, -1), "kernel")
    u = u.reshape(N * N, *w.shape[2:])
    u = u.transpose(0, 2, 1) if turn else u
    o = u.shape[2]
    tiling = _Tiling(x, o, pads)
    y = np.empty((tiling.n, *tiling.sides, o), x.dtype)
    for block in tiling.blocks:
        v = _transform(bt, tiling.images.of(block), "transformed")
        p = _multiply(v, u, "tiles")
        if b is not None:
            p[ONE] += b
        results = _multiply(at, p.reshape(N * N, -1), "transformed")
        tiling.put_together(results.reshape(M, M, -1, o), y[block])
    return y


def conv2d_dw(x: Array, g: Array, pads: Pads) -> Array:
    """w_bar = G^T sum (B^T x)(A g)^T over the tiles."""
    bt, a, gk, _, _ = _matrices(x.dtype)
    c, o = x.shape[3], g.shape[3]
    du = memory.scratch("kernel", (N * N, c, o), x.dtype)
    some_points = memory.blocks(N * N, c * o * x.itemsize)  # whose products stay in the cache
    tiling = _Tiling(x, o, pads)
    cotangents = Padded("cotangents", g, tiling.beyond, tiling.blocks)
    for block in tiling.blocks:
        v = _transform(bt, tiling.images.of(block), "transformed")
        m = _transform(a, cotangents.of(block), "half")  # which is done with when m is made
        v = v.transpose(0, 2, 1)
        if not block.start:
            np.matmul(v, m, out=du)
            continue
        for points in some_points:
            du[points] += _multiply(v[points], m[points], "part")
    return (gk.T @ du.reshape(N * N, -1)).reshape(R, R, c, o)
