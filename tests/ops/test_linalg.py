"""Products: the same one written in several ways, and indices that do not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.errors import InputError
from tests.strategies import seeds

side = st.integers(1, 5)


def value_and_gradients(f, *arrays, g):
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    y = f(*leaves)
    y.backward(g.reshape(y.shape))
    return [y.data, *(x.grad for x in leaves)]


@given(n=side, m=side, k=side, seed=seeds)
def test_one_product_written_in_four_ways(n, m, k, seed):
    rng = np.random.default_rng(seed)
    a, b, g = (rng.standard_normal(s) for s in ((n, m), (m, k), (n, k)))
    expected = [a @ b, g @ b.T, a.T @ g]
    for f in (
        ops.matmul,
        ops.linear,
        lambda a, b: ops.einsum("nm,mk->nk", a, b),
        lambda a, b: (a.reshape(n, m, 1) * b.reshape(1, m, k)).sum(axis=1),
    ):
        for got, right in zip(value_and_gradients(f, a, b, g=g), expected, strict=True):
            assert_allclose(got, right, atol=1e-12)


@given(shape=st.lists(side, min_size=0, max_size=3), seed=seeds)
def test_linear_acts_on_the_last_axis_of_any_shape(shape, seed):
    rng = np.random.default_rng(seed)
    x, w, b = rng.standard_normal((*shape, 3)), rng.standard_normal((3, 2)), rng.standard_normal(2)
    g = rng.standard_normal((*shape, 2))
    got = value_and_gradients(ops.linear, x, w, b, g=g)
    right = value_and_gradients(lambda x, w, b: x.reshape(-1, 3) @ w + b, x, w, b, g=g)
    assert_allclose(got[0], right[0].reshape(*shape, 2), atol=1e-12)
    for a, e in zip(got[1:], right[1:], strict=True):
        assert_allclose(a, e, atol=1e-12)


def test_a_trace_and_a_square_by_one_tensor_twice():
    x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
    ops.einsum("ij,ji->", x, x).backward()  # the trace of x squared
    assert_allclose(x.grad, 2 * x.data.T)


@pytest.mark.parametrize(
    ("subscripts", "message"),
    [
        ("ij,jk", "with the result named"),
        ("...j,jk->...k", "no dots"),
        ("ii,jk->ik", "no index twice"),
        ("ij,jk->ii", "no index twice"),
        ("ij->ij", r"does not fit \(2, 3\), \(3, 4\)"),
        ("ijk,jk->ik", r"does not fit \(2, 3\), \(3, 4\)"),
        ("ij,ik->jk", "an index has several sizes"),
    ],
)
def test_einsum_that_cannot_be_is_refused(subscripts, message):
    with pytest.raises(InputError, match=message):
        ops.einsum(subscripts, np.zeros((2, 3)), np.zeros((3, 4)))
    with pytest.raises(InputError, match="several sizes"):
        ops.einsum("ij,ij->ij", np.zeros((1, 3)), np.zeros((2, 3)))  # would broadcast


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.matmul(np.zeros((2, 3)), np.zeros((2, 3))), r"shapes \(2, 3\) and \(2, 3\)"),
        (lambda: ops.matmul(np.zeros(2), 1.0), r"shapes \(2,\) and \(\) do not fit"),
        (lambda: ops.linear(np.zeros((4, 2)), np.zeros((3, 2))), r"\(4, 2\), \(3, 2\) and None"),
        (lambda: ops.linear(np.zeros(2), np.zeros((2, 3)), np.zeros(1)), r"and \(1,\)"),
        (lambda: ops.linear(np.zeros((4, 2), int), np.zeros((2, 3))), "linear: x must .* int64"),
    ],
)
def test_products_that_cannot_be_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
