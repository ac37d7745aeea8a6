"""Convolution, upsampling, pooling: identities, borders, ties, and what they say of mistakes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.errors import InputError
from tests.ops.cases import images
from tests.strategies import examples, seeds, sides


def gradient(f, x, g):
    leaf = Tensor(x, requires_grad=True)
    f(leaf).backward(g)
    return leaf.grad


def transposed_convolution(g, w, stride, shape):
    """Each value of g lays down a copy of the kernel, times itself, on a canvas of `shape`."""
    canvas = np.zeros(shape)
    for n, i, j, o in np.ndindex(g.shape):
        i0, j0 = i * stride, j * stride
        canvas[n, i0 : i0 + len(w), j0 : j0 + w.shape[1]] += g[n, i, j, o] * w[..., o]
    return canvas


@given(x=images(min_side=3), stride=st.integers(1, 3), pads=st.tuples(sides, sides), seed=seeds)
@examples(0.4)
def test_the_gradient_of_a_convolution_is_its_adjoint(x, stride, pads, seed):
    """<conv(x), g> = <x, conv^T(g)>, conv^T by laying down kernels."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((3, 2, x.shape[3], 2))
    y = ops.conv2d(x, w, stride=stride, padding=pads).data
    g = rng.standard_normal(y.shape)
    dx = gradient(lambda x: ops.conv2d(x, w, stride=stride, padding=pads), x, g)
    assert_allclose((y * g).sum(), (x * dx).sum(), rtol=1e-9, atol=1e-9)
    (top, bottom), (left, right) = pads
    n, height, width, c = x.shape
    canvas = (n, height + top + bottom, width + left + right, c)
    whole = transposed_convolution(g, w, stride, canvas)
    assert_allclose(dx, whole[:, top : top + height, left : left + width], atol=1e-11)


