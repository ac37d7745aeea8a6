"""The discretized Gaussian decoder against the difference of two normal distribution functions."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import norm

from minidiff import backend
from minidiff.diffusion import decoder
from minidiff.errors import InputError
from tests import double


def grid(levels, dtype=np.float64):
    return np.linspace(-1, 1, levels).astype(dtype)


def log_p(x0, mean, sigma, levels=256):
    return decoder.log_probability_nats(x0, np.full_like(x0, mean), sigma, levels)[0]


means = st.floats(-3, 3)
sigmas = st.floats(-9, 2).map(np.exp)


@given(means, sigmas, st.sampled_from([2, 3, 17, 256]))
def test_the_bins_have_probability_1_together(mean, sigma, levels):
    assert_allclose(np.exp(log_p(grid(levels), mean, sigma, levels)).sum(), 1, rtol=1e-10)


@given(means, st.floats(0.05, 5), st.sampled_from([2, 17, 256]))
def test_each_bin_is_a_difference_of_distribution_functions(mean, sigma, levels):
    x0, h = grid(levels), 1 / (levels - 1)
    edges = np.concatenate([[-np.inf], x0[:-1] + h, [np.inf]])
    cdf = norm.cdf(edges, mean, sigma)
    likely = np.diff(cdf) > 1e-6  # where the difference has digits
    got = np.exp(log_p(x0, mean, sigma, levels))
    assert_allclose(got[likely], np.diff(cdf)[likely], rtol=1e-8)


@pytest.mark.parametrize(
    ("x0", "mean"), [(0.2, 0.9), (0.2, -0.9), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.5), (0.2, 0.2)]
)
@pytest.mark.parametrize("sigma", [0.001, 0.01, 0.3])
def test_far_from_the_bin_no_digit_is_lost(x0, mean, sigma):
    """Against 1500 digits: probabilities down to exp(-2,000,000), where a difference is 0."""
    with mpmath.workdps(50):
        h, z = mpmath.mpf(1) / 255, lambda edge: (mpmath.mpf(edge) - mean) / sigma

        def upper_tail(z):
            return mpmath.erfc(z / mpmath.sqrt(2)) / 2

        low = z(mpmath.mpf(x0) - h) if x0 > -1 else -mpmath.inf
        high = z(mpmath.mpf(x0) + h) if x0 < 1 else mpmath.inf
        low, high = (low, high) if low + high > 0 else (-high, -low)
        expected = float(mpmath.log(upper_tail(low) - upper_tail(high)))
    # The edges themselves are rounded: d log p / d edge times 1e-16 or so.
    got = log_p(np.array([x0]), mean, sigma)
    assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


@given(means, sigmas, st.sampled_from([2, 17, 256]))
def test_slopes_are_those_of_a_central_difference(mean, sigma, levels):
    x0, h = grid(levels), 1e-5 * sigma
    _, by_mean, by_sigma = decoder.log_probability_nats(x0, np.full_like(x0, mean), sigma, levels)
    for slope, ahead, behind in (
        (by_mean, log_p(x0, mean + h, sigma, levels), log_p(x0, mean - h, sigma, levels)),
        (by_sigma, log_p(x0, mean, sigma + h, levels), log_p(x0, mean, sigma - h, levels)),
    ):
        noise = 1e-15 * (1 + np.abs(ahead)) / h + 1e-12 * levels / h
        error = np.abs((ahead - behind) / (2 * h) - slope)
        assert (error <= 1e-5 * np.abs(slope) + noise).all()


def test_with_many_levels_it_is_the_density_times_the_width_of_a_bin():
    x0, levels = grid(2**12 + 1), 2**12 + 1
    width = 2 / (levels - 1)
    got = log_p(x0, 0.1, 0.3, levels)[1:-1] - np.log(width)
    assert_allclose(got, norm.logpdf(x0, 0.1, 0.3)[1:-1], atol=1e-5)


def test_a_small_sigma_at_the_right_value_is_certain():
    assert_allclose(log_p(grid(256), 0.0, 1e-4)[0], -0.5e8, rtol=0.01)
    x0 = grid(256)
    certain = decoder.log_probability_nats(x0, x0, 1e-4, 256)
    assert_allclose(certain[0], 0, atol=1e-12)
    for slope in certain[1:]:
        assert_allclose(slope, 0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.005, 0.01, 0.1, 1.0])
def test_float32_stays_float32_and_right(sigma):
    x0 = grid(256, np.float32)
    single = decoder.log_probability_nats(x0, np.full_like(x0, 0.3), sigma)
    exact = decoder.log_probability_nats(grid(256), np.full(256, 0.3), sigma)
    for a, b in zip(single, exact, strict=True):
        assert a.dtype == np.float32
        assert_allclose(a, b, rtol=2e-3, atol=2e-4 / sigma)


def test_on_the_device(device):
    x0, mean = grid(256, np.float32)[:, None], np.full((256, 1), 0.3, np.float32)
    sigma = np.full((256, 1), 0.05, np.float32)
    arrays = [backend.asarray(a) for a in (x0, mean, sigma)]
    with double.forbid("synchronization", "float64"):
        got = decoder.log_probability_nats(*arrays)
    expected = decoder.log_probability_nats(x0, mean, sigma)
    for a, b in zip(got, expected, strict=True):
        assert type(a) is type(arrays[0])
        assert_allclose(backend.to_numpy(a), b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("levels", [1, 0, 2.5, True, "256"])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(InputError, match="whole number >= 2"):
        decoder.log_probability_nats(np.zeros(1), np.zeros(1), 1.0, levels)


@pytest.mark.parametrize(
    ("x0", "levels"),
    [(grid(256), 255), (grid(17), 256), (3 * grid(3), 3), (np.array([np.nan]), 2)],
)
def test_data_off_the_levels_are_refused(x0, levels):
    with pytest.raises(InputError, match=f"{levels} evenly spaced values"):
        decoder.check_on_levels(x0, levels)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_data_on_the_levels_pass(levels):
    decoder.check_on_levels(grid(levels, np.float32), levels)
    decoder.check_on_levels(np.zeros((0, 3)), levels)
