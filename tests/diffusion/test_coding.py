"""Progressive coding: what has been received by time t, and what can be made of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import coding, elbo, schedules
from minidiff.diffusion.elbo import Bound
from minidiff.diffusion.oracle import Gaussian
from tests import strategies

LINEAR = schedules.linear(200, 5e-4, 0.1)
X0 = np.array([[1.0], [1.0], [-1.0], [-1.0]])


class Signs:
    """Draws +1, -1, +1, -1: with X0, all four pairs, which have the moments of a Gaussian."""

    def standard_normal(self, shape, dtype):
        return np.resize([1.0, -1.0], shape).astype(dtype)


@pytest.fixture(scope="module", params=[1.0, 0.25], ids="variance {}".format)
def case(request):
    """The variance of Gaussian data, and their bound as an exact expectation."""
    oracle = Gaussian.isotropic([0.0], request.param).denoiser(LINEAR)
    x0 = np.sqrt(request.param) * X0
    return request.param, elbo.bound_nats(oracle, LINEAR, x0, rng=Signs(), levels=None)


def test_all_that_is_received_is_the_bound(case):
    variance, bound = case
    rate, _ = coding.rate_distortion(bound)
    assert rate.shape == (LINEAR.T + 1,)
    assert_allclose(rate[0], bound.total_bits_per_dim.mean(), rtol=1e-12)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * variance)
    assert_allclose(rate[0], entropy, atol=1e-10 if variance == 1 else 0.01)
    assert rate[0] > entropy - 1e-10
    assert_allclose(rate[LINEAR.T], bound.prior_bits_per_dim.mean(), rtol=1e-12)


def test_the_rate_is_the_sum_of_the_terms_that_have_been_sent(case):
    _, bound = case
    rate, _ = coding.rate_distortion(bound)
    steps = bound.step_bits_per_dim.mean(0)
    sent = bound.prior_bits_per_dim.mean()
    for t in range(LINEAR.T, 0, -1):
        assert_allclose(rate[t], sent, rtol=1e-10, atol=1e-15)
        sent += steps[t]
    assert (np.diff(rate[1:]) < 0).all()  # more with every step down to x_1


def test_the_distortion_is_what_no_model_can_know_and_falls_as_the_rate_grows(case):
    variance, bound = case
    _, rms = coding.rate_distortion(bound, scale=1.0)
    abar = LINEAR.abar
    expected = np.sqrt(variance * (1 - abar) / (abar * variance + 1 - abar))
    assert_allclose(rms, expected, rtol=1e-9)
    assert rms[0] == 0
    assert (np.diff(rms) > 0).all()
    assert_allclose(coding.rate_distortion(bound).distortion_rms, 127.5 * rms, rtol=1e-12)


def test_normal_data_reach_the_rate_distortion_function():
    """R(D) = log2(variance / D) / 2 bits: x_t arrives at that rate, for N(0, 1) exactly.

    For data N(0, 1) the chain with variance beta is the true reverse process, and the information
    that x_t holds of x_0 is I(x_0; x_t) = R(distortion of x_t).
    """
    oracle = Gaussian.isotropic([0.0], 1.0).denoiser(LINEAR)
    bound = elbo.bound_nats(oracle, LINEAR, X0, rng=Signs(), levels=None)
    rate, rms = coding.rate_distortion(bound, scale=1.0)
    assert_allclose(rate[1:], -np.log2(rms[1:]), atol=1e-10)


def test_the_parts_add_up(case):
    _, bound = case
    split = coding.split_bits_per_dim(bound)
    assert_allclose(split.total, bound.total_bits_per_dim.mean(), rtol=1e-12)
    rate, _ = coding.rate_distortion(bound)
    assert_allclose(split.prior + split.rate, rate[1], rtol=1e-12)
    assert_allclose(split.reconstruction, rate[0] - rate[1], rtol=1e-10)
    assert split.prior > 0


def test_most_bits_describe_what_is_hardly_seen():
    """Gaussian pixels of 8 bits: three quarters of the bits arrive when the error is 10 of 255
    already, and almost half of them when it is 3."""
    rng = np.random.default_rng(0)
    data = Gaussian.isotropic(np.zeros((4, 4, 1)), 0.0625)
    x0 = np.clip(np.round(data.sample(20, rng=rng) * 127.5 + 127.5), 0, 255) / 127.5 - 1
    bound = elbo.bound_nats(data.denoiser(LINEAR), LINEAR, x0, rng=rng, clip=(-1, 1))
    rate, rms = coding.rate_distortion(bound)
    split = coding.split_bits_per_dim(bound)
    entropy = np.log2(255 / 2 * 0.25 * np.sqrt(2 * np.pi * np.e))  # 7.04
    assert entropy - 0.1 < split.total < entropy + 0.3
    assert rms[1] < 3
    assert split.reconstruction > 0.45 * split.total
    assert 9 < rms[5] < 11
    assert rate[5] < 0.25 * split.total


@given(st.integers(1, 4), st.integers(1, 9), strategies.seeds)
@strategies.examples(0.3)
def test_any_bound(n, T, seed):
    """The identities hold for arbitrary terms, averaged over images as they come."""
    rng = np.random.default_rng(seed)
    terms, mse = rng.random((2, n, T + 1))
    terms[:, 0] = mse[:, 0] = 0
    bound = Bound(rng.random(n), terms, mse, 5)
    rate, rms = coding.rate_distortion(bound, scale=2.0)
    expected = [
        (bound.prior_nats + terms[:, t + 1 :].sum(1)).mean() / (5 * np.log(2)) for t in range(T + 1)
    ]
    assert_allclose(rate, expected, rtol=1e-12)
    assert_allclose(rms, 2 * np.sqrt(mse.mean(0)), rtol=1e-12)
    assert_array_equal(np.sort(rate)[::-1], rate)
    split = coding.split_bits_per_dim(bound)
    assert_allclose(sum(split), split.total)
    assert_allclose(split.total, rate[0])
