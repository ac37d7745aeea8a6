"""Convolution as matrix products over blocks of images; how is chosen by the shapes alone.

* 1x1: one product, of the pixels and the kernel, without a copy.
* 3x3 and not too few channels: `winograd`, with a quarter of the multiplications.
* Otherwise *gather* the windows of x as the rows of a matrix and multiply them by the kernel
  (im2col), which copies kh kw C numbers for each place;
* or, with far fewer channels out than in, multiply the pixels first and *scatter* the kh kw O
  products of each to the places whose windows hold it (col2im).

The gradient of x is a convolution of g with the kernel turned around, so the choice is the same.
"""

from __future__ import annotations

import math

import numpy as np

from minidiff.backend.kernels.numpy import memory, winograd
from minidiff.backend.kernels.numpy.padding import Padded
from minidiff.backend.kernels.reference import Array, Pads

FEW = 8
"""Scatter where there are this many times fewer channels out than in."""
_DIGITS_ENOUGH = [{np.dtype(np.float32)}, {np.dtype(np.float64)}]


def _winograd_pays(
    dtypes: set[np.dtype],
    size: tuple[int, ...],
    stride: int,
    places: tuple[int, ...],
    c: int,
    o: int,
) -> bool:
    """Whether Winograd's way is the faster one, from c to o channels at (n, rows, columns) places.

    Both costs are counted in multiplications of a large matrix product. What the copies and the
    transforms cost beside them was measured, for each channel of a tile and number of the kernel.
    The transforms lose digits, of which float16 has none to lose, and are not made of integers.
    """
    if (*size, stride) != (winograd.R, winograd.R, 1) or dtypes not in _DIGITS_ENOUGH:
        return False
    n, rows, columns = places
    tiles = n * -(-rows // winograd.M) * -(-columns // winograd.M)
    tiled = tiles * (36 * c * o + 2300 * c + 2100 * o) + 1700 * c * o
    gathered = n * rows * columns * 9 * c * (o + 11)
    return tiled < gathered


def _is_matrix(w_shape: tuple[int, ...], stride: int, pads: Pads) -> bool:
    """Whether each place sees one pixel, and each pixel is seen."""
    return w_shape[:2] == (1, 1) and stride == 1 and not any(map(any, pads))


def _turned_pads(size: tuple[int, int], pads: Pads) -> Pads | None:
    """The pads of the convolution that is the gradient of one at stride 1; None if below 0."""
    (kh, kw), ((top, bottom), (left, right)) = size, pads
    if max(top, bottom) >= kh or max(left, right) >= kw:
        return None
    return (kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right)


def _turned(w: Array) -> Array:
    """The kernel of that convolution: turned by 180 degrees, with C and O exchanged."""
    return np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))


class _Columns:
    """im2col for blocks of images: the windows of a block as the rows of a matrix.

    In NHWC the kw pixels of a window's row lie side by side: a window is kh runs of kw C numbers.
    """

    def __init__(self, x: Array, size: tuple[int, int], stride: int, pads: Pads) -> None:
        (n, *sides, c), (kh, kw) = x.shape, size
        self.run, self.stride = (kh, kw * c), stride
        self.out = [
            (side + sum(p) - k) // stride + 1 for side, p, k in zip(sides, pads, size, strict=True)
        ]
        self.blocks = memory.blocks(n, math.prod((*self.out, *self.run)) * x.itemsize)
        self.images = Padded("images", x, pads, self.blocks)

    def of(self, block: slice) -> Array:
        """The matrix (windows of the block, kh kw C); overwritten by the next call."""
        images = self.images.of(block)
        (image, row, pixel, _), (kh, run) = images.strides, self.run
        shape = len(images), *self.out, kh
        strides = image, row * self.stride, pixel * self.stride, row
        columns = memory.scratch("columns", (*shape, run), images.dtype)
        np.copyto(memory.items(columns, shape, run), memory.items(images, shape, run, strides))
        return columns.reshape(-1, kh * run)


def _gather(x: Array, w: Array, stride: int, pads: Pads, b: Array | None = None) -> Array:
    """The windows of a few images at a time as a matrix, times the kernel as a matrix."""
    matrix = w.reshape(-1, w.shape[3])
    columns = _Columns(x, w.shape[:2], stride, pads)
    y = np.empty((len(x), *columns.out, w.shape[3]), np.result_type(x, w))
    for block in columns.blocks:
        np.matmul(columns.of(block), matrix, out=y[block].reshape(-1, w.shape[3]))
        _add(y[block], b)
    return y


