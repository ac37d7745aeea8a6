import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import parameterizations, process, schedules, timesteps
from minidiff.diffusion.samplers import ddim, ddpm, final
from minidiff.diffusion.samplers.ddim import coefficients, largest_eta
from minidiff.errors import InputError
from tests import strategies
from tests.diffusion.models import answer, ramp, wobbly


@given(strategies.schedules(), st.data())
def test_every_eta_and_subset_keeps_the_marginals_of_q(schedule, data):
    """Given x_0 and the true noise, x_s has mean sqrt(abar_s) x_0 and variance 1 - abar_s.

    The root in the step is bare: were its argument negative, this would be a warning, and any
    warning fails a test.
    """
    times = data.draw(strategies.subsequences(schedule.T))
    eta = data.draw(st.floats(0, 1)) * min(largest_eta(schedule, times), 10)
    t, s = times[:-1], times[1:]
    c_0, c_eps, sigma = coefficients(schedule, s, t, eta)
    assert_allclose(c_0, np.sqrt(schedule.abar[s]), rtol=1e-12)
    assert_allclose(c_eps**2 + sigma**2, 1 - schedule.abar[s], rtol=1e-9)
    assert (c_0[-1], c_eps[-1], sigma[-1]) == (1, 0, 0)
    # Through x_t itself: the mean given x_0 and x_t, averaged over q(x_t | x_0).
    gain = c_eps / np.sqrt(1 - schedule.abar[t])
    offset = c_0 - gain * np.sqrt(schedule.abar[t])
    assert_allclose(offset + gain * np.sqrt(schedule.abar[t]), c_0, rtol=1e-9)
    assert_allclose(gain**2 * (1 - schedule.abar[t]) + sigma**2, 1 - schedule.abar[s], rtol=1e-9)


@given(strategies.schedules(), st.data())
def test_eta_1_is_the_posterior_step(schedule, data):
    """c_0 x0 + c_eps eps with eps = (x_t - sqrt(abar_t) x0) / sqrt(1 - abar_t) is q's mean."""
    times = data.draw(strategies.subsequences(schedule.T))
    t, s = times[:-1], times[1:]
    c_0, c_eps, sigma = coefficients(schedule, s, t, eta=1.0)
    p_0, p_t, variance = process.posterior(schedule, s, t)
    noise = np.sqrt(1 - schedule.abar[t])
    assert_allclose(c_eps / noise, p_t, rtol=1e-6, atol=1e-12)
    assert_allclose(c_0 - c_eps / noise * np.sqrt(schedule.abar[t]), p_0, rtol=1e-6, atol=1e-12)
    assert_allclose(sigma**2, variance, rtol=1e-12)


@given(strategies.schedules(max_T=60, min_abar_T=1e-5), strategies.seeds, st.data())
@settings(max_examples=50)
def test_eta_1_is_ddpm_given_the_same_noise(schedule, seed, data):
    times = data.draw(strategies.subsequences(schedule.T))
    x_T = np.random.default_rng(seed).standard_normal((4, 2))
    one, other = (
        sampler(
            wobbly(schedule), schedule, x_T, rng=np.random.default_rng(seed), steps=times, **options
        )
        for sampler, options in [(ddim, {"eta": 1.0}), (ddpm, {"variance": "posterior"})]
    )
    for a, b in zip(one, other, strict=True):
        assert a.t == b.t
        assert_allclose(a.x, b.x, rtol=1e-8, atol=1e-8)
        assert_allclose(a.x0, b.x0, rtol=1e-8, atol=1e-7)


def test_eta_0_is_deterministic_and_leaves_the_generator_alone():
    schedule = schedules.linear()
    x_T = np.random.default_rng(0).standard_normal((4, 2))
    rng = np.random.default_rng(1)
    before = rng.bit_generator.state
    first = final(ddim(wobbly(schedule), schedule, x_T, rng=rng))
    assert rng.bit_generator.state == before
    assert_array_equal(first, final(ddim(wobbly(schedule), schedule, x_T)))
    final(ddim(wobbly(schedule), schedule, x_T, rng=rng, eta=0.1))
    assert rng.bit_generator.state != before


def test_largest_eta_of_the_linear_schedule():
    schedule, times = schedules.linear(), timesteps.resolve(1000, None)
    assert_allclose(largest_eta(schedule, times), 1.354, atol=5e-4)
    assert_allclose(  # sigma = eta sqrt(beta-tilde): the bound in terms of the betas
        largest_eta(schedule, times),
        np.sqrt(np.min((1 - schedule.abar[2:]) / schedule.beta[2:])),
        rtol=1e-10,
    )
    assert largest_eta(schedule, [1000, 0]) == np.inf


