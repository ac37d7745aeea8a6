"""The attention blocks against the formula, and by what must hold for any weights."""

import numpy as np
import pytest

from minidiff import nn
from minidiff.autograd import Tensor
from minidiff.errors import InputError
from tests.nn.check import check_module, perturb

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 6))
CONTEXT = RNG.standard_normal((2, 5, 8))
MASK = np.arange(5) < np.array([[5], [2]])


def self_attention(heads=2):
    return nn.SelfAttention(6, heads, groups=3, rng=np.random.default_rng(1)).astype(np.float64)


def cross_attention(heads=2):
    layer = nn.CrossAttention(6, 8, heads, groups=3, rng=np.random.default_rng(1))
    return layer.astype(np.float64)


def dense(layer, x):
    return x @ layer.weight.data + layer.bias.data


def by_the_formula(layer, x, context, heads, mask=None):
    """x + project(softmax(q k^T / sqrt(d)) v), one sample, one head, one query at a time."""
    out, h = x.copy(), layer.norm(x).data
    context = h.reshape(len(x), -1, x.shape[-1]) if context is None else context
    width = x.shape[-1] // heads
    for n in range(len(x)):
        q = dense(layer.query, h[n])
        k, v = (dense(part, context[n]) for part in (layer.key, layer.value))
        seen = slice(None) if mask is None else mask[n]
        for place in np.ndindex(x.shape[1:-1]):
            mixed = np.empty(x.shape[-1])
            for j in range(heads):
                part = slice(j * width, (j + 1) * width)
                score = np.exp(k[seen, part] @ q[place][part] / np.sqrt(width))
                mixed[part] = score / score.sum() @ v[seen, part]
            out[n][place] += dense(layer.project, mixed)
    return out


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_self_attention_is_its_formula(heads):
    layer = perturb(self_attention(heads))
    np.testing.assert_allclose(layer(X).data, by_the_formula(layer, X, None, heads), rtol=1e-10)


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
@pytest.mark.parametrize("heads", [1, 3])
def test_cross_attention_is_its_formula(heads, mask):
    layer = perturb(cross_attention(heads))
    expected = by_the_formula(layer, X, CONTEXT, heads, mask)
    np.testing.assert_allclose(layer(X, CONTEXT, mask).data, expected, rtol=1e-10)


def test_they_start_as_the_identity():
    np.testing.assert_array_equal(self_attention()(X).data, X)
    np.testing.assert_array_equal(cross_attention()(X, CONTEXT).data, X)


def test_at_the_start_the_projection_learns_and_the_rest_waits():
    layer = self_attention()
    y = layer(X)
    y.backward(RNG.standard_normal(y.shape))
    assert layer.project.weight.grad.any()
    assert not layer.query.weight.grad.any()


def test_self_attention_does_not_know_the_order_of_positions():
    layer = perturb(self_attention())
    order = np.random.default_rng(2).permutation(12)
    shuffled = X.reshape(2, 12, 6)[:, order].reshape(X.shape)
    y, z = layer(X).data.reshape(2, 12, 6), layer(shuffled).data.reshape(2, 12, 6)
    np.testing.assert_allclose(z, y[:, order], rtol=1e-12)


def test_any_number_of_axes_is_one_sequence():
    layer = perturb(self_attention())
    flat = layer(X.reshape(2, 12, 6)).data
    np.testing.assert_allclose(layer(X).data, flat.reshape(X.shape), rtol=1e-12)


def test_a_single_key_is_looked_at_by_all():
    layer = perturb(cross_attention())
    one = CONTEXT[:, :1]
    value = dense(layer.project, dense(layer.value, one))
    np.testing.assert_allclose(layer(X, one).data, X + value[:, None], rtol=1e-12)


def test_a_masked_token_is_as_good_as_absent():
    layer = perturb(cross_attention())
    y = layer(X, CONTEXT, MASK).data
    np.testing.assert_allclose(y[1], layer(X[1:], CONTEXT[1:, :2]).data[0], rtol=1e-12)
    np.testing.assert_allclose(y[0], layer(X[:1], CONTEXT[:1]).data[0], rtol=1e-12)
    other = np.where(MASK[..., None], CONTEXT, 1e3)
    np.testing.assert_array_equal(layer(X, other, MASK).data, y)
    assert not np.allclose(layer(X, CONTEXT).data[1], y[1])


def test_no_gradient_reaches_a_masked_token():
    layer, context = perturb(cross_attention()), Tensor(CONTEXT, requires_grad=True)
    y = layer(X, context, MASK)
    y.backward(np.random.default_rng(3).standard_normal(y.shape))
    assert not context.grad[~MASK].any()
    assert context.grad[MASK].all()


def test_a_mask_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="without any key"):
        cross_attention()(X, CONTEXT, np.zeros((2, 5), bool))


def test_a_context_of_another_width_is_refused():
    with pytest.raises(InputError, match="expects 8 features"):
        cross_attention()(X, CONTEXT[..., :7])


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
def test_gradient_of_cross_attention(mask):
    layer = cross_attention()
    assert layer.num_parameters == 12 + 2 * (6 * 6 + 6) + 2 * (8 * 6 + 6)
    check_module(
        layer, X, CONTEXT, rng=np.random.default_rng(4), call=lambda x, c: layer(x, c, mask)
    )