@given(x=images(min_side=2), size=st.sampled_from([1, 3, 5]))
def test_a_kernel_that_is_one_in_its_middle_changes_nothing(x, size):
    w = np.zeros((size, size, x.shape[3], x.shape[3]))
    w[size // 2, size // 2] = np.eye(x.shape[3])
    assert_allclose(ops.conv2d(x, w, padding=size // 2).data, x)


@given(x=images(min_side=4), seed=seeds)
def test_convolution_commutes_with_translation(x, seed):
    w = np.random.default_rng(seed).standard_normal((3, 3, x.shape[3], 2))
    x[:, -1] = x[:, :, -1] = 0  # so that nothing falls off
    moved = np.roll(x, (1, 1), axis=(1, 2))
    y = ops.conv2d(x, w, padding=2).data
    assert_allclose(ops.conv2d(moved, w, padding=2).data[:, 1:, 1:], y[:, :-1, :-1], atol=1e-12)


@given(x=images(), seed=seeds)
def test_a_kernel_of_one_pixel_is_a_linear_layer(x, seed):
    rng = np.random.default_rng(seed)
    w, b = rng.standard_normal((x.shape[3], 3)), rng.standard_normal(3)
    assert_allclose(ops.conv2d(x, w[None, None], b).data, ops.linear(x, w, b).data, atol=1e-12)


@given(x=images(min_side=3), seed=seeds)
def test_padding_is_zeros_around_the_image(x, seed):
    w = np.random.default_rng(seed).standard_normal((3, 3, x.shape[3], 2))
    pads = ((1, 2), (0, 3))
    padded = ops.pad(x, widths=((0, 0), *pads, (0, 0))).data
    assert_allclose(ops.conv2d(x, w, padding=pads).data, ops.conv2d(padded, w).data, atol=1e-12)
    same = ops.conv2d(x, w, padding=((1, 1), (1, 1))).data
    assert_array_equal(ops.conv2d(x, w, padding=1).data, same)


def test_stride_two_with_the_padding_of_ddpm():
    """Zeros below and to the right only, as in the U-Net of Ho et al.: even sides are halved."""
    x, w = np.ones((1, 4, 4, 1)), np.ones((3, 3, 1, 1))
    y = ops.conv2d(x, w, stride=2, padding=((0, 1), (0, 1))).data[0, :, :, 0]
    assert_array_equal(y, [[9, 6], [6, 4]])


def test_pixels_that_no_window_reaches_get_no_gradient():
    x, w = np.ones((1, 6, 5, 1)), np.ones((2, 2, 1, 1))
    dx = gradient(lambda x: ops.conv2d(x, w, stride=4), x, np.ones((1, 2, 1, 1)))
    assert_array_equal(dx[0, :, :, 0].sum(axis=1), [2, 2, 0, 0, 2, 2])
    for f in (ops.avg_pool, ops.max_pool):
        dx = gradient(lambda x, f=f: f(x, size=2, stride=4), x, np.ones((1, 2, 1, 1)))
        assert_array_equal(
            dx[0, :, :, 0].sum(axis=1) > 0, [1, f is ops.avg_pool, 0, 0, 1, f is ops.avg_pool]
        )


@given(x=images(max_side=4), factor=st.integers(1, 3), seed=seeds)
def test_upsampling_is_undone_by_pooling(x, factor, seed):
    y = ops.upsample_nearest(x, factor=factor)
    assert y.shape == (x.shape[0], x.shape[1] * factor, x.shape[2] * factor, x.shape[3])
    assert_allclose(ops.avg_pool(y, size=factor).data, x, atol=1e-13)
    assert_array_equal(ops.max_pool(y, size=factor).data, x)
    g = np.random.default_rng(seed).standard_normal(y.shape)
    dx = gradient(lambda x: ops.upsample_nearest(x, factor=factor), x, g)
    assert_allclose((y.data * g).sum(), (x * dx).sum(), rtol=1e-9, atol=1e-9)


def test_the_first_of_the_pixels_that_tie_gets_the_gradient_of_max_pool():
    x = np.array([[1.0, 5.0, 2.0, 2.0], [5.0, 5.0, 2.0, 2.0]]).reshape(1, 2, 4, 1)
    dx = gradient(ops.max_pool, x, np.array([3.0, 4.0]).reshape(1, 1, 2, 1))
    assert_array_equal(dx.reshape(2, 4), [[0, 3, 4, 0], [0, 0, 0, 0]])


def test_overlapping_windows_add_their_gradients():
    x = np.arange(9.0).reshape(1, 3, 3, 1)
    g = np.ones((1, 2, 2, 1))
    dx = gradient(lambda x: ops.max_pool(x, size=2, stride=1), x, g)
    assert_array_equal(dx.reshape(3, 3), [[0, 0, 0], [0, 1, 1], [0, 1, 1]])
    dx = gradient(lambda x: ops.avg_pool(x, size=2, stride=1), x, g)
    assert_array_equal(4 * dx.reshape(3, 3), [[1, 2, 1], [2, 4, 2], [1, 2, 1]])


X, W = np.zeros((1, 4, 4, 2)), np.zeros((3, 3, 2, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.conv2d(X[0], W), r"x \(N, H, W, C\).*got \(4, 4, 2\)"),
        (lambda: ops.conv2d(X, W[..., 0]), r"w \(kh, kw, C, O\).*and \(3, 3, 2\)"),
        (lambda: ops.conv2d(X, W.swapaxes(2, 3)), r"\(1, 4, 4, 2\) and \(3, 3, 5, 2\)"),
        (lambda: ops.conv2d(X, W, np.zeros(2)), r"b of shape \(5,\), got \(2,\)"),
        (lambda: ops.conv2d(X, W, stride=0), "stride must be a whole number >= 1, got 0"),
        (lambda: ops.conv2d(X, W, padding=-1), "not negative; got -1"),
        (lambda: ops.conv2d(X, W, padding=(1, 1)), r"\(\(top, bottom\), \(left, right\)\)"),
        (lambda: ops.conv2d(X, W, padding="same"), "got 'same'"),
        (lambda: ops.conv2d(X[:, :2], W), r"a kernel of \(3, 3\) does not fit \(1, 2, 4, 2\)"),
        (lambda: ops.avg_pool(X, size=5), "window of 5 does not fit"),
        (lambda: ops.max_pool(X[:, :1]), r"window of 2 does not fit .* \(1, 1, 4, 2\)"),
        (lambda: ops.avg_pool(X, size=0), "size must be a whole number >= 1, got 0"),
        (lambda: ops.max_pool(X, stride=0), "stride must be a whole number >= 1, got 0"),
        (lambda: ops.upsample_nearest(X, factor=0), "factor must be a whole number >= 1, got 0"),
        (lambda: ops.conv2d(X.astype(int), W), "x must be .* float64, got int64"),
        (lambda: ops.conv2d(X, W.astype(complex)), "w must be .* got complex128"),
        (lambda: ops.conv2d(None, W), "x must be .* got NoneType"),
        (lambda: ops.conv2d(X, W[..., :0]), "nothing in it"),
        (lambda: ops.conv2d(X, W, stride=1.5), "stride must be a whole number"),
        (lambda: ops.conv2d(X, W, padding=((1, 1), (1, 0.5))), "padding is one number"),
        (lambda: ops.max_pool(X[0]), r"pooling wants images .* got shape \(4, 4, 2\)"),
        (lambda: ops.upsample_nearest(X[0]), "upsample_nearest wants images"),
        (lambda: ops.avg_pool(X, size=2.0), "size must be a whole number"),
    ],
)  # fmt: skip
def test_impossible_calls_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