@pytest.mark.parametrize("schedule", [schedules.linear(1000, 1e-4, 0.2), schedules.cosine()])
def test_eta_1_is_allowed_even_where_almost_no_signal_is_left(schedule):
    """abar_T = 2e-47: the root is of a difference of numbers that agree in nearly all digits."""
    for steps in (None, 50, 3, 2):
        times = timesteps.resolve(1000, steps)
        assert largest_eta(schedule, times) >= 1
        assert np.isfinite(coefficients(schedule, times[1:], times[:-1], eta=1.0)).all()


@given(strategies.schedules(max_T=200), st.data())
@settings(max_examples=50)
def test_the_largest_eta_that_an_error_names_is_accepted(schedule, data):
    times = data.draw(strategies.subsequences(schedule.T))
    largest = largest_eta(schedule, times)
    if len(times) == 2:
        assert largest == np.inf
        return
    assert largest >= 1
    x, options = np.zeros((1, 1)), {"steps": times, "rng": np.random.default_rng(0)}
    with pytest.raises(InputError, match="negative") as error:
        ddim(wobbly(schedule), schedule, x, eta=largest * 1.001, **options)
    named = float(re.search(r"is ([\d.]+)$", str(error.value)).group(1))
    assert 0 <= largest - named < 1.01e-4
    for eta in (named, largest, 1.0):
        final(ddim(wobbly(schedule), schedule, x, eta=eta, **options))


@pytest.mark.parametrize(
    ("s", "t", "variance"),
    [(401, 421, 0.14771), (961, 981, 0.32460), (487, 488, 0.00979), (999, 1000, 0.02)],
)
def test_published_variances(s, t, variance):
    """What Hugging Face diffusers tests its DDIM scheduler with (there t counts from 0)."""
    assert_allclose(coefficients(schedules.linear(), s, t, eta=1.0)[2] ** 2, variance, atol=1e-5)


def published(schedule, target="eps"):
    """The model of diffusers' tests, whose answer is taken for the quantity `target`."""

    def denoiser(xt, t):
        return parameterizations.convert(
            schedule, xt, t, answer(xt, t), source=target, target="eps"
        )

    return denoiser


def assert_published(x, total, mean):
    assert_allclose(np.abs(x).sum(), total, atol=1e-2)
    assert_allclose(np.abs(x).mean(), mean, atol=1e-3)


@pytest.mark.parametrize(
    ("beta_1", "target", "total", "mean"),
    [
        (1e-4, "eps", 172.0067, 0.223967),
        (1e-4, "v", 52.5302, 0.0684),
        (0.01, "eps", 149.8295, 0.1951),
    ],
)
def test_published_runs(beta_1, target, total, mean):
    """The sums that Hugging Face diffusers tests whole DDIM runs with."""
    schedule = schedules.linear(1000, beta_1, 0.02)
    denoiser = published(schedule, target)
    x = final(ddim(denoiser, schedule, ramp(), steps=10, spacing="leading", clip=(-1, 1)))
    assert_published(x, total, mean)


def test_published_run_that_ends_at_the_first_abar():
    """Where they do not set alpha to one, their last step goes from t = 1 to abar_1 again.

    It is no step of ours. As a step it would change nothing, but for their eps, which does not
    follow the clipped x0.
    """
    schedule = schedules.linear(1000, 0.01, 0.02)
    denoiser = published(schedule)
    states = list(ddim(denoiser, schedule, ramp(), steps=10, spacing="leading", clip=(-1, 1)))
    last = states[-2]
    eps = denoiser(last.x, np.full(4, 1))
    x = np.sqrt(schedule.abar[1]) * last.x0 + np.sqrt(1 - schedule.abar[1]) * eps
    assert last.t == 1
    assert_published(x, 149.0784, 0.1941)


def test_published_run_from_a_noised_image():
    """Theirs starts at the ninth of ten times, from the ramp with the reversed ramp for noise."""
    schedule = schedules.linear()
    x = process.q_sample(schedule, ramp(), 101, np.flip(ramp()))
    x = final(ddim(published(schedule), schedule, x, steps=[101, 1, 0], clip=(-1, 1)))
    assert_published(x, 354.5418, 0.4616)


def test_a_stale_eps_after_clipping_would_be_seen():
    """The step must use the eps that belongs to the clipped x0."""
    schedule = schedules.linear()
    x_T = 2 * np.random.default_rng(0).standard_normal((50, 2))
    states = list(ddim(wobbly(schedule), schedule, x_T, steps=20, clip=(-0.1, 0.1)))
    for a, b in pairwise(states[:-1]):
        signal_t, noise_t = np.sqrt(schedule.abar[a.t]), np.sqrt(1 - schedule.abar[a.t])
        eps = (a.x - signal_t * a.x0) / noise_t
        c_0, c_eps, _ = coefficients(schedule, b.t, a.t)
        assert_allclose(b.x, c_0 * a.x0 + c_eps * eps, rtol=1e-9, atol=1e-9)
        stale = wobbly(schedule)(a.x, np.full(50, a.t))
        assert np.abs(b.x - (c_0 * a.x0 + c_eps * stale)).max() > 1e-3
