"""What holds for every operation: its value, its VJP, float32, any layout of memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff import ops
from minidiff.autograd import OPS, Tensor, no_grad
from minidiff.gradcheck import check_vjp
from tests.ops.cases import CASES
from tests.strategies import examples, lay_out, layouts, seeds

every_op = pytest.mark.parametrize("name", sorted(CASES))


def laid_out(data, arrays, dtype):
    return [lay_out(np.asarray(x, dtype), data.draw(layouts)) for x in arrays]


def gradients(case, inputs, g):
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    y = case.f(*tensors)
    y.backward(g)
    return [t.grad for t in tensors]


def assert_close(got, expected, tolerance):
    """Every error is small against the largest of the expected numbers, and against 1, since the
    numbers that went in are of that order and may cancel.
    """
    assert got.shape == expected.shape
    scale = max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


def test_no_operation_is_forgotten():
    assert set(CASES) == set(ops.__all__)
    assert set(ops.__all__) == {*OPS, "split"}  # split is made of getitem


@every_op
@given(data=st.data())
@examples(0.5)
def test_value_is_that_of_the_plain_definition(name, data):
    case = data.draw(CASES[name])
    inputs = laid_out(data, case.inputs, np.float64)
    with no_grad():
        y = case.f(*(Tensor(x) for x in inputs))
    assert not y.requires_grad
    assert y.dtype == np.float64
    assert_close(y.data, np.asarray(case.plain(*case.inputs)), 1e-11)
    for x, before in zip(inputs, case.inputs, strict=True):
        np.testing.assert_array_equal(x, before)


@every_op
@given(data=st.data(), seed=seeds)
@examples(0.5)
def test_vjp_is_that_of_a_central_difference(name, data, seed):
    case = data.draw(CASES[name])
    check_vjp(case.f, *case.inputs, rng=np.random.default_rng(seed))


@every_op
@given(data=st.data(), seed=seeds)
@examples(0.3)
def test_float32_stays_float32_in_any_layout(name, data, seed):
    case = data.draw(CASES[name])
    inputs = laid_out(data, case.inputs, np.float32)
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    y = case.f(*tensors)
    assert y.dtype == np.float32
    assert_close(y.data, np.asarray(case.plain(*inputs)), 1e-5)

    g = np.random.default_rng(seed).standard_normal(y.shape)
    (g32,) = laid_out(data, [g], np.float32)
    for edge, gx in zip(y._node.inputs, y._node.vjp(g32), strict=True):
        if edge is not None:  # as the VJP gives them, before the engine casts
            assert (gx() if callable(gx) else gx).dtype == np.float32

    y.backward(g32)
    assert all(t.grad.dtype == np.float32 and t.grad.shape == t.shape for t in tensors)
    if not case.depends_on_dtype:
        exact = gradients(case, [x.astype(np.float64) for x in inputs], np.float64(g32))
        for t, expected in zip(tensors, exact, strict=True):
            assert_close(t.grad, expected, 1e-5)


@every_op
@given(data=st.data())
@examples(0.1)
def test_a_cotangent_may_be_a_read_only_view_that_repeats_one_number(name, data):
    """Such is the gradient that a sum hands down."""
    case = data.draw(CASES[name])
    tensors = [Tensor(x, requires_grad=True) for x in case.inputs]
    (2 * case.f(*tensors).sum()).backward()
    y = case.f(*(Tensor(x) for x in case.inputs))
    expected = gradients(case, case.inputs, np.full(y.shape, 2.0))
    for t, exact in zip(tensors, expected, strict=True):
        assert_close(t.grad, exact, 1e-11)
