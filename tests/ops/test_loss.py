"""Losses: limits, kinks, large logits, and what they say of mistakes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.errors import InputError
from tests.strategies import arrays, seeds, shapes


def slope(f, d):
    """The derivative of a loss by pred, at target 0."""
    pred = Tensor(np.array([d]), requires_grad=True)
    f(pred, np.zeros(1)).backward()
    return pred.grad.item()


def test_slopes_at_kinks():
    assert slope(ops.l1, 0.0) == 0
    assert slope(ops.l1, -3.0) == -1
    assert slope(ops.huber, 1.0) == 1  # both formulas agree there
    assert slope(ops.huber, 1.5) == 1
    assert slope(ops.huber, -0.5) == -0.5


@given(arrays(shapes()))
def test_huber_lies_between_squares_and_magnitudes(d):
    zero = np.zeros_like(d)
    squares, magnitudes = ops.mse(d, zero).item(), ops.l1(d, zero).item()
    assert ops.huber(d, zero, delta=100.0).item() == pytest.approx(squares / 2)
    assert ops.huber(d, zero, delta=1e-9).item() / 1e-9 == pytest.approx(magnitudes, rel=1e-6)
    assert ops.huber(d, zero, delta=1.0).item() <= min(squares / 2, magnitudes) + 1e-12


@given(x=arrays(shapes()), seed=seeds)
def test_symmetric_in_its_arguments(x, seed):
    y = np.random.default_rng(seed).standard_normal(x.shape)
    for f in (ops.mse, ops.l1, ops.huber):
        a, b = Tensor(x, requires_grad=True), Tensor(y, requires_grad=True)
        f(a, b).backward()
        assert f(x, y).item() == f(y, x).item()
        assert f(x, x).item() == 0
        assert_array_equal(a.grad, -b.grad)


@given(n=st.integers(1, 5), k=st.integers(1, 6), seed=seeds)
def test_cross_entropy_of_equal_logits_is_log_k_and_of_sure_ones_zero(n, k, seed):
    labels = np.random.default_rng(seed).integers(0, k, n)
    assert ops.cross_entropy(np.full((n, k), 0.3), labels).item() == pytest.approx(np.log(k))
    sure = 1e4 * np.eye(k)[labels]
    assert ops.cross_entropy(sure, labels).item() == 0
    if k > 1:
        assert ops.cross_entropy(-sure, labels).item() == pytest.approx(1e4, rel=1e-3)


@given(seed=seeds)
def test_the_gradient_of_cross_entropy_is_probability_minus_truth(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((4, 3)), rng.integers(0, 3, 4)
    leaf = Tensor(logits, requires_grad=True)
    ops.cross_entropy(leaf, labels).backward()
    expected = (ops.softmax(logits).data - np.eye(3)[labels]) / 4
    assert_allclose(leaf.grad, expected, atol=1e-14)
    assert_allclose(leaf.grad.sum(axis=1), 0, atol=1e-15)


def test_large_float32_logits_do_not_overflow():
    leaf = Tensor(np.array([[1e38, -1e38], [1e5, 0]], np.float32), requires_grad=True)
    y = ops.cross_entropy(leaf, [0, 1])
    assert y.dtype == np.float32
    assert y.item() == 5e4
    y.backward()
    assert_array_equal(leaf.grad, [[0, 0], [0.5, -0.5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.mse(np.zeros(3), np.zeros((3, 1))), r"mse: shapes \(3,\) and \(3, 1\) differ"),
        (lambda: ops.l1(np.zeros(3), np.zeros(1)), r"l1: shapes \(3,\) and \(1,\) differ"),
        (lambda: ops.huber(np.zeros(3), np.zeros(())), r"huber: shapes \(3,\) and \(\) differ"),
        (lambda: ops.huber(np.zeros(3), np.zeros(3), delta=0.0), "delta must be positive, got 0.0"),
        (lambda: ops.mse(np.zeros(3), 0.0), r"mse: shapes \(3,\) and \(\) differ"),
        (lambda: ops.cross_entropy(np.zeros((2, 3)), [0]), r"2 rows of logits, labels .* \(1,\)"),
        (lambda: ops.l1(*np.array([[1], [2]], np.uint8)), "l1: pred must .* got uint8"),
        (lambda: ops.mse(np.zeros(3), np.zeros(3, int)), "mse: target must .* got int64"),
        (lambda: ops.mse(np.zeros(0), np.zeros(0)), "mse: no elements to average"),
        (lambda: ops.mse(1.0, 2.0), "mse: pred must .* got float"),
        (lambda: ops.huber(np.zeros(3), np.zeros(3), delta="a"), "delta must be a number"),
        (lambda: ops.cross_entropy(np.zeros(3), [0]), r"logits \(N, K\), got shape \(3,\)"),
        (lambda: ops.cross_entropy(np.zeros((0, 3)), []), r"logits \(N, K\), got shape \(0, 3\)"),
        (lambda: ops.cross_entropy(np.zeros((2, 3), int), [0, 1]), "logits must .* got int64"),
        (lambda: ops.cross_entropy(np.zeros((2, 3)), None), "indices must be integers"),
        (lambda: ops.cross_entropy(np.zeros((2, 3)), [[0], [1, 2]]), "indices must be an array"),
    ],
)  # fmt: skip
def test_impossible_calls_are_refused(call, message):
    """A loss that broadcast would average over pairs that nobody meant."""
    with pytest.raises(InputError, match=message):
        call()
