"""Reductions and softmax: normalization, shifts, ties, large numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.errors import InputError
from tests.strategies import arrays, shapes


@given(x=arrays(shapes(min_dims=1)), data=st.data())
def test_softmax_is_a_distribution_and_knows_no_shift(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    p = ops.softmax(x, axis=axis).data
    assert (p > 0).all()
    assert_allclose(p.sum(axis=axis), 1, rtol=1e-14)
    shift = np.expand_dims(x.max(axis=axis), axis) * 3
    assert_allclose(ops.softmax(x + shift, axis=axis).data, p, rtol=1e-12)
    log_p = ops.log_softmax(x, axis=axis).data
    assert_allclose(log_p, np.log(p), atol=1e-13)
    expected = x - ops.logsumexp(x, axis=axis, keepdims=True).data
    assert_allclose(log_p, expected, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_overflow_however_large_the_input(dtype):
    largest = np.finfo(dtype).max
    for x in ([1e4, 0, -1e4], [largest, largest, 0], [-largest, -largest, -largest]):
        x = Tensor(np.array([x], dtype), requires_grad=True)
        p = ops.softmax(x).data
        assert_allclose(p, [(x.data[0] == x.data.max()) / (x.data == x.data.max()).sum()])
        total = ops.logsumexp(x, axis=1)
        assert_allclose(total.data, [x.data.max()], rtol=1e-3)
        total.backward(np.ones(1, dtype))
        assert_allclose(x.grad, p)
    log_p = ops.log_softmax(np.array([1e4, 0, -1e4], dtype)).data
    assert_array_equal(log_p, [0, -1e4, -2e4])


def test_logsumexp_of_large_numbers_along_no_axis_or_all():
    x = np.array([[1000.0, 1000.0], [-1000.0, 0.0]])
    assert ops.logsumexp(x).item() == pytest.approx(1000 + np.log(2))
    assert_allclose(ops.logsumexp(x, axis=0).data, [1000, 1000])
    assert_array_equal(ops.logsumexp(x, axis=()).data, x)
    assert ops.logsumexp(x, axis=(0, 1), keepdims=True).shape == (1, 1)


def test_elements_that_tie_for_the_maximum_share_the_gradient():
    x = Tensor(np.array([[3.0, 1.0, 3.0], [2.0, 2.0, 2.0]]), requires_grad=True)
    ops.max(x, axis=1).backward(np.array([1.0, 6.0]))
    assert_array_equal(x.grad, [[0.5, 0, 0.5], [2, 2, 2]])
    x.grad = None
    ops.max(x).backward()
    assert_array_equal(x.grad, [[0.5, 0, 0.5], [0, 0, 0]])


@given(arrays(shapes(min_dims=1)))
def test_mean_and_variance(x):
    assert_allclose(ops.mean(x, axis=0).data * len(x), ops.sum(x, axis=0).data, atol=1e-12)
    d = x - ops.mean(x, axis=0, keepdims=True).data
    assert_allclose(ops.var(x, axis=0).data, ops.mean(d * d, axis=0).data, atol=1e-12)
    assert_allclose(ops.var(x + 100).data, ops.var(x).data, atol=1e-10)
    assert_allclose(ops.var(3 * x).data, 9 * ops.var(x).data, atol=1e-12)
    if len(x) > 1:
        assert_allclose(ops.var(x, axis=0, ddof=1).data, np.var(x, axis=0, ddof=1), atol=1e-12)


def test_variance_of_float32_numbers_with_a_large_mean():
    x = (np.random.default_rng(0).standard_normal(1000) + 3000).astype(np.float32)
    assert ops.var(x).item() == pytest.approx(x.astype(np.float64).var(), rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.sum(x, axis=2), r"axis 2 is none of an array of shape \(0, 3\)"),
        (lambda x: ops.mean(x, axis=0.5), "axis 0.5"),
        (lambda x: ops.mean(x), "mean of no elements"),
        (lambda x: ops.max(x, axis=0), "max of no elements"),
        (lambda x: ops.logsumexp(x, axis=0), "logsumexp of no elements"),
        (lambda x: ops.var(x), "var of no elements"),
        (lambda x: ops.var(np.ones(3), ddof=3), "ddof 3 leaves nothing of 3 elements"),
    ],
)
def test_what_has_no_value_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(np.zeros((0, 3)))


def test_rows_of_an_empty_batch_have_values_of_their_own():
    assert ops.mean(np.zeros((0, 3)), axis=1).shape == (0,)
    assert ops.softmax(np.zeros((0, 3))).shape == (0, 3)
