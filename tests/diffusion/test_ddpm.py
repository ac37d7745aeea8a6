import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.diffusion import process, schedules
from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.samplers import ddpm, final
from minidiff.diffusion.samplers.ddpm import coefficients
from tests import strategies
from tests.diffusion.mutants import ancestral


@given(strategies.jumps(), st.sampled_from(["posterior", "beta"]))
def test_the_step_is_the_posterior_with_one_of_two_variances(jump, variance):
    schedule, s, t = jump
    c_0, c_t, sigma = coefficients(schedule, s, t, variance)
    p_0, p_t, tilde = process.posterior(schedule, s, t)
    assert (c_0, c_t) == (p_0, p_t)
    expected = tilde if variance == "posterior" else 1 - schedule.abar[t] / schedule.abar[s]
    assert_allclose(sigma**2, expected if s > 0 else 0.0, rtol=1e-12)


@given(strategies.schedules(max_T=60, min_abar_T=1e-5), strategies.seeds)
@settings(max_examples=40)
def test_it_is_algorithm_2(schedule, seed):
    """Same noise, same result as the printed line in eps, for a denoiser that is not Gaussian."""

    def denoiser(xt, t):
        return np.tanh(xt + t[:, None] / schedule.T)

    x_T = np.random.default_rng(seed).standard_normal((4, 2))
    for variance in ("posterior", "beta"):
        got = ddpm(denoiser, schedule, x_T, rng=np.random.default_rng(seed), variance=variance)
        expected = ancestral(
            denoiser, schedule, x_T, np.random.default_rng(seed), variance=variance
        )
        assert_allclose(final(got), expected, rtol=1e-7, atol=1e-7)


def test_clipping_is_of_the_predicted_x0():
    """With a model that predicts far too little noise, every step aims at the clipped image."""
    schedule = schedules.linear(50, 0.01, 0.2)
    denoiser = Gaussian.isotropic([3.0], 1e-6).denoiser(schedule)
    x_T = np.random.default_rng(0).standard_normal((100, 1))
    free = final(ddpm(denoiser, schedule, x_T, rng=np.random.default_rng(1)))
    clipped = final(ddpm(denoiser, schedule, x_T, rng=np.random.default_rng(1), clip=(-1, 1)))
    assert_allclose(free, 3.0, atol=0.01)
    assert (clipped == 1).all()
