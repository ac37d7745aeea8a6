"""Attention: the properties that a wrong softmax axis, scale or mask would break."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.errors import InputError
from tests.ops.cases import masks
from tests.strategies import seeds

N, HEADS, D = 2, 2, 3


@st.composite
def inputs(draw):
    """(q, k, v, rng) with 4 queries and 5 keys."""
    rng = np.random.default_rng(draw(seeds))
    q, k, v = (rng.standard_normal((N, m, HEADS * D)) for m in (4, 5, 5))
    return q, k, v, rng


def attend(q, k, v, mask=None, heads=HEADS):
    return ops.attention(q, k, v, heads=heads, mask=mask).data


@given(inputs())
def test_a_permutation_of_the_queries_permutes_the_result_and_one_of_the_keys_does_nothing(drawn):
    q, k, v, rng = drawn
    y, order = attend(q, k, v), rng.permutation(4)
    assert_allclose(attend(q[:, order], k, v), y[:, order], atol=1e-13)
    order = rng.permutation(5)
    assert_allclose(attend(q, k[:, order], v[:, order]), y, atol=1e-13)
    x, order = q, rng.permutation(4)  # self-attention: both at once
    assert_allclose(attend(*[x[:, order]] * 3), attend(x, x, x)[:, order], atol=1e-13)


@given(inputs())
def test_one_key_gives_its_value(drawn):
    q, k, v, _ = drawn
    expected = np.repeat(v[:, :1], 4, axis=1)
    assert_allclose(attend(q, k[:, :1], v[:, :1]), expected, atol=1e-14)
    mask = np.arange(5) == 3
    assert_allclose(attend(q, k, v, mask), np.repeat(v[:, 3:4], 4, axis=1), atol=1e-14)


@given(inputs())
def test_weights_are_positive_and_sum_to_one(drawn):
    """Seen through values that are unit vectors, so that the result is the weights."""
    q, k, _, _ = drawn
    q, k = q[..., :5], k[..., :5]
    weights = attend(q, k, np.broadcast_to(np.eye(5), k.shape), heads=1)
    assert (weights > 0).all()
    assert_allclose(weights.sum(axis=-1), 1, rtol=1e-13)
    same = attend(q, k * 0, np.broadcast_to(np.eye(5), k.shape), heads=1)
    assert_allclose(same, 1 / 5)


@pytest.mark.parametrize("d", [1, 4, 64])
def test_scores_are_divided_by_the_root_of_the_head_size(d):
    """Two keys, one of score s d and one of 0: the weight of the first is sigmoid(s sqrt d)."""
    s = 0.3
    q, k = np.ones((1, 1, d)), np.stack([np.full(d, s), np.zeros(d)])[None]
    v = np.zeros((1, 2, d))
    v[0, 0] = 1
    assert_allclose(attend(q, k, v, heads=1), 1 / (1 + np.exp(-s * np.sqrt(d))))
    two = (np.concatenate([a, a], axis=-1) for a in (q, k, v))
    assert_allclose(attend(*two, heads=2), 1 / (1 + np.exp(-s * np.sqrt(d))))


@given(inputs())
def test_heads_are_slices_of_the_channels(drawn):
    q, k, v, _ = drawn
    parts = [
        attend(*(a[..., h * D : (h + 1) * D] for a in (q, k, v)), heads=1) for h in range(HEADS)
    ]
    assert_allclose(attend(q, k, v), np.concatenate(parts, axis=-1), atol=1e-14)


@given(drawn=inputs(), data=st.data())
def test_keys_that_are_masked_do_not_matter(drawn, data):
    q, k, v, rng = drawn
    mask = data.draw(masks((N, 1, 1, 5)))
    hidden = ~mask[:, 0, 0]
    leaves = [Tensor(a, requires_grad=True) for a in (q, k, v)]
    y = ops.attention(*leaves, heads=HEADS, mask=mask)
    y.backward(rng.standard_normal(y.shape))
    assert not leaves[1].grad[hidden].any()
    assert not leaves[2].grad[hidden].any()
    k2, v2 = k.copy(), v.copy()
    k2[hidden], v2[hidden] = 50, 1e6
    assert_allclose(attend(q, k2, v2, mask), y.data, atol=1e-12)
    seen = mask[0, 0, 0]
    assert_allclose(attend(q[:1], k[:1, seen], v[:1, seen]), y.data[:1], atol=1e-13)


@given(inputs())
def test_a_mask_that_hides_nothing_changes_nothing(drawn):
    q, k, v, _ = drawn
    assert_array_equal(attend(q, k, v, np.ones((4, 5), bool)), attend(q, k, v))


@given(inputs())
def test_a_causal_mask_lets_no_later_key_through(drawn):
    _, k, v, _ = drawn
    causal = np.tril(np.ones((5, 5), bool))
    y, changed = attend(k, k, v, causal), v.copy()
    changed[:, 3:] += 1
    difference = np.abs(attend(k, k, changed, causal) - y).max(axis=(0, 2))
    assert_array_equal(difference > 0, [False, False, False, True, True])


@given(inputs())
def test_a_shift_of_all_keys_does_not_matter(drawn):
    """It adds the same to all scores of a query."""
    q, k, v, rng = drawn
    assert_allclose(attend(q, k + rng.standard_normal(HEADS * D), v), attend(q, k, v), atol=1e-12)


def test_large_float32_scores_do_not_overflow():
    q = np.array([[[1e4, 0.0]]], np.float32)
    k = np.array([[[1e4, 0.0], [-1e4, 0.0]]], np.float32)
    v = np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)
    leaves = [Tensor(a, requires_grad=True) for a in (q, k, v)]
    y = ops.attention(*leaves)
    assert_array_equal(y.data, [[[1, 2]]])
    y.backward(np.ones((1, 1, 2), np.float32))
    assert all(np.isfinite(x.grad).all() for x in leaves)


def zeros(*shape):
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((zeros(1, 2, 6), zeros(1, 3, 6), zeros(1, 3, 6)), {"heads": 4}, "4 heads do not divide 6"),
        ((zeros(1, 2, 6), zeros(1, 3, 6), zeros(1, 3, 6)), {"heads": 0}, "heads must be a whole"),
        ((zeros(1, 2, 6), zeros(1, 3, 6), zeros(1, 2, 6)), {}, r"\(1, 3, 6\) and \(1, 2, 6\)"),
        ((zeros(1, 2, 6), zeros(2, 3, 6), zeros(2, 3, 6)), {}, r"got \(1, 2, 6\), \(2, 3, 6\)"),
        ((zeros(1, 2, 6), zeros(1, 3, 4), zeros(1, 3, 4)), {}, r"got \(1, 2, 6\), \(1, 3, 4\)"),
        ((zeros(2, 6), zeros(3, 6), zeros(3, 6)), {}, r"wants q \(N, L, C\)"),
        (
            (zeros(1, 2, 6), zeros(1, 3, 6), zeros(1, 3, 6)),
            {"mask": np.array([[True, True, True], [False, False, False]])},
            "a query without any key",
        ),
        (  # the mask of another library, to be added to the scores
            (zeros(1, 2, 6), zeros(1, 3, 6), zeros(1, 3, 6)),
            {"mask": np.array([0.0, 0.0, -np.inf])},
            "the mask is float64; it must be an array of bool",
        ),
        (  # it would broadcast over the batch: two samples as if they were two heads
            (zeros(2, 5, 6), zeros(2, 5, 6), zeros(2, 5, 6)),
            {"mask": np.ones((2, 5, 5), bool)},
            r"mask of shape \(2, 5, 5\) does not fit \(2, 1, 5, 5\)",
        ),
        ((zeros(1, 2, 6), zeros(1, 0, 6), zeros(1, 0, 6)), {}, "nothing to look at"),
        ((zeros(1, 2, 6).astype(int), zeros(1, 3, 6), zeros(1, 3, 6)), {}, "q must be .* int64"),
        ((zeros(1, 2, 6),) * 3, {"mask": [[True, True]] * 2}, "the mask is list"),
    ],
)
def test_impossible_calls_are_refused(arrays, options, message):
    with pytest.raises(InputError, match=message):
        ops.attention(*arrays, **options)
