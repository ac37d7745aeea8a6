"""Normalization and dropout: moments, invariances, float32 with a large mean, chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.errors import InputError
from minidiff.gradcheck import check_vjp
from tests.strategies import seeds


@st.composite
def batches(draw):
    """(x, groups) with some numbers in each group."""
    groups, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 3)), draw(st.integers(3, 6)), draw(st.integers(1, 5)))
    return np.random.default_rng(draw(seeds)).standard_normal((*shape, groups * width)), groups


def plain_norm(x, groups, eps=1e-5, dtype=None):
    one = np.ones(x.shape[-1], dtype or x.dtype)
    return ops.group_norm(x, one, 0 * one, groups=groups, eps=eps).data


@given(batches())
def test_every_group_has_mean_0_and_variance_1(drawn):
    x, groups = drawn
    for part in np.split(plain_norm(x, groups, eps=1e-12), groups, axis=-1):
        assert_allclose(part.mean(axis=(1, 2, 3)), 0, atol=1e-10)
        assert_allclose(part.var(axis=(1, 2, 3)), 1, rtol=1e-6)


@given(drawn=batches(), scale=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_scale_and_shift_of_the_input_do_not_matter(drawn, scale, shift):
    x, groups = drawn
    y = plain_norm(x, groups, eps=1e-12)
    assert_allclose(plain_norm(scale * x + shift, groups, eps=1e-12), y, atol=1e-6)
    per_sample = np.linspace(-3, 3, len(x)).reshape(-1, 1, 1, 1)
    assert_allclose(plain_norm(x + per_sample, groups, eps=1e-12), y, atol=1e-6)
    assert_allclose(plain_norm(-x, groups), -plain_norm(x, groups), atol=1e-9)


@given(batches())
def test_samples_and_groups_do_not_see_each_other(drawn):
    x, groups = drawn
    y, changed, width = plain_norm(x, groups), x.copy(), x.shape[-1] // groups
    changed[0, ..., :width] *= 7
    difference = plain_norm(changed, groups) != y
    assert not difference[1:].any()
    assert not difference[..., width:].any()


@given(seed=seeds, n=st.integers(1, 5), c=st.integers(2, 9))
def test_layer_norm_of_vectors_is_group_norm_of_one_group(seed, n, c):
    rng = np.random.default_rng(seed)
    x, gamma, beta = rng.standard_normal((n, c)), rng.standard_normal(c), rng.standard_normal(c)
    expected = ops.group_norm(x, gamma, beta, groups=1).data
    assert_allclose(ops.layer_norm(x, gamma, beta).data, expected, atol=1e-9)


def test_a_group_of_one_number_is_the_shift():
    x, beta = np.array([[3.0, -500.0]]), np.array([0.25, 2.0])
    leaf = Tensor(x, requires_grad=True)
    y = ops.group_norm(leaf, np.array([1.0, 2.0]), beta, groups=2)
    assert_allclose(y.data, [beta], atol=1e-9)
    y.backward(np.array([[1.0, 1.0]]))
    assert_allclose(leaf.grad, 0, atol=1e-9)


def test_constant_input_is_not_divided_by_zero():
    x = np.full((2, 4, 4, 6), 0.7, np.float32)
    gamma, beta = np.ones(6, np.float32), np.arange(6, dtype=np.float32)
    assert_allclose(ops.group_norm(x, gamma, beta, groups=3).data, x * 0 + beta, atol=1e-3)
    assert_allclose(ops.layer_norm(x, gamma, beta).data, x * 0 + beta, atol=1e-3)


@pytest.mark.parametrize("mean", [0, 100, 10_000])
@pytest.mark.parametrize(("shape", "groups"), [((2, 28, 28, 32), 8), ((3, 7, 7, 64), 32)])
def test_float32_with_a_large_mean(mean, shape, groups):
    """The error is that of rounding sums of such numbers; tests/kernels has a sharper bound."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) + mean).astype(np.float32)
    exact = plain_norm(x.astype(np.float64), groups)
    assert np.abs(plain_norm(x, groups) - exact).max() <= 5e-6 + 5e-6 * mean
    one = np.ones(shape[-1], np.float32)
    y = ops.layer_norm(x, one, 0 * one).data
    exact = ops.layer_norm(x.astype(np.float64), one, 0 * one).data
    assert np.abs(y - exact).max() <= 2e-6 + 5e-7 * mean


def test_float32_gradient_with_a_large_mean():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 14, 14, 32)) + 100).astype(np.float32)
    g, gamma, beta = (rng.standard_normal(s).astype(np.float32) for s in (x.shape, (32,), (32,)))

    def gradients(dtype):
        leaves = [Tensor(a.astype(dtype), requires_grad=True) for a in (x, gamma, beta)]
        ops.group_norm(*leaves, groups=8).backward(g.astype(dtype))
        return [t.grad for t in leaves]

    for got, exact in zip(gradients(np.float32), gradients(np.float64), strict=True):
        assert np.abs(got - exact).max() <= 2e-4 * np.abs(exact).max()


