"""Elementwise functions: what holds at kinks by convention, and at the ends of the number range."""

import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import ops
from minidiff.autograd import Tensor
from tests.strategies import arrays, shapes


def slope(f, *values):
    """The derivative by each argument, at one point."""
    leaves = [Tensor(np.array(v, float), requires_grad=True) for v in values]
    f(*leaves).backward()
    return tuple(x.grad.item() for x in leaves)


def test_slopes_at_kinks():
    assert slope(ops.relu, 0) == (0,)
    assert slope(ops.abs, 0) == (0,)
    assert slope(ops.maximum, 3, 3) == (0.5, 0.5)
    assert slope(lambda x: ops.maximum(x, x), 3) == (1,)
    for x, expected in ((-1, 1), (2, 1), (-1.001, 0), (2.001, 0)):  # the bounds belong inside
        assert slope(lambda x: ops.clip(x, low=-1, high=2), x) == (expected,)


def test_powers_at_zero_and_of_negative_numbers():
    for p, expected in ((1, 1), (2, 0), (3, 0), (2.0, 0)):
        assert slope(lambda x, p=p: x**p, 0) == (expected,)
    assert slope(lambda x: x**3, -2) == (12,)
    assert slope(lambda x: x**-1, -2) == (-0.25,)
    assert slope(lambda p: 2**p, 3) == (8 * np.log(2),)


def test_where_takes_scalars_and_stops_the_branch_not_taken():
    x = Tensor(np.array([-1.0, 4.0]), requires_grad=True)
    with np.errstate(invalid="ignore"):
        ops.where(x.data > 0, ops.sqrt(x), 0.0).sum().backward()
    assert x.grad[1] == 0.25
    y = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    ops.where(np.array([True, False]), y, -y).sum().backward()
    assert_array_equal(y.grad, [1, -1])


@pytest.mark.parametrize("name", ["sigmoid", "silu", "tanh", "gelu", "relu", "abs"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_overflow_however_large_the_input(name, dtype):
    """Warnings are errors here; the limits are those of the function."""
    largest = np.finfo(dtype).max
    x = np.array([-largest, -1e5, -100, -20, 0, 20, 100, 1e5, largest], dtype)
    if name == "gelu":
        x = x[1:-1]  # its derivative squares x
    leaf = Tensor(x, requires_grad=True)
    y = getattr(ops, name)(leaf)
    y.backward(np.ones_like(x))
    left, right = {
        "sigmoid": (0, 1), "tanh": (-1, 1), "silu": (0, x[-1]), "gelu": (0, x[-1]),
        "relu": (0, x[-1]), "abs": (-x[0], x[-1]),
    }[name]  # fmt: skip
    assert (y.data[0], y.data[-1]) == (left, right)
    flat = {"sigmoid": (0, 0), "tanh": (0, 0), "abs": (-1, 1)}.get(name, (0, 1))
    assert (leaf.grad[0], leaf.grad[-1]) == flat


@given(arrays(shapes()))
def test_symmetries(x):
    assert_allclose(ops.sigmoid(x).data + ops.sigmoid(-x).data, 1, atol=1e-15)
    assert_allclose(ops.silu(x).data - ops.silu(-x).data, x, atol=1e-14)
    assert_allclose(ops.gelu(x).data - ops.gelu(-x).data, x, atol=1e-14)
    assert_allclose(2 * ops.sigmoid(2 * x).data - 1, ops.tanh(x).data, atol=1e-14)
    assert_allclose(ops.relu(x).data - ops.relu(-x).data, x)
    assert_array_equal(ops.abs(x).data, ops.maximum(x, -x).data)
    assert_allclose(ops.log(ops.exp(x)).data, x, atol=1e-14)
    assert_allclose(ops.sqrt(x * x).data, np.abs(x), atol=1e-15)
    assert_array_equal(ops.clip(x, low=0, high=np.inf).data, ops.relu(x).data)
