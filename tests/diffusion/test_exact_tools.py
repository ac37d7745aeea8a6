"""The tools of `exact`: propagation from coefficients, conditioning, and chains as one Gaussian."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.diffusion import exact, process, samplers, schedules, timesteps
from minidiff.diffusion.oracle import Gaussian, GaussianMixture
from minidiff.diffusion.samplers.ddim import coefficients as ddim_coefficients
from minidiff.diffusion.samplers.ddpm import coefficients as ddpm_coefficients
from minidiff.errors import InputError
from tests import strategies
from tests.diffusion.gaussians import chain, condition

LINEAR = schedules.linear()


def correlated(seed, d=3):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((d, d))
    return Gaussian(rng.standard_normal(d), a @ a.T + 0.1 * np.eye(d))


@given(strategies.schedules(max_T=25, min_abar_T=1e-4), st.data(), strategies.seeds)
@settings(max_examples=25)
def test_coefficients_give_what_the_sampler_gives(schedule, data, seed):
    """Two ways to the same mean and covariance, for any times of DDPM and DDIM."""
    gaussian = correlated(seed)
    times = data.draw(strategies.subsequences(schedule.T))
    eta = data.draw(st.floats(0, 1))
    variance = data.draw(st.sampled_from(["beta", "posterior"]))
    for of, step, sampler in [
        (
            "xt",
            lambda s, t: ddpm_coefficients(schedule, s, t, variance),
            samplers.make("ddpm", variance=variance, steps=times),
        ),
        (
            "eps",
            lambda s, t: ddim_coefficients(schedule, s, t, eta),
            samplers.make("ddim", eta=eta, steps=times),
        ),
    ]:
        short = exact.from_coefficients(step, gaussian, schedule, times, of=of)
        denoiser = gaussian.denoiser(schedule)
        long = exact.propagate(
            lambda x, rng, run=sampler, f=denoiser: samplers.final(run(f, schedule, x, rng=rng)),
            (3,),
        )
        assert_allclose(short.mean, long.mean, rtol=1e-8, atol=1e-9)
        assert_allclose(short.covariance, long.covariance, rtol=1e-8, atol=1e-9)
        assert_allclose(long.gaussian.covariance, long.covariance)


@pytest.mark.parametrize(
    ("steps", "variance"),
    [(1000, 0.9963), (100, 0.9635), (50, 0.9284), (20, 0.8304), (10, 0.6879)],
)
def test_known_variances_of_ddim(steps, variance):
    got = exact.from_coefficients(
        lambda s, t: ddim_coefficients(LINEAR, s, t),
        Gaussian.isotropic([0.0], 1.0),
        LINEAR,
        timesteps.subset(1000, steps),
        of="eps",
    )
    assert_allclose(got.covariance.item(), variance, atol=5e-5)


@given(strategies.seeds, st.integers(1, 4))
def test_conditioning(seed, k):
    """Against the brute force of the tests, and the density: p(a | b) p(b) = p(a, b)."""
    rng = np.random.default_rng(seed)
    joint = correlated(seed, 5)
    given, values = rng.choice(5, size=k, replace=False), rng.standard_normal(k)
    mean, covariance = exact.condition(joint.mean, joint.covariance, given, values)
    order = np.sort(given)
    expected = condition(joint.mean, joint.covariance, order, values[np.argsort(given)])
    assert_allclose(mean, expected[0], rtol=1e-6, atol=1e-7)
    assert_allclose(covariance, expected[1], rtol=1e-6, atol=1e-7)


@given(strategies.jumps(max_T=200, min_abar_T=1e-6), st.floats(-2, 2), st.floats(-2, 2))
def test_the_posterior_is_conditioning(jump, x0, xt):
    """q(x_s | x_t, x_0) from the joint Gaussian of (x_s, x_t) given x_0, cov = sqrt(a) var(x_s)."""
    schedule, s, t = jump
    if s == 0:
        return
    abar_s, abar_t = schedule.abar[s], schedule.abar[t]
    cross = np.sqrt(abar_t / abar_s) * (1 - abar_s)
    mean, covariance = exact.condition(
        np.sqrt([abar_s, abar_t]) * x0, [[1 - abar_s, cross], [cross, 1 - abar_t]], 1, xt
    )
    c_0, c_t, variance = process.posterior(schedule, s, t)
    assert_allclose(mean, c_0 * x0 + c_t * xt, rtol=1e-9, atol=1e-9)
    assert_allclose(covariance, [[variance]], rtol=1e-6, atol=1e-12)


@given(st.integers(2, 8), st.floats(-1, 1), st.floats(0.1, 2))
def test_the_noise_of_x_t_is_conditioning(T, m, v):
    """E[x_0 | x_t] of the whole chain (x_0, ..., x_T) is what the oracle says."""
    schedule = schedules.linear(T, 0.05, 0.5)
    means, covariance = chain(schedule.beta[1:], m, v)
    got, left = exact.condition(means, covariance, T, 0.7)
    data = Gaussian.isotropic([m], v)
    noised = data.at_time(schedule, T)
    assert_allclose(got[0], noised.x0(np.array([[0.7]])).item(), rtol=1e-9, atol=1e-12)
    kernel = data.reverse(schedule, [0.7], T - 1, T)
    assert_allclose(got[T - 1], kernel.mean.item(), rtol=1e-9, atol=1e-12)
    assert_allclose(left[T - 1, T - 1], kernel.covariance.item(), rtol=1e-8)


@given(st.integers(1, 8), st.floats(-1, 1), st.floats(0.1, 2))
@settings(max_examples=30)
def test_the_marginal_of_the_reverse_chain(T, m, v):
    """p(x_0) = integral of p(x_{0:T}): by propagation, and from the full joint covariance.

    The joint one is built from its precision: -log p(x_T) - sum log p(x_{t-1} | x_t) is a quadratic
    form in all of x_0, ..., x_T.
    """
    schedule = schedules.linear(T, 0.05, 0.5)
    data = Gaussian.isotropic([m], v)
    precision, linear = np.zeros((T + 1, T + 1)), np.zeros(T + 1)
    precision[T, T] = 1.0
    small = 1e-4  # p(x_0 | x_1) has no noise; a little stands for none, and is taken off below
    for t, s in pairwise(range(T, -1, -1)):
        c_0, c_t, sigma = ddpm_coefficients(schedule, s, t)
        at_0, at_1 = (
            c_0 * data.at_time(schedule, t).x0(np.array([[x]])).item() + c_t * x for x in (0.0, 1.0)
        )
        row = np.zeros(T + 1)
        row[s], row[t] = 1.0, -(at_1 - at_0)
        noise2 = sigma**2 if s else small
        precision += np.outer(row, row) / noise2
        linear += row * at_0 / noise2
    covariance = np.linalg.inv(precision)
    mean = covariance @ linear
    map_ = exact.propagate(
        lambda x, rng: samplers.final(samplers.ddpm(data.denoiser(schedule), schedule, x, rng=rng)),
        (1,),
    )
    assert_allclose(map_.mean.item(), mean[0], rtol=1e-8, atol=1e-8)
    assert_allclose(map_.covariance.item(), covariance[0, 0] - small, rtol=1e-8, atol=1e-8)


TWO = GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: exact.from_coefficients(lambda s, t: (1, 0, 0), TWO, LINEAR, [9, 0]),
            "several components is not affine",
        ),
        (
            lambda: exact.from_coefficients(
                lambda s, t: (1, 0, 0), correlated(0), LINEAR, [9, 0], of="x0"
            ),
            "multiplies",
        ),
        (lambda: exact.condition([0.0, 0.0], np.eye(3), 0, 1.0), r"shapes \(n,\) and \(n, n\)"),
        (lambda: exact.condition([0.0, 0.0], np.eye(2), 2, 1.0), r"indices in 0\.\.1"),
        (lambda: exact.condition([0.0, 0.0], np.eye(2), [0, 0], [1.0, 1.0]), "different indices"),
        (lambda: exact.condition([0.0, 0.0], np.eye(2), [0.5], [1.0]), "different indices"),
        (lambda: exact.condition([0.0, 0.0], np.eye(2), [0], [1.0, 2.0]), "need 1 values, got 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