@given(drawn=batches(), seed=seeds)
def test_the_gradient_is_orthogonal_to_what_does_not_matter(drawn, seed):
    """Shift and scale of a group leave the value as it is: <dx, 1> = <dx, x - m> = 0."""
    x, groups = drawn
    leaf, one = Tensor(x, requires_grad=True), np.ones(x.shape[-1])
    g = np.random.default_rng([seed, 1]).standard_normal(x.shape)
    ops.group_norm(leaf, one, 0 * one, groups=groups, eps=1e-12).backward(g)
    parts = zip(np.split(leaf.grad, groups, -1), np.split(x, groups, -1), strict=True)
    for dx, part in parts:
        d = part - part.mean(axis=(1, 2, 3), keepdims=True)
        size = np.abs(dx).sum()
        assert_allclose(dx.sum(axis=(1, 2, 3)), 0, atol=1e-8 * size)
        assert_allclose((dx * d).sum(axis=(1, 2, 3)), 0, atol=1e-8 * size)


def test_dropout_keeps_the_mean_and_drops_a_share_of_p():
    """A share of 10^6 draws has a standard error below 5e-4."""
    x = np.ones(1_000_000, np.float32)
    for p in (0.1, 0.5, 0.9):
        y = ops.dropout(x, p=p, rng=np.random.default_rng(0)).data
        assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - p))}
        assert (y == 0).mean() == pytest.approx(p, abs=3e-3)
        assert y.mean() == pytest.approx(1, abs=0.02)
    assert_array_equal(ops.dropout(x, p=0, rng=np.random.default_rng(0)).data, x)


def test_dropout_drops_the_same_on_the_way_back():
    x = Tensor(np.ones(1000), requires_grad=True)
    y = ops.dropout(x, p=0.5, rng=np.random.default_rng(0))
    y.backward(np.full(1000, 3.0))
    assert_array_equal(x.grad, 3 * y.data)
    rng = np.random.default_rng(0)
    first, second = (ops.dropout(x, p=0.5, rng=rng).data for _ in range(2))
    assert_array_equal(first, y.data)  # the generator alone decides
    assert (first != second).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.group_norm(x, x[0, 0], x[0, 0], groups=4), "4 groups do not divide 6"),
        (lambda x: ops.group_norm(x, x[0, 0], x[0, 0], groups=0), "groups must be a whole"),
        (lambda x: ops.group_norm(x, x[0, 0, :1], x[0, 0], groups=2), r"be \(6,\).* got \(1,\)"),
        (lambda x: ops.layer_norm(x[..., :1], x[0, 0], x[0, 0]), r"be \(1,\).* got \(6,\)"),
        (
            lambda x: ops.group_norm_silu(x, x[0, 0], x[0, 0], x[:1, 0], groups=2),
            r"shift must be \(6,\) or \(2, 6\) .* got \(1, 6\)",
        ),
        (lambda x: ops.group_norm_silu(x, x[0, 0], x[0, 0], groups=4), "4 groups do not divide 6"),
        (lambda x: ops.dropout(x, p=1.0, rng=np.random.default_rng(0)), r"\[0, 1\), got 1.0"),
        (lambda x: ops.dropout(x, p=-0.1, rng=np.random.default_rng(0)), r"\[0, 1\), got -0.1"),
        (lambda x: ops.dropout(x, p="a", rng=np.random.default_rng(0)), "p must be a number"),
        (lambda x: ops.dropout(x.astype("f2"), p=0.5, rng=np.random.default_rng(0)), "float16"),
        (lambda x: ops.dropout(x, p=0.5, rng=None), "pass rng"),
        (lambda x: ops.group_norm(x.astype(int), x[0, 0], x[0, 0], groups=2), "x must .* int64"),
        (lambda x: ops.group_norm(x, None, x[0, 0], groups=2), "gamma must .* NoneType"),
        (lambda x: ops.group_norm(x, x[0, 0], x[0, 0], groups=2.0), "groups must be a whole"),
        (lambda x: ops.group_norm(x[0, 0], x[0, 0], x[0, 0], groups=2), r"\(N, ..., C\), got"),
        (lambda x: ops.group_norm(x, x[0, 0], x[0, 0], groups=2, eps=-1), "eps must be positive"),
        (lambda x: ops.layer_norm(x, x[0, 0], x[0, 0], eps=None), "eps must be a number"),
        (lambda x: ops.layer_norm(x[..., :0], x[0, 0, :0], x[0, 0, :0]), "has no channels"),
    ],
)
def test_impossible_calls_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(np.zeros((2, 3, 6)))


def test_small_variance_is_differentiated_exactly():
    """Where eps and the variance are alike, eps takes part in the gradient."""
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.standard_normal((2, 9, 4)) * 0.1, np.ones(4), np.zeros(4)
    check_vjp(lambda *a: ops.group_norm(*a, groups=2, eps=0.01), x, gamma, beta, rng=rng)
    check_vjp(lambda *a: ops.layer_norm(*a, eps=0.01), x, gamma, beta, rng=rng)