def _scatter(g: Array, w: Array, x_shape: tuple[int, ...], stride: int, pads: Pads) -> Array:
    """Each place of g times the kernel, added to what the window of that place holds."""
    (n, h, width, c), (kh, kw, _, o), (out_h, out_w) = x_shape, w.shape, g.shape[1:3]
    (top, bottom), (left, right) = pads
    matrix, dx = w.reshape(-1, o).T, np.empty(x_shape, np.result_type(g, w))
    for block in memory.blocks(n, out_h * out_w * kh * kw * c * g.itemsize):
        places = g[block].reshape(-1, o)
        products = memory.scratch("columns", (len(places), kh * kw * c), dx.dtype)
        np.matmul(places, matrix, out=products)
        products = products.reshape(-1, out_h, out_w, kh, kw, c)
        shape = len(products), top + h + bottom, left + width + right, c
        images = memory.scratch("images", shape, dx.dtype)
        images[...] = 0
        for a, b in np.ndindex(kh, kw):
            rows, cols = slice(a, a + stride * out_h, stride), slice(b, b + stride * out_w, stride)
            images[:, rows, cols] += products[:, :, :, a, b]
        dx[block] = images[:, top : top + h, left : left + width]
    return dx


def _add(y: Array, b: Array | None) -> None:
    """y += b, by rows of images: NumPy is slow on runs as short as O numbers."""
    if b is not None:
        rows = y.reshape(*y.shape[:2], y.shape[2] * y.shape[3])
        rows += np.tile(b, y.shape[2])


def conv2d(
    xp: object, x: Array, w: Array, stride: int, pads: Pads, b: Array | None = None
) -> Array:
    """The fastest way for the shape."""
    (n, *sides, c), (*size, _, o) = x.shape, w.shape
    if _is_matrix(w.shape, stride, pads):
        y = np.matmul(x.reshape(-1, c), w[0, 0]).reshape(*x.shape[:3], o)
        _add(y, b)
        return y
    rows, columns = (
        (side + sum(p) - k) // stride + 1 for side, p, k in zip(sides, pads, size, strict=True)
    )
    if _winograd_pays({x.dtype, w.dtype}, w.shape[:2], stride, (n, rows, columns), c, o):
        return winograd.conv2d(x, w, pads, b)
    turned_pads = _turned_pads(w.shape[:2], pads)
    if stride == 1 and FEW * o <= c and turned_pads:
        y = _scatter(x, _turned(w), (n, rows, columns, o), 1, turned_pads)
        _add(y, b)
        return y
    return _gather(x, w, stride, pads, b)


def conv2d_dx(
    xp: object, g: Array, w: Array, x_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """At stride 1, the same choice for the turned kernel; otherwise scatter."""
    c, o = w.shape[2:]
    if _is_matrix(w.shape, stride, pads):
        return np.matmul(g.reshape(-1, o), w[0, 0].T).reshape(x_shape)
    turned_pads = _turned_pads(w.shape[:2], pads)
    if stride > 1 or FEW * c <= o or not turned_pads:
        return _scatter(g, w, x_shape, stride, pads)
    if _winograd_pays({g.dtype, w.dtype}, w.shape[:2], stride, x_shape[:3], o, c):
        return winograd.conv2d(g, w, turned_pads, turn=True)
    return _gather(g, _turned(w), 1, turned_pads)


def conv2d_dw(
    xp: object, x: Array, g: Array, w_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """The windows of x, transposed, times g; or x, transposed, times the windows of g."""
    kh, kw, c, o = w_shape
    if _is_matrix(w_shape, stride, pads):
        return np.matmul(x.reshape(-1, c).T, g.reshape(-1, o)).reshape(w_shape)
    if _winograd_pays({x.dtype, g.dtype}, (kh, kw), stride, g.shape[:3], c, o):
        return winograd.conv2d_dw(x, g, pads)
    turned_pads = _turned_pads((kh, kw), pads)
    if stride == 1 and o < c and turned_pads:
        dw = _sum_of_products(_Columns(g, (kh, kw), 1, turned_pads), x)
        return np.ascontiguousarray(dw.T.reshape(c, kh, kw, o)[:, ::-1, ::-1].transpose(1, 2, 0, 3))
    return _sum_of_products(_Columns(x, (kh, kw), stride, pads), g).reshape(w_shape)


def _sum_of_products(columns: _Columns, places: Array) -> Array:
    """Windows transposed times the numbers at their places, summed over the blocks."""
    c = places.shape[3]
    total = np.zeros((math.prod(columns.run), c), np.result_type(columns.images.x, places))
    part = memory.scratch("part", total.shape, total.dtype)
    for block in columns.blocks:
        total += np.matmul(columns.of(block).T, places[block].reshape(-1, c), out=part)
    return total
