"""Convolution as matrix products over blocks of images."""

from __future__ import annotations

import math

import numpy as np

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.reference import Array, Pads


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
        self.blocks = memory.blocks(n, rows * kh * kw * c * x.itemsize)
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
    for block in memory.blocks(n, out_h * out_w * kh * kw * c * g.itemsize):
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
