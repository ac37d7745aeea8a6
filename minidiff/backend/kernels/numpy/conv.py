"""Convolution as matrix products over blocks of images; how is chosen by the shapes alone.

* 1x1: one product, of the pixels and the kernel, without a copy.
* 3x3 and not too few channels: `winograd`, with a quarter of the multiplications.
* Otherwise *gather* the windows of x as the rows of a matrix and multiply them by the kernel
  (im2col), which copies kh kw C numbers for each place;
* or, with far fewer channels out than in, multiply the pixels first and *scatter* the kh kw O
  products of each to the places whose windows hold it (col2im).

The gradient of x is a convolution of g with the kernel turned around, so the choice is the same.

The matrices of a block hold whole images. Images that are too large for that are cut into strips
of rows, each of which is an image of its own.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from minidiff.backend.kernels.numpy import memory, winograd
from minidiff.backend.kernels.numpy.padding import Padded
from minidiff.backend.kernels.reference import Array, Pads

FEW = 8
"""Scatter where there are this many times fewer channels out than in."""
STRIP = 32
"""An image is cut where its windows take more than this many times `memory.SCRATCH`."""
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


def _places(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, pads: Pads
) -> tuple[int, int]:
    """Rows and columns of the result."""
    (_, *sides, _), ((top, bottom), (left, right)) = x_shape, pads
    rows = (sides[0] + top + bottom - w_shape[0]) // stride + 1
    return rows, (sides[1] + left + right - w_shape[1]) // stride + 1


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
        c, (kh, kw) = x.shape[3], size
        self.run, self.stride = (kh, kw * c), stride
        self.out = _places(x.shape, size, stride, pads)
        self.blocks = memory.blocks(len(x), math.prod((*self.out, *self.run)) * x.itemsize)
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
        products = products.reshape(len(g[block]), out_h, out_w, kh, kw, c)
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
        rows += b[None].repeat(y.shape[2], axis=0).reshape(-1)  # np.tile is slower to begin


def _strips(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, pads: Pads, itemsize: int
) -> list[tuple[tuple[slice, slice], tuple[slice, slice], Pads]]:
    """What to read of x, what to write of y, and how to pad what was read: strip by strip."""
    (n, height, *_), (kh, kw, c, o) = x_shape, w_shape
    rows, columns = _places(x_shape, w_shape, stride, pads)
    most = STRIP * memory.SCRATCH // max(1, columns * kh * kw * max(c, o) * itemsize)
    if most >= rows or not n or _is_matrix(w_shape, stride, pads):
        return [((slice(n), slice(height)), (slice(n), slice(rows)), pads)]
    most = max(1, most - most % winograd.M if most > winograd.M else most)
    ((top, _), across), strips = pads, []
    for first in range(0, rows, most):
        last = min(first + most, rows)
        # the rows that the windows cover; those before 0 and from `height` on are padding
        start, end = first * stride - top, (last - 1) * stride + kh - top
        inside = slice(max(start, 0), max(end, 0))
        down = max(0, min(end, 0) - start), max(0, end - max(start, height))
        strips.append((inside, slice(first, last), (down, across)))
    images = [slice(i, i + 1) for i in range(n)]
    return [((i, inside), (i, part), own) for i in images for inside, part, own in strips]


def conv2d(
    xp: object, x: Array, w: Array, stride: int, pads: Pads, b: Array | None = None
) -> Array:
    """Strip by strip."""
    strips = _strips(x.shape, w.shape, stride, pads, x.itemsize)
    if len(strips) == 1:
        return _conv2d(x, w, stride, pads, b)
    places = _places(x.shape, w.shape, stride, pads)
    y = np.empty((len(x), *places, w.shape[3]), np.result_type(x, w))
    for read, write, own_pads in strips:
        y[write] = _conv2d(x[read], w, stride, own_pads, b)
    return y


def conv2d_dx(
    xp: object, g: Array, w: Array, x_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """The strips of x overlap: what they share gets a part from each."""
    strips = _strips(x_shape, w.shape, stride, pads, g.itemsize)
    if len(strips) == 1:
        return _conv2d_dx(g, w, x_shape, stride, pads)
    dx = np.zeros(x_shape, np.result_type(g, w))
    for read, write, own_pads in strips:
        dx[read] += _conv2d_dx(g[write], w, dx[read].shape, stride, own_pads)
    return dx


def conv2d_dw(
    xp: object, x: Array, g: Array, w_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """The sum over the strips."""
    strips = _strips(x.shape, w_shape, stride, pads, x.itemsize)
    parts = (_conv2d_dw(x[read], g[write], w_shape, stride, p) for read, write, p in strips)
    return functools.reduce(np.add, parts)


def _conv2d(x: Array, w: Array, stride: int, pads: Pads, b: Array | None) -> Array:
    """The fastest way for the shape."""
    (n, *_, c), o = x.shape, w.shape[3]
    if _is_matrix(w.shape, stride, pads):
        y = np.matmul(x.reshape(-1, c), w[0, 0]).reshape(*x.shape[:3], o)
        _add(y, b)
        return y
    rows, columns = _places(x.shape, w.shape, stride, pads)
    if _winograd_pays({x.dtype, w.dtype}, w.shape[:2], stride, (n, rows, columns), c, o):
        return winograd.conv2d(x, w, pads, b)
    turned_pads = _turned_pads(w.shape[:2], pads)
    if stride == 1 and FEW * o <= c and turned_pads:
        y = _scatter(x, _turned(w), (n, rows, columns, o), 1, turned_pads)
        _add(y, b)
        return y
    return _gather(x, w, stride, pads, b)


def _conv2d_dx(g: Array, w: Array, x_shape: tuple[int, ...], stride: int, pads: Pads) -> Array:
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


def _conv2d_dw(x: Array, g: Array, w_shape: tuple[int, ...], stride: int, pads: Pads) -> Array:
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
