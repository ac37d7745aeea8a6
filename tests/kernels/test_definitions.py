"""The definitions, against plain loops, adjoints and central differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff.autograd import Tensor
from minidiff.backend.kernels import definitions_only, reference
from minidiff.gradcheck import check_vjp
from tests.kernels.cases import CASES, convolutions
from tests.ops import plain
from tests.ops.cases import CASES as OPERATIONS
from tests.strategies import examples, seeds


@given(convolutions())
@examples(0.5)
def test_gradients_of_a_convolution_are_its_adjoints(drawn):
    """conv(x, w) is linear in each: <conv(x, w), g> = <x, dx(g, w)> = <w, dw(x, g)>."""
    x, w, g, *options = drawn
    through_y = (reference.conv2d(np, x, w, *options) * g).sum()
    through_x = (reference.conv2d_dx(np, g, w, x.shape, *options) * x).sum()
    through_w = (reference.conv2d_dw(np, x, g, w.shape, *options) * w).sum()
    scale = np.linalg.norm(x) * np.linalg.norm(w) * np.linalg.norm(g)
    assert abs(through_y - through_x) <= 1e-13 * scale
    assert abs(through_y - through_w) <= 1e-13 * scale


@pytest.mark.parametrize("name", ["conv2d", "group_norm", "silu", "attention"])
@given(data=st.data(), seed=seeds)
@examples(0.3)
def test_operation_on_definitions_alone(name, data, seed):
    case = data.draw(OPERATIONS[name])
    with definitions_only():
        y = case.f(*(Tensor(x) for x in case.inputs)).data
        np.testing.assert_allclose(y, case.plain(*case.inputs), rtol=1e-9, atol=1e-11)
        check_vjp(case.f, *case.inputs, rng=np.random.default_rng(seed))


@given(CASES["group_norm"])
@examples(0.3)
def test_group_norm_returns_mean_and_reciprocal_deviation(args):
    x, gamma, beta, groups, eps = args
    y, m, r = reference.group_norm(np, x, gamma, beta, groups, eps)
    np.testing.assert_allclose(y, plain.group_norm(x, gamma, beta, groups, eps), atol=1e-11)
    for n in range(len(x)):
        for k, part in enumerate(np.split(x[n], groups, axis=-1)):
            np.testing.assert_allclose(m[n, k], part.mean(), atol=1e-12)
            np.testing.assert_allclose(r[n, k], (part.var() + eps) ** -0.5, rtol=1e-12)


def test_adam_is_algorithm_1_number_by_number():
    """Kingma & Ba (2015), Algorithm 1, on Python numbers, over several steps."""
    rng, lr, beta1, beta2, eps = np.random.default_rng(0), 0.1, 0.8, 0.95, 1e-3
    theta = rng.standard_normal(5)
    p, m, v = theta.copy(), np.zeros(5), np.zeros(5)
    theta, first, second = theta.tolist(), [0.0] * 5, [0.0] * 5
    for t in range(1, 8):
        gradient = rng.standard_normal(5)
        reference.adam(np, p, gradient, m, v, t, lr, beta1, beta2, eps)
        for i, g in enumerate(gradient.tolist()):
            first[i] = beta1 * first[i] + (1 - beta1) * g
            second[i] = beta2 * second[i] + (1 - beta2) * g**2
            m_hat, v_hat = first[i] / (1 - beta1**t), second[i] / (1 - beta2**t)
            theta[i] -= lr * m_hat / (v_hat**0.5 + eps)
        np.testing.assert_allclose(p, theta, rtol=1e-12)
        np.testing.assert_allclose(m, first, rtol=1e-12)
        np.testing.assert_allclose(v, second, rtol=1e-12)
